package fake

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"understudy/hypervisors"
)

// replica is the truth about one; replicaHandle is a connection's view of it.
type replica struct {
	hv      *Hypervisor
	id      string
	owner   string
	machine *machine
	adopted bool
	pool    *pool
	spec    hypervisors.Hardware // as ordered; of an adopted machine: its own definition
	ground  []*disk              // an adopted machine's own disks
	points  []*point             // oldest first
	draft   *draft
	runs    map[string]*run
	// autostart is what an adopted machine had of it before.
	autostart bool
	ended     string // "settled" or "deleted": the handles outlive it
}

type replicaHandle struct {
	c *conn
	r *replica
}

// point keeps what was committed.
type point struct {
	hypervisors.Point
	disks []*pointDisk
}

type pointDisk struct {
	id, bus string
	boot    int
	content *volume
	hashes  *volume // the block map
}

// volume is what has been written and, apart, what of it would survive a power failure. stable is nil when that is
// everything.
type volume struct {
	now    *image
	stable *image
}

func (v *volume) flush() {
	v.stable.release()
	v.stable = nil
}

// dirty is called before a write.
func (v *volume) dirty() {
	if v.stable == nil {
		v.stable = v.now.fork(v.now.pool)
	}
}

func (v *volume) release() {
	v.now.release()
	v.stable.release()
}

func (c *conn) CreateReplica(ctx context.Context, spec hypervisors.ReplicaSpec) (hypervisors.Replica, error) {
	if err := c.lock(ctx, "create", "replica "+spec.ID); err != nil {
		return nil, err
	}
	defer c.hv.mu.Unlock()
	r, err := c.createReplica(spec)
	if err != nil {
		return nil, fail("create", "replica "+spec.ID, err, "")
	}
	return &replicaHandle{c: c, r: r}, nil
}

func (c *conn) createReplica(spec hypervisors.ReplicaSpec) (*replica, error) {
	hv := c.hv
	if err := c.capable(hv.caps.Target, "keeping replicas"); err != nil {
		return nil, err
	}
	if !replicaName.MatchString(spec.ID) || spec.Hardware.Name == "" {
		return nil, fmt.Errorf("id or name: %w", hypervisors.ErrInvalid)
	}
	if r := hv.replicas[spec.ID]; r != nil {
		return r, r.belongs(c.owner)
	}
	p, err := hv.pool(spec.Storage)
	if err != nil {
		return nil, err
	}
	hw := hv.complete(spec.Hardware)
	if err := hv.clash(hw, nil); err != nil {
		return nil, err
	}
	if p.free() < blockSize {
		return nil, fmt.Errorf("storage %s: %w", p.name, hypervisors.ErrNoSpace)
	}
	id := spec.PreferUUID
	if id == "" || hv.machines[id] != nil {
		id = hv.newUUID()
	}
	m := &machine{id: id, hw: hw, state: hypervisors.Off}
	hv.machines[id] = m
	return hv.addReplica(c.owner, spec.ID, m, p), nil
}

func (hv *Hypervisor) addReplica(owner, id string, m *machine, p *pool) *replica {
	r := &replica{hv: hv, id: id, owner: owner, machine: m, pool: p, spec: cloneHardware(m.hw), runs: map[string]*run{}}
	m.replica = r
	hv.replicas[id] = r
	return r
}

func (r *replica) belongs(owner string) error {
	if r.owner != owner {
		return fmt.Errorf("by appliance %s: %w", r.owner, hypervisors.ErrForeign)
	}
	return nil
}

func (c *conn) Adopt(ctx context.Context, spec hypervisors.AdoptSpec) (hypervisors.Replica, error) {
	if err := c.lock(ctx, "adopt", "machine "+spec.VM); err != nil {
		return nil, err
	}
	defer c.hv.mu.Unlock()
	r, err := c.adopt(spec)
	if err != nil {
		return nil, fail("adopt", "machine "+spec.VM, err, "")
	}
	return &replicaHandle{c: c, r: r}, nil
}

func (c *conn) adopt(spec hypervisors.AdoptSpec) (*replica, error) {
	hv := c.hv
	if err := c.capable(hv.caps.Target, "keeping replicas"); err != nil {
		return nil, err
	}
	if !replicaName.MatchString(spec.ID) {
		return nil, fmt.Errorf("id %q: %w", spec.ID, hypervisors.ErrInvalid)
	}
	p, err := hv.pool(spec.Storage)
	if err != nil {
		return nil, err
	}
	m, err := c.machine(spec.VM)
	if err != nil {
		return nil, err
	}
	if other := hv.replicas[spec.ID]; other != m.replica {
		return nil, fmt.Errorf("replica %s is another machine, or the machine another replica: %w", spec.ID, hypervisors.ErrInUse)
	}
	switch {
	case m.run != nil && m.run.id != hypervisors.LiveRun:
		return nil, fmt.Errorf("is a test machine: %w", hypervisors.ErrInUse)
	case m.state != hypervisors.Off:
		return nil, fmt.Errorf("machine %s: %w", m.hw.Name, hypervisors.ErrRunning)
	case m.open != nil:
		return nil, fmt.Errorf("checkpoint %s is open: %w", m.open.name, hypervisors.ErrBusy)
	case m.replica != nil:
		if err := m.replica.belongs(c.owner); err != nil {
			return nil, err
		}
		if m.run != nil {
			m.run.release()
		}
		return m.replica, nil
	}
	r := hv.addReplica(c.owner, spec.ID, m, p)
	r.adopted, r.ground, r.autostart = true, m.disks, m.autostart
	m.disks, m.trackers, m.autostart = nil, nil, false
	return r, nil
}

func (c *conn) Replica(ctx context.Context, id string) (hypervisors.Replica, error) {
	if err := c.lock(ctx, "find", "replica "+id); err != nil {
		return nil, err
	}
	defer c.hv.mu.Unlock()
	err := c.capable(c.hv.caps.Target, "keeping replicas")
	r := c.hv.replicas[id]
	switch {
	case err != nil:
	case r == nil:
		err = hypervisors.ErrNotFound
	default:
		err = r.belongs(c.owner)
	}
	if err != nil {
		return nil, fail("find", "replica "+id, err, "")
	}
	return &replicaHandle{c: c, r: r}, nil
}

// lock begins a call on a replica that must still be there.
func (h *replicaHandle) lock(ctx context.Context, op, subject string) error {
	if err := h.c.lock(ctx, op, subject+" of replica "+h.r.id); err != nil {
		return err
	}
	if h.r.ended != "" {
		h.c.hv.mu.Unlock()
		return fail(op, subject+" of replica "+h.r.id, fmt.Errorf("replica was %s: %w", h.r.ended, hypervisors.ErrNotFound), "")
	}
	return nil
}

func (h *replicaHandle) fail(op, subject string, err error) error {
	return fail(op, subject+" of replica "+h.r.id, err, "")
}

func (r *replica) newest() *point {
	if len(r.points) == 0 {
		return nil
	}
	return r.points[len(r.points)-1]
}

func (r *replica) point(id string) (*point, error) {
	if i := slices.IndexFunc(r.points, func(p *point) bool { return p.ID == id }); i >= 0 {
		return r.points[i], nil
	}
	return nil, fmt.Errorf("point %s: %w", id, hypervisors.ErrNotFound)
}

func (p *point) disk(id string) *pointDisk {
	if i := slices.IndexFunc(p.disks, func(d *pointDisk) bool { return d.id == id }); i >= 0 {
		return p.disks[i]
	}
	return nil
}

// hardware is the definition of the machine as it was at a point; nil: as ordered.
func (r *replica) hardware(p *point) hypervisors.Hardware {
	hw := cloneHardware(r.spec)
	if p == nil {
		return hw
	}
	var known []hypervisors.Disk
	for _, d := range hw.Disks {
		if i := slices.IndexFunc(p.disks, func(pd *pointDisk) bool { return pd.id == d.ID }); i >= 0 {
			d.Size = p.disks[i].content.now.size
			known = append(known, d)
		}
	}
	for _, pd := range p.disks {
		if !slices.ContainsFunc(known, func(d hypervisors.Disk) bool { return d.ID == pd.id }) {
			known = append(known, r.added(pd, known))
		}
	}
	hw.Disks = known
	return hw
}

// added describes a disk that is not part of the replica's hardware.
func (r *replica) added(pd *pointDisk, known []hypervisors.Disk) hypervisors.Disk {
	d := hypervisors.Disk{ID: pd.id, Size: pd.content.now.size, Bus: cmp.Or(pd.bus, "virtio"), Format: "qcow2", Boot: pd.boot}
	if r.adopted || slices.ContainsFunc(known, func(other hypervisors.Disk) bool { return other.Boot == d.Boot }) {
		d.Boot = 0
	}
	return d
}

// rest gives the machine the definition and the state it has while nothing runs on it.
func (r *replica) rest() {
	if r.machine.run == nil && r.machine.state == hypervisors.Off {
		r.machine.hw = r.hardware(r.newest())
	}
}

// disksOf gives a machine with the definition hw disks of its own that start with the content of a point; nil: of an
// adopted machine's own disks.
func (r *replica) disksOf(p *point, hw hypervisors.Hardware) (out []*disk) {
	for _, d := range hw.Disks {
		im := newImage(d.Size, r.pool)
		if base, _ := r.base(p, d.ID); base != nil {
			im = base.fork(r.pool)
		}
		out = append(out, &disk{id: d.ID, image: im})
	}
	return out
}

// base finds what a disk of a new point, or of a run, stands on: the point's, or the adopted machine's own disk; nil
// when it is new.
func (r *replica) base(p *point, id string) (content, hashes *image) {
	if p != nil {
		for _, pd := range p.disks {
			if pd.id == id {
				return pd.content.now, pd.hashes.now
			}
		}
	}
	for _, d := range r.ground {
		if d.id == id {
			return d.image, nil
		}
	}
	return nil, nil
}

// lend lets a replica at rest run on a copy of its newest content.
func (r *replica) lend() {
	r.machine.disks = r.disksOf(r.newest(), r.machine.hw)
}
