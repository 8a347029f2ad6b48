package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"understudy/api"
	"understudy/api/client"
)

func (a *app) reports() *cobra.Command {
	return family("reports", "Look at the records of tests, failovers and failbacks", a.reportList(),
		a.command("show REPORT", "Show a report", 1, func(ctx context.Context, c *client.Client, args []string) error {
			r, err := c.GetReport(ctx, args[0])
			if err != nil {
				return err
			}
			return a.showReport(r)
		}), a.reportHTML())
}

func (a *app) reportList() *cobra.Command {
	var q api.ReportQuery
	cmd := a.command("list", "List the reports, newest first", 0, func(ctx context.Context, c *client.Client, _ []string) error {
		page, err := c.ListReports(ctx, q)
		if err != nil {
			return err
		}
		return a.show(page, func(w io.Writer) {
			t := newTable(w, "REPORT", "KIND", "GROUP", "ORDERED", "OUTCOME", "RTO", "POINT AGE", "PROBLEM")
			for _, r := range page.Items {
				t.row(r.ID, r.Kind, r.GroupName, stamp(r.Started), r.Outcome, rto(r), pointAge(r), r.Problem)
			}
			t.flush()
		})
	})
	cmd.Flags().StringVar(&q.Group, "group", "", "only those of this group, which may be gone")
	cmd.Flags().StringVar(&q.Kind, "kind", "", "test, failover, commit, rollback, reprotect, failback or fence")
	cmd.Flags().IntVar(&q.Limit, "limit", 20, "the newest so many")
	return cmd
}

func rto(r api.Report) string {
	if r.Seconds == 0 {
		return "-"
	}
	return seconds(r.Seconds)
}

func pointAge(r api.Report) string {
	if r.PointTaken == nil {
		return "-"
	}
	return seconds(r.LossSeconds)
}

func (a *app) showReport(r api.Report) error {
	return a.show(r, func(w io.Writer) {
		ended := ""
		if r.Ended != nil {
			ended = stamp(*r.Ended)
		}
		facts(w, "report", r.ID, "kind", r.Kind, "group", r.GroupName, "outcome", r.Outcome, "problem", r.Problem, "hint", r.Hint,
			"from", r.From, "to", r.To, "point", r.Point, "point age", pointAge(r), "ordered", stamp(r.Started), "ended", ended, "rto", rto(r))
		if len(r.Machines) > 0 {
			_, _ = fmt.Fprintln(w)
			t := newTable(w, "MACHINE", "STAGE", "HOST", "CHECK", "PASSED", "TOOK", "MESSAGE")
			for _, m := range r.Machines {
				for _, c := range m.Checks {
					t.row(m.Name, m.Stage, m.Host, c.Kind, yesNo(c.Passed), fmt.Sprintf("%.1fs", c.Seconds), c.Message)
				}
				if len(m.Checks) == 0 {
					t.row(m.Name, m.Stage, m.Host, "-", "-", "-", "")
				}
			}
			t.flush()
		}
		if len(r.Actions) > 0 {
			_, _ = fmt.Fprintln(w)
			t := newTable(w, "ACTION", "KIND", "STAGE", "WHEN", "OUTCOME", "TOOK", "ERROR")
			for _, x := range r.Actions {
				t.row(x.Name, x.Kind, x.Stage, x.When, x.Outcome, fmt.Sprintf("%.1fs", x.Ended.Sub(x.Started).Seconds()), x.Error)
			}
			t.flush()
			for _, x := range r.Actions {
				if x.Output != "" {
					_, _ = fmt.Fprintf(w, "\n%s:\n%s\n", plain(x.Name), strings.TrimRight(plainLines(x.Output), "\n"))
				}
			}
		}
		_, _ = fmt.Fprintln(w)
		t := newTable(w, "STEP", "BEGAN", "TOOK")
		for _, s := range r.Steps {
			name, took := s.Step, "-"
			if s.Part != "" {
				name = "  " + s.Part
			}
			if s.Ended != nil {
				took = fmt.Sprintf("%.1fs", s.Ended.Sub(s.Started).Seconds())
			}
			t.row(name, stamp(s.Started), took)
		}
		t.flush()
	})
}

func (a *app) reportHTML() *cobra.Command {
	var lang, output string
	cmd := a.command("html REPORT", "Write a report as a page that stands alone, to be printed or put away", 1,
		func(ctx context.Context, c *client.Client, args []string) error {
			page, err := c.ReportPage(ctx, args[0], lang)
			if err != nil {
				return err
			}
			if output == "" || output == "-" {
				_, err = a.out.Write(page)
				return err
			}
			if err := os.WriteFile(output, page, 0o600); err != nil {
				return fmt.Errorf("write report: %w", err)
			}
			a.say("%s written", output)
			return nil
		})
	cmd.Flags().StringVar(&lang, "lang", "en", "language: en or de")
	cmd.Flags().StringVarP(&output, "output", "o", "", "file to write (default: standard output)")
	return cmd
}

func (a *app) scripts() *cobra.Command {
	return family("scripts", "Look at what runbooks can run",
		a.command("list", "List the scripts in the appliance's scripts directory", 0, func(ctx context.Context, c *client.Client, _ []string) error {
			list, err := c.ListScripts(ctx)
			if err != nil {
				return err
			}
			return a.show(list, func(w io.Writer) {
				t := newTable(w, "SCRIPT", "SIZE")
				for _, s := range list {
					t.row(s.Name, size(s.Size))
				}
				t.flush()
			})
		}))
}
