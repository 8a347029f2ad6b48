package esx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	faults "github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"understudy/hypervisors"
)

// Production goes first: while a snapshot is open all that the guest writes goes beside its disk, and takes room of the
// datastore. When none is left ESX stops the guest. And the longer a snapshot is open, the longer it takes to merge.
const (
	watchEach = 5 * time.Second
	// reserve is the free space of a datastore below which a checkpoint gives way.
	reserve = 1 << 30
	// mostAge of a snapshot.
	mostAge = 24 * time.Hour
)

// consolidatePauses are waited for between two tries to merge a snapshot away.
var consolidatePauses = []time.Duration{100 * time.Millisecond, time.Second, 5 * time.Second, 15 * time.Second, 30 * time.Second}

// frozen are the snapshots of checkpoints that are open.
type frozen struct {
	mu        sync.Mutex
	snapshots map[types.ManagedObjectReference]bool
}

func (f *frozen) set(ref types.ManagedObjectReference, open bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.snapshots == nil {
		f.snapshots = map[types.ManagedObjectReference]bool{}
	}
	if open {
		f.snapshots[ref] = true
	} else {
		delete(f.snapshots, ref)
	}
}

func (f *frozen) has(ref types.ManagedObjectReference) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.snapshots[ref]
}

// checkpoint is a snapshot of each of its machines, with the disks below them open.
type checkpoint struct {
	host        *host
	name        string
	taken       time.Time
	consistency hypervisors.Consistency
	ids         map[string]hypervisors.ChangeID
	machines    []*frozenMachine
	disks       []*frozenDisk
	unwatch     func()

	closing sync.Mutex // one close at a time
	mu      sync.RWMutex
	over    error // why nothing can be read any more
	gone    bool  // all is removed
}

// frozenMachine is one machine of a checkpoint.
type frozenMachine struct {
	id, name string
	vm       *object.VirtualMachine
	since    changeID
	leaveOut []string
	snapshot *types.ManagedObjectReference // nil: not yet
	removed  bool
	readers  *readers // nil: not yet
	quiesced bool
}

// wants says that a disk is one of the checkpoint.
func (f *frozenMachine) wants(d hypervisors.Disk) bool {
	return d.Excluded == "" && !slices.Contains(f.leaveOut, d.ID)
}

// frozenDisk is one disk of a checkpoint.
type frozenDisk struct {
	cp      *checkpoint
	machine *frozenMachine
	id      string
	key     int32
	change  string
	image   diskFile
	reader  io.ReaderAt
}

func (cp *checkpoint) Taken() time.Time                           { return cp.taken }
func (cp *checkpoint) Consistency() hypervisors.Consistency       { return cp.consistency }
func (cp *checkpoint) ChangeIDs() map[string]hypervisors.ChangeID { return cp.ids }
func (d *frozenDisk) VM() string                                  { return d.machine.id }
func (d *frozenDisk) ID() string                                  { return d.id }
func (d *frozenDisk) Size() int64                                 { return d.image.size }

func (cp *checkpoint) Disks() []hypervisors.FrozenDisk {
	var disks []hypervisors.FrozenDisk
	for _, d := range cp.disks {
		disks = append(disks, d)
	}
	return disks
}

// ReadAt implements io.ReaderAt.
func (d *frozenDisk) ReadAt(p []byte, off int64) (int, error) {
	d.cp.mu.RLock()
	defer d.cp.mu.RUnlock()
	if d.cp.over != nil {
		return 0, d.cp.over
	}
	n, err := d.reader.ReadAt(p, off)
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	return n, fault("read", "machine "+d.machine.name+", disk "+d.id, err)
}

var errClosed = errors.New("the checkpoint is closed")

// Close removes the snapshots, and what was attached before.
func (cp *checkpoint) Close(ctx context.Context) error {
	cp.closing.Lock()
	defer cp.closing.Unlock()
	if cp.gone {
		return nil
	}
	cp.stop(errClosed)
	if err := cp.undo(ctx); err != nil {
		return err
	}
	cp.gone = true
	for _, f := range cp.machines {
		cp.host.locks.release(f.id)
	}
	return nil
}

// stop lets nobody read any more. The first reason counts.
func (cp *checkpoint) stop(why error) {
	if cp.unwatch != nil {
		cp.unwatch()
	}
	cp.mu.Lock()
	defer cp.mu.Unlock()
	if cp.over == nil {
		cp.over = why
	}
}

// undo takes back what was made, as far as it is there.
func (cp *checkpoint) undo(ctx context.Context) error {
	for _, f := range cp.machines {
		if f.readers == nil {
			continue
		}
		if err := f.readers.close(ctx); err != nil {
			return err
		}
	}
	for _, f := range cp.machines {
		if f.snapshot == nil || f.removed {
			continue
		}
		if err := cp.host.removeSnapshot(ctx, f.vm, f.name, *f.snapshot); err != nil {
			return err
		}
		cp.host.frozen.set(*f.snapshot, false)
		f.removed = true
	}
	return nil
}

// removeSnapshot removes a snapshot by its object, for names repeat, and sees to it that its content is merged.
func (h *host) removeSnapshot(ctx context.Context, vm *object.VirtualMachine, name string, ref types.ManagedObjectReference) error {
	res, err := methods.RemoveSnapshot_Task(ctx, h.client, &types.RemoveSnapshot_Task{This: ref, Consolidate: types.NewBool(true)})
	if err == nil {
		_, err = h.wait(ctx, "remove a snapshot of", "machine "+name, object.NewTask(h.client, res.Returnval))
	}
	if err != nil && !faults.Is(err, &types.ManagedObjectNotFound{}) && !errors.Is(err, hypervisors.ErrNotFound) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		h.log.Warn("a snapshot was not removed as it should be", "machine", name, "error", err)
	}
	var m mo.VirtualMachine
	lookErr := property.DefaultCollector(h.client).RetrieveOne(ctx, vm.Reference(), []string{"runtime.consolidationNeeded", "snapshot"}, &m)
	switch {
	case faults.Is(lookErr, &types.ManagedObjectNotFound{}):
		return nil // the machine is gone
	case lookErr != nil:
		return fault("look at", "machine "+name, lookErr)
	case m.Snapshot != nil && findSnapshot(m.Snapshot.RootSnapshotList, func(t *types.VirtualMachineSnapshotTree) bool { return t.Snapshot == ref }) != nil:
		return fault("remove a snapshot of", "machine "+name, cmpErr(err))
	case m.Runtime.ConsolidationNeeded:
		return h.consolidate(ctx, vm, name)
	}
	return nil
}

func cmpErr(err error) error {
	if err == nil {
		return errors.New("it is still there")
	}
	return err
}

// consolidate merges what a snapshot that is gone has left. Whoever holds a file of it, as a backup does, may take a while.
func (h *host) consolidate(ctx context.Context, vm *object.VirtualMachine, name string) error {
	for n := 0; ; n++ {
		res, err := methods.ConsolidateVMDisks_Task(ctx, h.client, &types.ConsolidateVMDisks_Task{This: vm.Reference()})
		if err == nil {
			_, err = h.wait(ctx, "consolidate", "machine "+name, object.NewTask(h.client, res.Returnval))
		}
		if err == nil {
			return nil
		}
		if n == len(consolidatePauses) {
			err = fault("consolidate", "machine "+name, err)
			return &hypervisors.Error{Op: "consolidate", Subject: "machine " + name, Err: err,
				Hint: "A snapshot is gone, but its content is not merged, so that the machine grows. Find out who holds its files, and consolidate it in the vSphere client."}
		}
		if err := pause(ctx, consolidatePauses[n]); err != nil {
			return err
		}
	}
}

// watch lets the checkpoint give way in time.
func (cp *checkpoint) watch() {
	for _, f := range cp.machines {
		cp.host.frozen.set(*f.snapshot, true)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for pause(ctx, watchEach) == nil {
			if why := cp.danger(ctx); why != "" {
				cp.host.log.Warn("checkpoint gave way", "reason", why)
				cp.giveWay(ctx, why)
				return
			}
		}
	}()
	cp.unwatch = sync.OnceFunc(func() {
		cancel()
		<-done
	})
}

// danger says why the checkpoint must end now; empty: it need not.
func (cp *checkpoint) danger(ctx context.Context) string {
	if age := cp.host.clock().Sub(cp.taken); age > mostAge {
		return fmt.Sprintf("its snapshot is %s old", age.Round(time.Minute))
	}
	for _, f := range cp.machines {
		var m mo.VirtualMachine
		pc := property.DefaultCollector(cp.host.client)
		if err := pc.RetrieveOne(ctx, f.vm.Reference(), []string{"datastore"}, &m); err != nil || len(m.Datastore) == 0 {
			continue // who does not answer can be told nothing either
		}
		var stores []mo.Datastore
		if err := pc.Retrieve(ctx, m.Datastore, []string{"summary"}, &stores); err != nil {
			continue
		}
		for _, s := range stores {
			if s.Summary.Accessible && s.Summary.FreeSpace < reserve {
				return fmt.Sprintf("datastore %s runs out: %d MiB are free", s.Summary.Name, s.Summary.FreeSpace>>20)
			}
		}
	}
	return ""
}

// giveWay ends reading and removes the snapshots. Close does what is left.
func (cp *checkpoint) giveWay(ctx context.Context, why string) {
	cp.mu.Lock()
	if cp.over == nil {
		cp.over = &hypervisors.Error{Op: "read", Subject: "checkpoint", Err: fmt.Errorf("%w: %s", hypervisors.ErrGaveWay, why),
			Hint: "Free space on the datastores of the machine."}
	}
	cp.mu.Unlock()
	if err := cp.undo(ctx); err != nil {
		cp.host.log.Warn("a checkpoint that gave way left something", "error", err)
	}
}
