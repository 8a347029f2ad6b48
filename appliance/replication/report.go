package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"understudy/api"
	"understudy/appliance/jobs"
	"understudy/appliance/protection"
)

// reported are the kinds of jobs that leave a report.
var reported = []protection.Order{protection.OrderTest, protection.OrderFailover, protection.OrderCommit, protection.OrderRollback,
	protection.OrderReprotect, protection.OrderFailback, protection.OrderFence}

// reportRecord is a report as the state database keeps it: the outputs of its actions and the pictures have buckets of
// their own.
type reportRecord struct {
	api.Report
	Run     string            `json:",omitempty"` // of a test
	Screens map[string]screen `json:",omitempty"` // by the name of the machine
	// Found is the problem of a test before it was cleaned up.
	Found string `json:",omitempty"`
}

// screen is a picture that is kept.
type screen struct {
	Key   string
	Bytes int64
}

func screenKey(report string, machine int) string { return fmt.Sprintf("%s.%03d", report, machine) }
func outputKey(report string, action int) string  { return fmt.Sprintf("%s.%03d", report, action) }

// keepOutput keeps what an action wrote. That it cannot be kept stops nobody.
func (e *Engine) keepOutput(t *task, action int, output string) {
	if output == "" {
		return
	}
	if err := e.Store.Put(bucketOutputs, outputKey(t.ID(), action), output); err != nil {
		t.Log().Warn("the output of an action cannot be kept", "error", err)
	}
}

// endedWithReport shows on the group why its job failed, and keeps the report.
func (e *Engine) endedWithReport(ctx context.Context, r *jobs.Run, cause error) error {
	var w work
	if err := r.Load(&w); err != nil {
		return err
	}
	g, err := e.group(r.Group()) // before it changes, and before it is gone
	if err != nil && api.CodeOf(err) != api.CodeNotFound {
		return err
	}
	if err := e.ended(ctx, r, cause); err != nil {
		return err
	}
	switch order := protection.Order(r.Kind()); {
	case order == protection.OrderEndTest, order == protection.OrderRemove:
		return e.closeTestReport(r, w, cause)
	case slices.Contains(reported, order) && err == nil:
		return e.keepReport(e.newReport(r, g, w, cause))
	}
	return nil
}

func (e *Engine) newReport(r *jobs.Run, g group, w work, cause error) reportRecord {
	now, job := e.Clock().UTC(), r.Job()
	from, to := e.between(r, g, cause)
	rec := reportRecord{Run: w.Run, Screens: map[string]screen{}, Report: api.Report{
		ID: r.ID(), Kind: r.Kind(), Group: g.ID, GroupName: g.Spec.Name, Job: r.ID(), Planned: w.Planned, Force: w.Force, From: from, To: to,
		Point: w.Point, Started: r.Created(), Ended: &now, Seconds: w.Seconds, Steps: job.Timeline,
		Machines: []api.ReportMachine{}, Actions: append([]api.ReportAction{}, w.Actions...)}}
	if !w.Taken.IsZero() {
		rec.PointTaken = &w.Taken
		rec.LossSeconds = max(0, r.Created().Sub(w.Taken).Seconds())
	}
	rec.outcome(w, cause)
	rec.Found = rec.Problem
	if rec.Kind == string(protection.OrderTest) && g.TestRun == w.Run {
		rec.Outcome, rec.Ended = api.ReportRunning, nil
	}
	for _, i := range g.order() {
		b, started := w.Boots[g.Members[i].Name]
		if !started {
			continue
		}
		m := api.ReportMachine{Name: g.Members[i].Name, Host: to, VM: b.VM, Stage: g.stage(i), Started: &b.Started,
			Checks: append([]api.CheckResult{}, b.Checks...), Screen: b.Screen > 0, ScreenProblem: b.ScreenProblem}
		if b.Started.IsZero() {
			m.Started = nil
		}
		if b.Screen > 0 {
			rec.Screens[m.Name] = screen{screenKey(r.ID(), i), int64(b.Screen)}
		}
		rec.Machines = append(rec.Machines, m)
	}
	return rec
}

// between gives where the machines were before the order, and where it brings them.
func (e *Engine) between(r *jobs.Run, g group, cause error) (from, to string) {
	source, target := e.hostName(g.source().Host), e.hostName(g.target().Host)
	switch protection.Order(r.Kind()) {
	case protection.OrderFailback:
		return e.hostName(g.Away.Host), e.hostName(g.Home.Host)
	case protection.OrderRollback:
		return target, source
	case protection.OrderReprotect:
		if cause != nil && g.State == api.StateCommitted { // the roles were not swapped
			return target, source
		}
	}
	return source, target
}

// outcome says how it ended.
func (rec *reportRecord) outcome(w work, cause error) {
	switch {
	case errors.Is(cause, jobs.ErrCancelled):
		rec.Outcome = api.ReportCancelled
	case cause != nil:
		public := asPublic(cause)
		rec.Outcome, rec.Problem, rec.Hint = api.ReportFailed, public.Message, public.Hint
	case w.Problem != "":
		rec.Outcome, rec.Problem = api.ReportWarning, w.Problem
	default:
		rec.Outcome = api.ReportPassed
	}
}

// closeTestReport ends the report of a test that was cleaned up: only now it may have passed.
func (e *Engine) closeTestReport(r *jobs.Run, w work, cause error) error {
	rec, open := e.archive.find(func(rec reportRecord) bool {
		return w.Run != "" && rec.Run == w.Run && rec.Outcome == api.ReportRunning
	})
	if !open {
		return nil
	}
	if cause != nil {
		rec.Hint = "The test is still up: end it again."
		rec.Problem = "it could not be cleaned up: " + asPublic(cause).Message
		return e.keepReport(rec)
	}
	now := e.Clock().UTC()
	rec.Ended, rec.CleanUp, rec.Hint = &now, r.ID(), ""
	rec.Steps = append(slices.Clone(rec.Steps), r.Job().Timeline...)
	rec.Problem = rec.Found
	if rec.Outcome = api.ReportPassed; rec.Problem != "" {
		rec.Outcome = api.ReportFailed
	}
	return e.keepReport(rec)
}
