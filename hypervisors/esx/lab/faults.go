package lab

import (
	"context"
	"net/http"
	"slices"
	"sync"

	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// orders are the faults that somebody wants to see.
type orders struct {
	mu       sync.Mutex
	early    map[string]*order
	late     map[string]*order
	slow     map[string]<-chan struct{}
	denied   []string
	busy     int
	full     bool
	folder   func(http.ResponseWriter, *http.Request) bool
	waiting  map[types.ManagedObjectReference]chan struct{}
	canceled map[types.ManagedObjectReference]bool
}

type order struct {
	fault types.BaseMethodFault
	times int
}

// Fail lets a method, "CreateSnapshot_Task", answer with a fault the next times; the method does nothing then.
func (l *Lab) Fail(method string, fault types.BaseMethodFault, times int) {
	l.orders.mu.Lock()
	defer l.orders.mu.Unlock()
	if l.orders.early == nil {
		l.orders.early = map[string]*order{}
	}
	l.orders.early[method] = &order{fault, times}
}

// FailLate lets the task of a method do its work the next times, and end with a fault all the same. A snapshot that is
// removed so is gone from the tree, but its files stay: the machine needs consolidation.
func (l *Lab) FailLate(method string, fault types.BaseMethodFault, times int) {
	l.orders.mu.Lock()
	defer l.orders.mu.Unlock()
	if l.orders.late == nil {
		l.orders.late = map[string]*order{}
	}
	l.orders.late[method] = &order{fault, times}
}

// Unmet lists the methods whose ordered faults were not all met.
func (l *Lab) Unmet() []string {
	l.orders.mu.Lock()
	defer l.orders.mu.Unlock()
	var out []string
	for _, orders := range []map[string]*order{l.orders.early, l.orders.late} {
		for method, o := range orders {
			if o.times > 0 {
				out = append(out, method)
			}
		}
	}
	slices.Sort(out)
	return out
}

// Slow lets the tasks of a method wait, cancelable, until the channel is closed; until nil: as fast as ever.
func (l *Lab) Slow(method string, until <-chan struct{}) {
	l.orders.mu.Lock()
	defer l.orders.mu.Unlock()
	if l.orders.slow == nil {
		l.orders.slow = map[string]<-chan struct{}{}
	}
	l.orders.slow[method] = until
}

// Deny takes privileges, "VirtualMachine.State.CreateSnapshot", from the administrator; none: gives all back.
func (l *Lab) Deny(privileges ...string) {
	l.orders.mu.Lock()
	defer l.orders.mu.Unlock()
	l.orders.denied = privileges
}

// Status503 lets the server answer the next requests of clients with 503.
func (l *Lab) Status503(times int) {
	l.orders.mu.Lock()
	defer l.orders.mu.Unlock()
	l.orders.busy = times
}

// Full says that the datastores are full: whatever needs space fails with NoDiskSpace.
func (l *Lab) Full(full bool) {
	l.orders.mu.Lock()
	defer l.orders.mu.Unlock()
	l.orders.full = full
}

// Folder is asked before each request to /folder that may pass; true: it answered itself. nil: nobody is asked.
func (l *Lab) Folder(answer func(http.ResponseWriter, *http.Request) bool) {
	l.orders.mu.Lock()
	defer l.orders.mu.Unlock()
	l.orders.folder = answer
}

// DropSessions ends all sessions, as a restart of the host's services does; the lab's own client signs in again.
func (l *Lab) DropSessions() error {
	ctx := context.Background()
	var m mo.SessionManager
	pc := property.DefaultCollector(l.client.Client)
	if err := pc.RetrieveOne(ctx, *l.client.ServiceContent.SessionManager, []string{"sessionList"}, &m); err != nil {
		return err
	}
	reg := l.model.Map()
	own := &simulator.Context{Map: reg, Context: ctx, Session: &simulator.Session{}}
	for _, s := range m.SessionList {
		reg.SessionManager().TerminateSession(own, &types.TerminateSession{SessionId: []string{s.Key}})
	}
	u := *l.server.URL
	return l.client.SessionManager.Login(ctx, u.User)
}

// meet says what a method is answered before it is called.
func (o *orders) meet(m *simulator.Method) types.BaseMethodFault {
	o.mu.Lock()
	defer o.mu.Unlock()
	if p := privileges[m.Name]; p != "" && slices.Contains(o.denied, p) {
		return &types.NoPermission{Object: &m.This, PrivilegeId: p}
	}
	return take(o.early, m.Name)
}

// without says which privileges were denied.
func (o *orders) without() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.denied)
}

func take(orders map[string]*order, method string) types.BaseMethodFault {
	if x := orders[method]; x != nil && x.times > 0 {
		x.times--
		return x.fault
	}
	return nil
}

// task says what a task has to wait for, and what it ends with.
func (o *orders) task(method string) (<-chan struct{}, types.BaseMethodFault) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.slow[method], take(o.late, method)
}

// cancelable registers a task that waits.
func (o *orders) cancelable(t types.ManagedObjectReference, slow <-chan struct{}) <-chan struct{} {
	if slow == nil {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.waiting == nil {
		o.waiting, o.canceled = map[types.ManagedObjectReference]chan struct{}{}, map[types.ManagedObjectReference]bool{}
	}
	c := make(chan struct{})
	o.waiting[t] = c
	return c
}

// done says that a task no longer waits, and whether it was canceled.
func (o *orders) done(t types.ManagedObjectReference) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.waiting, t)
	return o.canceled[t]
}

func (l *Lab) cancel(t *simulator.Task) soap.HasFault {
	body := &methods.CancelTaskBody{}
	l.orders.mu.Lock()
	defer l.orders.mu.Unlock()
	c, ok := l.orders.waiting[t.Self]
	if !ok {
		body.Fault_ = refused(&types.NotSupported{})
		return body
	}
	if !l.orders.canceled[t.Self] {
		l.orders.canceled[t.Self] = true
		close(c)
	}
	body.Res = &types.CancelTaskResponse{}
	return body
}

// release lets all tasks that wait go, canceled.
func (o *orders) release() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for t, c := range o.waiting {
		if !o.canceled[t] {
			o.canceled[t] = true
			close(c)
		}
	}
}

// noSpace is the fault of what needs space while the datastores are full.
func (o *orders) noSpace(p string) types.BaseMethodFault {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.full {
		return full(p)
	}
	return nil
}

// busyNow says that a request shall be answered with 503.
func (o *orders) busyNow() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.busy == 0 {
		return false
	}
	o.busy--
	return true
}

// privileges that methods need; what is not here needs none.
var privileges = map[string]string{
	"CreateVM_Task":            "VirtualMachine.Inventory.Create",
	"RegisterVM_Task":          "VirtualMachine.Inventory.Register",
	"UnregisterVM":             "VirtualMachine.Inventory.Unregister",
	"Destroy_Task":             "VirtualMachine.Inventory.Delete",
	"ReconfigVM_Task":          "VirtualMachine.Config.Settings",
	"PowerOnVM_Task":           "VirtualMachine.Interact.PowerOn",
	"PowerOffVM_Task":          "VirtualMachine.Interact.PowerOff",
	"CreateScreenshot_Task":    "VirtualMachine.Interact.CreateScreenshot",
	"ConsolidateVMDisks_Task":  "VirtualMachine.Interact.DiskConsolidation",
	"QueryChangedDiskAreas":    "VirtualMachine.Provisioning.DiskRandomRead",
	"CreateSnapshot_Task":      "VirtualMachine.State.CreateSnapshot",
	"RemoveSnapshot_Task":      "VirtualMachine.State.RemoveSnapshot",
	"RemoveAllSnapshots_Task":  "VirtualMachine.State.RemoveSnapshot",
	"RevertToSnapshot_Task":    "VirtualMachine.State.RevertToSnapshot",
	"RenameSnapshot":           "VirtualMachine.State.RenameSnapshot",
	"CreateVirtualDisk_Task":   "Datastore.FileManagement",
	"CopyVirtualDisk_Task":     "Datastore.FileManagement",
	"ExtendVirtualDisk_Task":   "Datastore.FileManagement",
	"DeleteVirtualDisk_Task":   "Datastore.FileManagement",
	"DeleteDatastoreFile_Task": "Datastore.FileManagement",
	"MakeDirectory":            "Datastore.FileManagement",
	"AddVirtualSwitch":         "Host.Config.Network",
	"AddPortGroup":             "Host.Config.Network",
	"RemovePortGroup":          "Host.Config.Network",
	"RemoveVirtualSwitch":      "Host.Config.Network",
}
