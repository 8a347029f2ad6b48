package replication_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/hypervisors"
	"understudy/hypervisors/fake"
)

// TestWholeLoop walks a group of two machines through everything a user can do with it, and looks at the bytes.
func TestWholeLoop(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	vm := w.machine("web")
	db := w.machine2("db")
	g := w.protect(spec("shop", "web", "db"))
	require.Len(t, w.points("shop"), 1)
	require.Equal(t, "full", w.points("shop")[0].Kind)
	w.clean()

	for range 3 {
		w.write(w.home, vm, 50)
		w.write(w.home, db, 20)
		w.done(w.engine.SyncNow(ctx, "shop"))
	}
	points := w.points("shop")
	require.Len(t, points, 4)
	require.Equal(t, "incremental", points[3].Kind)
	require.True(t, points[3].Verified)
	require.Len(t, w.home.Tracked(vm), 1, "the source tracks from the newest point only")
	at3 := w.records(w.home, vm)

	w.done(w.engine.Test(ctx, "shop", api.TestOrder{Point: points[1].ID}))
	g = w.group("shop")
	require.Equal(t, "running", g.Test.State)
	require.Len(t, g.Test.Machines, 2)
	for _, c := range g.Test.Machines[0].Checks {
		require.True(t, c.Passed, c.Message)
	}
	w.write(w.home, vm, 10)
	w.done(w.engine.SyncNow(ctx, "shop")) // beside the test
	w.write(w.away, g.Test.Machines[0].VM, 30)
	w.done(w.engine.EndTest(ctx, "shop"))
	require.Equal(t, "passed", w.group("shop").Test.State)
	w.clean()

	// An unplanned failover to an older point, rolled back.
	require.NoError(t, w.home.Crash(vm))
	require.NoError(t, w.home.Crash(db))
	w.done(w.engine.Failover(ctx, "shop", api.FailoverOrder{Point: points[3].ID}))
	g = w.group("shop")
	require.Equal(t, api.StateFailedOver, g.State)
	require.Equal(t, at3, w.records(w.away, g.Members[0].TargetVM))
	w.write(w.away, g.Members[0].TargetVM, 5)
	w.done(w.engine.Rollback(ctx, "shop"))
	require.Equal(t, api.StateProtected, w.group("shop").State)
	require.False(t, w.running(w.away, g.Members[0].TargetVM))

	// The crash lost the tracking: the next cycle compares in full, by itself.
	require.NoError(t, w.home.Start(vm))
	require.NoError(t, w.home.Start(db))
	w.write(w.home, vm, 5)
	w.done(w.engine.SyncNow(ctx, "shop"))
	points = w.points("shop")
	require.Equal(t, "difference", points[len(points)-1].Kind)

	// A planned failover loses nothing.
	last := w.write(w.home, vm, 7)
	w.done(w.engine.Failover(ctx, "shop", api.FailoverOrder{Planned: true}))
	w.neverBoth(g)
	require.Equal(t, last, w.records(w.away, g.Members[0].TargetVM))
	w.done(w.engine.Commit(ctx, "shop"))

	// Home again, with what was written meanwhile.
	last = w.write(w.away, g.Members[0].TargetVM, 40)
	job := w.done(w.engine.Failback(ctx, "shop"))
	g = w.group("shop")
	require.Equal(t, api.StateProtected, g.State)
	require.False(t, g.Reversed)
	w.neverBoth(g)
	require.Equal(t, last, w.records(w.home, vm))
	require.Less(t, job.Result["homeBytes"], float64(4*mib), "only differences travel back, not 14 MiB")
	w.clean()
	w.write(w.home, vm, 3)
	w.done(w.engine.SyncNow(ctx, "shop"))
	points = w.points("shop")
	require.Equal(t, "incremental", points[len(points)-1].Kind, "protected again, incrementally")
	w.sameAtTarget(g, vm)
}

// TestReprotect keeps the roles swapped, there and back, by failovers alone.
func TestReprotect(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	vm := w.machine("web")
	g := w.protect(spec("shop", "web"))
	away := g.Members[0].TargetVM
	for round := range 2 {
		w.done(w.engine.Failover(ctx, "shop", api.FailoverOrder{Planned: true}))
		w.done(w.engine.Commit(ctx, "shop"))
		last := w.write(w.away, away, 20+round)
		w.done(w.engine.Reprotect(ctx, "shop"))
		g = w.group("shop")
		require.Equal(t, api.StateProtected, g.State)
		require.True(t, g.Reversed)
		w.write(w.away, away, 3)
		w.done(w.engine.SyncNow(ctx, "shop"))
		require.Greater(t, w.records(w.away, away), last)

		last = w.write(w.away, away, 9)
		w.done(w.engine.Failover(ctx, "shop", api.FailoverOrder{Planned: true}))
		w.neverBoth(g)
		require.Equal(t, last, w.records(w.home, vm))
		w.done(w.engine.Commit(ctx, "shop"))
		w.write(w.home, vm, 11)
		w.done(w.engine.Reprotect(ctx, "shop"))
		require.False(t, w.group("shop").Reversed)
		w.sameAtTarget(g, vm)
	}
	w.clean()
}

// TestRawDisk has no tracking: every cycle compares.
func TestRawDisk(t *testing.T) {
	w := newWorld(t)
	vm := w.home.AddVM(hypervisors.Hardware{Name: "raw", Disks: []hypervisors.Disk{{Size: 4 * mib, Format: "raw"}}})
	require.NoError(t, w.home.Guest(vm).Install(fake.GuestConfig{Seed: 3}))
	require.NoError(t, w.home.Start(vm))
	w.write(w.home, vm, 50)
	s := spec("old", "raw")
	s.Machines[0].Checks = nil
	g := w.protect(s)
	w.write(w.home, vm, 5)
	w.done(w.engine.SyncNow(t.Context(), "old"))
	points := w.points("old")
	require.Equal(t, "difference", points[1].Kind)
	require.Less(t, points[1].BytesWritten, int64(mib))
	w.sameAtTarget(g, vm)
}

// TestDisksThatChange adds, grows and removes disks between cycles.
func TestDisksThatChange(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	vm := w.machine("web")
	g := w.protect(spec("shop", "web"))
	require.NoError(t, w.home.AddDisk(vm, hypervisors.Disk{ID: "vdc", Size: 2 * mib}))
	require.NoError(t, w.home.Guest(vm).Write("vdc", 0, []byte("new disk")))
	w.done(w.engine.SyncNow(ctx, "shop"))
	w.sameAtTarget(g, vm)
	require.NoError(t, w.home.ResizeDisk(vm, "vdc", 3*mib))
	require.NoError(t, w.home.Guest(vm).Write("vdc", 2*mib+100, []byte("grown")))
	w.done(w.engine.SyncNow(ctx, "shop"))
	w.sameAtTarget(g, vm)
	require.NoError(t, w.home.RemoveDisk(vm, "vdc"))
	w.done(w.engine.SyncNow(ctx, "shop"))
	w.sameAtTarget(g, vm)
}

// machine2 is a second machine that answers elsewhere.
func (w *world) machine2(name string) string {
	w.t.Helper()
	id := w.home.AddVM(hypervisors.Hardware{Name: name, Disks: []hypervisors.Disk{{Size: 2 * mib}}, NICs: []hypervisors.NIC{{Network: "lan"}}})
	require.NoError(w.t, w.home.Guest(id).Install(fake.GuestConfig{Seed: 2, Serves: map[string]string{answer: "hello from " + name}}))
	require.NoError(w.t, w.home.Start(id))
	w.write(w.home, id, 10)
	return id
}

// sameAtTarget reads the newest point of a group's members through the driver and compares each with its machine at
// home, whose guest has not written since.
func (w *world) sameAtTarget(g api.Group, vms ...string) {
	w.t.Helper()
	ctx := w.t.Context()
	about, err := w.engine.About(ctx)
	require.NoError(w.t, err)
	points := w.points(g.ID)
	for i, vm := range vms {
		replica, err := w.away.Connect(about.Appliance).(hypervisors.Target).Replica(ctx, g.Members[i].ReplicaID)
		require.NoError(w.t, err)
		reader, err := replica.Open(ctx, points[len(points)-1].ID)
		require.NoError(w.t, err)
		defer reader.Close()
		live := w.home.Disks(vm)
		require.Equal(w.t, len(live), len(reader.Disks()))
		for i, d := range reader.Disks() {
			require.Equal(w.t, live[i].Size(), d.Size())
			a, b := make([]byte, d.Size()), make([]byte, d.Size())
			_, err := d.ReadAt(a, 0)
			require.NoError(w.t, err)
			_, err = live[i].ReadAt(b, 0)
			require.NoError(w.t, err)
			require.True(w.t, bytes.Equal(b, a), "disk %s", d.ID())
		}
	}
}
