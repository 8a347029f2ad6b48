package cli

import (
	"context"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
)

func init() {
	maps.Copy(commands, map[string][]string{
		"notifications-channels-list":   {"notifications", "channels", "list"},
		"notifications-channels-show":   {"notifications", "channels", "show", "night"},
		"notifications-channels-nobody": {"notifications", "channels", "show", "moon"},
		"notifications-channels-create": {"notifications", "channels", "create", "-f", "testdata/channel.json"},
		"notifications-channels-wrong":  {"notifications", "channels", "create", "-f", "testdata/group.json"},
		"notifications-channels-none":   {"notifications", "channels", "create"},
		"notifications-channels-update": {"notifications", "channels", "update", "night", "-f", "testdata/channel.json"},
		"notifications-channels-enable": {"notifications", "channels", "enable", "hook"},
		"notifications-channels-switch": {"notifications", "channels", "disable", "night"},
		"notifications-channels-test":   {"notifications", "channels", "test", "night"},
		"notifications-channels-failed": {"notifications", "channels", "test", "hook"},
		"notifications-channels-delete": {"notifications", "channels", "delete", "hook"},
		"notifications-rules-list":      {"notifications", "rules", "list"},
		"notifications-rules-create":    {"notifications", "rules", "create", "worst", "--min-severity", "critical", "--channel", "night", "--kind", "rpo-missed"},
		"notifications-rules-invalid":   {"notifications", "rules", "create", "worst", "--channel", "night", "--kind", "rain"},
		"notifications-rules-update":    {"notifications", "rules", "update", "all", "--min-severity", "critical", "--kind", "rpo-missed", "--disabled"},
		"notifications-rules-unknown":   {"notifications", "rules", "update", "none", "--disabled"},
		"notifications-rules-delete":    {"notifications", "rules", "delete", "all"},
		"notifications-deliveries":      {"notifications", "deliveries", "--channel", "night"},
		"notifications-mib":             {"notifications", "mib"},
	})
}

var _ api.Notifications = (*appliance)(nil)

func (f *appliance) ListChannels(context.Context) ([]api.Channel, error) {
	return []api.Channel{
		{ID: "c1", Revision: 4, ChannelSpec: api.ChannelSpec{Name: "night", Enabled: true, Kind: "email", Email: &api.EmailChannel{Host: "mail.example.com", Port: 587,
			Security: "starttls", User: "u", PasswordSet: true, From: "understudy@example.com", To: []string{"a@example.com", "b@example.com"}}},
			Waiting: 3, Problem: "connect: refused \x1b[31m"},
		{ID: "c2", ChannelSpec: api.ChannelSpec{Name: "hook", Kind: "webhook", Webhook: &api.WebhookChannel{URL: "https://hooks.example.com/T0/secret-path", SecretSet: true}}},
		{ID: "c3", ChannelSpec: api.ChannelSpec{Name: "nms", Enabled: true, Kind: "snmp", SNMP: &api.SNMPChannel{Host: "nms", Port: 162, Version: "v3", User: "u"}}},
		{ID: "c4", ChannelSpec: api.ChannelSpec{Name: "logs", Enabled: true, Kind: "syslog", Syslog: &api.SyslogChannel{Host: "logs", Port: 6514, Transport: "tls"}}},
	}, f.err
}

func (f *appliance) CreateChannel(_ context.Context, spec api.ChannelSpec) (api.Channel, error) {
	f.note("create channel %s %s password %d", spec.Name, spec.Kind, len(spec.Email.Password.Reveal()))
	spec.Email.PasswordSet, spec.Email.Password = true, api.Secret{}
	return api.Channel{ID: "c9", Revision: 1, ChannelSpec: spec}, f.err
}

func (f *appliance) UpdateChannel(_ context.Context, id string, revision int64, spec api.ChannelSpec) (api.Channel, error) {
	f.note("update channel %s %d %s %t", id, revision, spec.Name, spec.Enabled)
	return api.Channel{ID: id, Revision: revision + 1, ChannelSpec: spec}, f.err
}

func (f *appliance) DeleteChannel(_ context.Context, id string) error {
	f.note("delete channel %s", id)
	return f.check(id)
}

func (f *appliance) TestChannel(_ context.Context, id string) (api.Delivery, error) {
	d := api.Delivery{ID: "d1", Time: now, Channel: id, ChannelName: id, Test: true, State: api.Delivered, Tries: 1, Answer: "250 2.0.0 kept"}
	if id == "hook" {
		d.State, d.Answer, d.Error, d.Hint = api.DeliveryFailed, "", "the receiver answered 404 Not Found", "Look at the log of the receiver."
	}
	return d, f.check(id)
}

func (f *appliance) ListRules(context.Context) ([]api.Rule, error) {
	return []api.Rule{{ID: "r1", RuleSpec: api.RuleSpec{Name: "all", Enabled: true, Channels: []string{"c1", "c3"}}}}, f.err
}

func (f *appliance) CreateRule(_ context.Context, spec api.RuleSpec) (api.Rule, error) {
	f.note("create rule %+v", spec)
	return api.Rule{ID: "r2", Revision: 1, RuleSpec: spec}, f.err
}

func (f *appliance) UpdateRule(_ context.Context, id string, _ int64, spec api.RuleSpec) (api.Rule, error) {
	return api.Rule{ID: id, RuleSpec: spec}, f.check(id)
}

func (f *appliance) DeleteRule(_ context.Context, id string) error {
	f.note("delete rule %s", id)
	return f.check(id)
}

func (f *appliance) ListDeliveries(_ context.Context, q api.DeliveryQuery) (api.Page[api.Delivery], error) {
	f.note("deliveries %+v", q)
	return api.PageOf([]api.Delivery{
		{ID: "d2", Time: now, ChannelName: "night", State: api.DeliveryRetrying, Tries: 2, Subject: "critical: web: late", Error: "451 busy"},
		{ID: "d1", Time: now.Add(-time.Hour), ChannelName: "night", State: api.Delivered, Tries: 1, Subject: "info: web: failback succeeded", Answer: "250 kept"},
	}, q.Paging), f.err
}

func (f *appliance) MIB(context.Context) (string, error) {
	return "UNDERSTUDY-MIB DEFINITIONS ::= BEGIN\nEND\n", f.err
}

// A password goes from the file to the appliance, and is shown nowhere.
func TestPasswordsOfChannelsAreNotShown(t *testing.T) {
	f := newAppliance()
	serve(t, f)
	term := &terminal{in: strings.NewReader(`{"name":"a","kind":"email","email":{"host":"m","port":25,"security":"tls","user":"u","password":"correct-horse","from":"a@b.c","to":["d@e.f"]}}`)}
	require.Zero(t, term.run(t.Context(), "notifications", "channels", "create", "-f", "-", "--json"), term.err.String())
	require.Equal(t, []string{"create channel a email password 13"}, f.orders)
	require.NotContains(t, term.out.String()+term.err.String(), "correct-horse")
}
