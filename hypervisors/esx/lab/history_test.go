package lab

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// snap makes a snapshot.
func snap(t *testing.T, vm *object.VirtualMachine, name string) types.ManagedObjectReference {
	t.Helper()
	task, err := vm.CreateSnapshot(t.Context(), name, "", false, false)
	return finish(t, task, err).(types.ManagedObjectReference)
}

// drop removes a snapshot by its reference.
func drop(t *testing.T, l *Lab, ref types.ManagedObjectReference, children bool) (*object.Task, error) {
	t.Helper()
	r, err := methods.RemoveSnapshot_Task(t.Context(), l.Client(), &types.RemoveSnapshot_Task{This: ref, RemoveChildren: children})
	if err != nil {
		return nil, err
	}
	return object.NewTask(l.Client(), r.Returnval), nil
}

func back(t *testing.T, l *Lab, ref types.ManagedObjectReference) (*object.Task, error) {
	t.Helper()
	r, err := methods.RevertToSnapshot_Task(t.Context(), l.Client(), &types.RevertToSnapshot_Task{This: ref})
	if err != nil {
		return nil, err
	}
	return object.NewTask(l.Client(), r.Returnval), nil
}

func tracking(t *testing.T, vm *object.VirtualMachine) {
	t.Helper()
	task, err := vm.Reconfigure(t.Context(), types.VirtualMachineConfigSpec{ChangeTrackingEnabled: types.NewBool(true)})
	finish(t, task, err)
}

// inSnapshot is a disk as a snapshot's configuration shows it.
func inSnapshot(t *testing.T, l *Lab, ref types.ManagedObjectReference, unit int32) *types.VirtualDisk {
	t.Helper()
	var s mo.VirtualMachineSnapshot
	must(t, property.DefaultCollector(l.Client()).RetrieveOne(t.Context(), ref, []string{"config.hardware.device"}, &s))
	return unitOf(t, s.Config.Hardware.Device, unit)
}

func unitOf(t *testing.T, devices object.VirtualDeviceList, unit int32) *types.VirtualDisk {
	t.Helper()
	for _, d := range devices.SelectByType((*types.VirtualDisk)(nil)) {
		if *d.GetVirtualDevice().UnitNumber == unit {
			return d.(*types.VirtualDisk)
		}
	}
	t.Fatalf("no disk at unit %d", unit)
	return nil
}

func flatBacking(d *types.VirtualDisk) *types.VirtualDiskFlatVer2BackingInfo {
	return d.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
}

// changes asks page by page what differs; it gives the number of pages as well.
func changes(t *testing.T, l *Lab, vm *object.VirtualMachine, ref types.ManagedObjectReference, d *types.VirtualDisk, since string) ([]types.DiskChangeExtent, int, error) {
	t.Helper()
	var out []types.DiskChangeExtent
	pages := 0
	for off := int64(0); off < d.CapacityInBytes; pages++ {
		r, err := methods.QueryChangedDiskAreas(t.Context(), l.Client(), &types.QueryChangedDiskAreas{
			This: vm.Reference(), Snapshot: &ref, DeviceKey: d.Key, StartOffset: off, ChangeId: since})
		if err != nil {
			return nil, pages, err
		}
		if r.Returnval.StartOffset != off || r.Returnval.Length <= 0 {
			t.Fatalf("a page from %d is %d long", r.Returnval.StartOffset, r.Returnval.Length)
		}
		out = append(out, r.Returnval.ChangedArea...)
		off += r.Returnval.Length
	}
	return out, pages, nil
}

// story is a machine with what it must hold.
type story struct {
	t       *testing.T
	l       *Lab
	id      string
	vm      *object.VirtualMachine
	random  *rand.Rand
	now     []byte
	frozen  map[types.ManagedObjectReference][]byte
	parent  map[types.ManagedObjectReference]types.ManagedObjectReference
	current types.ManagedObjectReference
	replica []byte // of the first disk, by change ids alone
	since   string
	pages   int
}

func tell(t *testing.T, l *Lab, seed uint64) *story {
	s := &story{
		t: t, l: l, random: rand.New(rand.NewPCG(seed, 1)), since: "*",
		frozen: map[types.ManagedObjectReference][]byte{}, parent: map[types.ManagedObjectReference]types.ManagedObjectReference{},
	}
	s.id, s.vm = server(t, l, fmt.Sprintf("story%d", seed))
	tracking(t, s.vm)
	must(t, l.PowerOn(s.id))
	var err error
	s.now, err = l.Read(s.id, "vda")
	must(t, err)
	s.replica = make([]byte, len(s.now))
	return s
}

func (s *story) write() {
	p := make([]byte, 1+s.random.IntN(100_000))
	for i := range p {
		p[i] = byte(s.random.Uint32())
	}
	off := s.random.IntN(len(s.now) - len(p))
	if s.random.IntN(5) == 0 {
		off, p = off&^4095, make([]byte, 8192)
		off = min(off, len(s.now)-len(p))
		must(s.t, s.l.Discard(s.id, "vda", int64(off), int64(len(p))))
	} else {
		must(s.t, s.l.Write(s.id, "vda", int64(off), p))
	}
	copy(s.now[off:], p)
}

func (s *story) snapshot() {
	ref := snap(s.t, s.vm, "s")
	s.frozen[ref], s.parent[ref] = slices.Clone(s.now), s.current
	s.current = ref
	s.follow(ref)
}

// follow brings the replica to a snapshot by its changes alone.
func (s *story) follow(ref types.ManagedObjectReference) {
	d := inSnapshot(s.t, s.l, ref, 0)
	areas, pages, err := changes(s.t, s.l, s.vm, ref, d, s.since)
	if err != nil {
		if _, ok := faultOf(s.t, err).(*types.FileFault); !ok || s.since == "*" {
			s.t.Fatalf("changes since %q: %v", s.since, err)
		}
		clear(s.replica)
		s.since = "*"
		areas, pages, err = changes(s.t, s.l, s.vm, ref, d, "*")
		must(s.t, err)
	}
	s.pages = max(s.pages, pages)
	for _, a := range areas {
		copy(s.replica[a.Start:a.Start+a.Length], s.frozen[ref][a.Start:])
	}
	if !bytes.Equal(s.replica, s.frozen[ref]) {
		s.t.Fatalf("the replica is not what the snapshot froze, since %q", s.since)
	}
	s.since = flatBacking(d).ChangeId
}

func (s *story) any() (types.ManagedObjectReference, bool) {
	refs := slices.SortedFunc(maps.Keys(s.frozen), func(a, b types.ManagedObjectReference) int {
		return bytes.Compare([]byte(a.Value), []byte(b.Value))
	})
	if len(refs) == 0 {
		return types.ManagedObjectReference{}, false
	}
	return refs[s.random.IntN(len(refs))], true
}

func (s *story) forget(ref types.ManagedObjectReference, children bool) {
	for kid, p := range s.parent {
		if p != ref {
			continue
		}
		if children {
			s.forget(kid, true)
		} else {
			s.parent[kid] = s.parent[ref]
		}
	}
	if s.current == ref {
		s.current = s.parent[ref]
	}
	delete(s.frozen, ref)
	delete(s.parent, ref)
}

func (s *story) step() {
	ref, some := s.any()
	switch n := s.random.IntN(20); {
	case n < 9:
		s.write()
	case n < 14:
		s.snapshot()
	case n < 17 && some:
		children := s.random.IntN(4) == 0
		task, err := drop(s.t, s.l, ref, children)
		finish(s.t, task, err)
		s.forget(ref, children)
	case n < 19 && some:
		task, err := back(s.t, s.l, ref)
		finish(s.t, task, err)
		s.now, s.current = slices.Clone(s.frozen[ref]), ref
		must(s.t, s.l.PowerOn(s.id))
	case n == 19 && s.random.IntN(3) == 0:
		task, err := s.vm.RemoveAllSnapshot(s.t.Context(), nil)
		finish(s.t, task, err)
		clear(s.frozen)
		clear(s.parent)
		s.current = types.ManagedObjectReference{}
	}
	s.check()
}

// check that everything is what it was when it was frozen, and that the tree is the one of the model.
func (s *story) check() {
	s.t.Helper()
	for ref, want := range s.frozen {
		got, err := s.l.Frozen(s.id, ref, "vda")
		must(s.t, err)
		if !bytes.Equal(got, want) {
			s.t.Fatalf("snapshot %s is not what was frozen", ref.Value)
		}
	}
	got, err := s.l.Read(s.id, "vda")
	must(s.t, err)
	if !bytes.Equal(got, s.now) {
		s.t.Fatal("the disk is not what the guest wrote")
	}
	s.chains()
	tree := map[types.ManagedObjectReference]types.ManagedObjectReference{}
	var walk func([]types.VirtualMachineSnapshotTree, types.ManagedObjectReference)
	walk = func(in []types.VirtualMachineSnapshotTree, parent types.ManagedObjectReference) {
		for _, x := range in {
			tree[x.Snapshot] = parent
			walk(x.ChildSnapshotList, x.Snapshot)
		}
	}
	if p := props(s.t, s.vm); p.Snapshot != nil {
		walk(p.Snapshot.RootSnapshotList, types.ManagedObjectReference{})
	}
	if !maps.Equal(tree, s.parent) {
		s.t.Fatalf("the tree is %v, not %v", tree, s.parent)
	}
}

// chains of files must be whole, and the configurations must name files that are there.
func (s *story) chains() {
	s.t.Helper()
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	m, err := s.l.find(s.id)
	must(s.t, err)
	for _, d := range m.disks {
		if !d.image.whole() {
			s.t.Fatalf("%s cannot be opened", d.image.path)
		}
	}
	named := func(devices object.VirtualDeviceList, i *image, of string) {
		for b := flatBacking(unitOf(s.t, devices, 0)); b != nil; b, i = b.Parent, i.parent {
			if _, err := os.Stat(s.l.local(b.FileName)); err != nil || i == nil || i.path != b.FileName || i.gone {
				s.t.Fatalf("%s names %s: %v", of, b.FileName, err)
			}
			if (b.Parent == nil) != (i.parent == nil) || (i.parent == nil) != (i.content == flat(s.l.local(i.path))) {
				s.t.Fatalf("%s names another chain below %s", of, b.FileName)
			}
		}
	}
	live, err := m.named("vda")
	must(s.t, err)
	named(props(s.t, s.vm).Config.Hardware.Device, live.image, "the machine")
	for ref, frozen := range m.snaps {
		var x mo.VirtualMachineSnapshot
		must(s.t, property.DefaultCollector(s.l.Client()).RetrieveOne(s.t.Context(), ref, []string{"config.hardware.device"}, &x))
		named(x.Config.Hardware.Device, frozen[live.key].image, ref.Value)
	}
}

// TestHistories: whatever a guest and its administrator do, snapshots hold what they froze, and change ids tell all.
func TestHistories(t *testing.T) {
	each(t, Options{PageSize: 3}, func(t *testing.T, l *Lab) {
		for seed := range uint64(histories) {
			s := tell(t, l, seed)
			for range 50 {
				s.step()
			}
			if s.pages < 2 {
				t.Error("no answer came in pages")
			}
			task, err := s.vm.RemoveAllSnapshot(t.Context(), nil)
			finish(t, task, err)
			l.mu.Lock()
			m, err := l.find(s.id)
			must(t, err)
			for _, d := range m.disks {
				if d.image.parent != nil {
					t.Errorf("%s is not a base after all snapshots are gone", d.image.path)
				}
			}
			if len(m.hidden) > 0 {
				t.Errorf("layers stayed: %v", m.hidden)
			}
			l.mu.Unlock()
			must(t, l.PowerOff(s.id))
			must(t, l.Remove(s.id))
		}
	})
}

// TestTrackingIsLost: what cannot be answered is a fault with a reason, not an empty answer.
func TestTrackingIsLost(t *testing.T) {
	each(t, Options{}, func(t *testing.T, l *Lab) {
		id, vm := server(t, l, "db")
		must(t, l.PowerOn(id))
		bare := snap(t, vm, "without tracking")
		lost := func(ref types.ManagedObjectReference, since, key string) {
			t.Helper()
			d := inSnapshot(t, l, ref, 0)
			_, _, err := changes(t, l, vm, ref, d, since)
			if err == nil {
				t.Fatalf("changes since %q were told", since)
			}
			f, ok := faultOf(t, err).(*types.FileFault)
			if !ok || len(f.FaultMessage) != 1 || f.FaultMessage[0].Key != "vim.hostd.vmsvc.cbt."+key {
				t.Fatalf("changes since %q: %#v", since, faultOf(t, err))
			}
		}
		lost(bare, "*", "noTrack")
		task, err := vm.Reconfigure(t.Context(), types.VirtualMachineConfigSpec{ChangeTrackingEnabled: types.NewBool(true)})
		if _, ok := fails(t, task, err).(*types.InvalidVmConfig); !ok {
			t.Error("tracking was enabled above a snapshot")
		}
		task, err = drop(t, l, bare, false)
		finish(t, task, err)
		tracking(t, vm)
		first := snap(t, vm, "first")
		since := flatBacking(inSnapshot(t, l, first, 0)).ChangeId
		must(t, l.Write(id, "vda", 1<<20, []byte("changed")))
		second := snap(t, vm, "second")
		areas, _, err := changes(t, l, vm, second, inSnapshot(t, l, second, 0), since)
		if err != nil || len(areas) != 1 || areas[0].Start != 1<<20 {
			t.Errorf("changed: %v, %v", areas, err)
		}
		lost(first, flatBacking(inSnapshot(t, l, second, 0)).ChangeId, "cannotGetChanges")
		must(t, l.ResetTracking(id))
		third := snap(t, vm, "third")
		lost(third, since, "noEpoch")
		d := inSnapshot(t, l, third, 0)
		for _, off := range []int64{d.CapacityInBytes, -1} {
			_, err = methods.QueryChangedDiskAreas(t.Context(), l.Client(), &types.QueryChangedDiskAreas{
				This: vm.Reference(), Snapshot: &third, DeviceKey: d.Key, StartOffset: off, ChangeId: "*"})
			if err == nil {
				t.Errorf("changes from %d on, of a disk with %d bytes", off, d.CapacityInBytes)
			}
		}
	})
}

// TestSnapshotLimit: a chain is only so deep.
func TestSnapshotLimit(t *testing.T) {
	each(t, Options{SnapshotLimit: 2}, func(t *testing.T, l *Lab) {
		_, vm := server(t, l, "deep")
		snap(t, vm, "one")
		snap(t, vm, "two")
		task, err := vm.CreateSnapshot(t.Context(), "three", "", false, false)
		if _, ok := fails(t, task, err).(*types.TooManySnapshotLevels); !ok {
			t.Error("another fault")
		}
	})
}

func consolidation(t *testing.T, l *Lab, vm *object.VirtualMachine) (*object.Task, error) {
	t.Helper()
	r, err := methods.ConsolidateVMDisks_Task(t.Context(), l.Client(), &types.ConsolidateVMDisks_Task{This: vm.Reference()})
	if err != nil {
		return nil, err
	}
	return object.NewTask(l.Client(), r.Returnval), nil
}

// TestRename: a snapshot deep in the tree gets another name and description; what is not given stays.
func TestRename(t *testing.T) {
	each(t, Options{}, func(t *testing.T, l *Lab) {
		_, vm := server(t, l, "named")
		snap(t, vm, "one")
		ref := snap(t, vm, "two")
		_, err := methods.RenameSnapshot(t.Context(), l.Client(), &types.RenameSnapshot{This: ref, Description: "suspect"})
		must(t, err)
		_, err = methods.RenameSnapshot(t.Context(), l.Client(), &types.RenameSnapshot{This: ref, Name: "second"})
		must(t, err)
		root := props(t, vm).Snapshot.RootSnapshotList[0]
		if kid := root.ChildSnapshotList[0]; root.Name != "one" || kid.Name != "second" || kid.Description != "suspect" {
			t.Errorf("named %q, %q, %q", root.Name, kid.Name, kid.Description)
		}
	})
}
