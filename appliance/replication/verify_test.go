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

// quiet is a group whose cycles are not verified, with points p[0] (full), p[1], p[2] (incremental).
func (w *world) quiet(machines ...string) (g api.Group, points []api.Point) {
	w.t.Helper()
	s := spec("shop", machines...)
	s.Policy.VerifyCycles = false
	g = w.protect(s)
	for range 2 {
		w.write(w.home, g.Members[0].SourceVM, 5)
		w.done(w.engine.SyncNow(w.t.Context(), "shop"))
	}
	points = w.points("shop")
	require.Len(w.t, points, 3)
	return g, points
}

// failedVerify orders a verification that finds something.
func (w *world) failedVerify() (api.Job, api.Verification) {
	w.t.Helper()
	j, err := w.engine.Verify(w.t.Context(), "shop")
	require.NoError(w.t, err)
	j = w.wait(j.ID)
	require.Equal(w.t, api.JobFailed, j.State)
	return j, *w.group("shop").Verification
}

// suspects are the ids of the points that are marked, as the API shows them, and as the target does.
func (w *world) suspects(g api.Group) []string {
	w.t.Helper()
	ids, held := []string{}, []string{}
	for _, p := range w.points(g.ID) {
		if p.Suspect != "" {
			ids = append(ids, p.ID)
		}
	}
	status, err := w.replica(g, 0).Status(w.t.Context())
	require.NoError(w.t, err)
	for _, p := range status.Points {
		if p.Suspect != "" {
			held = append(held, p.ID)
		}
	}
	require.Equal(w.t, ids, held, "the target keeps the marks")
	return ids
}

func (w *world) replica(g api.Group, member int) hypervisors.Replica {
	w.t.Helper()
	about, err := w.engine.About(w.t.Context())
	require.NoError(w.t, err)
	r, err := w.away.Connect(about.Appliance).(hypervisors.Target).Replica(w.t.Context(), g.Members[member].ReplicaID)
	require.NoError(w.t, err)
	return r
}

// alerts are the actions of a kind of alert, in order, and whether it is on now.
func (w *world) alerts(kind string) (actions []string, on bool) {
	w.t.Helper()
	for _, e := range w.events() {
		if e.Kind == "alert" && e.Subject == kind {
			actions = append(actions, e.Action)
		}
	}
	for _, a := range w.group("shop").Alerts {
		if a.Kind == kind {
			require.NotEmpty(w.t, a.Hint)
			on = true
		}
	}
	return actions, on
}

// events are all that were published until now.
func (w *world) events() []api.Event {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	defer cancel()
	_, err := w.engine.Events(ctx, 0) // "from now on" comes behind all of them
	require.NoError(w.t, err)
	events, err := w.db.EventsAfter(0, 10000)
	require.NoError(w.t, err)
	return events
}

func ids(points []api.Point, from, to int) []string {
	out := []string{}
	for _, p := range points[from:to] {
		out = append(out, p.ID)
	}
	return out
}

// TestVerifyPasses compares every block of every disk, makes a verified point on the way, and leaves nothing.
func TestVerifyPasses(t *testing.T) {
	w := newWorld(t)
	vm := w.machine("web")
	w.machine2("db")
	g, points := w.quiet("web", "db")
	w.write(w.home, vm, 10)
	j := w.done(w.engine.Verify(t.Context(), "shop"))
	v := w.group("shop").Verification
	require.Equal(t, "passed", v.State)
	require.Equal(t, j.ID, v.ID)
	require.NotNil(t, v.Ended)
	require.EqualValues(t, 14*mib, v.BytesCompared)
	require.EqualValues(t, 14*mib/65536, v.BlocksCompared)
	require.Zero(t, v.BytesDifferent)
	require.Len(t, v.Machines, 2)
	require.Equal(t, api.VerifiedDisk{ID: "vdb", Size: 4 * mib, BytesCompared: 4 * mib}, v.Machines[0].Disks[1])
	now := w.points("shop")
	require.Equal(t, ids(now, 3, 4), v.Points)
	require.Len(t, now, len(points)+1)
	require.True(t, now[3].Verified)
	require.Equal(t, "incremental", now[3].Kind)
	require.Len(t, w.home.Tracked(vm), 1)
	require.Empty(t, w.suspects(g))
	w.sameAtTarget(g, vm)
	w.clean()
}

// TestVerifyFindsLies: the source changed without telling. The points since the last one that was read in full may be
// wrong; a failover avoids them unless they are named.
func TestVerifyFindsLies(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	vm := w.machine("web")
	g, _ := w.quiet("web")
	require.NoError(t, w.home.Corrupt(vm, "vda", 7*mib+100, []byte("nobody was told")))
	w.done(w.engine.SyncNow(ctx, "shop")) // which knows nothing
	points := w.points("shop")

	j, v := w.failedVerify()
	require.Contains(t, j.Error, "not identical")
	require.NotEmpty(t, j.Hint)
	require.Equal(t, "repaired", v.State)
	require.Equal(t, api.VerifiedDisk{ID: "vda", Size: 8 * mib, BytesCompared: 8 * mib, BytesDifferent: 65536,
		Ranges: []api.Range{{Offset: 7 * mib, Length: 65536}}}, v.Machines[0].Disks[0])
	require.EqualValues(t, 1, v.BlocksDifferent)
	require.Equal(t, ids(points, 1, 4), v.Suspect, "all but the full one, which was right at its moment")
	require.Equal(t, v.Suspect, w.suspects(g))
	require.Contains(t, w.points("shop")[1].Suspect, "without being reported")

	now := w.points("shop")
	require.Len(t, now, 5)
	require.Equal(t, now[4].ID, v.Repaired)
	require.Equal(t, "difference", now[4].Kind)
	require.True(t, now[4].Verified)
	w.sameAtTarget(g, vm)
	actions, on := w.alerts(api.AlertMismatch)
	require.Equal(t, []string{"created", "deleted"}, actions)
	require.False(t, on)
	w.clean()

	// Incremental again, and in order again.
	w.write(w.home, vm, 3)
	w.done(w.engine.SyncNow(ctx, "shop"))
	require.Equal(t, "incremental", w.points("shop")[5].Kind)
	w.done(w.engine.Verify(ctx, "shop"))
	require.Equal(t, "passed", w.group("shop").Verification.State)
}

// TestVerifyFindsRot: the target does not give back what was written. Only the points that have the damage are marked.
func TestVerifyFindsRot(t *testing.T) {
	w := newWorld(t)
	vm := w.machine("web")
	g, _ := w.quiet("web")
	require.NoError(t, w.home.Guest(vm).Write("vda", 6*mib, []byte("new in the last point")))
	w.done(w.engine.SyncNow(t.Context(), "shop"))
	points := w.points("shop")
	require.NoError(t, w.away.Rot(g.Members[0].ReplicaID, points[3].ID, "vda", 6*mib+500, []byte("rot")))

	_, v := w.failedVerify()
	require.Equal(t, "repaired", v.State)
	require.EqualValues(t, 65536, v.Machines[0].Disks[0].BytesDamaged)
	require.Equal(t, ids(points, 3, 4), w.suspects(g))
	require.Contains(t, w.points("shop")[3].Suspect, "after they were written")
	w.sameAtTarget(g, vm)

	// A block that all points share, the full one too.
	require.NoError(t, w.away.Rot(g.Members[0].ReplicaID, points[0].ID, "vdb", 0, []byte("rot")))
	w.failedVerify()
	require.Contains(t, w.suspects(g), points[0].ID)
	w.sameAtTarget(g, vm)
}

// TestVerifyFindsRotThatIsOverwritten: the source has changed the block since, so that the new point is right anyhow, but
// the old ones are not.
func TestVerifyFindsRotThatIsOverwritten(t *testing.T) {
	w := newWorld(t)
	vm := w.machine("web")
	g, points := w.quiet("web")
	require.NoError(t, w.away.Rot(g.Members[0].ReplicaID, points[2].ID, "vda", 5*mib, []byte("rot")))
	require.NoError(t, w.home.Guest(vm).Write("vda", 5*mib, []byte("new")))
	_, v := w.failedVerify()
	require.Equal(t, "repaired", v.State)
	require.Equal(t, ids(points, 0, 3), w.suspects(g))
	w.sameAtTarget(g, vm)
}

// TestSuspectPoints are started by name only, and the next cycle on one compares everything, whatever we remember.
func TestSuspectPoints(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	vm := w.machine("web")
	g, points := w.quiet("web")
	require.NoError(t, w.home.Corrupt(vm, "vdb", mib, []byte("nobody was told")))
	w.faults["home"].QueueNth("Source.Checkpoint", 2, hypervisortest.Before, hypervisortest.Fail(hypervisors.ErrBusy)) // the repair
	_, v := w.failedVerify()
	require.Equal(t, "mismatch", v.State)
	_, on := w.alerts(api.AlertMismatch)
	require.True(t, on, "until there is a good point")
	require.Equal(t, ids(points, 1, 3), w.suspects(g))

	w.done(w.engine.Test(ctx, "shop", api.TestOrder{}))
	require.Equal(t, points[0].ID, w.group("shop").Test.Point, "the newest that is not suspect")
	w.done(w.engine.EndTest(ctx, "shop"))
	w.done(w.engine.Test(ctx, "shop", api.TestOrder{Point: points[2].ID}))
	require.Equal(t, points[2].ID, w.group("shop").Test.Point, "named")
	w.done(w.engine.EndTest(ctx, "shop"))

	w.done(w.engine.Failover(ctx, "shop", api.FailoverOrder{Force: true}))
	status, err := w.replica(g, 0).Status(ctx)
	require.NoError(t, err)
	require.Equal(t, points[0].ID, status.Runs[0].Point)
	w.done(w.engine.Rollback(ctx, "shop"))
	require.NoError(t, w.home.Start(vm))

	_, err = w.engine.DropPoint(ctx, "shop", points[0].ID)
	require.NoError(t, err)
	w.settle("shop")
	_, err = w.engine.Failover(ctx, "shop", api.FailoverOrder{Force: true})
	w.refused(err, api.CodeConflict, "suspect")

	// The mark at the target alone is enough.
	require.NoError(t, w.db.Put("groups", g.ID, w.without(g.ID, "Compare")))
	w.restart()
	w.done(w.engine.SyncNow(ctx, "shop"))
	now := w.points("shop")
	require.Equal(t, "difference", now[len(now)-1].Kind)
	w.sameAtTarget(g, vm)
	_, on = w.alerts(api.AlertMismatch)
	require.False(t, on)
}

// without is the record of a group with a field taken out.
func (w *world) without(id, field string) map[string]any {
	w.t.Helper()
	var rec map[string]any
	require.NoError(w.t, w.db.Each("groups", func(key string, decode func(any) error) error {
		if key != id {
			return nil
		}
		return decode(&rec)
	}))
	require.Contains(w.t, rec, field)
	delete(rec, field)
	return rec
}

// TestMarksOfTheTarget: what the target knows of its points is learned, and what it does not know yet is told.
func TestMarksOfTheTarget(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	vm := w.machine("web")
	g, points := w.quiet("web")
	require.NoError(t, w.replica(g, 0).Mark(ctx, points[1].ID, "by another life"))
	w.done(w.engine.SyncNow(ctx, "shop"))
	require.Equal(t, "by another life", w.points("shop")[1].Suspect)

	require.NoError(t, w.home.Corrupt(vm, "vda", 7*mib, []byte("nobody was told")))
	w.faults["away"].Queue("Replica.Mark", hypervisortest.Before, hypervisortest.Fail(hypervisors.ErrUnreachable))
	w.failedVerify()
	w.done(w.engine.SyncNow(ctx, "shop"))
	require.Subset(t, w.suspects(g), ids(points, 1, 3))
	w.sameAtTarget(g, vm)
}

// TestLyingTracking is found by a policy that verifies every cycle, and repaired by the next one.
func TestLyingTracking(t *testing.T) {
	w := newWorld(t)
	vm := w.machine("web")
	g := w.protect(spec("shop", "web"))
	w.write(w.home, vm, 30)
	require.NoError(t, w.home.Corrupt(vm, "vda", 7*mib, []byte("nobody was told")))
	j, err := w.engine.SyncNow(t.Context(), "shop")
	require.NoError(t, err)
	j = w.wait(j.ID)
	require.Equal(t, api.JobFailed, j.State)
	require.Contains(t, j.Error, "not identical")
	require.Len(t, w.points("shop"), 1)
	require.Empty(t, w.suspects(g), "the first point was read in full")
	_, on := w.alerts(api.AlertMismatch)
	require.True(t, on)
	w.done(w.engine.SyncNow(t.Context(), "shop"))
	require.Equal(t, "difference", w.points("shop")[1].Kind)
	w.sameAtTarget(g, vm)
	actions, _ := w.alerts(api.AlertMismatch)
	require.Equal(t, []string{"created", "deleted"}, actions)
}

// TestVerifyKeepsTheRPO: disks that take longer than the RPO to compare are compared over several cycles.
func TestVerifyKeepsTheRPO(t *testing.T) {
	w := newWorld(t)
	vm := w.home.AddVM(hypervisors.Hardware{Name: "large", Disks: []hypervisors.Disk{{Size: 130 * mib}, {Size: 10 * mib}}})
	require.NoError(t, w.home.Guest(vm).Install(fake.GuestConfig{Seed: 1}))
	require.NoError(t, w.home.Start(vm))
	w.write(w.home, vm, 20)
	s := spec("shop", "large")
	s.Machines[0].Checks, s.Policy.VerifyCycles = nil, false
	g := w.protect(s)
	w.faults["home"].Random(1, 2, func(context.Context) error { w.pass(2 * time.Millisecond); return nil })
	j, err := w.engine.Verify(t.Context(), "shop")
	require.NoError(t, err)
	j = w.wait(j.ID)
	w.faults["home"].Random(1, 0, hypervisortest.Fail(nil))
	require.Equal(t, api.JobSucceeded, j.State, j.Error)
	after := w.group("shop")
	v := after.Verification
	require.EqualValues(t, 140*mib, v.BytesCompared, "each block once")
	require.Greater(t, len(v.Points), 1)
	require.Equal(t, ids(w.points("shop"), 1, 1+len(v.Points)), v.Points)
	require.Less(t, after.RPO.WorstSeconds, 10.0)
	require.False(t, w.points("shop")[1].Verified, "a part is not the whole")
	w.sameAtTarget(g, vm)
}

// TestVerifySchedule verifies by the policy, and never by itself without one.
func TestVerifySchedule(t *testing.T) {
	w := newWorld(t)
	w.machine("web")
	s := spec("shop", "web")
	s.Policy.RPOSeconds, s.Policy.VerifyCycles, s.Policy.VerifyEverySeconds = 600, false, 3600
	g := w.protect(s)
	verified := func(d time.Duration) string {
		w.pass(d)
		w.engine.Tick(t.Context())
		w.settle("shop")
		if v := w.group("shop").Verification; v != nil {
			return v.ID
		}
		return ""
	}
	require.Empty(t, verified(time.Minute), "the mirror has just read everything")
	first := verified(time.Hour)
	require.NotEmpty(t, first)
	require.Equal(t, first, verified(10*time.Minute))

	// One that broke off is tried again, not before an hour.
	w.faults["away"].Queue("DraftDisk.Flush", hypervisortest.Before, hypervisortest.Fail(hypervisors.ErrNoSpace))
	failed := verified(time.Hour)
	require.NotEqual(t, first, failed)
	require.Equal(t, "failed", w.group("shop").Verification.State)
	require.Equal(t, failed, verified(30*time.Minute))
	require.NotEqual(t, failed, verified(40*time.Minute))
	require.Equal(t, "passed", w.group("shop").Verification.State)

	p := g.Policy
	p.VerifyEverySeconds = 0
	last := w.group("shop").Verification.ID
	_, err := w.engine.UpdatePolicy(t.Context(), "shop", g.Revision, p)
	require.NoError(t, err)
	require.Equal(t, last, verified(48*time.Hour))
}

// TestVerifyGivesWay to a failover; it refuses where there is nothing to compare.
func TestVerifyGivesWay(t *testing.T) {
	w := newWorld(t)
	vm := w.machine("web")
	w.quiet("web")
	w.write(w.home, vm, 30)
	reading := make(chan struct{})
	w.faults["home"].Queue("FrozenDisk.ReadAt", hypervisortest.Before, func(ctx context.Context) error {
		close(reading)
		return hypervisortest.Hang(ctx)
	})
	j, err := w.engine.Verify(t.Context(), "shop")
	require.NoError(t, err)
	<-reading
	w.done(w.engine.Failover(t.Context(), "shop", api.FailoverOrder{Force: true}))
	require.Equal(t, api.JobCancelled, w.wait(j.ID).State)
	require.Equal(t, "failed", w.group("shop").Verification.State)
	_, err = w.engine.Verify(t.Context(), "shop")
	w.refused(err, api.CodeConflict, "failed over")
	w.clean()
}
