package fake

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"slices"
	"time"

	"understudy/hypervisors"
	"understudy/snapshot"
)

var (
	pointName   = regexp.MustCompile(`^[a-z0-9.-]{1,40}$`)
	replicaName = regexp.MustCompile(`^[a-z0-9-]{1,40}$`)
	runName     = regexp.MustCompile(`^[a-z0-9-]{1,20}$`)
)

// pauseBudget is what a request that names none allows.
const pauseBudget = 2 * time.Second

type checkpoint struct {
	c           *conn
	owner       string
	name        string
	machines    []*machine
	taken       time.Time
	consistency hypervisors.Consistency
	ids         map[string]hypervisors.ChangeID
	disks       []hypervisors.FrozenDisk
	gone        error // why it cannot be read any more
}

type frozenDisk struct {
	cp      *checkpoint
	vm, id  string
	image   *image
	changed []snapshot.Extent
	tracked bool
}

func (c *conn) Checkpoint(ctx context.Context, req hypervisors.CheckpointRequest) (hypervisors.Checkpoint, error) {
	if err := c.lock(ctx, "take", "checkpoint "+req.Name); err != nil {
		return nil, err
	}
	defer c.hv.mu.Unlock()
	cp := &checkpoint{c: c, owner: c.owner, name: req.Name, ids: map[string]hypervisors.ChangeID{}}
	if err := cp.prepare(req); err != nil {
		return nil, fail("take", "checkpoint "+req.Name, err, "")
	}
	cp.taken = c.hv.clock()
	cp.consistency = cp.quiesce(req.Quiesce)
	for i, m := range cp.machines {
		cp.freeze(m, req.VMs[i])
	}
	return cp, nil
}

// prepare finds everything that can be wrong before anything is made.
func (cp *checkpoint) prepare(req hypervisors.CheckpointRequest) error {
	hv := cp.c.hv
	if err := cp.c.capable(hv.caps.Source, "checkpoints"); err != nil {
		return err
	}
	if !pointName.MatchString(req.Name) || len(req.VMs) == 0 {
		return fmt.Errorf("name %q, %d machines: %w", req.Name, len(req.VMs), hypervisors.ErrInvalid)
	}
	if err := cp.c.capable(hv.caps.GroupMoment || len(req.VMs) == 1, "one moment for several machines"); err != nil {
		return err
	}
	budget := req.PauseBudget
	if budget == 0 {
		budget = pauseBudget
	}
	if len(req.VMs) > 1 && hv.freeze > budget {
		return fmt.Errorf("guests would be held for %v, the budget is %v: %w", hv.freeze, budget, hypervisors.ErrGaveWay)
	}
	for _, v := range req.VMs {
		m, err := cp.c.machine(v.ID)
		if err != nil {
			return fmt.Errorf("%s: %w", v.ID, err)
		}
		if err := cp.admit(m, v); err != nil {
			return fmt.Errorf("%s: %w", m.hw.Name, err)
		}
		cp.machines = append(cp.machines, m)
	}
	return nil
}

func (cp *checkpoint) admit(m *machine, v hypervisors.CheckpointVM) error {
	if slices.Contains(cp.machines, m) {
		return fmt.Errorf("named twice: %w", hypervisors.ErrInvalid)
	}
	if m.replica != nil && m.run == nil {
		return fmt.Errorf("is a replica: %w", hypervisors.ErrInUse)
	}
	if len(v.LeaveOut) > 0 && !slices.ContainsFunc(m.disks, func(d *disk) bool { return d.wanted(v.LeaveOut) }) {
		return fmt.Errorf("all of its disks are left out: %w", hypervisors.ErrInvalid)
	}
	// A call after an unknown outcome comes with the same name: it replaces what the first one may have made.
	if o := m.open; o != nil && (o.owner != cp.owner || o.name != cp.name) {
		return fmt.Errorf("checkpoint %s is open: %w", o.name, hypervisors.ErrBusy)
	}
	for _, t := range m.trackers {
		if t.owner == cp.owner && t.name == cp.name && t.id == v.Since {
			return fmt.Errorf("checkpoint %s was taken before: %w", cp.name, hypervisors.ErrInvalid)
		}
	}
	return nil
}

func (cp *checkpoint) quiesce(wanted bool) hypervisors.Consistency {
	for _, m := range cp.machines {
		if !wanted || !cp.c.hv.caps.Quiesce || m.state != hypervisors.Running || m.refusesQuiesce || !m.agentAnswers() {
			return hypervisors.CrashConsistent
		}
	}
	return hypervisors.ApplicationConsistent
}

func (cp *checkpoint) freeze(m *machine, v hypervisors.CheckpointVM) {
	hv := cp.c.hv
	if m.open != nil {
		m.open.abandon()
	}
	m.forget(func(t *tracker) bool { return t.owner == cp.owner && t.name == cp.name })
	for _, d := range m.disks {
		if !d.wanted(v.LeaveOut) {
			continue
		}
		f := &frozenDisk{cp: cp, vm: m.id, id: d.id}
		f.changed, f.tracked = m.changed(cp.owner, v.Since, d)
		f.image = d.image.fork(d.image.pool)
		cp.disks = append(cp.disks, f)
	}
	m.open = cp
	if hv.caps.ChangeTracking {
		hv.serial++
		if t := m.track(hypervisors.ChangeID(fmt.Sprintf("%s/%s/%d", cp.owner, cp.name, hv.serial)), cp.owner, cp.name, v.LeaveOut); t != nil {
			cp.ids[m.id] = t.id
		}
	}
}

func (c *conn) Forget(ctx context.Context, vm string, ids ...hypervisors.ChangeID) error {
	if err := c.lock(ctx, "forget changes of", "machine "+vm); err != nil {
		return err
	}
	defer c.hv.mu.Unlock()
	if err := c.capable(c.hv.caps.Source, "checkpoints"); err != nil {
		return fail("forget changes of", "machine "+vm, err, "")
	}
	if m := c.hv.machines[vm]; m != nil {
		m.forget(func(t *tracker) bool { return t.owner == c.owner && slices.Contains(ids, t.id) })
	}
	return nil
}

func (cp *checkpoint) Taken() time.Time                           { return cp.taken }
func (cp *checkpoint) Consistency() hypervisors.Consistency       { return cp.consistency }
func (cp *checkpoint) ChangeIDs() map[string]hypervisors.ChangeID { return cp.ids }
func (cp *checkpoint) Disks() []hypervisors.FrozenDisk            { return cp.disks }
func (cp *checkpoint) Close(ctx context.Context) error {
	if err := cp.c.lock(ctx, "close", "checkpoint "+cp.name); err != nil {
		return err
	}
	defer cp.c.hv.mu.Unlock()
	cp.end(fmt.Errorf("checkpoint is closed: %w", hypervisors.ErrNotFound))
	return nil
}

// end gives the frozen moment back. The change ids stay.
func (cp *checkpoint) end(why error) {
	if cp.gone != nil {
		return
	}
	cp.gone = why
	for _, m := range cp.machines {
		if m.open == cp {
			m.open = nil
		}
	}
	for _, d := range cp.disks {
		d.(*frozenDisk).image.release()
	}
}

// abandon is what becomes of a checkpoint that nobody closed.
func (cp *checkpoint) abandon() {
	cp.end(fmt.Errorf("checkpoint was removed as a leftover: %w", hypervisors.ErrNotFound))
}

// giveWay ends the checkpoint because production needs what it takes.
func (cp *checkpoint) giveWay() {
	cp.end(fmt.Errorf("scratch space ran out: %w", hypervisors.ErrGaveWay))
}

func (d *frozenDisk) VM() string  { return d.vm }
func (d *frozenDisk) ID() string  { return d.id }
func (d *frozenDisk) Size() int64 { return d.image.size }

func (d *frozenDisk) lock(ctx context.Context) error {
	subject := "disk " + d.id + " of checkpoint " + d.cp.name
	if err := d.cp.c.lock(ctx, "read", subject); err != nil {
		return err
	}
	if d.cp.gone != nil {
		d.cp.c.hv.mu.Unlock()
		return fail("read", subject, d.cp.gone, "")
	}
	return nil
}

func (d *frozenDisk) ReadAt(p []byte, off int64) (int, error) {
	if err := d.lock(context.Background()); err != nil {
		return 0, err
	}
	defer d.cp.c.hv.mu.Unlock()
	return readImage(d.image, p, off)
}

// readImage is image.readAt with the manners of an io.ReaderAt.
func readImage(im *image, p []byte, off int64) (int, error) {
	if off < 0 || off > im.size {
		return 0, im.check(off, 0)
	}
	n := min(int64(len(p)), im.size-off)
	im.readAt(p[:n], off)
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

func (d *frozenDisk) Changed(ctx context.Context) snapshot.Extents {
	if !d.tracked {
		return extents(nil, fail("find changes of", "disk "+d.id, hypervisors.ErrTrackingLost, ""))
	}
	err := d.lock(ctx)
	if err != nil {
		return extents(nil, err)
	}
	defer d.cp.c.hv.mu.Unlock()
	return extents(d.changed, nil)
}

func (d *frozenDisk) Allocated(ctx context.Context) snapshot.Extents {
	if err := d.lock(ctx); err != nil {
		return extents(nil, err)
	}
	defer d.cp.c.hv.mu.Unlock()
	return extents(d.image.extents(), nil)
}

func extents(all []snapshot.Extent, err error) snapshot.Extents {
	return func(yield func(snapshot.Extent, error) bool) {
		for _, e := range all {
			if !yield(e, nil) {
				return
			}
		}
		if err != nil {
			yield(snapshot.Extent{}, err)
		}
	}
}
