package replication

import (
	"context"
	"errors"
	"fmt"

	"understudy/api"
	"understudy/appliance/jobs"
	"understudy/appliance/protection"
	"understudy/hypervisors"
)

// Reprotect swaps the roles after a committed failover: the machines that were production become replicas, and the
// difference between them and production travels back, found by comparing hashes.
func (e *Engine) Reprotect(ctx context.Context, ref string) (api.Job, error) {
	return e.order(ctx, ref, protection.OrderReprotect, work{})
}

func (e *Engine) reprotectKind() jobs.Kind {
	return jobs.Kind{Name: string(protection.OrderReprotect), Ended: e.ended,
		Steps: []jobs.Step{
			e.begin(protection.ReverseStarted, api.StateReversing),
			{Name: "adopt", Do: e.adoptSource},
			{Name: "swap", Do: func(_ context.Context, r *jobs.Run) error {
				_, err := e.transition(r.Group(), protection.ReverseDone, api.StateMirroring, api.StateProtected)
				return err
			}},
			e.copyStep("copy"),
		},
		Undos: map[string]func(context.Context, *jobs.Run, string) error{
			"revert": e.revert(protection.ReverseFailed, api.StateReversing),
		},
	}
}

// adoptSource makes replicas of the machines that were the source until now. They must be off; their disks are not
// written. There is nothing to undo: adopting again finds what is there.
func (e *Engine) adoptSource(ctx context.Context, r *jobs.Run) error {
	g, err := e.group(r.Group())
	if err != nil {
		return err
	}
	target, err := e.target(ctx, g.source().Host)
	if err != nil {
		return err
	}
	for i := range g.Members {
		from, _ := g.Members[i].seats(g.Reversed)
		_, err := target.Adopt(ctx, hypervisors.AdoptSpec{ID: from.Replica, VM: from.VM, Storage: g.source().Storage})
		if errors.Is(err, hypervisors.ErrRunning) {
			return &api.Error{Code: api.CodeConflict, Err: err, Hint: "Turn it off there: its replica is production now.",
				Message: fmt.Sprintf("machine %s runs on both sides", g.Members[i].Name)}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Failback brings the machines home: reprotect where that has not been done, a planned failover to where they came
// from, and protection in the first direction again. Only differences travel, both ways.
func (e *Engine) Failback(ctx context.Context, ref string) (api.Job, error) {
	return e.order(ctx, ref, protection.OrderFailback, work{})
}

func (e *Engine) failbackKind() jobs.Kind {
	return jobs.Kind{Name: string(protection.OrderFailback), Ended: e.ended,
		Steps: []jobs.Step{
			e.begin(protection.FailbackStarted, api.StateFailingBack),
			{Name: "adopt", Do: func(ctx context.Context, r *jobs.Run) error {
				g, err := e.group(r.Group())
				if err != nil || g.Reversed {
					return err
				}
				return e.adoptSource(ctx, r)
			}},
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
			{Name: "source-off", Do: func(ctx context.Context, r *jobs.Run) error {
				g, err := e.group(r.Group())
				if err != nil {
					return err
				}
				return e.shutdownSource(ctx, r, g)
			}},
			e.homeCopy("last-copy"),
			{Name: "settle", Do: e.settleHome},
			{Name: "start", Do: e.startHome},
			{Name: "checks", Do: e.checkHome},
			{Name: "turn", Do: e.turnHome},
			e.copyStep("protect"),
			{Name: "retire", Do: e.retireAway},
		},
		Undos: map[string]func(context.Context, *jobs.Run, string) error{
			"revert":    e.revert(protection.FailbackFailed, api.StateFailingBack),
			"source-on": e.sourceOn,
			"adopt":     e.readopt,
			"home-off":  e.homeOff,
		},
	}
}

// homeCopy is a cycle that brings differences home; the job's result adds them up.
func (e *Engine) homeCopy(name string) jobs.Step {
	return jobs.Step{Name: name, Do: func(ctx context.Context, r *jobs.Run) error {
		p, err := e.cycle(ctx, r, name)
		if err != nil {
			return err
		}
		w, err := load(r)
		if err != nil {
			return err
		}
		if w.Home == nil {
			w.Home = map[string]int64{}
		}
		w.Home[name] = p.BytesWritten // by step: a repeated step must not count twice
		var total int64
		for _, n := range w.Home {
			total += n
		}
		r.Result("homeBytes", float64(total))
		e.publish("point", "created", p.ID, r.Group(), "")
		return r.Save(w)
	}}
}

// settleHome gives the machines at home their own disks back, holding exactly the last copy.
func (e *Engine) settleHome(ctx context.Context, r *jobs.Run) error {
	g, err := e.group(r.Group())
	if err != nil {
		return err
	}
	target, err := e.target(ctx, g.Home.Host)
	if err != nil {
		return err
	}
	for _, m := range g.Members {
		if err := r.Undo("adopt", m.Home.VM); err != nil {
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
func (e *Engine) readopt(ctx context.Context, r *jobs.Run, vm string) error {
	g, err := e.group(r.Group())
	if err != nil {
		return err
	}
	target, err := e.target(ctx, g.Home.Host)
	if err != nil {
		return err
	}
	for _, m := range g.Members {
		if m.Home.VM == vm {
			_, err = target.Adopt(ctx, hypervisors.AdoptSpec{ID: m.Home.Replica, VM: vm, Storage: g.Home.Storage})
		}
	}
	return err
}

func (e *Engine) startHome(ctx context.Context, r *jobs.Run) error {
	g, err := e.group(r.Group())
	if err != nil {
		return err
	}
	power, err := e.power(ctx, g.Home.Host)
	if err != nil {
		return err
	}
	for _, m := range g.Members {
		if err := r.Undo("home-off", m.Home.VM); err != nil {
			return err
		}
		if err := power.Start(ctx, m.Home.VM); err != nil {
			return fmt.Errorf("start %s at home: %w", m.Name, err)
		}
	}
	return nil
}

// homeOff is the undo of starting a machine at home.
func (e *Engine) homeOff(ctx context.Context, r *jobs.Run, vm string) error {
	g, err := e.group(r.Group())
	if err != nil {
		return err
	}
	power, err := e.power(ctx, g.Home.Host)
	if err != nil {
		return err
	}
	return power.Stop(ctx, vm)
}

func (e *Engine) checkHome(ctx context.Context, r *jobs.Run) error {
	g, err := e.group(r.Group())
	if err != nil {
		return err
	}
	problem, err := e.checkSide(ctx, g, g.Home.Host, func(m *member) string { return m.Home.VM })
	if err != nil || problem == "" {
		return err
	}
	// Nothing of the other side is lost yet: its live disks stay until protection stands again.
	return api.Errorf(api.CodeHost, "The machines run on the target host again: find out what they miss at home, then order the failback again.",
		"not up at home: %s", problem)
}

// turnHome makes home production again: from here on there is no way back but another failover.
func (e *Engine) turnHome(_ context.Context, r *jobs.Run) error {
	if _, err := e.transition(r.Group(), protection.FailbackDone, api.StateProtected, api.StateMirroring); err != nil {
		return err
	}
	if _, err := e.update(r.Group(), func(g *group) error {
		g.OtherPoints, g.Stopped = nil, false
		return nil
	}); err != nil {
		return err
	}
	return r.Forgive()
}

// retireAway discards what the replicas wrote as production. It waited until the first point of the new direction was
// committed, because until then those disks were the only other copy.
func (e *Engine) retireAway(ctx context.Context, r *jobs.Run) error {
	g, err := e.group(r.Group())
	if err != nil {
		return err
	}
	for _, m := range g.Members {
		if err := e.endLive(ctx, r, m.Name); err != nil {
			return err
		}
	}
	return nil
}

// RemoveGroup ends protection.
func (e *Engine) RemoveGroup(ctx context.Context, ref string, deleteReplicas bool) (api.Job, error) {
	order := protection.OrderRemove
	g, err := e.group(ref)
	if err != nil {
		return api.Job{}, err
	}
	if deleteReplicas {
		if err := protection.Can(g.decision(), protection.OrderDelete); err != nil {
			return api.Job{}, err
		}
	}
	return e.order(ctx, ref, order, work{DeleteReplicas: deleteReplicas, Run: g.TestRun})
}

func (e *Engine) removeKind() jobs.Kind {
	return jobs.Kind{Name: string(protection.OrderRemove), Ended: e.ended, Steps: []jobs.Step{
		{Name: "begin", Do: func(_ context.Context, r *jobs.Run) error {
			_, err := e.transition(r.Group(), protection.RemoveStarted, api.StateRemoving)
			return err
		}},
		{Name: "tests", Do: func(ctx context.Context, r *jobs.Run) error {
			w, err := load(r)
			if err != nil || w.Run == "" {
				return err
			}
			if err := e.endRuns(ctx, r); err != nil {
				return err
			}
			return e.dropBubble(ctx, r)
		}},
		{Name: "tracking", Do: e.forgetTracking},
		{Name: "replicas", Do: func(ctx context.Context, r *jobs.Run) error {
			w, err := load(r)
			if err != nil || !w.DeleteReplicas {
				return err
			}
			g, err := e.group(r.Group())
			if err != nil {
				return err
			}
			return e.deleteReplicas(ctx, g.target().Host, func(yield func(string) bool) {
				for i := range g.Members {
					if _, to := g.Members[i].seats(g.Reversed); !yield(to.Replica) {
						return
					}
				}
			})
		}},
		{Name: "forget", Do: func(_ context.Context, r *jobs.Run) error { return e.delete(r.Group()) }},
	}}
}

// forgetTracking gives up change tracking at the source. A source that cannot be reached does not keep a group from
// being removed: the next clean of that host finds what is left.
func (e *Engine) forgetTracking(ctx context.Context, r *jobs.Run) error {
	g, err := e.group(r.Group())
	if err != nil {
		return err
	}
	source, err := e.source(ctx, g.source().Host)
	for i := 0; err == nil && i < len(g.Members); i++ {
		from, _ := g.Members[i].seats(g.Reversed)
		if id := g.Members[i].ChangeID; id != "" {
			err = source.Forget(ctx, from.VM, id)
		}
	}
	if err != nil {
		r.Log().Warn("change tracking stays at the source", "group", g.Spec.Name, "error", err)
	}
	return nil
}
