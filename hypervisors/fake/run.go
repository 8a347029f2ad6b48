package fake

import (
	"context"
	"fmt"

	"understudy/hypervisors"
)

// run is a machine that stands on a point: the replica's own for the live run, one of its own for a test.
type run struct {
	id      string
	point   string
	replica *replica
	machine *machine
}

func (run *run) status() hypervisors.RunStatus {
	return hypervisors.RunStatus{ID: run.id, Point: run.point, VM: run.machine.id, State: run.machine.state}
}

func (h *replicaHandle) Run(ctx context.Context, spec hypervisors.RunSpec) (hypervisors.RunStatus, error) {
	if err := h.lock(ctx, "run", "point "+spec.Point); err != nil {
		return hypervisors.RunStatus{}, err
	}
	defer h.c.hv.mu.Unlock()
	run, err := h.run(spec)
	if err != nil {
		return hypervisors.RunStatus{}, h.fail("run", "point "+spec.Point, err)
	}
	if run.machine.state == hypervisors.Off && !spec.Prepare {
		run.machine.started()
	}
	return run.status(), nil
}

func (h *replicaHandle) run(spec hypervisors.RunSpec) (*run, error) {
	r, hv := h.r, h.c.hv
	if !runName.MatchString(spec.ID) {
		return nil, fmt.Errorf("run %q: %w", spec.ID, hypervisors.ErrInvalid)
	}
	if old := r.runs[spec.ID]; old != nil {
		if old.point != spec.Point {
			return nil, fmt.Errorf("run %s stands on point %s: %w", old.id, old.point, hypervisors.ErrInUse)
		}
		return old, nil
	}
	p, err := r.point(spec.Point)
	if err != nil {
		return nil, err
	}
	hw, err := r.runHardware(p, spec)
	if err != nil {
		return nil, err
	}
	if spec.Convert {
		if err := r.convertible(p, hw); err != nil {
			return nil, err
		}
	}
	m := r.machine
	if spec.ID != hypervisors.LiveRun {
		m = &machine{id: hv.newUUID(), state: hypervisors.Off, replica: r}
		hv.machines[m.id] = m
	} else if m.state != hypervisors.Off {
		return nil, fmt.Errorf("machine %s was started by somebody else: %w", m.hw.Name, hypervisors.ErrRunning)
	}
	run := &run{id: spec.ID, point: p.ID, replica: r, machine: m}
	m.hw, m.disks, m.run = hw, r.disksOf(p, hw), run
	r.runs[run.id] = run
	if spec.Convert {
		if err := m.convert(); err != nil {
			run.release()
			return nil, err
		}
	}
	return run, nil
}

// convertible says what keeps the guest of a point from being converted: as with real ones, that the host cannot, or that
// nobody knows the system.
func (r *replica) convertible(p *point, hw hypervisors.Hardware) error {
	if !r.hv.caps.Convert {
		return fmt.Errorf("converting guests: %w", hypervisors.ErrIncapable)
	}
	if len(hw.Disks) > 0 {
		if d := p.disk(hw.Disks[0].ID); d != nil && readBoot(d.content.now) != nil {
			return nil
		}
	}
	return fmt.Errorf("%w: there is no system on its disks", hypervisors.ErrUnconvertible)
}

// convert notes in the guest that it was, and gives it the devices that it has drivers for then.
func (m *machine) convert() error {
	boot := readBoot(m.disks[0].image)
	boot.Converted++
	for i := range m.hw.Disks {
		m.hw.Disks[i].Bus, m.hw.Disks[i].Controller = "virtio", ""
	}
	for i := range m.hw.NICs {
		m.hw.NICs[i].Model = "virtio"
	}
	return m.disks[0].image.writeAt(boot.encode(), 0)
}

// runHardware is the definition of the machine that runs.
func (r *replica) runHardware(p *point, spec hypervisors.RunSpec) (hypervisors.Hardware, error) {
	hw := r.hardware(p)
	test := spec.ID != hypervisors.LiveRun
	for i, n := range hw.NICs {
		to, named := spec.Networks[n.MAC]
		if !named {
			if test {
				return hw, fmt.Errorf("no network named for MAC %s: %w", n.MAC, hypervisors.ErrInvalid)
			}
			to = n.Network
		}
		if r.hv.network(to) == nil {
			return hw, fmt.Errorf("%q: %w", to, hypervisors.ErrUnknownNetwork)
		}
		hw.NICs[i].Network = to
	}
	if test {
		hw.Name = r.id + "-test-" + spec.ID
		for _, m := range r.hv.machines {
			if m.hw.Name == hw.Name {
				return hw, fmt.Errorf("%q: %w", hw.Name, hypervisors.ErrNameTaken)
			}
		}
	}
	return hw, nil
}

func (h *replicaHandle) End(ctx context.Context, id string) error {
	if err := h.lock(ctx, "end", "run "+id); err != nil {
		return err
	}
	defer h.c.hv.mu.Unlock()
	if run := h.r.runs[id]; run != nil {
		run.release()
	}
	return nil
}

// release stops the run and forgets what it wrote.
func (run *run) release() {
	r, m := run.replica, run.machine
	delete(r.runs, run.id)
	m.stopped()
	if m != r.machine {
		r.hv.remove(m)
		return
	}
	if m.open != nil {
		m.open.end(fmt.Errorf("run %s has ended: %w", run.id, hypervisors.ErrNotFound))
	}
	m.releaseDisks()
	m.run, m.autostart = nil, false
	r.rest()
}
