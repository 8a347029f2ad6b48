package kvm

import (
	"bytes"
	"context"
	"fmt"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/hypervisors"
	"understudy/hypervisors/kvm/lab"
)

// A machine that is off is read without ever running, is off for everybody, and tracks on when it is started.
func TestMachineThatIsOff(t *testing.T) {
	ctx := testContext(t)
	g, vm := standingGuest(t)
	h := openHost(t, testLab.Source.URI)
	m := newMirror(h, vm)
	m.cycle(t)
	require.NoError(t, h.Shutdown(ctx, vm))
	before := virsh(t, testLab.Source, "dumpxml", g.Name, "--inactive")

	cp := m.take(t, false)
	info, err := h.VM(ctx, vm)
	require.NoError(t, err)
	require.Equal(t, hypervisors.Off, info.State)
	require.Len(t, info.Hardware.Disks, 2)
	old := m.since
	m.apply(t, cp)
	require.Empty(t, m.lost, "what was written before the shutdown is told")
	require.NoError(t, cp.Close(ctx))
	require.NoError(t, h.Forget(ctx, vm, old))
	require.Equal(t, "shut off", virshLine(t, testLab.Source, "domstate", g.Name))
	require.Equal(t, before, virsh(t, testLab.Source, "dumpxml", g.Name, "--inactive"))
	m.check(t)

	m.cycle(t)
	require.Empty(t, m.lost)
	require.Zero(t, m.changed["vda"]+m.changed["vdb"], "it never ran")
	undisturbed(t, testLab.Source, map[string][]string{g.Name: {string(m.since)}})
	require.Equal(t, []string{string(m.since)}, bitmapsOf(t, h, g.Disks[0]))

	require.NoError(t, g.Start(ctx))
	m.cycle(t)
	require.Empty(t, m.lost)
	require.NotZero(t, m.changed["vda"])
	m.check(t)
}

// Starting a machine goes before reading it.
func TestStartEndsReader(t *testing.T) {
	ctx := testContext(t)
	name, vm := newMachine(t, "qcow2")
	h := openHost(t, testLab.Source.URI)
	m := newMirror(h, vm)
	cp := m.take(t, false)
	require.NoError(t, h.Start(ctx, vm))
	require.NoError(t, h.Start(ctx, vm))
	_, err := cp.Disks()[0].ReadAt(make([]byte, 512), 0)
	require.ErrorIs(t, err, hypervisors.ErrGaveWay)
	require.NotEmpty(t, hypervisors.Hint(err))
	require.NoError(t, cp.Close(ctx))
	require.Equal(t, "running", virshLine(t, testLab.Source, "domstate", name))
	require.NoError(t, h.Stop(ctx, vm))
	require.NoError(t, h.Stop(ctx, vm))
	require.NoError(t, h.Shutdown(ctx, vm))
}

// Raw disks cannot track; they are frozen all the same, and each cycle is told in full.
func TestRawDisks(t *testing.T) {
	name, vm := newMachine(t, "raw")
	h := openHost(t, testLab.Source.URI)
	require.NoError(t, h.Start(testContext(t), vm))
	info, err := h.VM(testContext(t), vm)
	require.NoError(t, err)
	require.Len(t, info.Warnings, 2)
	m := newMirror(h, vm)
	for range 2 {
		cp := m.take(t, false)
		require.Empty(t, cp.ChangeIDs())
		m.apply(t, cp)
		require.Len(t, m.lost, 2)
		require.NoError(t, cp.Close(testContext(t)))
	}
	require.Equal(t, byte(7), m.disks["vdb"][1<<20])
	undisturbed(t, testLab.Source, map[string][]string{name: nil})
}

// A disk that is left out has no scratch file, no export and no bitmap, and not a byte of its image changes, whether the
// machine is off or on.
func TestDiskThatIsLeftOut(t *testing.T) {
	ctx := testContext(t)
	name, vm := newMachine(t, "qcow2")
	h := openHost(t, testLab.Source.URI)
	image := machineImage(name, "vdb")
	sum := func() string {
		out, err := testLab.Source.Exec(ctx, "sha256sum", image)
		require.NoError(t, err)
		return string(out)
	}
	before := sum()
	since := hypervisors.ChangeID("")
	for n, cycle := range []string{"off", "off again", "on", "on again"} {
		if n == 2 {
			require.NoError(t, h.Start(ctx, vm))
		}
		cp, err := h.Checkpoint(ctx, hypervisors.CheckpointRequest{Name: fmt.Sprintf("c%d", n),
			VMs: []hypervisors.CheckpointVM{{ID: vm, Since: since, LeaveOut: []string{"vdb"}}}})
		require.NoError(t, err, cycle)
		require.Len(t, cp.Disks(), 1)
		for _, err := range cp.Disks()[0].Changed(ctx) {
			require.Equal(t, n == 0, err != nil, "%s: the other disk tells its changes: %v", cycle, err)
		}
		out, err := testLab.Source.Exec(ctx, "find", path.Dir(image), "-name", "*.scratch")
		require.NoError(t, err)
		require.Len(t, strings.Fields(string(out)), 1, "%s: %s", cycle, out)
		require.NotContains(t, string(out), "vdb")
		require.Regexp(t, `<disk name='vdb' backup='no'`, virsh(t, testLab.Source, "backup-dumpxml", name))
		require.NoError(t, cp.Close(ctx))
		require.NoError(t, h.Forget(ctx, vm, since))
		since = cp.ChangeIDs()[vm]
		require.Empty(t, bitmapsOf(t, h, image), cycle)
		require.Equal(t, before, sum(), cycle)
		require.NotContains(t, virsh(t, testLab.Source, "checkpoint-dumpxml", name, string(since), "--no-domain"), "<disk name='vdb' checkpoint='bitmap'")
	}
	require.NoError(t, h.Stop(ctx, vm))
	undisturbed(t, testLab.Source, map[string][]string{name: {string(since)}})
}

// Two machines share one moment, and a paused one stays paused.
func TestTwoMachinesOneMoment(t *testing.T) {
	ctx := testContext(t)
	g, vm1 := standingGuest(t)
	name, vm2 := newMachine(t, "qcow2")
	h := openHost(t, testLab.Source.URI)
	require.NoError(t, h.Start(ctx, vm2))
	req := hypervisors.CheckpointRequest{Name: "both", VMs: []hypervisors.CheckpointVM{{ID: vm1}, {ID: vm2}}, PauseBudget: time.Minute}
	began := time.Now()
	cp, err := h.Checkpoint(ctx, req)
	require.NoError(t, err)
	require.WithinRange(t, cp.Taken(), began, time.Now())
	require.Len(t, cp.ChangeIDs(), 2)
	require.Len(t, cp.Disks(), 4)
	for i, want := range []string{vm1, vm1, vm2, vm2} {
		require.Equal(t, want, cp.Disks()[i].VM())
	}
	m := newMirror(h, vm1)
	m.apply(t, cp)
	m.check(t)
	newMirror(h, vm2).apply(t, cp)
	goOn := func() {
		t.Helper()
		require.NoError(t, g.WaitSeq(ctx, 3))
		require.Equal(t, "running", virshLine(t, testLab.Source, "domstate", name))
	}
	goOn()
	require.NoError(t, cp.Close(ctx))

	// A moment that takes too long is given up, and no guest stays behind.
	req.Name, req.PauseBudget = "hasty", time.Nanosecond
	_, err = h.Checkpoint(ctx, req)
	require.ErrorIs(t, err, hypervisors.ErrGaveWay)
	goOn()
	undisturbed(t, testLab.Source, map[string][]string{g.Name: {h.name("both")}, name: {h.name("both")}})

	virsh(t, testLab.Source, "suspend", name)
	req.Name, req.PauseBudget = "paused", time.Minute
	cp, err = h.Checkpoint(ctx, req)
	require.NoError(t, err)
	require.Equal(t, "paused", virshLine(t, testLab.Source, "domstate", name))
	require.NoError(t, cp.Close(ctx))

	// It fails as a whole.
	req.Name, req.VMs[1].ID = "half", "00000000-0000-0000-0000-000000000000"
	_, err = h.Checkpoint(ctx, req)
	require.ErrorIs(t, err, hypervisors.ErrNotFound)
	require.NotContains(t, virsh(t, testLab.Source, "checkpoint-list", g.Name), "half")
}

// With a guest agent the file system is frozen at the moment and thawed right after.
func TestQuiesce(t *testing.T) {
	ctx := testContext(t)
	g, vm := standingGuest(t)
	h := openHost(t, testLab.Source.URI)
	waitFor(t, "the agent answers", func() bool {
		_, err := testLab.Source.Virsh(ctx, "qemu-agent-command", g.Name, `{"execute":"guest-ping"}`)
		return err == nil
	})
	m := newMirror(h, vm)
	cp := m.take(t, true)
	require.Equal(t, hypervisors.ApplicationConsistent, cp.Consistency())
	require.NoError(t, g.WaitSeq(ctx, 3))
	m.apply(t, cp)
	clean, err := lab.FileSystemClean(bytes.NewReader(m.disks["vda"]))
	require.NoError(t, err)
	require.True(t, clean, "the file system was frozen")
	require.NoError(t, cp.Close(ctx))

	cp = m.take(t, false)
	m.apply(t, cp)
	require.Equal(t, hypervisors.CrashConsistent, cp.Consistency())
	clean, err = lab.FileSystemClean(bytes.NewReader(m.disks["vda"]))
	require.NoError(t, err)
	require.False(t, clean, "it was in use")
	require.NoError(t, cp.Close(ctx))
	undisturbed(t, testLab.Source, nil)
}

// Without an agent the checkpoint is taken all the same, and says what it is.
func TestQuiesceWithoutAgent(t *testing.T) {
	_, vm := newMachine(t, "qcow2")
	h := openHost(t, testLab.Source.URI)
	require.NoError(t, h.Start(testContext(t), vm))
	m := newMirror(h, vm)
	cp := m.take(t, true)
	require.Equal(t, hypervisors.CrashConsistent, cp.Consistency())
	require.NoError(t, cp.Close(context.Background()))
}
