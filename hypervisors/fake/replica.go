package fake

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"

	"understudy/hypervisors"
)

func (h *replicaHandle) ID() string { return h.r.id }

func (h *replicaHandle) Status(ctx context.Context) (hypervisors.ReplicaStatus, error) {
	if err := h.lock(ctx, "read", "status"); err != nil {
		return hypervisors.ReplicaStatus{}, err
	}
	defer h.c.hv.mu.Unlock()
	m := h.r.machine
	s := hypervisors.ReplicaStatus{
		VM:      m.id,
		Adopted: h.r.adopted,
		Stray:   m.state != hypervisors.Off && m.run == nil,
	}
	for _, p := range h.r.points {
		shown := p.Point
		shown.Disks = slices.Clone(p.Disks)
		s.Points = append(s.Points, shown)
	}
	for _, run := range h.r.sortedRuns() {
		s.Runs = append(s.Runs, run.status())
	}
	return s, nil
}

func (r *replica) sortedRuns() (out []*run) {
	for _, id := range slices.Sorted(maps.Keys(r.runs)) {
		out = append(out, r.runs[id])
	}
	return out
}

func (h *replicaHandle) Drop(ctx context.Context, id string) error {
	if err := h.lock(ctx, "drop", "point "+id); err != nil {
		return err
	}
	defer h.c.hv.mu.Unlock()
	for _, run := range h.r.sortedRuns() {
		if run.point == id {
			return h.fail("drop", "point "+id, fmt.Errorf("run %s stands on it: %w", run.id, hypervisors.ErrInUse))
		}
	}
	h.r.points = slices.DeleteFunc(h.r.points, func(p *point) bool {
		if p.ID == id {
			p.release()
			return true
		}
		return false
	})
	h.r.rest()
	return nil
}

func (h *replicaHandle) Mark(ctx context.Context, id, suspect string) error {
	if err := h.lock(ctx, "mark", "point "+id); err != nil {
		return err
	}
	defer h.c.hv.mu.Unlock()
	p, err := h.r.point(id)
	if err != nil {
		return h.fail("mark", "point "+id, err)
	}
	p.Suspect = suspect
	return nil
}

func (p *point) release() {
	for _, d := range p.disks {
		d.content.release()
		d.hashes.release()
	}
}

func (h *replicaHandle) Settle(ctx context.Context) error {
	if h.r.was(h.c, "settled") {
		return nil
	}
	if err := h.lock(ctx, "settle", "machine"); err != nil {
		return err
	}
	defer h.c.hv.mu.Unlock()
	r := h.r
	switch {
	case !r.adopted:
		return h.fail("settle", "machine", fmt.Errorf("was not adopted: %w", hypervisors.ErrInvalid))
	case len(r.points) == 0:
		return h.fail("settle", "machine", fmt.Errorf("has no point: %w", hypervisors.ErrInvalid))
	case len(r.runs) > 0:
		return h.fail("settle", "machine", fmt.Errorf("a point runs: %w", hypervisors.ErrInUse))
	case r.machine.state != hypervisors.Off:
		return h.fail("settle", "machine", fmt.Errorf("machine %s: %w", r.machine.hw.Name, hypervisors.ErrRunning))
	}
	p := r.newest()
	hw := r.settled(p)
	r.machine.hw, r.machine.disks = hw, r.disksOf(p, hw)
	for i, d := range r.machine.disks {
		d.raw = hw.Disks[i].Format == "raw"
		d.excluded = hw.Disks[i].Excluded
		d.image.pool = h.c.hv.pools[0]
	}
	for _, own := range r.ground {
		own.image.release()
	}
	r.machine.autostart = r.autostart
	r.end("settled")
	return nil
}

// settled is the machine's own definition with what a point made of it: disks that the point does not have stay as they
// are, at their places.
func (r *replica) settled(p *point) hypervisors.Hardware {
	at := r.hardware(p)
	hw := cloneHardware(r.spec)
	for _, d := range at.Disks {
		if i := slices.IndexFunc(hw.Disks, func(own hypervisors.Disk) bool { return own.ID == d.ID }); i >= 0 {
			hw.Disks[i].Size = d.Size
		} else {
			hw.Disks = append(hw.Disks, d)
		}
	}
	return hw
}

// was tells whether the replica ended in this way; a call that has nothing more to do succeeds.
func (r *replica) was(c *conn, how string) bool {
	c.hv.mu.Lock()
	defer c.hv.mu.Unlock()
	return r.ended == how && c.alive() == nil
}

func (h *replicaHandle) Delete(ctx context.Context) error {
	if err := h.c.lock(ctx, "delete", "replica "+h.r.id); err != nil {
		return err
	}
	defer h.c.hv.mu.Unlock()
	r := h.r
	if r.ended != "" {
		return nil
	}
	for _, run := range r.sortedRuns() {
		run.release()
	}
	if r.machine.state != hypervisors.Off {
		r.machine.stopped()
	}
	if r.adopted {
		r.machine.hw, r.machine.disks, r.machine.autostart = r.spec, r.ground, r.autostart
	} else {
		h.c.hv.remove(r.machine)
	}
	r.end("deleted")
	return nil
}

// end is common to Settle and Delete: points, draft and name go, the machine is on its own.
func (r *replica) end(how string) {
	if r.draft != nil {
		r.draft.release()
	}
	for _, p := range r.points {
		p.release()
	}
	r.points, r.ground, r.ended = nil, nil, how
	r.machine.replica = nil
	delete(r.hv.replicas, r.id)
}

// remove makes a machine vanish together with its disks.
func (hv *Hypervisor) remove(m *machine) {
	if m.open != nil {
		m.open.end(fmt.Errorf("machine %s is gone: %w", m.hw.Name, hypervisors.ErrNotFound))
	}
	m.releaseDisks()
	delete(hv.machines, m.id)
}

// pointReader has a fork of the point, so that it may be dropped meanwhile.
type pointReader struct {
	c      *conn
	point  string
	disks  []hypervisors.PointDiskReader
	closed bool
}

type pointDiskReader struct {
	r               *pointReader
	id              string
	content, hashes *image
}

func (h *replicaHandle) Open(ctx context.Context, id string) (hypervisors.PointReader, error) {
	if err := h.lock(ctx, "open", "point "+id); err != nil {
		return nil, err
	}
	defer h.c.hv.mu.Unlock()
	p, err := h.r.point(id)
	if err != nil {
		return nil, h.fail("open", "point "+id, err)
	}
	r := &pointReader{c: h.c, point: id}
	for _, d := range p.disks {
		r.disks = append(r.disks, &pointDiskReader{r: r, id: d.id,
			content: d.content.now.fork(h.r.pool), hashes: d.hashes.now.fork(h.r.pool)})
	}
	h.c.hv.readers = append(h.c.hv.readers, r)
	return r, nil
}

func (r *pointReader) Disks() []hypervisors.PointDiskReader { return r.disks }

func (r *pointReader) Close() error {
	r.c.hv.mu.Lock()
	defer r.c.hv.mu.Unlock()
	if err := r.c.alive(); err != nil {
		return fail("close", "point "+r.point, err, "")
	}
	r.release()
	return nil
}

func (r *pointReader) release() {
	if r.closed {
		return
	}
	r.closed = true
	for _, d := range r.disks {
		d := d.(*pointDiskReader)
		d.content.release()
		d.hashes.release()
	}
	r.c.hv.readers = slices.DeleteFunc(r.c.hv.readers, func(other *pointReader) bool { return other == r })
}

func (d *pointDiskReader) ID() string  { return d.id }
func (d *pointDiskReader) Size() int64 { return d.content.size }

func (d *pointDiskReader) ReadAt(p []byte, off int64) (int, error) {
	return d.r.read(d.content, p, off)
}

func (d *pointDiskReader) Map() io.ReaderAt {
	return readerFunc(func(p []byte, off int64) (int, error) { return d.r.read(d.hashes, p, off) })
}

func (r *pointReader) read(im *image, p []byte, off int64) (int, error) {
	if err := r.c.lock(context.Background(), "read", "point "+r.point); err != nil {
		return 0, err
	}
	defer r.c.hv.mu.Unlock()
	if r.closed {
		return 0, fail("read", "point "+r.point, fmt.Errorf("reader is closed: %w", hypervisors.ErrNotFound), "")
	}
	return readImage(im, p, off)
}

type readerFunc func(p []byte, off int64) (int, error)

func (f readerFunc) ReadAt(p []byte, off int64) (int, error) { return f(p, off) }
