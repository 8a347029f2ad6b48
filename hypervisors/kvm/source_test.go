package kvm

import (
	"bytes"
	"context"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/hypervisors"
	"understudy/hypervisors/kvm/lab"
	"understudy/hypervisors/kvm/lab/record"
)

// mirror is a test's copy of a machine's disks, kept up to date by cycles.
type mirror struct {
	host  *host
	vm    string
	disks map[string][]byte
	since hypervisors.ChangeID
	n     int
	// changed is how many bytes the last cycle had to read of each disk; lost are the disks that had to be read in full.
	changed map[string]int64
	lost    map[string]bool
}

func newMirror(h *host, vm string) *mirror {
	return &mirror{host: h, vm: vm, disks: map[string][]byte{}}
}

// take freezes the machine as the next cycle of the mirror.
func (m *mirror) take(t *testing.T, quiesce bool) hypervisors.Checkpoint {
	t.Helper()
	m.n++
	cp, err := m.host.Checkpoint(testContext(t), hypervisors.CheckpointRequest{
		Name: "c" + string(rune('0'+m.n)), VMs: []hypervisors.CheckpointVM{{ID: m.vm, Since: m.since}}, Quiesce: quiesce})
	require.NoError(t, err)
	t.Cleanup(func() { cp.Close(context.Background()) })
	return cp
}

// apply copies what changed, and demands that the mirror then is what the checkpoint shows in full.
func (m *mirror) apply(t *testing.T, cp hypervisors.Checkpoint) {
	t.Helper()
	m.changed, m.lost = map[string]int64{}, map[string]bool{}
	for _, d := range cp.Disks() {
		if d.VM() == m.vm {
			m.applyDisk(t, d)
		}
	}
	m.since = cp.ChangeIDs()[m.vm]
}

func (m *mirror) applyDisk(t *testing.T, d hypervisors.FrozenDisk) {
	t.Helper()
	have := m.disks[d.ID()]
	if n := d.Size() - int64(len(have)); n > 0 {
		have = append(have, make([]byte, n)...)
	}
	m.disks[d.ID()] = have[:d.Size()]
	have = m.disks[d.ID()]
	extents := d.Changed(testContext(t))
	for _, err := range extents {
		if err != nil {
			require.ErrorIs(t, err, hypervisors.ErrTrackingLost)
			m.lost[d.ID()] = true
			extents = d.Allocated(testContext(t))
		}
		break
	}
	for e, err := range extents {
		require.NoError(t, err)
		m.changed[d.ID()] += e.Length
		if e.Zero {
			clear(have[e.Offset:e.End()])
			continue
		}
		_, err := d.ReadAt(have[e.Offset:e.End()], e.Offset)
		require.NoError(t, err)
	}
	require.True(t, bytes.Equal(have, readAll(t, d)), "disk %s: the mirror differs from the frozen moment", d.ID())
}

func readAll(t *testing.T, d hypervisors.FrozenDisk) []byte {
	t.Helper()
	all, err := io.ReadAll(io.NewSectionReader(d, 0, d.Size()))
	require.NoError(t, err)
	return all
}

// cycle is one whole cycle, after which the source forgets the one before.
func (m *mirror) cycle(t *testing.T) {
	t.Helper()
	before := m.since
	cp := m.take(t, false)
	m.apply(t, cp)
	require.NoError(t, cp.Close(testContext(t)))
	if before != "" {
		require.NoError(t, m.host.Forget(testContext(t), m.vm, before))
	}
}

// check demands that the guest's own records say that the mirror is one moment of both disks.
func (m *mirror) check(t *testing.T) {
	t.Helper()
	report, err := record.Check(bytes.NewReader(m.disks["vda"]), bytes.NewReader(m.disks["vdb"]))
	require.NoError(t, err)
	require.Empty(t, report.Problems())
	require.NotZero(t, report.Newest())
}

// undisturbed demands that nothing of ours is left at the machine's host but the checkpoints named.
func undisturbed(t *testing.T, on *lab.Host, checkpoints map[string][]string) {
	t.Helper()
	out, err := on.Exec(testContext(t), "sh", "-c", `find /var/lib/libvirt /run/understudy -name 'understudy.*' ! -name '*.xml' 2>/dev/null; true`)
	require.NoError(t, err)
	require.Empty(t, string(out))
	for name, want := range checkpoints {
		var have []string
		for line := range bytes.Lines([]byte(virsh(t, on, "checkpoint-list", name, "--name"))) {
			if line = bytes.TrimSpace(line); len(line) > 0 {
				have = append(have, string(line))
			}
		}
		require.Equal(t, want, have, "checkpoints of %s", name)
	}
}

func TestIncrementalCycles(t *testing.T) {
	ctx := testContext(t)
	g, vm := standingGuest(t)
	h := openHost(t, testLab.Source.URI)
	m := newMirror(h, vm)

	m.cycle(t)
	require.True(t, m.lost["vda"] && m.lost["vdb"], "without a change id nothing can be told")
	m.check(t)
	for range 3 {
		err := g.WaitSeq(ctx, 20)
		require.NoError(t, err)
		m.cycle(t)
		require.Empty(t, m.lost)
		require.NotZero(t, m.changed["vda"])
		require.Less(t, m.changed["vdb"], int64(8<<20), "a cycle reads what changed and not all")
		m.check(t)
	}
	undisturbed(t, testLab.Source, map[string][]string{g.Name: {string(m.since)}})
	require.NoError(t, h.Forget(ctx, vm, m.since, "unknown", "understudy.otherown.x"))
	require.NoError(t, h.Forget(ctx, vm, m.since))
	undisturbed(t, testLab.Source, map[string][]string{g.Name: nil})
}

func TestReadsAreFrozen(t *testing.T) {
	ctx := testContext(t)
	g, vm := standingGuest(t)
	h := openHost(t, testLab.Source.URI)
	m := newMirror(h, vm)
	cp := m.take(t, false)
	m.apply(t, cp)
	m.check(t)
	err := g.WaitSeq(ctx, 50)
	require.NoError(t, err)
	for _, d := range cp.Disks() {
		require.True(t, bytes.Equal(m.disks[d.ID()], readAll(t, d)), "disk %s moved on", d.ID())
	}
	_, err = h.Checkpoint(ctx, hypervisors.CheckpointRequest{Name: "second", VMs: []hypervisors.CheckpointVM{{ID: vm}}})
	require.ErrorIs(t, err, hypervisors.ErrBusy)
	require.NoError(t, cp.Close(ctx))
	require.NoError(t, cp.Close(ctx))
	_, err = cp.Disks()[0].ReadAt(make([]byte, 512), 0)
	require.Error(t, err)
}
