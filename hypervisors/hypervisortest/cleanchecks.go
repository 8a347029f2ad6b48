package hypervisortest

import (
	"context"
	"errors"
	"fmt"

	"understudy/hypervisors"
)

func cleanChecks() []Check {
	return []Check{
		{Name: "clean finishes an abandoned checkpoint and keeps what is committed", Needs: needTracking, Why: whyTracking,
			Run: onStage(checkCleanCheckpoint)},
		{Name: "clean forgets change ids that nobody claims", Needs: needTracking, Why: whyTracking, Run: onStage(checkCleanIDs)},
		{Name: "clean leaves another owner's checkpoint alone", Needs: needTracking, Why: whyTracking,
			Run: onStage(checkCleanForeignCheckpoint)},
		{Name: "clean discards an abandoned draft", Needs: needTarget, Why: whyTarget, Run: onStage(checkCleanDraft)},
		{Name: "clean leaves another owner's draft alone", Needs: needTarget, Why: whyTarget, Run: onStage(checkCleanForeignDraft)},
		{Name: "clean ends tests that nobody wants", Why: "the host cannot run tests in isolated networks", Run: onStage(checkCleanTests),
			Needs: func(c hypervisors.Capabilities) bool { return needRun(c) && c.Isolation }},
	}
}

func keep(vm string, ids ...hypervisors.ChangeID) hypervisors.Keep {
	return hypervisors.Keep{ChangeIDs: map[string][]hypervisors.ChangeID{vm: ids}}
}

// abandon takes a checkpoint on a connection that is then lost.
func (s *stage) abandon(ctx context.Context, vm string, since hypervisors.ChangeID) (hypervisors.Checkpoint, error) {
	conn, err := s.Connect(ctx, s.Owner)
	if err != nil {
		return nil, err
	}
	cp, err := conn.(hypervisors.Source).Checkpoint(ctx, hypervisors.CheckpointRequest{
		Name: s.name("c"), VMs: []hypervisors.CheckpointVM{{ID: vm, Since: since}},
	})
	return cp, errors.Join(err, conn.Close())
}

func checkCleanCheckpoint(ctx context.Context, s *stage) error {
	committed, err := s.look(ctx, s.VM, "")
	if err != nil {
		return err
	}
	if err := s.Dirty(ctx, s.VM); err != nil {
		return err
	}
	if _, err := s.abandon(ctx, s.VM, committed.id); err != nil {
		return err
	}
	if err := s.Dirty(ctx, s.VM); err != nil {
		return err
	}
	removed, err := s.Host.Clean(ctx, keep(s.VM, committed.id))
	if err != nil {
		return err
	}
	if len(removed) == 0 {
		return errors.New("clean does not name the checkpoint that was left over")
	}
	removed, err = s.Host.Clean(ctx, keep(s.VM, committed.id))
	if err != nil || len(removed) > 0 {
		return fmt.Errorf("clean once more removes %q, %v", removed, err)
	}
	next, err := s.follow(ctx, s.VM, committed)
	if err != nil {
		return err
	}
	return committed.disks.differ(next.disks)
}

func checkCleanIDs(ctx context.Context, s *stage) error {
	forgotten, err := s.look(ctx, s.VM, "")
	if err != nil {
		return err
	}
	kept, err := s.look(ctx, s.VM, "")
	if err != nil {
		return err
	}
	removed, err := s.Host.Clean(ctx, keep(s.VM, kept.id))
	if err != nil {
		return err
	}
	if len(removed) > 1 { // none where the source keeps nothing for a change id
		return fmt.Errorf("clean removes %q, want one change id", removed)
	}
	if err := s.Dirty(ctx, s.VM); err != nil {
		return err
	}
	if _, err := s.follow(ctx, s.VM, kept); err != nil {
		return err
	}
	cp, err := s.freeze(ctx, s.VM, forgotten.id)
	if err != nil {
		return err
	}
	return lostOrTrue(ctx, cp, forgotten)
}

func checkCleanForeignCheckpoint(ctx context.Context, s *stage) error {
	other, err := s.connect(ctx, s.other())
	if err != nil {
		return err
	}
	s.later(func(ctx context.Context) error { return cleanAll(ctx, other) })
	source := other.(hypervisors.Source)
	cp, err := s.freezeOn(ctx, source, hypervisors.CheckpointRequest{
		Name: s.name("c"), VMs: []hypervisors.CheckpointVM{{ID: s.VM}},
	})
	if err != nil {
		return err
	}
	theirs := frozen{id: cp.ChangeIDs()[s.VM]}
	if err := s.wantClean(ctx); err != nil {
		return err
	}
	if theirs.disks, err = readAllocated(ctx, cp.Disks()); err != nil {
		return fmt.Errorf("another owner's checkpoint after our clean: %w", err)
	}
	if err := cp.Close(ctx); err != nil {
		return err
	}
	if err := s.wantClean(ctx); err != nil {
		return err
	}
	// Our tracking and theirs do not see each other.
	ours, err := s.look(ctx, s.VM, "")
	if err != nil {
		return err
	}
	if err := s.source.Forget(ctx, s.VM, theirs.id); err != nil {
		return err
	}
	if err := s.Dirty(ctx, s.VM); err != nil {
		return err
	}
	next, err := s.freezeOn(ctx, source, hypervisors.CheckpointRequest{
		Name: s.name("c"), VMs: []hypervisors.CheckpointVM{{ID: s.VM, Since: theirs.id}},
	})
	if err != nil {
		return err
	}
	if err := theirs.disks.catchUp(ctx, next.Disks()); err != nil {
		return fmt.Errorf("another owner's change id: %w", err)
	}
	full, err := readAll(ctx, next.Disks())
	if err != nil {
		return err
	}
	if err := errors.Join(theirs.disks.same(full), next.Close(ctx)); err != nil {
		return err
	}
	_, err = s.follow(ctx, s.VM, ours)
	return err
}

// wantClean fails when there is something of ours to remove.
func (s *stage) wantClean(ctx context.Context) error {
	removed, err := s.Host.Clean(ctx, hypervisors.Keep{})
	if err == nil && len(removed) > 0 {
		err = fmt.Errorf("clean removes %q, which is not ours", removed)
	}
	return err
}

func cleanAll(ctx context.Context, h hypervisors.Host) error {
	_, err := h.Clean(ctx, hypervisors.Keep{})
	return err
}

func checkCleanDraft(ctx context.Context, s *stage) error {
	r, err := s.replica(ctx)
	if err != nil {
		return err
	}
	if err := commit(ctx, r, "p1", pattern(1)); err != nil {
		return err
	}
	conn, err := s.Connect(ctx, s.Owner)
	if err != nil {
		return err
	}
	over, err := conn.(hypervisors.Target).Replica(ctx, r.ID())
	if err == nil {
		var d hypervisors.Draft
		if d, err = over.Draft(ctx, request("p2", pattern(2))); err == nil {
			err = fill(ctx, d, "p2", pattern(2))
		}
	}
	if err := errors.Join(err, conn.Close()); err != nil {
		return err
	}
	removed, err := s.Host.Clean(ctx, hypervisors.Keep{})
	if err != nil {
		return err
	}
	if len(removed) == 0 {
		return errors.New("clean does not name the draft that was left over")
	}
	if err := errors.Join(wantPoints(ctx, r, "p1"), s.wantClean(ctx)); err != nil {
		return err
	}
	return s.commitOn(ctx, r, "p2", pattern(1), pattern(2))
}

func checkCleanForeignDraft(ctx context.Context, s *stage) error {
	other, err := s.connect(ctx, s.other())
	if err != nil {
		return err
	}
	s.later(func(ctx context.Context) error { return cleanAll(ctx, other) })
	hw, err := s.stock(ctx)
	if err != nil {
		return err
	}
	r, err := other.(hypervisors.Target).CreateReplica(ctx, hypervisors.ReplicaSpec{ID: s.name("r"), Hardware: hw, Storage: s.Storage})
	if err != nil {
		return err
	}
	s.later(r.Delete)
	d, err := r.Draft(ctx, request("p1", pattern(1)))
	if err != nil {
		return err
	}
	s.later(d.Discard)
	if err := fill(ctx, d, "p1", pattern(1)); err != nil {
		return err
	}
	if err := s.wantClean(ctx); err != nil {
		return err
	}
	if err := d.Commit(ctx, pointOf("p1", pattern(1))); err != nil {
		return err
	}
	return wantKept(ctx, r, "p1", pattern(1))
}

func checkCleanTests(ctx context.Context, s *stage) error {
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
	var runs []hypervisors.RunStatus
	var networks []string
	for _, id := range []string{"wanted", "unwanted"} {
		network, err := s.bubble(ctx)
		if err != nil {
			return err
		}
		run, err := s.test(ctx, r, id, "p1", network)
		if err != nil {
			return err
		}
		runs, networks = append(runs, run), append(networks, network)
	}
	if _, err := s.Host.Clean(ctx, hypervisors.Keep{TestRuns: []string{"wanted"}}); err != nil {
		return err
	}
	_, err = s.Host.VM(ctx, runs[1].VM)
	if err := wants("machine of a test that nobody wants", err, hypervisors.ErrNotFound); err != nil {
		return err
	}
	if err := s.wantNetworks(ctx, map[string]bool{networks[0]: true, networks[1]: false}); err != nil {
		return err
	}
	if err := errors.Join(s.wantState(ctx, runs[0].VM, hypervisors.Running), s.wantState(ctx, live.VM, hypervisors.Running)); err != nil {
		return err
	}
	status, err := r.Status(ctx)
	if err == nil && len(status.Runs) != 2 {
		err = fmt.Errorf("runs after clean: %+v", status.Runs)
	}
	return errors.Join(err, r.End(ctx, "wanted"), r.End(ctx, hypervisors.LiveRun))
}
