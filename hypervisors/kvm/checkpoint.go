package kvm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"libvirt.org/go/libvirt"

	"understudy/hypervisors"
	"understudy/snapshot"
	"understudy/snapshot/nbd"
)

// checkpoint is one frozen moment: a pull backup job for each machine, whose exports are read over NBD.
type checkpoint struct {
	host        *host
	plans       []*plan
	taken       time.Time
	consistency hypervisors.Consistency
	disks       []*frozenDisk
	scratch     []*scratchSpace

	watching sync.WaitGroup
	unwatch  context.CancelFunc

	mu sync.Mutex
	// gone says why the frozen moment can no longer be read; nil while it can.
	gone error

	// closing is held by whoever ends the jobs, so that nobody takes the next checkpoint's job for this one's.
	closing sync.Mutex
	// closed says that Close was tried, and that the machines are no longer locked for this checkpoint.
	closed bool
}

var errRead = fmt.Errorf("the checkpoint was closed: %w", net.ErrClosed)

func (cp *checkpoint) Taken() time.Time                     { return cp.taken }
func (cp *checkpoint) Consistency() hypervisors.Consistency { return cp.consistency }

func (cp *checkpoint) ChangeIDs() map[string]hypervisors.ChangeID {
	ids := map[string]hypervisors.ChangeID{}
	for _, p := range cp.plans {
		if p.checkpoint != "" {
			ids[p.vm] = hypervisors.ChangeID(p.checkpoint)
		}
	}
	return ids
}

func (cp *checkpoint) Disks() []hypervisors.FrozenDisk {
	var all []hypervisors.FrozenDisk
	for _, d := range cp.disks {
		all = append(all, d)
	}
	return all
}

// openCheckpoints are those that can be read, by machine: for whoever has to end them.
type openCheckpoints struct {
	mu   sync.Mutex
	byVM map[string]*checkpoint
}

func (o *openCheckpoints) set(vm string, cp *checkpoint) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.byVM == nil {
		o.byVM = map[string]*checkpoint{}
	}
	o.byVM[vm] = cp
}

func (o *openCheckpoints) drop(vm string, cp *checkpoint) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.byVM[vm] == cp {
		delete(o.byVM, vm)
	}
}

func (o *openCheckpoints) of(vm string) *checkpoint {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.byVM[vm]
}

// abandon ends all reading, but not the jobs: the host's connection is being closed.
func (o *openCheckpoints) abandon() {
	o.mu.Lock()
	var all []*checkpoint
	for _, cp := range o.byVM {
		all = append(all, cp)
	}
	o.mu.Unlock()
	for _, cp := range all {
		cp.stopReading(errClosed)
	}
}

// nbdConnections per disk: enough to keep one QEMU busy.
const nbdConnections = 4

// open connects to every disk, so that nothing about the moment is left to be found out later.
func (cp *checkpoint) open(ctx context.Context) error {
	for _, p := range cp.plans {
		for _, k := range p.disks {
			d := &frozenDisk{cp: cp, plan: p, id: k.ID, tracked: k.since != ""}
			o := nbd.Options{Export: k.ID, Contexts: []string{nbd.Allocation}, Connections: nbdConnections}
			if d.tracked {
				o.Contexts = append(o.Contexts, nbd.Bitmap(exportBitmap(k.ID)))
			}
			var err error
			d.client, err = nbd.Dial(ctx, func(ctx context.Context) (net.Conn, error) { return cp.host.place.Dial(ctx, p.socket) }, o)
			if err != nil {
				return takeError(p.vm, fmt.Errorf("disk %s: %w", k.ID, err))
			}
			// A bitmap does not mark what the disk has grown by, nor what was cut off and came back.
			if d.tracked && d.client.Size() != k.sizeThen {
				d.tracked = false
			}
			cp.disks = append(cp.disks, d)
		}
		cp.host.open.set(p.vm, cp)
	}
	return nil
}

// Close ends the jobs and waits until their scratch space is free again. After a failure it can be called again, and ends
// what is left.
func (cp *checkpoint) Close(ctx context.Context) error {
	cp.stopReading(errRead)
	cp.closing.Lock()
	defer cp.closing.Unlock()
	// Given up by the caller or not: guests must not pay for a checkpoint that nobody reads.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupPatience)
	defer cancel()
	err := together(cp.plans, func(p *plan) error { return cp.giveBack(ctx, p) })
	for _, p := range cp.plans {
		cp.host.open.drop(p.vm, cp)
	}
	cp.closed = true
	if err != nil {
		return &hypervisors.Error{Op: "close", Subject: "checkpoint", Err: err, Hint: "What is left is removed by the next cycle, or at the next connect."}
	}
	return nil
}

// giveBack releases a plan, or once more what an earlier Close has left of it. That one gave the machine free for the next
// checkpoint, whose job looks like this one's; so the machine must be ours again first.
func (cp *checkpoint) giveBack(ctx context.Context, p *plan) error {
	if p.released {
		return nil
	}
	if cp.closed && !cp.host.locks.try(p.vm) {
		return busy("this appliance works on machine " + p.name + " already")
	}
	err := cp.host.release(ctx, p)
	p.released = err == nil
	return err
}

// undo is Close for a checkpoint that did not come about: its tracking goes too.
func (cp *checkpoint) undo(ctx context.Context) {
	cp.stopReading(errRead)
	err := together(cp.plans, func(p *plan) error { return cp.host.undo(ctx, p) })
	for _, p := range cp.plans {
		cp.host.open.drop(p.vm, cp)
	}
	if err != nil {
		cp.host.log.Warn("a failed checkpoint left something behind; it is removed at the next connect", "reason", err.Error())
	}
}

// stopReading ends the watch and the connections; reads fail with why, unless they do already for another reason.
func (cp *checkpoint) stopReading(why error) {
	if cp.unwatch != nil {
		cp.unwatch()
		cp.watching.Wait()
	}
	cp.end(why)
}

// end makes all reads fail. Only the first reason counts; it says whether this was it.
func (cp *checkpoint) end(why error) bool {
	cp.mu.Lock()
	first := cp.gone == nil
	if first {
		cp.gone = why
	}
	cp.mu.Unlock()
	for _, d := range cp.disks {
		d.client.Close()
	}
	return first
}

func (cp *checkpoint) reason() error {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	return cp.gone
}

// frozenDisk reads one disk of a checkpoint.
type frozenDisk struct {
	cp      *checkpoint
	plan    *plan
	id      string
	tracked bool
	client  *nbd.Client
}

func (d *frozenDisk) VM() string  { return d.plan.vm }
func (d *frozenDisk) ID() string  { return d.id }
func (d *frozenDisk) Size() int64 { return d.client.Size() }

func (d *frozenDisk) ReadAt(p []byte, off int64) (int, error) {
	n, err := d.client.ReadAt(p, off)
	return n, d.explain(err)
}

func (d *frozenDisk) Changed(ctx context.Context) snapshot.Extents {
	if !d.tracked {
		return func(yield func(snapshot.Extent, error) bool) {
			yield(snapshot.Extent{}, &hypervisors.Error{Op: "tell changes of", Subject: d.subject(), Err: hypervisors.ErrTrackingLost})
		}
	}
	return d.explained(d.client.Changed(ctx, exportBitmap(d.id)))
}

func (d *frozenDisk) Allocated(ctx context.Context) snapshot.Extents {
	return d.explained(d.client.Allocated(ctx))
}

func (d *frozenDisk) explained(all snapshot.Extents) snapshot.Extents {
	return func(yield func(snapshot.Extent, error) bool) {
		for e, err := range all {
			if !yield(e, d.explain(err)) || err != nil {
				return
			}
		}
	}
}

func (d *frozenDisk) subject() string { return "machine " + d.plan.name + ", disk " + d.id }

// explain finds out why a read failed: that the export went away says nothing to a person.
func (d *frozenDisk) explain(err error) error {
	if err == nil || isEnd(err) {
		return err
	}
	if gone := d.cp.reason(); gone != nil {
		return gone
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if errors.Is(err, nbd.ErrStalled) {
		return &hypervisors.Error{Op: "read", Subject: d.subject(), Err: fmt.Errorf("%w: %w", hypervisors.ErrTimeout, err),
			Hint: "Look whether the machine or its storage hangs. The next cycle starts from the last recovery point."}
	}
	if why := d.plan.diagnose(d.cp.host); why != nil {
		return &hypervisors.Error{Op: "read", Subject: d.subject(), Err: why, Hint: "The next cycle starts from the last recovery point."}
	}
	return &hypervisors.Error{Op: "read", Subject: d.subject(), Err: err,
		Hint: "Look at the connection to the host, and at the disk's storage there. The next cycle starts from the last recovery point."}
}

var (
	errJobGone     = errors.New("somebody aborted the backup job at the host")
	errMachineGone = errors.New("the machine stopped while its disks were read")
)

// diagnose says what became of a backup job whose export is lost; nil when that cannot be told. libvirt learns of it
// somewhat later than we do, so it is asked until it knows.
func (p *plan) diagnose(h *host) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for answered := false; ; answered = true {
		there := false
		err := h.onDomain(ctx, p.vm, func(d *libvirt.Domain) error {
			text, err := d.BackupGetXMLDesc(0)
			switch {
			case err == nil && socketOf(text) == p.socket:
				there = true
				return nil
			case err == nil, virtCode(err) == libvirt.ERR_NO_DOMAIN_BACKUP && isActive(d):
				return errJobGone
			case virtCode(err) == libvirt.ERR_OPERATION_INVALID, virtCode(err) == libvirt.ERR_NO_DOMAIN_BACKUP:
				return errMachineGone
			}
			return err
		})
		switch {
		case errors.Is(err, context.DeadlineExceeded) && answered:
			return nil // the job was still there
		case errors.Is(err, context.DeadlineExceeded):
			return fmt.Errorf("%w: libvirt does not answer", hypervisors.ErrUnreachable)
		case !there || !pause(ctx, 50*time.Millisecond):
			return err
		}
	}
}
