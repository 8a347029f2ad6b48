package replication_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/hypervisors"
	"understudy/hypervisors/hypervisortest"
)

// cancelled cancels what the group works on.
func (w *world) cancelled() {
	jobs, err := w.engine.ListJobs(w.t.Context(), "shop", 1)
	if err == nil {
		_, err = w.engine.CancelJob(w.t.Context(), jobs[0].ID)
	}
	if err != nil {
		panic(err)
	}
}

// TestFindingsOutliveErrors: what was found is acted on, although the disks cannot be read to their end.
func TestFindingsOutliveErrors(t *testing.T) {
	for name, order := range map[string]func(w *world) (api.Job, error){
		"verify":              func(w *world) (api.Job, error) { return w.engine.Verify(w.t.Context(), "shop") },
		"every cycle":         func(w *world) (api.Job, error) { return w.engine.SyncNow(w.t.Context(), "shop") },
		"cancelled meanwhile": func(w *world) (api.Job, error) { return w.engine.SyncNow(w.t.Context(), "shop") },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.machine("web")
			g, points := w.quiet("web")
			if name != "verify" {
				p := w.group("shop").Policy
				p.VerifyCycles = true
				_, err := w.engine.UpdatePolicy(t.Context(), "shop", g.Revision, p)
				require.NoError(t, err)
			}
			require.NoError(t, w.away.Rot(g.Members[0].ReplicaID, points[2].ID, "vda", 0, []byte("rot")))
			w.faults["home"].Each(func(_ context.Context, call hypervisortest.Call, when hypervisortest.When, subject string) error {
				if call != "FrozenDisk.ReadAt" || !strings.Contains(subject, "vdb") {
					return nil
				}
				if name == "cancelled meanwhile" && when == hypervisortest.Before {
					w.cancelled()
				}
				return errors.New("bad sector")
			})
			j, err := order(w)
			require.NoError(t, err)
			j = w.wait(j.ID)
			require.NotEqual(t, api.JobSucceeded, j.State)
			w.faults["home"].Each(nil)
			require.Equal(t, ids(points, 0, 3), w.suspects(g))
			_, on := w.alerts(api.AlertMismatch)
			require.True(t, on)
		})
	}
}

// TestFindingsOutliveCancelling: a failover interrupts a verification that has found something and not yet marked it.
// It must not take a point that is known to be wrong.
func TestFindingsOutliveCancelling(t *testing.T) {
	for name, prepare := range map[string]func(w *world){
		"before it is acted on": func(w *world) {
			w.kill = func(kind, step, phase string) {
				if kind == "verify" && step == "compare" && phase == "after do" {
					w.cancelled()
				}
			}
		},
		"while it is acted on": func(w *world) {
			w.faults["away"].Queue("Replica.Open", hypervisortest.Before, func(ctx context.Context) error { w.cancelled(); return ctx.Err() })
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.machine("web")
			g, _ := w.quiet("web")
			require.NoError(t, w.home.Guest(g.Members[0].SourceVM).Write("vda", 6*mib, []byte("new")))
			w.done(w.engine.SyncNow(t.Context(), "shop"))
			points := w.points("shop")
			require.NoError(t, w.away.Rot(g.Members[0].ReplicaID, points[3].ID, "vda", 6*mib, []byte("rot")))
			prepare(w)
			j, err := w.engine.Verify(t.Context(), "shop")
			require.NoError(t, err)
			require.Equal(t, api.JobCancelled, w.wait(j.ID).State)
			w.kill = nil
			require.Equal(t, ids(points, 3, 4), w.suspects(g))
			require.Equal(t, ids(points, 3, 4), w.group("shop").Verification.Suspect)
			_, on := w.alerts(api.AlertMismatch)
			require.True(t, on)
			w.done(w.engine.Failover(t.Context(), "shop", api.FailoverOrder{Force: true}))
			status, err := w.replica(g, 0).Status(t.Context())
			require.NoError(t, err)
			require.Equal(t, points[2].ID, status.Runs[0].Point)
		})
	}
}

// TestMarksThatTheTargetDoesNotTake hold nobody up: the record has them, and the next cycle tells the target.
func TestMarksThatTheTargetDoesNotTake(t *testing.T) {
	w := newWorld(t)
	w.machine("web")
	g, points := w.quiet("web")
	require.NoError(t, w.away.Rot(g.Members[0].ReplicaID, points[0].ID, "vda", 0, []byte("rot")))
	w.faults["away"].Queue("Replica.Mark", hypervisortest.Before, hypervisortest.Fail(hypervisors.ErrUnreachable))
	_, v := w.failedVerify()
	require.Equal(t, "repaired", v.State)
	require.Equal(t, ids(points, 0, 3), w.suspects(g), "the repair has told it")
}
