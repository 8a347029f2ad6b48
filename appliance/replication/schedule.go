package replication

import (
	"context"
	"errors"
	"time"

	"understudy/api"
	"understudy/appliance/jobs"
	"understudy/appliance/protection"
	"understudy/hypervisors"
)

const (
	// tick is how exactly the schedule is kept; the shortest RPO is ten times as long.
	tick = 500 * time.Millisecond
	// watch is how often the machines that must stay off after a failover are looked at.
	watch = 15 * time.Second
)

// schedule starts the cycles that are due until ctx ends.
func (e *Engine) schedule(ctx context.Context) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	var looked time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		e.Tick(ctx)
		if now := e.Clock(); now.Sub(looked) >= watch {
			looked = now
			e.Guard(ctx)
		}
	}
}

// Tick submits a cycle for every group whose next one is due now. Run calls it; tests with a clock of their own do.
func (e *Engine) Tick(ctx context.Context) {
	now := e.Clock()
	for _, g := range e.snapshotGroups() {
		order := e.nextCycle(g)
		if g.Paused || e.isCreating(g.ID) || protection.Can(g.decision(), order) != nil || now.Before(protection.Due(g.Spec.Policy, g.history(), now, g.ID)) {
			continue
		}
		var locked *jobs.ErrLocked
		_, err := e.runner.Submit(ctx, string(order), g.ID, work{}, dataLock(g.ID))
		if err != nil && !errors.As(err, &locked) { // locked: the last one still runs
			e.Log.Error("start scheduled cycle", "group", g.Spec.Name, "error", err)
		}
	}
}

// Guard looks whether a machine that a failover replaced came back by itself: two of one machine must not serve. Run
// calls it.
func (e *Engine) Guard(ctx context.Context) {
	for _, g := range e.snapshotGroups() {
		if g.State != api.StateFailedOver && g.State != api.StateCommitted {
			continue
		}
		p, err := e.endpoint(g.source().Host)
		if err != nil {
			continue
		}
		host := p.connected()
		if host == nil {
			continue
		}
		for _, m := range g.Members {
			from, _ := m.seats(g.Reversed)
			vm, err := host.VM(ctx, from.VM)
			if err != nil || vm.State != hypervisors.Running {
				continue
			}
			if _, err := e.update(g.ID, func(g *group) error {
				g.Problem = "split brain: " + m.Name + " runs on " + p.Name + " although it was failed over"
				g.Hint = "Turn it off there, or roll the failover back. Reprotect and failback refuse while both run."
				return nil
			}); err != nil {
				e.Log.Error("record split brain", "group", g.Spec.Name, "error", err)
			}
		}
	}
}

func (e *Engine) isCreating(id string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.creating[id]
}
