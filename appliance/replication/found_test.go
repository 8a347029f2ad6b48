package replication_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/hypervisors"
	"understudy/hypervisors/hypervisortest"
	"understudy/snapshot"
)

// cancelled cancels what the group works on.
func (w *world) cancelled() {
	jobs, err := w.engine.ListJobs(w.t.Context(), api.JobQuery{Group: "shop", Paging: api.Paging{Limit: 1}})
	if err == nil {
		_, err = w.engine.CancelJob(w.t.Context(), jobs.Items[0].ID)
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

// TestFailoverWithoutAPointThatIsRight: that all points are wrong is found by what the order interrupts. It is refused.
func TestFailoverWithoutAPointThatIsRight(t *testing.T) {
	w := newWorld(t)
	w.machine("web")
	g, points := w.quiet("web")
	require.NoError(t, w.away.Rot(g.Members[0].ReplicaID, points[0].ID, "vda", 0, []byte("rot")))
	found, cancelled := make(chan struct{}), make(chan struct{})
	w.kill = func(kind, step, phase string) {
		switch kind + " " + step + " " + phase {
		case "verify compare after do":
			close(found)
			<-cancelled
		case "verify compare after cancel":
			close(cancelled)
		}
	}
	_, err := w.engine.Verify(t.Context(), "shop")
	require.NoError(t, err)
	<-found
	_, err = w.engine.Failover(t.Context(), "shop", api.FailoverOrder{Force: true})
	w.refused(err, api.CodeConflict, "suspect")
	require.Equal(t, api.StateProtected, w.group("shop").State)
	require.True(t, w.running(w.home, g.Members[0].SourceVM))
}

// TestSuspectPointsCountForNothing: retention keeps as many good ones as it would without them.
func TestSuspectPointsCountForNothing(t *testing.T) {
	w := newWorld(t)
	vm := w.machine("web")
	g, points := w.quiet("web")
	p := w.group("shop").Policy
	p.Retention = []api.RetentionTier{{Count: 2}}
	_, err := w.engine.UpdatePolicy(t.Context(), "shop", g.Revision, p)
	require.NoError(t, err)
	for _, bad := range points[1:] {
		require.NoError(t, w.replica(g, 0).Mark(t.Context(), bad.ID, "rot"))
	}
	var made []string
	for _, want := range [][]string{{points[0].ID, points[2].ID}, nil} {
		w.write(w.home, vm, 3)
		w.done(w.engine.SyncNow(t.Context(), "shop"))
		now := w.points("shop")
		made = append(made, now[len(now)-1].ID)
		require.Equal(t, append(want, made...), ids(now, 0, len(now)))
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

// TestPointsThatCannotBeExamined: damage at the target asks nobody when a point was last read in full, so that what
// cannot be examined is suspect too, and hides nothing of the others.
func TestPointsThatCannotBeExamined(t *testing.T) {
	for name, c := range map[string]struct {
		unread  func(point string, points []api.Point) bool
		suspect []int // of four points, of which the last has the damage
	}{
		"all but damaged ones": {func(string, []api.Point) bool { return false }, []int{3}},
		"one":                  {func(p string, points []api.Point) bool { return p == points[1].ID }, []int{1, 3}},
		"none":                 {func(string, []api.Point) bool { return true }, []int{0, 1, 2, 3}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			vm := w.machine("web")
			g := w.protect(spec("shop", "web")) // each cycle is verified
			for range 3 {
				require.NoError(t, w.home.Guest(vm).Write("vda", 6*mib, fmt.Append(nil, len(w.points("shop")))))
				w.done(w.engine.SyncNow(t.Context(), "shop"))
			}
			points := w.points("shop")
			require.NoError(t, w.away.Rot(g.Members[0].ReplicaID, points[3].ID, "vda", 6*mib+100, []byte("rot")))
			w.faults["away"].Each(func(_ context.Context, call hypervisortest.Call, when hypervisortest.When, subject string) error {
				if _, point, _ := strings.Cut(subject, " "); call == "Replica.Open" && c.unread(point, points) {
					return errors.New("the header is broken")
				}
				return nil
			})
			j, err := w.engine.SyncNow(t.Context(), "shop")
			require.NoError(t, err)
			require.Equal(t, api.JobFailed, w.wait(j.ID).State)
			want := []string{}
			for _, n := range c.suspect {
				want = append(want, points[n].ID)
			}
			require.Equal(t, want, w.suspects(g))
			w.faults["away"].Each(nil)
			w.done(w.engine.SyncNow(t.Context(), "shop"))
			w.sameAtTarget(g, vm)
		})
	}
}

// TestUnreadableBlock: the storage of the target does not give back a block any more. That is damage like any other: it is
// found, the points that hold it are marked, and the block is written anew.
func TestUnreadableBlock(t *testing.T) {
	for name, order := range map[string]func(w *world) (api.Job, error){
		"verify":      func(w *world) (api.Job, error) { return w.engine.Verify(w.t.Context(), "shop") },
		"every cycle": func(w *world) (api.Job, error) { return w.engine.SyncNow(w.t.Context(), "shop") },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			vm := w.machine("web")
			g, points := w.quiet("web")
			if name != "verify" {
				p := w.group("shop").Policy
				p.VerifyCycles = true
				_, err := w.engine.UpdatePolicy(t.Context(), "shop", g.Revision, p)
				require.NoError(t, err)
			}
			bad := badBlock{disk: "vda", chunk: 6 * mib}
			w.faults["away"].Each(bad.befall)
			j, err := order(w)
			require.NoError(t, err)
			j = w.wait(j.ID)
			require.Equal(t, api.JobFailed, j.State)
			require.Contains(t, j.Error, "65536 bytes in all, 65536 of them changed at the target", "its neighbours are well")
			if name != "verify" {
				w.done(w.engine.SyncNow(t.Context(), "shop"))
			}
			require.True(t, bad.written.Load())
			require.Subset(t, w.suspects(g), ids(points, 0, 3))
			now := w.points("shop")
			require.Empty(t, now[len(now)-1].Suspect)
			w.sameAtTarget(g, vm)
			w.done(w.engine.SyncNow(t.Context(), "shop"))
		})
	}
}

// TestUnreadableMap: the storage of the target does not give back a part of a block map any more. The disk's own bytes are
// well, and the next cycle finds out from them what the map said.
func TestUnreadableMap(t *testing.T) {
	for name, order := range map[string]func(w *world) (api.Job, error){
		"verify": func(w *world) (api.Job, error) { return w.engine.Verify(w.t.Context(), "shop") },
		"cycle":  func(w *world) (api.Job, error) { return w.engine.SyncNow(w.t.Context(), "shop") },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			vm := w.machine("web")
			g, points := w.quiet("web")
			w.write(w.home, vm, 5)
			var mended atomic.Bool
			w.faults["away"].Each(func(_ context.Context, call hypervisortest.Call, _ hypervisortest.When, subject string) error {
				switch {
				case call == "DraftMap.Zero" && strings.Contains(subject, " vda "):
					mended.Store(true)
				case call == "DraftMap.ReadAt" && strings.Contains(subject, " vda ") && !mended.Load():
					return fmt.Errorf("bad sector: %w", syscall.EIO)
				}
				return nil
			})
			j, err := order(w)
			require.NoError(t, err)
			j = w.wait(j.ID)
			require.Equal(t, api.JobFailed, j.State)
			require.Contains(t, j.Error, "block map cannot be read")
			w.done(w.engine.SyncNow(t.Context(), "shop"))
			now := w.points("shop")
			require.Equal(t, "difference", now[len(now)-1].Kind)
			w.sameAtTarget(g, vm)
			require.Empty(t, w.suspects(g))
			require.Greater(t, len(now), len(points))
			w.done(w.engine.Verify(t.Context(), "shop"))
		})
	}
}

// badBlock is the second of a chunk. It cannot be read below a draft, nor in a point that was made before, until it is
// written anew.
type badBlock struct {
	disk    string
	chunk   int64
	written atomic.Bool
	once    atomic.Bool // the chunk was read as a whole, and comes again in blocks
}

func (b *badBlock) befall(_ context.Context, call hypervisortest.Call, when hypervisortest.When, subject string) error {
	words := strings.Fields(subject)
	if len(words) != 3 || words[1] != b.disk || when != hypervisortest.Before {
		return nil
	}
	var off int64
	if _, err := fmt.Sscan(words[2], &off); err != nil {
		return err
	}
	block := b.chunk + snapshot.BlockSize
	switch {
	case call == "DraftDisk.WriteAt" || call == "DraftDisk.Zero":
		if off == block {
			b.written.Store(true)
		}
	case call == "PointDisk.ReadAt" && off == block,
		call == "DraftDisk.ReadAt" && !b.written.Load() && (off == block || off == b.chunk && b.once.CompareAndSwap(false, true)):
		return fmt.Errorf("bad block: %w", syscall.EIO)
	case call == "DraftDisk.ReadAt" && off == b.chunk:
		b.once.Store(false)
	}
	return nil
}
