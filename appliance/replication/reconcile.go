package replication

import (
	"context"
	"slices"
	"time"

	"understudy/api"
	"understudy/appliance/protection"
	"understudy/hypervisors"
	"understudy/snapshot"
)

// reconcile makes the record agree with the target, which is always right about points: it learns of points that were
// committed when nobody could record them, and forgets points that are gone. pending describes a point that an
// interrupted cycle may have committed; nil when there was none.
func (e *Engine) reconcile(ctx context.Context, id string, pending *api.Point) (group, error) {
	g, err := e.group(id)
	if err != nil {
		return group{}, err
	}
	target, err := e.target(ctx, g.target().Host)
	if err != nil {
		return group{}, err
	}
	held := make([][]hypervisors.Point, len(g.Members))
	strays, changed := make([]string, len(g.Members)), false
	for i := range g.Members {
		_, to := g.Members[i].seats(g.Reversed)
		replica, err := target.Replica(ctx, to.Replica)
		if err != nil {
			return group{}, err
		}
		status, err := replica.Status(ctx)
		if err != nil {
			return group{}, err
		}
		held[i] = status.Points
		strays[i] = ""
		if status.Stray {
			strays[i] = stray
		}
		changed = changed || g.Members[i].Problem != strays[i]
	}
	learned := make([]hypervisors.ChangeID, len(g.Members))
	for i, points := range held {
		learned[i] = g.learn(i, points)
		changed = changed || learned[i] != g.Members[i].ChangeID
	}
	points, news := g.agree(held, pending)
	if !news && !changed {
		return g, nil
	}
	return e.update(id, func(g *group) error {
		for i := range g.Members {
			g.Members[i].Problem, g.Members[i].ChangeID = strays[i], learned[i]
		}
		known := len(g.Points)
		g.Points = points
		if g.State == api.StateMirroring && known == 0 && len(points) > 0 {
			return g.apply(protection.FirstPoint)
		}
		return nil
	})
}

// stray is the problem of a replica that is on without an order.
const stray = "its replica was started by hand; turn it off: nothing that it writes is kept, its recovery points are safe"

// prune drops the points that the policy no longer keeps. A point in use stays until a later cycle.
func (e *Engine) prune(ctx context.Context, id string) error {
	g, err := e.group(id)
	if err != nil {
		return err
	}
	times := make([]snapshot.PointTime, 0, len(g.Points))
	for _, p := range g.Points {
		times = append(times, snapshot.PointTime{ID: p.ID, Taken: p.Taken})
	}
	for _, drop := range snapshot.Drop(times, tiers(g.Spec.Policy), e.Clock()) {
		if g.TestRun != "" && g.Test != nil && g.Test.Point == drop {
			continue
		}
		if err := e.dropPoint(ctx, g, drop); err != nil {
			return err
		}
	}
	return nil
}

// dropPoint forgets a point before the target drops it, so that nobody is offered a point that is half gone.
func (e *Engine) dropPoint(ctx context.Context, g group, point string) error {
	target, err := e.target(ctx, g.target().Host)
	if err != nil {
		return err
	}
	if _, err := e.update(g.ID, func(g *group) error {
		g.Points = slices.DeleteFunc(g.Points, func(p api.Point) bool { return p.ID == point })
		return nil
	}); err != nil {
		return err
	}
	for _, m := range g.Members {
		_, to := m.seats(g.Reversed)
		replica, err := target.Replica(ctx, to.Replica)
		if err != nil {
			return err
		}
		if err := replica.Drop(ctx, point); err != nil {
			return err
		}
	}
	e.publish("point", "deleted", point, g.ID, "")
	return nil
}

func tiers(p api.Policy) []snapshot.Tier {
	out := make([]snapshot.Tier, 0, len(p.Retention))
	for _, t := range p.Retention {
		out = append(out, snapshot.Tier{Every: time.Duration(t.EverySeconds) * time.Second, For: time.Duration(t.ForSeconds) * time.Second, Count: t.Count})
	}
	return out
}
