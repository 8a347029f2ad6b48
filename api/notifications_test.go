package api_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/api"
)

const webhookSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func channels() map[string]api.ChannelSpec {
	return map[string]api.ChannelSpec{
		"email": {Name: "n", Kind: "email", Email: &api.EmailChannel{Host: "mail.example.com", Port: 587, Security: "starttls", User: "u",
			Password: api.NewSecret("p"), From: "a@example.com", To: []string{"b@example.com"}}},
		"v2c": {Name: "n", Kind: "snmp", SNMP: &api.SNMPChannel{Host: "192.0.2.1", Port: 162, Version: "v2c", Community: api.NewSecret("public")}},
		"v3": {Name: "n", Kind: "snmp", SNMP: &api.SNMPChannel{Host: "2001:db8::1", Port: 162, Version: "v3", User: "u",
			AuthPassword: api.NewSecret("12345678"), PrivPassword: api.NewSecret("12345678"), AuthProtocol: "sha512", PrivProtocol: "aes256"}},
		"syslog":  {Name: "n", Kind: "syslog", Syslog: &api.SyslogChannel{Host: "logs", Port: 514, Transport: "udp", Facility: "local7"}},
		"webhook": {Name: "n", Kind: "webhook", Webhook: &api.WebhookChannel{URL: "https://hooks.example.com:8443/a?b=c", Secret: api.NewSecret(webhookSecret)}},
	}
}

func TestChannelLimits(t *testing.T) {
	for name, c := range channels() {
		require.NoError(t, c.Validate(), name)
	}
	for _, c := range []struct {
		of, field string
		spoil     func(*api.ChannelSpec)
	}{
		{"email", "name", func(c *api.ChannelSpec) { c.Name = "a/b" }},
		{"email", "kind", func(c *api.ChannelSpec) { c.Kind = "pigeon" }},
		{"email", "snmp", func(c *api.ChannelSpec) { c.Kind = "snmp" }},
		{"email", "syslog", func(c *api.ChannelSpec) { c.Syslog = &api.SyslogChannel{} }},
		{"email", "email.host", func(c *api.ChannelSpec) { c.Email.Host = "mail.example.com:25" }},
		{"email", "email.host", func(c *api.ChannelSpec) { c.Email.Host = "a b" }},
		{"email", "email.host", func(c *api.ChannelSpec) { c.Email.Host = "0.0.0.0" }},
		{"email", "email.port", func(c *api.ChannelSpec) { c.Email.Port = 65536 }},
		{"email", "email.security", func(c *api.ChannelSpec) { c.Email.Security = "some" }},
		{"email", "email.user", func(c *api.ChannelSpec) { c.Email.Security = "none" }},
		{"email", "email.user", func(c *api.ChannelSpec) { c.Email.User = "" }},
		{"email", "email.from", func(c *api.ChannelSpec) { c.Email.From = "Me <a@example.com>" }},
		{"email", "email.to", func(c *api.ChannelSpec) { c.Email.To = nil }},
		{"email", "email.to", func(c *api.ChannelSpec) { c.Email.To = make([]string, 51) }},
		{"email", "email.to[1]", func(c *api.ChannelSpec) { c.Email.To = append(c.Email.To, "a@b\r\nBcc: c@d") }},
		{"email", "email.ca", func(c *api.ChannelSpec) { c.Email.CA = "none" }},
		{"v2c", "snmp.version", func(c *api.ChannelSpec) { c.SNMP.Version = "v1" }},
		{"v2c", "snmp.user", func(c *api.ChannelSpec) { c.SNMP.User = "u" }},
		{"v2c", "snmp.community", func(c *api.ChannelSpec) { c.SNMP.Community = api.NewSecret("a\nb") }},
		{"v3", "snmp.community", func(c *api.ChannelSpec) { c.SNMP.Community = api.NewSecret("public") }},
		{"v3", "snmp.user", func(c *api.ChannelSpec) { c.SNMP.User = "" }},
		{"v3", "snmp.authProtocol", func(c *api.ChannelSpec) { c.SNMP.AuthProtocol = "md5" }},
		{"v3", "snmp.privProtocol", func(c *api.ChannelSpec) { c.SNMP.PrivProtocol = "des" }},
		{"v3", "snmp.authPassword", func(c *api.ChannelSpec) { c.SNMP.AuthPassword = api.NewSecret("1234567") }},
		{"v3", "snmp.privPassword", func(c *api.ChannelSpec) { c.SNMP.PrivPassword = api.NewSecret("1234567") }},
		{"syslog", "syslog.transport", func(c *api.ChannelSpec) { c.Syslog.Transport = "relp" }},
		{"syslog", "syslog.facility", func(c *api.ChannelSpec) { c.Syslog.Facility = "local8" }},
		{"syslog", "syslog.ca", func(c *api.ChannelSpec) { c.Syslog.CA = "x" }},
		{"webhook", "webhook.url", func(c *api.ChannelSpec) { c.Webhook.URL = "http://hooks.example.com/" }},
		{"webhook", "webhook.url", func(c *api.ChannelSpec) { c.Webhook.URL = "https://u:p@hooks.example.com/" }},
		{"webhook", "webhook.url", func(c *api.ChannelSpec) { c.Webhook.URL = "https://hooks.example.com/#x" }},
		{"webhook", "webhook.url", func(c *api.ChannelSpec) { c.Webhook.URL = "file:///etc/passwd" }},
		{"webhook", "webhook.url", func(c *api.ChannelSpec) { c.Webhook.URL = "https:///x" }},
		{"webhook", "webhook.secret", func(c *api.ChannelSpec) { c.Webhook.Secret = api.NewSecret("password") }},
		{"webhook", "webhook.secret", func(c *api.ChannelSpec) { c.Webhook.Secret = api.NewSecret("whsec_c2hvcnQ=") }},
	} {
		spec := channels()[c.of]
		c.spoil(&spec)
		require.Equal(t, c.field, fieldOf(t, spec.Validate()), c.field)
	}
	loopback := channels()["webhook"]
	loopback.Webhook.URL = "http://[::1]:8080/hook"
	require.NoError(t, loopback.Validate())
}

// Whatever is wrong with a channel, its error holds no secret.
func TestErrorsOfChannelsHoldNoSecret(t *testing.T) {
	for _, secret := range []string{"whsec_planted", "planted", "whsec_cGxhbnRlZA=="} {
		spec := channels()["webhook"]
		spec.Webhook.Secret = api.NewSecret(secret)
		err := spec.Validate()
		require.Error(t, err)
		require.NotContains(t, err.Error(), secret)
	}
}

func TestRuleLimits(t *testing.T) {
	good := api.RuleSpec{Name: "r", Kinds: []string{"host-down", "failover"}, MinSeverity: "warning", Channels: []string{"c"}}
	require.NoError(t, good.Validate())
	for field, spoil := range map[string]func(*api.RuleSpec){
		"name":        func(r *api.RuleSpec) { r.Name = "" },
		"minSeverity": func(r *api.RuleSpec) { r.MinSeverity = "loud" },
		"kinds[0]":    func(r *api.RuleSpec) { r.Kinds = []string{"rain"} },
		"kinds":       func(r *api.RuleSpec) { r.Kinds = []string{"test", "test"} },
		"groups":      func(r *api.RuleSpec) { r.Groups = []string{"a", "a"} },
		"channels":    func(r *api.RuleSpec) { r.Channels = nil },
	} {
		r := good
		spoil(&r)
		require.Equal(t, field, fieldOf(t, r.Validate()), field)
	}
}

func TestSeverities(t *testing.T) {
	require.True(t, api.SeverityInfo.Reaches(""))
	require.True(t, api.SeverityCritical.Reaches(api.SeverityWarning))
	require.False(t, api.SeverityInfo.Reaches(api.SeverityWarning))
}

// FuzzChannel validates what somebody may send: what is refused says which field it is about and what to do.
func FuzzChannel(f *testing.F) {
	for _, c := range channels() {
		text, err := json.Marshal(c)
		require.NoError(f, err)
		f.Add(strings.ReplaceAll(string(text), api.Redacted, webhookSecret))
	}
	f.Add(`{"kind":"webhook","webhook":{"url":"https://\u0000"}}`)
	f.Fuzz(func(t *testing.T, text string) {
		var spec api.ChannelSpec
		if json.Unmarshal([]byte(text), &spec) != nil {
			return
		}
		if err := spec.Validate(); err != nil {
			var e *api.Error
			require.True(t, errors.As(err, &e), "%v", err)
			require.Equal(t, api.CodeInvalid, e.Code)
			require.NotEmpty(t, e.Hint)
			require.NotEmpty(t, e.Field)
		}
	})
}
