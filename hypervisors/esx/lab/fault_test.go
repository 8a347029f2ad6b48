package lab

import (
	"errors"
	"net/url"
	"reflect"
	"slices"
	"testing"

	"github.com/vmware/govmomi/object"
	tasks "github.com/vmware/govmomi/task"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"understudy/hypervisors"
)

// faultOf a SOAP or task error.
func faultOf(t *testing.T, err error) types.BaseMethodFault {
	t.Helper()
	var failed tasks.Error
	switch {
	case errors.As(err, &failed):
		return failed.Fault()
	case soap.IsSoapFault(err):
		// It came as a value, whose pointer is the fault.
		v := reflect.ValueOf(soap.ToSoapFault(err).VimFault())
		p := reflect.New(v.Type())
		p.Elem().Set(v)
		return p.Interface().(types.BaseMethodFault)
	case soap.IsVimFault(err):
		return soap.ToVimFault(err)
	}
	t.Fatalf("no fault: %v", err)
	return nil
}

func screenshot(t *testing.T, l *Lab, vm *object.VirtualMachine) (*object.Task, error) {
	t.Helper()
	r, err := methods.CreateScreenshot_Task(t.Context(), l.Client(), &types.CreateScreenshot_Task{This: vm.Reference()})
	if err != nil {
		return nil, err
	}
	return object.NewTask(l.Client(), r.Returnval), nil
}

// TestOrderedFaults: each fault that can be ordered is met, once, where it was ordered.
func TestOrderedFaults(t *testing.T) {
	each(t, Options{}, func(t *testing.T, l *Lab) {
		id, vm := server(t, l, "unlucky")
		must(t, l.PowerOn(id))
		make := func() (*object.Task, error) { return vm.CreateSnapshot(t.Context(), "s", "", false, false) }

		l.Fail("CreateSnapshot_Task", &types.ApplicationQuiesceFault{}, 1)
		task, err := make()
		if _, ok := fails(t, task, err).(*types.ApplicationQuiesceFault); !ok {
			t.Error("another fault")
		}
		if props(t, vm).Snapshot != nil {
			t.Error("what failed was done")
		}

		l.FailLate("CreateSnapshot_Task", &types.Timedout{}, 1)
		task, err = make()
		if _, ok := fails(t, task, err).(*types.Timedout); !ok {
			t.Error("another fault")
		}
		p := props(t, vm)
		if p.Snapshot == nil {
			t.Fatal("what failed late was not done")
		}
		l.FailLate("RemoveSnapshot_Task", &types.FileLocked{}, 1)
		task, err = drop(t, l, *p.Snapshot.CurrentSnapshot, false)
		fails(t, task, err)
		p = props(t, vm)
		if p.Snapshot != nil || !p.Runtime.ConsolidationNeeded {
			t.Error("a removal that fails late leaves files")
		}
		task, err = consolidation(t, l, vm)
		finish(t, task, err)

		l.Deny("VirtualMachine.State.CreateSnapshot")
		task, err = make()
		if f, ok := fails(t, task, err).(*types.NoPermission); !ok || f.PrivilegeId != "VirtualMachine.State.CreateSnapshot" {
			t.Error("another fault")
		}
		can, err := object.NewAuthorizationManager(l.Client()).FetchUserPrivilegeOnEntities(
			t.Context(), []types.ManagedObjectReference{vm.Reference()}, l.User)
		must(t, err)
		if len(can) != 1 || len(can[0].Privileges) < 10 || slices.Contains(can[0].Privileges, "VirtualMachine.State.CreateSnapshot") {
			t.Error("what was denied is said to be granted")
		}
		l.Deny()
		l.Full(true)
		task, err = make()
		if _, ok := fails(t, task, err).(*types.NoDiskSpace); !ok {
			t.Error("another fault")
		}
		l.Full(false)
		l.Status503(1)
		if _, err = make(); err == nil || soap.IsSoapFault(err) {
			t.Errorf("a server that is busy said %v", err)
		}
		task, err = make()
		finish(t, task, err)
	})
}

// TestSlowTask: a slow task is seen running, others go on meanwhile, and it can be canceled before it does anything.
func TestSlowTask(t *testing.T) {
	each(t, Options{}, func(t *testing.T, l *Lab) {
		id, vm := server(t, l, "slow")
		until := make(chan struct{})
		l.Slow("CreateSnapshot_Task", until)
		first, err := vm.CreateSnapshot(t.Context(), "first", "", false, false)
		must(t, err)
		second, err := vm.CreateSnapshot(t.Context(), "second", "", false, false)
		must(t, err)
		must(t, l.PowerOn(id))
		must(t, second.Cancel(t.Context()))
		if _, ok := fails(t, second, nil).(*types.RequestCanceled); !ok {
			t.Error("another fault")
		}
		if props(t, vm).Snapshot != nil {
			t.Error("a task that waits did something")
		}
		close(until)
		finish(t, first, nil)
		if s := props(t, vm).Snapshot; s == nil || s.RootSnapshotList[0].Name != "first" || len(s.RootSnapshotList[0].ChildSnapshotList) > 0 {
			t.Error("not the one snapshot that was not canceled")
		}
	})
}

// TestLostSessions: a session that was dropped is not authenticated, also not for files; a new one is.
func TestLostSessions(t *testing.T) {
	each(t, Options{}, func(t *testing.T, l *Lab) {
		other, err := l.Login(t.Context())
		must(t, err)
		defer other.CloseIdleConnections()
		must(t, l.DropSessions())
		_, err = methods.GetCurrentTime(t.Context(), other.Client)
		if err == nil {
			t.Fatal("a dropped session is answered")
		}
		if _, ok := faultOf(t, err).(*types.NotAuthenticated); !ok {
			t.Errorf("another fault: %v", err)
		}
		_, err = methods.GetCurrentTime(t.Context(), l.Client())
		must(t, err)
		if err := other.Login(t.Context(), url.UserPassword(l.User, "wrong")); err == nil {
			t.Error("a wrong password signs in")
		}
		must(t, other.Login(t.Context(), url.UserPassword(l.User, l.Password)))
	})
}

// TestNetworks: an unknown network is refused; one that a running machine is on cannot be removed.
func TestNetworks(t *testing.T) {
	each(t, Options{}, func(t *testing.T, l *Lab) {
		_, err := l.AddVM(hypervisors.Hardware{Name: "lost", NICs: []hypervisors.NIC{{Network: "nowhere"}}})
		var failed tasks.Error
		if !errors.As(err, &failed) {
			t.Fatalf("a network that is not there: %v", err)
		}
		if _, ok := failed.Fault().(*types.InvalidDeviceBacking); !ok {
			t.Errorf("another fault: %T", failed.Fault())
		}
		system, err := object.NewHostSystem(l.Client(), l.host).ConfigManager().NetworkSystem(t.Context())
		must(t, err)
		must(t, system.AddVirtualSwitch(t.Context(), "bubble", nil))
		must(t, system.AddPortGroup(t.Context(), types.HostPortGroupSpec{Name: "bubble", VswitchName: "bubble"}))
		id, err := l.AddVM(hypervisors.Hardware{Name: "inside", NICs: []hypervisors.NIC{{Network: "bubble"}}})
		must(t, err)
		must(t, l.PowerOn(id))
		if err := system.RemovePortGroup(t.Context(), "bubble"); err == nil {
			t.Error("a network in use was removed")
		} else if _, ok := faultOf(t, err).(*types.ResourceInUse); !ok {
			t.Errorf("another fault: %v", err)
		}
		must(t, l.PowerOff(id))
		must(t, l.Remove(id))
		must(t, system.RemovePortGroup(t.Context(), "bubble"))
	})
}
