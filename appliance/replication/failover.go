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

// Failover starts the replicas as production, from the last moment of the source (planned) or from a kept point.
func (e *Engine) Failover(ctx context.Context, ref string, o api.FailoverOrder) (api.Job, error) {
	g, err := e.group(ref)
	if err != nil {
		return api.Job{}, err
	}
	if o.Planned && o.Point != "" {
		return api.Job{}, &api.Error{Code: api.CodeInvalid, Field: "point", Message: "a planned failover makes its own last point",
			Hint: "Leave the point out, or order an unplanned failover to it."}
	}
	if err := protection.Can(g.decision(), protection.OrderFailover); err != nil {
		return api.Job{}, err
	}
	if _, err := g.point(o.Point); err != nil {
		return api.Job{}, err
	}
	return e.order(ctx, ref, protection.OrderFailover, work{Point: o.Point, Planned: o.Planned, Force: o.Force})
}

func (e *Engine) failoverKind() jobs.Kind {
	return jobs.Kind{Name: string(protection.OrderFailover), Ended: e.ended,
		Steps: []jobs.Step{
			e.begin(protection.FailoverStarted, api.StateFailingOver),
			e.plannedOnly(e.copyStep("catch-up")),
			{Name: "source-off", Do: e.sourceOff},
			e.plannedOnly(e.copyStep("last-copy")),
			{Name: "start", Do: e.startReplicas},
			{Name: "checks", Do: e.checkReplicas},
			{Name: "done", Do: func(_ context.Context, r *jobs.Run) error {
				if _, err := e.transition(r.Group(), protection.FailoverDone, api.StateFailedOver); err != nil {
					return err
				}
				return r.Forgive()
			}},
		},
		Undos: map[string]func(context.Context, *jobs.Run, string) error{
			"revert":    e.revert(protection.FailoverFailed, api.StateFailingOver),
			"source-on": e.sourceOn,
			"end-live":  e.endLive,
		},
	}
}

// plannedOnly skips a step of an unplanned failover.
func (e *Engine) plannedOnly(s jobs.Step) jobs.Step {
	do := s.Do
	s.Do = func(ctx context.Context, r *jobs.Run) error {
		var w work
		if err := r.Load(&w); err != nil || !w.Planned {
			return err
		}
		return do(ctx, r)
	}
	return s
}

// sourceOff makes sure that production is off before anybody replaces it. A planned failover shuts it down. An
// unplanned one expects it to be dead: when it lives, only an order that says so turns it off, and when nobody can tell
// (host gone), the group's state fences it once it is back.
func (e *Engine) sourceOff(ctx context.Context, r *jobs.Run) error {
	var w work
	if err := r.Load(&w); err != nil {
		return err
	}
	g, err := e.group(r.Group())
	if err != nil {
		return err
	}
	if w.Planned {
		return e.shutdownSource(ctx, r, g)
	}
	host, err := e.host(ctx, g.source().Host)
	if err != nil {
		r.Log().Warn("source cannot be asked whether it is off", "group", g.Spec.Name, "error", err)
		return nil
	}
	for _, m := range g.Members {
		from, _ := m.seats(g.Reversed)
		if err := e.fence(ctx, r, host, m.Name, from.VM, w.Force); err != nil {
			return err
		}
	}
	return nil
}

// fence turns a machine off that must not run beside its replica, if the order allows it.
func (e *Engine) fence(ctx context.Context, r *jobs.Run, host hypervisors.Host, name, vm string, force bool) error {
	found, err := host.VM(ctx, vm)
	if errors.Is(err, hypervisors.ErrNotFound) || (err == nil && found.State == hypervisors.Off) {
		return nil
	}
	if err != nil {
		r.Log().Warn("source cannot be asked whether it is off", "machine", name, "error", err)
		return nil
	}
	if !force {
		return api.Errorf(api.CodeConflict, "Order a planned failover, which loses nothing, or one with force, which turns the source off hard.",
			"machine %s still runs at the source; both must never run at once", name)
	}
	power, ok := host.(hypervisors.Power)
	if !ok {
		return fmt.Errorf("turn %s off: %w", name, hypervisors.ErrIncapable)
	}
	return power.Stop(ctx, vm)
}

// shutdownSource shuts the running machines of the source side down, in the reverse of their order.
func (e *Engine) shutdownSource(ctx context.Context, r *jobs.Run, g group) error {
	host, err := e.host(ctx, g.source().Host)
	if err != nil {
		return err
	}
	power, err := e.power(ctx, g.source().Host)
	if err != nil {
		return err
	}
	for i := len(g.Members) - 1; i >= 0; i-- {
		from, _ := g.Members[i].seats(g.Reversed)
		vm, err := host.VM(ctx, from.VM)
		if err != nil {
			return err
		}
		if vm.State == hypervisors.Off {
			continue
		}
		// Before the shutdown, because starting a machine that runs does nothing, and a death in between must not leave
		// production off.
		if err := r.Undo("source-on", from.VM); err != nil {
			return err
		}
		if err := e.shutdown(ctx, power, from.VM); err != nil {
			return err
		}
	}
	_, err = e.update(g.ID, func(g *group) error { g.Stopped = true; return nil })
	return err
}

func (e *Engine) shutdown(ctx context.Context, power hypervisors.Power, vm string) error {
	ctx, cancel := context.WithTimeout(ctx, e.ShutdownTimeout)
	defer cancel()
	return power.Shutdown(ctx, vm)
}

// sourceOn is the undo of turning a source machine off.
func (e *Engine) sourceOn(ctx context.Context, r *jobs.Run, vm string) error {
	g, err := e.group(r.Group())
	if err != nil {
		return err
	}
	power, err := e.power(ctx, g.source().Host)
	if err != nil {
		return err
	}
	if err := power.Start(ctx, vm); err != nil {
		return err
	}
	_, err = e.update(g.ID, func(g *group) error { g.Stopped = false; return nil })
	return err
}

// startReplicas starts the replica of every member from the chosen point, in the group's order.
func (e *Engine) startReplicas(ctx context.Context, r *jobs.Run) error {
	var w work
	if err := r.Load(&w); err != nil {
		return err
	}
	g, err := e.group(r.Group())
	if err != nil {
		return err
	}
	point, err := g.point(w.Point)
	if err != nil {
		return err
	}
	w.Point = point.ID // the same one after a restart, whatever the newest is then
	if err := r.Save(w); err != nil {
		return err
	}
	for i := range g.Members {
		if err := r.Undo("end-live", g.Members[i].Name); err != nil {
			return err
		}
		if err := e.startReplica(ctx, g, &g.Members[i], w.Point); err != nil {
			return fmt.Errorf("start replica of %s: %w", g.Members[i].Name, err)
		}
	}
	return nil
}

func (e *Engine) startReplica(ctx context.Context, g group, m *member, point string) error {
	replica, err := e.replicaOf(ctx, g, m)
	if err != nil {
		return err
	}
	status, err := replica.Status(ctx)
	if err != nil {
		return err
	}
	for _, run := range status.Runs {
		// A live run of another point is what an earlier failover left after its content came home (see failback).
		if run.ID == hypervisors.LiveRun && run.Point != point && run.State == hypervisors.Off {
			if err := replica.End(ctx, run.ID); err != nil {
				return err
			}
		}
	}
	_, err = replica.Run(ctx, hypervisors.RunSpec{ID: hypervisors.LiveRun, Point: point})
	return err
}

// replicaOf finds the replica of a member in the direction in force.
func (e *Engine) replicaOf(ctx context.Context, g group, m *member) (hypervisors.Replica, error) {
	target, err := e.target(ctx, g.target().Host)
	if err != nil {
		return nil, err
	}
	_, to := m.seats(g.Reversed)
	return target.Replica(ctx, to.Replica)
}

// endLive is the undo of starting the replica of the named member.
func (e *Engine) endLive(ctx context.Context, r *jobs.Run, name string) error {
	g, err := e.group(r.Group())
	if err != nil {
		return err
	}
	for i := range g.Members {
		if g.Members[i].Name != name {
			continue
		}
		replica, err := e.replicaOf(ctx, g, &g.Members[i])
		if err != nil {
			return err
		}
		return replica.End(ctx, hypervisors.LiveRun)
	}
	return nil
}

// checkReplicas makes the boot checks of the replicas that run. A check that fails does not stop a failover: in the
// worst night a machine that half works is worth more than none, and rolling back is the user's decision.
func (e *Engine) checkReplicas(ctx context.Context, r *jobs.Run) error {
	g, err := e.group(r.Group())
	if err != nil {
		return err
	}
	problem, err := e.checkSide(ctx, g, g.target().Host, func(m *member) string { _, to := m.seats(g.Reversed); return to.VM })
	if err != nil || problem == "" {
		return err
	}
	_, err = e.update(g.ID, func(g *group) error {
		g.Problem, g.Hint = "started, but "+problem, "Look at the machine's console; roll back if it cannot be helped."
		return nil
	})
	return err
}

// Commit accepts a failover.
func (e *Engine) Commit(ctx context.Context, ref string) (api.Job, error) {
	return e.order(ctx, ref, protection.OrderCommit, work{})
}

func (e *Engine) commitKind() jobs.Kind {
	return jobs.Kind{Name: string(protection.OrderCommit), Ended: e.ended, Steps: []jobs.Step{
		{Name: "commit", Do: func(_ context.Context, r *jobs.Run) error {
			_, err := e.transition(r.Group(), protection.CommitDone, api.StateCommitted)
			return err
		}},
	}}
}

// Rollback undoes a failover that was not committed.
func (e *Engine) Rollback(ctx context.Context, ref string) (api.Job, error) {
	return e.order(ctx, ref, protection.OrderRollback, work{})
}

func (e *Engine) rollbackKind() jobs.Kind {
	return jobs.Kind{Name: string(protection.OrderRollback), Ended: e.ended, Steps: []jobs.Step{
		{Name: "begin", Do: func(_ context.Context, r *jobs.Run) error {
			_, err := e.transition(r.Group(), protection.RollbackStarted, api.StateRollingBack)
			return err
		}},
		{Name: "end-replicas", Do: func(ctx context.Context, r *jobs.Run) error {
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
		}},
		{Name: "source-on", Do: func(ctx context.Context, r *jobs.Run) error {
			g, err := e.group(r.Group())
			if err != nil || !g.Stopped {
				return err
			}
			for i := range g.Members {
				from, _ := g.Members[i].seats(g.Reversed)
				if err := e.sourceOn(ctx, r, from.VM); err != nil {
					return err
				}
			}
			return nil
		}},
		{Name: "done", Do: func(_ context.Context, r *jobs.Run) error {
			_, err := e.transition(r.Group(), protection.RollbackDone, api.StateProtected)
			return err
		}},
	}}
}
