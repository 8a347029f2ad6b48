package snapshot_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/snapshot"
)

var noon = time.Date(2026, 3, 4, 12, 0, 30, 0, time.UTC)

// ladder applies retention after each of n points, one every step, and returns what is left.
func ladder(tiers []snapshot.Tier, n int, step time.Duration, each func(now time.Time, points []snapshot.PointTime)) []snapshot.PointTime {
	var points []snapshot.PointTime
	for i := range n {
		now := noon.Add(time.Duration(i) * step)
		points = append(points, snapshot.PointTime{ID: fmt.Sprint(i), Taken: now})
		drop := snapshot.Drop(points, tiers, now)
		points = slices.DeleteFunc(points, func(p snapshot.PointTime) bool { return slices.Contains(drop, p.ID) })
		if each != nil {
			each(now, points)
		}
	}
	return points
}

func TestLadderOverTwoDays(t *testing.T) {
	tiers := []snapshot.Tier{
		{For: 10 * time.Minute},
		{Every: 15 * time.Minute, For: 4 * time.Hour},
		{Every: time.Hour, For: 24 * time.Hour},
		{Every: 24 * time.Hour, Count: 7},
	}
	require.NoError(t, snapshot.ValidateTiers(tiers))
	points := ladder(tiers, 48*60, time.Minute, func(now time.Time, points []snapshot.PointTime) {
		if newest := points[len(points)-1]; newest.Taken != now {
			t.Fatalf("at %v the newest is of %v", now, newest.Taken)
		}
		// Whatever moment of the promised past somebody asks for, a point is there within the tier's interval before it.
		for _, tier := range tiers[:3] {
			for back := time.Duration(0); back <= tier.For; back += 13 * time.Minute {
				asked := now.Add(-back)
				if asked.Before(noon) {
					break
				}
				within := max(tier.Every, time.Minute)
				i := slices.IndexFunc(points, func(p snapshot.PointTime) bool {
					return !p.Taken.After(asked) && asked.Sub(p.Taken) <= within
				})
				if i < 0 && asked.Sub(noon) >= within {
					t.Fatalf("at %v nothing for %v", now, asked)
				}
			}
		}
	})
	// 11 of the last minutes, 16 quarters, 20 more hours, and 2 more midnights (one is an hour too); edges differ by a few.
	require.InDelta(t, 11+16+20+2, len(points), 4)
	require.Equal(t, noon, points[0].Taken, "the first point of the first day")
}

func TestRetentionTable(t *testing.T) {
	day := func(d, h int) snapshot.PointTime {
		return snapshot.PointTime{ID: fmt.Sprintf("%d/%d", d, h), Taken: time.Date(2026, 3, d, h, 0, 0, 0, time.UTC)}
	}
	points := []snapshot.PointTime{day(3, 8), day(1, 8), day(2, 8), day(3, 20), day(2, 20), day(1, 20)}
	now := time.Date(2026, 3, 3, 21, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		tiers []snapshot.Tier
		drop  []string
	}{
		"default keeps 24":    {nil, nil},
		"newest two":          {[]snapshot.Tier{{Count: 2}}, []string{"1/8", "1/20", "2/8", "2/20"}},
		"last 26 hours":       {[]snapshot.Tier{{For: 26 * time.Hour}}, []string{"1/8", "1/20", "2/8"}},
		"one a day":           {[]snapshot.Tier{{Every: 24 * time.Hour, Count: 9}}, []string{"1/20", "2/20"}},
		"one a day, two days": {[]snapshot.Tier{{Every: 24 * time.Hour, Count: 2}}, []string{"1/8", "1/20", "2/20"}},
		"time and count":      {[]snapshot.Tier{{For: 26 * time.Hour, Count: 1}}, []string{"1/8", "1/20", "2/8", "2/20", "3/8"}},
		"only the newest":     {[]snapshot.Tier{{For: time.Minute}}, []string{"1/8", "1/20", "2/8", "2/20", "3/8"}},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, c.drop, snapshot.Drop(points, c.tiers, now)) })
	}
	require.Empty(t, snapshot.Drop(nil, nil, now))
	require.Equal(t, "3/8", points[0].ID, "the caller's order is left alone")
}

func TestRetentionIsStable(t *testing.T) {
	for _, tiers := range [][]snapshot.Tier{nil, {{Every: time.Hour, Count: 3}}, {{For: time.Hour}, {Every: 6 * time.Hour, For: 36 * time.Hour, Count: 4}}} {
		points := ladder(tiers, 500, 7*time.Minute, nil)
		require.Empty(t, snapshot.Drop(points, tiers, noon.Add(499*7*time.Minute)), "applying it twice drops nothing more")
		require.NotEmpty(t, points)
	}
}

func TestValidateTiers(t *testing.T) {
	require.NoError(t, snapshot.ValidateTiers(nil))
	for _, bad := range []snapshot.Tier{{}, {Every: time.Hour}, {Every: -1, Count: 1}, {For: -1}, {Count: -1}, {Every: 2 * time.Hour, For: time.Hour}} {
		require.Error(t, snapshot.ValidateTiers([]snapshot.Tier{bad}), "%+v", bad)
	}
}
