package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"understudy/api"
	"understudy/api/client"
)

func (a *app) jobs() *cobra.Command {
	return family("jobs", "Look at work that takes time", a.jobList(),
		a.command("show JOB", "Show a job", 1, func(ctx context.Context, c *client.Client, args []string) error {
			job, err := c.GetJob(ctx, args[0])
			if err != nil {
				return err
			}
			return a.showJob(job)
		}),
		a.command("watch JOB", "Wait for a job and show its progress", 1, func(ctx context.Context, c *client.Client, args []string) error {
			job, err := c.GetJob(ctx, args[0])
			if err != nil {
				return err
			}
			return a.finish(ctx, c, job, waitFlags{})
		}),
		a.command("cancel JOB", "Ask a job to stop and undo", 1, func(ctx context.Context, c *client.Client, args []string) error {
			job, err := c.CancelJob(ctx, args[0])
			if err != nil {
				return err
			}
			return a.showJob(job)
		}), a.jobConfirm())
}

func (a *app) jobList() *cobra.Command {
	var group string
	var limit int
	cmd := a.command("list", "List jobs, newest first", 0, func(ctx context.Context, c *client.Client, _ []string) error {
		page, err := c.ListJobs(ctx, api.JobQuery{Group: group, Paging: api.Paging{Limit: limit}})
		if err != nil {
			return err
		}
		jobs := page.Items
		return a.show(jobs, func(w io.Writer) {
			t := newTable(w, "JOB", "KIND", "GROUP", "STATE", "STEP", "AGE", "TOOK", "ERROR")
			for _, j := range jobs {
				t.row(j.ID, j.Kind, orDash(j.Group), j.State, orDash(j.Step), a.age(j.Created), orDash(a.took(j)), j.Error)
			}
			t.flush()
		})
	})
	cmd.Flags().StringVar(&group, "group", "", "only those of this group")
	cmd.Flags().IntVar(&limit, "limit", 20, "the newest so many")
	return cmd
}

func (a *app) took(j api.Job) string {
	if j.Started == nil {
		return ""
	}
	end := a.now()
	if j.Ended != nil {
		end = *j.Ended
	}
	return fmt.Sprintf("%.1fs", end.Sub(*j.Started).Seconds())
}

func (a *app) showJob(j api.Job) error {
	return a.show(j, func(w io.Writer) {
		pairs := []string{"job", j.ID, "kind", j.Kind, "group", j.Group, "state", string(j.State), "step", j.Step,
			"steps", strings.Join(j.Steps, ", "), "progress", progressText(j.Progress), "took", a.took(j),
			"waiting", waitingText(j), "error", j.Error, "hint", j.Hint}
		for _, name := range slices.Sorted(maps.Keys(j.Result)) {
			pairs = append(pairs, name, strconv.FormatFloat(j.Result[name], 'f', -1, 64))
		}
		facts(w, pairs...)
	})
}

// waitFlags say whether a command waits for the job that it starts.
type waitFlags struct{ yes, no bool }

func (f *waitFlags) add(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.yes, "wait", true, "wait for the job")
	cmd.Flags().BoolVar(&f.no, "no-wait", false, "return when the job is ordered")
	f.yes = true
	wait := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		f.no = f.no || !f.yes
		return wait(cmd, args)
	}
}

func (f waitFlags) wait() bool { return !f.no }

// finish waits for the job, if it shall, and shows it.
func (a *app) finish(ctx context.Context, c *client.Client, job api.Job, f waitFlags) error {
	if !f.wait() {
		return a.showJob(job)
	}
	last, err := a.watch(ctx, c, job)
	if err != nil {
		return err
	}
	if a.json {
		err = a.showJob(last)
	}
	return cmp.Or(err, outcome(last))
}

// wait waits for a job whose result is shown otherwise.
func (a *app) wait(ctx context.Context, c *client.Client, job api.Job) error {
	last, err := a.watch(ctx, c, job)
	if err != nil {
		return err
	}
	return outcome(last)
}

func outcome(j api.Job) error {
	switch j.State {
	case api.JobFailed:
		text := fmt.Sprintf("%s failed: %s", j.Kind, j.Error)
		if j.Hint != "" {
			text += "\n" + j.Hint
		}
		return &commandError{text: plainLines(text), err: errFailed}
	case api.JobCancelled:
		return &commandError{text: j.Kind + " was cancelled", err: errFailed}
	}
	return nil
}

// figures are the results of a job in one line.
func figures(j api.Job) string {
	text := ""
	for _, name := range slices.Sorted(maps.Keys(j.Result)) {
		text += fmt.Sprintf(", %s %s", name, strconv.FormatFloat(j.Result[name], 'f', -1, 64))
	}
	return text
}

// watch shows the progress of a job until it ends.
func (a *app) watch(ctx context.Context, c *client.Client, job api.Job) (api.Job, error) {
	p := a.progress(job)
	last, err := c.WaitJob(ctx, job.ID, p.update)
	p.end()
	switch {
	case err != nil && ctx.Err() != nil:
		a.say("Job %s goes on without being watched; see \"understudy jobs watch %s\".", job.ID, job.ID)
	case last.State == api.JobSucceeded && !a.json:
		a.say("%s done in %s%s", last.Kind, orDash(a.took(last)), figures(last))
	}
	return last, err
}

func (a *app) events() *cobra.Command {
	var after uint64
	cmd := a.command("events", "Listen to everything that happens, until interrupted", 0,
		func(ctx context.Context, c *client.Client, _ []string) error {
			events, err := c.Events(ctx, after)
			if err != nil {
				return err
			}
			for event := range events {
				if err := a.writeEvent(event); err != nil {
					return err
				}
			}
			if ctx.Err() != nil {
				return nil // to interrupt it is the way to end it
			}
			return api.Errorf(api.CodeInternal, "Listen again.", "the appliance ended the stream")
		})
	cmd.Flags().Uint64Var(&after, "after", 0, "id of the last event that was seen (default: from now on)")
	return cmd
}

// writeEvent writes one line; in JSON too, so that it can be read line by line.
func (a *app) writeEvent(e api.Event) error {
	if a.json {
		return json.NewEncoder(a.out).Encode(e)
	}
	text := e.Message
	if text == "" && e.Job != nil {
		text = strings.TrimSpace(fmt.Sprintf("%s %s %s %s", e.Job.Kind, e.Job.State, e.Job.Step, progressText(e.Job.Progress)))
	}
	line := fmt.Sprintf("%d  %s  %s %s %s  %s", e.ID, stamp(e.Time), e.Kind, e.Subject, e.Action, text)
	_, err := fmt.Fprintln(a.out, strings.TrimSpace(plain(line)))
	return err
}

func (a *app) about() *cobra.Command {
	return a.command("about", "Tell which appliance answers", 0, func(ctx context.Context, c *client.Client, _ []string) error {
		about, err := c.About(ctx)
		if err != nil {
			return err
		}
		return a.show(about, func(w io.Writer) {
			facts(w, "appliance", about.Appliance, "version", about.Version,
				"up", a.age(about.Started.Truncate(time.Second)), "address", a.url)
		})
	})
}
