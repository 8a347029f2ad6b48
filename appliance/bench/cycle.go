package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"understudy/hypervisors"
	"understudy/snapshot"
)

// protected is a machine with its replica, kept by hand: the same calls to the drivers, in the same order, as the
// appliance's own cycle.
type protected struct {
	stage   *stage
	vm      string
	replica string
	n       int
	newest  *hypervisors.Point
}

// cycled is what one cycle took and moved.
type cycled struct {
	commit time.Duration // from the order to the commit's return
	all    time.Duration // until the source has forgotten what it need not know any more
	stats  snapshot.Stats
}

// protect makes an empty replica of a machine.
func (s *stage) protect(ctx context.Context, vm string) (*protected, error) {
	have, err := s.source.VM(ctx, vm)
	if err != nil {
		return nil, err
	}
	p := &protected{stage: s, vm: vm, replica: "r-" + have.Hardware.Name}
	hw := have.Hardware
	hw.Name = "replica-" + hw.Name
	_, err = s.target.CreateReplica(ctx, hypervisors.ReplicaSpec{ID: p.replica, Hardware: hw})
	return p, err
}

// cycle makes one recovery point.
func (p *protected) cycle(ctx context.Context) (c cycled, err error) {
	start := time.Now()
	replica, err := p.stage.target.Replica(ctx, p.replica)
	if err != nil {
		return c, err
	}
	if _, err := replica.Status(ctx); err != nil {
		return c, err
	}
	p.n++
	point := hypervisors.Point{ID: fmt.Sprintf("p%d", p.n)}
	since := hypervisors.ChangeID("")
	if p.newest != nil {
		since = p.newest.ChangeID
	}
	cp, err := p.stage.source.Checkpoint(ctx, hypervisors.CheckpointRequest{Name: point.ID, VMs: []hypervisors.CheckpointVM{{ID: p.vm, Since: since}}})
	if err != nil {
		return c, err
	}
	defer cp.Close(ctx)
	point.Taken, point.Consistency, point.ChangeID = cp.Taken(), cp.Consistency(), cp.ChangeIDs()[p.vm]
	if c.stats, err = p.copy(ctx, cp, replica, &point); err != nil {
		return c, err
	}
	c.commit = time.Since(start)
	old := p.newest
	p.newest = &point
	if err := cp.Close(ctx); err != nil {
		return c, err
	}
	if old != nil {
		err = p.stage.source.Forget(ctx, p.vm, old.ChangeID)
	}
	c.all = time.Since(start)
	return c, err
}

// copy fills a draft with the frozen moment and commits it.
func (p *protected) copy(ctx context.Context, cp hypervisors.Checkpoint, replica hypervisors.Replica, point *hypervisors.Point) (all snapshot.Stats, err error) {
	req := hypervisors.DraftRequest{Point: point.ID}
	var extents []snapshot.Extents
	for i, d := range cp.Disks() {
		what := d.Changed(ctx)
		n, err := snapshot.DataBytes(what)
		if errors.Is(err, hypervisors.ErrTrackingLost) && p.newest == nil {
			what = d.Allocated(ctx)
			n, err = snapshot.DataBytes(what)
		}
		if err != nil {
			return all, fmt.Errorf("disk %d: %w", i, err)
		}
		req.Disks = append(req.Disks, hypervisors.DraftDiskSpec{ID: d.ID(), Size: d.Size()})
		req.ExpectBytes += n
		extents = append(extents, what)
	}
	draft, err := replica.Draft(ctx, req)
	if err != nil {
		return all, err
	}
	defer func() { _ = draft.Discard(ctx) }() // after a commit it does nothing
	for i, d := range cp.Disks() {
		into := draft.Disks()[i]
		blocks, err := snapshot.OpenMap(ctx, into.Map(), d.Size())
		if err != nil {
			return all, err
		}
		var digest snapshot.Digest
		if p.newest != nil {
			if digest, err = snapshot.ParseDigest(p.newest.Disks[i].Digest); err != nil {
				return all, err
			}
		}
		stats, err := snapshot.Copy(ctx, snapshot.Job{Source: d, Size: d.Size(), Extents: extents[i], Target: into, Map: blocks, Digest: &digest})
		if err != nil {
			return all, err
		}
		if err := errors.Join(into.Flush(ctx), blocks.Flush(ctx)); err != nil {
			return all, err
		}
		all = all.Plus(stats)
		point.Disks = append(point.Disks, hypervisors.PointDisk{ID: d.ID(), Size: d.Size(), Digest: digest.String()})
	}
	point.Committed = time.Now()
	return all, draft.Commit(ctx, *point)
}
