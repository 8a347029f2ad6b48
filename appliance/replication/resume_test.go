package replication_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/api"
)

// dies kills the appliance at a moment of a job.
func (w *world) dies(kind, step, phase string) {
	w.kill = func(k, s, p string) {
		if k == kind && s == step && p == phase {
			w.kill = nil
			w.cut()
		}
	}
}

// later waits for the appliance to be dead, lets something happen, and starts it again.
func (w *world) later(job api.Job, err error, happens func()) api.Job {
	w.t.Helper()
	require.NoError(w.t, err)
	require.Eventually(w.t, w.dead.Load, waitFor, tick)
	w.stop()
	happens()
	w.start()
	return w.wait(job.ID)
}

// TestSourceIsBackWhenTheOrderGoesOn: the appliance dies in the middle of an order, and when it goes on the machines that
// it turned off run again. They are not replaced, and go on; only by force they are turned off again.
func TestSourceIsBackWhenTheOrderGoesOn(t *testing.T) {
	for _, step := range []string{"last-copy", "start"} {
		t.Run("planned failover, "+step, func(t *testing.T) {
			w := newWorld(t)
			vm := w.machine("web")
			w.machine2("db")
			g := w.protect(spec("shop", "web", "db"))
			w.dies("failover", step, "before do")
			job, err := w.engine.Failover(t.Context(), "shop", api.FailoverOrder{Planned: true})
			var last uint64
			job = w.later(job, err, func() {
				require.NoError(t, w.home.Start(vm))
				last = w.write(w.home, vm, 3)
			})
			require.Equal(t, api.JobFailed, job.State)
			require.Contains(t, job.Error, "web was started again")
			require.NotContains(t, job.Error, "not undone")
			w.neverBoth(g)
			require.True(t, w.running(w.home, vm))
			require.Equal(t, last, w.records(w.home, vm))
			require.Equal(t, api.StateProtected, w.group("shop").State)
			w.clean()
		})
	}
	for _, force := range []bool{false, true} {
		t.Run("unplanned failover "+map[bool]string{true: "by force"}[force], func(t *testing.T) {
			w := newWorld(t)
			vm := w.machine("web")
			g := w.protect(spec("shop", "web"))
			require.NoError(t, w.home.Crash(vm))
			w.dies("failover", "start", "before do")
			job, err := w.engine.Failover(t.Context(), "shop", api.FailoverOrder{Force: force})
			job = w.later(job, err, func() { require.NoError(t, w.home.Start(vm)) })
			w.neverBoth(g)
			require.Equal(t, force, w.running(w.away, g.Members[0].TargetVM))
			require.Equal(t, !force, w.running(w.home, vm))
			if !force {
				require.Equal(t, api.JobFailed, job.State)
				require.Contains(t, job.Error, "still runs at the source")
			}
			w.clean()
		})
	}
	t.Run("failback", func(t *testing.T) {
		w := newWorld(t)
		vm := w.machine("web")
		w.machine2("db")
		g := w.protect(spec("shop", "web", "db"))
		committed(w, vm, "")
		away := g.Members[0].TargetVM
		w.dies("failback", "start", "before do")
		job, err := w.engine.Failback(t.Context(), "shop")
		var last uint64
		job = w.later(job, err, func() {
			require.NoError(t, w.away.Start(away))
			last = w.write(w.away, away, 3)
		})
		require.Equal(t, api.JobFailed, job.State)
		require.Contains(t, job.Error, "web was started again")
		w.neverBoth(g)
		require.True(t, w.running(w.away, away))
		w.settle("shop")
		w.done(w.engine.SyncNow(t.Context(), "shop"))
		w.done(w.engine.Failback(t.Context(), "shop"))
		require.Equal(t, last, w.records(w.home, vm))
	})
	t.Run("rollback", func(t *testing.T) {
		w := newWorld(t)
		vm := w.machine("web")
		g := w.protect(spec("shop", "web"))
		planned(w, vm, "")
		w.dies("rollback", "source-on", "before do")
		job, err := w.engine.Rollback(t.Context(), "shop")
		job = w.later(job, err, func() { require.NoError(t, w.away.Start(g.Members[0].TargetVM)) })
		require.Equal(t, api.JobFailed, job.State)
		w.neverBoth(g)
		require.NoError(t, w.away.Stop(g.Members[0].TargetVM))
		w.done(w.engine.Rollback(t.Context(), "shop"))
		require.True(t, w.running(w.home, vm))
	})
}

// TestSourceIsGoneWhenTheOrderGoesOn: a later life does not take for off what it cannot ask, unless nothing else was
// expected.
func TestSourceIsGoneWhenTheOrderGoesOn(t *testing.T) {
	for _, plan := range []bool{true, false} {
		t.Run(map[bool]string{true: "planned", false: "unplanned"}[plan], func(t *testing.T) {
			in(t, func(t *testing.T, w *world) {
				vm := w.machine("web")
				g := w.protect(spec("shop", "web"))
				if !plan {
					require.NoError(t, w.home.Crash(vm))
				}
				w.dies("failover", "start", "before do")
				job, err := w.engine.Failover(t.Context(), "shop", api.FailoverOrder{Planned: plan})
				job = w.later(job, err, func() { w.home.SetReachable(false) })
				require.Equal(t, plan, job.State == api.JobFailed, job.Error)
				require.Equal(t, !plan, w.running(w.away, g.Members[0].TargetVM))
				if plan {
					require.Contains(t, job.Error, "nobody knows")
					w.done(w.engine.Failover(t.Context(), "shop", api.FailoverOrder{}))
				}
				w.home.SetReachable(true)
			})
		})
	}
}
