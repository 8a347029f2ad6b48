package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"understudy/api"
	"understudy/api/client"
)

func (a *app) groups() *cobra.Command {
	return family("groups", "Protect machines", a.groupCreate(),
		a.command("list", "List the groups", 0, func(ctx context.Context, c *client.Client, _ []string) error {
			groups, err := c.AllGroups(ctx, api.GroupQuery{})
			if err != nil {
				return err
			}
			return a.show(groups, func(w io.Writer) {
				t := newTable(w, "NAME", "STATE", "FROM", "TO", "MACHINES", "POINTS", "RPO", "AGE", "HEALTH", "PROBLEM")
				for _, g := range groups {
					from, to := sides(g)
					t.row(g.Name, stateOf(g), from, to, len(g.Machines), g.Points, seconds(float64(g.Policy.RPOSeconds)),
						newestAge(g), g.Health, trouble(g))
				}
				t.flush()
			})
		}),
		a.command("show GROUP", "Show a group", 1, func(ctx context.Context, c *client.Client, args []string) error {
			g, err := c.GetGroup(ctx, args[0])
			if err != nil {
				return err
			}
			return a.showGroup(g)
		}),
		a.groupPolicy(),
		a.groupEdit(),
		a.groupPreflight(),
		a.groupPlan(),
		a.pointList("points GROUP"),
		a.groupHistory(),
		a.schedule("pause GROUP", "Stop the schedule", (*client.Client).Pause),
		a.schedule("resume GROUP", "Start the schedule again", (*client.Client).Resume),
		a.order("sync GROUP", "Run a cycle now", (*client.Client).SyncNow),
		a.groupRemove())
}

func (a *app) groupCreate() *cobra.Command {
	var s specFlags
	var wait waitFlags
	cmd := a.command("create NAME", "Protect machines, and wait for the first mirror", 1,
		func(ctx context.Context, c *client.Client, args []string) error {
			spec, err := s.spec(args[0], a.in)
			if err != nil {
				return err
			}
			if err := spec.Validate(); err != nil {
				return err // the appliance would say the same with fewer words
			}
			g, err := c.CreateGroup(ctx, spec)
			if err != nil {
				return err
			}
			if g.Job != "" && wait.wait() {
				if err := a.wait(ctx, c, api.Job{ID: g.Job, Kind: "mirror"}); err != nil {
					return err
				}
				if g, err = c.GetGroup(ctx, g.ID); err != nil {
					return err
				}
			}
			return a.showGroup(g)
		})
	cmd.Example = `  understudy groups create web --source kvm1 --target kvm2 --machine db1 --machine web1=web1-replica \
      --rpo 10s --retention 5m:2h,1h:1d --network default=recovery --check web1=http://192.0.2.10/health`
	s.add(cmd.Flags())
	wait.add(cmd)
	return cmd
}

func (a *app) groupPolicy() *cobra.Command {
	var p policyFlags
	cmd := a.command("policy GROUP", "Show the policy of a group, or change what is given", 1,
		func(ctx context.Context, c *client.Client, args []string) error {
			g, err := c.GetGroup(ctx, args[0])
			if err != nil {
				return err
			}
			changed, err := p.apply(&g.Policy)
			if err != nil {
				return err
			}
			if changed {
				if err := g.Policy.Validate(); err != nil {
					return err
				}
				if g, err = c.UpdatePolicy(ctx, g.ID, g.Revision, g.Policy); err != nil {
					return err
				}
			}
			return a.show(g.Policy, func(w io.Writer) { facts(w, policyFacts(g.Policy)...) })
		})
	p.add(cmd.Flags())
	return cmd
}

func (a *app) groupRemove() *cobra.Command {
	var replicas bool
	cmd := a.planned("remove GROUP", "End protection; with --delete-replicas delete the replicas too", always,
		func([]string) api.PlanOrder { return api.PlanOrder{Order: "remove", DeleteReplicas: replicas} },
		func(ctx context.Context, c *client.Client, args []string) (api.Job, error) {
			return c.RemoveGroup(ctx, args[0], replicas)
		})
	cmd.Flags().BoolVar(&replicas, "delete-replicas", false, "delete the replicas and their points")
	return cmd
}

func (a *app) schedule(use, short string, call func(*client.Client, context.Context, string) (api.Group, error)) *cobra.Command {
	return a.command(use, short, 1, func(ctx context.Context, c *client.Client, args []string) error {
		g, err := call(c, ctx, args[0])
		if err != nil {
			return err
		}
		return a.showGroup(g)
	})
}

func (a *app) showGroup(g api.Group) error {
	return a.show(g, func(w io.Writer) {
		from, to := sides(g)
		facts(w, append([]string{
			"name", g.Name, "id", g.ID, "state", stateOf(g), "from", from, "to", to, "storage", g.Storage,
			"networks", networkText(g.Networks), "left out", leftOutText(g), "convert", convertedText(g), "points", strconv.Itoa(g.Points),
			"newest", newestText(g), "health", healthText(g), "tested", testedText(g), "job", g.Job, "problem", g.Problem, "hint", g.Hint,
			"created", stamp(g.Created), "revision", strconv.FormatInt(g.Revision, 10),
		}, policyFacts(g.Policy)...)...)
		fmt.Fprintln(w)
		t := newTable(w, "MACHINE", "SOURCE", "TARGET", "PROBLEM")
		for _, m := range g.Members {
			t.row(m.Name, orDash(m.SourceVM), orDash(m.TargetVM), m.Problem)
		}
		t.flush()
		if len(g.Alerts) > 0 {
			fmt.Fprintln(w)
			t := newTable(w, "ALERT", "SINCE", "WHAT", "WHAT TO DO")
			for _, alert := range worstFirst(g.Alerts) {
				t.row(alert.Kind, stamp(alert.Since), alert.Message, alert.Hint)
			}
			t.flush()
		}
		if g.Verification != nil {
			fmt.Fprintln(w)
			writeVerification(w, *g.Verification)
		}
		if g.Test != nil {
			fmt.Fprintln(w)
			writeTest(w, *g.Test)
		}
	})
}

// trouble is the worst that is wrong with a group, in one line.
func trouble(g api.Group) string {
	if len(g.Alerts) > 0 {
		return worstFirst(g.Alerts)[0].Message
	}
	return g.Problem
}

// severity orders alerts by what waiting costs.
var severity = []string{api.AlertSplitBrain, api.AlertDiverged, api.AlertStray, api.AlertMismatch, api.AlertRPOMissed,
	api.AlertCycleFailing, api.AlertDriverMissing}

// worstFirst leaves alerts that weigh the same in their order, oldest first. Those that this version does not know come last.
func worstFirst(alerts []api.Alert) []api.Alert {
	rank := func(a api.Alert) int {
		if i := slices.Index(severity, a.Kind); i >= 0 {
			return i
		}
		return len(severity)
	}
	return slices.SortedStableFunc(slices.Values(alerts), func(a, b api.Alert) int { return cmp.Compare(rank(a), rank(b)) })
}

func policyFacts(p api.Policy) []string {
	consistency := p.Consistency
	if consistency == "" {
		consistency = "crash"
	}
	verification := "only when ordered"
	if p.VerifyEverySeconds > 0 {
		verification = "every " + seconds(float64(p.VerifyEverySeconds))
	}
	compression := p.Compression
	if compression == "" {
		compression = api.CompressionNone
	}
	return []string{
		"rpo", seconds(float64(p.RPOSeconds)), "retention", retentionText(p.Retention), "consistency", consistency,
		"group moment", yesNo(p.GroupMoment), "verify cycles", yesNo(p.VerifyCycles), "verification", verification, "bandwidth", mbitText(p.BandwidthMbit), "compression", compression,
		"windows", windowsText(p),
	}
}

// sides are the hosts as they are used now.
func sides(g api.Group) (from, to string) {
	if g.Reversed {
		return g.TargetHost, g.SourceHost
	}
	return g.SourceHost, g.TargetHost
}

func stateOf(g api.Group) string {
	state := string(g.State)
	if g.Paused {
		state += ", paused"
	}
	if g.Reversed {
		state += ", reversed"
	}
	return state
}

func healthText(g api.Group) string {
	if g.HealthReason == "" {
		return string(g.Health)
	}
	return fmt.Sprintf("%s: %s", g.Health, g.HealthReason)
}

func testedText(g api.Group) string {
	if g.Tested == nil {
		return string(g.TestFreshness)
	}
	return fmt.Sprintf("%s: the last test that passed ended %s", g.TestFreshness, stamp(*g.Tested))
}

func newestAge(g api.Group) string {
	if g.RPO.NewestTaken == nil {
		return "-"
	}
	return seconds(g.RPO.AgeSeconds)
}

func newestText(g api.Group) string {
	if g.RPO.NewestTaken == nil {
		return "no point yet"
	}
	met := "within the RPO"
	if !g.RPO.Met {
		met = "older than the RPO"
	}
	return fmt.Sprintf("%s ago, %s; worst %s", seconds(g.RPO.AgeSeconds), met, seconds(g.RPO.WorstSeconds))
}

func networkText(maps []api.NetworkMap) string {
	texts := make([]string, len(maps))
	for i, m := range maps {
		texts[i] = m.From + "=" + m.To
	}
	return strings.Join(texts, ", ")
}
