package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"understudy/api"
	"understudy/appliance/jobs"
	"understudy/appliance/protection"
	"understudy/hypervisors"
)

// watchEvery is how often the machines that must be off are looked at.
const watchEvery = 15 * time.Second

// watch guards the groups until ctx ends.
func (e *Engine) watch(ctx context.Context) {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		e.Guard(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// Guard looks whether machines run that must not: those that a failover replaced, and replicas that nobody ordered to
// run. It tells loudly and touches nothing that runs, because nobody here knows what it does for whom; Fence is the
// order that turns it off. It also does what was put off, as no cycle may come that would: clean-ups, and letting
// production start with its host. Run calls it.
func (e *Engine) Guard(ctx context.Context) {
	e.closeRetired()
	away := map[string]bool{} // its machines are looked at when it is back; it is not waited for twice
	for _, g := range e.snapshotGroups() {
		if !away[g.Home.Host] && !away[g.Away.Host] && e.canPay(g) && !e.payInTime(ctx, g.ID) {
			away[g.Home.Host], away[g.Away.Host] = true, true // one of them
		}
		if side, _, decided := g.production(); decided && g.StartOwed && !away[side.Host] {
			if err := e.startAgain(ctx, g.clone()); err != nil && ctx.Err() == nil {
				away[side.Host] = gone(err)
				e.Log.Warn("machines do not start with their host yet", "group", g.Spec.Name, "error", err)
			}
		}
		side, _, settled := g.idle()
		if !settled || away[side.Host] {
			continue
		}
		if _, err := e.host(ctx, side.Host); err != nil { // which shows it as away
			away[side.Host] = true
			continue
		}
		if err := e.guard(ctx, g.clone()); err != nil && ctx.Err() == nil {
			away[side.Host] = gone(err)
			e.Log.Warn("group cannot be watched", "group", g.Spec.Name, "error", err)
		}
	}
}

// gone says that an error is that of a host that does not answer, whatever it was asked.
func gone(err error) bool {
	return errors.Is(err, hypervisors.ErrUnreachable) || errors.Is(err, hypervisors.ErrTimeout) || errors.Is(err, context.DeadlineExceeded)
}

// idle gives the side of a group whose machines must be off, and whether there is one now: while an order works on the
// group, it alone knows.
func (g *group) idle() (side place, at func(*member) *seat, settled bool) {
	switch g.State {
	case api.StateFailedOver, api.StateCommitted:
		return g.source(), g.fromSeat, true
	case api.StateMirroring, api.StateProtected:
		return g.target(), g.toSeat, true
	}
	return place{}, nil, false
}

func (g *group) fromSeat(m *member) *seat { from, _ := m.seats(g.Reversed); return from }
func (g *group) toSeat(m *member) *seat   { _, to := m.seats(g.Reversed); return to }

// replaced says that the idle side is one that was production.
func (g *group) replaced() bool {
	return g.State == api.StateFailedOver || g.State == api.StateCommitted
}

func (e *Engine) guard(ctx context.Context, g group) error {
	g.watching.Lock()
	defer g.watching.Unlock()
	g, err := e.group(g.ID) // as it is by now
	if err != nil {
		return err
	}
	side, seat, settled := g.idle()
	if !settled || g.Restored != nil || e.isCreating(g.ID) { // restored: what must be off is not known
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	host, err := e.host(ctx, side.Host)
	if err != nil {
		return err
	}
	on := make([]bool, len(g.Members))
	for i := range g.Members {
		vm, err := host.VM(ctx, seat(&g.Members[i]).VM)
		if errors.Is(err, hypervisors.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		on[i] = vm.State != hypervisors.Off
		if g.replaced() {
			if err := e.holdOff(ctx, g.ID, i, host, vm); err != nil {
				return err
			}
		}
	}
	return e.judge(g, on)
}

// judge brings the alerts of a group to what was seen. A group that an order has moved on meanwhile is left alone.
func (e *Engine) judge(seen group, on []bool) error {
	g, err := e.group(seen.ID)
	if err != nil || g.State != seen.State || g.Reversed != seen.Reversed {
		return err
	}
	ran := false
	for i := range on {
		ran = ran || on[i] && !g.Members[i].Ran
	}
	if g.replaced() && ran {
		g, err = e.update(g.ID, func(g *group) error {
			for i := range on {
				g.Members[i].Ran = g.Members[i].Ran || on[i] && g.State == seen.State && g.Reversed == seen.Reversed
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	var up, diverged []string
	for i, m := range g.Members {
		if on[i] {
			up = append(up, m.Name)
		} else if m.Ran {
			diverged = append(diverged, m.Name)
		}
	}
	return errors.Join(
		e.set(g, api.AlertSplitBrain, g.replaced() && len(up) > 0, func() api.Alert { return e.splitBrain(g, up) }),
		e.set(g, api.AlertDiverged, g.replaced() && len(diverged) > 0, func() api.Alert { return e.divergence(g, diverged) }),
		e.set(g, api.AlertStray, !g.replaced() && len(up) > 0, func() api.Alert { return e.straying(g, up) }),
	)
}

// overwritable refuses to overwrite what a machine wrote when it ran after it was failed over.
func (e *Engine) overwritable(g group) error {
	for _, m := range g.Members {
		if !m.Ran {
			continue
		}
		hint := "Order fence to turn it off there and give up what it wrote."
		if at := slices.IndexFunc(g.Alerts, func(a api.Alert) bool { return a.Kind == api.AlertSplitBrain || a.Kind == api.AlertDiverged }); at >= 0 {
			hint = g.Alerts[at].Hint
		}
		return api.Errorf(api.CodeConflict, hint, "machine %s ran on both sides: what it wrote on %s since the failover would be lost",
			m.Name, e.hostName(g.source().Host))
	}
	return nil
}

// Fence turns off what runs although it must not, and gives up what it wrote.
func (e *Engine) Fence(ctx context.Context, ref string) (api.Job, error) {
	return e.give(ctx, ref, api.PlanOrder{Order: string(protection.OrderFence)})
}

func (e *Engine) fenceKind() jobs.Kind {
	return jobs.Kind{Name: string(protection.OrderFence), Ended: e.endedWithReport, Steps: []jobs.Step{
		e.step("stop", e.stopIdle),
		e.step("give-up", func(ctx context.Context, t *task) error {
			g, err := e.giveUp(t.group)
			if err != nil {
				return err
			}
			return e.guard(ctx, g) // which ends the alerts
		}),
	}}
}

// giveUp forgets that machines ran at their source after they were failed over.
func (e *Engine) giveUp(g group) (group, error) {
	g.watching.Lock()
	defer g.watching.Unlock()
	return e.update(g.ID, func(g *group) error {
		for i := range g.Members {
			g.Members[i].Ran = false
		}
		return nil
	})
}

func (e *Engine) stopIdle(ctx context.Context, t *task) error {
	side, seat, settled := t.group.idle()
	if !settled {
		return fmt.Errorf("fence a group that is %s", t.group.State) // its lock keeps this from happening
	}
	host, err := e.host(ctx, side.Host)
	if err != nil {
		return err
	}
	power, err := e.power(ctx, side.Host)
	if err != nil {
		return err
	}
	for i := range t.group.Members {
		id := seat(&t.group.Members[i]).VM
		vm, err := host.VM(ctx, id)
		if errors.Is(err, hypervisors.ErrNotFound) {
			continue
		}
		if err == nil && t.group.replaced() {
			err = e.holdOff(ctx, t.group.ID, i, host, vm)
		}
		if err == nil && vm.State != hypervisors.Off {
			err = power.Stop(ctx, id)
		}
		if err != nil {
			return fmt.Errorf("turn %s off: %w", t.group.Members[i].Name, err)
		}
	}
	return nil
}

// holdOff keeps a machine that is replaced from starting with its host, and remembers that it did.
func (e *Engine) holdOff(ctx context.Context, id string, i int, host hypervisors.Host, vm hypervisors.VM) error {
	power, ok := host.(hypervisors.Power)
	if !ok || !vm.Autostart {
		return nil
	}
	// Remembered first: it is harmless to know of an autostart that is still on.
	if _, err := e.update(id, func(g *group) error { g.Members[i].Autostart = true; return nil }); err != nil {
		return err
	}
	return power.SetAutostart(ctx, vm.ID, false)
}

// letStart gives the machines of a side, which are production now, their autostart back.
func (e *Engine) letStart(ctx context.Context, g group, side place, seat func(*member) *seat) error {
	g.watching.Lock()
	defer g.watching.Unlock()
	g, err := e.group(g.ID) // with what Guard has learned
	if err != nil {
		return err
	}
	return e.letStartNow(ctx, g, side, seat)
}

// mayStart is letStart as a step of an order that is done otherwise: a machine that does not start with its host yet is no
// reason to leave the rest undone.
func (e *Engine) mayStart(ctx context.Context, t *task, side place, seat func(*member) *seat) error {
	if err := e.letStart(ctx, t.group, side, seat); err != nil {
		t.Log().Warn("machines do not start with their host yet", "group", t.group.Spec.Name, "error", err)
	}
	return ctx.Err()
}

// production gives the side of a group whose machines serve, and whether that is decided.
func (g *group) production() (side place, at func(*member) *seat, decided bool) {
	switch g.State {
	case api.StateCommitted:
		return g.target(), g.toSeat, true
	case api.StateMirroring, api.StateProtected:
		return g.source(), g.fromSeat, true
	}
	return place{}, nil, false
}

// startAgain is letStart where it failed before, unless an order has begun to move production.
func (e *Engine) startAgain(ctx context.Context, g group) error {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	g.watching.Lock()
	defer g.watching.Unlock()
	g, err := e.group(g.ID)
	if err != nil {
		return err
	}
	side, seat, decided := g.production()
	if !decided || !g.StartOwed {
		return nil
	}
	return e.letStartNow(ctx, g, side, seat)
}

// letStartNow is letStart of a group as it is, which nobody else watches.
func (e *Engine) letStartNow(ctx context.Context, g group, side place, seat func(*member) *seat) error {
	err := e.setAutostart(ctx, g, side, seat)
	if owed := err != nil; owed != g.StartOwed {
		_, failed := e.update(g.ID, func(g *group) error { g.StartOwed = owed; return nil })
		err = errors.Join(err, failed)
	}
	return err
}

func (e *Engine) setAutostart(ctx context.Context, g group, side place, seat func(*member) *seat) error {
	for i := range g.Members {
		if !g.Members[i].Autostart {
			continue
		}
		power, err := e.power(ctx, side.Host)
		if err != nil {
			return err
		}
		if err := power.SetAutostart(ctx, seat(&g.Members[i]).VM, true); err != nil {
			return fmt.Errorf("let %s start with its host: %w", g.Members[i].Name, err)
		}
		if side != g.Home {
			continue // it is still to be known when the machine comes home
		}
		if _, err := e.update(g.ID, func(g *group) error { g.Members[i].Autostart = false; return nil }); err != nil {
			return err
		}
	}
	return nil
}
