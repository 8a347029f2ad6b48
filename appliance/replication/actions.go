package replication

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"understudy/api"
	"understudy/appliance/jobs"
	"understudy/appliance/scripts"
)

// Scripts runs what runbooks name. scripts.Dir is one.
type Scripts interface {
	List() ([]api.Script, error)
	// Check tells why a script cannot be run.
	Check(name string) error
	// Run gives the output, also beside an error.
	Run(ctx context.Context, c scripts.Call) (output string, err error)
}

// act does an action and notes how it went. A script that fails ends the order, unless its runbook says otherwise.
func (e *Engine) act(ctx context.Context, t *task, s startup, m move) error {
	a := m.Action
	t.work.Actions = t.work.Actions[:min(len(t.work.Actions), t.work.Course.acted())] // it may be done again
	result := api.ReportAction{Name: a.Name, Kind: a.Kind, Stage: m.Stage, When: m.When, Started: e.Clock(), Outcome: api.ReportPassed}
	var err error
	if a.Kind == api.ActionManual {
		var c api.Confirmation
		c, err = t.Ask(ctx, api.Waiting{Prompt: m.Prompt, Text: a.Name + ": " + a.Text, ProductionOff: !s.test && t.work.Course.starts()})
		result.By, result.Output = c.By, c.Note
	} else {
		result.Output, err = e.runScript(ctx, t, s, m)
	}
	switch {
	case ctx.Err() != nil && !errors.Is(context.Cause(ctx), jobs.ErrCancelled):
		return context.Cause(ctx) // the appliance stops: it is done again
	case ctx.Err() != nil:
		result.Outcome, err = api.ReportCancelled, context.Cause(ctx)
	case err != nil:
		result.Outcome, result.Error = api.ReportFailed, err.Error()
	}
	result.Ended = e.Clock()
	e.keepOutput(t, len(t.work.Actions), result.Output)
	result.Output = ""
	t.work.Actions = append(t.work.Actions, result)
	if err == nil {
		return nil
	}
	if a.OnFailure == api.OnFailureContinue && result.Outcome == api.ReportFailed {
		t.Log().Warn("an action failed, and the order goes on", "action", a.Name, "error", err)
		return nil
	}
	e.note(t)
	if result.Outcome == api.ReportCancelled {
		return err
	}
	return &api.Error{Code: api.CodeHost, Err: err, Message: fmt.Sprintf("action %q of stage %d failed: %v", a.Name, m.Stage, err),
		Hint: "What the script wrote is in the report. Make it work, or let the runbook go on without it (onFailure: continue), and order again."}
}

func (e *Engine) runScript(ctx context.Context, t *task, s startup, m move) (string, error) {
	if e.Scripts == nil {
		return "", api.Errorf(api.CodeInvalid, "Start the appliance with --scripts-dir.", "the appliance has no scripts directory")
	}
	test := "0"
	if s.test {
		test = "1"
	}
	return e.Scripts.Run(ctx, scripts.Call{Name: m.Action.Script, Args: m.Action.Args,
		Timeout: time.Duration(m.Action.TimeoutSeconds) * time.Second,
		Env: map[string]string{"UNDERSTUDY_GROUP": t.group.Spec.Name, "UNDERSTUDY_ORDER": t.Kind(), "UNDERSTUDY_STAGE": strconv.Itoa(m.Stage),
			"UNDERSTUDY_POINT": t.work.Point, "UNDERSTUDY_TEST": test}})
}

// runnable refuses a runbook whose scripts are not there.
func (e *Engine) runnable(r *api.Runbook) error {
	if r == nil {
		return nil
	}
	for i, s := range r.Stages {
		for when, actions := range map[string][]api.Action{"before": s.Before, "after": s.After} {
			for j, a := range actions {
				if a.Kind != api.ActionScript {
					continue
				}
				err := error(api.Errorf(api.CodeInvalid, "Start the appliance with --scripts-dir.", "the appliance has no scripts directory"))
				if e.Scripts != nil {
					err = e.Scripts.Check(a.Script)
				}
				if err != nil {
					public := asPublic(err)
					return &api.Error{Code: api.CodeInvalid, Field: fmt.Sprintf("runbook.stages[%d].%s[%d].script", i, when, j), Message: public.Message, Hint: public.Hint, Err: err}
				}
			}
		}
	}
	return nil
}

// ListScripts gives what runbooks may name.
func (e *Engine) ListScripts(context.Context) ([]api.Script, error) {
	if e.Scripts == nil {
		return []api.Script{}, nil
	}
	return e.Scripts.List()
}

// problems are the failed actions that the order went on behind, for people.
func (w *work) problems() (out []string) {
	for _, a := range w.Actions {
		if a.Outcome == api.ReportFailed {
			out = append(out, fmt.Sprintf("action %q: %s", a.Name, a.Error))
		}
	}
	return out
}
