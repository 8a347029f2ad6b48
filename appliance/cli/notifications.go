package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"understudy/api"
	"understudy/api/client"
)

func (a *app) notifications() *cobra.Command {
	return family("notifications", "Tell people and other systems of alerts and jobs",
		family("channels", "Who is told: mail, SNMP, syslog, webhooks", a.channelList(), a.channelShow(), a.channelSave("create", false), a.channelSave("update CHANNEL", true),
			a.channelSwitch("enable CHANNEL", "Send to a channel", true), a.channelSwitch("disable CHANNEL", "Stop sending to a channel", false),
			a.channelTest(), a.channelDelete()),
		family("rules", "What is told to whom", a.ruleList(), a.ruleCreate(), a.ruleUpdate(), a.ruleDelete()),
		a.deliveryList(),
		a.command("mib", "Print the SNMP MIB module of the notifications", 0, func(ctx context.Context, c *client.Client, _ []string) error {
			text, err := c.MIB(ctx)
			if err != nil {
				return err
			}
			return a.show(text, func(w io.Writer) { _, _ = io.WriteString(w, text) })
		}))
}

func (a *app) channelList() *cobra.Command {
	return a.command("list", "List the channels", 0, func(ctx context.Context, c *client.Client, _ []string) error {
		channels, err := c.ListChannels(ctx)
		if err != nil {
			return err
		}
		return a.show(channels, func(w io.Writer) {
			t := newTable(w, "NAME", "KIND", "ENABLED", "TO", "WAITING", "PROBLEM")
			for _, ch := range channels {
				t.row(ch.Name, ch.Kind, yesNo(ch.Enabled), receiverText(ch.ChannelSpec), ch.Waiting, orDash(ch.Problem))
			}
			t.flush()
		})
	})
}

// receiverText says in short where a channel leads. A webhook's path may hold a key.
func receiverText(s api.ChannelSpec) string {
	switch {
	case s.Email != nil:
		return strings.Join(s.Email.To, ", ")
	case s.SNMP != nil:
		return fmt.Sprintf("%s:%d %s", s.SNMP.Host, s.SNMP.Port, s.SNMP.Version)
	case s.Syslog != nil:
		return fmt.Sprintf("%s:%d %s", s.Syslog.Host, s.Syslog.Port, s.Syslog.Transport)
	case s.Webhook != nil:
		scheme, rest, _ := strings.Cut(s.Webhook.URL, "://")
		host, _, _ := strings.Cut(rest, "/")
		return scheme + "://" + host
	}
	return "-"
}

func (a *app) channelShow() *cobra.Command {
	return a.command("show CHANNEL", "Show a channel", 1, func(ctx context.Context, c *client.Client, args []string) error {
		ch, err := findChannel(ctx, c, args[0])
		if err != nil {
			return err
		}
		return a.showChannel(ch)
	})
}

func findChannel(ctx context.Context, c *client.Client, id string) (api.Channel, error) {
	channels, err := c.ListChannels(ctx)
	if err != nil {
		return api.Channel{}, err
	}
	for _, ch := range channels {
		if ch.ID == id || ch.Name == id {
			return ch, nil
		}
	}
	return api.Channel{}, api.Errorf(api.CodeNotFound, `See "understudy notifications channels list".`, "there is no channel %q", id)
}

func (a *app) showChannel(ch api.Channel) error {
	return a.show(ch, func(w io.Writer) {
		pairs := []string{"name", ch.Name, "id", ch.ID, "kind", ch.Kind, "enabled", yesNo(ch.Enabled)}
		switch {
		case ch.Email != nil:
			e := ch.Email
			pairs = append(pairs, "server", fmt.Sprintf("%s:%d %s", e.Host, e.Port, e.Security), "user", e.User, "password", isSet(e.PasswordSet),
				"from", e.From, "to", strings.Join(e.To, ", "))
		case ch.SNMP != nil:
			s := ch.SNMP
			pairs = append(pairs, "manager", receiverText(ch.ChannelSpec), "informs", yesNo(s.Inform), "community", isSet(s.CommunitySet), "user", s.User,
				"authentication", strings.TrimSpace(s.AuthProtocol+" "+isSet(s.AuthPasswordSet)),
				"privacy", strings.TrimSpace(s.PrivProtocol+" "+isSet(s.PrivPasswordSet)), "engine id", s.EngineID)
		case ch.Syslog != nil:
			pairs = append(pairs, "server", receiverText(ch.ChannelSpec), "facility", ch.Syslog.Facility)
		case ch.Webhook != nil:
			pairs = append(pairs, "url", ch.Webhook.URL, "secret", isSet(ch.Webhook.SecretSet))
		}
		facts(w, append(pairs, "waiting", strconv.Itoa(ch.Waiting), "problem", ch.Problem)...)
	})
}

func isSet(set bool) string {
	if set {
		return "(set)"
	}
	return ""
}

func (a *app) channelSave(use string, update bool) *cobra.Command {
	var file string
	short := "Add a receiver"
	if update {
		short = "Change a receiver; secrets that are left out stay"
	}
	cmd := a.command(use, short, strings.Count(use, " "), func(ctx context.Context, c *client.Client, args []string) error {
		if file == "" {
			return wrong("name the file with the channel: --file channel.json, or --file - for standard input")
		}
		spec := api.ChannelSpec{Enabled: true}
		if err := readJSON("channel", file, a.in, &spec); err != nil {
			return err
		}
		if err := spec.Validate(); err != nil {
			return err
		}
		var ch api.Channel
		var err error
		if update {
			if ch, err = findChannel(ctx, c, args[0]); err != nil {
				return err
			}
			ch, err = c.UpdateChannel(ctx, ch.ID, ch.Revision, spec)
		} else {
			ch, err = c.CreateChannel(ctx, spec)
		}
		if err != nil {
			return err
		}
		return a.showChannel(ch)
	})
	cmd.Long = short + `. The channel is JSON, as the API takes it, from a file or standard input, so that
passwords never stand on a command line:

  {"name": "night", "kind": "email", "email": {"host": "mail.example.com", "port": 587, "security": "starttls",
    "user": "understudy", "password": "...", "from": "understudy@example.com", "to": ["admins@example.com"]}}
  {"name": "nms", "kind": "snmp", "snmp": {"host": "nms.example.com", "port": 162, "version": "v3", "inform": true,
    "user": "understudy", "authProtocol": "sha256", "authPassword": "...", "privProtocol": "aes", "privPassword": "..."}}
  {"name": "logs", "kind": "syslog", "syslog": {"host": "logs.example.com", "port": 6514, "transport": "tls"}}
  {"name": "hook", "kind": "webhook", "webhook": {"url": "https://hooks.example.com/understudy", "secret": "whsec_..."}}`
	cmd.Flags().StringVarP(&file, "file", "f", "", "channel in JSON; - reads standard input")
	return cmd
}

// readJSON reads what from a file, or from in when that is "-".
func readJSON(what, file string, in io.Reader, v any) error {
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return wrong("read " + what + ": " + err.Error())
		}
		defer f.Close()
		in = f
	}
	decoder := json.NewDecoder(in)
	decoder.DisallowUnknownFields() // a misspelled word would silently do nothing
	if err := decoder.Decode(v); err != nil {
		return wrong(fmt.Sprintf("read %s from %s: %v", what, file, err))
	}
	return nil
}

func (a *app) channelSwitch(use, short string, on bool) *cobra.Command {
	return a.command(use, short, 1, func(ctx context.Context, c *client.Client, args []string) error {
		ch, err := findChannel(ctx, c, args[0])
		if err != nil {
			return err
		}
		ch.Enabled = on
		if ch, err = c.UpdateChannel(ctx, ch.ID, ch.Revision, ch.ChannelSpec); err != nil {
			return err
		}
		return a.showChannel(ch)
	})
}

func (a *app) channelTest() *cobra.Command {
	return a.command("test CHANNEL", "Send a test message now, and tell what the receiver answers", 1,
		func(ctx context.Context, c *client.Client, args []string) error {
			d, err := c.TestChannel(ctx, args[0])
			if err != nil {
				return err
			}
			if err := a.show(d, func(w io.Writer) {
				facts(w, "channel", d.ChannelName, "state", string(d.State), "answer", d.Answer, "error", d.Error, "hint", d.Hint)
			}); err != nil {
				return err
			}
			if d.State != api.Delivered {
				return fmt.Errorf("channel %s: the test %w", d.ChannelName, errFailed)
			}
			return nil
		})
}

func (a *app) channelDelete() *cobra.Command {
	return a.command("delete CHANNEL", "Delete a channel that no rule names", 1, func(ctx context.Context, c *client.Client, args []string) error {
		if err := c.DeleteChannel(ctx, args[0]); err != nil {
			return err
		}
		return a.show(struct{}{}, func(w io.Writer) { fmt.Fprintf(w, "channel %s deleted\n", args[0]) })
	})
}

func (a *app) ruleList() *cobra.Command {
	return a.command("list", "List the rules", 0, func(ctx context.Context, c *client.Client, _ []string) error {
		rules, err := c.ListRules(ctx)
		if err != nil {
			return err
		}
		return a.showRules(ctx, c, rules, rules)
	})
}

// showRules writes a table with the names of channels; v is what JSON shows.
func (a *app) showRules(ctx context.Context, c *client.Client, v any, rules []api.Rule) error {
	channels, err := c.ListChannels(ctx)
	if err != nil {
		return err
	}
	names := map[string]string{}
	for _, ch := range channels {
		names[ch.ID] = ch.Name
	}
	return a.show(v, func(w io.Writer) {
		t := newTable(w, "NAME", "ENABLED", "KINDS", "GROUPS", "FROM SEVERITY", "CHANNELS")
		for _, r := range rules {
			to := make([]string, len(r.Channels))
			for i, id := range r.Channels {
				to[i] = id
				if name, ok := names[id]; ok {
					to[i] = name
				}
			}
			severity := r.MinSeverity
			if severity == "" {
				severity = api.SeverityInfo
			}
			t.row(r.Name, yesNo(r.Enabled), allOr(r.Kinds), allOr(r.Groups), severity, strings.Join(to, ", "))
		}
		t.flush()
	})
}

func allOr(list []string) string {
	if len(list) == 0 {
		return "all"
	}
	return strings.Join(list, ", ")
}

func (a *app) ruleCreate() *cobra.Command {
	var spec ruleFlags
	cmd := a.command("create NAME", "Say what is told to whom", 1, func(ctx context.Context, c *client.Client, args []string) error {
		rule := api.RuleSpec{Name: args[0], Enabled: true}
		spec.apply(&rule)
		if err := rule.Validate(); err != nil {
			return err
		}
		r, err := c.CreateRule(ctx, rule)
		if err != nil {
			return err
		}
		return a.showRules(ctx, c, r, []api.Rule{r})
	})
	cmd.Example = `  understudy notifications rules create worst --min-severity critical --channel night --channel nms
  understudy notifications rules create shop --group shop --kind rpo-missed --kind failover --channel night`
	spec.add(cmd.Flags())
	return cmd
}

func (a *app) ruleUpdate() *cobra.Command {
	var spec ruleFlags
	cmd := a.command("update RULE", "Change what is told to whom; what is not named stays", 1, func(ctx context.Context, c *client.Client, args []string) error {
		rules, err := c.ListRules(ctx)
		if err != nil {
			return err
		}
		at := slices.IndexFunc(rules, func(r api.Rule) bool { return r.ID == args[0] || r.Name == args[0] })
		if at < 0 {
			return api.Errorf(api.CodeNotFound, "Run understudy notifications rules list.", "there is no rule %q", args[0])
		}
		r := rules[at]
		spec.apply(&r.RuleSpec)
		if err := r.Validate(); err != nil {
			return err
		}
		if r, err = c.UpdateRule(ctx, r.ID, r.Revision, r.RuleSpec); err != nil {
			return err
		}
		return a.showRules(ctx, c, r, []api.Rule{r})
	})
	cmd.Example = `  understudy notifications rules update worst --min-severity warning
  understudy notifications rules update shop --group '' --disabled`
	spec.add(cmd.Flags())
	return cmd
}

// ruleFlags are the fields of a rule that a person names.
type ruleFlags struct {
	flags    *pflag.FlagSet
	given    api.RuleSpec
	severity string
	disabled bool
}

func (r *ruleFlags) add(flags *pflag.FlagSet) {
	r.flags = flags
	flags.StringArrayVar(&r.given.Channels, "channel", nil, "channel to tell; repeat it")
	flags.StringArrayVar(&r.given.Kinds, "kind", nil, "kind of alert or job, job-failed or job-ended; repeat it (default: all)")
	flags.StringArrayVar(&r.given.Groups, "group", nil, "group that it must be about; repeat it (default: all, and hosts)")
	flags.StringVar(&r.severity, "min-severity", "", "info, warning or critical (default: info, which is everything)")
	flags.BoolVar(&r.disabled, "disabled", false, "keep the rule and do not follow it")
}

// apply changes what was named. An empty name among several is none: so a list can be emptied.
func (r *ruleFlags) apply(spec *api.RuleSpec) {
	for flag, lists := range map[string][2]*[]string{"channel": {&spec.Channels, &r.given.Channels}, "kind": {&spec.Kinds, &r.given.Kinds},
		"group": {&spec.Groups, &r.given.Groups}} {
		if r.flags.Changed(flag) {
			*lists[0] = slices.DeleteFunc(slices.Clone(*lists[1]), func(name string) bool { return name == "" })
		}
	}
	if r.flags.Changed("min-severity") {
		spec.MinSeverity = api.Severity(r.severity)
	}
	if r.flags.Changed("disabled") {
		spec.Enabled = !r.disabled
	}
}

func (a *app) ruleDelete() *cobra.Command {
	return a.command("delete RULE", "Delete a rule", 1, func(ctx context.Context, c *client.Client, args []string) error {
		if err := c.DeleteRule(ctx, args[0]); err != nil {
			return err
		}
		return a.show(struct{}{}, func(w io.Writer) { fmt.Fprintf(w, "rule %s deleted\n", args[0]) })
	})
}

func (a *app) deliveryList() *cobra.Command {
	var channel, state string
	var limit int
	cmd := a.command("deliveries", "List what was sent, the newest first", 0, func(ctx context.Context, c *client.Client, _ []string) error {
		q := api.DeliveryQuery{State: state, Paging: api.Paging{Limit: limit}}
		if channel != "" {
			ch, err := findChannel(ctx, c, channel)
			if err != nil {
				return err
			}
			q.Channel = ch.ID
		}
		page, err := c.ListDeliveries(ctx, q)
		if err != nil {
			return err
		}
		return a.show(page.Items, func(w io.Writer) {
			t := newTable(w, "TIME", "CHANNEL", "STATE", "TRIES", "SUBJECT", "ANSWER")
			for _, d := range page.Items {
				answer := d.Answer
				if d.Error != "" {
					answer = d.Error
				}
				t.row(stamp(d.Time), d.ChannelName, d.State, d.Tries, d.Subject, orDash(answer))
			}
			t.flush()
		})
	})
	cmd.Flags().StringVar(&channel, "channel", "", "only to this channel")
	cmd.Flags().StringVar(&state, "state", "", "only delivered, retrying or failed")
	cmd.Flags().IntVar(&limit, "limit", 30, "how many at most, 1000 at most")
	return cmd
}
