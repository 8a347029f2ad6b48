package esx

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	faults "github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
	"golang.org/x/sync/errgroup"

	"understudy/hypervisors"
)

// leastVersion of virtual hardware that can tell what changed.
const leastVersion = 7

// locks let one piece of work at a time at each machine.
type locks struct {
	mu   sync.Mutex
	held map[string]bool
}

// take the locks of all machines, or none.
func (l *locks) take(ids ...string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range ids {
		if l.held[id] {
			return false
		}
	}
	if l.held == nil {
		l.held = map[string]bool{}
	}
	for _, id := range ids {
		l.held[id] = true
	}
	return true
}

func (l *locks) release(ids ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range ids {
		delete(l.held, id)
	}
}

// snapshotNote is the description of a snapshot of ours, for us and for an administrator who finds it.
type snapshotNote struct {
	About string    `json:"about"`
	Owner string    `json:"owner"`
	Taken time.Time `json:"taken"`
}

// Checkpoint freezes machines by snapshots, which are taken at the same time, one for each.
func (h *host) Checkpoint(ctx context.Context, req hypervisors.CheckpointRequest) (hypervisors.Checkpoint, error) {
	var ids []string
	for _, vm := range req.VMs {
		ids = append(ids, vm.ID)
	}
	if slices.Sort(ids); len(ids) == 0 || len(slices.Compact(slices.Clone(ids))) < len(ids) {
		return nil, &hypervisors.Error{Op: "take checkpoint", Subject: req.Name, Err: fmt.Errorf("%w: no machine, or one twice", hypervisors.ErrInvalid)}
	}
	if !h.locks.take(ids...) {
		return nil, &hypervisors.Error{Op: "take checkpoint", Subject: req.Name, Err: hypervisors.ErrBusy, Hint: "Another checkpoint of the machine is open."}
	}
	cp, err := h.checkpoint(ctx, req)
	if err != nil {
		h.locks.release(ids...)
		return nil, err
	}
	return cp, nil
}

func (h *host) checkpoint(ctx context.Context, req hypervisors.CheckpointRequest) (_ *checkpoint, err error) {
	cp := &checkpoint{host: h, name: h.ours() + req.Name, ids: map[string]hypervisors.ChangeID{}, consistency: hypervisors.CrashConsistent}
	for _, vm := range req.VMs {
		f, err := h.prepare(ctx, vm)
		if err != nil {
			return nil, err
		}
		cp.machines = append(cp.machines, f)
	}
	defer func() {
		if err != nil {
			undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterwards)
			defer cancel()
			err = errors.Join(err, cp.undo(undo))
		}
	}()
	cp.taken = h.clock()
	var work errgroup.Group
	for _, f := range cp.machines {
		work.Go(func() error { return cp.snapshot(ctx, f, req.Quiesce) })
	}
	if err := work.Wait(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	for _, f := range cp.machines {
		if err := cp.open(ctx, f); err != nil {
			return nil, err
		}
	}
	if req.Quiesce && !slices.ContainsFunc(cp.machines, func(f *frozenMachine) bool { return !f.quiesced }) {
		cp.consistency = hypervisors.ApplicationConsistent
	}
	cp.watch()
	return cp, nil
}

// prepare looks whether a machine can be frozen, and has it track its changes.
func (h *host) prepare(ctx context.Context, want hypervisors.CheckpointVM) (*frozenMachine, error) {
	vm, m, err := h.machine(ctx, want.ID)
	if err != nil {
		return nil, err
	}
	f := &frozenMachine{id: want.ID, name: m.Name, vm: vm, since: parseChangeID(want.Since), leaveOut: want.LeaveOut}
	refuse := func(err error, hint string) (*frozenMachine, error) {
		return nil, &hypervisors.Error{Op: "take checkpoint of", Subject: "machine " + m.Name, Err: err, Hint: hint}
	}
	hw, _ := hardware(m.Config, nil)
	if !slices.ContainsFunc(hw.Disks, f.wants) {
		var why []string
		for _, d := range hw.Disks {
			if d.Excluded != "" {
				why = append(why, d.ID+": "+d.Excluded)
			}
		}
		return refuse(fmt.Errorf("%w: no disk of it can be frozen %v", hypervisors.ErrInvalid, why), "")
	}
	if v, err := strconv.Atoi(strings.TrimPrefix(m.Config.Version, "vmx-")); err == nil && v < leastVersion {
		return refuse(fmt.Errorf("%w: its virtual hardware %s cannot tell what changed; %d or later is needed", hypervisors.ErrIncapable, m.Config.Version, leastVersion),
			"Upgrade the compatibility of the virtual machine.")
	}
	if m.Runtime.ConsolidationNeeded {
		if err := h.consolidate(ctx, vm, m.Name); err != nil {
			return nil, err
		}
	}
	if yes(m.Config.ChangeTrackingEnabled) {
		return f, nil
	}
	if m.Snapshot != nil && len(m.Snapshot.RootSnapshotList) > 0 {
		return refuse(fmt.Errorf("%w: change tracking cannot be switched on while it has snapshots: %s", hypervisors.ErrInUse, strings.Join(snapshotNames(m.Snapshot.RootSnapshotList), ", ")),
			"Remove the machine's snapshots once; later ones do no harm.")
	}
	spec := types.VirtualMachineConfigSpec{ChangeTrackingEnabled: types.NewBool(true)}
	return f, h.reconfigure(ctx, vm, "switch on change tracking of", "machine "+m.Name, spec)
}

func snapshotNames(tree []types.VirtualMachineSnapshotTree) (names []string) {
	for _, t := range tree {
		names = append(names, strconv.Quote(t.Name))
		names = append(names, snapshotNames(t.ChildSnapshotList)...)
	}
	return names
}

// snapshot freezes one machine. What was made is in f before anything can fail.
func (cp *checkpoint) snapshot(ctx context.Context, f *frozenMachine, quiesce bool) error {
	note, err := json.Marshal(snapshotNote{"Understudy copies the disks of this machine. It removes this snapshot itself.", cp.host.owner, cp.taken})
	if err != nil {
		return err
	}
	take := func(quiesce bool) error {
		t, err := f.vm.CreateSnapshot(ctx, cp.name, string(note), false, quiesce)
		if err != nil {
			return fault("freeze", "machine "+f.name, err)
		}
		result, err := cp.host.wait(ctx, "freeze", "machine "+f.name, t)
		if err != nil {
			return err
		}
		ref, _ := result.(types.ManagedObjectReference)
		f.snapshot = &ref
		return nil
	}
	err = take(quiesce)
	if quiesce && cannotQuiesce(err) {
		cp.host.log.Info("the guest cannot be quiesced; frozen as it is", "machine", f.name, "error", err)
		err = take(false)
	}
	if faults.Is(err, &types.TooManySnapshotLevels{}) {
		return &hypervisors.Error{Op: "freeze", Subject: "machine " + f.name, Err: fmt.Errorf("%w: it has as many snapshots as ESX allows", hypervisors.ErrInUse),
			Hint: "Remove snapshots of the machine."}
	}
	return err
}

// limit says what a user can do when a replica has as many snapshots as ESX allows.
func limit(err error) error {
	if !faults.Is(err, &types.TooManySnapshotLevels{}) {
		return err
	}
	return &hypervisors.Error{Op: "keep", Subject: "one more point", Err: fmt.Errorf("%w: the replica has as many snapshots as ESX allows, which is 32", hypervisors.ErrInUse),
		Hint: "Keep fewer points: lessen the group's retention."}
}

func cannotQuiesce(err error) bool {
	for _, f := range []types.BaseMethodFault{&types.ApplicationQuiesceFault{}, &types.FilesystemQuiesceFault{}, &types.ToolsUnavailable{}} {
		if faults.Is(err, f) {
			return true
		}
	}
	return false
}

// open reads what the snapshot has frozen, and opens its disks.
func (cp *checkpoint) open(ctx context.Context, f *frozenMachine) error {
	var snap mo.VirtualMachineSnapshot
	pc := property.DefaultCollector(cp.host.client)
	if err := pc.RetrieveOne(ctx, *f.snapshot, []string{"config"}, &snap); err != nil {
		return fault("look at", "a snapshot of machine "+f.name, err)
	}
	var m mo.VirtualMachine
	if err := pc.RetrieveOne(ctx, f.vm.Reference(), []string{"snapshot"}, &m); err != nil {
		return fault("look at", "machine "+f.name, err)
	}
	if m.Snapshot != nil {
		if t := findSnapshot(m.Snapshot.RootSnapshotList, func(t *types.VirtualMachineSnapshotTree) bool { return t.Snapshot == *f.snapshot }); t != nil {
			f.quiesced = t.Quiesced
		}
	}
	dc, err := cp.host.datacenter(ctx, f.vm.Reference())
	if err != nil {
		return err
	}
	id := changeID{}
	var disks []*frozenDisk
	var files []diskFile
	for _, d := range disksOf(&snap.Config) {
		disk, shown := d.VirtualDisk, d.shown
		if !f.wants(shown) {
			continue
		}
		frozen := &frozenDisk{cp: cp, machine: f, id: shown.ID, key: disk.Key, change: changeOf(disk),
			image: diskFile{file: shown.Path, uuid: diskUUID(disk), size: shown.Size, dc: dc, flat: isFlat(disk),
				vm: f.vm.Reference(), snapshot: f.snapshot}}
		disks, files = append(disks, frozen), append(files, frozen.image)
		if frozen.change != "" {
			id[frozen.id] = diskChange{frozen.change, disk.Key, frozen.image.uuid, frozen.image.size}
		}
	}
	if f.readers, err = cp.host.read(ctx, files); err != nil {
		return err
	}
	for i, d := range disks {
		d.reader = f.readers.each[i]
	}
	cp.disks = append(cp.disks, disks...)
	if len(id) > 0 {
		cp.ids[f.id] = id.pack()
	}
	return nil
}

func findSnapshot(tree []types.VirtualMachineSnapshotTree, is func(*types.VirtualMachineSnapshotTree) bool) *types.VirtualMachineSnapshotTree {
	for i := range tree {
		if is(&tree[i]) {
			return &tree[i]
		}
		if t := findSnapshot(tree[i].ChildSnapshotList, is); t != nil {
			return t
		}
	}
	return nil
}

// changeOf is the change id of a disk; empty: its changes are not tracked.
func changeOf(d *types.VirtualDisk) string {
	switch b := d.Backing.(type) {
	case *types.VirtualDiskFlatVer2BackingInfo:
		return b.ChangeId
	case *types.VirtualDiskSeSparseBackingInfo:
		return b.ChangeId
	case *types.VirtualDiskSparseVer2BackingInfo:
		return b.ChangeId
	case *types.VirtualDiskRawDiskMappingVer1BackingInfo:
		return b.ChangeId
	}
	return ""
}

// isFlat says that the content of a disk is one file, with nothing below.
func isFlat(d *types.VirtualDisk) bool {
	b, ok := d.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
	return ok && b.Parent == nil && b.DeltaDiskFormat == ""
}

// Forget has nothing to do: the host keeps what changed for as long as the disk is as it was, whoever asks.
func (h *host) Forget(context.Context, string, ...hypervisors.ChangeID) error { return nil }

// cleanSource removes the snapshots that earlier runs of this appliance have left, and first what holds them.
func (h *host) cleanSource(ctx context.Context) (removed []string, err error) {
	if removed, err = h.cleanAttached(ctx); err != nil {
		return removed, err
	}
	all, err := h.machines(ctx)
	if err != nil {
		return removed, err
	}
	for _, m := range all {
		vm := object.NewVirtualMachine(h.client, m.Self)
		more, err := h.cleanMachine(ctx, vm, m)
		removed = append(removed, more...)
		if err != nil {
			return removed, err
		}
	}
	return removed, nil
}

func (h *host) cleanMachine(ctx context.Context, vm *object.VirtualMachine, m mo.VirtualMachine) (removed []string, err error) {
	if err := h.waitSnapshots(ctx, vm); err != nil {
		return nil, err
	}
	if err := property.DefaultCollector(h.client).RetrieveOne(ctx, m.Self, []string{"snapshot"}, &m); err != nil {
		if faults.Is(err, &types.ManagedObjectNotFound{}) {
			return nil, nil
		}
		return nil, fault("look at", "machine "+m.Name, err)
	}
	for m.Snapshot != nil {
		t := findSnapshot(m.Snapshot.RootSnapshotList, func(t *types.VirtualMachineSnapshotTree) bool {
			return strings.HasPrefix(t.Name, h.ours()) && !h.frozen.has(t.Snapshot)
		})
		if t == nil {
			break
		}
		if err := h.removeSnapshot(ctx, vm, m.Name, t.Snapshot); err != nil {
			return removed, err
		}
		removed = append(removed, "snapshot "+t.Name+" of machine "+m.Name)
		m.Snapshot = nil
		if err := property.DefaultCollector(h.client).RetrieveOne(ctx, m.Self, []string{"snapshot"}, &m); err != nil {
			return removed, fault("look at", "machine "+m.Name, err)
		}
	}
	return removed, nil
}

// waitSnapshots waits until no snapshot of a machine is being made: one that an earlier run ordered must be seen.
func (h *host) waitSnapshots(ctx context.Context, vm *object.VirtualMachine) error {
	var m mo.VirtualMachine
	if err := property.DefaultCollector(h.client).RetrieveOne(ctx, vm.Reference(), []string{"recentTask"}, &m); err != nil {
		if faults.Is(err, &types.ManagedObjectNotFound{}) {
			return nil
		}
		return fault("look at", "the tasks of a machine", err)
	}
	for _, ref := range m.RecentTask {
		t := object.NewTask(h.client, ref)
		info, err := h.look(ctx, t)
		if err != nil || !strings.HasSuffix(info.DescriptionId, "createSnapshot") || info.State == types.TaskInfoStateSuccess || info.State == types.TaskInfoStateError {
			continue
		}
		_, _ = h.wait(ctx, "freeze", "a machine", t) // how it ends is seen in the snapshots
	}
	return nil
}
