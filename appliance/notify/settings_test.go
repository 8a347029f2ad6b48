package notify

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/api"
)

const planted = "correct-horse-battery"

func mailTo(host string) api.ChannelSpec {
	return api.ChannelSpec{Name: "mail", Kind: api.ChannelEmail, Email: &api.EmailChannel{Host: host, Port: 587, Security: "starttls", User: "u",
		From: "a@example.com", To: []string{"b@example.com"}}}
}

// A secret is kept sealed, never shown, stays when it is left out, and goes with its channel.
func TestSecretsOfChannels(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		_, err := w.CreateChannel(ctx, mailTo("mail"))
		require.Equal(t, "email.password", fieldOf(t, err))
		spec := mailTo("mail")
		spec.Email.Password = api.NewSecret(planted)
		c, err := w.CreateChannel(ctx, spec)
		require.NoError(t, err)
		require.True(t, c.Email.PasswordSet)
		require.True(t, c.Email.Password.IsZero())
		require.Equal(t, planted, spec.Email.Password.Reveal(), "what the caller gave is the caller's")

		again := mailTo("mail")
		again.Email.To = []string{"c@example.com"}
		c, err = w.UpdateChannel(ctx, c.ID, c.Revision, again)
		require.NoError(t, err)
		require.True(t, c.Email.PasswordSet)
		full, secrets, err := w.unseal(c.ID, c.ChannelSpec)
		require.NoError(t, err)
		require.Equal(t, planted, full.Email.Password.Reveal())
		require.Len(t, secrets, 1)

		// Nobody has a password sent to a server of their own.
		elsewhere := mailTo("evil")
		_, err = w.UpdateChannel(ctx, c.ID, c.Revision, elsewhere)
		require.Equal(t, api.CodeInvalid, api.CodeOf(err))
		elsewhere.Email.Password = api.NewSecret("another one")
		c, err = w.UpdateChannel(ctx, c.ID, c.Revision, elsewhere)
		require.NoError(t, err)

		list, err := w.ListChannels(ctx)
		require.NoError(t, err)
		encoded, err := json.Marshal(list)
		require.NoError(t, err)
		for path, value := range w.store.values {
			encoded = append(encoded, path...)
			encoded = append(encoded, value...)
		}
		require.NotContains(t, string(encoded)+w.log.String(), planted)
		require.NotContains(t, string(encoded), "another one")

		none := mailTo("evil")
		none.Email.User = ""
		c, err = w.UpdateChannel(ctx, c.ID, c.Revision, none)
		require.NoError(t, err)
		require.False(t, c.Email.PasswordSet)
		require.Empty(t, w.secrets.values)

		hook := api.ChannelSpec{Name: "mail", Kind: api.ChannelWebhook, Webhook: &api.WebhookChannel{URL: "https://hooks", Secret: api.NewSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")}}
		c, err = w.UpdateChannel(ctx, c.ID, c.Revision, hook)
		require.NoError(t, err)
		require.Len(t, w.secrets.values, 1)
		require.NoError(t, w.DeleteChannel(ctx, c.ID))
		require.Empty(t, w.secrets.values)
	})
}

func fieldOf(t *testing.T, err error) string {
	t.Helper()
	var e *api.Error
	require.ErrorAs(t, err, &e)
	require.NotEmpty(t, e.Hint)
	return e.Field
}

func TestSettingsAreChecked(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		c := w.channel("c")
		_, err := w.CreateChannel(ctx, c.ChannelSpec)
		require.Equal(t, "name", fieldOf(t, err))
		_, err = w.UpdateChannel(ctx, c.ID, 7, c.ChannelSpec)
		require.Equal(t, api.CodeStale, api.CodeOf(err))
		_, err = w.UpdateChannel(ctx, "nobody", 1, c.ChannelSpec)
		require.Equal(t, api.CodeNotFound, api.CodeOf(err))
		_, err = w.CreateRule(ctx, api.RuleSpec{Name: "r", Channels: []string{"nobody"}})
		require.Equal(t, "channels[0]", fieldOf(t, err))
		_, err = w.CreateRule(ctx, api.RuleSpec{Name: "r", Channels: []string{"c"}, Groups: []string{"shop", "gone"}})
		require.Equal(t, "groups[1]", fieldOf(t, err))
		r := w.rule("r", func(s *api.RuleSpec) { s.Channels, s.Groups = []string{"c"}, []string{"shop"} })
		require.Equal(t, []string{c.ID}, r.Channels, "names become ids")
		require.Equal(t, []string{"g-shop"}, r.Groups)
		_, err = w.CreateRule(ctx, api.RuleSpec{Name: "r", Channels: []string{"c"}})
		require.Equal(t, "name", fieldOf(t, err))
		_, err = w.UpdateRule(ctx, r.ID, 9, r.RuleSpec)
		require.Equal(t, api.CodeStale, api.CodeOf(err))
		rules, err := w.ListRules(ctx)
		require.NoError(t, err)
		require.Equal(t, []api.Rule{r}, rules)
		for i := range api.MaxChannels - 1 {
			w.channel("c" + strings.Repeat("x", i+1))
		}
		_, err = w.CreateChannel(ctx, api.ChannelSpec{Name: "more", Kind: "syslog", Syslog: &api.SyslogChannel{Host: "a", Port: 1, Transport: "udp"}})
		require.Equal(t, api.CodeConflict, api.CodeOf(err))
	})
}

// Everything is there after a restart, and the engine has booted once more.
func TestSettingsSurvive(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		c := w.channel("c")
		r := w.rule("r", nil, c)
		before := w.identity
		w.die()
		w.start()
		channels, err := w.ListChannels(t.Context())
		require.NoError(t, err)
		require.Equal(t, []api.Channel{c}, channels)
		rules, err := w.ListRules(t.Context())
		require.NoError(t, err)
		require.Equal(t, []api.Rule{r}, rules)
		require.Equal(t, before.engine(), w.identity.engine())
		require.Equal(t, before.Boots+1, w.identity.Boots)
		require.Len(t, w.identity.engine(), 13)
	})
}
