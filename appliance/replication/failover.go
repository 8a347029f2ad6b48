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

// Failover starts the replicas as production, from the last moment of the source (planned) or from a kept point.
func (e *Engine) Failover(ctx context.Context, ref string, o api.FailoverOrder) (api.Job, error) {
	return e.give(ctx, ref, api.PlanOrder{Order: string(protection.OrderFailover), Planned: o.Planned, Point: o.Point, Force: o.Force})
}

func (e *Engine) failoverKind() jobs.Kind {
	return jobs.Kind{Name: string(protection.OrderFailover), Ended: e.endedWithReport,
		Steps: []jobs.Step{
			e.begin(protection.FailoverStarted, api.StateFailingOver),
			e.plannedOnly(e.copyStep("catch-up")),
			e.step("source-off", e.sourceOff),
			e.plannedOnly(e.copyStep("last-copy")),
			e.step("start", e.startReplicas),
			e.step("checks", e.checkReplicas),
			e.step("done", func(_ context.Context, t *task) error {
				if _, err := e.transition(t.group.ID, protection.FailoverDone, api.StateFailedOver); err != nil {
					return err
				}
				return t.Forgive()
			}),
		},
		Undos: undos{
			"revert":    e.revert(protection.FailoverFailed, api.StateFailingOver),
			"source-on": e.undo(e.sourceOn),
			"autostart": e.undo(e.sourceMayStart),
			"end-live":  e.undo(e.endLive),
		},
	}
}

// plannedOnly skips a step of an unplanned failover.
func (e *Engine) plannedOnly(s jobs.Step) jobs.Step {
	return e.step(s.Name, func(ctx context.Context, t *task) error {
		if !t.work.Planned {
			return nil
		}
		return s.Do(ctx, t.Run)
	})
}

// startReplicas starts the replicas from the chosen point, stage by stage.
func (e *Engine) startReplicas(ctx context.Context, t *task) error {
	point, err := t.group.point(t.work.Point)
	if err != nil {
		return err
	}
	t.work.Point, t.work.Taken = point.ID, point.Taken // the same one after a restart, whatever the newest is then
	return e.follow(ctx, t, e.failoverStartup(t))
}

// failoverStartup says how the replicas start in place of production.
func (e *Engine) failoverStartup(t *task) startup {
	return startup{host: t.group.target().Host, start: e.startLive,
		vm: func(t *task, i int) string { return t.group.toSeat(&t.group.Members[i]).VM }}
}

// startLive starts the replicas of some members, after one more look whether production is off: it may be long since it
// was turned off, or since the stage before.
func (e *Engine) startLive(ctx context.Context, t *task, members []int) error {
	if err := e.stillOff(ctx, t); err != nil {
		return err
	}
	if err := t.alive(members); err != nil {
		return err
	}
	for _, i := range members { // before they start together, and so in their order
		if err := t.Undo("end-live", t.group.Members[i].Name); err != nil {
			return err
		}
	}
	if converted, err := e.convertReplicas(ctx, t, members); err != nil {
		return err
	} else if converted { // it is minutes since it was looked
		if err := e.stillOff(ctx, t); err != nil {
			return err
		}
	}
	return e.some(ctx, t.group, t.group.target().Host, members, func(ctx context.Context, i int) error {
		if err := e.startReplica(ctx, t.group, i, t.work.Point, false); err != nil {
			return fmt.Errorf("start replica: %w", err)
		}
		return nil
	})
}

// startReplica makes a replica production, or only prepares that where its guest is converted.
func (e *Engine) startReplica(ctx context.Context, g group, i int, point string, prepare bool) error {
	replica, err := e.replicaOf(ctx, g, &g.Members[i])
	if err != nil {
		return err
	}
	host, err := e.host(ctx, g.target().Host)
	if err != nil {
		return err
	}
	convert := g.converts(i, host.Capabilities())
	if g.Members[i].Converted != convert { // before it is, so that nobody believes that it is not
		if _, err := e.update(g.ID, func(g *group) error { g.Members[i].Converted = convert; return nil }); err != nil {
			return err
		}
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
	_, err = replica.Run(ctx, hypervisors.RunSpec{ID: hypervisors.LiveRun, Point: point, Convert: convert, Prepare: prepare && convert})
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

// eachReplica does something to the replica of every member in the direction in force, see together.
func (e *Engine) eachReplica(ctx context.Context, g group, do func(ctx context.Context, i int, replica hypervisors.Replica) error) error {
	return e.together(ctx, g, g.target().Host, func(ctx context.Context, i int) error {
		replica, err := e.replicaOf(ctx, g, &g.Members[i])
		if err != nil {
			return err
		}
		return do(ctx, i, replica)
	})
}

// endLive is the undo of starting the replica of the named member.
func (e *Engine) endLive(ctx context.Context, t *task, name string) error {
	for i := range t.group.Members {
		if t.group.Members[i].Name != name {
			continue
		}
		replica, err := e.replicaOf(ctx, t.group, &t.group.Members[i])
		if err != nil {
			return err
		}
		if err := replica.End(ctx, hypervisors.LiveRun); err != nil {
			return err
		}
		return t.over(name)
	}
	return nil
}

// endAllLive ends what the replicas wrote as production.
func (e *Engine) endAllLive(ctx context.Context, t *task) error {
	return e.eachReplica(ctx, t.group, func(ctx context.Context, _ int, replica hypervisors.Replica) error {
		return replica.End(ctx, hypervisors.LiveRun)
	})
}

// checkReplicas makes the boot checks of the replicas that run. A check that fails does not stop a failover: in the
// worst night a machine that half works is worth more than none, and rolling back is the user's decision. Nor does one
// that cannot be made: the host that cannot be asked may run them well.
func (e *Engine) checkReplicas(ctx context.Context, t *task) error {
	s := e.failoverStartup(t)
	problems, err := e.examine(ctx, t, s, t.group.order())
	if err != nil {
		return err
	}
	t.work.Seconds = e.Clock().Sub(t.Created()).Seconds()
	t.work.Problem = strings.Join(append(problems, t.work.problems()...), "; ")
	if err := e.proved(t); err != nil {
		return err
	}
	if err := e.photograph(ctx, t, s); err != nil || t.work.Problem == "" {
		return err
	}
	_, err = e.update(t.group.ID, func(g *group) error {
		g.Problem, g.Hint = "started, but "+t.work.Problem, "Look at the machine's console; roll back if it cannot be helped."
		return nil
	})
	return err
}

// Commit accepts a failover.
func (e *Engine) Commit(ctx context.Context, ref string) (api.Job, error) {
	return e.give(ctx, ref, api.PlanOrder{Order: string(protection.OrderCommit)})
}

func (e *Engine) commitKind() jobs.Kind {
	return jobs.Kind{Name: string(protection.OrderCommit), Ended: e.endedWithReport, Steps: []jobs.Step{
		{Name: "commit", Do: func(_ context.Context, r *jobs.Run) error {
			_, err := e.transition(r.Group(), protection.CommitDone, api.StateCommitted)
			return err
		}},
		e.step("autostart", func(ctx context.Context, t *task) error {
			return e.mayStart(ctx, t, t.group.target(), t.group.toSeat)
		}),
	}}
}

// replicasOff looks whether the replicas are still off, as it may be long since they were ended. A host that does not
// answer is no reason to leave production off: they were off when it did.
func (e *Engine) replicasOff(ctx context.Context, t *task) error {
	host, err := e.host(ctx, t.group.target().Host)
	for i := 0; err == nil && i < len(t.group.Members); i++ {
		var vm hypervisors.VM
		if vm, err = host.VM(ctx, t.group.toSeat(&t.group.Members[i]).VM); err == nil && vm.State != hypervisors.Off {
			return api.Errorf(api.CodeConflict, "Turn it off there, then order rollback again.",
				"the replica of machine %s runs on %s", t.group.Members[i].Name, e.hostName(t.group.target().Host))
		}
	}
	if err != nil {
		t.Log().Warn("replicas cannot be asked whether they are still off", "group", t.group.Spec.Name, "error", err)
	}
	return ctx.Err()
}

// Rollback undoes a failover that was not committed.
func (e *Engine) Rollback(ctx context.Context, ref string) (api.Job, error) {
	return e.give(ctx, ref, api.PlanOrder{Order: string(protection.OrderRollback)})
}

func (e *Engine) rollbackKind() jobs.Kind {
	return jobs.Kind{Name: string(protection.OrderRollback), Ended: e.endedWithReport, Steps: []jobs.Step{
		{Name: "begin", Do: func(_ context.Context, r *jobs.Run) error {
			_, err := e.transition(r.Group(), protection.RollbackStarted, api.StateRollingBack)
			return err
		}},
		e.step("end-replicas", e.endAllLive),
		e.step("source-on", func(ctx context.Context, t *task) error {
			if err := e.replicasOff(ctx, t); err != nil {
				return err
			}
			if err := e.startSources(ctx, t); err != nil {
				return err
			}
			return e.mayStart(ctx, t, t.group.source(), t.group.fromSeat)
		}),
		{Name: "done", Do: func(_ context.Context, r *jobs.Run) error {
			_, err := e.transition(r.Group(), protection.RollbackDone, api.StateProtected)
			return errors.Join(err, e.calm(r.Group(), api.AlertSplitBrain), e.calm(r.Group(), api.AlertDiverged))
		}},
	}}
}
