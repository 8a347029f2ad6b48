package kvm

import (
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/hypervisors"
)

// writeByHand writes into one of the replica's images, as a guest would.
func (w *world) writeByHand(r *replica, file string) {
	w.t.Helper()
	_, err := testLab.Target.Exec(w.ctx, "qemu-io", "-f", "qcow2", "-c", "write -P 0x5a 0 1M", path.Join(r.dir, file))
	require.NoError(w.t, err)
}

// startsWith says what an image's first megabyte is.
func (w *world) startsWith(r *replica, file string) string {
	w.t.Helper()
	img, err := testLab.Target.ReadImage(w.ctx, path.Join(r.dir, file))
	require.NoError(w.t, err)
	defer img.Close()
	return string(readBytes(w.t, img, mib))
}

var byHand = strings.Repeat("\x5a", mib)

func (w *world) power(vm, do string) {
	w.t.Helper()
	virsh(w.t, testLab.Target, do, vm)
}

func TestLiveRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.create()
	w.mustAdd(r, "p1", "p2", "p3")
	mac := w.spec.Hardware.NICs[0].MAC

	_, err := r.Run(w.ctx, hypervisors.RunSpec{ID: hypervisors.LiveRun, Point: "nosuch"})
	require.ErrorIs(t, err, hypervisors.ErrNotFound)
	_, err = r.Run(w.ctx, hypervisors.RunSpec{ID: hypervisors.LiveRun, Point: "p2", Networks: map[string]string{mac: "nosuch"}})
	require.ErrorIs(t, err, hypervisors.ErrUnknownNetwork)

	live := hypervisors.RunSpec{ID: hypervisors.LiveRun, Point: "p2", Networks: map[string]string{mac: "production"}}
	run, err := r.Run(w.ctx, live)
	require.NoError(t, err)
	again, err := r.Run(w.ctx, live)
	require.NoError(t, err)
	require.Equal(t, run, again)
	s, err := r.Status(w.ctx)
	require.NoError(t, err)
	require.Equal(t, []hypervisors.RunStatus{{ID: "live", Point: "p2", VM: run.VM, State: hypervisors.Running}}, s.Runs)
	require.False(t, s.Stray)
	other := live
	other.Point = "p3"
	_, err = r.Run(w.ctx, other)
	require.ErrorIs(t, err, hypervisors.ErrInUse)
	require.ErrorIs(t, r.Drop(w.ctx, "p2"), hypervisors.ErrInUse)
	w.drop(r, "p1") // below the run: it waits
	w.drop(r, "p3")
	w.check(r)
	require.Contains(t, w.images(r), dataFile("vda", "p1"))

	// What it writes stays over a stop, over the death of the appliance, and beside the points.
	w.power(w.spec.Hardware.Name, "destroy")
	w.writeByHand(r, stageFile("vda"))
	r = w.reopen()
	s, err = r.Status(w.ctx)
	require.NoError(t, err)
	require.Equal(t, hypervisors.Off, s.Runs[0].State)
	w.mustAdd(r, "p4")
	_, err = r.Run(w.ctx, live)
	require.NoError(t, err)
	w.power(w.spec.Hardware.Name, "destroy")
	require.Equal(t, byHand, w.startsWith(r, stageFile("vda")))
	w.check(r)

	require.NoError(t, r.End(w.ctx, hypervisors.LiveRun))
	require.NoError(t, r.End(w.ctx, hypervisors.LiveRun))
	require.Equal(t, string(w.want["p4"]["vda"].data[:mib]), w.startsWith(r, stageFile("vda")), "the stage is on the newest point again")
	w.drop(r, "p2")
	w.check(r)
	require.Equal(t, pointFiles("p4"), w.images(r))
}

func TestLiveRunIsTakenUpAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.create()
	w.mustAdd(r, "p1")
	live := hypervisors.RunSpec{ID: hypervisors.LiveRun, Point: "p1"}

	// The appliance died right after it had noted the order. What somebody starts now has nothing of the run.
	require.NoError(t, r.work(w.ctx, "order", func(m *manifest) error {
		m.Live, m.Stage.Stale = &liveRun{Point: "p1"}, true
		return r.save(w.ctx, m)
	}))
	w.power(w.spec.Hardware.Name, "start")
	_, err := r.Run(w.ctx, live)
	require.ErrorIs(t, err, hypervisors.ErrRunning)
	w.power(w.spec.Hardware.Name, "destroy")
	_, err = r.Run(w.ctx, live)
	require.NoError(t, err)

	// Who undefines the machine does not lose what it wrote.
	w.power(w.spec.Hardware.Name, "destroy")
	w.writeByHand(r, stageFile("vda"))
	w.power(w.spec.Hardware.Name, "undefine")
	_, err = r.Run(w.ctx, live)
	require.NoError(t, err)
	w.power(w.spec.Hardware.Name, "destroy")
	require.Equal(t, byHand, w.startsWith(r, stageFile("vda")))
	require.NoError(t, r.End(w.ctx, hypervisors.LiveRun))
	w.check(r)
}

func TestAdoptingALiveRunBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.create()
	w.mustAdd(r, "p1", "p2")
	run, err := r.Run(w.ctx, hypervisors.RunSpec{ID: hypervisors.LiveRun, Point: "p1"})
	require.NoError(t, err)
	_, err = w.h.Adopt(w.ctx, hypervisors.AdoptSpec{ID: w.spec.ID, VM: run.VM})
	require.ErrorIs(t, err, hypervisors.ErrRunning)
	w.power(w.spec.Hardware.Name, "destroy")
	w.writeByHand(r, stageFile("vda"))
	back, err := w.h.Adopt(w.ctx, hypervisors.AdoptSpec{ID: w.spec.ID, VM: run.VM})
	require.NoError(t, err)
	s, err := back.Status(w.ctx)
	require.NoError(t, err)
	require.Empty(t, s.Runs)
	require.Equal(t, string(w.want["p2"]["vda"].data[:mib]), w.startsWith(r, stageFile("vda")))
	w.check(r)
}

func TestStrayStartHarmsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.create()
	w.mustAdd(r, "p1", "p2")
	w.power(w.spec.Hardware.Name, "start")
	s, err := r.Status(w.ctx)
	require.NoError(t, err)
	require.True(t, s.Stray)
	w.mustAdd(r, "p3")
	w.drop(r, "p1")
	w.check(r)
	require.ErrorIs(t, r.Drop(w.ctx, "p3"), hypervisors.ErrInUse)
	_, err = r.Run(w.ctx, hypervisors.RunSpec{ID: hypervisors.LiveRun, Point: "p3"})
	require.ErrorIs(t, err, hypervisors.ErrRunning)
	require.ErrorIs(t, r.Delete(w.ctx), hypervisors.ErrRunning)

	w.power(w.spec.Hardware.Name, "destroy")
	w.writeByHand(r, stageFile("vda"))
	w.check(r)
	w.mustAdd(r, "p4")
	require.Equal(t, string(w.want["p4"]["vda"].data[:mib]), w.startsWith(r, stageFile("vda")))
	require.Equal(t, pointFiles("p2", "p3", "p4"), w.images(r))
	w.check(r)
}

func TestTestRun(t *testing.T) {
	w := newWorld(t)
	r := w.create()
	w.mustAdd(r, "p1", "p2")
	network := w.spec.ID + "-net"
	require.NoError(t, w.h.IsolatedNetwork(w.ctx, network))
	require.NoError(t, w.h.IsolatedNetwork(w.ctx, network))
	mac := w.spec.Hardware.NICs[0].MAC

	_, err := r.Run(w.ctx, hypervisors.RunSpec{ID: "t1", Point: "p1"})
	require.ErrorIs(t, err, hypervisors.ErrUnknownNetwork, "a NIC without a network could end up in production")
	spec := hypervisors.RunSpec{ID: "t1", Point: "p1", Networks: map[string]string{strings.ToUpper(mac): network}}
	run, err := r.Run(w.ctx, spec)
	require.NoError(t, err)
	again, err := r.Run(w.ctx, spec)
	require.NoError(t, err)
	require.Equal(t, run, again)
	require.NoError(t, w.h.AssertIsolated(w.ctx, network))
	require.ErrorIs(t, w.h.RemoveNetwork(w.ctx, network), hypervisors.ErrInUse)
	vm, err := w.h.VM(w.ctx, run.VM)
	require.NoError(t, err)
	require.Equal(t, w.spec.Hardware.Name+"-test-t1", vm.Hardware.Name)
	require.Equal(t, []hypervisors.NIC{{MAC: mac, Model: "virtio", Network: network}}, vm.Hardware.NICs)

	// Replication and retention go on beside it.
	w.mustAdd(r, "p3")
	require.ErrorIs(t, r.Drop(w.ctx, "p1"), hypervisors.ErrInUse)
	w.drop(r, "p2")
	w.check(r)

	w.power(vm.Hardware.Name, "destroy")
	w.writeByHand(r, testFile("vda", "t1"))
	s, err := r.Status(w.ctx)
	require.NoError(t, err)
	require.Equal(t, []hypervisors.RunStatus{{ID: "t1", Point: "p1", VM: run.VM, State: hypervisors.Off}}, s.Runs)
	w.check(r)
	_, err = r.Run(w.ctx, spec)
	require.NoError(t, err)

	// A new process keeps what is wanted, and removes the rest.
	r = w.reopen()
	removed, err := w.h.cleanTargets(w.ctx, hypervisors.Keep{TestRuns: []string{"t1"}})
	require.NoError(t, err)
	require.Empty(t, removed)
	_, err = testLab.Target.Exec(w.ctx, "touch", path.Join(r.dir, dataFile("vda", "draft")), path.Join(r.dir, "torn.new"))
	require.NoError(t, err)
	removed, err = w.h.cleanTargets(w.ctx, hypervisors.Keep{})
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"test run t1 of replica " + r.id, "file " + path.Join(r.dir, "torn.new"),
		"file " + path.Join(r.dir, dataFile("vda", "draft")), "network " + network}, removed)
	require.NoError(t, r.End(w.ctx, "t1"))
	require.Equal(t, pointFiles("p1", "p3"), w.images(r))
	w.check(r)
}

func TestTestRunOfADeadManifestIsCleaned(t *testing.T) {
	w := newWorld(t)
	r := w.create()
	w.mustAdd(r, "p1")
	_, err := r.Run(w.ctx, hypervisors.RunSpec{ID: "t1", Point: "p1", Networks: map[string]string{w.spec.Hardware.NICs[0].MAC: "production"}})
	require.NoError(t, err)
	require.NoError(t, r.work(w.ctx, "forget", func(m *manifest) error { m.Tests = nil; return r.save(w.ctx, m) }))
	foreign := openHostAs(t, testLab.Target.URI, "someone1")
	removed, err := foreign.cleanTargets(w.ctx, hypervisors.Keep{})
	require.NoError(t, err)
	require.Empty(t, removed)
	removed, err = w.h.cleanTargets(w.ctx, hypervisors.Keep{})
	require.NoError(t, err)
	require.Contains(t, removed, "test machine "+w.spec.Hardware.Name+"-test-t1")
}

func TestExportsOfTheDeadAreCleaned(t *testing.T) {
	w := newWorld(t)
	r := w.create()
	w.mustAdd(r, "p1")
	d, err := r.Draft(w.ctx, w.request("p2"))
	require.NoError(t, err)
	exp := d.(*draft).export
	r = w.reopen()
	removed, err := w.h.cleanTargets(w.ctx, hypervisors.Keep{})
	require.NoError(t, err)
	require.Contains(t, removed, "export "+exp.qmp)
	require.Contains(t, removed, "file "+path.Join(r.dir, dataFile("vda", "p2")))
	select {
	case <-exp.proc.Done():
	case <-w.ctx.Done():
		t.Fatal("the daemon lives on")
	}
	w.check(r)
}
