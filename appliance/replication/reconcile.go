package replication

import (
	"context"
	"errors"
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
func (e *Engine) reconcile(ctx context.Context, id string, pending *api.Point) (now group, err error) {
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
	if slices.ContainsFunc(points, func(p api.Point) bool { return p.Suspect != "" }) {
		defer func() {
			if err == nil {
				err = e.keepMarks(ctx, now) // a mark that the target does not know of yet
			}
		}()
	}
	superseded := map[string]hypervisors.ChangeID{}
	g, err = e.update(id, func(g *group) error {
		for i := range g.Members {
			m := &g.Members[i]
			if m.ChangeID != learned[i] {
				from, _ := m.seats(g.Reversed)
				superseded[from.VM] = m.ChangeID
			}
			m.Problem, m.ChangeID = strays[i], learned[i]
		}
		known := len(g.Points)
		g.Points = points
		g.live()
		if g.State == api.StateMirroring && known == 0 && len(points) > 0 {
			return g.apply(protection.FirstPoint)
		}
		return nil
	})
	for vm, old := range superseded {
		e.doubt(machine{g.source().Host, vm}, old)
	}
	return g, err
}

// stray is the problem of a replica that is on without an order.
const stray = "its replica was started by hand; turn it off: nothing that it writes is kept, its recovery points are safe"

// prune drops the points that the policy no longer keeps, and what is left of points that only some of the members
// hold: a commit or a drop that broke off between two of them. A point in use stays until a later cycle.
func (e *Engine) prune(ctx context.Context, id string) error {
	g, err := e.group(id)
	if err != nil {
		return err
	}
	if err := e.endLeft(ctx, g); err != nil {
		return err
	}
	for _, drop := range g.outlived(e.Clock()) {
		if g.TestRun != "" && g.Test != nil && g.Test.Point == drop {
			continue
		}
		if err := e.dropPoint(ctx, g, drop); err != nil && !errors.Is(err, hypervisors.ErrInUse) {
			return err
		}
	}
	return e.dropParts(ctx, id)
}

// outlived are the points that the policy no longer keeps. Those that are suspect keep no good one from its place: they go
// when they would without that difference.
func (g *group) outlived(at time.Time) []string {
	times, now := g.lived(at)
	suspect := func(p snapshot.PointTime) bool { return g.suspect(p.ID) != "" }
	good := slices.DeleteFunc(slices.Clone(times), suspect)
	drop := snapshot.Drop(good, tiers(g.Spec.Policy), now)
	for _, id := range snapshot.Drop(times, tiers(g.Spec.Policy), now) {
		if g.suspect(id) != "" {
			drop = append(drop, id)
		}
	}
	return drop
}

// endLeft ends what replicas wrote as production and a failback could not retire: a point of this direction was
// committed since, so nobody needs it, and the point below it could not be dropped.
func (e *Engine) endLeft(ctx context.Context, g group) error {
	return e.eachReplica(ctx, g, func(ctx context.Context, _ int, replica hypervisors.Replica) error {
		status, err := replica.Status(ctx)
		if err != nil {
			return err
		}
		for _, run := range status.Runs {
			if run.ID != hypervisors.LiveRun || run.State != hypervisors.Off {
				continue
			}
			if err := replica.End(ctx, run.ID); err != nil {
				return err
			}
		}
		return nil
	})
}

// dropParts drops what members hold that is no point of the group. It comes behind a cycle, which has learned of every
// point that is whole, and has put a whole one on top.
func (e *Engine) dropParts(ctx context.Context, id string) error {
	g, err := e.group(id)
	if err != nil {
		return err
	}
	return e.eachReplica(ctx, g, func(ctx context.Context, _ int, replica hypervisors.Replica) error {
		status, err := replica.Status(ctx)
		if err != nil {
			return err
		}
		for _, held := range status.Points {
			if slices.ContainsFunc(g.Points, func(p api.Point) bool { return p.ID == held.ID }) {
				continue
			}
			if err := replica.Drop(ctx, held.ID); err != nil && !errors.Is(err, hypervisors.ErrInUse) {
				return err
			}
		}
		return nil
	})
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
