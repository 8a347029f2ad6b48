package kvm

import (
	"context"
	"fmt"
	"slices"

	"understudy/hypervisors"
)

// Drop hides the point first, which is what counts, and then clears what can be cleared now. What cannot, because a run,
// a reader or a draft stands on later points, is cleared by a later Drop or Draft.
func (r *replica) Drop(ctx context.Context, id string) error {
	return r.work(ctx, "drop point "+id+" of", func(m *manifest) error {
		if err := unsettled(m); err != nil {
			return err
		}
		if p, ok := m.visible(id); ok {
			if err := r.mayDrop(ctx, m, id); err != nil {
				return err
			}
			p.Hidden = true
			if err := r.save(ctx, m); err != nil {
				return err
			}
		}
		return r.sweep(ctx, m)
	})
}

// mayDrop refuses a point that a run stands on. A reader or a stray start is in the way only where no later point would
// keep the files.
func (r *replica) mayDrop(ctx context.Context, m *manifest, id string) error {
	inUse := func(what, hint string) error {
		return &hypervisors.Error{Op: "drop", Subject: "point " + id, Err: fmt.Errorf("%w: %s", hypervisors.ErrInUse, what), Hint: hint}
	}
	if m.Live != nil && m.Live.Point == id {
		return inUse("the replica runs from it", "End the failover first.")
	}
	if i := slices.IndexFunc(m.Tests, func(t testRun) bool { return t.Point == id }); i >= 0 {
		return inUse("test "+m.Tests[i].ID+" runs from it", "End the test first.")
	}
	if m.index(id) < len(m.Points)-1 {
		return nil
	}
	if r.isRead(id) {
		return inUse("it is being read", "Try again later.")
	}
	stray, err := r.stray(ctx, m)
	if err == nil && stray {
		return inUse("machine "+m.Hardware.Name+" was started by hand", "Turn it off first.")
	}
	return err
}

// sweep clears dropped points away as far as nothing stands on them.
func (r *replica) sweep(ctx context.Context, m *manifest) error {
	// The stage may stand on a dropped point; nothing is cleared below it.
	if err := r.restage(ctx, m); err != nil {
		return err
	}
	top, err := r.inUse(ctx, m)
	if err != nil {
		return err
	}
	for {
		next, ok := m.nextRemoval(top)
		if !ok {
			return nil
		}
		if err := r.clear(ctx, m, next); err != nil {
			return err
		}
	}
}

// clear removes a dropped point. Before the manifest forgets it, every disk of the point above shows its content without
// the files of this one; until then it does so with them, or with what is left of them.
func (r *replica) clear(ctx context.Context, m *manifest, next removal) error {
	var unneeded []string
	if next.Into < 0 {
		for _, d := range m.Points[next.Point].Disks {
			unneeded = append(unneeded, d.Data.File, d.Map.File)
		}
	} else {
		var folds []fold
		folds, unneeded = m.folds(next.Point)
		for _, f := range folds {
			if err := foldImage(ctx, r.host.place, r.dir, f); err != nil {
				return err
			}
		}
	}
	m.remove(next.Point)
	if err := r.save(ctx, m); err != nil {
		return err
	}
	return removeAll(ctx, r.host.place, r.paths(unneeded...)...)
}
