package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"understudy/api"
	"understudy/appliance/jobs"
	"understudy/appliance/protection"
)

// wish is an order as somebody gave it: what its job begins with, and what may speak against it. Who orders and who only
// asks what would happen (Plan) have the same wish, so that they cannot get different answers.
type wish struct {
	order protection.Order
	work  work
	// also gives reasons against it beside those of its state, which come last.
	also []func(group) error
}

// wish understands an order that a person can give.
func (e *Engine) wish(g group, o api.PlanOrder) (wish, error) {
	w := wish{order: protection.Order(o.Order)}
	switch w.order {
	case protection.OrderCommit, protection.OrderRollback, protection.OrderFence:
	case protection.OrderTest:
		w.also = []func(group) error{startable(w.order, o.Point)}
		w.work = work{Point: o.Point, Run: newID()}
		if p, err := g.point(o.Point); err == nil {
			w.work.Point, w.work.Taken = p.ID, p.Taken // whatever the newest is when it starts
		}
	case protection.OrderEndTest:
		w.work = work{Run: g.TestRun}
	case protection.OrderFailover:
		w.also = []func(group) error{ownPoint(o)}
		if !o.Planned {
			w.also = append(w.also, startable(w.order, o.Point))
		}
		w.work = work{Point: o.Point, Planned: o.Planned, Force: o.Force}
	case protection.OrderReprotect:
		w.also = []func(group) error{e.overwritable}
	case protection.OrderFailback:
		w.also = []func(group) error{e.overwritable}
		w.work = work{Planned: true}
	case protection.OrderDropPoint:
		w.also = []func(group) error{named(o.Point)}
		w.work = work{Point: o.Point}
	case protection.OrderRemove:
		if o.DeleteReplicas {
			w.also = []func(group) error{func(g group) error { return protection.Can(g.decision(), protection.OrderDelete) }}
		}
		w.work = work{DeleteReplicas: o.DeleteReplicas, Run: g.TestRun}
	default:
		return w, &api.Error{Code: api.CodeInvalid, Field: "order", Message: fmt.Sprintf("there is no order %q", o.Order),
			Hint: "Use test, end-test, failover, commit, rollback, reprotect, failback, fence, drop-point or remove."}
	}
	return w, nil
}

// startable refuses to start from a point that is not there. A group whose state does not allow the order has perhaps no
// point for that reason: it is told that reason.
func startable(order protection.Order, point string) func(group) error {
	return func(g group) error {
		if err := protection.Can(g.decision(), order); err != nil {
			return err
		}
		_, err := g.point(point)
		return err
	}
}

func ownPoint(o api.PlanOrder) func(group) error {
	return func(group) error {
		if o.Planned && o.Point != "" {
			return &api.Error{Code: api.CodeInvalid, Field: "point", Message: "a planned failover makes its own last point",
				Hint: "Leave the point out, or order an unplanned failover to it."}
		}
		return nil
	}
}

// named refuses what is not the name of a point.
func named(point string) func(group) error {
	return func(g group) error {
		if point == "" {
			return &api.Error{Code: api.CodeInvalid, Field: "point", Message: "no recovery point is named", Hint: "List the points and name one."}
		}
		_, err := g.point(point)
		return err
	}
}

// refused says why a group as it is does not allow the wish.
func (w wish) refused(g group) error {
	for _, refuse := range w.also {
		if err := refuse(g); err != nil {
			return err
		}
	}
	return protection.Can(g.decision(), w.order)
}

// stepsAside says that the order stands beside mirrors and cycles, so that none gives way to it.
func (w wish) stepsAside() bool {
	return slices.Contains([]protection.Order{protection.OrderMirror, protection.OrderCycle, protection.OrderTest, protection.OrderEndTest}, w.order)
}

// locks are what its job holds.
func (w wish) locks(group string) []string {
	switch w.order {
	case protection.OrderTest, protection.OrderEndTest:
		return []string{testLock(group)}
	case protection.OrderRemove:
		return []string{dataLock(group), testLock(group)}
	}
	return []string{dataLock(group)}
}

// inTheWay is the job because of which the order would be refused now, or the one that would give way to it.
func (e *Engine) inTheWay(g group, w wish) (refused error, givesWayToIt *api.Job, err error) {
	locked, err := e.runner.Locked(w.locks(g.ID)...)
	if locked == nil || err != nil {
		return nil, nil, err
	}
	if !w.stepsAside() && slices.Contains(givesWay, protection.Order(locked.Job.Kind)) {
		return nil, &locked.Job, nil
	}
	return busy(g, locked), nil, nil
}

func busy(g group, locked *jobs.ErrLocked) error {
	return &api.Error{Code: api.CodeConflict, Err: locked,
		Message: fmt.Sprintf("group %s is busy with job %s (%s)", g.Spec.Name, locked.Job.ID, locked.Job.Kind),
		Hint:    "Wait for it to end, or cancel it."}
}

// give orders what a person wishes.
func (e *Engine) give(ctx context.Context, ref string, o api.PlanOrder) (api.Job, error) {
	g, err := e.group(ref)
	if err != nil {
		return api.Job{}, err
	}
	w, err := e.wish(g, o)
	if err != nil {
		return api.Job{}, err
	}
	return e.order(ctx, g.ID, w)
}

// order checks whether a group allows an order now and submits its job. A mirror or cycle that runs gives way to every
// order but another one: what it has not committed, the order does not need. What it learned before it gave way may be a
// reason to refuse, so all is checked again then.
func (e *Engine) order(ctx context.Context, ref string, w wish) (api.Job, error) {
	g, err := e.group(ref)
	if err != nil {
		return api.Job{}, err
	}
	if err := w.refused(g); err != nil {
		return api.Job{}, err
	}
	if w.stepsAside() {
		return e.submit(ctx, g, w)
	}
	for {
		if err := e.interrupt(ctx, g.ID); err != nil {
			return api.Job{}, err
		}
		if g, err = e.group(g.ID); err != nil {
			return api.Job{}, err
		}
		if err := w.refused(g); err != nil {
			return api.Job{}, err
		}
		job, err := e.submit(ctx, g, w)
		// The schedule may have started one since.
		if locked := (*jobs.ErrLocked)(nil); !errors.As(err, &locked) || !slices.Contains(givesWay, protection.Order(locked.Job.Kind)) {
			return job, err
		}
	}
}

func (e *Engine) submit(ctx context.Context, g group, w wish) (api.Job, error) {
	job, err := e.runner.Submit(ctx, string(w.order), g.ID, w.work, w.locks(g.ID)...)
	var locked *jobs.ErrLocked
	if errors.As(err, &locked) {
		return api.Job{}, busy(g, locked)
	}
	return job, err
}
