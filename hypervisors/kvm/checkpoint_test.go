package kvm

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"understudy/hypervisors"
)

// A restart of libvirtd, or its kill, disturbs neither the frozen moment nor what comes after it.
func TestLibvirtdRestartsInCheckpoint(t *testing.T) {
	ctx := testContext(t)
	g, vm := standingGuest(t)
	h := openHost(t, testLab.Source.URI)
	m := newMirror(h, vm)
	m.cycle(t)
	cp := m.take(t, false)
	require.NoError(t, testLab.Source.Kill())
	_, err := cp.Disks()[0].ReadAt(make([]byte, 512), 0)
	require.NoError(t, err)
	require.NoError(t, testLab.Source.Restart(ctx))
	m.apply(t, cp)
	require.Empty(t, m.lost)
	require.NoError(t, cp.Close(ctx))
	m.cycle(t)
	require.Empty(t, m.lost)
	m.check(t)
	require.NoError(t, g.WaitSeq(ctx, 3))
}

// Scratch space that runs out makes the checkpoint give way; the guest runs on.
func TestScratchSpaceRunsOut(t *testing.T) {
	ctx := testContext(t)
	g, vm := standingGuest(t)
	dir := "/var/lib/libvirt/scratch"
	// A pid file would be of another namespace; the mount goes with the folder.
	_, err := testLab.Source.Exec(ctx, "sh", "-c", `mkdir "$1" && mount -t tmpfs -o size=80m tmpfs "$1"`, "mount", dir)
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := testLab.Source.Exec(context.Background(), "sh", "-c", `umount "$1" && rmdir "$1"`, "umount", dir)
		require.NoError(t, err)
	})
	h := openHost(t, testLab.Source.URI+"&scratch="+dir)
	m := newMirror(h, vm)
	cp := m.take(t, false)
	// Somebody else takes the room, all at once.
	_, err = testLab.Source.Exec(ctx, "dd", "if=/dev/zero", "of="+dir+"/others", "bs=1M", "count=70")
	require.NoError(t, err)
	waitFor(t, "the checkpoint gives way", func() bool {
		_, err := cp.Disks()[1].ReadAt(make([]byte, 512), 0)
		if err != nil {
			require.ErrorIs(t, err, hypervisors.ErrGaveWay)
			require.Contains(t, hypervisors.Hint(err), "scratch=")
		}
		return err != nil
	})
	for range cp.Disks()[0].Allocated(ctx) {
		break
	}
	require.NoError(t, g.WaitSeq(ctx, 10))
	require.NoError(t, cp.Close(ctx))

	_, err = h.Checkpoint(ctx, hypervisors.CheckpointRequest{Name: "full", VMs: []hypervisors.CheckpointVM{{ID: vm}}})
	require.ErrorIs(t, err, hypervisors.ErrNoSpace)
	_, err = testLab.Source.Exec(ctx, "rm", dir+"/others")
	require.NoError(t, err)
	m.cycle(t)
	m.check(t)
	require.Equal(t, "running", virshLine(t, testLab.Source, "domstate", g.Name))
}

// A guest that scratch space has stopped before anybody noticed runs on as soon as it is noticed.
func TestGuestStoppedByScratchRunsOn(t *testing.T) {
	ctx := testContext(t)
	g, vm := standingGuest(t)
	dir := "/var/lib/libvirt/tight"
	_, err := testLab.Source.Exec(ctx, "sh", "-c", `mkdir "$1" && mount -t tmpfs -o size=80m tmpfs "$1"`, "mount", dir)
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := testLab.Source.Exec(context.Background(), "sh", "-c", `umount "$1" && rmdir "$1"`, "umount", dir)
		require.NoError(t, err)
	})
	h := openHost(t, testLab.Source.URI+"&scratch="+dir)
	m := newMirror(h, vm)
	cp := m.take(t, false).(*checkpoint)
	cp.unwatch()
	cp.watching.Wait()
	_, err = testLab.Source.Exec(ctx, "sh", "-c", `dd if=/dev/zero of="$1/others" bs=64k 2>/dev/null; true`, "fill", dir)
	require.NoError(t, err)
	waitFor(t, "the guest is stopped", func() bool {
		return virshLine(t, testLab.Source, "domstate", g.Name, "--reason") == "paused (I/O error)"
	})
	cp.watch()
	require.NoError(t, g.WaitSeq(ctx, 5))
	_, err = cp.Disks()[0].ReadAt(make([]byte, 512), 0)
	require.ErrorIs(t, err, hypervisors.ErrGaveWay)
	require.NoError(t, cp.Close(ctx))
}

// A job that an administrator aborts, and a machine that dies, end reading with an error that says so.
func TestReadingEndsClearly(t *testing.T) {
	ctx := testContext(t)
	g, vm := standingGuest(t)
	h := openHost(t, testLab.Source.URI)
	m := newMirror(h, vm)
	cp := m.take(t, false)
	virsh(t, testLab.Source, "domjobabort", g.Name)
	require.ErrorIs(t, readError(t, cp), errJobGone)
	require.NoError(t, cp.Close(ctx))

	cp = m.take(t, false)
	require.NoError(t, g.KillQEMU(ctx))
	require.ErrorIs(t, readError(t, cp), errMachineGone)
	require.NoError(t, cp.Close(ctx))
	_, err := h.Clean(ctx, hypervisors.Keep{})
	require.NoError(t, err)
	undisturbed(t, testLab.Source, map[string][]string{g.Name: nil})
}

func readError(t *testing.T, cp hypervisors.Checkpoint) (err error) {
	t.Helper()
	waitFor(t, "reading fails", func() bool {
		_, err = cp.Disks()[0].ReadAt(make([]byte, 512), 0)
		return err != nil
	})
	return err
}

// Somebody else's backup is not disturbed: ours waits for another time.
func TestForeignJobIsBusy(t *testing.T) {
	ctx := testContext(t)
	g, vm := standingGuest(t)
	h := openHost(t, testLab.Source.URI)
	foreign := openHostAs(t, testLab.Source.URI, "otherown")
	theirs := newMirror(foreign, vm)
	cp := theirs.take(t, false)
	_, err := h.Checkpoint(ctx, hypervisors.CheckpointRequest{Name: "mine", VMs: []hypervisors.CheckpointVM{{ID: vm}}})
	require.ErrorIs(t, err, hypervisors.ErrBusy)
	_, err = h.Clean(ctx, hypervisors.Keep{})
	require.NoError(t, err)
	theirs.apply(t, cp)
	require.NoError(t, cp.Close(ctx))
	undisturbed(t, testLab.Source, map[string][]string{g.Name: {string(theirs.since)}})
	require.NoError(t, foreign.Forget(ctx, vm, theirs.since))
}

// Clean removes what a killed appliance leaves, keeps what is wanted, and touches nothing foreign.
func TestClean(t *testing.T) {
	ctx := testContext(t)
	g, vm := standingGuest(t)
	_, offVM := newMachine(t, "qcow2")
	h := openHost(t, testLab.Source.URI)
	m := newMirror(h, vm)
	m.cycle(t)
	wanted := m.since
	virsh(t, testLab.Source, "checkpoint-create-as", g.Name, "--name", "theirs")
	t.Cleanup(func() { virsh(t, testLab.Source, "checkpoint-delete", g.Name, "theirs") })
	theirFile := testLab.Source.Images + "/understudy.otherown.x.scratch"
	_, err := testLab.Source.Exec(ctx, "touch", theirFile)
	require.NoError(t, err)

	// An appliance that dies: its checkpoints are open, a guest is held still, a reader runs.
	dead := openHost(t, testLab.Source.URI)
	lost := newMirror(dead, vm)
	lost.n = 5
	cp := lost.take(t, false).(*checkpoint)
	_, err = dead.Checkpoint(ctx, hypervisors.CheckpointRequest{Name: "off", VMs: []hypervisors.CheckpointVM{{ID: offVM}}})
	require.NoError(t, err)
	require.NoError(t, dead.markHeld(ctx, vm))
	virsh(t, testLab.Source, "suspend", g.Name)
	cp.end(context.Canceled)

	keep := hypervisors.Keep{ChangeIDs: map[string][]hypervisors.ChangeID{vm: {wanted}}}
	removed, err := h.Clean(ctx, keep)
	require.NoError(t, err)
	require.Contains(t, fmt.Sprint(removed), "backup job of machine "+g.Name)
	require.Contains(t, fmt.Sprint(removed), string(cp.ChangeIDs()[vm]))
	require.Contains(t, fmt.Sprint(removed), "hold on machine "+vm)
	require.Contains(t, fmt.Sprint(removed), "reader of machine")
	require.NoError(t, g.WaitSeq(ctx, 3))
	_, err = testLab.Source.Exec(ctx, "rm", theirFile)
	require.NoError(t, err, "a foreign file is gone")
	undisturbed(t, testLab.Source, map[string][]string{g.Name: {"theirs", string(wanted)}})
	removed, err = h.Clean(ctx, keep)
	require.NoError(t, err)
	require.Empty(t, removed)

	// Both lines of tracking go on beside each other.
	m.cycle(t)
	require.Empty(t, m.lost)
	m.check(t)
	out := virsh(t, testLab.Source, "checkpoint-dumpxml", g.Name, "theirs", "--size")
	require.True(t, bytes.Contains([]byte(out), []byte("size=")), out)
}

// stuck is a place with a folder whose storage hangs, and others that are full.
type stuck struct {
	place
	asked atomic.Int32
	back  chan struct{}
}

func (s *stuck) Run(_ context.Context, _ io.Reader, argv ...string) ([]byte, error) {
	if argv[len(argv)-1] == "/hung" {
		s.asked.Add(1)
		<-s.back
	}
	return []byte("1 100 4096"), nil
}

// TestWatchOfHungStorage looks at scratch space of which some does not answer: what can be seen decides all the same.
func TestWatchOfHungStorage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		place := &stuck{back: make(chan struct{})}
		hung := &scratchSpace{dir: "/hung", reserve: leastScratch}
		cp := &checkpoint{host: &host{place: place, log: slog.New(slog.DiscardHandler)}, scratch: []*scratchSpace{hung}}
		for range 3 {
			short, why := cp.look(t.Context())
			require.True(t, short)
			require.Empty(t, why)
		}
		require.EqualValues(t, 1, place.asked.Load())
		cp.scratch = append(cp.scratch, &scratchSpace{dir: "/full", reserve: leastScratch})
		_, why := cp.look(t.Context())
		require.Contains(t, why, "/full")
		close(place.back)
		synctest.Wait()
		_, why = cp.look(t.Context())
		require.Contains(t, why, "/hung")
	})
}
