package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"understudy/api"
	"understudy/api/client"
)

// groupCall is an order that needs no more than its group.
type groupCall func(c *client.Client, ctx context.Context, group string) (api.Job, error)

// jobCall starts a job; preview tells what it will do, a line each.
type (
	jobCall func(ctx context.Context, c *client.Client, args []string) (api.Job, error)
	preview func(ctx context.Context, c *client.Client, args []string) ([]string, error)
)

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

// dangerous is an order that tells what it will do, and asks before it does it.
func (a *app) dangerous(use, short string, tell preview, call jobCall, flags func(*cobra.Command)) *cobra.Command {
	var wait waitFlags
	var yes bool
	cmd := a.command(use, short, strings.Count(use, " "), func(ctx context.Context, c *client.Client, args []string) error {
		lines, err := tell(ctx, c, args)
		if err != nil {
			return err
		}
		if err := a.confirm(ctx, lines, yes); err != nil {
			return err
		}
		job, err := call(ctx, c, args)
		if err != nil {
			return err
		}
		return a.finish(ctx, c, job, wait)
	})
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	wait.add(cmd)
	if flags != nil {
		flags(cmd)
	}
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
	return a.dangerous("failover GROUP", "Start the replicas as production",
		func(ctx context.Context, c *client.Client, args []string) ([]string, error) {
			if o.Planned && (o.Point != "" || o.Force) {
				return nil, wrong("--planned makes its own last point, with the source shut down; leave out --point and --force")
			}
			return a.failoverPreview(ctx, c, args[0], o)
		},
		func(ctx context.Context, c *client.Client, args []string) (api.Job, error) {
			return c.Failover(ctx, args[0], o)
		},
		func(cmd *cobra.Command) {
			cmd.Flags().BoolVar(&o.Planned, "planned", false, "shut the source down and copy the rest first: nothing is lost")
			cmd.Flags().StringVar(&o.Point, "point", "", "recovery point to start from (default: the newest that is not suspect)")
			cmd.Flags().BoolVar(&o.Force, "force", false, "turn source machines off hard that still run")
		})
}

func (a *app) failoverPreview(ctx context.Context, c *client.Client, group string, o api.FailoverOrder) ([]string, error) {
	g, err := c.GetGroup(ctx, group)
	if err != nil {
		return nil, err
	}
	from, to := sides(g)
	lines := []string{fmt.Sprintf("Failover of group %s from %s to %s", g.Name, from, to), "  machines: " + memberNames(g)}
	if o.Planned {
		return append(lines,
			fmt.Sprintf("  source:   the machines are shut down on %s, and what they wrote is copied", from),
			"  lost:     nothing",
			"  after:    commit or roll back"), nil
	}
	p, err := findPoint(ctx, c, group, o.Point)
	if err != nil {
		return nil, err
	}
	source := fmt.Sprintf("refused if a machine still runs on %s", from)
	if o.Force {
		source = fmt.Sprintf("machines that still run on %s are turned off hard", from)
	}
	lines = append(lines, "  source:   "+source, "  start:    "+a.pointText(p))
	if p.Suspect != "" {
		lines = append(lines, "  suspect:  "+p.Suspect)
	}
	return append(lines,
		fmt.Sprintf("  lost:     everything written since %s (%s)", stamp(p.Taken), a.age(p.Taken)),
		"  after:    commit or roll back"), nil
}

// warned is a dangerous order whose preview is one sentence about the group.
func (a *app) warned(use, short, sentence string, call groupCall) *cobra.Command {
	return a.dangerous(use, short,
		func(ctx context.Context, c *client.Client, args []string) ([]string, error) {
			g, err := c.GetGroup(ctx, args[0])
			if err != nil {
				return nil, err
			}
			return []string{fmt.Sprintf("Group %s (%s): %s.", g.Name, memberNames(g), sentence)}, nil
		},
		func(ctx context.Context, c *client.Client, args []string) (api.Job, error) {
			return call(c, ctx, args[0])
		}, nil)
}

func (a *app) commit() *cobra.Command {
	return a.order("commit GROUP", "Accept a failover for good", (*client.Client).Commit)
}

func (a *app) rollback() *cobra.Command {
	return a.warned("rollback GROUP", "Undo a failover that was not committed",
		"the replicas stop, and what they wrote since the failover is lost", (*client.Client).Rollback)
}

func (a *app) reprotect() *cobra.Command {
	return a.order("reprotect GROUP", "Swap the roles after a committed failover", (*client.Client).Reprotect)
}

func (a *app) failback() *cobra.Command {
	return a.warned("failback GROUP", "Bring the machines home",
		"differences are copied home, then the machines are shut down here and started there", (*client.Client).Failback)
}

func (a *app) fence() *cobra.Command {
	return a.warned("fence GROUP", "Turn machines off that run although they must not",
		"machines that run beside those that replaced them, and replicas that nobody ordered to run, are turned off hard, and what they wrote is given up",
		(*client.Client).Fence)
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
