package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"understudy/api"
	"understudy/api/client"
)

func (a *app) status() *cobra.Command {
	return a.command("status", "Show in short whether everything is protected", 0, func(ctx context.Context, c *client.Client, _ []string) error {
		o, err := c.Overview(ctx, nil)
		if err != nil {
			return err
		}
		return a.show(o, func(w io.Writer) { writeOverview(w, o) })
	})
}

// writeOverview writes ten lines, or so.
func writeOverview(w io.Writer, o api.Overview) {
	h, t := o.Health, o.Tests
	facts(w, "protected", fmt.Sprintf("%s in %s", count(o.Machines, "machine"), count(o.Groups, "group")),
		"target", fmt.Sprintf("%d met, %d at risk, %d missed, %d off", h.Met, h.AtRisk, h.Missed, h.Off),
		"tests", fmt.Sprintf("%d fresh, %d older than 90 days, %d never, %d failed", t.Fresh, t.Stale, t.Never, t.Failed),
		"hosts", fmt.Sprintf("%d connected, %d not", o.Hosts.Connected, o.Hosts.Disconnected),
		"storage", storageText(o.Storage), "at work", count(o.ActiveJobs, "job"), "alerts", alertsText(o))
	for _, alert := range o.Alerts[:min(3, len(o.Alerts))] {
		fmt.Fprintf(w, "  %s\n", plain(alert.Message))
	}
	if o.AlertCount > 3 {
		fmt.Fprintf(w, "  and %d more: understudy alerts\n", o.AlertCount-3)
	}
}

// storageText names the fullest.
func storageText(all []api.StorageUse) string {
	if len(all) == 0 {
		return "no replicas seen yet"
	}
	part := func(s api.StorageUse) float64 { return float64(s.Free) / float64(max(1, s.Total)) }
	worst := all[0]
	for _, s := range all {
		if part(s) < part(worst) {
			worst = s
		}
	}
	return fmt.Sprintf("%s on %s has least room: %s of %s free (%.0f %%)", worst.Storage, worst.HostName, size(worst.Free), size(worst.Total), 100*part(worst))
}

func alertsText(o api.Overview) string {
	if o.AlertCount == 0 {
		return "none"
	}
	return strconv.Itoa(o.AlertCount)
}

func (a *app) alerts() *cobra.Command {
	return a.command("alerts", "List what is wrong now, the worst first", 0, func(ctx context.Context, c *client.Client, _ []string) error {
		alerts, err := c.ListAlerts(ctx, nil)
		if err != nil {
			return err
		}
		return a.show(alerts, func(w io.Writer) {
			if len(alerts) == 0 {
				fmt.Fprintln(w, "nothing is wrong")
				return
			}
			t := newTable(w, "SEVERITY", "ALERT", "ABOUT", "SINCE", "WHAT", "WHAT TO DO")
			for _, alert := range alerts {
				t.row(alert.Severity, alert.Kind, orDash(alert.GroupName+alert.HostName), stamp(alert.Since), alert.Message, alert.Hint)
			}
			t.flush()
		})
	})
}

// machineList lists what is protected, or what a host has.
func (a *app) machineList() *cobra.Command {
	var q api.MachineQuery
	cmd := a.command("list [HOST]", "List the protected machines, or those that a host has now", 1, func(ctx context.Context, c *client.Client, args []string) error {
		if len(args) > 0 {
			return a.hostMachines(ctx, c, args[0])
		}
		machines, err := c.AllMachines(ctx, q)
		if err != nil {
			return err
		}
		return a.show(machines, func(w io.Writer) {
			t := newTable(w, "NAME", "GROUP", "STATE", "FROM", "TO", "HEALTH", "AGE", "PROBLEM")
			for _, m := range machines {
				age := "-"
				if m.RPO.NewestTaken != nil {
					age = seconds(m.RPO.AgeSeconds)
				}
				t.row(m.Name, m.GroupName, m.GroupState, m.SourceHost, m.TargetHost, m.Health, age, m.Problem)
			}
			t.flush()
		})
	})
	flags := cmd.Flags()
	cmd.Args = func(cmd *cobra.Command, given []string) error {
		switch {
		case len(given) > 1:
			return usageError(cmd, fmt.Errorf("%s has at most 1 argument, not %d", cmd.CommandPath(), len(given)))
		case len(given) == 1 && (flags.Changed("text") || flags.Changed("health") || flags.Changed("group") || flags.Changed("at")):
			return usageError(cmd, errors.New("what a host has cannot be filtered: leave the host out, or the flags"))
		}
		return nil
	}
	flags.StringVar(&q.Q, "text", "", "only those with this text in a name")
	flags.StringVar((*string)(&q.Health), "health", "", "only those that are met, at-risk, missed or off")
	flags.StringVar(&q.Group, "group", "", "only those of this group")
	flags.StringVar(&q.Host, "at", "", "only those with this host on either side")
	return cmd
}

func (a *app) groupHistory() *cobra.Command {
	var hours int
	cmd := a.command("history GROUP", "Show what happened to a group", 1, func(ctx context.Context, c *client.Client, args []string) error {
		h, err := c.History(ctx, api.HistoryQuery{Group: args[0], Hours: hours})
		if err != nil {
			return err
		}
		return a.show(h, func(w io.Writer) {
			t := newTable(w, "FROM", "LENGTH", "WORST AGE", "CYCLES", "FAILED", "READ", "WRITTEN")
			for _, s := range h.Samples {
				t.row(stamp(s.Time), seconds(float64(s.Seconds)), seconds(s.WorstAge), s.Cycles, s.Failed, size(s.BytesRead), size(s.BytesWritten))
			}
			t.flush()
		})
	})
	cmd.Flags().IntVar(&hours, "hours", 24, "how far back; at most 744")
	return cmd
}
