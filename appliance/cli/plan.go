package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"understudy/api"
	"understudy/api/client"
)

// asking is when an order asks before it is given.
type asking int

const (
	// always: without a person at the terminal only --yes agrees.
	always asking = iota
	// politely: where nobody sits nobody is asked.
	politely
)

// planned is an order that tells what it will do, by the appliance's own plan, and asks before it does it.
func (a *app) planned(use, short string, ask asking, wish func(args []string) api.PlanOrder, call jobCall) *cobra.Command {
	var wait waitFlags
	var yes bool
	cmd := a.command(use, short, strings.Count(use, " "), func(ctx context.Context, c *client.Client, args []string) error {
		// Where nobody would read a plan, the order does not wait for the hosts to be asked for one.
		if (!yes || !a.json) && (ask == always || a.asks) {
			plan, err := c.Plan(ctx, args[0], wish(args))
			if err != nil {
				return err
			}
			if !plan.Allowed {
				return &api.Error{Code: plan.Code, Message: plan.Refusal, Hint: plan.Hint}
			}
			if err := a.confirm(ctx, a.planLines(args[0], plan), yes); err != nil {
				return err
			}
		}
		job, err := call(ctx, c, args)
		if err != nil {
			return err
		}
		return a.finish(ctx, c, job, wait)
	})
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	wait.add(cmd)
	return cmd
}

// plainOrder is a planned order that needs no more than its group.
func (a *app) plainOrder(use, short string, ask asking, call groupCall) *cobra.Command {
	name, _, _ := strings.Cut(use, " ")
	return a.planned(use, short, ask,
		func([]string) api.PlanOrder { return api.PlanOrder{Order: name} },
		func(ctx context.Context, c *client.Client, args []string) (api.Job, error) {
			return call(c, ctx, args[0])
		})
}

// titles begin what is said of an order, before the group.
var titles = map[string]string{
	"test": "Test failover of", "end-test": "End of the test of", "failover": "Failover of", "commit": "Commit the failover of", "rollback": "Rollback of",
	"reprotect": "Reprotect", "failback": "Failback of", "fence": "Fence", "drop-point": "Drop a recovery point of", "remove": "Remove",
}

// planLines tell a plan to a person, the most important last, just above the question.
func (a *app) planLines(group string, p api.Plan) []string {
	where := "on " + p.To
	if p.From != p.To {
		where = fmt.Sprintf("from %s to %s", p.From, p.To)
	}
	lines := []string{fmt.Sprintf("%s group %s, %s", cmp.Or(titles[p.Order], p.Order+" of"), group, where)}
	if p.Point != nil {
		lines = append(lines, "  "+a.pointText(*p.Point))
	}
	for _, m := range p.Machines {
		lines = append(lines, "  machine "+machineText(m))
	}
	for _, c := range p.Changes {
		lines = append(lines, "  - "+c.Text)
	}
	if p.LossSeconds != nil {
		lines = append(lines, "  lost: "+lossText(*p.LossSeconds))
	}
	if p.Undo != "" {
		lines = append(lines, "  undo: "+p.Undo)
	}
	for _, w := range p.Warnings {
		lines = append(lines, "  "+warningText(w))
	}
	if p.Irreversible {
		lines = append(lines, "  This cannot be undone.")
	}
	return lines
}

func lossText(s float64) string {
	if s == 0 {
		return "nothing"
	}
	return fmt.Sprintf("what was written in the last %s", span(time.Duration(s*float64(time.Second))))
}

func machineText(m api.PlanMachine) string {
	text := fmt.Sprintf("%s: source %s, replica %s", m.Name, m.Source, m.Replica)
	for _, n := range m.Networks {
		text += fmt.Sprintf(", network %s", n.To)
		if n.From != "" && n.From != n.To {
			text += fmt.Sprintf(" (was %s)", n.From)
		}
	}
	if m.Checks > 0 {
		text += ", " + count(m.Checks, "check")
	}
	return text
}

func warningText(w api.PlanWarning) string {
	mark := "careful: "
	if w.Stops {
		mark = "IT WILL STOP: "
	}
	if w.Hint != "" {
		return mark + w.Text + " " + w.Hint
	}
	return mark + w.Text
}

// groupPlan shows what an order would do.
func (a *app) groupPlan() *cobra.Command {
	var o api.PlanOrder
	cmd := a.command("plan GROUP ORDER", "Show what an order would do, and change nothing", 2,
		func(ctx context.Context, c *client.Client, args []string) error {
			o.Order = args[1]
			plan, err := c.Plan(ctx, args[0], o)
			if err != nil {
				return err
			}
			if err := a.show(plan, func(w io.Writer) { a.writePlan(w, args[0], plan) }); err != nil {
				return err
			}
			if !plan.Allowed {
				return &api.Error{Code: plan.Code, Message: plan.Refusal, Hint: plan.Hint}
			}
			return nil
		})
	cmd.Long = "Show what an order would do. ORDER is test, end-test, failover, commit, rollback, reprotect, failback, fence, drop-point or remove."
	flags := cmd.Flags()
	flags.BoolVar(&o.Planned, "planned", false, "of a failover: shut the source down and copy the rest first")
	flags.BoolVar(&o.Force, "force", false, "of a failover: turn source machines off hard that still run")
	flags.StringVar(&o.Point, "point", "", "recovery point of a test, a failover or drop-point")
	flags.BoolVar(&o.DeleteReplicas, "delete-replicas", false, "of remove: delete the replicas too")
	return cmd
}

func (a *app) writePlan(w io.Writer, group string, p api.Plan) {
	for _, line := range a.planLines(group, p) {
		fmt.Fprintln(w, plain(line))
	}
	fmt.Fprintln(w, "  steps: "+strings.Join(p.Steps, ", "))
}
