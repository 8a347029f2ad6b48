package replication

import (
	"time"

	"understudy/snapshot"
)

// Retention counts the time in which a group was protected, not what a clock says. Between two points there is as much
// of it as their moments are apart, but never less than nothing and never more than twice the RPO. So a clock that jumps
// a year ahead ages no point by a year, one that is set back does not make the newest points the oldest, and an outage
// does not use up what was kept for the days before it. While cycles keep the RPO it is the same as the clock's time.

// live gives new points their place in that time, behind the ones before them.
func (g *group) live() {
	lived := make(map[string]time.Time, len(g.Points)+len(g.OtherPoints))
	for _, p := range g.OtherPoints {
		if at, known := g.Lived[p.ID]; known {
			lived[p.ID] = at
		}
	}
	for i, p := range g.Points {
		at, known := g.Lived[p.ID]
		switch {
		case i > 0 && !known:
			before := g.Points[i-1]
			at = lived[before.ID].Add(g.credible(p.Taken.Sub(before.Taken)))
		case i > 0: // a point that came back after it was forgotten may stand before it
			at = latest(at, lived[g.Points[i-1].ID])
		case !known:
			at = p.Taken
			for _, next := range g.Points {
				if then, known := g.Lived[next.ID]; known && then.Before(at) {
					at = then
				}
			}
		}
		lived[p.ID] = at
	}
	g.Lived = lived
}

// lived are the points, and now, in the time that retention counts.
func (g *group) lived(now time.Time) ([]snapshot.PointTime, time.Time) {
	g.live()
	var times []snapshot.PointTime
	for _, p := range g.Points {
		times = append(times, snapshot.PointTime{ID: p.ID, Taken: g.Lived[p.ID]})
	}
	if n := len(g.Points); n > 0 {
		newest := g.Points[n-1]
		now = g.Lived[newest.ID].Add(g.credible(now.Sub(newest.Taken)))
	}
	return times, now
}

// credible is how much protection there was in a time.
func (g *group) credible(d time.Duration) time.Duration {
	return max(0, min(d, 2*time.Duration(g.Spec.Policy.RPOSeconds)*time.Second))
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
