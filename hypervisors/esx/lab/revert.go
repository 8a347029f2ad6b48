package lab

import (
	"slices"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// RevertToSnapshotTask throws away what was written since; a running machine is off afterwards.
func (s *snapshot) RevertToSnapshotTask(ctx *simulator.Context, _ *types.RevertToSnapshot_Task) soap.HasFault {
	x := s.machine(ctx)
	return &methods.RevertToSnapshot_TaskBody{Res: &types.RevertToSnapshot_TaskResponse{
		Returnval: s.l.run(ctx, x, "RevertToSnapshot_Task", "revertToSnapshot",
			func(ctx *simulator.Context, _ types.BaseMethodFault) (any, types.BaseMethodFault) {
				return nil, s.l.revert(ctx, x, s.VirtualMachineSnapshot)
			})}}
}

// RevertToCurrentSnapshotTask is RevertToSnapshotTask of the newest.
func (v *vm) RevertToCurrentSnapshotTask(ctx *simulator.Context, _ *types.RevertToCurrentSnapshot_Task) soap.HasFault {
	body := &methods.RevertToCurrentSnapshot_TaskBody{}
	if v.Snapshot == nil || v.Snapshot.CurrentSnapshot == nil {
		body.Fault_ = refused(&types.NotFound{})
		return body
	}
	s := ctx.Map.Get(*v.Snapshot.CurrentSnapshot).(*simulator.VirtualMachineSnapshot)
	body.Res = &types.RevertToCurrentSnapshot_TaskResponse{
		Returnval: v.l.run(ctx, v.VirtualMachine, "RevertToCurrentSnapshot_Task", "revertToCurrentSnapshot",
			func(ctx *simulator.Context, _ types.BaseMethodFault) (any, types.BaseMethodFault) {
				return nil, v.l.revert(ctx, v.VirtualMachine, s)
			})}
	return body
}

func (l *Lab) revert(ctx *simulator.Context, x *simulator.VirtualMachine, s *simulator.VirtualMachineSnapshot) types.BaseMethodFault {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.machines[x.Self]
	snap, ok := m.snaps[s.Self]
	if !ok {
		return &types.ManagedObjectNotFound{Obj: s.Self}
	}
	if f := l.orders.noSpace(m.vmx); f != nil {
		return f
	}
	for _, d := range m.disks {
		if !independent(d.mode) && l.use(d.image, m) != unused {
			return locked(d.image)
		}
	}
	if m.on {
		if _, fault := stock(ctx, x.PowerOffVMTask(ctx, &types.PowerOffVM_Task{This: x.Self})); fault != nil {
			return fault
		}
		m.on = false
	}
	if _, fault := stock(ctx, s.RevertToSnapshotTask(ctx, &types.RevertToSnapshot_Task{This: s.Self})); fault != nil {
		return fault
	}
	// What the machine was is what it is: its devices and options as well. Disks that were added since are only taken out.
	ctx.Update(x, []types.PropertyChange{
		{Name: "config.hardware.device", Val: copied(s.Config.Hardware.Device)},
		{Name: "config.extraConfig", Val: slices.Clone(s.Config.ExtraConfig)},
	})
	x.Config.ChangeTrackingEnabled = s.Config.ChangeTrackingEnabled
	old := m.disks
	m.disks = map[int32]*disk{}
	devices := object.VirtualDeviceList(x.Config.Hardware.Device)
	for key, f := range snap {
		layer, err := l.layer(l.next(f.image.path), f.image, f.image.uuid)
		if err != nil {
			return trouble(f.image.path, err)
		}
		dev := devices.FindByKey(key).(*types.VirtualDisk)
		m.disks[key] = &disk{key: key, name: slot(devices, dev), image: layer, mode: mode(dev)}
		if d := old[key]; d != nil && d.image.parent != nil && !m.refers(d.image) && len(m.above(d.image)) == 0 {
			m.hidden[d.image] = true
		}
	}
	for key, d := range old {
		if _, ok := snap[key]; !ok && independent(d.mode) && devices.FindByKey(key) != nil {
			m.disks[key] = d
		}
	}
	l.track(m, s.Config.ChangeTrackingEnabled)
	fault := l.consolidate(m)
	l.publish(ctx, m)
	return fault
}

// ConsolidateVMDisksTask tries again what a removal left.
func (v *vm) ConsolidateVMDisksTask(ctx *simulator.Context, _ *types.ConsolidateVMDisks_Task) soap.HasFault {
	return &methods.ConsolidateVMDisks_TaskBody{Res: &types.ConsolidateVMDisks_TaskResponse{
		Returnval: v.l.run(ctx, v.VirtualMachine, "ConsolidateVMDisks_Task", "consolidateVMDisks",
			func(ctx *simulator.Context, _ types.BaseMethodFault) (any, types.BaseMethodFault) {
				v.l.mu.Lock()
				defer v.l.mu.Unlock()
				m := v.l.machines[v.Self]
				fault := v.l.consolidate(m)
				ctx.Update(v.VirtualMachine, []types.PropertyChange{
					{Name: "runtime.consolidationNeeded", Val: fault != nil}})
				v.l.publish(ctx, m)
				return nil, fault
			})}}
}

// RenameSnapshot changes a snapshot's name and description.
func (s *snapshot) RenameSnapshot(ctx *simulator.Context, req *types.RenameSnapshot) soap.HasFault {
	x := s.machine(ctx)
	ctx.WithLock(x, func() {
		tree := *x.Snapshot
		tree.RootSnapshotList = renamed(tree.RootSnapshotList, req)
		ctx.Update(x, []types.PropertyChange{{Name: "snapshot", Val: tree}})
	})
	return &methods.RenameSnapshotBody{Res: &types.RenameSnapshotResponse{}}
}

func renamed(in []types.VirtualMachineSnapshotTree, req *types.RenameSnapshot) []types.VirtualMachineSnapshotTree {
	out := slices.Clone(in)
	for n := range out {
		if out[n].Snapshot == req.This {
			if req.Name != "" {
				out[n].Name = req.Name
			}
			if req.Description != "" {
				out[n].Description = req.Description
			}
		}
		out[n].ChildSnapshotList = renamed(out[n].ChildSnapshotList, req)
	}
	return out
}
