package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"understudy/api"
	"understudy/api/client"
)

// groupCall is an order that needs no more than its group.
type groupCall func(c *client.Client, ctx context.Context, group string) (api.Job, error)

// jobCall starts a job.
type jobCall func(ctx context.Context, c *client.Client, args []string) (api.Job, error)

// order is a command that starts a job and waits for it.
func (a *app) order(use, short string, call groupCall) *cobra.Command {
	var wait waitFlags
	cmd := a.command(use, short, 1, func(ctx context.Context, c *client.Client, args []string) error {
		job, err := call(c, ctx, args[0])
		if err != nil {
			return err
		}
		return a.finish(ctx, c, job, wait)
	})
	wait.add(cmd)
	return cmd
}

// confirm shows what will happen and asks. Without a person at a terminal only --yes agrees.
func (a *app) confirm(ctx context.Context, lines []string, yes bool) error {
	if yes && a.json {
		return nil
	}
	for _, line := range lines {
		a.say("%s", plain(line))
	}
	if yes {
		return nil
	}
	if !a.asks {
		return wrong("nobody is here to be asked: add --yes to do it")
	}
	_, _ = fmt.Fprint(a.err, "Go ahead? Type yes: ")
	answer := make(chan string, 1)
	go func() { // a read from a terminal cannot be interrupted
		line, _ := bufio.NewReader(a.in).ReadString('\n')
		answer <- strings.TrimSpace(line)
	}()
	select {
	case line := <-answer:
		if strings.EqualFold(line, "yes") || strings.EqualFold(line, "y") {
			return nil
		}
		return fmt.Errorf("nothing was done: %w", context.Canceled)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (a *app) failover() *cobra.Command {
	var o api.FailoverOrder
	cmd := a.planned("failover GROUP", "Start the replicas as production", always,
		func([]string) api.PlanOrder {
			return api.PlanOrder{Order: "failover", Planned: o.Planned, Point: o.Point, Force: o.Force}
		},
		func(ctx context.Context, c *client.Client, args []string) (api.Job, error) {
			return c.Failover(ctx, args[0], o)
		})
	do := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if o.Planned && (o.Point != "" || o.Force) {
			return usageError(cmd, errors.New("--planned makes its own last point, with the source shut down; leave out --point and --force"))
		}
		return do(cmd, args)
	}
	cmd.Flags().BoolVar(&o.Planned, "planned", false, "shut the source down and copy the rest first: nothing is lost")
	cmd.Flags().StringVar(&o.Point, "point", "", "recovery point to start from (default: the newest that is not suspect)")
	cmd.Flags().BoolVar(&o.Force, "force", false, "turn source machines off hard that still run")
	return cmd
}

func (a *app) commit() *cobra.Command {
	return a.plainOrder("commit GROUP", "Accept a failover for good", politely, (*client.Client).Commit)
}

func (a *app) rollback() *cobra.Command {
	return a.plainOrder("rollback GROUP", "Undo a failover that was not committed", always, (*client.Client).Rollback)
}

func (a *app) reprotect() *cobra.Command {
	return a.plainOrder("reprotect GROUP", "Swap the roles after a committed failover", politely, (*client.Client).Reprotect)
}

func (a *app) failback() *cobra.Command {
	return a.plainOrder("failback GROUP", "Bring the machines home", always, (*client.Client).Failback)
}

func (a *app) fence() *cobra.Command {
	return a.plainOrder("fence GROUP", "Turn machines off that run although they must not", always, (*client.Client).Fence)
}

func (a *app) test() *cobra.Command {
	var wait waitFlags
	var o api.TestOrder
	start := a.command("start GROUP", "Start the replicas in an isolated network, beside running replication", 1,
		func(ctx context.Context, c *client.Client, args []string) error {
			job, err := c.Test(ctx, args[0], o)
			if err != nil {
				return err
			}
			if !wait.wait() {
				return a.finish(ctx, c, job, wait)
			}
			if err := a.wait(ctx, c, job); err != nil {
				return err
			}
			return a.showTest(ctx, c, args[0])
		})
	start.Flags().StringVar(&o.Point, "point", "", "recovery point to start from (default: the newest that is not suspect)")
	wait.add(start)
	return family("test", "Prove that the replicas start", start,
		a.order("end GROUP", "End the test and clean up; only then has it passed", (*client.Client).EndTest),
		a.command("show GROUP", "Show the running test, or the last one", 1,
			func(ctx context.Context, c *client.Client, args []string) error { return a.showTest(ctx, c, args[0]) }))
}

func (a *app) showTest(ctx context.Context, c *client.Client, group string) error {
	g, err := c.GetGroup(ctx, group)
	if err != nil {
		return err
	}
	if g.Test == nil {
		return api.Errorf(api.CodeNotFound, fmt.Sprintf("See \"understudy test start %s\".", group), "group %s was never tested", group)
	}
	return a.show(g.Test, func(w io.Writer) { writeTest(w, *g.Test) })
}

func writeTest(w io.Writer, r api.TestReport) {
	facts(w, "test", r.ID, "state", r.State, "point", r.Point, "started", stamp(r.Started),
		"took", fmt.Sprintf("%.1fs", r.Seconds), "problem", r.Problem)
	fmt.Fprintln(w)
	t := newTable(w, "MACHINE", "NETWORK", "CHECK", "PASSED", "AFTER", "MESSAGE")
	for _, m := range r.Machines {
		for _, check := range m.Checks {
			t.row(m.Name, orDash(m.Network), check.Kind, yesNo(check.Passed), fmt.Sprintf("%.1fs", check.Seconds), check.Message)
		}
		if len(m.Checks) == 0 {
			t.row(m.Name, orDash(m.Network), "-", "-", "-")
		}
	}
	t.flush()
}
