package lab

import (
	"errors"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// shelf keeps a machine that is not registered, as its .vmx and .vmsd would.
type shelf struct {
	machine *machine
	config  types.VirtualMachineConfigInfo
	tree    *types.VirtualMachineSnapshotInfo
	snaps   map[types.ManagedObjectReference]types.VirtualMachineConfigInfo
}

// CreateVMTask creates a machine whose disks have content.
func (f *folder) CreateVMTask(ctx *simulator.Context, req *types.CreateVM_Task) soap.HasFault {
	return &methods.CreateVM_TaskBody{Res: &types.CreateVM_TaskResponse{
		Returnval: f.l.run(ctx, f.Folder, "CreateVM_Task", "createVm",
			func(ctx *simulator.Context, _ types.BaseMethodFault) (any, types.BaseMethodFault) {
				return f.l.createVM(ctx, f.Folder, req)
			})}}
}

func (l *Lab) createVM(ctx *simulator.Context, f *simulator.Folder, req *types.CreateVM_Task) (any, types.BaseMethodFault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := newMachine(types.ManagedObjectReference{})
	if fault := l.orders.noSpace(req.Config.Name); fault != nil {
		return nil, fault
	}
	if _, fault := l.check(ctx, m, req.Config.DeviceChange); fault != nil {
		return nil, fault
	}
	for _, id := range []*string{&req.Config.Uuid, &req.Config.InstanceUuid} {
		if *id == "" {
			*id = uuid.NewString() // the simulator would derive it from the path
		}
	}
	res, fault := stock(ctx, f.CreateVMTask(ctx, req))
	if fault != nil {
		return nil, fault
	}
	m.ref = res.(types.ManagedObjectReference)
	x := ctx.Map.Get(m.ref).(*simulator.VirtualMachine)
	m.id, m.vmx = x.Config.InstanceUuid, x.Config.Files.VmPathName
	l.machines[m.ref] = m
	ctx.WithLock(x, func() {
		x.Capability.ChangeTrackingSupported = true
		if fault = l.adopt(m, x, req.Config.DeviceChange); fault == nil {
			l.publish(ctx, m)
		}
	})
	return m.ref, fault
}

// RegisterVMTask brings back a machine that was unregistered, with its disks and snapshots.
func (f *folder) RegisterVMTask(ctx *simulator.Context, req *types.RegisterVM_Task) soap.HasFault {
	return &methods.RegisterVM_TaskBody{Res: &types.RegisterVM_TaskResponse{
		Returnval: f.l.run(ctx, f.Folder, "RegisterVM_Task", "registerVm",
			func(ctx *simulator.Context, _ types.BaseMethodFault) (any, types.BaseMethodFault) {
				l := f.l
				l.mu.Lock()
				defer l.mu.Unlock()
				s := l.shelved[req.Path]
				if s == nil {
					return nil, &types.NotFound{}
				}
				if req.Name == "" {
					req.Name = s.config.Name
				}
				res, fault := stock(ctx, f.Folder.RegisterVMTask(ctx, req))
				if fault != nil {
					return nil, fault
				}
				ref := res.(types.ManagedObjectReference)
				x := ctx.Map.Get(ref).(*simulator.VirtualMachine)
				ctx.WithLock(x, func() { l.restore(ctx, x, s) })
				delete(l.shelved, req.Path)
				return ref, nil
			})}}
}

// restore what a machine was before it was unregistered; its snapshots get new references, as at the real host.
func (l *Lab) restore(ctx *simulator.Context, x *simulator.VirtualMachine, s *shelf) {
	m := s.machine
	m.ref = x.Self
	l.machines[m.ref] = m
	config := s.config
	config.Name = x.Name
	x.Capability.ChangeTrackingSupported = true
	ctx.Update(x, []types.PropertyChange{
		{Name: "config", Val: config},
		{Name: "summary.config.uuid", Val: config.Uuid},
		{Name: "summary.config.instanceUuid", Val: config.InstanceUuid},
	})
	if s.tree != nil {
		snaps := map[types.ManagedObjectReference]map[int32]frozen{}
		tree := *s.tree
		var roots []types.ManagedObjectReference
		current := tree.CurrentSnapshot
		var walk func([]types.VirtualMachineSnapshotTree) []types.VirtualMachineSnapshotTree
		walk = func(in []types.VirtualMachineSnapshotTree) []types.VirtualMachineSnapshotTree {
			out := make([]types.VirtualMachineSnapshotTree, 0, len(in))
			for _, t := range in {
				n := &simulator.VirtualMachineSnapshot{}
				n.Vm, n.Config = x.Self, s.snaps[t.Snapshot]
				ref := ctx.Map.Put(n).Reference()
				snaps[ref] = m.snaps[t.Snapshot]
				if current != nil && *current == t.Snapshot {
					tree.CurrentSnapshot = &ref
				}
				t.Snapshot, t.Vm = ref, x.Self
				t.ChildSnapshotList = walk(t.ChildSnapshotList)
				out = append(out, t)
			}
			return out
		}
		tree.RootSnapshotList = walk(tree.RootSnapshotList)
		for _, t := range tree.RootSnapshotList {
			roots = append(roots, t.Snapshot)
		}
		m.snaps = snaps
		x.Snapshot = &types.VirtualMachineSnapshotInfo{}
		ctx.Update(x, []types.PropertyChange{{Name: "snapshot", Val: tree}, {Name: "rootSnapshot", Val: roots}})
	}
	l.publish(ctx, m)
}

// UnregisterVM takes a machine out of the inventory; its files stay.
func (v *vm) UnregisterVM(ctx *simulator.Context, req *types.UnregisterVM) soap.HasFault {
	v.l.mu.Lock()
	defer v.l.mu.Unlock()
	m := v.l.machines[v.Self]
	s := &shelf{machine: m, config: *v.Config, tree: v.Snapshot, snaps: map[types.ManagedObjectReference]types.VirtualMachineConfigInfo{}}
	for ref := range m.snaps {
		if snap, ok := ctx.Map.Get(ref).(*simulator.VirtualMachineSnapshot); ok {
			s.snaps[ref] = snap.Config
		}
	}
	res := v.VirtualMachine.UnregisterVM(ctx, req)
	if res.Fault() == nil {
		v.l.drop(ctx, m)
		v.l.shelved[m.vmx] = s
	}
	return res
}

// drop a machine from what the lab and the simulator know. l.mu is held.
func (l *Lab) drop(ctx *simulator.Context, m *machine) {
	delete(l.machines, m.ref)
	for ref := range m.snaps {
		ctx.Map.Remove(ctx, ref)
	}
}

// DestroyTask deletes a machine with its disks and snapshots. Files of others in its directory stay.
func (v *vm) DestroyTask(ctx *simulator.Context, _ *types.Destroy_Task) soap.HasFault {
	return &methods.Destroy_TaskBody{Res: &types.Destroy_TaskResponse{
		Returnval: v.l.run(ctx, v.VirtualMachine, "Destroy_Task", "destroy",
			func(ctx *simulator.Context, _ types.BaseMethodFault) (any, types.BaseMethodFault) {
				return nil, v.l.destroy(ctx, v.VirtualMachine)
			})}}
}

func (l *Lab) destroy(ctx *simulator.Context, x *simulator.VirtualMachine) types.BaseMethodFault {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.machines[x.Self]
	if m == nil {
		return &types.ManagedObjectNotFound{Obj: x.Self}
	}
	images := map[*image]bool{}
	for _, d := range m.disks {
		images[d.image] = true
	}
	for _, s := range m.snaps {
		for _, f := range s {
			images[f.image] = true
		}
	}
	for i := range m.hidden {
		images[i] = true
	}
	for i := range images {
		if l.use(i, m) != unused {
			return locked(i)
		}
	}
	if f := x.UnregisterVM(ctx, &types.UnregisterVM{This: x.Self}).Fault(); f != nil {
		return f.VimFault().(types.BaseMethodFault)
	}
	for _, d := range m.disks {
		l.vanish(d)
	}
	l.drop(ctx, m)
	for i := range images {
		l.erase(i)
	}
	return l.sweep(m)
}

// sweep the files of a machine, and its directory when nothing else is in it.
func (l *Lab) sweep(m *machine) types.BaseMethodFault {
	dir := l.local(path.Dir(m.vmx))
	entries, err := os.ReadDir(dir)
	if err != nil {
		return trouble(m.vmx, err)
	}
	left := len(entries)
	for _, e := range entries {
		switch filepath.Ext(e.Name()) {
		case ".vmx", ".nvram", ".log", ".vmsn", ".vmsd", ".png":
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return trouble(m.vmx, err)
			}
			left--
		}
	}
	if left == 0 {
		if err := os.Remove(dir); err != nil {
			return trouble(m.vmx, err)
		}
	}
	return nil
}

// PowerOnVMTask starts a machine, when it can open its disks.
func (v *vm) PowerOnVMTask(ctx *simulator.Context, req *types.PowerOnVM_Task) soap.HasFault {
	return &methods.PowerOnVM_TaskBody{Res: &types.PowerOnVM_TaskResponse{
		Returnval: v.l.run(ctx, v.VirtualMachine, "PowerOnVM_Task", "powerOn",
			func(ctx *simulator.Context, _ types.BaseMethodFault) (any, types.BaseMethodFault) {
				return nil, v.l.powerOn(ctx, v.VirtualMachine, req)
			})}}
}

func (l *Lab) powerOn(ctx *simulator.Context, x *simulator.VirtualMachine, req *types.PowerOnVM_Task) types.BaseMethodFault {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.machines[x.Self]
	for _, d := range m.disks {
		if f := l.lock(m, d.image, d.mode); f != nil {
			return f
		}
	}
	if _, fault := stock(ctx, x.PowerOnVMTask(ctx, req)); fault != nil {
		return fault
	}
	m.on = true
	l.track(m, x.Config.ChangeTrackingEnabled)
	for _, d := range m.disks {
		if !passing(d.mode) {
			d.image.version++ // what was made on it while it was off is no longer whole
		}
	}
	l.publish(ctx, m)
	if err := l.appear(m); err != nil {
		return trouble(m.vmx, err)
	}
	return nil
}

// PowerOffVMTask stops a machine at once.
func (v *vm) PowerOffVMTask(ctx *simulator.Context, _ *types.PowerOffVM_Task) soap.HasFault {
	return &methods.PowerOffVM_TaskBody{Res: &types.PowerOffVM_TaskResponse{
		Returnval: v.l.run(ctx, v.VirtualMachine, "PowerOffVM_Task", "powerOff",
			func(ctx *simulator.Context, _ types.BaseMethodFault) (any, types.BaseMethodFault) {
				return nil, v.l.powerOff(ctx, v.VirtualMachine)
			})}}
}

func (l *Lab) powerOff(ctx *simulator.Context, x *simulator.VirtualMachine) types.BaseMethodFault {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.machines[x.Self]
	if _, fault := stock(ctx, x.PowerOffVMTask(ctx, &types.PowerOffVM_Task{This: x.Self})); fault != nil {
		return fault
	}
	m.on = false
	if err := l.appear(m); err != nil {
		return trouble(m.vmx, err)
	}
	return nil
}

// ShutdownGuest asks the guest's tools, which stop the machine a moment later.
func (v *vm) ShutdownGuest(ctx *simulator.Context, _ *types.ShutdownGuest) soap.HasFault {
	body := &methods.ShutdownGuestBody{}
	switch {
	case v.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOn:
		body.Fault_ = refused(&types.InvalidPowerState{
			RequestedState: types.VirtualMachinePowerStatePoweredOn, ExistingState: v.Runtime.PowerState})
	case !tools(v.VirtualMachine):
		body.Fault_ = refused(&types.ToolsUnavailable{})
	default:
		v.l.run(ctx, v.VirtualMachine, "ShutdownGuest", "shutdownGuest",
			func(ctx *simulator.Context, _ types.BaseMethodFault) (any, types.BaseMethodFault) {
				return nil, v.l.powerOff(ctx, v.VirtualMachine)
			})
		body.Res = &types.ShutdownGuestResponse{}
	}
	return body
}

// tools says whether the guest's tools run.
func tools(x *simulator.VirtualMachine) bool {
	return x.Guest != nil && x.Guest.ToolsRunningStatus == string(types.VirtualMachineToolsRunningStatusGuestToolsRunning)
}

func removeIfThere(name string) error {
	if err := os.Remove(name); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// under says whether a datastore path is in a directory, or is it.
func under(p, dir string) bool {
	dir = strings.TrimSuffix(dir, "/")
	return p == dir || strings.HasPrefix(p, dir+"/")
}
