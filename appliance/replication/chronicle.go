package replication

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"understudy/api"
)

// together is the id of the diary of all groups; ids of groups are hexadecimal.
const together = "all"

// chronicle has the diaries of all groups. What was not written yet when the appliance dies is lost, ten minutes at most:
// history decides nothing.
type chronicle struct {
	store   Store
	mu      sync.Mutex
	diaries map[string]*diary
}

func newChronicle(s Store) *chronicle { return &chronicle{store: s, diaries: map[string]*diary{}} }

func (c *chronicle) of(id string) *diary {
	c.mu.Lock()
	defer c.mu.Unlock()
	d, known := c.diaries[id]
	if !known {
		d = &diary{id: id, store: c.store}
		c.diaries[id] = d
	}
	return d
}

// note adds to what happens to a group now.
func (c *chronicle) note(group string, now time.Time, s slot) {
	c.of(group).note(now, s)
	c.of(together).note(now, s)
}

// write writes what is due, or everything.
func (c *chronicle) write(ctx context.Context, now time.Time, all bool) error {
	c.mu.Lock()
	diaries := slices.Collect(maps.Values(c.diaries))
	c.mu.Unlock()
	var work errgroup.Group
	work.SetLimit(judging)
	for _, d := range diaries {
		if ctx.Err() != nil {
			break
		}
		if all || d.due(now) {
			work.Go(func() error { return d.write(now, all) })
		}
	}
	return work.Wait()
}

// forget drops what is known of a group, and whatever somebody who has seen it still notes.
func (c *chronicle) forget(group string) error { return c.of(group).forget() }

// history gives what is known of some groups together.
func (c *chronicle) history(groups []string, from, now time.Time) (api.History, error) {
	var hours, exact row
	for _, id := range groups {
		h, x, err := c.of(id).read(from, now)
		if err != nil {
			return api.History{}, err
		}
		for _, s := range h {
			hours = hours.add(s)
		}
		for _, s := range x {
			exact = exact.add(s)
		}
	}
	samples := append([]api.Sample{}, hours.samples(coarseSlot, from)...)
	return api.History{Samples: append(samples, exact.samples(fineSlot, from)...)}, nil
}

// History gives what happened.
func (e *Engine) History(_ context.Context, q api.HistoryQuery) (api.History, error) {
	if err := q.Validate(); err != nil {
		return api.History{}, err
	}
	ids := []string{together}
	switch {
	case q.Group != "":
		g, err := e.groupIn(q.Scope, q.Group)
		if err != nil {
			return api.History{}, err
		}
		ids = []string{g.ID}
	case q.Scope != nil:
		ids = nil
		for _, g := range e.snapshotGroups() {
			if q.Scope.Has(g.ID) {
				ids = append(ids, g.ID)
			}
		}
	}
	now := e.Clock()
	return e.chronicle.history(ids, now.Add(-q.Span()), now)
}

// chronicleMade notes a point that was made, and how old the one before it had become.
func (e *Engine) chronicleMade(g *group, p api.Point) {
	s := slot{read: p.BytesRead, written: p.BytesWritten, cycles: 1}
	if now := e.Clock(); g.standing(now).Promised() {
		s.age = int64(g.Gap)
	}
	e.chronicle.note(g.ID, e.Clock(), s)
}

// chronicleAge notes how old the newest point of a group is, while that matters.
func (e *Engine) chronicleAge(g *group, now time.Time) {
	if s := g.standing(now); s.Promised() && !s.Newest.IsZero() {
		e.chronicle.note(g.ID, now, slot{age: int64(s.Age(now).Seconds())})
	}
}

// keepHistory writes what is due. What fails is tried again with the next look.
func (e *Engine) keepHistory(ctx context.Context, now time.Time) {
	if err := e.chronicle.write(ctx, now, false); err != nil && ctx.Err() == nil {
		e.Log.Warn("history is not written yet", "error", err)
	}
}

// closeHistory writes what is left.
func (e *Engine) closeHistory(ctx context.Context) error {
	if err := e.chronicle.write(ctx, e.Clock(), true); err != nil {
		return errors.Join(errors.New("history of the last minutes is lost"), fmt.Errorf("write history: %w", err))
	}
	return nil
}
