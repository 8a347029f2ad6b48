package replication_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
)

// The schedule starts a cycle just when a failover is ordered: the cycle gives way, however far its submission is.
func TestOrderMeetsACycleThatIsBeingSubmitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.machine("web")
		w.protect(spec("shop", "web"))
		write := make(chan struct{})
		w.kill = func(kind, _, phase string) {
			if kind == "cycle" && phase == "before submit" {
				<-write
			}
		}
		w.pass(time.Minute)
		go w.engine.Tick(t.Context())
		synctest.Wait()
		var failover api.Job
		var err error
		go func() { failover, err = w.engine.Failover(t.Context(), "shop", api.FailoverOrder{Planned: true}) }()
		synctest.Wait()
		close(write)
		synctest.Wait()
		w.done(failover, err)
		require.Equal(t, api.StateFailedOver, w.group("shop").State)
		jobs := w.jobs("shop", 2)
		require.Equal(t, api.JobCancelled, jobs[1].State)
	})
}

// Who orders a cycle while the first mirror runs must not start that again from nothing.
func TestMirrorDoesNotGiveWayToItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.machine("web")
		copied := make(chan struct{})
		w.kill = func(kind, step, phase string) {
			if kind == "mirror" && step == "copy" && phase == "before do" {
				<-copied
			}
		}
		g, err := w.engine.CreateGroup(t.Context(), spec("shop", "web"))
		require.NoError(t, err)
		synctest.Wait()
		_, err = w.engine.SyncNow(t.Context(), "shop")
		w.refused(err, api.CodeConflict, "mirror")
		close(copied)
		w.done(api.Job{ID: g.Job}, nil)
	})
}

// What cannot be written down has not happened, for those who only look either.
func TestGroupIsAsBeforeWhenItCannotBeWritten(t *testing.T) {
	w := newWorld(t)
	w.machine("web")
	before := w.protect(spec("shop", "web"))
	policy := before.Policy
	policy.RPOSeconds *= 2
	w.cut()
	_, err := w.engine.UpdatePolicy(t.Context(), "shop", before.Revision, policy)
	require.Error(t, err)
	require.Equal(t, before.Policy, w.group("shop").Policy)
	w.restart()
	require.Equal(t, before.Policy, w.group("shop").Policy)
}
