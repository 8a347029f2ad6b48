package snapshot

import (
	"fmt"
	"slices"
	"time"
)

// PointTime is what retention knows of a recovery point.
type PointTime struct {
	ID    string
	Taken time.Time
}

// Tier is a rung of a retention ladder: one point for each interval of Every, for a time or a number of intervals.
//
// Intervals are cut by absolute time (UTC; hours by the hour, days at midnight, weeks on Monday), and the first point of an
// interval is the one that is kept. That choice never changes while newer points come in, so a point that a coarse tier
// will want later is never dropped early, however often retention is applied.
type Tier struct {
	// Every is the interval; 0 keeps every point.
	Every time.Duration
	// For is how far back the tier reaches; the interval in which it begins is kept in full. 0: bounded by Count only.
	For time.Duration
	// Count bounds how many intervals with points are kept, newest first. 0: bounded by For only.
	Count int
}

// defaultTiers apply where nobody chose.
var defaultTiers = []Tier{{Count: 24}}

// ValidateTiers says in words for people what is wrong with a ladder. An empty one is fine: the newest 24 points.
func ValidateTiers(tiers []Tier) error {
	for i, t := range tiers {
		switch {
		case t.Every < 0 || t.For < 0 || t.Count < 0:
			return fmt.Errorf("retention tier %d: interval, time and count cannot be negative", i+1)
		case t.For == 0 && t.Count == 0:
			return fmt.Errorf("retention tier %d: says neither for how long nor how many points to keep", i+1)
		case t.For > 0 && t.Every > t.For:
			return fmt.Errorf("retention tier %d: one point every %v cannot be kept for only %v", i+1, t.Every, t.For)
		}
	}
	return nil
}

// Drop names the points that no tier keeps, oldest first. The newest point is always kept.
func Drop(points []PointTime, tiers []Tier, now time.Time) []string {
	if len(points) == 0 {
		return nil
	}
	if len(tiers) == 0 {
		tiers = defaultTiers
	}
	points = slices.Clone(points)
	slices.SortStableFunc(points, func(a, b PointTime) int { return a.Taken.Compare(b.Taken) })
	keep := make([]bool, len(points))
	keep[len(points)-1] = true
	for _, t := range tiers {
		t.mark(points, keep, now)
	}
	var drop []string
	for i, p := range points {
		if !keep[i] {
			drop = append(drop, p.ID)
		}
	}
	return drop
}

// mark marks what the tier keeps of points, which are oldest first.
func (t Tier) mark(points []PointTime, keep []bool, now time.Time) {
	kept := 0
	for i := len(points) - 1; i >= 0; i-- {
		interval := points[i].Taken.Truncate(t.Every)
		if i > 0 && t.Every > 0 && points[i-1].Taken.Truncate(t.Every).Equal(interval) {
			continue // not the first of its interval
		}
		if t.For > 0 && interval.Add(t.Every).Before(now.Add(-t.For)) || t.Count > 0 && kept == t.Count {
			return
		}
		keep[i] = true
		kept++
	}
}
