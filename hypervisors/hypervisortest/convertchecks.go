package hypervisortest

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"understudy/hypervisors"
)

func convertChecks() []Check {
	check := func(name string, run func(context.Context, *stage) error) Check {
		return Check{Name: name, Why: "the host converts no guests", Run: onStage(run),
			Needs: func(c hypervisors.Capabilities) bool { return needRun(c) && c.Convert }}
	}
	return []Check{
		check("a test converts its guest, and not the point", checkConvertedTest),
		check("a live run converts its guest once", checkConvertedLive),
		check("a machine without a system is not converted", checkUnconvertible),
		{Name: "a host that converts nothing says so", Why: "the host converts guests, or starts nothing", Run: onStage(checkNoConversion),
			Needs: func(c hypervisors.Capabilities) bool { return needRun(c) && !c.Convert }},
	}
}

// converted fails unless the guest of a machine was converted once.
func (s *stage) converted(ctx context.Context, vm string) error {
	n, err := s.Conversions(ctx, vm)
	if err == nil && n != 1 {
		err = fmt.Errorf("guest of machine %s was converted %d times, want once", vm, n)
	}
	return err
}

func checkConvertedTest(ctx context.Context, s *stage) error {
	r, content, err := s.copyOfVM(ctx)
	if err != nil {
		return err
	}
	network, err := s.bubble(ctx)
	if err != nil {
		return err
	}
	spec := hypervisors.RunSpec{ID: "t1", Point: "p1", Convert: true}
	run, err := s.run(ctx, r, spec, network)
	if err != nil {
		return err
	}
	if err := errors.Join(s.wantTest(ctx, r, run, network), s.converted(ctx, run.VM)); err != nil {
		return err
	}
	if err := s.Dirty(ctx, run.VM); err != nil {
		return fmt.Errorf("guest of the test: %w", err)
	}
	if err := s.commitOn(ctx, r, "p2", content, content); err != nil {
		return err
	}
	again, err := s.run(ctx, r, spec, network)
	if err != nil || again.VM != run.VM {
		return fmt.Errorf("the same run again is %+v, %v", again, err)
	}
	if err := s.converted(ctx, run.VM); err != nil {
		return err
	}
	if err := wants("drop of the point it stands on", r.Drop(ctx, "p1"), hypervisors.ErrInUse); err != nil {
		return err
	}
	if err := r.End(ctx, "t1"); err != nil {
		return err
	}
	_, err = s.Host.VM(ctx, run.VM)
	if err := wants("machine of a test that ended", err, hypervisors.ErrNotFound); err != nil {
		return err
	}
	return errors.Join(wantKept(ctx, r, "p1", content), wantKept(ctx, r, "p2", content), wantPoints(ctx, r, "p1", "p2"))
}

func checkConvertedLive(ctx context.Context, s *stage) error {
	r, content, err := s.copyOfVM(ctx)
	if err != nil {
		return err
	}
	network, err := s.bubble(ctx) // the guest is a twin of VM
	if err != nil {
		return err
	}
	status, err := r.Status(ctx)
	if err != nil {
		return err
	}
	before, err := s.devicesOf(ctx, status.VM)
	if err != nil {
		return err
	}
	spec := hypervisors.RunSpec{ID: hypervisors.LiveRun, Point: "p1", Convert: true, Prepare: true}
	for range 2 {
		ready, err := s.run(ctx, r, spec, network)
		if err == nil && ready.State != hypervisors.Off {
			err = fmt.Errorf("a run that is only prepared is %s", ready.State)
		}
		if err := errors.Join(err, s.wantState(ctx, status.VM, hypervisors.Off)); err != nil {
			return err
		}
	}
	spec.Prepare = false
	run, err := s.run(ctx, r, spec, network)
	if err == nil && run.State != hypervisors.Running {
		err = fmt.Errorf("live run is %s", run.State)
	}
	if err != nil {
		return err
	}
	if err := s.converted(ctx, run.VM); err != nil {
		return err
	}
	during, err := s.devicesOf(ctx, run.VM)
	if err != nil {
		return err
	}
	if err := s.Dirty(ctx, run.VM); err != nil {
		return fmt.Errorf("guest of the live run: %w", err)
	}
	if err := s.power.Stop(ctx, run.VM); err != nil {
		return err
	}
	kept, err := s.look(ctx, run.VM, "")
	if err != nil {
		return fmt.Errorf("the live run as a source: %w", err)
	}
	if _, err := s.run(ctx, r, spec, network); err != nil {
		return fmt.Errorf("start again: %w", err)
	}
	if s.Host.Capabilities().ChangeTracking { // else nobody knows what a guest wrote that boots
		if _, err := s.follow(ctx, run.VM, kept); err != nil {
			return fmt.Errorf("changes of a live run over a restart: %w", err)
		}
	}
	again, err := s.devicesOf(ctx, run.VM)
	if err == nil && !slices.Equal(again, during) {
		err = fmt.Errorf("devices are %q after a restart, were %q", again, during)
	}
	if err := errors.Join(err, s.converted(ctx, run.VM)); err != nil {
		return err
	}
	if err := r.End(ctx, hypervisors.LiveRun); err != nil {
		return err
	}
	after, err := s.devicesOf(ctx, status.VM)
	if err == nil && !slices.Equal(after, before) {
		err = fmt.Errorf("devices are %q after the run, were %q before", after, before)
	}
	return errors.Join(err, s.wantState(ctx, run.VM, hypervisors.Off), wantKept(ctx, r, "p1", content))
}

// devicesOf a machine, those that a guest needs drivers for.
func (s *stage) devicesOf(ctx context.Context, vm string) (devices []string, err error) {
	m, err := s.Host.VM(ctx, vm)
	for _, d := range m.Hardware.Disks {
		devices = append(devices, d.ID+" on "+d.Attached())
	}
	for _, n := range m.Hardware.NICs {
		devices = append(devices, n.MAC+" as "+n.Model)
	}
	return devices, err
}

func checkUnconvertible(ctx context.Context, s *stage) error {
	return s.refusesToConvert(ctx, hypervisors.ErrUnconvertible)
}

func checkNoConversion(ctx context.Context, s *stage) error {
	return s.refusesToConvert(ctx, hypervisors.ErrIncapable)
}

// refusesToConvert wants conversions of a machine without a system to fail and to leave nothing.
func (s *stage) refusesToConvert(ctx context.Context, want error) error {
	r, err := s.replica(ctx)
	if err != nil {
		return err
	}
	if err := commit(ctx, r, "p1", pattern(1)); err != nil {
		return err
	}
	for _, id := range []string{"t1", hypervisors.LiveRun} {
		_, err = s.run(ctx, r, hypervisors.RunSpec{ID: id, Point: "p1", Convert: true}, s.Network)
		if err := wants("conversion for run "+id, err, want); err != nil {
			return err
		}
	}
	status, err := r.Status(ctx)
	if err == nil && (len(status.Runs) > 0 || status.Stray) {
		err = fmt.Errorf("after refusals: %+v", status)
	}
	if err := errors.Join(err, wantKept(ctx, r, "p1", pattern(1))); err != nil {
		return err
	}
	return r.Drop(ctx, "p1")
}
