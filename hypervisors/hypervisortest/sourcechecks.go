package hypervisortest

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"understudy/hypervisors"
)

func sourceChecks() []Check {
	check := func(name string, run func(context.Context, *stage) error) Check {
		return Check{Name: name, Needs: needSource, Why: whySource, Run: onStage(run)}
	}
	return []Check{
		check("a checkpoint shows the disks of the machine", checkFrozenDisks),
		check("a checkpoint is frozen", checkFrozen),
		check("allocated covers the disk and tells the truth", checkAllocated),
		check("a checkpoint can be read by many", checkManyReaders),
		check("a second checkpoint is refused while one is open", checkBusy),
		check("a checkpoint is closed twice and read no more", checkCloseTwice),
		check("a close that was given up is repeated", checkCloseAgain),
		check("a checkpoint of an unknown machine leaves nothing", checkUnknownVM),
		check("a checkpoint of a machine that is off", checkOffVM),
		check("a checkpoint says when and how it was taken", checkMoment),
		check("a cancelled checkpoint leaves nothing", checkCancelledCheckpoint),
		check("a disk that is left out is not in the checkpoint", checkLeftOut),
		check("forgetting the unknown is success", checkForgetUnknown),
		{Name: "several machines share one moment", Why: "the host cannot freeze several machines at once", Run: onStage(checkGroup),
			Needs: func(c hypervisors.Capabilities) bool { return c.Source && c.GroupMoment }},
	}
}

func checkFrozenDisks(ctx context.Context, s *stage) error {
	vm, err := s.Host.VM(ctx, s.VM)
	if err != nil {
		return err
	}
	cp, err := s.freeze(ctx, s.VM, "")
	if err != nil {
		return err
	}
	want := slices.DeleteFunc(vm.Hardware.Disks, func(d hypervisors.Disk) bool { return d.Excluded != "" })
	got := cp.Disks()
	if len(got) != len(want) || len(got) == 0 {
		return fmt.Errorf("%d disks are frozen, the machine has %d", len(got), len(want))
	}
	for i, d := range got {
		if d.VM() != s.VM || d.ID() != want[i].ID || d.Size() != want[i].Size {
			return fmt.Errorf("disk %d is %s of %s with %d bytes, want %s with %d", i, d.ID(), d.VM(), d.Size(), want[i].ID, want[i].Size)
		}
	}
	return nil
}

func checkFrozen(ctx context.Context, s *stage) error {
	cp, err := s.freeze(ctx, s.VM, "")
	if err != nil {
		return err
	}
	first, err := readAll(ctx, cp.Disks())
	if err != nil {
		return err
	}
	if err := s.Dirty(ctx, s.VM); err != nil {
		return err
	}
	again, err := readAll(ctx, cp.Disks())
	if err != nil {
		return err
	}
	if err := first.same(again); err != nil {
		return fmt.Errorf("the checkpoint changed under the reader: %w", err)
	}
	if err := cp.Close(ctx); err != nil {
		return err
	}
	now, err := s.look(ctx, s.VM, "")
	if err != nil {
		return err
	}
	return first.differ(now.disks)
}

func checkAllocated(ctx context.Context, s *stage) error {
	cp, err := s.freeze(ctx, s.VM, "")
	if err != nil {
		return err
	}
	plain, err := readAll(ctx, cp.Disks())
	if err != nil {
		return err
	}
	allocated, err := readAllocated(ctx, cp.Disks())
	if err != nil {
		return err
	}
	return plain.same(allocated)
}

func checkManyReaders(ctx context.Context, s *stage) error {
	cp, err := s.freeze(ctx, s.VM, "")
	if err != nil {
		return err
	}
	var readers errgroup.Group
	copies := make([]disks, 4)
	for i := range copies {
		readers.Go(func() (err error) {
			copies[i], err = readAllocated(ctx, cp.Disks())
			return err
		})
	}
	if err := readers.Wait(); err != nil {
		return err
	}
	for _, c := range copies[1:] {
		if err := copies[0].same(c); err != nil {
			return err
		}
	}
	return nil
}

func checkBusy(ctx context.Context, s *stage) error {
	cp, err := s.freeze(ctx, s.VM, "")
	if err != nil {
		return err
	}
	before, err := readAllocated(ctx, cp.Disks())
	if err != nil {
		return err
	}
	_, err = s.freeze(ctx, s.VM, "")
	if err := wants("second checkpoint of the machine", err, hypervisors.ErrBusy); err != nil {
		return err
	}
	after, err := readAllocated(ctx, cp.Disks())
	if err != nil {
		return fmt.Errorf("the first checkpoint after the second was refused: %w", err)
	}
	if err := before.same(after); err != nil {
		return err
	}
	if err := cp.Close(ctx); err != nil {
		return err
	}
	_, err = s.look(ctx, s.VM, "")
	return err
}

func checkCloseAgain(ctx context.Context, s *stage) error {
	cp, err := s.freeze(ctx, s.VM, "")
	if err != nil {
		return err
	}
	_ = cp.Close(ended(ctx)) // done or not, as the driver likes
	if err := cp.Close(ctx); err != nil {
		return err
	}
	id := cp.ChangeIDs()[s.VM]
	removed, err := s.Host.Clean(ctx, keep(s.VM, id))
	if err == nil && len(removed) > 0 {
		err = fmt.Errorf("left behind: %q", removed)
	}
	if err != nil {
		return err
	}
	next, err := s.freeze(ctx, s.VM, id)
	if err != nil {
		return err
	}
	if err := cp.Close(ctx); err != nil { // which is no concern of the next checkpoint
		return err
	}
	if _, err := readAllocated(ctx, next.Disks()); err != nil {
		return err
	}
	return next.Close(ctx)
}

func checkCloseTwice(ctx context.Context, s *stage) error {
	cp, err := s.freeze(ctx, s.VM, "")
	if err != nil {
		return err
	}
	d := cp.Disks()[0]
	for range 2 {
		if err := cp.Close(ctx); err != nil {
			return err
		}
	}
	if _, err := d.ReadAt(make([]byte, 512), 0); err == nil {
		return errors.New("a closed checkpoint can be read")
	}
	return nil
}

func checkUnknownVM(ctx context.Context, s *stage) error {
	_, err := s.freeze(ctx, nobody, "")
	if err := wants("checkpoint of a machine that does not exist", err, hypervisors.ErrNotFound); err != nil {
		return err
	}
	if s.Host.Capabilities().GroupMoment {
		_, err := s.freezeOn(ctx, s.source, hypervisors.CheckpointRequest{
			Name: s.name("c"), VMs: []hypervisors.CheckpointVM{{ID: s.VM}, {ID: nobody}},
		})
		if err := wants("checkpoint of two machines, one unknown", err, hypervisors.ErrNotFound); err != nil {
			return err
		}
	}
	_, err = s.look(ctx, s.VM, "") // not busy
	return err
}

func checkOffVM(ctx context.Context, s *stage) error {
	vm, err := s.NewVM(ctx)
	if err != nil {
		return err
	}
	first, err := s.look(ctx, vm, "")
	if err != nil {
		return err
	}
	if first.disks.empty() {
		return errors.New("a disk with data reads as zeros")
	}
	again, err := s.look(ctx, vm, "")
	if err != nil {
		return err
	}
	if err := first.disks.same(again.disks); err != nil {
		return err
	}
	return s.wantState(ctx, vm, hypervisors.Off)
}

func (s *stage) wantState(ctx context.Context, id string, want hypervisors.PowerState) error {
	vm, err := s.Host.VM(ctx, id)
	if err != nil {
		return err
	}
	if vm.State != want {
		return fmt.Errorf("machine %s is %s, want %s", vm.Hardware.Name, vm.State, want)
	}
	return nil
}

func checkMoment(ctx context.Context, s *stage) error {
	first, err := s.freeze(ctx, s.VM, "")
	if err != nil {
		return err
	}
	if err := first.Close(ctx); err != nil {
		return err
	}
	second, err := s.freezeOn(ctx, s.source, hypervisors.CheckpointRequest{
		Name: s.name("c"), VMs: []hypervisors.CheckpointVM{{ID: s.VM}}, Quiesce: true,
	})
	if err != nil {
		return fmt.Errorf("a guest that cannot quiesce must not keep the checkpoint from being taken: %w", err)
	}
	switch c := second.Consistency(); {
	case first.Taken().IsZero() || second.Taken().Before(first.Taken()):
		return fmt.Errorf("taken at %v, then at %v", first.Taken(), second.Taken())
	case first.Consistency() != hypervisors.CrashConsistent:
		return fmt.Errorf("consistency is %q though nobody asked for more", first.Consistency())
	case c != hypervisors.CrashConsistent && c != hypervisors.ApplicationConsistent:
		return fmt.Errorf("consistency %q", c)
	}
	return nil
}

func checkCancelledCheckpoint(ctx context.Context, s *stage) error {
	if _, err := s.freeze(ended(ctx), s.VM, ""); err == nil {
		return errors.New("a checkpoint is taken although ctx has ended")
	}
	_, err := s.look(ctx, s.VM, "")
	return err
}

// leaving takes a checkpoint of one machine without some of its disks.
func (s *stage) leaving(ctx context.Context, vm string, since hypervisors.ChangeID, out ...string) (hypervisors.Checkpoint, error) {
	return s.freezeOn(ctx, s.source, hypervisors.CheckpointRequest{
		Name: s.name("c"), VMs: []hypervisors.CheckpointVM{{ID: vm, Since: since, LeaveOut: out}},
	})
}

// checkLeftOut leaves each disk of a machine that runs out in turn, then all of them, then one of a machine that is off.
func checkLeftOut(ctx context.Context, s *stage) error {
	all, err := s.look(ctx, s.VM, "")
	if err != nil {
		return err
	}
	if len(all.disks) < 2 {
		return fmt.Errorf("machine has %d disks, this check needs two", len(all.disks))
	}
	var ids []string
	for _, out := range all.disks {
		ids = append(ids, out.id)
		if err := s.wantWithout(ctx, s.VM, all.disks, out.id); err != nil {
			return err
		}
	}
	_, err = s.leaving(ctx, s.VM, "", ids...)
	if err := wants("checkpoint that leaves all disks out", err, hypervisors.ErrInvalid); err != nil {
		return err
	}
	off, err := s.NewVM(ctx)
	if err != nil {
		return err
	}
	if all, err = s.look(ctx, off, ""); err != nil {
		return err
	}
	return errors.Join(s.wantWithout(ctx, off, all.disks, all.disks[0].id), s.wantState(ctx, off, hypervisors.Off))
}

func (s *stage) wantWithout(ctx context.Context, vm string, all disks, out string) error {
	cp, err := s.leaving(ctx, vm, "", out, "no-such-disk")
	if err != nil {
		return err
	}
	want := slices.DeleteFunc(slices.Clone(all), func(d *disk) bool { return d.id == out })
	got := cp.Disks()
	if !slices.EqualFunc(got, want, func(f hypervisors.FrozenDisk, d *disk) bool { return f.ID() == d.id && f.Size() == d.size }) {
		return fmt.Errorf("without %s the checkpoint has %d disks, want %d", out, len(got), len(want))
	}
	if _, err := readAllocated(ctx, got); err != nil {
		return err
	}
	return cp.Close(ctx)
}

func checkForgetUnknown(ctx context.Context, s *stage) error {
	return errors.Join(
		s.source.Forget(ctx, s.VM, "no-such-change-id"),
		s.source.Forget(ctx, nobody, "no-such-change-id"),
		s.source.Forget(ctx, s.VM))
}

func checkGroup(ctx context.Context, s *stage) error {
	vm, err := s.NewVM(ctx)
	if err != nil {
		return err
	}
	cp, err := s.freezeOn(ctx, s.source, hypervisors.CheckpointRequest{
		Name: s.name("c"), VMs: []hypervisors.CheckpointVM{{ID: vm}, {ID: s.VM}},
	})
	if err != nil {
		return err
	}
	all := cp.Disks()
	if all[0].VM() != vm || all[len(all)-1].VM() != s.VM {
		return errors.New("disks are not in the order of the request")
	}
	if s.Host.Capabilities().ChangeTracking && (cp.ChangeIDs()[vm] == "" || cp.ChangeIDs()[s.VM] == "") {
		return fmt.Errorf("change ids of two machines: %v", cp.ChangeIDs())
	}
	first, err := readAllocated(ctx, all)
	if err != nil {
		return err
	}
	if err := s.Dirty(ctx, s.VM); err != nil {
		return err
	}
	again, err := readAllocated(ctx, all)
	if err != nil {
		return err
	}
	return first.same(again)
}
