package kvm

import (
	"fmt"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"understudy/hypervisors"
)

func TestReplicaKeepsItsPoints(t *testing.T) {
	w := newWorld(t)
	w.spec.PreferUUID = uuid.NewString()
	r := w.create()
	again, err := w.h.CreateReplica(w.ctx, w.spec)
	require.NoError(t, err)
	require.Same(t, r, again, "creating again finds the replica")

	s, err := r.Status(w.ctx)
	require.NoError(t, err)
	require.Equal(t, hypervisors.ReplicaStatus{VM: w.spec.PreferUUID}, s)
	vm, err := w.h.VM(w.ctx, s.VM)
	require.NoError(t, err)
	require.Equal(t, w.spec.Hardware.Name, vm.Hardware.Name)
	require.Equal(t, w.spec.ID, vm.Replica)
	require.Equal(t, hypervisors.Off, vm.State)

	w.mustAdd(r, "p1", "p2", "p3")
	w.check(r)
	r = w.reopen()
	for _, id := range w.ids {
		w.checkPoint(r, id)
	}
	s, err = r.Status(w.ctx)
	require.NoError(t, err)
	require.Equal(t, describe(w.request("p2")), s.Points[1])
	require.Equal(t, pointFiles("p1", "p2", "p3"), w.images(r))

	require.NoError(t, r.Drop(w.ctx, "nosuch"))
	_, err = r.Open(w.ctx, "nosuch")
	require.ErrorIs(t, err, hypervisors.ErrNotFound)
}

func TestDraftShowsTheNewestPointBelow(t *testing.T) {
	w := newWorld(t)
	r := w.create()
	d, err := r.Draft(w.ctx, w.request("p1"))
	require.NoError(t, err)
	for _, disk := range d.Disks() {
		require.True(t, disk.MapValid(), "a new disk's map says truly that all is zero")
	}
	_, err = r.Draft(w.ctx, w.request("p2"))
	require.ErrorIs(t, err, hypervisors.ErrBusy)
	require.NoError(t, d.Discard(w.ctx))
	require.NoError(t, d.Discard(w.ctx))
	require.Equal(t, pointFiles(), w.images(r))

	w.mustAdd(r, "p1")
	d, err = r.Draft(w.ctx, w.request("p2"))
	require.NoError(t, err)
	for _, disk := range d.Disks() {
		want := w.want["p1"][disk.ID()]
		require.True(t, disk.MapValid())
		require.Equal(t, want.data, readBytes(t, disk, len(want.data)))
		require.Equal(t, want.blockMap, readBytes(t, disk.Map(), len(want.blockMap)))
	}
	_, err = w.scribble(d, w.want["p1"])
	require.NoError(t, err)
	wrong := describe(w.request("p2"))
	wrong.Disks = wrong.Disks[:1]
	require.ErrorIs(t, d.Commit(w.ctx, wrong), hypervisors.ErrInvalid)
	require.NoError(t, d.Discard(w.ctx))
	w.check(r)
}

func TestDropInAnyOrder(t *testing.T) {
	t.Parallel()
	ids := []string{"p1", "p2", "p3", "p4", "p5", "p6"}
	for _, order := range [][]int{{0, 1, 2, 3, 4, 5}, {5, 4, 3, 2, 1, 0}, {2, 0, 4, 1, 5, 3}, {1, 3, 2, 5, 0, 4}} {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			r := w.create()
			w.mustAdd(r, ids...)
			for _, i := range order {
				w.drop(r, ids[i])
				w.check(r)
				require.Equal(t, pointFiles(w.ids...), w.images(r), "a dropped point's files must go")
			}
		})
	}
}

func TestDisksComeGoAndGrow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.create()
	w.mustAdd(r, "p1")

	w.spec.Hardware.Disks[0].Size = 4 * mib // vda grows
	req := w.request("p2")
	req.Disks = append(req.Disks, hypervisors.DraftDiskSpec{ID: "sda", Size: 1 * mib, Bus: "scsi"}) // sda is new
	require.NoError(t, w.add(r, req))
	w.check(r)
	require.Contains(t, virsh(t, testLab.Target, "dumpxml", w.spec.Hardware.Name), "sda_stage.qcow2")

	req = w.request("p3")
	req.Disks = req.Disks[:1] // vdb and sda are gone
	require.NoError(t, w.add(r, req))
	w.check(r)
	require.NotContains(t, virsh(t, testLab.Target, "dumpxml", w.spec.Hardware.Name), "sda_stage.qcow2")

	req = w.request("p4")
	req.Disks[0].Size = 2 * mib // vda is another, smaller one
	delete(w.want["p3"], "vda") // a new disk, so scribble starts from zeros
	saved := w.want["p3"]
	w.want["p3"] = map[string]content{}
	err := w.add(r, req)
	w.want["p3"] = saved
	require.NoError(t, err)
	w.checkPoint(r, "p4")

	w.drop(r, "p3")
	w.check(r)
	w.drop(r, "p1")
	w.check(r)
	w.drop(r, "p2")
	w.check(r)
}

func TestDroppedPointsWaitForTheirReaders(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.create()
	w.mustAdd(r, "p1", "p2", "p3")
	pr, err := r.Open(w.ctx, "p2")
	require.NoError(t, err)
	w.drop(r, "p1")
	want := w.want["p2"]["vda"]
	require.Equal(t, want.data, readBytes(t, pr.Disks()[0], len(want.data)))
	require.Contains(t, w.images(r), dataFile("vda", "p1"), "the reader needs it")
	w.drop(r, "p2")
	require.Equal(t, want.data, readBytes(t, pr.Disks()[0], len(want.data)))
	require.NoError(t, pr.Close())

	d, err := r.Draft(w.ctx, w.request("p4"))
	require.NoError(t, err)
	w.drop(r, "p3") // under the draft
	now, err := w.scribble(d, w.want["p3"])
	require.NoError(t, err)
	require.NoError(t, d.Commit(w.ctx, describe(w.request("p4"))))
	w.want["p4"], w.ids = now, append(w.ids, "p4")
	w.check(r)
	require.NoError(t, r.Drop(w.ctx, "p3"))
	require.Equal(t, pointFiles("p4"), w.images(r))
	w.check(r)
}

func TestClashesAreFoundBeforeAnythingIsMade(t *testing.T) {
	w := newWorld(t)
	w.create()
	for name, c := range map[string]struct {
		change func(s *hypervisors.ReplicaSpec)
		want   error
	}{
		"name":    {func(s *hypervisors.ReplicaSpec) { s.Hardware.Name = w.spec.Hardware.Name }, hypervisors.ErrNameTaken},
		"MAC":     {func(s *hypervisors.ReplicaSpec) { s.Hardware.NICs = w.spec.Hardware.NICs }, hypervisors.ErrMACTaken},
		"network": {func(s *hypervisors.ReplicaSpec) { s.Hardware.NICs[0].Network = "nosuch" }, hypervisors.ErrUnknownNetwork},
		"bridge":  {func(s *hypervisors.ReplicaSpec) { s.Hardware.NICs[0].Network = "bridge/lo" }, hypervisors.ErrUnknownNetwork},
		"storage": {func(s *hypervisors.ReplicaSpec) { s.Storage = "nosuch" }, hypervisors.ErrUnknownStorage},
		"disk":    {func(s *hypervisors.ReplicaSpec) { s.Hardware.Disks[0].ID = "../x" }, hypervisors.ErrInvalid},
		"id":      {func(s *hypervisors.ReplicaSpec) { s.ID = "../x" }, hypervisors.ErrInvalid},
	} {
		other := newWorld(t).spec
		c.change(&other)
		_, err := w.h.CreateReplica(w.ctx, other)
		require.ErrorIs(t, err, c.want, name)
		if c.want != hypervisors.ErrInvalid {
			require.NotEmpty(t, hypervisors.Hint(err), name)
			_, err = w.h.Replica(w.ctx, other.ID)
			require.ErrorIs(t, err, hypervisors.ErrNotFound, name)
		}
	}
	other := openHostAs(t, testLab.Target.URI, "someone1")
	_, err := other.Replica(w.ctx, w.spec.ID)
	require.ErrorIs(t, err, hypervisors.ErrForeign)
}
