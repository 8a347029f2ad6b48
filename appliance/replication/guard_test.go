package replication_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/hypervisors"
	"understudy/hypervisors/fake"
	"understudy/hypervisors/hypervisortest"
)

func (w *world) autostart(hv *fake.Hypervisor, vm string) bool {
	w.t.Helper()
	v, err := hv.Connect("observer").VM(w.t.Context(), vm)
	require.NoError(w.t, err)
	return v.Autostart
}

// alerted says which alerts are on after a look.
func (w *world) alerted() (kinds []string) {
	w.t.Helper()
	w.engine.Guard(w.t.Context())
	for _, a := range w.group("shop").Alerts {
		kinds = append(kinds, a.Kind)
	}
	return kinds
}

// TestSplitBrain starts the source by hand after a failover, committed or not. It is noticed and left alone, no cycle
// reads it, and what it wrote is not overwritten before somebody gives it up, even when it is off again.
func TestSplitBrain(t *testing.T) {
	for name, commit := range map[string]bool{"failed over": false, "committed": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			ctx := t.Context()
			vm := w.machine("web")
			g := w.protect(spec("shop", "web"))
			away := g.Members[0].TargetVM
			w.done(w.engine.Failover(ctx, "shop", api.FailoverOrder{Planned: true}))
			state := api.StateFailedOver
			if commit {
				w.done(w.engine.Commit(ctx, "shop"))
				state = api.StateCommitted
			}
			require.Empty(t, w.alerted())
			require.NoError(t, w.home.Start(vm))
			w.write(w.home, vm, 7)
			require.Equal(t, []string{api.AlertSplitBrain}, w.alerted())
			require.Equal(t, []string{api.AlertSplitBrain}, w.alerted(), "once")
			require.True(t, w.running(w.home, vm), "nobody knows what it does for whom")
			require.True(t, w.running(w.away, away))
			points := len(w.points("shop"))
			w.pass(1000e9)
			w.engine.Tick(ctx)
			w.settle("shop")
			require.Len(t, w.points("shop"), points, "no cycle from the wrong side")
			_, err := w.engine.SyncNow(ctx, "shop")
			require.Error(t, err)

			require.NoError(t, w.home.Stop(vm))
			require.Equal(t, []string{api.AlertDiverged}, w.alerted())
			w.restart()
			require.Equal(t, []string{api.AlertDiverged}, w.alerted())
			if !commit {
				w.done(w.engine.Commit(ctx, "shop"))
				state = api.StateCommitted
			}
			for _, order := range []func() (api.Job, error){
				func() (api.Job, error) { return w.engine.Reprotect(ctx, "shop") },
				func() (api.Job, error) { return w.engine.Failback(ctx, "shop") },
			} {
				_, err := order()
				w.refused(err, api.CodeConflict, "ran on both sides")
			}
			require.Equal(t, state, w.group("shop").State)

			require.NoError(t, w.home.Start(vm))
			w.done(w.engine.Fence(ctx, "shop"))
			require.False(t, w.running(w.home, vm))
			require.True(t, w.running(w.away, away))
			require.Empty(t, w.alerted())
			actions, _ := w.alerts(api.AlertSplitBrain)
			require.Equal(t, []string{"created", "deleted"}, actions)
			last := w.write(w.away, away, 3)
			w.done(w.engine.Failback(ctx, "shop"))
			require.Equal(t, last, w.records(w.home, vm))
			w.clean()
		})
	}
}

// TestSplitBrainRolledBack keeps what the source wrote: rolling back is the other way out.
func TestSplitBrainRolledBack(t *testing.T) {
	w := newWorld(t)
	vm := w.machine("web")
	g := w.protect(spec("shop", "web"))
	w.done(w.engine.Failover(t.Context(), "shop", api.FailoverOrder{Planned: true}))
	require.NoError(t, w.home.Start(vm))
	last := w.write(w.home, vm, 7)
	require.Equal(t, []string{api.AlertSplitBrain}, w.alerted())
	w.done(w.engine.Rollback(t.Context(), "shop"))
	require.Empty(t, w.group("shop").Alerts, "at once")
	require.Empty(t, w.alerted())
	require.Equal(t, last, w.records(w.home, vm))
	w.done(w.engine.SyncNow(t.Context(), "shop"))
	w.sameAtTarget(g, vm)
	// And it is no burden on the next failover.
	w.done(w.engine.Failover(t.Context(), "shop", api.FailoverOrder{Planned: true}))
	w.done(w.engine.Commit(t.Context(), "shop"))
	w.done(w.engine.Failback(t.Context(), "shop"))
}

// TestSplitBrainUnseen: reprotect meets the source running before anybody looked. It refuses, and remembers.
func TestSplitBrainUnseen(t *testing.T) {
	w := newWorld(t)
	vm := w.machine("web")
	w.protect(spec("shop", "web"))
	require.NoError(t, w.home.Crash(vm))
	w.done(w.engine.Failover(t.Context(), "shop", api.FailoverOrder{}))
	w.done(w.engine.Commit(t.Context(), "shop"))
	require.NoError(t, w.home.Start(vm))
	j, err := w.engine.Reprotect(t.Context(), "shop")
	require.NoError(t, err)
	j = w.wait(j.ID)
	require.Equal(t, api.JobFailed, j.State)
	require.Contains(t, j.Error, "both sides")
	require.Equal(t, api.StateCommitted, w.group("shop").State)
	require.NoError(t, w.home.Stop(vm))
	_, err = w.engine.Reprotect(t.Context(), "shop")
	w.refused(err, api.CodeConflict, "ran on both sides")
	w.done(w.engine.Fence(t.Context(), "shop"))
	w.done(w.engine.Reprotect(t.Context(), "shop"))
}

// TestReturningHost: the source's host was gone in the failover, comes back and starts its machines. It is noticed by an
// appliance that was started meanwhile too, and will not happen again at the next return.
func TestReturningHost(t *testing.T) {
	w := newWorld(t)
	vm := w.machine("web")
	require.NoError(t, w.home.SetAutostart(vm, true))
	w.protect(spec("shop", "web"))
	w.home.SetReachable(false)
	require.NoError(t, w.home.Crash(vm))
	w.done(w.engine.Failover(t.Context(), "shop", api.FailoverOrder{}))
	w.restart()
	require.Empty(t, w.alerted())
	w.home.PowerFail()
	w.home.SetReachable(true)
	require.True(t, w.running(w.home, vm))
	require.Equal(t, []string{api.AlertSplitBrain}, w.alerted())
	require.False(t, w.autostart(w.home, vm))
	w.done(w.engine.Fence(t.Context(), "shop"))
	w.home.PowerFail()
	require.False(t, w.running(w.home, vm))
	w.restart()
	require.Empty(t, w.alerted())
	w.done(w.engine.Rollback(t.Context(), "shop"))
	require.True(t, w.autostart(w.home, vm))
}

// TestAutostartFollowsProduction: only the side that is production starts with its host.
func TestAutostartFollowsProduction(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	vm := w.machine("web")
	require.NoError(t, w.home.SetAutostart(vm, true))
	g := w.protect(spec("shop", "web"))
	away := g.Members[0].TargetVM
	both := func() [2]bool { return [2]bool{w.autostart(w.home, vm), w.autostart(w.away, away)} }
	require.Equal(t, [2]bool{true, false}, both())
	w.done(w.engine.Failover(ctx, "shop", api.FailoverOrder{Planned: true}))
	require.Equal(t, [2]bool{false, false}, both(), "not decided yet")
	w.done(w.engine.Rollback(ctx, "shop"))
	require.Equal(t, [2]bool{true, false}, both())

	// A failover that fails leaves everything as it was.
	w.faults["away"].Queue("Replica.Run", 0, func(context.Context) error { return hypervisors.ErrNoSpace })
	j, err := w.engine.Failover(ctx, "shop", api.FailoverOrder{Planned: true})
	require.NoError(t, err)
	require.Equal(t, api.JobFailed, w.wait(j.ID).State)
	require.Equal(t, [2]bool{true, false}, both())
	require.True(t, w.running(w.home, vm))

	w.done(w.engine.Failover(ctx, "shop", api.FailoverOrder{Planned: true}))
	w.done(w.engine.Commit(ctx, "shop"))
	require.Equal(t, [2]bool{false, true}, both())
	w.done(w.engine.Failback(ctx, "shop"))
	require.Equal(t, [2]bool{true, false}, both())
	w.clean()
}

// TestStrayReplica is started by hand beside production: its points stay what they are, the user is told, and fencing
// turns the replica off and not production.
func TestStrayReplica(t *testing.T) {
	w := newWorld(t)
	vm := w.machine("web")
	g := w.protect(spec("shop", "web"))
	require.NoError(t, w.away.Start(g.Members[0].TargetVM))
	w.write(w.away, g.Members[0].TargetVM, 10)
	w.write(w.home, vm, 5)
	j, err := w.engine.SyncNow(t.Context(), "shop")
	require.NoError(t, err)
	w.wait(j.ID)
	w.sameAtTarget(g, vm)
	require.Contains(t, w.group("shop").Members[0].Problem, "started by hand")
	require.Equal(t, []string{api.AlertStray}, w.alerted())
	w.done(w.engine.Fence(t.Context(), "shop"))
	require.False(t, w.running(w.away, g.Members[0].TargetVM))
	require.True(t, w.running(w.home, vm))
	require.Empty(t, w.alerted())
	w.sameAtTarget(g, vm)
}

// TestGuardWaitsForAHostOnce: a host that is connected and hangs costs one wait, and the groups of others are looked at.
func TestGuardWaitsForAHostOnce(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.crew(4, 1)
		for n := range 3 {
			w.done(w.engine.Failover(t.Context(), fmt.Sprint("g", n), api.FailoverOrder{Planned: true}))
		}
		w.faults["home"].Each(func(ctx context.Context, call hypervisortest.Call, when hypervisortest.When, _ string) error {
			if call == "Host.VM" && when == hypervisortest.Before {
				return hypervisortest.Hang(ctx)
			}
			return nil
		})
		require.NoError(t, w.away.Start(w.group("g3").Members[0].TargetVM))
		began := time.Now()
		w.engine.Guard(t.Context())
		require.Less(t, time.Since(began), time.Minute)
		require.Len(t, w.group("g3").Alerts, 1)
		w.faults["home"].Each(nil)
	})
}

// TestGuardDoesNotWaitForCleanUps: nor does a clean-up that hangs keep it from looking.
func TestGuardDoesNotWaitForCleanUps(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.crew(2, 1)
		w.faults["home"].Queue("Checkpoint.Close", hypervisortest.Before, hypervisortest.Fail(hypervisors.ErrUnreachable))
		w.done(w.engine.SyncNow(t.Context(), "g0"))
		w.faults["home"].Queue("Checkpoint.Close", hypervisortest.Before, hypervisortest.Hang)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		began := time.Now()
		w.engine.Guard(ctx)
		require.Less(t, time.Since(began), 5*time.Minute)
		w.engine.Guard(ctx)
		w.clean()
	})
}

// slowGuard lets Guard look at a machine, and hold on to what it saw until the test says so.
func (w *world) slowGuard() (goOn chan struct{}, ended func()) {
	seen, goOn := make(chan struct{}), make(chan struct{})
	w.faults["home"].Queue("Host.VM", hypervisortest.After, func(context.Context) error {
		close(seen)
		<-goOn
		return nil
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.engine.Guard(w.t.Context())
	}()
	<-seen
	return goOn, func() { <-done }
}

// haste gives a job the time to end, if nothing holds it up.
func (w *world) haste(job string) {
	for range 50 {
		if w.ended(job) {
			return
		}
		time.Sleep(tick)
	}
}

// TestGuardBesideFence: what was seen before the fence must not be held against the group after it.
func TestGuardBesideFence(t *testing.T) {
	w := newWorld(t)
	vm := w.machine("web")
	w.protect(spec("shop", "web"))
	planned(w, vm, "")
	require.NoError(t, w.home.Start(vm))
	goOn, ended := w.slowGuard()
	j, err := w.engine.Fence(t.Context(), "shop")
	require.NoError(t, err)
	require.Eventually(t, func() bool { return !w.running(w.home, vm) }, waitFor, tick)
	w.haste(j.ID)
	close(goOn)
	ended()
	w.done(j, nil)
	require.Empty(t, w.group("shop").Alerts)
	w.done(w.engine.Commit(t.Context(), "shop"))
	w.done(w.engine.Reprotect(t.Context(), "shop"))
}

// TestGuardBesideRollback: what is production again keeps its autostart, and has no alert of the other life.
func TestGuardBesideRollback(t *testing.T) {
	w := newWorld(t)
	vm := w.machine("web")
	w.protect(spec("shop", "web"))
	planned(w, vm, "")
	require.NoError(t, w.home.Start(vm))
	require.NoError(t, w.home.SetAutostart(vm, true))
	goOn, ended := w.slowGuard()
	j, err := w.engine.Rollback(t.Context(), "shop")
	require.NoError(t, err)
	w.haste(j.ID)
	close(goOn)
	ended()
	w.done(j, nil)
	require.True(t, w.autostart(w.home, vm))
	require.Empty(t, w.group("shop").Alerts)
}

// TestAutostartThatFails does not stop an order, and is tried again.
func TestAutostartThatFails(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	vm := w.machine("web")
	require.NoError(t, w.home.SetAutostart(vm, true))
	g := w.protect(spec("shop", "web"))
	away := g.Members[0].TargetVM
	refuses := func(host string) {
		w.faults[host].Queue("Power.SetAutostart", hypervisortest.Before, hypervisortest.Fail(hypervisors.ErrBusy))
	}
	planned(w, vm, "")
	refuses("home")
	w.done(w.engine.Rollback(ctx, "shop"))
	require.False(t, w.autostart(w.home, vm))
	require.Empty(t, w.alerted())
	require.True(t, w.autostart(w.home, vm))

	planned(w, vm, "")
	refuses("away")
	w.done(w.engine.Commit(ctx, "shop"))
	require.False(t, w.autostart(w.away, away))
	w.restart()
	require.Empty(t, w.alerted())
	require.True(t, w.autostart(w.away, away))

	refuses("home")
	w.done(w.engine.Failback(ctx, "shop"))
	require.Equal(t, api.StateProtected, w.group("shop").State)
	require.False(t, w.autostart(w.home, vm))
	refuses("home")
	require.Empty(t, w.alerted())
	require.False(t, w.autostart(w.home, vm))
	require.Empty(t, w.alerted())
	require.True(t, w.autostart(w.home, vm))
	require.False(t, w.autostart(w.away, away))
	// Who turns it off later is not overruled.
	require.NoError(t, w.home.SetAutostart(vm, false))
	require.Empty(t, w.alerted())
	require.False(t, w.autostart(w.home, vm))
}
