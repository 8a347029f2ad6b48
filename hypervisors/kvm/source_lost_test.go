package kvm

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/hypervisors"
)

// A killed QEMU takes its bitmaps along. The next cycle compares in full, and the one after it is incremental again.
func TestTrackingIsHealedAfterKill(t *testing.T) {
	ctx := testContext(t)
	g, vm := standingGuest(t)
	h := openHost(t, testLab.Source.URI)
	m := newMirror(h, vm)
	m.cycle(t)
	m.cycle(t)
	require.NoError(t, crashAndRestart(ctx, g))
	m.cycle(t)
	require.True(t, m.lost["vda"] && m.lost["vdb"])
	require.NoError(t, g.WaitSeq(ctx, 5))
	m.cycle(t)
	require.Empty(t, m.lost)
	m.check(t)
	undisturbed(t, testLab.Source, map[string][]string{g.Name: {string(m.since)}})
}

// The bitmaps that a killed process left in the images go once nobody has them open.
func TestOrphanedBitmapsAreRemoved(t *testing.T) {
	ctx := testContext(t)
	name, vm := newMachine(t, "qcow2")
	h := openHost(t, testLab.Source.URI)
	m := newMirror(h, vm)
	m.cycle(t) // off: the bitmap is in the image
	require.NoError(t, h.Start(ctx, vm))
	m.cycle(t)
	killQEMU(t, name)
	require.NoError(t, h.Start(ctx, vm))
	m.cycle(t)
	require.Len(t, m.lost, 2)
	require.NoError(t, h.Stop(ctx, vm))
	_, err := h.Clean(ctx, hypervisors.Keep{ChangeIDs: map[string][]hypervisors.ChangeID{vm: {m.since}}})
	require.NoError(t, err)
	require.Equal(t, []string{string(m.since)}, bitmapsOf(t, h, machineImage(name, "vda")))
	m.cycle(t)
	require.Empty(t, m.lost)
	_, err = h.Clean(ctx, hypervisors.Keep{})
	require.NoError(t, err)
	require.Empty(t, bitmapsOf(t, h, machineImage(name, "vda")))
	undisturbed(t, testLab.Source, map[string][]string{name: nil})
}

// killQEMU kills a machine's process, as a crash would.
func killQEMU(t *testing.T, name string) {
	t.Helper()
	_, err := testLab.Source.Exec(testContext(t), "sh", "-c", `kill -9 "$(cat "/run/libvirt/qemu/$1.pid")"`, "kill", name)
	require.NoError(t, err)
	waitFor(t, "QEMU is gone", func() bool { return virshLine(t, testLab.Source, "domstate", name) == "shut off" })
}

func bitmapsOf(t *testing.T, h *host, image string) []string {
	t.Helper()
	layers, err := readLayers(testContext(t), h.place, image)
	require.NoError(t, err)
	return layers[0].bitmaps()
}

// One broken bitmap costs one disk its tracking, not the other.
func TestTrackingIsLostPerDisk(t *testing.T) {
	ctx := testContext(t)
	name, vm := newMachine(t, "qcow2")
	h := openHost(t, testLab.Source.URI)
	m := newMirror(h, vm)
	m.cycle(t)
	_, err := testLab.Source.Exec(ctx, "qemu-img", "bitmap", "--remove", machineImage(name, "vdb"), string(m.since))
	require.NoError(t, err)
	require.NoError(t, h.Start(ctx, vm))
	m.cycle(t)
	require.Equal(t, map[string]bool{"vdb": true}, m.lost)
	undisturbed(t, testLab.Source, map[string][]string{name: {string(m.since)}})
	m.cycle(t)
	require.Empty(t, m.lost)
	// The checkpoint with the broken bitmap took its sound one along.
	require.NoError(t, h.Stop(ctx, vm))
	require.Equal(t, []string{string(m.since)}, bitmapsOf(t, h, machineImage(name, "vda")))
}

// A change id that the source does not know is answered by a full read, not by an error.
func TestUnknownChangeID(t *testing.T) {
	_, vm := newMachine(t, "qcow2")
	h := openHost(t, testLab.Source.URI)
	m := newMirror(h, vm)
	for _, since := range []hypervisors.ChangeID{"nonsense", hypervisors.ChangeID(h.name("never"))} {
		m.since = since
		cp := m.take(t, false)
		m.apply(t, cp)
		require.Len(t, m.lost, 2)
		require.NoError(t, cp.Close(testContext(t)))
	}
}

func TestDiskResized(t *testing.T) {
	ctx := testContext(t)
	name, vm := newMachine(t, "qcow2")
	h := openHost(t, testLab.Source.URI)
	m := newMirror(h, vm)
	m.cycle(t)
	require.NoError(t, h.Start(ctx, vm))
	for _, size := range []int{12 << 20, 20 << 20} {
		virsh(t, testLab.Source, "blockresize", name, "vdb", fmt.Sprint(size)+"B")
		m.cycle(t)
		require.Equal(t, map[string]bool{"vdb": true}, m.lost)
		require.Len(t, m.disks["vdb"], size)
		m.cycle(t)
		require.Empty(t, m.lost)
	}
	undisturbed(t, testLab.Source, map[string][]string{name: {string(m.since)}})
}

func TestDiskAddedAndRemoved(t *testing.T) {
	ctx := testContext(t)
	name, vm := newMachine(t, "qcow2")
	h := openHost(t, testLab.Source.URI)
	m := newMirror(h, vm)
	m.cycle(t)
	// A bus that is unplugged without the help of a guest.
	virsh(t, testLab.Source, "attach-device", name, deviceFile(t, name, "<controller type='scsi' model='lsilogic'/>"), "--config")
	require.NoError(t, h.Start(ctx, vm))
	extra := machineImage(name, "sda")
	makeImageWithData(t, extra, "qcow2")
	virsh(t, testLab.Source, "attach-disk", name, extra, "sda", "--driver", "qemu", "--subdriver", "qcow2", "--targetbus", "scsi")
	m.cycle(t)
	require.Equal(t, map[string]bool{"sda": true}, m.lost)
	require.Equal(t, byte(7), m.disks["sda"][1<<20])
	m.cycle(t)
	require.Empty(t, m.lost)
	virsh(t, testLab.Source, "detach-disk", name, "sda")
	waitFor(t, "the disk is gone", func() bool {
		info, err := h.VM(ctx, vm)
		return err == nil && len(info.Hardware.Disks) == 2
	})
	m.cycle(t)
	require.Empty(t, m.lost)
	require.NotContains(t, m.changed, "sda")
	undisturbed(t, testLab.Source, map[string][]string{name: {string(m.since)}})
}

func deviceFile(t *testing.T, name, xml string) string {
	t.Helper()
	file := filepath.Join(testLab.Source.Dir, name+"-device.xml")
	require.NoError(t, os.WriteFile(file, []byte(xml), 0o600))
	return file
}
