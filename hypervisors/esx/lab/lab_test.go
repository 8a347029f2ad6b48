package lab

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"understudy/hypervisors"
)

const mib = 1 << 20

// each runs a test against a host and against a vCenter.
func each(t *testing.T, o Options, test func(*testing.T, *Lab)) {
	for name, vcenter := range map[string]bool{"host": false, "vcenter": true} {
		t.Run(name, func(t *testing.T) {
			o := o
			o.Dir, o.VCenter = t.TempDir(), vcenter
			l, err := Start(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := l.Close(); err != nil {
					t.Error(err)
				}
				if left := l.Unmet(); len(left) > 0 {
					t.Errorf("faults that were never met: %v", left)
				}
			}()
			test(t, l)
		})
	}
}

// server adds a machine with two disks, 4 and 2 MiB.
func server(t *testing.T, l *Lab, name string) (string, *object.VirtualMachine) {
	t.Helper()
	id, err := l.AddVM(hypervisors.Hardware{
		Name: name, CPUs: 2, Memory: 512 * mib, Firmware: hypervisors.UEFI,
		Disks: []hypervisors.Disk{{ID: "vda", Size: 4 * mib}, {ID: "vdb", Size: 2 * mib}},
		NICs:  []hypervisors.NIC{{MAC: "52:54:00:00:00:01", Model: "virtio"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	vm, err := l.VM(id)
	if err != nil {
		t.Fatal(err)
	}
	return id, vm
}

func props(t *testing.T, vm *object.VirtualMachine) *mo.VirtualMachine {
	t.Helper()
	var p mo.VirtualMachine
	if err := vm.Properties(context.WithoutCancel(t.Context()), vm.Reference(), nil, &p); err != nil {
		t.Fatal(err)
	}
	return &p
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// finish waits for a task that must succeed.
func finish(t *testing.T, task *object.Task, err error) any {
	t.Helper()
	must(t, err)
	info, err := task.WaitForResultEx(t.Context())
	must(t, err)
	return info.Result
}

// fails waits for a call or its task to fail, and gives the fault.
func fails(t *testing.T, task *object.Task, err error) types.BaseMethodFault {
	t.Helper()
	if err == nil {
		_, err = task.WaitForResultEx(t.Context())
	}
	if err == nil {
		t.Fatal("it did not fail")
	}
	return faultOf(t, err)
}

// TestMachine: a machine is what was asked for; its guest writes when it runs, and only then.
func TestMachine(t *testing.T) {
	each(t, Options{}, func(t *testing.T, l *Lab) {
		id, vm := server(t, l, "web")
		p := props(t, vm)
		if p.Config.InstanceUuid != id || p.Config.Firmware != "efi" || p.Config.Hardware.MemoryMB != 512 {
			t.Errorf("not what was asked for: %+v", p.Config)
		}
		if err := l.Write(id, "vda", 0, []byte("x")); err == nil {
			t.Error("a guest that does not run wrote")
		}
		before, err := l.Read(id, "vda")
		must(t, err)
		if len(before) != 4*mib || bytes.Count(before[:mib], []byte{0}) > mib/2 {
			t.Error("the first disk has no data")
		}
		must(t, l.PowerOn(id))
		must(t, l.Write(id, "scsi0:1", 4096, []byte("hello")))
		now, err := l.Read(id, "vdb")
		must(t, err)
		if !bytes.Equal(now[4096:4101], []byte("hello")) {
			t.Error("what the guest wrote is not there")
		}
		must(t, l.PowerOff(id))
		must(t, l.Remove(id))
		f := find.NewFinder(l.Client())
		dc, err := f.DefaultDatacenter(t.Context())
		must(t, err)
		f.SetDatacenter(dc)
		if _, err := f.VirtualMachine(t.Context(), "web"); err == nil {
			t.Error("a machine that was removed is there")
		}
	})
}

// TestTools: a guest with tools is quiesced, and stops when it is asked; one without is neither, and the snapshot says so.
func TestTools(t *testing.T) {
	each(t, Options{}, func(t *testing.T, l *Lab) {
		for _, tools := range []bool{true, false} {
			id, err := l.AddVM(hypervisors.Hardware{Name: fmt.Sprintf("tools-%v", tools), GuestAgent: tools})
			must(t, err)
			vm, err := l.VM(id)
			must(t, err)
			must(t, l.PowerOn(id))
			task, err := vm.CreateSnapshot(t.Context(), "s", "", false, true)
			finish(t, task, err)
			if props(t, vm).Snapshot.RootSnapshotList[0].Quiesced != tools {
				t.Errorf("tools %v: the snapshot says otherwise", tools)
			}
			if err := vm.ShutdownGuest(t.Context()); (err == nil) != tools {
				t.Errorf("tools %v: asked to stop, it said %v", tools, err)
			}
			if tools {
				must(t, vm.WaitForPowerState(t.Context(), types.VirtualMachinePowerStatePoweredOff))
				must(t, l.Remove(id))
			}
		}
	})
}
