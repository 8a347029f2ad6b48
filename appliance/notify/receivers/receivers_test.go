package receivers_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"mime/quotedprintable"
	"net/mail"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/appliance/notify"
	"understudy/appliance/notify/receivers"
	"understudy/appliance/store"
	"understudy/appliance/vault"
)

// place is an appliance without an engine: what would be published by it is published by the test.
type place struct {
	*notify.Notifier
	t      *testing.T
	bus    *store.Bus
	log    *strings.Builder
	storms int
}

const secretText = "correct-horse-battery"

type names struct{}

func (names) GetGroup(_ context.Context, id string) (api.Group, error) {
	return api.Group{ID: id, GroupSpec: api.GroupSpec{Name: "shop"}}, nil
}

func (names) ListAlerts(context.Context, api.Scope) ([]api.ActiveAlert, error) { return nil, nil }

func newPlace(t *testing.T) *place {
	t.Helper()
	dir := t.TempDir()
	db, err := store.Open(filepath.Join(dir, "state.db"))
	require.NoError(t, err)
	secrets, err := vault.Open(filepath.Join(dir, "secret.key"), db)
	require.NoError(t, err)
	var logs strings.Builder
	log := slog.New(slog.NewTextHandler(&logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	p := &place{t: t, bus: store.NewBus(db, time.Now, log), log: &logs}
	p.Notifier, err = notify.New(notify.Options{Store: db, Bus: p.bus, Secrets: secrets, Since: db.LastEvent(), Version: "1.2.3",
		Hostname: "appliance.test", ConsoleURL: "https://appliance.test:8443", Log: log})
	require.NoError(t, err)
	p.Run(names{})
	t.Cleanup(func() {
		require.NoError(t, p.Close())
		require.NoError(t, db.Close())
		require.NotContains(t, logs.String(), secretText)
		state, err := os.ReadFile(filepath.Join(dir, "state.db"))
		require.NoError(t, err)
		require.NotContains(t, string(state), secretText, "a secret is in the state in the clear")
	})
	return p
}

// channel makes a channel that gets everything.
func (p *place) channel(spec api.ChannelSpec) api.Channel {
	p.t.Helper()
	spec.Enabled, spec.Name = true, spec.Kind+fmt.Sprint(time.Now().UnixNano())
	c, err := p.CreateChannel(p.t.Context(), spec)
	require.NoError(p.t, err)
	_, err = p.CreateRule(p.t.Context(), api.RuleSpec{Name: c.Name, Enabled: true, Channels: []string{c.ID}})
	require.NoError(p.t, err)
	return c
}

// since is the begin of all alerts. It becomes a part of their ids, for the engine gives those of one kind the same.
var since = time.UnixMilli(36 * 36).UTC() // 100

func someAlert(id string) *api.ActiveAlert {
	return &api.ActiveAlert{ID: id, Kind: api.AlertRPOMissed, Severity: api.SeverityCritical, Since: since, Group: "g1", GroupName: "shop",
		Message: `the newest point is 5m old, which is more than "1m" [policy] \ für Grüße`, Hint: "Look at the host."}
}

func (p *place) begin(id string) {
	p.bus.Publish(api.Event{Kind: "alert", Action: "created", Subject: api.AlertRPOMissed, Group: "g1", Alert: someAlert(id)})
}

func (p *place) end(id string) {
	p.bus.Publish(api.Event{Kind: "alert", Action: "deleted", Subject: api.AlertRPOMissed, Group: "g1", Alert: someAlert(id)})
}

func (p *place) failJob(id string) {
	p.bus.Publish(api.Event{Kind: "job", Action: "updated", Subject: id, Group: "g1", Job: &api.Job{ID: id, Kind: "failover", Group: "g1",
		State: api.JobFailed, Error: "the replica does not start", Created: time.Now()}})
}

// storm is more than a channel tells one by one.
func (p *place) storm(n int) {
	p.storms++
	for i := range n {
		p.begin(fmt.Sprintf("storm-%d-%d", p.storms, i))
	}
}

// test sends a test message, which must arrive.
func (p *place) test(c api.Channel) api.Delivery {
	p.t.Helper()
	d, err := p.TestChannel(p.t.Context(), c.ID)
	require.NoError(p.t, err)
	require.Equal(p.t, api.Delivered, d.State, d.Error)
	require.True(p.t, d.Test)
	return d
}

// refused sends a test message, which must not arrive, and gives its record.
func (p *place) refused(c api.Channel) api.Delivery {
	p.t.Helper()
	d, err := p.TestChannel(p.t.Context(), c.ID)
	require.NoError(p.t, err)
	require.Equal(p.t, api.DeliveryFailed, d.State)
	require.NotContains(p.t, d.Error+d.Hint, secretText)
	return d
}

func TestMIBIsValid(t *testing.T) {
	t.Parallel()
	text, err := newPlace(t).MIB(t.Context())
	require.NoError(t, err)
	dir := receivers.MIBs(t, "UNDERSTUDY-MIB", text)
	cmd := exec.CommandContext(t.Context(), "smilint", "-s", "-l", "6", filepath.Join(dir, "UNDERSTUDY-MIB.txt"))
	cmd.Env = []string{"SMIPATH=" + dir, "PATH=" + os.Getenv("PATH"), "HOME=" + dir}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Empty(t, string(out))
}

func TestSNMPVersion2(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	mib, err := p.MIB(t.Context())
	require.NoError(t, err)
	manager := receivers.StartTrapd(t, "UNDERSTUDY-MIB", mib, secretText)
	for _, inform := range []bool{false, true} {
		c := p.channel(api.ChannelSpec{Kind: api.ChannelSNMP, SNMP: &api.SNMPChannel{Host: "127.0.0.1", Port: manager.Port, Version: "v2c",
			Inform: inform, Community: api.NewSecret(secretText)}})
		p.meets(manager, c)
		p.disable(c)
	}
	wrong := p.channel(api.ChannelSpec{Kind: api.ChannelSNMP, SNMP: &api.SNMPChannel{Host: "127.0.0.1", Port: manager.Port, Version: "v2c",
		Inform: true, Community: api.NewSecret("not-" + secretText)}})
	require.NotEmpty(t, p.refused(wrong).Hint)
}

func TestSNMPVersion3(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	mib, err := p.MIB(t.Context())
	require.NoError(t, err)
	spec := func(port int, user string, inform bool) api.ChannelSpec {
		s := &api.SNMPChannel{Host: "127.0.0.1", Port: port, Version: "v3", Inform: inform, User: user, AuthProtocol: "sha256", PrivProtocol: "aes",
			AuthPassword: api.NewSecret(secretText), PrivPassword: api.NewSecret("p" + secretText)}
		if user == "large" {
			s.AuthProtocol, s.PrivProtocol = "sha512", "aes256"
		}
		return api.ChannelSpec{Kind: api.ChannelSNMP, SNMP: s}
	}
	// The engine id is what an administrator reads from the channel and gives the manager.
	engine := p.channel(spec(9, "trapper", false)).SNMP.EngineID
	require.Len(t, engine, 26)
	for _, c := range mustList(t, p) {
		p.disable(c)
	}
	manager := receivers.StartTrapd(t, "UNDERSTUDY-MIB", mib, "nobody",
		receivers.SNMPUser{Name: "trapper", Auth: "SHA-256", AuthPassword: secretText, Priv: "AES", PrivPassword: "p" + secretText, EngineID: engine},
		receivers.SNMPUser{Name: "large", Auth: "SHA-512", AuthPassword: secretText, Priv: "AES-256", PrivPassword: "p" + secretText, EngineID: engine},
		receivers.SNMPUser{Name: "informer", Auth: "SHA-256", AuthPassword: secretText, Priv: "AES", PrivPassword: "p" + secretText})
	for _, c := range []api.Channel{p.channel(spec(manager.Port, "trapper", false)), p.channel(spec(manager.Port, "large", false)),
		p.channel(spec(manager.Port, "informer", true))} {
		p.disableOthers(c)
		p.meets(manager, c)
	}
	stranger := p.channel(spec(manager.Port, "stranger", true))
	require.Contains(t, p.refused(stranger).Hint, "user")
	wrong := spec(manager.Port, "informer", true)
	wrong.SNMP.AuthPassword = api.NewSecret("not-" + secretText)
	require.Contains(t, p.refused(p.channel(wrong)).Hint, "password")
}

func mustList(t *testing.T, p *place) []api.Channel {
	t.Helper()
	all, err := p.ListChannels(t.Context())
	require.NoError(t, err)
	return all
}

func (p *place) disable(c api.Channel) {
	p.t.Helper()
	spec := c.ChannelSpec
	spec.Enabled = false
	_, err := p.UpdateChannel(p.t.Context(), c.ID, c.Revision, spec)
	require.NoError(p.t, err)
}

func (p *place) disableOthers(keep api.Channel) {
	p.t.Helper()
	for _, c := range mustList(p.t, p) {
		spec := c.ChannelSpec
		spec.Enabled = c.ID == keep.ID
		_, err := p.UpdateChannel(p.t.Context(), c.ID, c.Revision, spec)
		require.NoError(p.t, err)
	}
}

// meets lets a manager see a test, an alert from beginning to end, a job and a digest, each with its names resolved.
func (p *place) meets(manager *receivers.Trapd, c api.Channel) {
	t := p.t
	t.Helper()
	seen := len(manager.Notifications())
	next := func(what string) string {
		receivers.Until(t, what, func() bool { return len(manager.Notifications()) > seen })
		seen++
		return manager.Notifications()[seen-1]
	}
	d := p.test(c)
	require.Equal(t, c.SNMP.Inform, d.Answer == "the manager acknowledged", d.Answer)
	line := next("test")
	require.Contains(t, line, "UNDERSTUDY-MIB::understudyTest")
	require.Contains(t, line, "UNDERSTUDY-MIB::understudyId.0 = STRING: "+d.ID)

	p.begin("alert-7")
	line = next("beginning")
	for _, part := range []string{"OID: UNDERSTUDY-MIB::understudyAlertBegin", "understudyId.0 = STRING: alert-7.100",
		"understudyKind.0 = STRING: rpo-missed", "understudySeverity.0 = INTEGER: critical(3)", "understudyGroup.0 = STRING: shop",
		"für Grüße", "understudyLink.0 = STRING: https://appliance.test:8443/groups/g1"} {
		require.Contains(t, line, part)
	}
	p.end("alert-7")
	line = next("end")
	require.Contains(t, line, "UNDERSTUDY-MIB::understudyAlertEnd")
	require.Contains(t, line, "understudyId.0 = STRING: alert-7.100")
	p.failJob("j" + c.ID)
	line = next("job")
	require.Contains(t, line, "UNDERSTUDY-MIB::understudyJobEnded")
	require.Contains(t, line, "understudyMessage.0 = STRING: failover failed: the replica does not start")
	p.storm(40)
	line = next("digest")
	require.Contains(t, line, "UNDERSTUDY-MIB::understudyDigest")
	require.Contains(t, line, "understudyCount.0 = Gauge32: 40")
}

func TestSyslog(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	id := receivers.NewIdentity(t)
	server := receivers.StartRsyslogd(t, id)
	for transport, port := range map[string]int{"udp": server.UDP, "tcp": server.TCP, "tls": server.TLS} {
		spec := &api.SyslogChannel{Host: "127.0.0.1", Port: port, Transport: transport, Facility: "local3"}
		if transport == "tls" {
			spec.CA = id.CA
		}
		c := p.channel(api.ChannelSpec{Kind: api.ChannelSyslog, Syslog: spec})
		p.disableOthers(c)
		seen := len(server.Messages())
		next := func(what string) receivers.Syslog {
			receivers.Until(t, what+" over "+transport, func() bool { return len(server.Messages()) > seen })
			seen++
			return server.Messages()[seen-1]
		}
		p.test(c)
		m := next("test")
		require.Equal(t, "158", m.PRI, "local3.info")
		require.Equal(t, "test", m.MsgID)

		p.begin("alert-7")
		m = next("beginning")
		require.Equal(t, transport, m.Transport)
		require.Equal(t, []string{"154", "1", "appliance.test", "understudy", "rpo-missed"}, []string{m.PRI, m.Version, m.Host, m.App, m.MsgID})
		sent, err := time.Parse(time.RFC3339Nano, m.Time)
		require.NoError(t, err)
		require.WithinDuration(t, time.Now(), sent, time.Hour)
		require.Contains(t, m.SD, `[understudy@32473 message="`)
		require.Contains(t, m.SD, ` state="firing" id="alert-7.100" severity="critical" group="shop" groupId="g1"`)
		require.Contains(t, m.Msg, `critical: shop: the newest point is 5m old, which is more than "1m" [policy] \ für Grüße`)
		p.end("alert-7")
		require.Contains(t, next("end").SD, ` state="resolved" id="alert-7.100"`)
		p.failJob("j" + c.ID)
		require.Contains(t, next("job").Msg, "failover failed: the replica does not start")
		p.storm(40)
		m = next("digest")
		require.Equal(t, "digest", m.MsgID)
		require.Contains(t, m.SD, ` total="40"`)
	}
	nobody := p.channel(api.ChannelSpec{Kind: api.ChannelSyslog, Syslog: &api.SyslogChannel{Host: "127.0.0.1", Port: server.TLS, Transport: "tls"}})
	require.Contains(t, p.refused(nobody).Hint, "CA", "a certificate that nobody vouches for")
}

func TestMail(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	id := receivers.NewIdentity(t)
	for _, mode := range []string{"starttls", "tls", "plain"} {
		server := receivers.StartSmtpd(t, id, mode, "understudy", secretText)
		spec := &api.EmailChannel{Host: "127.0.0.1", Port: server.Port, Security: mode, CA: id.CA, User: "understudy", Password: api.NewSecret(secretText),
			From: "understudy@example.com", To: []string{"night@example.com", "day@example.com"}}
		if mode == "plain" {
			spec.Security, spec.User, spec.Password = "none", "", api.Secret{}
		}
		c := p.channel(api.ChannelSpec{Kind: api.ChannelEmail, Email: spec})
		p.disableOthers(c)
		require.Contains(t, p.test(c).Answer, "kept as number 7")

		seen := 1
		next := func(what string) (*mail.Message, string) {
			receivers.Until(t, what+" with "+mode, func() bool { return len(server.Mails()) > seen })
			got := server.Mails()[seen]
			seen++
			require.Equal(t, "understudy@example.com", got.From)
			require.Equal(t, []string{"night@example.com", "day@example.com"}, got.To)
			require.Equal(t, mode != "plain", got.TLS)
			require.Equal(t, mode != "plain", got.Authenticated)
			m, err := mail.ReadMessage(strings.NewReader(got.Data))
			require.NoError(t, err)
			return m, readAll(t, m)
		}
		p.begin("alert-7")
		begin, text := next("beginning")
		require.Contains(t, text, "für Grüße")
		require.Contains(t, text, "https://appliance.test:8443/groups/g1")
		p.end("alert-7")
		end, text := next("end")
		require.Contains(t, text, "It is over since")
		require.Equal(t, "<alert.alert-7.100@example.com>", begin.Header.Get("References"))
		require.Equal(t, begin.Header.Get("References"), end.Header.Get("References"), "one thread")
		require.NotEqual(t, begin.Header.Get("Message-ID"), end.Header.Get("Message-ID"))
		require.Equal(t, []string{"firing", "resolved"}, []string{begin.Header.Get("X-Understudy-State"), end.Header.Get("X-Understudy-State")})
		p.storm(40)
		digest, text := next("digest")
		require.Contains(t, digest.Header.Get("Subject"), "notifications: 40 rpo-missed")
		require.Contains(t, text, " 40. ")

		if mode != "starttls" {
			continue
		}
		// A server that is busy is asked again, and gets the same message.
		server.Fail("451 4.3.0 busy")
		p.failJob("j" + c.ID)
		receivers.Until(t, "a refusal", func() bool { return server.Refused() > 0 })
		receivers.Until(t, "its record", func() bool { return len(p.deliveries(c.ID, "retrying")) == 1 })
		retrying := p.deliveries(c.ID, "retrying")[0]
		require.Contains(t, retrying.Error, "4.3.0 busy")
		server.Fail("")
		again, _ := next("the message again")
		require.Equal(t, "<"+retrying.ID+"@example.com>", again.Header.Get("Message-ID"))
		receivers.Until(t, "its record", func() bool { return len(p.deliveries(c.ID, "retrying")) == 0 })
		// One that refuses for good is not.
		server.Fail("550 5.7.1 not here")
		require.Contains(t, p.refused(c).Error, "5.7.1 not here")
		p.failJob("k" + c.ID)
		receivers.Until(t, "its record", func() bool { return len(p.deliveries(c.ID, "failed")) == 2 }) // with that of the test
		require.Equal(t, 1, p.deliveries(c.ID, "failed")[0].Tries)
		server.Fail("")

		wrong := *spec
		wrong.Password = api.NewSecret("not-" + secretText)
		require.Contains(t, p.refused(p.channel(api.ChannelSpec{Kind: api.ChannelEmail, Email: &wrong})).Hint, "password")
		wrong = *spec
		wrong.CA = ""
		require.Contains(t, p.refused(p.channel(api.ChannelSpec{Kind: api.ChannelEmail, Email: &wrong})).Hint, "CA")
	}
	// A server that offers no STARTTLS gets neither password nor mail.
	server := receivers.StartSmtpd(t, id, "plain", "", "")
	c := p.channel(api.ChannelSpec{Kind: api.ChannelEmail, Email: &api.EmailChannel{Host: "127.0.0.1", Port: server.Port, Security: "starttls", CA: id.CA,
		User: "understudy", Password: api.NewSecret(secretText), From: "understudy@example.com", To: []string{"night@example.com"}}})
	require.Contains(t, p.refused(c).Error, "STARTTLS")
	require.Empty(t, server.Mails())
}

func readAll(t *testing.T, m *mail.Message) string {
	t.Helper()
	r := m.Body
	switch m.Header.Get("Content-Transfer-Encoding") {
	case "quoted-printable":
		r = quotedprintable.NewReader(r)
	case "base64":
		r = base64.NewDecoder(base64.StdEncoding, r)
	}
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	return string(b)
}

func (p *place) deliveries(channel, state string) []api.Delivery {
	p.t.Helper()
	page, err := p.ListDeliveries(p.t.Context(), api.DeliveryQuery{Channel: channel, State: state})
	require.NoError(p.t, err)
	return page.Items
}

func TestWebhook(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	id := receivers.NewIdentity(t)
	secret := "whsec_" + base64.StdEncoding.EncodeToString([]byte(secretText+secretText))
	server := receivers.StartHookd(t, id, secret)
	spec := &api.WebhookChannel{URL: fmt.Sprintf("https://localhost:%d/hook?for=us", server.Port), CA: id.CA, Secret: api.NewSecret(secret)}
	c := p.channel(api.ChannelSpec{Kind: api.ChannelWebhook, Webhook: spec})
	require.Equal(t, "200 OK: noted", p.test(c).Answer)
	seen := 1
	next := func(what string) receivers.Hook {
		receivers.Until(t, what, func() bool { return len(server.Hooks()) > seen })
		h := server.Hooks()[seen]
		seen++
		require.Empty(t, h.Problem)
		require.Equal(t, "/hook?for=us", h.Path)
		return h
	}
	p.begin("alert-7")
	h := next("beginning")
	require.Equal(t, "alert", h.Body.Type)
	require.Equal(t, []any{"alert-7.100", "firing"}, []any{h.Body.Data.Alert["id"], h.Body.Data.Alert["state"]})
	require.Equal(t, "https://appliance.test:8443/groups/g1", h.Body.Data.Link)

	// Broken, busy, then well: the same message each time.
	server.Answer("503\n429 Retry-After=1\n")
	p.end("alert-7")
	h = next("end")
	require.Equal(t, []any{"alert-7.100", "resolved"}, []any{h.Body.Data.Alert["id"], h.Body.Data.Alert["state"]})
	require.Equal(t, h.ID, next("end, again").ID)
	require.Equal(t, h.ID, next("end, once more").ID)
	receivers.Until(t, "its record", func() bool {
		page, err := p.ListDeliveries(t.Context(), api.DeliveryQuery{Channel: c.ID})
		require.NoError(t, err)
		d := page.Items[0]
		return "msg_"+d.ID == h.ID && d.State == api.Delivered && d.Tries == 3
	})
	p.storm(40)
	h = next("digest")
	require.Equal(t, "digest", h.Body.Type)
	require.Equal(t, 40, h.Body.Data.Total)
	require.Len(t, h.Body.Data.Alerts, 40)

	server.Answer("302 Location=/elsewhere\n")
	require.Contains(t, p.refused(c).Hint, "Redirects")
	require.NotContains(t, server.Said(), "a redirect was followed")
	seen++
	server.Answer("400\n")
	require.Contains(t, p.refused(c).Error, "400 Bad Request: noted")
	seen++

	wrong := *spec
	wrong.Secret = api.NewSecret("whsec_" + base64.StdEncoding.EncodeToString([]byte("another key of twenty-four bytes")))
	p.test(p.channel(api.ChannelSpec{Kind: api.ChannelWebhook, Webhook: &wrong}))
	require.Equal(t, "no signature matches", server.Hooks()[seen].Problem, "the receiver looks")
	wrong = *spec
	wrong.CA = ""
	require.Contains(t, p.refused(p.channel(api.ChannelSpec{Kind: api.ChannelWebhook, Webhook: &wrong})).Hint, "CA")
}
