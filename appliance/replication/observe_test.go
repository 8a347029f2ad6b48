package replication_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/hypervisors/fake"
	"understudy/hypervisors/hypervisortest"
)

// hostAlerts are the actions of a kind of alert about a host, in order, and whether it is on now.
func (w *world) hostAlerts(kind, host string) (actions []string, on bool) {
	w.t.Helper()
	for _, e := range w.events() {
		if e.Kind == "alert" && e.Subject == kind && e.Alert.HostName == host {
			actions = append(actions, e.Action)
		}
	}
	all, err := w.engine.ListAlerts(w.t.Context(), nil)
	require.NoError(w.t, err)
	for _, a := range all {
		on = on || a.Kind == kind && a.HostName == host
	}
	return actions, on
}

// one expects that an alert of the group began, or began and ended, exactly once.
func (w *world) one(kind string, on bool) {
	w.t.Helper()
	actions, is := w.alerts(kind)
	want := []string{"created"}
	if !on {
		want = append(want, "deleted")
	}
	require.Equal(w.t, want, actions)
	require.Equal(w.t, on, is)
}

// TestMissedTarget: an outage is one alert, over restarts, and until the target is surely met again.
func TestMissedTarget(t *testing.T) {
	w := newWorld(t)
	vm := w.machine("web")
	w.protect(spec("shop", "web")) // a target of 10 s
	w.engine.Observe(t.Context())
	actions, _ := w.alerts(api.AlertRPOMissed)
	require.Empty(t, actions)
	require.Equal(t, api.HealthMet, w.group("shop").Health)

	w.pass(8 * time.Second)
	w.engine.Observe(t.Context())
	require.Equal(t, api.HealthAtRisk, w.group("shop").Health)
	actions, _ = w.alerts(api.AlertRPOMissed)
	require.Empty(t, actions, "at risk is not missed")

	w.pass(3 * time.Second)
	w.engine.Observe(t.Context())
	w.pass(time.Minute)
	w.engine.Observe(t.Context())
	w.one(api.AlertRPOMissed, true)
	require.Equal(t, api.HealthMissed, w.group("shop").Health)
	w.restart()
	w.engine.Observe(t.Context())
	w.one(api.AlertRPOMissed, true)

	w.cycles(vm, 1) // the point that ends the outage
	w.engine.Observe(t.Context())
	w.one(api.AlertRPOMissed, true)
	w.cycles(vm, 1) // the next one was in time
	w.engine.Observe(t.Context())
	w.one(api.AlertRPOMissed, false)
	w.engine.Observe(t.Context())
	w.one(api.AlertRPOMissed, false)
}

// TestAlwaysLate: cycles that are late every time are one alert, and not one each.
func TestAlwaysLate(t *testing.T) {
	w := newWorld(t)
	w.machine("web")
	w.protect(spec("shop", "web"))
	w.faults["away"].Each(func(_ context.Context, call hypervisortest.Call, when hypervisortest.When, _ string) error {
		for range 8 {
			if call == "Draft.Commit" && when == hypervisortest.Before {
				w.pass(time.Second)
				w.engine.Observe(t.Context())
			}
		}
		return nil
	})
	for n := range 6 { // each takes 8 s: the newest point is 8 s old when it is made, and 16 s when the next one is
		w.done(w.engine.SyncNow(t.Context(), "shop"))
		w.engine.Observe(t.Context())
		if n > 0 {
			w.one(api.AlertRPOMissed, true)
			require.Equal(t, api.HealthAtRisk, w.group("shop").Health)
		}
	}
	w.faults["away"].Each(nil)
	w.done(w.engine.SyncNow(t.Context(), "shop")) // quickly
	w.engine.Observe(t.Context())
	w.one(api.AlertRPOMissed, false)
}

// TestNothingIsPromised: who pauses a group, or fails it over, knows that it gets no points.
func TestNothingIsPromised(t *testing.T) {
	w := newWorld(t)
	w.machine("web")
	w.protect(spec("shop", "web"))
	_, err := w.engine.Pause(t.Context(), "shop")
	require.NoError(t, err)
	w.pass(time.Hour)
	w.engine.Observe(t.Context())
	g := w.group("shop")
	require.Equal(t, api.HealthOff, g.Health)
	require.NotEmpty(t, g.HealthReason)
	require.Empty(t, g.Alerts)
	_, err = w.engine.Resume(t.Context(), "shop")
	require.NoError(t, err)
	w.engine.Observe(t.Context())
	w.one(api.AlertRPOMissed, true)
	w.done(w.engine.Failover(t.Context(), "shop", api.FailoverOrder{Force: true}))
	w.engine.Observe(t.Context())
	w.one(api.AlertRPOMissed, false)
}

// TestFailingCycles: three in a row.
func TestFailingCycles(t *testing.T) {
	w := newWorld(t)
	vm := w.machine("web")
	w.protect(spec("shop", "web"))
	for n := range 4 {
		w.faults["home"].Queue("Source.Checkpoint", hypervisortest.Before, hypervisortest.Fail(errors.New("no snapshot today")))
		job, err := w.engine.SyncNow(t.Context(), "shop")
		require.NoError(t, err)
		require.Equal(t, api.JobFailed, w.wait(job.ID).State)
		w.engine.Observe(t.Context())
		actions, on := w.alerts(api.AlertCycleFailing)
		require.Equal(t, n >= 2, on)
		require.Equal(t, n >= 2, len(actions) == 1)
	}
	require.Contains(t, w.group("shop").Alerts[0].Message, "no snapshot today")
	w.cycles(vm, 1)
	w.engine.Observe(t.Context())
	w.one(api.AlertCycleFailing, false)
}

// TestHealthIsTold: what only time has changed is an event, too.
func TestHealthIsTold(t *testing.T) {
	w := newWorld(t)
	w.machine("web")
	g := w.protect(spec("shop", "web"))
	w.engine.Observe(t.Context())
	told := func() (n int) {
		for _, e := range w.events() {
			if e.Kind == "group" && e.Subject == g.ID && e.Action == "updated" {
				n++
			}
		}
		return n
	}
	before := told()
	w.engine.Observe(t.Context())
	require.Equal(t, before, told())
	w.pass(8 * time.Second)
	w.engine.Observe(t.Context())
	w.engine.Observe(t.Context())
	require.Equal(t, before+1, told())
}

// TestHostDown: two looks that fail, and two that do not.
func TestHostDown(t *testing.T) {
	w := newWorld(t)
	look := func(reachable bool) bool {
		w.away.SetReachable(reachable)
		w.engine.Look(t.Context())
		_, on := w.hostAlerts(api.AlertHostDown, "away")
		return on
	}
	connected := func() bool {
		h, err := w.engine.GetHost(t.Context(), "away")
		require.NoError(t, err)
		return h.Connected
	}
	require.False(t, look(true))
	require.False(t, look(false), "one look is none")
	require.False(t, connected(), "but it is shown at once")
	require.False(t, look(true))
	require.True(t, connected())
	require.False(t, look(false))
	require.True(t, look(false))
	w.restart()
	require.True(t, look(false))
	require.True(t, look(false))
	require.True(t, look(true))
	require.True(t, look(false), "it comes and goes: still one alert")
	require.True(t, look(true))
	require.False(t, look(true))
	actions, _ := w.hostAlerts(api.AlertHostDown, "away")
	require.Equal(t, []string{"created", "deleted"}, actions)
	actions, on := w.hostAlerts(api.AlertHostDown, "home")
	require.Empty(t, actions)
	require.False(t, on)

	look(false)
	require.True(t, look(false))
	require.NoError(t, w.engine.RemoveHost(t.Context(), "away"))
	actions, on = w.hostAlerts(api.AlertHostDown, "away")
	require.Equal(t, []string{"created", "deleted", "created", "deleted"}, actions, "what is removed is not down")
	require.False(t, on)
}

// TestLookAfterLook: a question that has been answered is no longer being asked.
func TestLookAfterLook(t *testing.T) {
	w := newWorld(t)
	for range 2000 {
		w.engine.Look(t.Context())
		hosts, err := w.engine.ListHosts(t.Context())
		require.NoError(t, err)
		for _, h := range hosts {
			require.True(t, h.Connected, h.Problem)
		}
	}
}

// TestHostThatHangs delays nobody, and is down.
func TestHostThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.faults["away"].Queue("Host.Storage", hypervisortest.Before, hypervisortest.Hang)
		start := time.Now()
		w.engine.Look(t.Context())
		require.Equal(t, 30*time.Second, time.Since(start), "the look is given up, whatever the driver does")
		w.engine.Look(t.Context())
		require.Equal(t, 30*time.Second, time.Since(start), "a second question is not asked while the first one hangs")
		_, on := w.hostAlerts(api.AlertHostDown, "away")
		require.True(t, on)
		_, on = w.hostAlerts(api.AlertHostDown, "home")
		require.False(t, on)
		hosts, err := w.engine.ListHosts(t.Context())
		require.NoError(t, err)
		require.False(t, hosts[0].Connected)
		require.True(t, hosts[1].Connected)
		require.Equal(t, 30*time.Second, time.Since(start), "who looks at the list waits for no host")
		w.away.BreakConnections()
	})
}

// used is how much of the default storage is used.
func (w *world) used(hv *fake.Hypervisor) int64 {
	storages, err := hv.Connect("observer").Storage(w.t.Context())
	require.NoError(w.t, err)
	return storages[0].Total - storages[0].Free
}

// TestStorageLow: of storages with replicas, with room between beginning and end.
func TestStorageLow(t *testing.T) {
	w := newWorld(t)
	w.machine("web")
	storages, err := w.away.Connect("observer").Storage(t.Context())
	require.NoError(t, err)
	s := storages[0]
	free := func(percent int64) bool {
		used := w.used(w.away)
		require.NoError(t, w.away.SetFree(s.Name, used*percent/(100-percent)))
		w.engine.Look(t.Context())
		_, on := w.hostAlerts(api.AlertStorageLow, "away")
		return on
	}
	require.NoError(t, w.away.SetFree(s.Name, 0))
	w.engine.Look(t.Context())
	_, on := w.hostAlerts(api.AlertStorageLow, "away")
	require.False(t, on, "there is no replica yet")
	require.NoError(t, w.away.SetFree(s.Name, s.Free))
	w.protect(spec("shop", "web"))
	require.False(t, free(11))
	require.True(t, free(9))
	require.True(t, free(11), "not yet enough")
	w.restart()
	require.True(t, free(11))
	require.False(t, free(13))
	require.False(t, free(11))
	actions, _ := w.hostAlerts(api.AlertStorageLow, "away")
	require.Equal(t, []string{"created", "deleted"}, actions)

	o, err := w.engine.Overview(t.Context(), nil)
	require.NoError(t, err)
	require.Len(t, o.Storage, 1)
	require.InDelta(t, 0.11, float64(o.Storage[0].Free)/float64(o.Storage[0].Total), 0.001)
	require.Equal(t, 1, o.Storage[0].Replicas)
	require.False(t, o.Storage[0].Seen.IsZero())
}

// TestRemovedGroupEndsItsAlerts.
func TestRemovedGroupEndsItsAlerts(t *testing.T) {
	w := newWorld(t)
	w.machine("web")
	w.protect(spec("shop", "web"))
	w.pass(time.Hour)
	w.engine.Observe(t.Context())
	w.one(api.AlertRPOMissed, true)
	w.done(w.engine.RemoveGroup(t.Context(), "shop", true))
	var actions []string
	for _, e := range w.events() {
		if e.Kind == "alert" {
			require.Equal(t, api.SeverityCritical, e.Alert.Severity)
			require.Equal(t, "shop", e.Alert.GroupName)
			actions = append(actions, e.Action)
		}
	}
	require.Equal(t, []string{"created", "deleted"}, actions)
}
