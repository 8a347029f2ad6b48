package hypervisortest

import (
	"context"
	"errors"
	"fmt"

	"understudy/hypervisors"
)

func trackingChecks() []Check {
	check := func(name string, run func(context.Context, *stage) error) Check {
		return Check{Name: name, Needs: needTracking, Why: whyTracking, Run: onStage(run)}
	}
	return []Check{
		check("changes make the earlier copy the later one", checkIncremental),
		check("without an earlier checkpoint nothing is known", checkNoSince),
		check("an unknown change id is lost tracking, no failure", checkUnknownSince),
		check("a failed cycle loses no change", checkFailedCycle),
		check("a forgotten change id is lost tracking, or answered truly", checkForgotten),
		check("lost tracking is said, and begins anew", checkLost),
		check("a grown disk is lost tracking", checkGrownSource),
		check("changes of a machine that is off", checkOffTracking),
		check("a disk that is left out is not tracked", checkLeftOutTracking),
	}
}

// follow takes a checkpoint since an earlier one and proves its changes against a full read.
func (s *stage) follow(ctx context.Context, vm string, from frozen) (frozen, error) {
	cp, err := s.freeze(ctx, vm, from.id)
	if err != nil {
		return frozen{}, err
	}
	all := from.disks.clone()
	if err := all.catchUp(ctx, cp.Disks()); err != nil {
		return frozen{}, err
	}
	full, err := readAll(ctx, cp.Disks())
	if err != nil {
		return frozen{}, err
	}
	if err := all.same(full); err != nil {
		return frozen{}, fmt.Errorf("earlier copy and changes do not make the new moment: %w", err)
	}
	to := frozen{disks: full, id: cp.ChangeIDs()[vm]}
	if to.id == "" || to.id == from.id {
		return frozen{}, fmt.Errorf("change id %q after %q", to.id, from.id)
	}
	return to, cp.Close(ctx)
}

func checkIncremental(ctx context.Context, s *stage) error {
	at, err := s.look(ctx, s.VM, "")
	if err != nil {
		return err
	}
	for range 4 {
		if err := s.Dirty(ctx, s.VM); err != nil {
			return err
		}
		next, err := s.follow(ctx, s.VM, at)
		if err != nil {
			return err
		}
		if err := at.disks.differ(next.disks); err != nil {
			return err
		}
		if err := s.source.Forget(ctx, s.VM, at.id); err != nil {
			return err
		}
		at = next
	}
	return nil
}

func checkNoSince(ctx context.Context, s *stage) error {
	cp, err := s.freeze(ctx, s.VM, "")
	if err != nil {
		return err
	}
	return allLost(ctx, cp)
}

func allLost(ctx context.Context, cp hypervisors.Checkpoint) error {
	for _, d := range cp.Disks() {
		if err := lost(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

// lostOrTrue is what a forgotten change id may be answered by.
func lostOrTrue(ctx context.Context, cp hypervisors.Checkpoint, at frozen) error {
	full, err := readAll(ctx, cp.Disks())
	if err != nil {
		return err
	}
	for i, d := range cp.Disks() {
		if lost(ctx, d) == nil {
			continue
		}
		one := at.disks[i : i+1].clone()
		if err := errors.Join(one.catchUp(ctx, cp.Disks()[i:i+1]), one.same(full[i:i+1])); err != nil {
			return fmt.Errorf("a forgotten change id is neither lost nor told truly: %w", err)
		}
	}
	return nil
}

func checkUnknownSince(ctx context.Context, s *stage) error {
	known, err := s.look(ctx, s.VM, "")
	if err != nil {
		return err
	}
	if err := s.source.Forget(ctx, s.VM, known.id); err != nil {
		return err
	}
	cp, err := s.freeze(ctx, s.VM, known.id) // as the driver itself writes them, but perhaps not there any more
	if err != nil {
		return err
	}
	if err := lostOrTrue(ctx, cp, known); err != nil {
		return err
	}
	if cp.ChangeIDs()[s.VM] == "" {
		return errors.New("tracking does not begin anew")
	}
	return nil
}

func checkFailedCycle(ctx context.Context, s *stage) error {
	committed, err := s.look(ctx, s.VM, "")
	if err != nil {
		return err
	}
	for range 3 {
		if err := s.Dirty(ctx, s.VM); err != nil {
			return err
		}
		failed, err := s.freeze(ctx, s.VM, committed.id)
		if err != nil {
			return err
		}
		if err := failed.Close(ctx); err != nil {
			return err
		}
		if err := s.source.Forget(ctx, s.VM, failed.ChangeIDs()[s.VM]); err != nil {
			return err
		}
	}
	if err := s.Dirty(ctx, s.VM); err != nil {
		return err
	}
	next, err := s.follow(ctx, s.VM, committed)
	if err != nil {
		return fmt.Errorf("after three cycles that failed: %w", err)
	}
	return committed.disks.differ(next.disks)
}

func checkForgotten(ctx context.Context, s *stage) error {
	older, err := s.look(ctx, s.VM, "")
	if err != nil {
		return err
	}
	newer, err := s.follow(ctx, s.VM, older)
	if err != nil {
		return err
	}
	if err := s.source.Forget(ctx, s.VM, older.id); err != nil {
		return err
	}
	cp, err := s.freeze(ctx, s.VM, older.id)
	if err != nil {
		return err
	}
	if err := lostOrTrue(ctx, cp, older); err != nil {
		return err
	}
	if err := cp.Close(ctx); err != nil {
		return err
	}
	if err := s.Dirty(ctx, s.VM); err != nil {
		return err
	}
	_, err = s.follow(ctx, s.VM, newer)
	return err
}

func checkLost(ctx context.Context, s *stage) error {
	before, err := s.look(ctx, s.VM, "")
	if err != nil {
		return err
	}
	if err := s.LoseTracking(ctx); err != nil {
		return err
	}
	cp, err := s.freeze(ctx, s.VM, before.id)
	if err != nil {
		return err
	}
	if err := allLost(ctx, cp); err != nil {
		return err
	}
	anew := frozen{id: cp.ChangeIDs()[s.VM]}
	if anew.disks, err = readAllocated(ctx, cp.Disks()); err != nil {
		return err
	}
	if err := cp.Close(ctx); err != nil {
		return err
	}
	if err := s.source.Forget(ctx, s.VM, before.id); err != nil {
		return fmt.Errorf("forget what is lost: %w", err)
	}
	if err := s.Dirty(ctx, s.VM); err != nil {
		return err
	}
	_, err = s.follow(ctx, s.VM, anew)
	return err
}

func checkGrownSource(ctx context.Context, s *stage) error {
	vm, err := s.NewVM(ctx)
	if err != nil {
		return err
	}
	if s.Host.Capabilities().Power { // the harder case
		if err := s.power.Start(ctx, vm); err != nil {
			return err
		}
		s.later(func(ctx context.Context) error { return s.power.Stop(ctx, vm) })
	}
	before, err := s.look(ctx, vm, "")
	if err != nil {
		return err
	}
	size := before.disks[0].size + 8*block
	if err := s.Grow(ctx, vm, before.disks[0].id, size); err != nil {
		return err
	}
	cp, err := s.freeze(ctx, vm, before.id)
	if err != nil {
		return err
	}
	if got := cp.Disks()[0].Size(); got != size {
		return fmt.Errorf("the grown disk has %d bytes, want %d", got, size)
	}
	if err := lost(ctx, cp.Disks()[0]); err != nil {
		return err
	}
	anew := frozen{id: cp.ChangeIDs()[vm]}
	if anew.disks, err = readAllocated(ctx, cp.Disks()); err != nil {
		return err
	}
	if err := cp.Close(ctx); err != nil {
		return err
	}
	_, err = s.follow(ctx, vm, anew)
	return err
}

func checkOffTracking(ctx context.Context, s *stage) error {
	vm, err := s.NewVM(ctx)
	if err != nil {
		return err
	}
	first, err := s.look(ctx, vm, "")
	if err != nil {
		return err
	}
	if _, err := s.follow(ctx, vm, first); err != nil {
		return err
	}
	return s.wantState(ctx, vm, hypervisors.Off)
}

// checkLeftOutTracking leaves a disk out for one checkpoint: the others tell their changes all along, and that one is
// without tracking until it is frozen again.
func checkLeftOutTracking(ctx context.Context, s *stage) error {
	at, err := s.look(ctx, s.VM, "")
	if err != nil {
		return err
	}
	out := at.disks[len(at.disks)-1].id
	without, err := s.leaving(ctx, s.VM, at.id, out)
	if err != nil {
		return err
	}
	rest := at.disks[:len(at.disks)-1].clone()
	if err := rest.catchUp(ctx, without.Disks()); err != nil {
		return err
	}
	if err := without.Close(ctx); err != nil {
		return err
	}
	if err := s.source.Forget(ctx, s.VM, at.id); err != nil {
		return err
	}
	if err := s.Dirty(ctx, s.VM); err != nil {
		return err
	}
	back, err := s.freeze(ctx, s.VM, without.ChangeIDs()[s.VM])
	if err != nil {
		return err
	}
	frozen := back.Disks()
	if err := lost(ctx, frozen[len(frozen)-1]); err != nil {
		return fmt.Errorf("disk that was left out: %w", err)
	}
	if err := rest.catchUp(ctx, frozen[:len(frozen)-1]); err != nil {
		return err
	}
	return s.tracksOn(ctx, back)
}

// tracksOn proves that every disk of a checkpoint tells its changes to the next.
func (s *stage) tracksOn(ctx context.Context, cp hypervisors.Checkpoint) error {
	at := frozen{id: cp.ChangeIDs()[s.VM]}
	var err error
	if at.disks, err = readAllocated(ctx, cp.Disks()); err != nil {
		return err
	}
	if err := cp.Close(ctx); err != nil {
		return err
	}
	if err := s.Dirty(ctx, s.VM); err != nil {
		return err
	}
	_, err = s.follow(ctx, s.VM, at)
	return err
}
