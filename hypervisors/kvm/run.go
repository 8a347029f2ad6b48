package kvm

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"

	"github.com/google/uuid"
	"libvirt.org/go/libvirt"

	"understudy/hypervisors"
)

// Run starts a run. That it was ordered is in the manifest before anything of it exists, so that it can always be ended.
// A guest that is to be converted is while nobody waits for the replica: only what is before and after has the turn.
func (r *replica) Run(ctx context.Context, spec hypervisors.RunSpec) (hypervisors.RunStatus, error) {
	s, c, err := r.run(ctx, spec, nil)
	if err != nil || c == nil {
		return s, err
	}
	made, err := c.work(ctx)
	if err == nil {
		s, _, err = r.run(ctx, spec, made)
		return s, err
	}
	if errors.Is(err, hypervisors.ErrUnconvertible) { // and will be the next time
		err = errors.Join(err, r.End(ctx, spec.ID))
	}
	return s, &hypervisors.Error{Op: "convert the guest of", Subject: "replica " + r.id, Err: err}
}

// run starts a run, unless its guest must be converted first: then it only makes what that works on. What came of it is
// in made when it is called again.
func (r *replica) run(ctx context.Context, spec hypervisors.RunSpec, made *devices) (s hypervisors.RunStatus, c *conversion, err error) {
	err = r.work(ctx, "run "+spec.ID+" of", func(m *manifest) (err error) {
		if err := errors.Join(unsettled(m), valid("run", runID, spec.ID), r.mayConvert(m, spec)); err != nil {
			return err
		}
		p, ok := m.visible(spec.Point)
		if !ok {
			return fmt.Errorf("point %s %w", spec.Point, hypervisors.ErrNotFound)
		}
		if spec.ID == hypervisors.LiveRun {
			s, c, err = r.runLive(ctx, m, p, spec, made)
		} else {
			s, c, err = r.runTest(ctx, m, p, spec, made)
		}
		return err
	})
	return s, c, err
}

// runLive starts the replica machine itself on a stage that is kept. Once the stage and the definition are made they are
// the machine's own: a live run that exists is started again as it is.
func (r *replica) runLive(ctx context.Context, m *manifest, p *point, spec hypervisors.RunSpec, made *devices) (hypervisors.RunStatus, *conversion, error) {
	s := hypervisors.RunStatus{ID: hypervisors.LiveRun, Point: p.Meta.ID, VM: m.VM, State: hypervisors.Running}
	if m.Live != nil && m.Live.Point != p.Meta.ID {
		return s, nil, fmt.Errorf("%w: a live run from point %s is there", hypervisors.ErrInUse, m.Live.Point)
	}
	if made != nil && (m.Live == nil || !m.Stage.Stale) {
		return s, nil, errEnded
	}
	stray, err := r.stray(ctx, m)
	if err != nil {
		return s, nil, err
	}
	if stray {
		return s, nil, &hypervisors.Error{Op: "start", Subject: "machine " + m.Hardware.Name, Err: fmt.Errorf("%w: somebody started it by hand", hypervisors.ErrRunning),
			Hint: "Turn it off first; what it wrote is thrown away."}
	}
	if m.Live == nil || m.Stage.Stale {
		if c, err := r.prepareLive(ctx, m, p, spec, made); c != nil || err != nil {
			return s, c, err
		}
	}
	if state, err := r.host.state(ctx, m.VM); err != nil || state != hypervisors.Off {
		s.State = state
		return s, nil, err
	}
	def, err := r.host.inactive(ctx, m.VM)
	if err == nil && def == nil { // somebody undefined it, but all that it wrote is there
		err = r.define(ctx, m, p, spec.Networks)
	}
	if err != nil || spec.Prepare {
		s.State = hypervisors.Off
		return s, nil, err
	}
	return s, nil, r.host.Start(ctx, m.VM)
}

// prepareLive records a live run and makes what it runs on, or, before its guest is converted, what that works on. The
// stage stays stale meanwhile: what is on it is nobody's.
func (r *replica) prepareLive(ctx context.Context, m *manifest, p *point, spec hypervisors.RunSpec, made *devices) (*conversion, error) {
	def, err := r.definition(ctx, m)
	if err != nil {
		return nil, err
	}
	if err := r.host.checkRunNetworks(ctx, def, spec.Networks, false); err != nil {
		return nil, err
	}
	if m.Live == nil {
		m.Live, m.Stage.Stale = &liveRun{Point: p.Meta.ID}, true
		if err := r.save(ctx, m); err != nil {
			return nil, err
		}
	}
	if made != nil {
		if m.Unconverted, err = def.Marshal(); err != nil {
			return nil, err
		}
		m.Live.Devices = made
		return nil, r.useStage(ctx, m, p, spec.Networks)
	}
	if !spec.Convert {
		return nil, r.makeStage(ctx, m, p, spec.Networks)
	}
	if err := r.makeOverlays(ctx, m, p, m.stageDisks(p), stageFile); err != nil {
		return nil, err
	}
	return r.newConversion(m, spec.ID, r.fittedDisks(m, p, stageFile)), nil
}

// runTest starts a second machine on overlays of its own.
func (r *replica) runTest(ctx context.Context, m *manifest, p *point, spec hypervisors.RunSpec, made *devices) (hypervisors.RunStatus, *conversion, error) {
	if made != nil && (m.test(spec.ID) == nil || m.test(spec.ID).Ready) {
		return hypervisors.RunStatus{}, nil, errEnded
	}
	if m.test(spec.ID) == nil {
		m.Tests = append(m.Tests, testRun{ID: spec.ID, Point: spec.Point, VM: uuid.NewString(), Disks: p.diskIDs()})
	}
	t := m.test(spec.ID)
	s := hypervisors.RunStatus{ID: t.ID, Point: t.Point, VM: t.VM, State: hypervisors.Running}
	if t.Point != spec.Point {
		return s, nil, fmt.Errorf("%w: test %s runs from point %s", hypervisors.ErrInUse, t.ID, t.Point)
	}
	if state, err := r.host.state(ctx, t.VM); err != nil || state != hypervisors.Off {
		s.State = state
		return s, nil, err
	}
	if !t.Ready {
		t.Devices = made
	}
	def, err := r.testDefinition(ctx, m, *t, p, spec.Networks)
	if err != nil {
		return s, nil, err
	}
	if !t.Ready {
		if made == nil {
			if err := r.save(ctx, m); err != nil { // before there is something to be removed
				return s, nil, err
			}
			if err := r.makeOverlays(ctx, m, p, t.Disks, t.file); err != nil {
				return s, nil, err
			}
			if spec.Convert {
				return s, r.newConversion(m, t.ID, r.fittedDisks(m, p, t.file)), nil
			}
		}
		t.Ready = true
		if err := r.save(ctx, m); err != nil {
			return s, nil, err
		}
	}
	if spec.Prepare {
		s.State = hypervisors.Off
		return s, nil, nil
	}
	text, err := def.Marshal()
	if err != nil {
		return s, nil, err
	}
	c, err := r.host.conn(ctx)
	if err != nil {
		return s, nil, err
	}
	d, err := c.DomainCreateXML(text, 0)
	if err != nil {
		return s, nil, virtError(err)
	}
	return s, nil, d.Free()
}

// End stops a run and throws away what it wrote.
func (r *replica) End(ctx context.Context, run string) error {
	return r.work(ctx, "end run "+run+" of", func(m *manifest) error {
		if run == hypervisors.LiveRun {
			return r.endLive(ctx, m)
		}
		return r.endTest(ctx, m, run)
	})
}

// endLive forgets the run before it throws its stage away: a live run that is still recorded always has all it wrote.
func (r *replica) endLive(ctx context.Context, m *manifest) error {
	if m.Live == nil {
		return nil
	}
	if err := r.interrupt(ctx, hypervisors.LiveRun); err != nil {
		return err
	}
	if err := r.host.destroy(ctx, m.VM); err != nil {
		return err
	}
	if err := r.host.dropMoments(ctx, m.VM); err != nil {
		return err
	}
	m.Live, m.Stage.Stale = nil, true
	if err := r.save(ctx, m); err != nil {
		return err
	}
	if err := removeAll(ctx, r.host.place, r.paths(scratchDir(hypervisors.LiveRun))...); err != nil {
		return err
	}
	return r.restage(ctx, m)
}

func (r *replica) endTest(ctx context.Context, m *manifest, run string) error {
	t := m.test(run)
	if t == nil {
		return nil
	}
	if err := r.interrupt(ctx, run); err != nil {
		return err
	}
	if err := r.host.destroy(ctx, t.VM); err != nil {
		return err
	}
	files := []string{testVariables(run), scratchDir(run)}
	for _, disk := range t.Disks {
		files = append(files, testFile(disk, run))
	}
	if err := removeAll(ctx, r.host.place, r.paths(files...)...); err != nil {
		return err
	}
	m.Tests = slices.DeleteFunc(m.Tests, func(t testRun) bool { return t.ID == run })
	return r.save(ctx, m)
}

// destroy turns a machine off at once; one that is off or gone is fine.
func (h *host) destroy(ctx context.Context, vm string) error {
	d, err := h.domain(ctx, vm)
	if errors.Is(err, hypervisors.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Free()
	err = virtError(d.Destroy())
	if errors.Is(err, hypervisors.ErrNotFound) || virtCode(err) == libvirt.ERR_OPERATION_INVALID {
		return nil // off already
	}
	return err
}

// dropMoments makes libvirt forget our checkpoints of a machine whose disks are about to go; the tracking goes with them.
func (h *host) dropMoments(ctx context.Context, vm string) error {
	return h.eachMoment(ctx, vm, func(c *libvirt.DomainCheckpoint, _ string) error {
		return virtError(c.Delete(libvirt.DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY))
	})
}

// eachMoment calls do for each checkpoint of ours that a machine has. A machine that is gone has none.
func (h *host) eachMoment(ctx context.Context, vm string, do func(c *libvirt.DomainCheckpoint, name string) error) error {
	d, err := h.domain(ctx, vm)
	if errors.Is(err, hypervisors.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Free()
	all, err := d.ListAllCheckpoints(0)
	if err != nil {
		return virtError(err)
	}
	var errs []error
	for i := range all {
		name, err := all[i].GetName()
		if err == nil && h.owns(name) {
			err = do(&all[i], name)
		}
		errs = append(errs, virtError(err), all[i].Free())
	}
	return errors.Join(errs...)
}

// readopt makes a replica that was production a replica again.
func (r *replica) readopt(ctx context.Context, vm hypervisors.VM) error {
	return r.work(ctx, "take back", func(m *manifest) error {
		if m.VM != vm.ID {
			return fmt.Errorf("%w: the replica is machine %s", hypervisors.ErrInUse, m.VM)
		}
		if err := errors.Join(unsettled(m), mustBeOff(vm)); err != nil {
			return err
		}
		if m.Live != nil {
			return r.endLive(ctx, m)
		}
		return r.restage(ctx, m)
	})
}

// storagePath is the folder of the storage that holds the replica.
func (r *replica) storagePath() string { return path.Dir(path.Dir(r.dir)) }
