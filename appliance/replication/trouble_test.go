package replication_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/hypervisors"
	"understudy/hypervisors/fake"
	"understudy/hypervisors/hypervisortest"
)

// TestFailedCycles lets a cycle fail at every kind of call. Nothing is left, no point is offered that is not complete,
// and the next cycle is incremental: the source still knows what changed since the last committed point.
func TestFailedCycles(t *testing.T) {
	calls := map[string]struct {
		host string
		call hypervisortest.Call
		err  error
	}{
		"checkpoint":  {"home", "Source.Checkpoint", hypervisors.ErrBusy},
		"changed":     {"home", "FrozenDisk.Changed", hypervisors.ErrUnreachable},
		"read":        {"home", "FrozenDisk.ReadAt", hypervisors.ErrGaveWay},
		"draft":       {"away", "Replica.Draft", hypervisors.ErrNoSpace},
		"write":       {"away", "DraftDisk.WriteAt", hypervisors.ErrNoSpace},
		"flush":       {"away", "DraftDisk.Flush", hypervisors.ErrNoSpace},
		"map":         {"away", "DraftMap.WriteAt", hypervisors.ErrNoSpace},
		"commit":      {"away", "Draft.Commit", hypervisors.ErrUnreachable},
		"status":      {"away", "Replica.Status", hypervisors.ErrUnreachable},
		"find target": {"away", "Target.Replica", hypervisors.ErrUnreachable},
	}
	for name, c := range calls {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			vm := w.machine("web")
			g := w.protect(spec("shop", "web"))
			w.write(w.home, vm, 30)
			w.faults[c.host].Queue(c.call, hypervisortest.Before, hypervisortest.Fail(c.err))
			j, err := w.engine.SyncNow(t.Context(), "shop")
			require.NoError(t, err)
			j = w.wait(j.ID)
			require.Equal(t, api.JobFailed, j.State)
			require.Contains(t, j.Error, c.err.Error())
			require.Contains(t, w.group("shop").Problem, c.err.Error())
			require.Len(t, w.points("shop"), 1)
			w.clean()
			require.Len(t, w.home.Tracked(vm), 1)

			w.done(w.engine.SyncNow(t.Context(), "shop"))
			points := w.points("shop")
			require.Len(t, points, 2)
			require.Equal(t, "incremental", points[1].Kind)
			require.Empty(t, w.group("shop").Problem)
			w.sameAtTarget(g, vm)
		})
	}
}

// TestUnknownOutcomeOfCommit commits at the target, but we are told that it failed: the target is believed.
func TestUnknownOutcomeOfCommit(t *testing.T) {
	w := newWorld(t)
	vm := w.machine("web")
	g := w.protect(spec("shop", "web"))
	w.write(w.home, vm, 30)
	w.faults["away"].Queue("Draft.Commit", hypervisortest.After, hypervisortest.Fail(hypervisors.ErrUnreachable))
	j, err := w.engine.SyncNow(t.Context(), "shop")
	require.NoError(t, err)
	require.Equal(t, api.JobFailed, w.wait(j.ID).State)
	w.write(w.home, vm, 3)
	w.done(w.engine.SyncNow(t.Context(), "shop"))
	points := w.points("shop")
	require.Len(t, points, 3, "the point that was committed is learned of")
	require.Equal(t, "incremental", points[2].Kind)
	w.sameAtTarget(g, vm)
}

// TestUnknownOutcomeKeepsTracking loses the target in the commit, so that nobody can tell whether it happened: the
// source forgets nothing.
func TestUnknownOutcomeKeepsTracking(t *testing.T) {
	for _, when := range []hypervisortest.When{hypervisortest.Before, hypervisortest.After} {
		t.Run(when.String(), func(t *testing.T) {
			w := newWorld(t)
			vm := w.machine("web")
			g := w.protect(spec("shop", "web"))
			w.write(w.home, vm, 30)
			gone := hypervisortest.Fail(hypervisors.ErrUnreachable)
			w.faults["away"].Queue("Draft.Commit", when, func(context.Context) error {
				w.faults["away"].Queue("Replica.Status", hypervisortest.Before, gone)
				return hypervisors.ErrUnreachable
			})
			j, err := w.engine.SyncNow(t.Context(), "shop")
			require.NoError(t, err)
			require.Equal(t, api.JobFailed, w.wait(j.ID).State)
			require.Len(t, w.home.Tracked(vm), 2)
			w.write(w.home, vm, 3)
			w.done(w.engine.SyncNow(t.Context(), "shop"))
			points := w.points("shop")
			require.Equal(t, "incremental", points[len(points)-1].Kind)
			w.sameAtTarget(g, vm)
		})
	}
}

// TestTargetFull meets the end of the space in the middle of a copy, and goes on when there is room again.
func TestTargetFull(t *testing.T) {
	w := newWorld(t)
	vm := w.machine("web")
	g := w.protect(spec("shop", "web"))
	storage, err := w.away.Connect("observer").Storage(t.Context())
	require.NoError(t, err)
	w.write(w.home, vm, 200)
	require.NoError(t, w.away.SetFree(storage[0].Name, 4096))
	j, err := w.engine.SyncNow(t.Context(), "shop")
	require.NoError(t, err)
	j = w.wait(j.ID)
	require.Equal(t, api.JobFailed, j.State)
	require.Contains(t, j.Error, "no space")
	require.NoError(t, w.away.SetFree(storage[0].Name, 1<<30))
	w.done(w.engine.SyncNow(t.Context(), "shop"))
	w.sameAtTarget(g, vm)
}

// TestLateNotice orders a failover before the hypervisor has noticed that the machine died.
func TestLateNotice(t *testing.T) {
	w := newWorld(t)
	w.stop()
	w.noticeTime = waitFor
	w.start()
	vm := w.machine("web")
	w.protect(spec("shop", "web"))
	asked := 0
	w.faults["home"].Queue("Host.VM", hypervisortest.After, func(context.Context) error { asked++; return nil })
	w.faults["home"].Queue("Host.VM", hypervisortest.After, func(context.Context) error { asked++; return w.home.Crash(vm) })
	w.done(w.engine.Failover(t.Context(), "shop", api.FailoverOrder{}))
	require.Equal(t, 2, asked)
}

// TestShutdownThatHangs fails a planned failover, and production is on again.
func TestShutdownThatHangs(t *testing.T) {
	w := newWorld(t)
	w.stop()
	w.shutdownTime = 20 * time.Millisecond
	w.start()
	vm := w.machine("web")
	w.protect(spec("shop", "web"))
	require.NoError(t, w.home.Guest(vm).OnShutdown(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }))
	j, err := w.engine.Failover(t.Context(), "shop", api.FailoverOrder{Planned: true})
	require.NoError(t, err)
	j = w.wait(j.ID)
	require.Equal(t, api.JobFailed, j.State)
	require.Equal(t, api.StateProtected, w.group("shop").State)
	require.True(t, w.running(w.home, vm))
}

// TestCancelledCycle interrupts a cycle whose source hangs: it ends at once and leaves nothing.
func TestCancelledCycle(t *testing.T) {
	for name, cancel := range map[string]func(w *world, job string){
		"by the user": func(w *world, job string) {
			_, err := w.engine.CancelJob(w.t.Context(), job)
			require.NoError(w.t, err)
		},
		"by a failover": func(w *world, _ string) {
			w.done(w.engine.Failover(w.t.Context(), "shop", api.FailoverOrder{Force: true}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			vm := w.machine("web")
			w.protect(spec("shop", "web"))
			w.write(w.home, vm, 30)
			reading := make(chan struct{})
			w.faults["home"].Queue("FrozenDisk.ReadAt", hypervisortest.Before, func(ctx context.Context) error {
				close(reading)
				return hypervisortest.Hang(ctx)
			})
			j, err := w.engine.SyncNow(t.Context(), "shop")
			require.NoError(t, err)
			<-reading
			cancel(w, j.ID)
			require.Equal(t, api.JobCancelled, w.wait(j.ID).State)
			require.Len(t, w.points("shop"), 1)
			w.clean()
			require.Len(t, w.home.Tracked(vm), 1)
		})
	}
}

// TestFailedFailback brings production back to where it was.
func TestFailedFailback(t *testing.T) {
	for name, call := range map[string]hypervisortest.Call{"settle": "Replica.Settle", "start": "Power.Start", "copy": "Replica.Draft"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			vm := w.machine("web")
			g := w.protect(spec("shop", "web"))
			w.done(w.engine.Failover(t.Context(), "shop", api.FailoverOrder{Planned: true}))
			w.done(w.engine.Commit(t.Context(), "shop"))
			away := g.Members[0].TargetVM
			w.write(w.away, away, 10)
			w.faults["home"].Queue(call, hypervisortest.Before, hypervisortest.Fail(hypervisors.ErrUnreachable))
			j, err := w.engine.Failback(t.Context(), "shop")
			require.NoError(t, err)
			require.Equal(t, api.JobFailed, w.wait(j.ID).State)
			require.True(t, w.running(w.away, away))
			require.False(t, w.running(w.home, vm))
			w.offersOnlyWhatIsHeld(w.home, g.Members[0].ReplicaID+"-home")
			last := w.write(w.away, away, 10)
			if w.group("shop").State == api.StateMirroring { // the schedule would
				w.done(w.engine.SyncNow(t.Context(), "shop"))
				require.Len(t, w.away.Tracked(away), 1, "the tracking of what was lost")
			}
			w.done(w.engine.Failback(t.Context(), "shop"))
			require.Equal(t, last, w.records(w.home, vm))
			require.True(t, w.running(w.home, vm))
			w.clean()
		})
	}
}

// offersOnlyWhatIsHeld expects that the points of the group are at its target.
func (w *world) offersOnlyWhatIsHeld(target *fake.Hypervisor, id string) {
	w.t.Helper()
	about, err := w.engine.About(w.t.Context())
	require.NoError(w.t, err)
	replica, err := target.Connect(about.Appliance).(hypervisors.Target).Replica(w.t.Context(), id)
	require.NoError(w.t, err)
	status, err := replica.Status(w.t.Context())
	require.NoError(w.t, err)
	held := []string{}
	for _, p := range status.Points {
		held = append(held, p.ID)
	}
	for _, p := range w.points("shop") {
		require.Contains(w.t, held, p.ID)
	}
}

// TestHostAway goes on by itself when a host can be reached again.
func TestHostAway(t *testing.T) {
	w := newWorld(t)
	vm := w.machine("web")
	g := w.protect(spec("shop", "web"))
	w.away.SetReachable(false)
	j, err := w.engine.SyncNow(t.Context(), "shop")
	require.NoError(t, err)
	require.Equal(t, api.JobFailed, w.wait(j.ID).State)
	w.away.SetReachable(true)
	w.write(w.home, vm, 3)
	w.done(w.engine.SyncNow(t.Context(), "shop"))
	w.sameAtTarget(g, vm)
}

// TestSchedule starts cycles by the clock, keeps the target, prunes by policy, and stops while paused.
func TestSchedule(t *testing.T) {
	w := newWorld(t)
	vm := w.machine("web")
	s := spec("shop", "web")
	s.Policy.Retention = []api.RetentionTier{{Count: 4}}
	w.protect(s)
	for range 8 {
		w.write(w.home, vm, 3)
		w.pass(5 * time.Second)
		w.engine.Tick(t.Context())
		w.settle("shop")
	}
	require.Len(t, w.points("shop"), 4)
	g := w.group("shop")
	require.True(t, g.RPO.Met)
	require.Less(t, g.RPO.WorstSeconds, 10.0)
	w.sameAtTarget(g, vm)

	_, err := w.engine.Pause(t.Context(), "shop")
	require.NoError(t, err)
	newest := w.points("shop")[3].ID
	w.pass(time.Minute)
	w.engine.Tick(t.Context())
	w.settle("shop")
	require.Equal(t, newest, w.points("shop")[3].ID)
	require.False(t, w.group("shop").RPO.Met)
}

// TestRemove takes everything of ours away, and the source keeps its machine.
func TestRemove(t *testing.T) {
	w := newWorld(t)
	vm := w.machine("web")
	g := w.protect(spec("shop", "web"))
	j, err := w.engine.RemoveGroup(t.Context(), "shop", true)
	require.NoError(t, err)
	require.Equal(t, api.JobSucceeded, w.wait(j.ID).State)
	_, err = w.engine.GetGroup(t.Context(), "shop")
	w.refused(err, api.CodeNotFound, "shop")
	require.Empty(t, w.home.Tracked(vm))
	require.True(t, w.running(w.home, vm))
	_, err = w.away.Connect("observer").VM(t.Context(), g.Members[0].TargetVM)
	require.ErrorIs(t, err, hypervisors.ErrNotFound)
	w.clean()
	w.protect(spec("shop", "web"))
}

// TestGroupMoment freezes all machines at once where the policy asks for it.
func TestGroupMoment(t *testing.T) {
	w := newWorld(t)
	web, db := w.machine("web"), w.machine2("db")
	s := spec("shop", "web", "db")
	s.Policy.GroupMoment = true
	w.protect(s)
	w.write(w.home, web, 5)
	w.write(w.home, db, 5)
	w.done(w.engine.SyncNow(t.Context(), "shop"))
	require.Len(t, w.points("shop")[1].Machines, 2)
}

// TestCompression lets the policy say how the next points are stored.
func TestCompression(t *testing.T) {
	taken := func(first, second string) int64 {
		w := newWorld(t)
		vm := w.machine("web")
		s := spec("shop", "web")
		s.Policy.Compression = first
		g := w.protect(s)
		g.Policy.Compression = second
		_, err := w.engine.UpdatePolicy(t.Context(), g.ID, w.group("shop").Revision, g.Policy)
		require.NoError(t, err)
		w.write(w.home, vm, 50)
		w.done(w.engine.SyncNow(t.Context(), "shop"))
		storage, err := w.away.Connect("observer").Storage(t.Context())
		require.NoError(t, err)
		return storage[0].Total - storage[0].Free
	}
	plain := taken("", "none")
	require.Less(t, taken("zstd", "none"), plain)
	require.Less(t, taken("none", "zstd"), plain)
	require.Less(t, taken("zstd", "zstd"), taken("none", "zstd"))
}

// TestApplicationConsistency labels points by what the guest really did.
func TestApplicationConsistency(t *testing.T) {
	w := newWorld(t)
	vm := w.machine("web")
	s := spec("shop", "web")
	s.Policy.Consistency = "application"
	w.protect(s)
	require.NoError(t, w.home.Guest(vm).RefuseQuiesce(true))
	w.write(w.home, vm, 5)
	w.done(w.engine.SyncNow(t.Context(), "shop"))
	points := w.points("shop")
	require.Equal(t, "application", points[0].Consistency)
	require.Equal(t, "crash", points[1].Consistency)
}

// TestFailedCheckOfTest keeps the machines up for looking, and the report says failed.
func TestFailedCheckOfTest(t *testing.T) {
	w := newWorld(t)
	vm := w.machine("web")
	require.NoError(t, w.home.Guest(vm).Install(fake.GuestConfig{Seed: 1, Serves: map[string]string{answer: "something else"}}))
	s := spec("shop", "web")
	s.Machines[0].Checks[0].TimeoutSeconds = 1
	w.protect(s)
	j, err := w.engine.Test(t.Context(), "shop", api.TestOrder{})
	require.NoError(t, err)
	j = w.wait(j.ID)
	require.Equal(t, api.JobFailed, j.State)
	require.Contains(t, j.Error, "checks failed")
	g := w.group("shop")
	require.True(t, w.running(w.away, g.Test.Machines[0].VM))
	w.done(w.engine.EndTest(t.Context(), "shop"))
	require.Equal(t, "failed", w.group("shop").Test.State)
	w.clean()
}
