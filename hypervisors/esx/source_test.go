package esx

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"understudy/hypervisors"
	"understudy/hypervisors/esx/lab"
	"understudy/snapshot"
)

func freeze(t *testing.T, h *host, name, vm string, since hypervisors.ChangeID) *checkpoint {
	t.Helper()
	cp, err := h.Checkpoint(t.Context(), hypervisors.CheckpointRequest{Name: name, VMs: []hypervisors.CheckpointVM{{ID: vm, Since: since}}})
	require.NoError(t, err)
	return cp.(*checkpoint)
}

// notFrozen wants a checkpoint to fail, and to leave nothing.
func notFrozen(t *testing.T, h *host, l *lab.Lab, vm string) error {
	t.Helper()
	_, err := h.Checkpoint(t.Context(), hypervisors.CheckpointRequest{Name: "c", VMs: []hypervisors.CheckpointVM{{ID: vm}}})
	require.Error(t, err)
	return err
}

// take copies what extents tell of a frozen disk.
func take(t *testing.T, d hypervisors.FrozenDisk, in snapshot.Extents, into []byte) {
	t.Helper()
	for x, err := range in {
		require.NoError(t, err)
		part := into[x.Offset : x.Offset+x.Length]
		if x.Zero {
			clear(part)
			continue
		}
		if _, err := d.ReadAt(part, x.Offset); err != nil {
			require.ErrorIs(t, err, io.EOF)
		}
	}
}

// TestIncrementals: a full copy and twenty incremental ones while a guest writes throughout, in pages of two areas, with a
// stale change id among them; each makes the copy what was frozen.
func TestIncrementals(t *testing.T) {
	for name, vcenter := range kinds {
		for _, way := range []string{byHotAdd, byHTTPS} {
			t.Run(name+" by "+way, func(t *testing.T) { incrementals(t, startLab(t, lab.Options{VCenter: vcenter, PageSize: 2}), way) })
		}
	}
}

func incrementals(t *testing.T, l *lab.Lab, way string) {
	h, err := connect(t.Context(), l.URI()+"&path="+way, options(l))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	vm := guest(t, l, "web")
	require.NoError(t, l.PowerOn(vm))
	write(t, l, vm)
	copies := map[string][]byte{"scsi0-0": make([]byte, 4<<20), "scsi0-1": make([]byte, 2<<20+4096)}
	var since, first hypervisors.ChangeID
	for n := range 21 {
		if n == 20 {
			since = first // old, and still told truly: more than changed, never less
			for _, c := range copies {
				clear(c[len(c)/2:])
			}
		}
		cp := freeze(t, h, "c", vm, since)
		for _, d := range cp.Disks() {
			areas := d.Changed(t.Context())
			if since == "" || n == 20 {
				areas = d.Allocated(t.Context())
			}
			take(t, d, areas, copies[d.ID()])
			want, err := l.Frozen(vm, *cp.machines[0].snapshot, slot(d.ID()))
			require.NoError(t, err)
			require.Equal(t, sha256.Sum256(want), sha256.Sum256(copies[d.ID()]), "%d, disk %s", n, d.ID())
		}
		since = cp.ChangeIDs()[vm]
		if n == 0 {
			first = since
		}
		require.NoError(t, cp.Close(t.Context()))
	}
	left, err := h.Clean(t.Context(), hypervisors.Keep{})
	require.NoError(t, err)
	require.Empty(t, left)
}

// write lets a guest write here and there until the test ends.
func write(t *testing.T, l *lab.Lab, vm string) {
	ctx, stop := context.WithCancel(context.Background())
	var writer sync.WaitGroup
	t.Cleanup(func() { stop(); writer.Wait() })
	rng := rand.New(rand.NewPCG(1, 2))
	writer.Go(func() {
		for ctx.Err() == nil {
			some := make([]byte, 512*(1+rng.IntN(40)))
			for i := range some {
				some[i] = byte(rng.Uint32())
			}
			disk, size := "scsi0:0", int64(4<<20)
			if rng.IntN(3) == 0 {
				disk, size = "scsi0:1", 2<<20+4096
			}
			assert.NoError(t, l.Write(vm, disk, 512*rng.Int64N((size-int64(len(some)))/512), some))
			time.Sleep(2 * time.Millisecond) // a guest that does nothing else would let nobody in
		}
	})
}

func TestOldHardware(t *testing.T) {
	l := startLab(t, lab.Options{})
	h, vm := open(t, l), guest(t, l, "web")
	change(t, l, vm, types.VirtualMachineConfigSpec{Version: "vmx-04"})
	isTold(t, notFrozen(t, h, l, vm), hypervisors.ErrIncapable, "virtual hardware vmx-04 cannot tell what changed; 7 or later", "Upgrade the compatibility")
}

// change reconfigures a machine as its administrator.
func change(t *testing.T, l *lab.Lab, vm string, spec types.VirtualMachineConfigSpec) {
	t.Helper()
	v, err := l.VM(vm)
	require.NoError(t, err)
	done(t)(v.Reconfigure(t.Context(), spec))
}

func done(t *testing.T) func(*object.Task, error) {
	return func(task *object.Task, err error) {
		t.Helper()
		require.NoError(t, err)
		require.NoError(t, task.WaitEx(t.Context()))
	}
}

func snap(t *testing.T, l *lab.Lab, vm, name string) {
	t.Helper()
	v, err := l.VM(vm)
	require.NoError(t, err)
	done(t)(v.CreateSnapshot(t.Context(), name, "", false, false))
}

func TestUserSnapshotsBeforeTracking(t *testing.T) {
	l := startLab(t, lab.Options{})
	h, vm := open(t, l), guest(t, l, "web")
	snap(t, l, vm, "before the update")
	isTold(t, notFrozen(t, h, l, vm), hypervisors.ErrInUse, `change tracking cannot be switched on while it has snapshots: "before the update"`, "Remove the machine's snapshots once")
}

func TestDisksThatNoSnapshotTakes(t *testing.T) {
	l := startLab(t, lab.Options{})
	h, vm := open(t, l), guest(t, l, "web")
	v, err := l.VM(vm)
	require.NoError(t, err)
	devices, err := v.Device(t.Context())
	require.NoError(t, err)
	disk := devices.SelectByType((*types.VirtualDisk)(nil))[1].(*types.VirtualDisk)
	disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo).DiskMode = string(types.VirtualDiskModeIndependent_persistent)
	change(t, l, vm, types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{
		&types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationEdit, Device: disk}}})
	got, err := h.VM(t.Context(), vm)
	require.NoError(t, err)
	require.Equal(t, []string{"disk scsi0-1: it is independent, so that no snapshot takes it"}, got.Warnings)
	cp := freeze(t, h, "c", vm, "")
	require.Len(t, cp.Disks(), 1)
	require.NoError(t, cp.Close(t.Context()))
}

func TestKindsOfDisks(t *testing.T) {
	unit := int32(2)
	scsi := &types.ParaVirtualSCSIController{VirtualSCSIController: types.VirtualSCSIController{
		VirtualController: types.VirtualController{VirtualDevice: types.VirtualDevice{Key: 1000}, BusNumber: 1}, SharedBus: types.VirtualSCSISharingNoSharing}}
	shared := *scsi
	shared.SharedBus = types.VirtualSCSISharingPhysicalSharing
	for want, c := range map[string]struct {
		controller types.BaseVirtualDevice
		backing    types.BaseVirtualDeviceBackingInfo
	}{
		"raw device in physical mode":               {scsi, &types.VirtualDiskRawDiskMappingVer1BackingInfo{CompatibilityMode: string(types.VirtualDiskCompatibilityModePhysicalMode)}},
		"shared with other machines (multi-writer)": {scsi, &types.VirtualDiskFlatVer2BackingInfo{Sharing: string(types.VirtualDiskSharingSharingMultiWriter)}},
		"controller is shared":                      {&shared, &types.VirtualDiskFlatVer2BackingInfo{}},
		"nobody knows how to read":                  {scsi, &types.VirtualDiskLocalPMemBackingInfo{}},
		"":                                          {scsi, &types.VirtualDiskRawDiskMappingVer1BackingInfo{CompatibilityMode: string(types.VirtualDiskCompatibilityModeVirtualMode)}},
	} {
		d := &types.VirtualDisk{VirtualDevice: types.VirtualDevice{Key: 2000, ControllerKey: 1000, UnitNumber: &unit, Backing: c.backing}, CapacityInKB: 4}
		got := diskOf(d, object.VirtualDeviceList{c.controller, d})
		require.Contains(t, got.Excluded, want)
		require.Equal(t, want == "", got.Excluded == "", got.Excluded)
		require.Equal(t, "scsi1-2", got.ID)
		require.EqualValues(t, 4096, got.Size)
	}
}

func TestSnapshotLimit(t *testing.T) {
	l := startLab(t, lab.Options{SnapshotLimit: 2})
	h, vm := open(t, l), guest(t, l, "web")
	require.NoError(t, freeze(t, h, "c", vm, "").Close(t.Context()))
	snap(t, l, vm, "one")
	snap(t, l, vm, "two")
	isTold(t, notFrozen(t, h, l, vm), hypervisors.ErrInUse, "it has as many snapshots as ESX allows", "Remove snapshots of the machine")
}

func TestQuiescing(t *testing.T) {
	l := startLab(t, lab.Options{})
	h, vm := open(t, l), guest(t, l, "web")
	require.NoError(t, l.PowerOn(vm))
	quiesced := func() hypervisors.Consistency {
		cp, err := h.Checkpoint(t.Context(), hypervisors.CheckpointRequest{Name: "c", VMs: []hypervisors.CheckpointVM{{ID: vm}}, Quiesce: true})
		require.NoError(t, err)
		require.NoError(t, cp.Close(t.Context()))
		return cp.Consistency()
	}
	require.Equal(t, hypervisors.ApplicationConsistent, quiesced())
	l.Fail("CreateSnapshot_Task", &types.ApplicationQuiesceFault{}, 1)
	require.Equal(t, hypervisors.CrashConsistent, quiesced(), "it is taken all the same, and says so")
	l.FailLate("CreateSnapshot_Task", &types.ApplicationQuiesceFault{}, 1)
	require.Equal(t, hypervisors.CrashConsistent, quiesced())
	_, err := h.Clean(t.Context(), hypervisors.Keep{})
	require.NoError(t, err)
}

func TestDatastoreFull(t *testing.T) {
	l := startLab(t, lab.Options{})
	h, vm := open(t, l), guest(t, l, "web")
	l.Full(true)
	isTold(t, notFrozen(t, h, l, vm), hypervisors.ErrNoSpace, "freeze machine web", "Free space on the datastore")
}

func TestLostTracking(t *testing.T) {
	l := startLab(t, lab.Options{})
	h, vm := open(t, l), guest(t, l, "web")
	require.NoError(t, l.PowerOn(vm))
	told := func(since hypervisors.ChangeID) string {
		cp := freeze(t, h, "c", vm, since)
		defer func() { require.NoError(t, cp.Close(t.Context())) }()
		for _, err := range cp.Disks()[0].Changed(t.Context()) {
			require.ErrorIs(t, err, hypervisors.ErrTrackingLost)
			return err.Error()
		}
		t.Fatal("nothing is told")
		return ""
	}
	cp := freeze(t, h, "c", vm, "")
	good := parseChangeID(cp.ChangeIDs()[vm])
	require.NoError(t, cp.Close(t.Context()))
	other := func(change func(*diskChange)) hypervisors.ChangeID {
		c := good["scsi0-0"]
		change(&c)
		return changeID{"scsi0-0": c}.pack()
	}
	require.Contains(t, told(""), "no earlier moment")
	require.Contains(t, told("rubbish"), "no earlier moment")
	require.Contains(t, told(other(func(c *diskChange) { c.Change = "*" })), "no earlier moment")
	require.Contains(t, told(other(func(c *diskChange) { c.Key++ })), "another disk")
	require.Contains(t, told(other(func(c *diskChange) { c.UUID = "6000C29a-0000-0000-0000-000000000000" })), "another disk")
	require.Contains(t, told(other(func(c *diskChange) { c.Size += 512 })), "resized")
	require.Contains(t, told(other(func(c *diskChange) { c.Change = "52 de c0/1" })), "disk scsi0-0")
	require.NoError(t, l.ResetTracking(vm))
	require.Contains(t, told(good.pack()), "disk scsi0-0")
}

// TestHeldSnapshot: while somebody holds its files a snapshot is not merged; it is tried again, and said when it stays so.
func TestHeldSnapshot(t *testing.T) {
	pauses := consolidatePauses
	t.Cleanup(func() { consolidatePauses = pauses })
	consolidatePauses = []time.Duration{time.Millisecond, time.Millisecond}
	l := startLab(t, lab.Options{})
	h, vm := open(t, l), guest(t, l, "web")
	cp := freeze(t, h, "c", vm, "")
	l.FailLate("RemoveSnapshot_Task", &types.FileLocked{}, 1)
	l.Fail("ConsolidateVMDisks_Task", &types.FileLocked{}, 2)
	require.NoError(t, cp.Close(t.Context()))
	cp = freeze(t, h, "c", vm, "")
	l.FailLate("RemoveSnapshot_Task", &types.FileLocked{}, 1)
	l.Fail("ConsolidateVMDisks_Task", &types.FileLocked{}, 3)
	isTold(t, cp.Close(t.Context()), hypervisors.ErrInUse, "consolidate machine web", "Find out who holds its files")
	require.NoError(t, cp.Close(t.Context()), "again, when they are free")
	require.Empty(t, l.Unmet())
}

func TestGivesWay(t *testing.T) {
	l := startLab(t, lab.Options{})
	h, vm := open(t, l), guest(t, l, "web")
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	h.clock = func() time.Time { return now }
	cp := freeze(t, h, "c", vm, "")
	require.Empty(t, cp.danger(t.Context()))
	now = now.Add(mostAge + time.Minute)
	why := cp.danger(t.Context())
	require.Equal(t, "its snapshot is 24h1m0s old", why)
	cp.giveWay(t.Context(), why)
	_, err := cp.Disks()[0].ReadAt(make([]byte, 512), 0)
	isTold(t, err, hypervisors.ErrGaveWay, "24h1m0s", "Free space")
	v, err := l.VM(vm)
	require.NoError(t, err)
	_, err = v.FindSnapshot(t.Context(), cp.name)
	require.Error(t, err, "production is free of it at once")
	require.NoError(t, cp.Close(t.Context()))
}

// TestKilled: an appliance that dies with a checkpoint open, or while one is made, finds what it has left.
func TestKilled(t *testing.T) {
	for name, vcenter := range kinds {
		t.Run(name, func(t *testing.T) {
			l := startLab(t, lab.Options{VCenter: vcenter})
			vm := guest(t, l, "web")
			dead := open(t, l)
			freeze(t, dead, "c", vm, "").unwatch()
			snap(t, l, vm, "understudy.other123.c")
			snap(t, l, vm, "mine")
			h := open(t, l)
			left, err := h.Clean(t.Context(), hypervisors.Keep{})
			require.NoError(t, err)
			require.Len(t, left, 3, "%q: two disks and a snapshot", left)
			left, err = h.Clean(t.Context(), hypervisors.Keep{})
			require.NoError(t, err)
			require.Empty(t, left)
			v, err := l.VM(vm)
			require.NoError(t, err)
			for _, theirs := range []string{"understudy.other123.c", "mine"} {
				_, err := v.FindSnapshot(t.Context(), theirs)
				require.NoError(t, err, "nothing of others is touched")
			}

			goOn := make(chan struct{})
			l.Slow("CreateSnapshot_Task", goOn)
			_, err = v.CreateSnapshot(t.Context(), dead.ours()+"late", "", false, false) // ordered by the dead one
			require.NoError(t, err)
			time.AfterFunc(50*time.Millisecond, func() { close(goOn) })
			left, err = h.Clean(t.Context(), hypervisors.Keep{})
			require.NoError(t, err)
			require.Len(t, left, 1, "%q", left)
		})
	}
}

func TestCancelledWhileFreezing(t *testing.T) {
	l := startLab(t, lab.Options{})
	h, vm := open(t, l), guest(t, l, "web")
	l.Slow("CreateSnapshot_Task", make(chan struct{}))
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := h.Checkpoint(ctx, hypervisors.CheckpointRequest{Name: "c", VMs: []hypervisors.CheckpointVM{{ID: vm}}})
	require.True(t, errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled), "%v", err)
	l.Slow("CreateSnapshot_Task", nil)
	left, err := h.Clean(t.Context(), hypervisors.Keep{})
	require.NoError(t, err)
	require.Empty(t, left)
	require.NoError(t, freeze(t, h, "c", vm, "").Close(t.Context()))
}

// TestTrackingThatLies is what cannot be seen here: a host that forgets to tell. The digest of a full read finds it.
func TestTrackingThatLies(t *testing.T) {
	l := startLab(t, lab.Options{})
	h, vm := open(t, l), guest(t, l, "web")
	require.NoError(t, l.PowerOn(vm))
	cp := freeze(t, h, "c", vm, "")
	copied := make([]byte, 4<<20)
	take(t, cp.Disks()[0], cp.Disks()[0].Allocated(t.Context()), copied)
	since := cp.ChangeIDs()[vm]
	require.NoError(t, cp.Close(t.Context()))
	require.NoError(t, l.Write(vm, "scsi0:0", 1<<20, []byte("not told")))
	lie := parseChangeID(since)
	now := freeze(t, h, "c", vm, "")
	told := parseChangeID(now.ChangeIDs()[vm])["scsi0-0"]
	lie["scsi0-0"] = told // as if nothing had happened since
	require.NoError(t, now.Close(t.Context()))
	cp = freeze(t, h, "c", vm, lie.pack())
	take(t, cp.Disks()[0], cp.Disks()[0].Changed(t.Context()), copied)
	whole := make([]byte, 4<<20)
	take(t, cp.Disks()[0], snapshot.Extents(func(yield func(snapshot.Extent, error) bool) { yield(snapshot.Extent{Length: 4 << 20}, nil) }), whole)
	require.NotEqual(t, sha256.Sum256(whole), sha256.Sum256(copied))
	require.NoError(t, cp.Close(t.Context()))
}

func TestWithoutAWay(t *testing.T) {
	l := startLab(t, lab.Options{})
	elsewhere := strings.Replace(l.URI(), l.Appliance(), "00000000-0000-4000-8000-000000000000", 1)
	h, err := connect(t.Context(), elsewhere+"&path=hotadd", options(l))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	vm := guest(t, l, "web")
	isTold(t, notFrozen(t, h, l, vm), hypervisors.ErrIncapable, "the appliance is no machine of this host", "understudy doctor HOST --data-paths says what works")
	h.addr.path = ""
	require.NoError(t, freeze(t, h, "c", vm, "").Close(t.Context()), "the web server is left")
}

func FuzzChangeID(f *testing.F) {
	f.Add(string(changeID{"scsi0-0": {"52 de/1", 2000, "6000C29", 1 << 30}}.pack()))
	f.Add(`{"a":null}`)
	f.Fuzz(func(t *testing.T, text string) {
		if c := parseChangeID(hypervisors.ChangeID(text)); c != nil {
			again := parseChangeID(c.pack())
			require.Equal(t, len(c), len(again))
		}
	})
}

// FuzzDevice compares reads and writes of any place and length with a plain file's.
func FuzzDevice(f *testing.F) {
	f.Add(uint16(0), uint16(512), uint16(7), uint16(1000))
	f.Fuzz(func(t *testing.T, a, n, b, m uint16) {
		const size = 64<<10 + 512
		dir := t.TempDir()
		plain := make([]byte, size)
		require.NoError(t, os.WriteFile(dir+"/disk", plain, 0o600))
		d, err := openDirect(dir+"/disk", size, true)
		require.NoError(t, err)
		defer d.Close()
		for i, w := range [][2]uint16{{a, n}, {b, m}} {
			part := plain[min(int(w[0]), size):min(int(w[0])+int(w[1]), size)]
			for j := range part {
				part[j] = byte(i + j + 1)
			}
			_, err := d.WriteAt(part, int64(min(int(w[0]), size)))
			require.NoError(t, err)
		}
		got := make([]byte, m)
		k, err := d.ReadAt(got, int64(a))
		if err != nil {
			require.ErrorIs(t, err, io.EOF)
		}
		require.Equal(t, plain[min(int(a), size):min(int(a)+int(m), size)], got[:k])
	})
}
