package replication_test

import (
	"context"
	"os"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/hypervisors"
	"understudy/hypervisors/hypervisortest"
)

// scenario is an order, what comes before it, and what must be true when it has ended.
type scenario struct {
	before func(w *world, vm string)
	order  func(w *world, ctx context.Context) (api.Job, error)
	state  api.GroupState
	after  func(w *world, vm string, g api.Group)
}

func scenarios() map[string]scenario {
	planned := func(w *world, _ string) {
		w.done(w.engine.Failover(w.t.Context(), "shop", api.FailoverOrder{Planned: true}))
	}
	committed := func(w *world, vm string) {
		planned(w, vm)
		w.done(w.engine.Commit(w.t.Context(), "shop"))
		w.write(w.away, w.group("shop").Members[0].TargetVM, 10)
	}
	same := func(w *world, vm string, g api.Group) { w.sameAtTarget(g, vm) }
	return map[string]scenario{
		"cycle": {state: api.StateProtected, after: same,
			before: func(w *world, vm string) { w.write(w.home, vm, 30) },
			order:  func(w *world, ctx context.Context) (api.Job, error) { return w.engine.SyncNow(ctx, "shop") }},
		"test": {state: api.StateProtected,
			order: func(w *world, ctx context.Context) (api.Job, error) {
				return w.engine.Test(ctx, "shop", api.TestOrder{})
			},
			after: func(w *world, vm string, g api.Group) {
				require.Equal(w.t, "running", g.Test.State)
				w.done(w.engine.EndTest(w.t.Context(), "shop"))
			}},
		"end test": {state: api.StateProtected,
			before: func(w *world, _ string) { w.done(w.engine.Test(w.t.Context(), "shop", api.TestOrder{})) },
			order:  func(w *world, ctx context.Context) (api.Job, error) { return w.engine.EndTest(ctx, "shop") },
			after:  func(w *world, _ string, g api.Group) { require.Equal(w.t, "passed", g.Test.State) }},
		"planned failover": {state: api.StateFailedOver,
			before: func(w *world, vm string) { w.write(w.home, vm, 30) },
			order: func(w *world, ctx context.Context) (api.Job, error) {
				return w.engine.Failover(ctx, "shop", api.FailoverOrder{Planned: true})
			},
			after: func(w *world, vm string, g api.Group) { // nothing lost
				require.Equal(w.t, w.records(w.home, vm), w.records(w.away, g.Members[0].TargetVM))
			}},
		"rollback": {state: api.StateProtected, before: planned,
			order: func(w *world, ctx context.Context) (api.Job, error) { return w.engine.Rollback(ctx, "shop") },
			after: func(w *world, vm string, g api.Group) { require.True(w.t, w.running(w.home, vm)) }},
		"commit": {state: api.StateCommitted, before: planned,
			order: func(w *world, ctx context.Context) (api.Job, error) { return w.engine.Commit(ctx, "shop") }},
		"reprotect": {state: api.StateProtected, before: committed,
			order: func(w *world, ctx context.Context) (api.Job, error) { return w.engine.Reprotect(ctx, "shop") },
			after: func(w *world, _ string, g api.Group) { require.True(w.t, g.Reversed) }},
		"failback": {state: api.StateProtected, before: committed,
			order: func(w *world, ctx context.Context) (api.Job, error) { return w.engine.Failback(ctx, "shop") },
			after: func(w *world, vm string, g api.Group) {
				require.False(w.t, g.Reversed)
				require.True(w.t, w.running(w.home, vm))
				require.EqualValues(w.t, 110, w.records(w.home, vm))
				w.sameAtTarget(g, vm)
			}},
	}
}

// killsPerOrder is how many of the hundreds of moments are tried unless KILL=all asks for each.
const killsPerOrder = 24

// TestKillAtEveryStep kills the appliance before and after everything that a job persists and everything that it asks
// a host for, starts it again, and expects that the job ends as if nothing had happened.
func TestKillAtEveryStep(t *testing.T) {
	for name, s := range scenarios() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			total := s.run(t, 0)
			require.Greater(t, total, 4)
			stride := max(1, total/killsPerOrder)
			if os.Getenv("KILL") == "all" {
				stride = 1
			}
			for at := 1; at <= total; at += stride {
				s.run(t, at)
			}
		})
	}
}

// run plays a scenario and kills the appliance at the n-th moment (0: never). It returns how many moments it met.
func (s scenario) run(t *testing.T, at int) int {
	w := newWorld(t)
	vm := w.machine("web")
	p := spec("shop", "web")
	p.Policy.VerifyCycles = false // halves the moments
	w.protect(p)
	if s.before != nil {
		s.before(w, vm)
	}
	var mu sync.Mutex
	met := 0
	counting := true
	moment := func() {
		mu.Lock()
		defer mu.Unlock()
		if !counting {
			return
		}
		if met++; met == at {
			w.cut()
		}
	}
	w.kill = func(_, _, phase string) {
		if phase != "before submit" && phase != "after submit" { // an order that was not accepted may be forgotten
			moment()
		}
	}
	for _, f := range w.faults {
		f.Random(1, 2, func(context.Context) error { // a share of 2: every call, before and after
			moment()
			if w.dead.Load() {
				return hypervisors.ErrUnreachable
			}
			return nil
		})
	}
	job, err := s.order(w, t.Context())
	require.NoError(t, err)
	if at > 0 {
		require.Eventually(t, func() bool { return w.dead.Load() || w.ended(job.ID) }, waitFor, tick)
	} else {
		w.wait(job.ID)
	}
	mu.Lock()
	counting = false
	mu.Unlock()
	for _, f := range w.faults {
		f.Random(1, 0, hypervisortest.Fail(nil))
	}
	if at > 0 && w.dead.Load() {
		w.restart()
	}
	j := w.wait(job.ID)
	require.Equal(t, api.JobSucceeded, j.State, "killed at %d: step %s: %s", at, j.Step, j.Error)
	g := w.group("shop")
	require.Equal(t, s.state, g.State, "killed at %d", at)
	w.neverBoth(g)
	if s.after != nil {
		s.after(w, vm, g)
	}
	w.clean()
	mu.Lock()
	defer mu.Unlock()
	return met
}

func (w *world) ended(job string) bool {
	j, err := w.engine.GetJob(w.t.Context(), job)
	return err == nil && j.State.Ended()
}
