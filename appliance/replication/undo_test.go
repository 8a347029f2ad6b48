package replication_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/hypervisors"
	"understudy/hypervisors/fake"
	"understudy/hypervisors/hypervisortest"
)

// in runs a test of a world whose pauses take no time.
func in(t *testing.T, test func(t *testing.T, w *world), away ...fake.Option) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newWorld(t, away...)) })
}

// TestUndoThatFailsForGood: the host where the machines have been started cannot be reached while the order is undone.
// Production stays off then, and its host does not start it either; whoever ordered it is told.
func TestUndoThatFailsForGood(t *testing.T) {
	for name, c := range map[string]struct {
		before func(w *world)
		host   string // to which the machines move
		order  func(w *world) (api.Job, error)
		last   hypervisortest.Call // that goes well before it cannot be reached
	}{
		"failover": {func(*world) {}, "away", func(w *world) (api.Job, error) {
			return w.engine.Failover(w.t.Context(), "shop", api.FailoverOrder{Planned: true})
		}, "Replica.Run"},
		"forced failover": {func(*world) {}, "away", func(w *world) (api.Job, error) {
			return w.engine.Failover(w.t.Context(), "shop", api.FailoverOrder{Force: true})
		}, "Replica.Run"},
		"failback": {func(w *world) { planned(w, "", ""); w.done(w.engine.Commit(w.t.Context(), "shop")) }, "home", func(w *world) (api.Job, error) {
			return w.engine.Failback(w.t.Context(), "shop")
		}, "Power.Start"},
	} {
		t.Run(name, func(t *testing.T) {
			in(t, func(t *testing.T, w *world) {
				vm := w.machine("web")
				w.machine2("db")
				require.NoError(t, w.home.SetAutostart(vm, true))
				g := w.protect(spec("shop", "web", "db"))
				c.before(w)
				from, to, source := w.home, w.away, vm
				if c.host == "home" {
					from, to, source = w.away, w.home, g.Members[0].TargetVM
				}
				w.faults[c.host].QueueNth(c.last, 2, hypervisortest.After, func(context.Context) error {
					to.SetReachable(false)
					return hypervisors.ErrUnreachable
				})
				j, err := c.order(w)
				require.NoError(t, err)
				for !w.ended(j.ID) { // the pauses between the tries are longer than anybody else waits
					time.Sleep(time.Second)
				}
				j = w.wait(j.ID)
				require.Equal(t, api.JobFailed, j.State)
				require.Contains(t, j.Error, "machine web stays off on")
				to.SetReachable(true)
				w.neverBoth(g)
				require.False(t, w.running(from, source))
				require.False(t, w.autostart(from, source), "and with its host, later")
				// What the hint says.
				for _, m := range g.Members {
					for _, id := range []string{m.SourceVM, m.TargetVM} {
						if w.running(to, id) {
							require.NoError(t, to.Stop(id))
						}
					}
				}
				require.NoError(t, from.Start(source))
				w.done(w.engine.SyncNow(t.Context(), "shop")) // protection goes on
			})
		})
	}
}

// TestChecksThatCannotBeMade do not undo a failover: the host that does not answer now may run the machines well.
func TestChecksThatCannotBeMade(t *testing.T) {
	w := newWorld(t)
	vm := w.machine("web")
	g := w.protect(spec("shop", "web"))
	w.faults["away"].Queue("Host.VM", hypervisortest.Before, hypervisortest.Fail(hypervisors.ErrUnreachable))
	w.done(w.engine.Failover(t.Context(), "shop", api.FailoverOrder{Planned: true}))
	require.Contains(t, w.group("shop").Problem, "started, but web: ")
	require.True(t, w.running(w.away, g.Members[0].TargetVM))
	require.False(t, w.running(w.home, vm))
}

// TestRollbackStartsWhatWeTurnedOff, and nothing that was off before.
func TestRollbackStartsWhatWeTurnedOff(t *testing.T) {
	for name, o := range map[string]api.FailoverOrder{"planned": {Planned: true}, "forced": {Force: true}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			vm, db := w.machine("web"), w.machine2("db")
			w.protect(spec("shop", "web", "db"))
			for _, off := range []string{"", vm, db} {
				for _, m := range []string{vm, db} {
					require.NoError(t, w.home.Start(m))
				}
				if off != "" {
					require.NoError(t, w.home.Stop(off))
				}
				w.done(w.engine.Failover(t.Context(), "shop", o))
				w.done(w.engine.Rollback(t.Context(), "shop"))
				require.Equal(t, off != vm, w.running(w.home, vm))
				require.Equal(t, off != db, w.running(w.home, db))
			}
		})
	}
}
