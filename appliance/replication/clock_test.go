package replication_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
)

const year = 365 * 24 * time.Hour

// cycles makes so many points, a few seconds apart.
func (w *world) cycles(vm string, n int) {
	w.t.Helper()
	for range n {
		w.pass(4 * time.Second)
		w.write(w.home, vm, 3)
		w.done(w.engine.SyncNow(w.t.Context(), "shop"))
	}
}

func (w *world) pointIDs() (ids []string) {
	for _, p := range w.points("shop") {
		ids = append(ids, p.ID)
	}
	return ids
}

// TestClockJumpsAhead: a year that nobody lived through makes no point older.
func TestClockJumpsAhead(t *testing.T) {
	for name, jump := range map[string]time.Duration{"a year": year, "a day": 24 * time.Hour, "an hour, as DST would be": time.Hour} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			vm := w.machine("web")
			s := spec("shop", "web")
			s.Policy.Retention = []api.RetentionTier{{ForSeconds: 1800}}
			g := w.protect(s)
			w.cycles(vm, 3)
			before := w.pointIDs()
			w.pass(jump)
			w.cycles(vm, 2)
			require.Equal(t, before, w.pointIDs()[:len(before)])
			require.True(t, w.group("shop").RPO.Met)
			w.pass(-jump) // somebody mends it
			w.cycles(vm, 2)
			require.Equal(t, before, w.pointIDs()[:len(before)])
			w.sameAtTarget(g, vm)
		})
	}
}

// TestRetentionCountsOn: what is older than the policy keeps goes, by the time that was protected.
func TestRetentionCountsOn(t *testing.T) {
	w := newWorld(t)
	vm := w.machine("web")
	s := spec("shop", "web")
	s.Policy.Retention = []api.RetentionTier{{ForSeconds: 20}}
	w.protect(s)
	w.cycles(vm, 12)
	require.Less(t, len(w.points("shop")), 8)
}

// TestClockIsSetBack: the newest points are the newest, whatever their time says; the schedule goes on; and jobs, over a
// restart too, are in the order in which they were accepted, and took no less than no time.
func TestClockIsSetBack(t *testing.T) {
	w := newWorld(t)
	vm := w.machine("web")
	s := spec("shop", "web")
	s.Policy.Retention = []api.RetentionTier{{Count: 3}}
	g := w.protect(s)
	w.cycles(vm, 3)
	old := w.pointIDs()
	w.pass(-year)
	w.restart()
	w.engine.Tick(t.Context())
	w.settle("shop")
	w.cycles(vm, 1)
	ids := w.pointIDs()
	require.Equal(t, old[2], ids[0], "two newer ones are there: %v", ids)
	require.True(t, w.group("shop").RPO.Met)
	w.sameAtTarget(g, vm)

	for _, j := range w.jobs("shop", 2) {
		require.True(t, j.Created.Before(time.Date(2025, 6, 1, 0, 0, 0, 0, time.UTC)), "the newest jobs are listed first")
		require.False(t, j.Ended.Before(*j.Started))
	}
}

// TestForcedFailoverRolledBack: what the order turned off is on again.
func TestForcedFailoverRolledBack(t *testing.T) {
	w := newWorld(t)
	vm := w.machine("web")
	w.protect(spec("shop", "web"))
	w.done(w.engine.Failover(t.Context(), "shop", api.FailoverOrder{Force: true}))
	require.False(t, w.running(w.home, vm))
	w.done(w.engine.Rollback(t.Context(), "shop"))
	require.True(t, w.running(w.home, vm))
}
