package replication

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"understudy/api"
	"understudy/appliance/jobs"
	"understudy/appliance/protection"
	"understudy/hypervisors"
)

// Reprotect swaps the roles after a committed failover: the machines that were production become replicas, and the
// difference between them and production travels back, found by comparing hashes.
func (e *Engine) Reprotect(ctx context.Context, ref string) (api.Job, error) {
	return e.give(ctx, ref, api.PlanOrder{Order: string(protection.OrderReprotect)})
}

func (e *Engine) reprotectKind() jobs.Kind {
	return jobs.Kind{Name: string(protection.OrderReprotect), Ended: e.endedWithReport,
		Steps: []jobs.Step{
			e.begin(protection.ReverseStarted, api.StateReversing),
			e.step("adopt", e.adoptSource),
			{Name: "swap", Do: func(_ context.Context, r *jobs.Run) error {
				_, err := e.transition(r.Group(), protection.ReverseDone, api.StateMirroring, api.StateProtected)
				return err
			}},
			e.copyStep("copy"),
		},
		Undos: undos{
			"revert": e.revert(protection.ReverseFailed, api.StateReversing),
		},
	}
}

// adoptSource makes replicas of the machines that were the source until now. They must be off; their disks are not
// written. There is nothing to undo: adopting again finds what is there.
func (e *Engine) adoptSource(ctx context.Context, t *task) error {
	e.pay(ctx, t.group.ID)
	target, err := e.target(ctx, t.group.source().Host)
	if err != nil {
		return err
	}
	if err := e.overwritable(t.group); err != nil { // seen since the order was given
		return err
	}
	for i := range t.group.Members {
		from, _ := t.group.Members[i].seats(t.group.Reversed)
		_, err := target.Adopt(ctx, hypervisors.AdoptSpec{ID: from.Replica, VM: from.VM, Storage: t.group.source().Storage})
		if errors.Is(err, hypervisors.ErrRunning) {
			// It may be off again before anybody else looks, and must not be overwritten then.
			if _, err := e.update(t.group.ID, func(g *group) error { g.Members[i].Ran = true; return nil }); err != nil {
				return err
			}
			return &api.Error{Code: api.CodeConflict, Err: err, Hint: "Its replica is production now: order fence to turn it off there and give up what it wrote.",
				Message: fmt.Sprintf("machine %s runs on both sides", t.group.Members[i].Name)}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// adoptMissing makes replicas again of the machines at home that a failback had settled and whose undo failed for good.
func (e *Engine) adoptMissing(ctx context.Context, t *task) error {
	target, err := e.target(ctx, t.group.Home.Host)
	if err != nil {
		return err
	}
	for _, m := range t.group.Members {
		_, err := target.Replica(ctx, m.Home.Replica)
		if errors.Is(err, hypervisors.ErrNotFound) {
			_, err = target.Adopt(ctx, hypervisors.AdoptSpec{ID: m.Home.Replica, VM: m.Home.VM, Storage: t.group.Home.Storage})
		}
		if err != nil {
			return fmt.Errorf("%s: %w", m.Name, err)
		}
	}
	return nil
}

// Failback brings the machines home: reprotect where that has not been done, a planned failover to where they came
// from, and protection in the first direction again. Only differences travel, both ways.
func (e *Engine) Failback(ctx context.Context, ref string) (api.Job, error) {
	return e.give(ctx, ref, api.PlanOrder{Order: string(protection.OrderFailback)})
}

func (e *Engine) failbackKind() jobs.Kind {
	return jobs.Kind{Name: string(protection.OrderFailback), Ended: e.endedWithReport,
		Steps: []jobs.Step{
			e.begin(protection.FailbackStarted, api.StateFailingBack),
			e.step("adopt", func(ctx context.Context, t *task) error {
				if t.group.Reversed {
					return e.adoptMissing(ctx, t)
				}
				return e.adoptSource(ctx, t)
			}),
			{Name: "swap", Do: func(_ context.Context, r *jobs.Run) error {
				_, err := e.update(r.Group(), func(g *group) error {
					if g.Reversed {
						return nil
					}
					return g.apply(protection.ReverseDone)
				})
				return err
			}},
			e.homeCopy("copy"),
			e.homeCopy("catch-up"), // what was written during the first, so that the last is short
			e.step("source-off", e.shutdownSource),
			e.homeCopy("last-copy"),
			e.step("settle", e.settleHome),
			e.step("start", e.startHome),
			e.step("checks", e.checkHome),
			e.step("turn", e.turnHome),
			e.step("autostart", func(ctx context.Context, t *task) error {
				return e.mayStart(ctx, t, t.group.Home, func(m *member) *seat { return &m.Home })
			}),
			e.copyStep("protect"),
			// Only now, with a point of the new direction committed, what the replicas wrote as production may go: until
			// then their disks were the only other copy.
			e.step("retire", e.endAllLive),
		},
		Undos: undos{
			"revert":    e.revert(protection.FailbackFailed, api.StateFailingBack),
			"source-on": e.undo(e.sourceOn),
			"autostart": e.undo(e.sourceMayStart),
			"adopt":     e.undo(e.readopt),
			"home-off":  e.undo(e.homeOff),
		},
	}
}

// homeCopy is a cycle that brings differences home; the job's result adds them up.
func (e *Engine) homeCopy(name string) jobs.Step {
	return e.step(name, func(ctx context.Context, t *task) error {
		p, err := e.cycle(ctx, t.Run, name)
		if err != nil {
			return err
		}
		if err := t.Load(&t.work); err != nil { // the cycle kept notes of its own there
			return err
		}
		if t.work.Home == nil {
			t.work.Home = map[string]int64{}
		}
		t.work.Point, t.work.Taken = p.ID, p.Taken
		t.work.Home[name] = p.BytesWritten // by step: a repeated step must not count twice
		var total int64
		for _, n := range t.work.Home {
			total += n
		}
		t.Result("homeBytes", float64(total))
		e.publish("point", "created", p.ID, t.group.ID, "")
		return t.Save(t.work)
	})
}

// settleHome gives the machines at home their own disks back, holding exactly the last copy.
func (e *Engine) settleHome(ctx context.Context, t *task) error {
	target, err := e.target(ctx, t.group.Home.Host)
	if err != nil {
		return err
	}
	// Before they go, so that none is offered that is gone. When nothing comes of it, the next cycle learns of them again.
	if _, err := e.update(t.group.ID, func(g *group) error { g.Points = nil; return nil }); err != nil {
		return err
	}
	for _, m := range t.group.Members {
		if err := t.Undo("adopt", m.Home.VM); err != nil {
			return err
		}
		replica, err := target.Replica(ctx, m.Home.Replica)
		if errors.Is(err, hypervisors.ErrNotFound) {
			continue // settled before a restart
		}
		if err == nil {
			err = replica.Settle(ctx)
		}
		if err != nil {
			return fmt.Errorf("settle %s: %w", m.Name, err)
		}
	}
	return nil
}

// readopt is the undo of settling a machine: it becomes a replica again, and the next cycle compares it in full.
func (e *Engine) readopt(ctx context.Context, t *task, vm string) error {
	target, err := e.target(ctx, t.group.Home.Host)
	if err != nil {
		return err
	}
	for _, m := range t.group.Members {
		if m.Home.VM == vm {
			_, err = target.Adopt(ctx, hypervisors.AdoptSpec{ID: m.Home.Replica, VM: vm, Storage: t.group.Home.Storage})
		}
	}
	return err
}

// startHome starts the machines at home, stage by stage.
func (e *Engine) startHome(ctx context.Context, t *task) error {
	return e.follow(ctx, t, e.homeStartup(t))
}

func (e *Engine) homeStartup(t *task) startup {
	return startup{host: t.group.Home.Host, start: e.startSome, strict: true,
		vm: func(t *task, i int) string { return t.group.Members[i].Home.VM }}
}

func (e *Engine) startSome(ctx context.Context, t *task, members []int) error {
	if err := e.stillOff(ctx, t); err != nil {
		return err
	}
	power, err := e.power(ctx, t.group.Home.Host)
	if err != nil {
		return err
	}
	if err := t.alive(members); err != nil {
		return err
	}
	for _, i := range members { // before they start together, and so in their order
		if err := t.Undo("home-off", t.group.Members[i].Home.VM); err != nil {
			return err
		}
	}
	return e.some(ctx, t.group, t.group.Home.Host, members, func(ctx context.Context, i int) error {
		if err := power.Start(ctx, t.group.Members[i].Home.VM); err != nil {
			return fmt.Errorf("start at home: %w", err)
		}
		return nil
	})
}

// homeOff is the undo of starting a machine at home.
func (e *Engine) homeOff(ctx context.Context, t *task, vm string) error {
	power, err := e.power(ctx, t.group.Home.Host)
	if err != nil {
		return err
	}
	if err := power.Stop(ctx, vm); err != nil {
		return err
	}
	for _, m := range t.group.Members {
		if m.Home.VM == vm {
			return t.over(m.Name)
		}
	}
	return nil
}

func (e *Engine) checkHome(ctx context.Context, t *task) error {
	s := e.homeStartup(t)
	problems, err := e.examine(ctx, t, s, t.group.order())
	if err != nil {
		return err
	}
	t.work.Seconds = e.Clock().Sub(t.Created()).Seconds()
	t.work.Problem = strings.Join(t.work.problems(), "; ")
	if err := e.photograph(ctx, t, s); err != nil || len(problems) == 0 {
		return err
	}
	return notUp(problems)
}

// notUp fails a failback. Nothing of the other side is lost yet: its live disks stay until protection stands again.
func notUp(problems []string) error {
	return api.Errorf(api.CodeHost, "The machines run on the target host again: find out what they miss at home, then order the failback again.",
		"not up at home: %s", strings.Join(problems, "; "))
}

// turnHome makes home production again: from here on there is no way back but another failover.
func (e *Engine) turnHome(_ context.Context, t *task) error {
	_, err := e.update(t.group.ID, func(g *group) error { // at once: what was turned must not be undone
		if g.State == api.StateFailingBack {
			if err := g.apply(protection.FailbackDone); err != nil {
				return err
			}
		}
		g.OtherPoints = nil
		return nil
	})
	if err != nil {
		return err
	}
	return t.Forgive()
}

// RemoveGroup ends protection.
func (e *Engine) RemoveGroup(ctx context.Context, ref string, deleteReplicas bool) (api.Job, error) {
	return e.give(ctx, ref, api.PlanOrder{Order: string(protection.OrderRemove), DeleteReplicas: deleteReplicas})
}

func (e *Engine) removeKind() jobs.Kind {
	return jobs.Kind{Name: string(protection.OrderRemove), Ended: e.endedWithReport, Steps: []jobs.Step{
		{Name: "begin", Do: func(_ context.Context, r *jobs.Run) error {
			_, err := e.transition(r.Group(), protection.RemoveStarted, api.StateRemoving)
			return err
		}},
		e.step("tests", func(ctx context.Context, t *task) error {
			if t.work.Run == "" {
				return nil
			}
			return errors.Join(e.endRuns(ctx, t), e.dropBubble(ctx, t))
		}),
		e.step("tracking", e.forgetTracking),
		e.step("replicas", func(ctx context.Context, t *task) error {
			if !t.work.DeleteReplicas {
				return nil
			}
			return e.deleteReplicas(ctx, t.group)
		}),
		{Name: "forget", Do: func(_ context.Context, r *jobs.Run) error { return e.delete(r.Group()) }},
	}}
}

// forgetTracking gives up change tracking at the source. A source that cannot be reached does not keep a group from
// being removed: the next clean of that host finds what is left.
func (e *Engine) forgetTracking(ctx context.Context, t *task) error {
	e.pay(ctx, t.group.ID)
	source, err := e.source(ctx, t.group.source().Host)
	for i := 0; err == nil && i < len(t.group.Members); i++ {
		from, _ := t.group.Members[i].seats(t.group.Reversed)
		if id := t.group.Members[i].ChangeID; id != "" {
			err = source.Forget(ctx, from.VM, id)
		}
	}
	if err != nil {
		t.Log().Warn("change tracking stays at the source", "group", t.group.Spec.Name, "error", err)
	}
	return nil
}
