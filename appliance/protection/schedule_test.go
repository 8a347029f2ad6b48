package protection

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func rpo(d time.Duration) api.Policy { return api.Policy{RPOSeconds: int(d / time.Second)} }

func TestDue(t *testing.T) {
	const m = time.Minute
	cases := map[string]struct {
		h        History
		min, max time.Duration // from noon, RPO 20 min
	}{
		"first":                  {History{}, 0, 0},
		"quick cycles":           {History{LastTaken: noon, Expected: m}, 9 * m, 10 * m},
		"slow cycles":            {History{LastTaken: noon, Expected: 8 * m}, 216 * time.Second, 4 * m},
		"too slow for the RPO":   {History{LastTaken: noon.Add(-m), Expected: 15 * m}, 0, 0},
		"overdue":                {History{LastTaken: noon.Add(-60 * m)}, 0, 0},
		"failed once":            {History{LastTaken: noon.Add(-9 * m), LastAttempt: noon, Failures: 1}, 5 * time.Second, 5 * time.Second},
		"failed three times":     {History{LastTaken: noon.Add(-60 * m), LastAttempt: noon, Failures: 3}, 20 * time.Second, 20 * time.Second},
		"failed for days":        {History{LastTaken: noon.Add(-9000 * m), LastAttempt: noon, Failures: 1e9}, 5 * m, 5 * m},
		"first mirror failed":    {History{LastAttempt: noon, Failures: 2}, 10 * time.Second, 10 * time.Second},
		"failed long ago":        {History{LastAttempt: noon.Add(-60 * m), Failures: 2}, 0, 0},
		"clock set back":         {History{LastTaken: noon.Add(99 * m)}, 0, 0},
		"clock set back, failed": {History{LastAttempt: noon.Add(99 * m), Failures: 1}, 0, 0},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			due := Due(rpo(20*m), c.h, noon, "g1").Sub(noon)
			require.GreaterOrEqual(t, due, c.min)
			require.LessOrEqual(t, due, c.max)
		})
	}
}

func TestJitterSpreadsGroupsAndStaysTheSame(t *testing.T) {
	h := History{LastTaken: noon}
	seen := map[time.Time]bool{}
	for i := range 50 {
		seed := fmt.Sprint("group-", i)
		due := Due(rpo(time.Hour), h, noon, seed)
		require.Equal(t, due, Due(rpo(time.Hour), h, noon, seed))
		seen[due] = true
	}
	require.Greater(t, len(seen), 45)
}

// Cycles whose length varies between half and twice what is expected (for slow ones: is as expected): the target always
// holds, and no cycle starts before the last one ended.
func TestScheduleHoldsTheTarget(t *testing.T) {
	for _, target := range []time.Duration{5 * time.Second, time.Minute, 15 * time.Minute, 24 * time.Hour} {
		for _, share := range []time.Duration{100, 8, 4, 2} {
			expected := target / share
			now, newest := noon, noon
			worst := 0.0
			for i := range 500 {
				start := Due(rpo(target), History{LastTaken: newest, Expected: expected}, now, "g1")
				require.False(t, start.Before(now))
				now = start.Add(expected)
				if share >= 4 {
					now = start.Add(expected/2 + expected*time.Duration(i%4)/2)
				}
				status := RPO(rpo(target), newest, worst, now)
				require.True(t, status.Met, "RPO %s, cycles of %s: age %g s", target, expected, status.AgeSeconds)
				worst, newest = status.WorstSeconds, start
			}
			if share == 100 {
				require.Greater(t, worst, target.Seconds()*0.4, "production is not asked more often than needed")
			}
		}
	}
}

func TestRPO(t *testing.T) {
	require.Equal(t, api.RPOStatus{WorstSeconds: 3}, RPO(rpo(time.Minute), time.Time{}, 3, noon))
	at := func(age time.Duration, worst float64) api.RPOStatus {
		s := RPO(rpo(time.Minute), noon.Add(-age), worst, noon)
		require.Equal(t, noon.Add(-age), *s.NewestTaken)
		s.NewestTaken = nil
		return s
	}
	require.Equal(t, api.RPOStatus{AgeSeconds: 60, Met: true, WorstSeconds: 60}, at(time.Minute, 7))
	require.Equal(t, api.RPOStatus{AgeSeconds: 61, Met: false, WorstSeconds: 90}, at(61*time.Second, 90))
	require.Equal(t, api.RPOStatus{AgeSeconds: 0, Met: true}, at(-time.Minute, 0), "a clock that was set back")
}

// A verification is due an interval after the last good one, or after the first mirror; one that broke off is tried
// again within the hour, or the interval where that is shorter.
func TestVerifyDue(t *testing.T) {
	created := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at := func(d time.Duration) time.Time { return created.Add(d) }
	due := func(every time.Duration, last, attempt, now time.Time) time.Duration {
		t.Helper()
		when, ever := VerifyDue(api.Policy{VerifyEverySeconds: int(every / time.Second)}, last, attempt, created, now, "")
		require.True(t, ever)
		require.False(t, when.Before(now))
		return when.Sub(created)
	}
	const day, week = 24 * time.Hour, 7 * 24 * time.Hour
	var never time.Time
	_, ever := VerifyDue(api.Policy{}, never, never, created, at(1000*week), "")
	require.False(t, ever)
	jittered := func(want time.Duration, got time.Duration, every time.Duration) {
		t.Helper()
		require.LessOrEqual(t, got, want)
		require.Greater(t, got, want-every/10)
	}
	jittered(week, due(week, never, never, created), week)
	jittered(week+day, due(week, at(day), at(day), at(2*day)), week)
	require.Equal(t, 3*week, due(week, at(day), at(day), at(3*week)), "overdue is now")
	require.Equal(t, 2*week+time.Hour, due(week, at(day), at(2*week), at(2*week)), "broke off")
	require.Equal(t, 2*week+time.Minute, due(time.Minute, at(day), at(2*week), at(2*week)), "broke off")
	require.Equal(t, 2*day, due(week, at(50*week), never, at(2*day)), "a clock that was set back: counted from now it would never come")
}
