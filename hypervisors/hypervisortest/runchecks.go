package hypervisortest

import (
	"context"
	"errors"
	"fmt"

	"understudy/hypervisors"
)

func runChecks() []Check {
	check := func(name string, run func(context.Context, *stage) error) Check {
		return Check{Name: name, Needs: needRun, Why: whyRun, Run: onStage(run)}
	}
	return []Check{
		{Name: "starting and stopping again is success", Why: "the host cannot start machines", Run: onStage(checkPower),
			Needs: func(c hypervisors.Capabilities) bool { return c.Power }},
		{Name: "autostart is set and shown", Why: "the host cannot start machines", Run: onStage(checkAutostart),
			Needs: func(c hypervisors.Capabilities) bool { return c.Power }},
		check("a test runs beside drafts, its writes apart", checkTestRun),
		check("two tests of different points", checkTwoTests),
		check("a test is refused", checkTestRefused),
		check("a live run keeps what it writes until it ends", checkLiveRun),
		check("a live run on another point is refused", checkLiveOther),
		check("a replica started by hand is stray", checkStray),
		check("deleting a replica that runs", checkDeleteRunning),
	}
}

func checkPower(ctx context.Context, s *stage) error {
	vm, err := s.NewVM(ctx)
	if err != nil {
		return err
	}
	for _, step := range []struct {
		do   func(context.Context, string) error
		want hypervisors.PowerState
	}{
		{s.power.Stop, hypervisors.Off},
		{s.power.Start, hypervisors.Running},
		{s.power.Start, hypervisors.Running},
		{s.power.Stop, hypervisors.Off},
		{s.power.Stop, hypervisors.Off},
		{s.power.Shutdown, hypervisors.Off},
	} {
		if err := step.do(ctx, vm); err != nil {
			return err
		}
		if err := s.wantState(ctx, vm, step.want); err != nil {
			return err
		}
	}
	return wants("start of an unknown machine", s.power.Start(ctx, nobody), hypervisors.ErrNotFound)
}

func checkAutostart(ctx context.Context, s *stage) error {
	id, err := s.NewVM(ctx)
	if err != nil {
		return err
	}
	s.later(func(ctx context.Context) error { return s.power.SetAutostart(ctx, id, false) })
	for _, on := range []bool{false, true, true, false} {
		if err := s.power.SetAutostart(ctx, id, on); err != nil {
			return err
		}
		vm, err := s.Host.VM(ctx, id)
		if err != nil {
			return err
		}
		if vm.Autostart != on || vm.State != hypervisors.Off {
			return fmt.Errorf("autostart set to %v: shown as %v, machine is %s", on, vm.Autostart, vm.State)
		}
	}
	return wants("autostart of an unknown machine", s.power.SetAutostart(ctx, nobody, true), hypervisors.ErrNotFound)
}

// test starts a run whose NICs are all in one network; it is ended at the end.
func (s *stage) test(ctx context.Context, r hypervisors.Replica, id, point, network string) (hypervisors.RunStatus, error) {
	return s.run(ctx, r, hypervisors.RunSpec{ID: id, Point: point}, network)
}

func (s *stage) run(ctx context.Context, r hypervisors.Replica, spec hypervisors.RunSpec, network string) (hypervisors.RunStatus, error) {
	status, err := r.Status(ctx)
	if err != nil {
		return hypervisors.RunStatus{}, err
	}
	vm, err := s.Host.VM(ctx, status.VM)
	if err != nil {
		return hypervisors.RunStatus{}, err
	}
	spec.Networks = map[string]string{}
	for _, n := range vm.Hardware.NICs {
		spec.Networks[n.MAC] = network
	}
	run, err := r.Run(ctx, spec)
	if err != nil {
		return hypervisors.RunStatus{}, fmt.Errorf("run %s from %s: %w", spec.ID, spec.Point, err)
	}
	s.later(func(ctx context.Context) error {
		if err := r.End(ctx, spec.ID); !errors.Is(err, hypervisors.ErrNotFound) {
			return err
		}
		return nil // the replica is gone already
	})
	return run, nil
}

// bubble is the network for tests: isolated where the host can.
func (s *stage) bubble(ctx context.Context) (string, error) {
	isolation, ok := s.Host.(hypervisors.Isolation)
	if !s.Host.Capabilities().Isolation || !ok {
		return s.Network, nil
	}
	name := s.name("n")
	if err := isolation.IsolatedNetwork(ctx, name); err != nil {
		return "", err
	}
	s.later(func(ctx context.Context) error { return isolation.RemoveNetwork(ctx, name) })
	return name, nil
}

func checkTestRun(ctx context.Context, s *stage) error {
	r, content, err := s.copyOfVM(ctx)
	if err != nil {
		return err
	}
	network, err := s.bubble(ctx)
	if err != nil {
		return err
	}
	run, err := s.test(ctx, r, "t1", "p1", network)
	if err != nil {
		return err
	}
	if err := s.wantTest(ctx, r, run, network); err != nil {
		return err
	}
	if err := s.Dirty(ctx, run.VM); err != nil {
		return fmt.Errorf("guest of the test: %w", err)
	}
	if err := s.answers(ctx, network); err != nil {
		return err
	}
	// Replication goes on beside it.
	if err := s.commitOn(ctx, r, "p2", content, content); err != nil {
		return err
	}
	again, err := s.test(ctx, r, "t1", "p1", network)
	if err != nil || again.VM != run.VM {
		return fmt.Errorf("the same run again is %+v, %v", again, err)
	}
	if err := wants("drop of the point it stands on", r.Drop(ctx, "p1"), hypervisors.ErrInUse); err != nil {
		return err
	}
	_, err = s.test(ctx, r, "t1", "p2", network)
	if err := wants("the same run from another point", err, hypervisors.ErrInUse); err != nil {
		return err
	}
	for range 2 {
		if err := r.End(ctx, "t1"); err != nil {
			return err
		}
	}
	_, err = s.Host.VM(ctx, run.VM)
	if err := wants("machine of a test that ended", err, hypervisors.ErrNotFound); err != nil {
		return err
	}
	return errors.Join(wantPoint(ctx, r, "p1", content), wantPoint(ctx, r, "p2", content), wantPoints(ctx, r, "p1", "p2"))
}

func (s *stage) wantTest(ctx context.Context, r hypervisors.Replica, run hypervisors.RunStatus, network string) error {
	status, err := r.Status(ctx)
	if err != nil {
		return err
	}
	if len(status.Runs) != 1 || status.Runs[0] != run || run.State != hypervisors.Running || run.Point != "p1" || run.ID != "t1" {
		return fmt.Errorf("run is %+v, status says %+v", run, status.Runs)
	}
	vm, err := s.Host.VM(ctx, run.VM)
	if err != nil {
		return err
	}
	if run.VM == status.VM || vm.Replica != r.ID() || vm.State != hypervisors.Running {
		return fmt.Errorf("test machine %s is %s, of replica %q", vm.ID, vm.State, vm.Replica)
	}
	for _, n := range vm.Hardware.NICs {
		if n.Network != network {
			return fmt.Errorf("NIC %s of the test is in network %s, want %s", n.MAC, n.Network, network)
		}
	}
	return s.wantState(ctx, status.VM, hypervisors.Off)
}

// answers waits until the guest accepts a connection in a network, where the host can be asked for one.
func (s *stage) answers(ctx context.Context, network string) error {
	if !s.Host.Capabilities().Dial {
		return nil
	}
	guest := s.Host.(hypervisors.Guest)
	return poll(ctx, func() error {
		conn, err := guest.Dial(ctx, network, s.Answer.From, s.Answer.Addr)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

func checkTwoTests(ctx context.Context, s *stage) error {
	r, content, err := s.copyOfVM(ctx)
	if err != nil {
		return err
	}
	if err := commit(ctx, r, "p2", content); err != nil {
		return err
	}
	network, err := s.bubble(ctx)
	if err != nil {
		return err
	}
	first, err := s.test(ctx, r, "t1", "p1", network)
	if err != nil {
		return err
	}
	second, err := s.test(ctx, r, "t2", "p2", s.Network)
	if err != nil {
		return err
	}
	if first.VM == second.VM {
		return errors.New("two tests are one machine")
	}
	if err := r.End(ctx, "t1"); err != nil {
		return err
	}
	if err := s.wantState(ctx, second.VM, hypervisors.Running); err != nil {
		return err
	}
	if err := r.Drop(ctx, "p1"); err != nil {
		return fmt.Errorf("drop the older point, on which nothing runs any more: %w", err)
	}
	if err := s.Dirty(ctx, second.VM); err != nil {
		return err
	}
	return errors.Join(r.End(ctx, "t2"), wantPoint(ctx, r, "p2", content))
}

func checkTestRefused(ctx context.Context, s *stage) error {
	r, err := s.replica(ctx)
	if err != nil {
		return err
	}
	if err := commit(ctx, r, "p1", pattern(1)); err != nil {
		return err
	}
	_, err = s.test(ctx, r, "t1", "no-such-point", s.Network)
	if err := wants("test of an unknown point", err, hypervisors.ErrNotFound); err != nil {
		return err
	}
	_, err = s.test(ctx, r, "t1", "p1", "no-such-network")
	if err := wants("test in an unknown network", err, hypervisors.ErrUnknownNetwork); err != nil {
		return err
	}
	if _, err := r.Run(ctx, hypervisors.RunSpec{ID: "t1", Point: "p1"}); err == nil {
		return errors.Join(errors.New("a test started in the network of production"), r.End(ctx, "t1"))
	}
	status, err := r.Status(ctx)
	if err == nil && len(status.Runs) > 0 {
		err = fmt.Errorf("runs after refusals: %+v", status.Runs)
	}
	return err
}

func checkLiveRun(ctx context.Context, s *stage) error {
	r, content, err := s.copyOfVM(ctx)
	if err != nil {
		return err
	}
	network, err := s.bubble(ctx) // the guest is a twin of VM
	if err != nil {
		return err
	}
	run, err := s.test(ctx, r, hypervisors.LiveRun, "p1", network)
	if err != nil {
		return err
	}
	status, err := r.Status(ctx)
	if err != nil {
		return err
	}
	if run.VM != status.VM || len(status.Runs) != 1 || status.Runs[0] != run || status.Stray {
		return fmt.Errorf("live run is %+v, status says %+v", run, status)
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
	if err := kept.disks.differ(content); err != nil {
		return err
	}
	conn, err := s.connect(ctx, s.Owner)
	if err != nil {
		return err
	}
	if _, err := conn.Clean(ctx, keep(run.VM, kept.id)); err != nil {
		return err
	}
	if _, err := s.test(ctx, r, hypervisors.LiveRun, "p1", network); err != nil {
		return fmt.Errorf("start again: %w", err)
	}
	if err := s.wantState(ctx, run.VM, hypervisors.Running); err != nil {
		return err
	}
	// Guests write as they boot, so what was kept shows in the changes alone.
	if s.Host.Capabilities().ChangeTracking {
		if kept, err = s.follow(ctx, run.VM, kept); err != nil {
			return fmt.Errorf("changes of a live run over a restart: %w", err)
		}
	}
	for range 2 {
		if err := r.End(ctx, hypervisors.LiveRun); err != nil {
			return err
		}
	}
	if err := errors.Join(s.wantState(ctx, run.VM, hypervisors.Off), wantPoint(ctx, r, "p1", content)); err != nil {
		return err
	}
	return s.wantFresh(ctx, r, kept, network)
}

// wantFresh starts another live run: it knows nothing of the one that ended, least of all its change id.
func (s *stage) wantFresh(ctx context.Context, r hypervisors.Replica, ended frozen, network string) error {
	run, err := s.test(ctx, r, hypervisors.LiveRun, "p1", network)
	if err != nil {
		return err
	}
	cp, err := s.freeze(ctx, run.VM, ended.id)
	if err != nil {
		return err
	}
	return errors.Join(allLost(ctx, cp), cp.Close(ctx), r.End(ctx, hypervisors.LiveRun))
}

func checkLiveOther(ctx context.Context, s *stage) error {
	r, err := s.replica(ctx)
	if err != nil {
		return err
	}
	for _, id := range []string{"p1", "p2"} {
		if err := commit(ctx, r, id, pattern(id[1]-'0')); err != nil {
			return err
		}
	}
	if _, err := s.test(ctx, r, hypervisors.LiveRun, "p1", s.Network); err != nil {
		return err
	}
	_, err = s.test(ctx, r, hypervisors.LiveRun, "p2", s.Network)
	if err := wants("live run from another point", err, hypervisors.ErrInUse); err != nil {
		return err
	}
	if err := wants("drop of its point", r.Drop(ctx, "p1"), hypervisors.ErrInUse); err != nil {
		return err
	}
	if err := r.Drop(ctx, "p2"); err != nil {
		return err
	}
	return errors.Join(r.End(ctx, hypervisors.LiveRun), wantKept(ctx, r, "p1", pattern(1)), r.Drop(ctx, "p1"))
}

func checkStray(ctx context.Context, s *stage) error {
	r, err := s.replica(ctx)
	if err != nil {
		return err
	}
	if err := commit(ctx, r, "p1", pattern(1)); err != nil {
		return err
	}
	status, err := r.Status(ctx)
	if err != nil {
		return err
	}
	if err := s.power.Start(ctx, status.VM); err != nil {
		return err
	}
	status, err = r.Status(ctx)
	if err == nil && (!status.Stray || len(status.Runs) > 0) {
		err = fmt.Errorf("status of a replica that was started by hand: %+v", status)
	}
	if err := errors.Join(err, s.power.Stop(ctx, status.VM)); err != nil {
		return err
	}
	status, err = r.Status(ctx)
	if err == nil && status.Stray {
		err = errors.New("still stray after stop")
	}
	return errors.Join(err, wantKept(ctx, r, "p1", pattern(1)))
}

func checkDeleteRunning(ctx context.Context, s *stage) error {
	r, err := s.replica(ctx)
	if err != nil {
		return err
	}
	if err := commit(ctx, r, "p1", pattern(1)); err != nil {
		return err
	}
	live, err := s.test(ctx, r, hypervisors.LiveRun, "p1", s.Network)
	if err != nil {
		return err
	}
	test, err := s.test(ctx, r, "t1", "p1", s.Network)
	if err != nil {
		return err
	}
	if err := r.Delete(ctx); err != nil {
		return err
	}
	for _, vm := range []string{live.VM, test.VM} {
		_, err := s.Host.VM(ctx, vm)
		if err := wants("machine after delete", err, hypervisors.ErrNotFound); err != nil {
			return err
		}
	}
	return nil
}
