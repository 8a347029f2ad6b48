package lab

import (
	"maps"
	"slices"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// CreateSnapshotTask freezes all dependent disks at one moment and puts a layer above each.
func (v *vm) CreateSnapshotTask(ctx *simulator.Context, req *types.CreateSnapshot_Task) soap.HasFault {
	return &methods.CreateSnapshot_TaskBody{Res: &types.CreateSnapshot_TaskResponse{
		Returnval: v.l.run(ctx, v.VirtualMachine, "CreateSnapshot_Task", "createSnapshot",
			func(ctx *simulator.Context, _ types.BaseMethodFault) (any, types.BaseMethodFault) {
				return v.l.freeze(ctx, v.VirtualMachine, req)
			})}}
}

func (l *Lab) freeze(ctx *simulator.Context, x *simulator.VirtualMachine, req *types.CreateSnapshot_Task) (any, types.BaseMethodFault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.machines[x.Self]
	if f := l.canFreeze(m, x); f != nil {
		return nil, f
	}
	// Without tools in a running guest nothing is quiesced, and the snapshot says so.
	plain := *req
	plain.Quiesce = req.Quiesce && m.on && tools(x)
	res, fault := stock(ctx, x.CreateSnapshotTask(ctx, &plain))
	if fault != nil {
		return nil, fault
	}
	ref := res.(types.ManagedObjectReference)
	l.track(m, x.Config.ChangeTrackingEnabled)
	now := map[int32]frozen{}
	for _, d := range m.disks {
		if independent(d.mode) {
			continue
		}
		layer, err := l.layer(l.next(d.image.path), d.image, d.image.uuid)
		if err != nil {
			return nil, trouble(d.image.path, err)
		}
		now[d.key] = frozen{d.image, d.history.next()}
		d.image = layer
	}
	m.snaps[ref] = now
	l.publish(ctx, m)
	return ref, nil
}

func (l *Lab) canFreeze(m *machine, x *simulator.VirtualMachine) types.BaseMethodFault {
	if f := l.orders.noSpace(m.vmx); f != nil {
		return f
	}
	if x.Snapshot != nil && x.Snapshot.CurrentSnapshot != nil &&
		depth(x.Snapshot.RootSnapshotList, *x.Snapshot.CurrentSnapshot) >= l.o.SnapshotLimit {
		return &types.TooManySnapshotLevels{}
	}
	for _, d := range m.disks {
		if independent(d.mode) {
			continue
		}
		if !d.image.whole() {
			return lost(d.image.path, "chain")
		}
		if l.use(d.image, m) == writing {
			return locked(d.image)
		}
	}
	return nil
}

// depth of a snapshot in a tree, from 1; 0: it is not there.
func depth(tree []types.VirtualMachineSnapshotTree, ref types.ManagedObjectReference) int {
	for _, t := range tree {
		if t.Snapshot == ref {
			return 1
		}
		if n := depth(t.ChildSnapshotList, ref); n > 0 {
			return n + 1
		}
	}
	return 0
}

// below lists a snapshot and what is below it.
func below(tree []types.VirtualMachineSnapshotTree, ref types.ManagedObjectReference, in bool) []types.ManagedObjectReference {
	var out []types.ManagedObjectReference
	for _, t := range tree {
		here := in || t.Snapshot == ref
		if here {
			out = append(out, t.Snapshot)
		}
		out = append(out, below(t.ChildSnapshotList, ref, here)...)
	}
	return out
}

func (s *snapshot) machine(ctx *simulator.Context) *simulator.VirtualMachine {
	return ctx.Map.Get(s.Vm).(*simulator.VirtualMachine)
}

// RemoveSnapshotTask takes a snapshot out of the tree and merges its layers.
func (s *snapshot) RemoveSnapshotTask(ctx *simulator.Context, req *types.RemoveSnapshot_Task) soap.HasFault {
	x := s.machine(ctx)
	return &methods.RemoveSnapshot_TaskBody{Res: &types.RemoveSnapshot_TaskResponse{
		Returnval: s.l.run(ctx, x, "RemoveSnapshot_Task", "removeSnapshot",
			func(ctx *simulator.Context, late types.BaseMethodFault) (any, types.BaseMethodFault) {
				s.l.mu.Lock()
				defer s.l.mu.Unlock()
				if _, ok := s.l.machines[x.Self].snaps[s.Self]; !ok {
					return nil, &types.ManagedObjectNotFound{Obj: s.Self}
				}
				refs := []types.ManagedObjectReference{s.Self}
				if req.RemoveChildren {
					refs = below(x.Snapshot.RootSnapshotList, s.Self, false)
				}
				slices.Reverse(refs) // from the leaves on
				return nil, s.l.removeSnapshots(ctx, x, refs, late)
			})}}
}

// RemoveAllSnapshotsTask merges everything into what the machine has now.
func (v *vm) RemoveAllSnapshotsTask(ctx *simulator.Context, _ *types.RemoveAllSnapshots_Task) soap.HasFault {
	return &methods.RemoveAllSnapshots_TaskBody{Res: &types.RemoveAllSnapshots_TaskResponse{
		Returnval: v.l.run(ctx, v.VirtualMachine, "RemoveAllSnapshots_Task", "removeAllSnapshots",
			func(ctx *simulator.Context, late types.BaseMethodFault) (any, types.BaseMethodFault) {
				v.l.mu.Lock()
				defer v.l.mu.Unlock()
				if v.Snapshot == nil {
					return nil, nil
				}
				refs := below(v.Snapshot.RootSnapshotList, types.ManagedObjectReference{}, true)
				slices.Reverse(refs)
				return nil, v.l.removeSnapshots(ctx, v.VirtualMachine, refs, late)
			})}}
}

func (l *Lab) removeSnapshots(
	ctx *simulator.Context, x *simulator.VirtualMachine, refs []types.ManagedObjectReference, late types.BaseMethodFault,
) types.BaseMethodFault {
	m := l.machines[x.Self]
	for _, ref := range refs {
		l.prune(ctx, x, ref)
		for _, f := range m.snaps[ref] {
			m.hidden[f.image] = true
		}
		delete(m.snaps, ref)
	}
	var fault types.BaseMethodFault
	if late == nil {
		fault = l.consolidate(m)
	}
	needed := late != nil || fault != nil
	ctx.Update(x, []types.PropertyChange{{Name: "runtime.consolidationNeeded", Val: needed}})
	l.publish(ctx, m)
	return fault
}

// prune a snapshot from the tree; its children take its place. The simulator panics when the current one has no parent.
func (l *Lab) prune(ctx *simulator.Context, x *simulator.VirtualMachine, ref types.ManagedObjectReference) {
	var parent *types.ManagedObjectReference
	var without func([]types.VirtualMachineSnapshotTree, *types.ManagedObjectReference) []types.VirtualMachineSnapshotTree
	without = func(in []types.VirtualMachineSnapshotTree, above *types.ManagedObjectReference) []types.VirtualMachineSnapshotTree {
		var out []types.VirtualMachineSnapshotTree
		for _, t := range in {
			kids := without(t.ChildSnapshotList, &t.Snapshot)
			if t.Snapshot == ref {
				parent = above
				out = append(out, kids...)
				continue
			}
			t.ChildSnapshotList = kids
			out = append(out, t)
		}
		return out
	}
	tree := *x.Snapshot
	tree.RootSnapshotList = without(tree.RootSnapshotList, nil)
	if tree.CurrentSnapshot != nil && *tree.CurrentSnapshot == ref {
		tree.CurrentSnapshot = parent
	}
	l.unlist(x, ref)
	if len(tree.RootSnapshotList) == 0 {
		ctx.Update(x, []types.PropertyChange{{Name: "snapshot", Val: nil}, {Name: "rootSnapshot", Val: nil}})
	} else {
		var roots []types.ManagedObjectReference
		for _, t := range tree.RootSnapshotList {
			roots = append(roots, t.Snapshot)
		}
		ctx.Update(x, []types.PropertyChange{{Name: "snapshot", Val: tree}, {Name: "rootSnapshot", Val: roots}})
	}
	ctx.Map.Remove(ctx, ref)
}

// unlist deletes the .vmsn of a snapshot.
func (l *Lab) unlist(x *simulator.VirtualMachine, ref types.ManagedObjectReference) {
	for n, s := range x.LayoutEx.Snapshot {
		if s.Key != ref {
			continue
		}
		for _, f := range x.LayoutEx.File {
			if f.Key == s.DataKey {
				if err := removeIfThere(l.local(f.Name)); err != nil {
					l.log.Warn("delete a file of a snapshot", "file", f.Name, "error", err)
				}
			}
		}
		x.LayoutEx.Snapshot = slices.Delete(x.LayoutEx.Snapshot, n, n+1)
		break
	}
	x.Layout.Snapshot = slices.DeleteFunc(x.Layout.Snapshot, func(s types.VirtualMachineFileLayoutSnapshotLayout) bool {
		return s.Key == ref
	})
}

// consolidate merges and deletes what no snapshot needs any more. What another running machine uses stays, with a fault;
// what several layers rely on stays until there is one. l.mu is held.
func (l *Lab) consolidate(m *machine) types.BaseMethodFault {
	var fault types.BaseMethodFault
	for again := true; again; {
		again, fault = false, nil
		for _, i := range slices.SortedFunc(maps.Keys(m.hidden), func(a, b *image) int { return len(b.path) - len(a.path) }) {
			switch kids := m.above(i); {
			case i.gone || m.refers(i):
				delete(m.hidden, i)
			case len(kids) > 1:
			case l.use(i, m) != unused:
				fault = locked(i)
			case len(kids) == 0:
				l.erase(i)
				delete(m.hidden, i)
				again = true
			case l.use(kids[0], m) != unused:
				fault = locked(kids[0])
			default:
				if f := l.fold(m, i, kids[0]); f != nil {
					return f
				}
				again = true
			}
		}
	}
	return fault
}

// fold the only layer above an image into it.
func (l *Lab) fold(m *machine, i, kid *image) types.BaseMethodFault {
	kids := m.above(kid)
	if err := l.merge(kid); err != nil {
		return trouble(i.path, err)
	}
	for _, k := range kids {
		k.parent, k.under = i, i.version
	}
	m.replace(kid, i)
	delete(m.hidden, i)
	if m.hidden[kid] {
		delete(m.hidden, kid)
		m.hidden[i] = true
	}
	return nil
}
