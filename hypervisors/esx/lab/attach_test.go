package lab

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"
)

// hotAdd changes the appliance's machine so that it has a disk at a unit.
func hotAdd(t *testing.T, l *Lab, file string, unit int32, mode types.VirtualDiskMode) (*object.Task, error) {
	t.Helper()
	vm, err := l.VM(l.Appliance())
	must(t, err)
	devices, err := vm.Device(t.Context())
	must(t, err)
	d := &types.VirtualDisk{VirtualDevice: types.VirtualDevice{
		Key: -1, UnitNumber: &unit, ControllerKey: devices.SelectByType((*types.ParaVirtualSCSIController)(nil))[0].GetVirtualDevice().Key,
		Backing: &types.VirtualDiskFlatVer2BackingInfo{
			VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: file}, DiskMode: string(mode)},
	}}
	return vm.Reconfigure(t.Context(), types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{
		&types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationAdd, Device: d}}})
}

func hotRemove(t *testing.T, l *Lab, unit int32) {
	t.Helper()
	vm, err := l.VM(l.Appliance())
	must(t, err)
	devices, err := vm.Device(t.Context())
	must(t, err)
	must(t, vm.RemoveDevice(t.Context(), true, unitOf(t, devices, unit)))
}

func device(l *Lab, uuid string) string {
	return filepath.Join(l.Devices(), "wwn-0x"+strings.ReplaceAll(uuid, "-", ""))
}

// TestFrozenDiskAtTheAppliance: a frozen disk is read at the appliance while its guest writes; what is written to it there
// vanishes; its snapshot cannot be merged meanwhile, and can afterwards.
func TestFrozenDiskAtTheAppliance(t *testing.T) {
	each(t, Options{}, func(t *testing.T, l *Lab) {
		id, vm := server(t, l, "app")
		must(t, l.PowerOn(id))
		live := flatBacking(unitOf(t, props(t, vm).Config.Hardware.Device, 0))
		task, err := hotAdd(t, l, live.FileName, 3, types.VirtualDiskModeIndependent_nonpersistent)
		if _, ok := fails(t, task, err).(*types.FileLocked); !ok {
			t.Error("a disk that a guest writes to was attached")
		}
		ref := snap(t, vm, "s")
		base := flatBacking(inSnapshot(t, l, ref, 0))
		want, err := l.Frozen(id, ref, "vda")
		must(t, err)
		task, err = hotAdd(t, l, base.FileName, 3, types.VirtualDiskModePersistent)
		if _, ok := fails(t, task, err).(*types.FileLocked); !ok {
			t.Error("a disk that a guest relies on was attached for writing")
		}
		task, err = hotAdd(t, l, base.FileName, 3, types.VirtualDiskModeIndependent_nonpersistent)
		finish(t, task, err)
		must(t, l.Write(id, "vda", 0, []byte("after the snapshot")))
		name := device(l, base.Uuid)
		got, err := os.ReadFile(name)
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Error("the device is not the frozen disk")
		}
		must(t, os.WriteFile(name, []byte("scribble"), 0))
		again, err := l.Frozen(id, ref, "vda")
		must(t, err)
		if !bytes.Equal(again, want) {
			t.Error("what was written to a nonpersistent disk stayed")
		}

		task, err = drop(t, l, ref, false)
		if _, ok := fails(t, task, err).(*types.FileLocked); !ok {
			t.Error("another fault")
		}
		p := props(t, vm)
		if p.Snapshot != nil || !p.Runtime.ConsolidationNeeded {
			t.Error("a removal that could not merge must leave the machine in need of consolidation")
		}
		task, err = consolidation(t, l, vm)
		fails(t, task, err)
		hotRemove(t, l, 3)
		if _, err := os.Lstat(name); err == nil {
			t.Error("the device of a detached disk is there")
		}
		task, err = consolidation(t, l, vm)
		finish(t, task, err)
		p = props(t, vm)
		if p.Runtime.ConsolidationNeeded || flatBacking(unitOf(t, p.Config.Hardware.Device, 0)).FileName != base.FileName {
			t.Error("it was not consolidated")
		}
		now, err := l.Read(id, "vda")
		must(t, err)
		if !bytes.HasPrefix(now, []byte("after the snapshot")) || !bytes.Equal(now[64:], want[64:]) {
			t.Error("consolidation lost something")
		}
	})
}

// TestReplicaAtTheAppliance: a disk of a machine that is off is written at the appliance; meanwhile the machine can neither
// start nor be frozen.
func TestReplicaAtTheAppliance(t *testing.T) {
	each(t, Options{}, func(t *testing.T, l *Lab) {
		id, vm := server(t, l, "replica")
		b := flatBacking(unitOf(t, props(t, vm).Config.Hardware.Device, 1))
		task, err := hotAdd(t, l, b.FileName, 4, types.VirtualDiskModePersistent)
		finish(t, task, err)
		f, err := os.OpenFile(device(l, b.Uuid), os.O_WRONLY, 0)
		must(t, err)
		_, err = f.WriteAt([]byte("replicated"), 512)
		must(t, err)
		must(t, f.Close())
		if err := l.PowerOn(id); err == nil {
			t.Error("a machine started whose disk is written elsewhere")
		}
		task, err = vm.CreateSnapshot(t.Context(), "point", "", false, false)
		if _, ok := fails(t, task, err).(*types.FileLocked); !ok {
			t.Error("a disk was frozen that is written elsewhere")
		}
		hotRemove(t, l, 4)
		ref := snap(t, vm, "point")
		got, err := l.Frozen(id, ref, "vdb")
		must(t, err)
		if string(got[512:522]) != "replicated" {
			t.Error("what the appliance wrote is not there")
		}
		must(t, l.PowerOn(id))
	})
}

// TestChildDisk: a machine with layers of its own above another's frozen disk writes without touching it; when what is below
// was changed, the child no longer opens.
func TestChildDisk(t *testing.T) {
	each(t, Options{}, func(t *testing.T, l *Lab) {
		id, vm := server(t, l, "origin")
		ref := snap(t, vm, "point")
		base := flatBacking(inSnapshot(t, l, ref, 0))
		want, err := l.Frozen(id, ref, "vda")
		must(t, err)
		test, child := server(t, l, "trial")
		give := func(unit int32, file string) {
			t.Helper()
			devices, err := child.Device(t.Context())
			must(t, err)
			d := &types.VirtualDisk{VirtualDevice: types.VirtualDevice{
				Key: -1, UnitNumber: &unit, ControllerKey: unitOf(t, devices, 0).ControllerKey,
				Backing: &types.VirtualDiskFlatVer2BackingInfo{
					VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: file},
					DiskMode:                     string(types.VirtualDiskModePersistent),
					Parent: &types.VirtualDiskFlatVer2BackingInfo{
						VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: base.FileName}},
				}}}
			task, err := child.Reconfigure(t.Context(), types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{
				&types.VirtualDeviceConfigSpec{
					Operation:     types.VirtualDeviceConfigSpecOperationAdd,
					FileOperation: types.VirtualDeviceConfigSpecFileOperationCreate, Device: d}}})
			finish(t, task, err)
		}
		give(5, "["+Datastore+"] trial/child.vmdk")
		must(t, l.PowerOn(test))
		got, err := l.Read(test, "scsi0:5")
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Error("the child does not hold what its parent does")
		}
		must(t, l.Write(test, "scsi0:5", 0, []byte("trial")))
		if still, err := l.Frozen(id, ref, "vda"); err != nil || !bytes.Equal(still, want) {
			t.Error("a write to the child changed its parent", err)
		}
		task, err := drop(t, l, ref, false)
		fails(t, task, err)
		must(t, l.PowerOff(test))
		task, err = consolidation(t, l, vm)
		finish(t, task, err)
		if err := l.PowerOn(test); err == nil {
			t.Error("a child opened although its parent was merged into")
		}
		must(t, l.Remove(test))
		if _, err := l.Read(id, "vda"); err != nil {
			t.Error("removing the child took the parent:", err)
		}
	})
}

// TestRegister: a machine that is registered again has its disks and snapshots.
func TestRegister(t *testing.T) {
	each(t, Options{}, func(t *testing.T, l *Lab) {
		id, vm := server(t, l, "moved")
		ref := snap(t, vm, "one")
		want, err := l.Frozen(id, ref, "vda")
		must(t, err)
		p := props(t, vm)
		folder := object.NewFolder(l.Client(), *p.Parent)
		must(t, vm.Unregister(t.Context()))
		if _, err := l.VM(id); err == nil {
			t.Error("an unregistered machine is there")
		}
		task, err := folder.RegisterVM(t.Context(), p.Config.Files.VmPathName, "", false,
			object.NewResourcePool(l.Client(), *p.ResourcePool), object.NewHostSystem(l.Client(), *p.Runtime.Host))
		finish(t, task, err)
		vm, err = l.VM(id)
		must(t, err)
		q := props(t, vm)
		if q.Snapshot == nil || len(q.Config.Hardware.Device) != len(p.Config.Hardware.Device) {
			t.Fatal("it came back without what it had")
		}
		got, err := l.Frozen(id, *q.Snapshot.CurrentSnapshot, "vda")
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Error("its snapshot holds something else")
		}
	})
}
