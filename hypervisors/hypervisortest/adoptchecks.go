package hypervisortest

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"understudy/hypervisors"
)

func adoptChecks() []Check {
	check := func(name string, run func(context.Context, *stage) error) Check {
		return Check{Name: name, Needs: needBoth, Why: whyBoth, Run: onStage(run)}
	}
	return []Check{
		check("a running machine cannot be adopted", checkAdoptRunning),
		check("an adopted machine that is deleted has its own disks, untouched", checkAdoptDelete),
		check("an adopted machine that is settled has the newest point on its own disks", checkSettle),
		check("a disk that the newest point leaves out is untouched by settling", checkSettleLeftOut),
		check("only an adopted machine can be settled", checkSettleOwn),
		{Name: "a replica that was production becomes a replica again", Needs: needRun, Why: whyRun, Run: onStage(checkAdoptAgain)},
		{Name: "an adopted machine runs from a point, its own disks untouched", Needs: needRun, Why: whyRun, Run: onStage(checkAdoptedRun)},
	}
}

func (s *stage) adopt(ctx context.Context, vm string) (hypervisors.Replica, error) {
	r, err := s.target.Adopt(ctx, hypervisors.AdoptSpec{ID: s.name("r"), VM: vm, Storage: s.Storage})
	if err != nil {
		return nil, err
	}
	s.later(r.Delete)
	return r, nil
}

// adopted makes a machine and adopts it; it tells what was on its disks.
func (s *stage) adopted(ctx context.Context) (r hypervisors.Replica, vm hypervisors.VM, own disks, err error) {
	id, err := s.NewVM(ctx)
	if err != nil {
		return nil, vm, nil, err
	}
	return s.adoptedOf(ctx, id)
}

// adoptedOf adopts a machine that is off.
func (s *stage) adoptedOf(ctx context.Context, id string) (r hypervisors.Replica, vm hypervisors.VM, own disks, err error) {
	at, err := s.look(ctx, id, "")
	if err != nil {
		return nil, vm, nil, err
	}
	if vm, err = s.Host.VM(ctx, id); err != nil {
		return nil, vm, nil, err
	}
	r, err = s.adopt(ctx, id)
	return r, vm, at.disks, err
}

func checkAdoptRunning(ctx context.Context, s *stage) error {
	_, err := s.adopt(ctx, s.VM)
	if err := wants("adopt a running machine", err, hypervisors.ErrRunning); err != nil {
		return err
	}
	_, err = s.adopt(ctx, nobody)
	if err := wants("adopt an unknown machine", err, hypervisors.ErrNotFound); err != nil {
		return err
	}
	vm, err := s.Host.VM(ctx, s.VM)
	if err == nil && (vm.Replica != "" || vm.State != hypervisors.Running) {
		err = fmt.Errorf("machine is %s, of replica %q", vm.State, vm.Replica)
	}
	return err
}

func checkAdoptDelete(ctx context.Context, s *stage) error {
	r, vm, own, err := s.adopted(ctx)
	if err != nil {
		return err
	}
	again, err := s.target.Adopt(ctx, hypervisors.AdoptSpec{ID: r.ID(), VM: vm.ID, Storage: s.Storage})
	if err != nil || again.ID() != r.ID() {
		return fmt.Errorf("adopt again: %v", err)
	}
	status, err := r.Status(ctx)
	if err != nil {
		return err
	}
	if !status.Adopted || status.VM != vm.ID || len(status.Points) > 0 {
		return fmt.Errorf("status of an adopted machine: %+v", status)
	}
	if err := s.commitAdopted(ctx, r, "p1", own, changedFrom(own, 1)); err != nil {
		return err
	}
	if err := s.commitOn(ctx, r, "p2", changedFrom(own, 1), changedFrom(own, 2)); err != nil {
		return err
	}
	if err := errors.Join(wantKept(ctx, r, "p1", changedFrom(own, 1)), wantKept(ctx, r, "p2", changedFrom(own, 2))); err != nil {
		return err
	}
	if err := r.Delete(ctx); err != nil {
		return err
	}
	return s.wantOwn(ctx, r, vm, own)
}

// commitAdopted is commitOn for the first point: the map is not valid, it describes nothing.
func (s *stage) commitAdopted(ctx context.Context, r hypervisors.Replica, id string, own, want disks) error {
	d, err := r.Draft(ctx, request(id, want))
	if err != nil {
		return err
	}
	for _, dd := range d.Disks() {
		if dd.MapValid() {
			err = errors.Join(err, fmt.Errorf("map of disk %s, adopted and without a point, is said to be valid", dd.ID()))
		}
	}
	if err := errors.Join(err, d.Discard(ctx)); err != nil {
		return err
	}
	return s.commitOn(ctx, r, id, own, want)
}

// changedFrom gives content with a few blocks of its own.
func changedFrom(own disks, n byte) disks {
	out := own.clone()
	for _, d := range out {
		d.put([]byte{n, n}, d.size/2)
		d.put([]byte{n}, 0)
	}
	return out
}

// wantOwn proves that a machine is no replica any more, off, with its former hardware and this content.
func (s *stage) wantOwn(ctx context.Context, r hypervisors.Replica, was hypervisors.VM, content disks) error {
	_, err := s.target.Replica(ctx, r.ID())
	if err := wants("replica of a machine that was given back", err, hypervisors.ErrNotFound); err != nil {
		return err
	}
	vm, err := s.Host.VM(ctx, was.ID)
	if err != nil {
		return err
	}
	if vm.Replica != "" || vm.State != hypervisors.Off || vm.Hardware.Name != was.Hardware.Name {
		return fmt.Errorf("machine is %s, of replica %q, named %s", vm.State, vm.Replica, vm.Hardware.Name)
	}
	if err := sameDisks(vm.Hardware.Disks, was.Hardware.Disks); err != nil {
		return err
	}
	for i, d := range vm.Hardware.Disks {
		if d.Path != was.Hardware.Disks[i].Path || d.Format != was.Hardware.Disks[i].Format {
			return fmt.Errorf("disk %s is %s (%s), its own one was %s (%s)", d.ID, d.Path, d.Format,
				was.Hardware.Disks[i].Path, was.Hardware.Disks[i].Format)
		}
	}
	now, err := s.look(ctx, vm.ID, "")
	if err != nil {
		return err
	}
	return now.disks.same(content)
}

func checkSettle(ctx context.Context, s *stage) error {
	r, vm, own, err := s.adopted(ctx)
	if err != nil {
		return err
	}
	if err := s.commitAdopted(ctx, r, "p1", own, changedFrom(own, 1)); err != nil {
		return err
	}
	if err := s.commitOn(ctx, r, "p2", changedFrom(own, 1), changedFrom(own, 2)); err != nil {
		return err
	}
	if err := r.Settle(ctx); err != nil {
		return err
	}
	if err := r.Delete(ctx); err != nil {
		return fmt.Errorf("delete of a replica that has ended: %w", err)
	}
	return s.wantOwn(ctx, r, vm, changedFrom(own, 2))
}

// checkSettleLeftOut leaves each disk of an adopted machine out in turn.
func checkSettleLeftOut(ctx context.Context, s *stage) error {
	id, err := s.NewVM(ctx)
	if err != nil {
		return err
	}
	for out := range 2 {
		r, vm, own, err := s.adoptedOf(ctx, id)
		if err != nil {
			return err
		}
		without := func(all disks) disks { return slices.Delete(slices.Clone(all), out, out+1) }
		for i := range 2 {
			if err := commit(ctx, r, fmt.Sprintf("p%d", i+1), without(changedFrom(own, byte(i+1)))); err != nil {
				return err
			}
		}
		if err := r.Settle(ctx); err != nil {
			return err
		}
		want := changedFrom(own, 2)
		want[out] = own[out]
		if err := s.wantOwn(ctx, r, vm, want); err != nil {
			return fmt.Errorf("disk %s left out: %w", own[out].id, err)
		}
	}
	return nil
}

func checkSettleOwn(ctx context.Context, s *stage) error {
	r, err := s.replica(ctx)
	if err != nil {
		return err
	}
	if err := commit(ctx, r, "p1", pattern(1)); err != nil {
		return err
	}
	if err := wants("settle", r.Settle(ctx), hypervisors.ErrInvalid); err != nil {
		return err
	}
	return wantKept(ctx, r, "p1", pattern(1))
}

func checkAdoptAgain(ctx context.Context, s *stage) error {
	r, content, err := s.copyOfVM(ctx)
	if err != nil {
		return err
	}
	network, err := s.bubble(ctx)
	if err != nil {
		return err
	}
	run, err := s.test(ctx, r, hypervisors.LiveRun, "p1", network)
	if err != nil {
		return err
	}
	spec := hypervisors.AdoptSpec{ID: r.ID(), VM: run.VM, Storage: s.Storage}
	_, err = s.target.Adopt(ctx, spec)
	if err := wants("adopt while it runs", err, hypervisors.ErrRunning); err != nil {
		return err
	}
	if err := s.Dirty(ctx, run.VM); err != nil {
		return err
	}
	if err := s.power.Stop(ctx, run.VM); err != nil {
		return err
	}
	back, err := s.target.Adopt(ctx, spec)
	if err != nil {
		return err
	}
	status, err := back.Status(ctx)
	if err != nil {
		return err
	}
	if len(status.Runs) > 0 || status.VM != run.VM || status.Stray || len(status.Points) != 1 {
		return fmt.Errorf("status: %+v", status)
	}
	if err := s.commitOn(ctx, back, "p2", content, changedFrom(content, 2)); err != nil {
		return err
	}
	return errors.Join(wantPoint(ctx, back, "p1", content), wantPoint(ctx, back, "p2", changedFrom(content, 2)))
}

func checkAdoptedRun(ctx context.Context, s *stage) error {
	r, vm, own, err := s.adopted(ctx)
	if err != nil {
		return err
	}
	if err := s.commitAdopted(ctx, r, "p1", own, changedFrom(own, 1)); err != nil {
		return err
	}
	if _, err := s.test(ctx, r, hypervisors.LiveRun, "p1", s.Network); err != nil {
		return err
	}
	if err := s.wantState(ctx, vm.ID, hypervisors.Running); err != nil {
		return err
	}
	if err := r.End(ctx, hypervisors.LiveRun); err != nil {
		return err
	}
	if err := wantPoint(ctx, r, "p1", changedFrom(own, 1)); err != nil {
		return err
	}
	return errors.Join(r.Delete(ctx), s.wantOwn(ctx, r, vm, own))
}
