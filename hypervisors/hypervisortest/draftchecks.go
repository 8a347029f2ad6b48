package hypervisortest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"understudy/hypervisors"
	"understudy/snapshot"
)

func draftChecks() []Check {
	check := func(name string, run func(context.Context, *stage) error) Check {
		return Check{Name: name, Needs: needTarget, Why: whyTarget, Run: onStage(run)}
	}
	return []Check{
		check("a committed point is exactly what was written", checkCommit),
		check("a committed point survives the connection", checkReconnect),
		check("committing twice makes one point", checkCommitTwice),
		check("a draft is no point before commit", checkUncommitted),
		check("a discard that was given up is repeated", checkDiscardAgain),
		check("a draft left over is discarded by the next", checkNextDraft),
		check("a draft shows the newest point and its map", checkDraftBase),
		check("a draft cannot replace a committed point", checkDraftTaken),
		check("a draft is written by many", checkManyWriters),
		check("a grown disk", checkGrownDisk),
		check("disks added and removed", checkDiskSet),
		check("a disk is added on the bus and at the place in the boot order that are asked for", checkAddedDisk),
		check("no space for the expected bytes", checkNoSpace),
		check("a cancelled draft leaves nothing", checkCancelledDraft),
	}
}

func checkCommit(ctx context.Context, s *stage) error {
	r, err := s.replica(ctx)
	if err != nil {
		return err
	}
	want := pattern(1)
	d, err := r.Draft(ctx, request("p1", want))
	if err != nil {
		return err
	}
	s.later(d.Discard)
	if err := fill(ctx, d, "p1", want); err != nil {
		return err
	}
	for i, dd := range d.Disks() { // what is written is read back before it is committed
		got := newDisk(dd.ID(), dd.Size())
		if err := got.read(ctx, dd); err != nil {
			return err
		}
		if err := got.same(want[i]); err != nil {
			return fmt.Errorf("draft: %w", err)
		}
	}
	if err := d.Commit(ctx, pointOf("p1", want)); err != nil {
		return err
	}
	if err := d.Discard(ctx); err != nil {
		return fmt.Errorf("discard after commit: %w", err)
	}
	return wantKept(ctx, r, "p1", want)
}

// wantKept proves content, maps and every word of a point's description.
func wantKept(ctx context.Context, r hypervisors.Replica, id string, all disks) error {
	status, err := r.Status(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(status.Points, func(p hypervisors.Point) bool { return p.ID == id })
	if i < 0 {
		return fmt.Errorf("point %s is not listed: %+v", id, status.Points)
	}
	got, want := status.Points[i], pointOf(id, all)
	if !got.Taken.Equal(want.Taken) || !got.Committed.Equal(want.Committed) || got.Consistency != want.Consistency ||
		got.ChangeID != want.ChangeID || !slices.Equal(got.Disks, want.Disks) {
		return fmt.Errorf("point is described as %+v, committed was %+v", got, want)
	}
	return wantPoint(ctx, r, id, all)
}

func checkReconnect(ctx context.Context, s *stage) error {
	r, err := s.replica(ctx)
	if err != nil {
		return err
	}
	conn, err := s.Connect(ctx, s.Owner)
	if err != nil {
		return err
	}
	over, err := conn.(hypervisors.Target).Replica(ctx, r.ID())
	if err == nil {
		err = commit(ctx, over, "p1", pattern(1))
	}
	if err := errors.Join(err, conn.Close()); err != nil {
		return err
	}
	if _, err := s.Host.Clean(ctx, hypervisors.Keep{}); err != nil {
		return err
	}
	return wantKept(ctx, r, "p1", pattern(1))
}

func checkCommitTwice(ctx context.Context, s *stage) error {
	r, err := s.replica(ctx)
	if err != nil {
		return err
	}
	d, err := r.Draft(ctx, request("p1", pattern(1)))
	if err != nil {
		return err
	}
	s.later(d.Discard)
	if err := fill(ctx, d, "p1", pattern(1)); err != nil {
		return err
	}
	for range 2 { // the second time as after an answer that was lost
		if err := d.Commit(ctx, pointOf("p1", pattern(1))); err != nil {
			return err
		}
	}
	return errors.Join(wantPoints(ctx, r, "p1"), wantKept(ctx, r, "p1", pattern(1)))
}

func checkUncommitted(ctx context.Context, s *stage) error {
	r, err := s.replica(ctx)
	if err != nil {
		return err
	}
	d, err := r.Draft(ctx, request("p1", pattern(1)))
	if err != nil {
		return err
	}
	s.later(d.Discard)
	if err := fill(ctx, d, "p1", pattern(1)); err != nil {
		return err
	}
	if err := wantPoints(ctx, r); err != nil {
		return err
	}
	if _, err := r.Open(ctx, "p1"); err == nil {
		return errors.New("an uncommitted point can be opened")
	}
	for range 2 {
		if err := d.Discard(ctx); err != nil {
			return err
		}
	}
	if err := d.Commit(ctx, pointOf("p1", pattern(1))); err == nil {
		return errors.New("a discarded draft was committed")
	}
	return wantPoints(ctx, r)
}

func checkDiscardAgain(ctx context.Context, s *stage) error {
	r, err := s.replica(ctx)
	if err != nil {
		return err
	}
	d, err := r.Draft(ctx, request("p1", pattern(2)))
	if err != nil {
		return err
	}
	if err := fill(ctx, d, "p1", pattern(2)); err != nil {
		return err
	}
	_ = d.Discard(ended(ctx)) // done or not, as the driver likes
	if err := d.Discard(ctx); err != nil {
		return err
	}
	if err := s.wantClean(ctx); err != nil {
		return err
	}
	next, err := r.Draft(ctx, request("p1", pattern(1)))
	if err != nil {
		return err
	}
	s.later(next.Discard)
	if err := fill(ctx, next, "p1", pattern(1)); err != nil {
		return err
	}
	if err := d.Discard(ctx); err != nil { // which is no concern of the next draft
		return err
	}
	if err := next.Commit(ctx, pointOf("p1", pattern(1))); err != nil {
		return err
	}
	return wantKept(ctx, r, "p1", pattern(1))
}

// ended is ctx when its time is over.
func ended(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	return ctx
}

func checkNextDraft(ctx context.Context, s *stage) error {
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
	d, err := r.Draft(ctx, request("p2", pattern(1)))
	if err != nil {
		return err
	}
	s.later(d.Discard)
	got, err := readAll(ctx, d.Disks())
	if err != nil {
		return err
	}
	if err := got.same(pattern(1)); err != nil {
		return fmt.Errorf("the draft shows more than the newest point: %w", err)
	}
	return errors.Join(d.Discard(ctx), wantPoints(ctx, r, "p1"), wantPoint(ctx, r, "p1", pattern(1)))
}

func checkDraftBase(ctx context.Context, s *stage) error {
	r, err := s.replica(ctx)
	if err != nil {
		return err
	}
	first, err := r.Draft(ctx, request("p1", pattern(1)))
	if err != nil {
		return err
	}
	s.later(first.Discard)
	for _, dd := range first.Disks() {
		if err := wantMap(dd, make([]byte, snapshot.MapSize(dd.Size()))); err != nil {
			return fmt.Errorf("new disk: %w", err)
		}
	}
	empty, err := readAll(ctx, first.Disks())
	if err != nil {
		return err
	}
	if !empty.empty() {
		return errors.New("a new disk is not empty")
	}
	if err := first.Discard(ctx); err != nil {
		return err
	}
	if err := commit(ctx, r, "p1", pattern(1)); err != nil {
		return err
	}
	second, err := r.Draft(ctx, request("p2", pattern(1)))
	if err != nil {
		return err
	}
	s.later(second.Discard)
	for i, dd := range second.Disks() {
		if err := wantMap(dd, mapOf("p1", pattern(1)[i])); err != nil {
			return err
		}
	}
	got, err := readAll(ctx, second.Disks())
	if err != nil {
		return err
	}
	if err := got.same(pattern(1)); err != nil {
		return err
	}
	// Whatever is written now, the point below stays.
	if err := fill(ctx, second, "p2", pattern(2)); err != nil {
		return err
	}
	if err := wantPoint(ctx, r, "p1", pattern(1)); err != nil && !errors.Is(err, hypervisors.ErrBusy) {
		return err
	}
	return errors.Join(second.Discard(ctx), wantPoint(ctx, r, "p1", pattern(1)))
}

func wantMap(dd hypervisors.DraftDisk, want []byte) error {
	if !dd.MapValid() {
		return fmt.Errorf("map of disk %s is not valid", dd.ID())
	}
	got := make([]byte, len(want))
	if err := readFull(dd.Map(), got, 0); err != nil {
		return fmt.Errorf("map of disk %s: %w", dd.ID(), err)
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("map of disk %s is not that of the newest point", dd.ID())
	}
	return nil
}

func checkDraftTaken(ctx context.Context, s *stage) error {
	r, err := s.replica(ctx)
	if err != nil {
		return err
	}
	if err := commit(ctx, r, "p1", pattern(1)); err != nil {
		return err
	}
	if d, err := r.Draft(ctx, request("p1", pattern(2))); err == nil {
		s.later(d.Discard)
		return errors.New("a draft of a committed point was opened")
	}
	return wantKept(ctx, r, "p1", pattern(1))
}

func checkManyWriters(ctx context.Context, s *stage) error {
	r, err := s.replica(ctx)
	if err != nil {
		return err
	}
	want := disks{newDisk("vda", 64*block), newDisk("vdb", 9*block+4096)}
	for i := range int64(64) {
		want[0].put(bytes.Repeat([]byte{byte(i), 1}, 5000), i*block)
	}
	d, err := r.Draft(ctx, request("p1", want))
	if err != nil {
		return err
	}
	s.later(d.Discard)
	if err := fill(ctx, d, "p1", want); err != nil {
		return err
	}
	var writers errgroup.Group
	for w := range int64(8) {
		writers.Go(func() error {
			for i := w; i < 64; i += 8 {
				p := make([]byte, block)
				copy(p, want[0].blocks[i])
				if _, err := d.Disks()[0].WriteAt(p, i*block); err != nil {
					return err
				}
				if err := readFull(d.Disks()[0], p, i*block); err != nil {
					return err
				}
				if err := d.Disks()[0].Flush(ctx); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := writers.Wait(); err != nil {
		return err
	}
	if err := d.Commit(ctx, pointOf("p1", want)); err != nil {
		return err
	}
	return wantPoint(ctx, r, "p1", want)
}

func checkGrownDisk(ctx context.Context, s *stage) error {
	r, err := s.replica(ctx)
	if err != nil {
		return err
	}
	if err := commit(ctx, r, "p1", pattern(1)); err != nil {
		return err
	}
	grown := pattern(1)
	for _, d := range grown {
		d.size += 3 * block
	}
	d, err := r.Draft(ctx, request("p2", grown))
	if err != nil {
		return err
	}
	s.later(d.Discard)
	got, err := readAll(ctx, d.Disks())
	if err != nil {
		return err
	}
	if err := got.same(grown); err != nil {
		return fmt.Errorf("old content, then zeros: %w", err)
	}
	for _, g := range grown {
		g.put([]byte("end"), g.size-3)
	}
	if err := fill(ctx, d, "p2", grown); err != nil {
		return err
	}
	if err := d.Commit(ctx, pointOf("p2", grown)); err != nil {
		return err
	}
	return errors.Join(wantKept(ctx, r, "p1", pattern(1)), wantKept(ctx, r, "p2", grown), s.wantHardware(ctx, r, grown))
}

// wantHardware compares the disks of the replica machine.
func (s *stage) wantHardware(ctx context.Context, r hypervisors.Replica, want disks) error {
	status, err := r.Status(ctx)
	if err != nil {
		return err
	}
	vm, err := s.Host.VM(ctx, status.VM)
	if err != nil {
		return err
	}
	var disks []hypervisors.Disk
	for _, d := range want {
		disks = append(disks, hypervisors.Disk{ID: d.id, Size: d.size})
	}
	return sameDisks(vm.Hardware.Disks, disks)
}

func checkDiskSet(ctx context.Context, s *stage) error {
	r, err := s.replica(ctx)
	if err != nil {
		return err
	}
	two := pattern(1)
	three := append(pattern(2), newDisk("vdc", 5*block))
	three[2].put([]byte("third"), 2*block)
	one := pattern(3)[:1]
	for i, all := range []disks{two, three, one} {
		if err := commit(ctx, r, fmt.Sprintf("p%d", i+1), all); err != nil {
			return err
		}
		if err := s.wantHardware(ctx, r, all); err != nil {
			return err
		}
	}
	return errors.Join(wantKept(ctx, r, "p1", two), wantKept(ctx, r, "p2", three), wantKept(ctx, r, "p3", one))
}

// checkAddedDisk adds what machines boot from to a replica that was made without, takes it away and adds it again, and
// then one disk more that claims the same place. How they are attached is kept with the points.
func checkAddedDisk(ctx context.Context, s *stage) error {
	hw, err := s.stock(ctx)
	if err != nil {
		return err
	}
	hw.Disks = []hypervisors.Disk{hw.Disks[1]}
	r, err := s.replicaOf(ctx, hw)
	if err != nil {
		return err
	}
	all := append(pattern(1), newDisk("vdc", 5*block))
	buses := map[string]string{"vda": "scsi", "vdb": "virtio", "vdc": "sata"}
	for i, has := range []disks{all[:2], all[1:2], all, all, all[1:2]} {
		req := request(fmt.Sprintf("p%d", i+1), has)
		for k := range req.Disks {
			d := &req.Disks[k]
			if d.Bus, d.Boot = buses[d.ID], 1; i == 3 {
				d.Bus, d.Boot = "", 0
			}
		}
		if err := commitAs(ctx, r, req, has); err != nil {
			return err
		}
		if err := s.wantAttached(ctx, r, has, buses); err != nil {
			return fmt.Errorf("point %s: %w", req.Point, err)
		}
	}
	if err := r.Drop(ctx, "p5"); err != nil {
		return err
	}
	return s.wantAttached(ctx, r, all, buses)
}

// wantAttached proves what the replica's hardware says of these disks: the first of the boot order is vda where it is there.
func (s *stage) wantAttached(ctx context.Context, r hypervisors.Replica, has disks, buses map[string]string) error {
	status, err := r.Status(ctx)
	if err != nil {
		return err
	}
	vm, err := s.Host.VM(ctx, status.VM)
	if err != nil {
		return err
	}
	if len(vm.Hardware.Disks) != len(has) {
		return fmt.Errorf("machine has disks %+v, want %d", vm.Hardware.Disks, len(has))
	}
	for _, d := range vm.Hardware.Disks {
		if d.Bus != buses[d.ID] || len(has) > 1 && (d.Boot == 1) != (d.ID == "vda") {
			return fmt.Errorf("disk was asked for on %s, vda first in the boot order; it is %+v", buses[d.ID], d)
		}
	}
	return nil
}

func checkNoSpace(ctx context.Context, s *stage) error {
	r, err := s.replica(ctx)
	if err != nil {
		return err
	}
	if err := commit(ctx, r, "p1", pattern(1)); err != nil {
		return err
	}
	req := request("p2", pattern(2))
	req.ExpectBytes = 1 << 60
	_, err = r.Draft(ctx, req)
	if err := wants("draft that is larger than any storage", err, hypervisors.ErrNoSpace); err != nil {
		return err
	}
	if err := commit(ctx, r, "p2", pattern(2)); err != nil {
		return fmt.Errorf("after a draft that found no space: %w", err)
	}
	return wantPoint(ctx, r, "p1", pattern(1))
}

func checkCancelledDraft(ctx context.Context, s *stage) error {
	r, err := s.replica(ctx)
	if err != nil {
		return err
	}
	if d, err := r.Draft(ended(ctx), request("p1", pattern(1))); err == nil {
		s.later(d.Discard)
		return errors.New("a draft was opened although ctx has ended")
	}
	if err := wantPoints(ctx, r); err != nil {
		return err
	}
	return commit(ctx, r, "p1", pattern(1))
}
