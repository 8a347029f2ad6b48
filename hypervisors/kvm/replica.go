package kvm

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"sync"

	"understudy/hypervisors"
)

// replica is a handle. All that is known about the replica is in its manifest and is read anew by every call; the handle
// only knows what this process has open.
type replica struct {
	host *host
	id   string
	dir  string

	// turn is held by whoever works on the replica; what follows is its holder's.
	turn  chan struct{}
	draft *draft // the open one
	left  *draft // one that was given up and may have left files; nil once they are gone

	mu          sync.Mutex
	readers     map[string]int         // open readers by point
	conversions map[string]*conversion // at work, by run
}

func (r *replica) ID() string { return r.id }

func (r *replica) subject(disk string) string { return "replica " + r.id + ", disk " + disk }

// take waits for the turn.
func (r *replica) take(ctx context.Context) error {
	select {
	case r.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *replica) give() { <-r.turn }

// alone does one piece of work on the replica, and says of its error what it was about.
func (r *replica) alone(ctx context.Context, op string, do func() error) error {
	err := r.take(ctx)
	if err == nil {
		defer r.give()
		err = do()
	}
	if err != nil {
		return &hypervisors.Error{Op: op, Subject: "replica " + r.id, Err: noSpace(err)}
	}
	return nil
}

// work does one piece of work on the manifest, alone.
func (r *replica) work(ctx context.Context, op string, do func(m *manifest) error) error {
	return r.alone(ctx, op, func() error {
		m, err := r.load(ctx)
		if err != nil {
			return err
		}
		return do(m)
	})
}

func (r *replica) load(ctx context.Context) (*manifest, error) {
	m, err := readManifest(ctx, r.host.place, r.dir)
	if absent(err) || err == nil && m.Removed {
		return nil, hypervisors.ErrNotFound
	}
	return m, err
}

func (r *replica) save(ctx context.Context, m *manifest) error {
	return writeManifest(ctx, r.host.place, r.dir, m)
}

// paths are full paths of files of the replica.
func (r *replica) paths(files ...string) []string {
	var all []string
	for _, f := range files {
		all = append(all, path.Join(r.dir, f))
	}
	return all
}

// unsettled refuses work while an adopted machine's disks are being written.
func unsettled(m *manifest) error {
	if m.Adopted == nil || !m.Adopted.Settling {
		return nil
	}
	return &hypervisors.Error{Op: "use", Subject: "machine " + m.Hardware.Name,
		Err:  fmt.Errorf("%w: its disks are being given back", hypervisors.ErrBusy),
		Hint: "Finish the failback first; until then only its newest point is whole."}
}

// Status reads the manifest, and from libvirt who runs.
func (r *replica) Status(ctx context.Context) (hypervisors.ReplicaStatus, error) {
	var s hypervisors.ReplicaStatus
	err := r.work(ctx, "read", func(m *manifest) (err error) {
		s, err = r.status(ctx, m)
		return err
	})
	return s, err
}

func (r *replica) status(ctx context.Context, m *manifest) (hypervisors.ReplicaStatus, error) {
	s := hypervisors.ReplicaStatus{VM: m.VM, Adopted: m.Adopted != nil}
	for _, p := range m.Points {
		if !p.Hidden {
			s.Points = append(s.Points, p.Meta)
		}
	}
	state, err := r.host.state(ctx, m.VM)
	if err != nil {
		return s, err
	}
	if m.Live != nil {
		s.Runs = append(s.Runs, hypervisors.RunStatus{ID: hypervisors.LiveRun, Point: m.Live.Point, VM: m.VM, State: state})
	} else {
		s.Stray = state != hypervisors.Off
	}
	for _, t := range m.Tests {
		state, err := r.host.state(ctx, t.VM)
		if err != nil {
			return s, err
		}
		s.Runs = append(s.Runs, hypervisors.RunStatus{ID: t.ID, Point: t.Point, VM: t.VM, State: state})
	}
	return s, nil
}

// Mark writes the mark into the manifest, beside the point.
func (r *replica) Mark(ctx context.Context, id, suspect string) error {
	return r.work(ctx, "mark point "+id+" of", func(m *manifest) error {
		p, ok := m.visible(id)
		if !ok {
			return fmt.Errorf("point %s %w", id, hypervisors.ErrNotFound)
		}
		if p.Meta.Suspect == suspect {
			return nil
		}
		p.Meta.Suspect = suspect
		return r.save(ctx, m)
	})
}

// state is a machine's power state; one that does not exist is off.
func (h *host) state(ctx context.Context, vm string) (hypervisors.PowerState, error) {
	d, err := h.domain(ctx, vm)
	if errors.Is(err, hypervisors.ErrNotFound) {
		return hypervisors.Off, nil
	}
	if err != nil {
		return "", err
	}
	defer d.Free()
	def, err := define(d)
	if errors.Is(err, hypervisors.ErrNotFound) {
		return hypervisors.Off, nil
	}
	return def.state, err
}

// stray says that the machine is on although nobody ordered it. A live run whose stage is not made yet cannot be what
// runs.
func (r *replica) stray(ctx context.Context, m *manifest) (bool, error) {
	if m.Live != nil && !m.Stage.Stale {
		return false, nil
	}
	state, err := r.host.state(ctx, m.VM)
	return state != hypervisors.Off, err
}

// refresh brings the machine up to the manifest.
func (r *replica) refresh(ctx context.Context) error {
	return r.work(ctx, "define", func(m *manifest) error { return r.restage(ctx, m) })
}

// restage gives the machine a fresh stage on the newest point, unless it stands there already or is on. So whoever starts
// the machine by hand boots the newest point, and never writes to it.
func (r *replica) restage(ctx context.Context, m *manifest) error {
	if m.Live != nil {
		return nil
	}
	p := m.newestVisible()
	name := ""
	if p != nil {
		name = p.Meta.ID
	}
	if !m.Stage.Stale && m.Stage.Point == name && slices.Equal(m.Stage.Disks, m.stageDisks(p)) {
		def, err := r.host.inactive(ctx, m.VM)
		if def != nil || err != nil {
			return err
		}
	}
	if stray, err := r.stray(ctx, m); stray || err != nil {
		return err
	}
	return r.makeStage(ctx, m, p, nil)
}

// stageDisks are the disks of the machine when it stands on p; nil: on nothing, or an adopted machine's own disks.
func (m *manifest) stageDisks(p *point) []string {
	if p != nil {
		return p.diskIDs()
	}
	var ids []string
	if m.Adopted != nil {
		for _, g := range m.Adopted.Disks {
			ids = append(ids, g.Disk)
		}
		return ids
	}
	for _, d := range m.Hardware.Disks {
		ids = append(ids, d.ID)
	}
	return ids
}

// overlayOn describes an overlay of a disk on a point.
func (r *replica) overlayOn(m *manifest, p *point, disk, file string) (overlay, error) {
	o := overlay{file: path.Join(r.dir, file), cluster: dataCluster}
	if p != nil {
		d := p.disk(disk)
		if d == nil {
			return o, fmt.Errorf("disk %s of point %s %w", disk, p.Meta.ID, hypervisors.ErrNotFound)
		}
		o.backing, o.format, o.size = d.Data.File, "qcow2", d.Size
		return o, nil
	}
	if g := m.ground(disk); g != nil {
		o.backing, o.format, o.size = g.Path, g.Format, g.Size
		return o, nil
	}
	for _, d := range m.Hardware.Disks {
		if d.ID == disk {
			o.size = d.Size
		}
	}
	return o, nil
}

// makeStage replaces the stage by a fresh one on p and lets the machine, with its NICs in these networks, use it; while
// the manifest says that the stage is stale, it did not come so far. Each overlay is whole when it takes its name. The
// machine must be off.
func (r *replica) makeStage(ctx context.Context, m *manifest, p *point, networks map[string]string) error {
	if err := r.makeOverlays(ctx, m, p, m.stageDisks(p), stageFile); err != nil {
		return err
	}
	return r.useStage(ctx, m, p, networks)
}

// makeOverlays makes overlays of disks on p, in files that file names, and anew where there are some: by their names and
// not in their place, since a conversion that was cut off may not have let go of those.
func (r *replica) makeOverlays(ctx context.Context, m *manifest, p *point, disks []string, file func(disk string) string) error {
	var overlays []overlay
	for _, disk := range disks {
		o, err := r.overlayOn(m, p, disk, file(disk))
		if err != nil {
			return err
		}
		overlays = append(overlays, o)
	}
	if len(overlays) == 0 {
		return nil
	}
	return replaceImages(ctx, r.host.place, r.dir, overlays)
}

func (r *replica) useStage(ctx context.Context, m *manifest, p *point, networks map[string]string) error {
	old := m.Stage.Disks
	m.Stage = stage{Disks: m.stageDisks(p)}
	if p != nil {
		m.Stage.Point = p.Meta.ID
	}
	if err := r.define(ctx, m, p, networks); err != nil {
		return err
	}
	if m.Live == nil {
		m.Unconverted = "" // the machine has its own devices again
	}
	if err := r.save(ctx, m); err != nil {
		return err
	}
	var gone []string
	for _, disk := range old {
		if !slices.Contains(m.Stage.Disks, disk) {
			gone = append(gone, stageFile(disk))
		}
	}
	return removeAll(ctx, r.host.place, r.paths(gone...)...)
}

// newestVisible is the newest point that was not dropped; nil: none.
func (m *manifest) newestVisible() *point {
	for i := len(m.Points) - 1; i >= 0; i-- {
		if !m.Points[i].Hidden {
			return &m.Points[i]
		}
	}
	return nil
}

// inUse is the position of the newest point that something stands on at this moment, -1 when nothing does. All points
// up to there must stay as they are.
func (r *replica) inUse(ctx context.Context, m *manifest) (int, error) {
	top := -1
	for _, id := range r.users(m) {
		top = max(top, m.index(id))
	}
	stray, err := r.stray(ctx, m)
	if err != nil {
		return 0, err
	}
	if stray || r.draft != nil {
		top = len(m.Points) - 1
	}
	return top, nil
}

// users are the points that runs and readers stand on.
func (r *replica) users(m *manifest) []string {
	var ids []string
	if m.Live != nil {
		ids = append(ids, m.Live.Point)
	}
	for _, t := range m.Tests {
		ids = append(ids, t.Point)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for id := range r.readers {
		ids = append(ids, id)
	}
	return ids
}

// reading counts open readers of a point. Closing one does not wait for the turn.
func (r *replica) reading(point string, change int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.readers[point] += change; r.readers[point] == 0 {
		delete(r.readers, point)
	}
}

func (r *replica) isRead(point string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.readers[point] > 0
}
