package replication_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/appliance/replication"
	"understudy/appliance/store"
)

// configuration is what a backup has of groups and hosts.
func (w *world) configuration() map[string]map[string]json.RawMessage {
	w.t.Helper()
	all := map[string]map[string]json.RawMessage{"groups": {}, "hosts": {}, "system": {}}
	for bucket, values := range all {
		require.NoError(w.t, w.db.Each(bucket, func(key string, decode func(any) error) error {
			var value json.RawMessage
			err := decode(&value)
			values[key] = value
			return err
		}))
	}
	return all
}

// restore brings a configuration back, as the start after a restore does.
func (w *world) restore(from map[string]map[string]json.RawMessage) {
	w.t.Helper()
	w.stop()
	replace := map[string]map[string]json.RawMessage{"groups": {}, "hosts": {}, "system": from["system"]}
	var err error
	for key, value := range from["groups"] {
		replace["groups"][key], err = replication.RestoredGroup(value, w.clock())
		require.NoError(w.t, err)
	}
	for key, value := range from["hosts"] {
		replace["hosts"][key], err = replication.RestoredHost(value, w.clock())
		require.NoError(w.t, err)
	}
	db, err := store.Open(w.path)
	require.NoError(w.t, err)
	require.NoError(w.t, db.Exchange("restore", replace, []string{"jobs"}))
	require.NoError(w.t, db.Close())
	w.start()
	w.waits("shop")
}

// waits expects a group that came back to take no order, and to be judged by nobody.
func (w *world) waits(group string) {
	w.t.Helper()
	ctx := w.t.Context()
	w.engine.Guard(ctx)
	w.pass(1 << 40)
	w.engine.Tick(ctx)
	g := w.group(group)
	require.True(w.t, g.Paused)
	require.Len(w.t, g.Alerts, 1)
	require.Equal(w.t, api.AlertRestored, g.Alerts[0].Kind)
	require.NotEmpty(w.t, g.Alerts[0].Hint)
	require.Empty(w.t, w.jobs(group, 10))
	_, err := w.engine.SyncNow(ctx, group)
	w.refused(err, api.CodeConflict, "restored")
	_, err = w.engine.Failover(ctx, group, api.FailoverOrder{})
	w.refused(err, api.CodeConflict, "restored")
	_, err = w.engine.Fence(ctx, group)
	w.refused(err, api.CodeConflict, "restored")
	_, err = w.engine.RemoveGroup(ctx, group, true)
	w.refused(err, api.CodeConflict, "restored")
}

func (w *world) resume(group string) api.Group {
	w.t.Helper()
	g, err := w.engine.Resume(w.t.Context(), group)
	require.NoError(w.t, err)
	require.False(w.t, g.Paused)
	w.engine.Guard(w.t.Context())
	g = w.group(group)
	require.Empty(w.t, g.Alerts)
	return g
}

// What was replicated since the backup is found at the target, and the next cycle is right.
func TestRestoredGroupFindsItsPoints(t *testing.T) {
	w := newWorld(t)
	vm := w.machine("web")
	g := w.protect(spec("shop", "web"))
	backup := w.configuration()
	for range 3 {
		w.write(w.home, vm, 20)
		w.done(w.engine.SyncNow(t.Context(), "shop"))
	}
	want := w.points("shop")
	_, err := w.engine.UpdatePolicy(t.Context(), "shop", w.group("shop").Revision, api.Policy{RPOSeconds: 3600})
	require.NoError(t, err)
	w.restore(backup)
	require.Equal(t, 10, w.group("shop").Policy.RPOSeconds)

	// A host that is away leaves it waiting.
	w.away.SetReachable(false)
	_, err = w.engine.Resume(t.Context(), "shop")
	require.Error(t, err)
	require.True(t, w.group("shop").Paused)
	w.away.SetReachable(true)

	require.Equal(t, api.StateProtected, w.resume("shop").State)
	have := w.points("shop")
	require.Len(t, have, len(want))
	for i := range want {
		require.Equal(t, want[i].ID, have[i].ID)
		require.Equal(t, want[i].Machines, have[i].Machines)
	}
	w.write(w.home, vm, 10)
	w.done(w.engine.SyncNow(t.Context(), "shop"))
	points := w.points("shop")
	require.Equal(t, "difference", points[len(points)-1].Kind)
	w.sameAtTarget(g, vm)
	w.clean()
}

// Production moved to the target since the backup. It runs, or has crashed; either way nothing of it may be lost, and the
// source must not start beside it.
func TestRestoredGroupWasFailedOverSince(t *testing.T) {
	for name, crashed := range map[string]bool{"runs": false, "crashed": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			ctx := t.Context()
			vm := w.machine("web")
			g := w.protect(spec("shop", "web"))
			backup := w.configuration()
			w.done(w.engine.Failover(ctx, "shop", api.FailoverOrder{Planned: true}))
			w.done(w.engine.Commit(ctx, "shop"))
			live := g.Members[0].TargetVM
			last := w.write(w.away, live, 40)
			if crashed {
				require.NoError(t, w.away.Crash(live))
			}
			w.restore(backup)
			require.Equal(t, api.StateFailedOver, w.resume("shop").State)
			require.Equal(t, last, w.records(w.away, live))
			require.False(t, w.running(w.home, vm))
			require.Equal(t, !crashed, w.running(w.away, live))
			if crashed {
				require.NoError(t, w.away.Start(live))
			}
			w.done(w.engine.Commit(ctx, "shop"))
			w.done(w.engine.Failback(ctx, "shop"))
			w.neverBoth(g)
			require.Equal(t, last, w.records(w.home, vm))
			w.clean()
		})
	}
}

// The roles were swapped since the backup, or swapped back.
func TestRestoredGroupWasReversedSince(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	vm := w.machine("web")
	g := w.protect(spec("shop", "web"))
	atHome := w.configuration()
	w.done(w.engine.Failover(ctx, "shop", api.FailoverOrder{Planned: true}))
	failedOver := w.configuration()
	w.done(w.engine.Commit(ctx, "shop"))
	w.done(w.engine.Reprotect(ctx, "shop"))
	reversed := w.configuration()
	last := w.write(w.away, g.Members[0].TargetVM, 12)

	w.restore(atHome)
	r := w.resume("shop")
	require.Equal(t, api.StateProtected, r.State)
	require.True(t, r.Reversed)
	w.done(w.engine.SyncNow(ctx, "shop"))
	w.done(w.engine.Failback(ctx, "shop"))
	require.Equal(t, last, w.records(w.home, vm))

	for _, backup := range []map[string]map[string]json.RawMessage{reversed, failedOver} {
		w.restore(backup)
		r = w.resume("shop")
		require.Equal(t, api.StateProtected, r.State)
		require.False(t, r.Reversed)
		require.True(t, w.running(w.home, vm))
		w.write(w.home, vm, 3)
		w.done(w.engine.SyncNow(ctx, "shop"))
		w.sameAtTarget(g, vm)
	}
	w.neverBoth(g)
	w.clean()
}

// The replicas were deleted since: the first mirror makes them anew.
func TestRestoredGroupWasRemovedSince(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	vm := w.machine("web")
	w.protect(spec("shop", "web"))
	backup := w.configuration()
	w.done(w.engine.RemoveGroup(ctx, "shop", true))
	w.restore(backup)
	require.Equal(t, api.StateMirroring, w.resume("shop").State)
	w.done(w.engine.SyncNow(ctx, "shop"))
	w.sameAtTarget(w.group("shop"), vm)
}

func TestRestoredRecordsMustMakeSense(t *testing.T) {
	for _, text := range []string{`{}`, `[]`, `{"ID":"a"}`, `{"ID":5}`} {
		_, err := replication.RestoredGroup(json.RawMessage(text), time.Time{})
		require.Error(t, err, text)
		_, err = replication.RestoredHost(json.RawMessage(text), time.Time{})
		require.Error(t, err, text)
	}
}
