package replication_test

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/appliance/scripts"
)

// play notes the scripts that are run instead of running them.
type play struct {
	mu    sync.Mutex
	calls []scripts.Call
	// fails gives the error of a script; nil: all succeed. hook is called before and after each.
	fails func(c scripts.Call) error
	hook  func() error
}

func (p *play) List() ([]api.Script, error) { return []api.Script{{Name: "dns.sh", Size: 7}}, nil }

func (p *play) Check(name string) error {
	if name == "missing.sh" {
		return api.Errorf(api.CodeInvalid, "Put it there.", "there is no script %s", name)
	}
	return nil
}

func (p *play) Run(_ context.Context, c scripts.Call) (string, error) {
	if p.hook != nil {
		if err := p.hook(); err != nil {
			return "", err
		}
	}
	p.mu.Lock()
	p.calls = append(p.calls, c)
	p.mu.Unlock()
	if p.hook != nil {
		if err := p.hook(); err != nil {
			return "", err
		}
	}
	if p.fails != nil {
		if err := p.fails(c); err != nil {
			return "it did not work", err
		}
	}
	return "output of " + c.Name, nil
}

// names are the scripts that ran, in order.
func (p *play) names() (all []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.calls {
		all = append(all, c.Name)
	}
	return all
}

func (w *world) sleep(ctx context.Context, d time.Duration) error {
	if w.sleeps != nil {
		return w.sleeps(ctx, d)
	}
	w.pass(d)
	return ctx.Err()
}

// staged starts db, waits for its checks and for a person, and then a minute; then web.
func staged(s *api.GroupSpec) {
	for i := range s.Machines {
		if s.Machines[i].VM == "web" {
			s.Machines[i].Stage = 2
		}
	}
	s.Runbook = &api.Runbook{Stages: []api.RunbookStage{
		{Stage: 2, After: []api.Action{{Name: "mail", Kind: "script", Script: "mail.sh", InTests: true, OnFailure: "continue"}}},
		{Stage: 1, WaitForChecks: true, DelaySeconds: 60,
			Before: []api.Action{{Name: "DNS", Kind: "script", Script: "dns.sh", Args: []string{"up"}, TimeoutSeconds: 9, InTests: true}},
			After:  []api.Action{{Name: "router", Kind: "manual", Text: "Switch it over", InTests: true}}},
	}}
}

// runbookScenarios kill the appliance on the way through a runbook.
func runbookScenarios() map[string]scenario {
	followed := func(w *world, kind string) {
		ran := w.scripts.names()
		require.Equal(w.t, []string{"dns.sh", "mail.sh"}, slices.Compact(slices.Clone(ran)))
		require.LessOrEqual(w.t, len(ran), 3, "at most the one at work is run again")
		r := w.report(kind)
		require.Len(w.t, r.Actions, 3)
		for i, name := range []string{"DNS", "router", "mail"} {
			require.Equal(w.t, name, r.Actions[i].Name)
			require.Equal(w.t, "passed", r.Actions[i].Outcome)
		}
		require.Equal(w.t, "output of dns.sh", r.Actions[0].Output)
		require.Equal(w.t, "done", r.Actions[1].Output)
		require.Equal(w.t, []string{"db", "web"}, []string{r.Machines[0].Name, r.Machines[1].Name})
		for _, m := range r.Machines {
			require.True(w.t, m.Screen, m.ScreenProblem)
			require.NotNil(w.t, m.Started)
		}
	}
	return map[string]scenario{
		"failover by runbook": {kind: "failover", state: api.StateFailedOver, shape: staged, before: written,
			order: func(w *world, ctx context.Context) (api.Job, error) {
				return w.engine.Failover(ctx, "shop", api.FailoverOrder{Planned: true})
			},
			after: func(w *world, vm, db string, g api.Group) {
				followed(w, "failover")
				notHome(w, vm, db, g)
			}},
		"test by runbook": {kind: "test", state: api.StateProtected, shape: staged,
			order: func(w *world, ctx context.Context) (api.Job, error) {
				return w.engine.Test(ctx, "shop", api.TestOrder{})
			},
			after: func(w *world, vm, db string, g api.Group) {
				require.Equal(w.t, "running", w.report("test").Outcome, "it has not passed before it is cleaned up")
				w.done(w.engine.EndTest(w.t.Context(), "shop"))
				require.Equal(w.t, "passed", w.report("test").Outcome)
				followed(w, "test")
				atHome(w, vm, db, g)
			}},
		"failback by runbook": {kind: "failback", state: api.StateProtected, shape: staged,
			before: func(w *world, vm, db string) {
				committed(w, vm, db)
				w.scripts.calls = nil
			},
			order: func(w *world, ctx context.Context) (api.Job, error) { return w.engine.Failback(ctx, "shop") },
			after: func(w *world, vm, db string, g api.Group) {
				followed(w, "failback")
				atHome(w, vm, db, g)
			}},
	}
}

// report is the newest of a kind, in full.
func (w *world) report(kind string) api.Report {
	w.t.Helper()
	page, err := w.engine.ListReports(w.t.Context(), api.ReportQuery{Kind: kind})
	require.NoError(w.t, err)
	require.NotEmpty(w.t, page.Items, "there is no report of a %s", kind)
	r, err := w.engine.GetReport(w.t.Context(), page.Items[0].ID)
	require.NoError(w.t, err)
	return r
}
