package replication

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"understudy/appliance/jobs"
	"understudy/appliance/protection"
)

// tick is how exactly the schedule is kept.
const tick = 200 * time.Millisecond

// schedule starts the cycles and verifications that are due until ctx ends.
func (e *Engine) schedule(ctx context.Context) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		e.Tick(ctx)
		e.ticked.Store(e.Clock().UnixNano())
	}
}

// scheduleStands is when the schedule is taken to stand still: it only waits for the state to be written down.
const scheduleStands = 30 * time.Second

// Scheduling fails when nothing starts cycles.
func (e *Engine) Scheduling(context.Context) error {
	last := e.ticked.Load()
	if last == 0 {
		return errors.New("the schedule has not started yet")
	}
	if still := e.Clock().Sub(time.Unix(0, last)); still > scheduleStands {
		return fmt.Errorf("nothing was started for %s", still.Round(time.Second))
	}
	return nil
}

// Tick submits a cycle for every group whose next one is due now, or a verification, which makes a point too. Run calls
// it; tests with a clock of their own do. Several are submitted at once: each waits for the disk, which takes those that
// wait together in one go.
func (e *Engine) Tick(ctx context.Context) {
	now := e.Clock()
	e.keepLine(now)
	var work errgroup.Group
	work.SetLimit(e.AtOnce)
	for _, g := range e.snapshotGroups() {
		if ctx.Err() != nil {
			break
		}
		if order, due := e.due(g, now); due {
			work.Go(func() error { e.submitDue(ctx, g, order); return nil })
		}
	}
	_ = work.Wait() // each has logged what went wrong
}

// due says what a group should start now, if anything.
func (e *Engine) due(g *group, now time.Time) (protection.Order, bool) {
	order := e.nextCycle(g)
	switch {
	case g.Paused || e.isCreating(g.ID) || protection.Can(g.decision(), order) != nil || !protection.Open(g.Spec.Policy, now):
		return "", false
	case g.verifyIsDue(now):
		return protection.OrderVerify, true
	}
	return order, !now.Before(protection.Due(g.Spec.Policy, g.history(), now, g.ID))
}

func (e *Engine) submitDue(ctx context.Context, g *group, order protection.Order) {
	var locked *jobs.ErrLocked
	_, err := e.runner.Submit(ctx, string(order), g.ID, work{}, dataLock(g.ID))
	if err != nil && !errors.As(err, &locked) && ctx.Err() == nil { // locked: the last one still runs
		e.Log.Error("start scheduled job", "order", order, "group", g.Spec.Name, "error", err)
	}
}

func (e *Engine) isCreating(id string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.creating[id]
}
