package kvm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/hypervisors"
)

var errKilled = errors.New("killed by the test")

// mortal is a place as a process sees it that is killed at its nth command: this one is not done any more, or cut off in
// the middle, and none after it.
type mortal struct {
	place
	mu     sync.Mutex
	left   int // commands until death; negative: immortal
	midway bool
	dead   bool
}

// step counts a command. It returns errKilled for one that is not to be done.
func (m *mortal) step() (last bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return false, errKilled
	}
	if m.left < 0 {
		return false, nil
	}
	if m.left--; m.left < 0 {
		m.dead = true
		if !m.midway {
			return false, errKilled
		}
		return true, nil
	}
	return false, nil
}

func (m *mortal) Run(ctx context.Context, stdin io.Reader, argv ...string) ([]byte, error) {
	last, err := m.step()
	if err != nil {
		return nil, err
	}
	if last {
		if argv[0] == "qemu-img" && argv[1] == "commit" {
			// So slow that it is surely in the middle when it is killed.
			argv = append([]string{"timeout", "-s", "KILL", "0.3", "qemu-img", "commit", "-r", "262144"}, argv[2:]...)
		}
		_, _ = m.place.Run(ctx, stdin, argv...)
		return nil, errKilled // done, or half done, but nobody learns of it
	}
	return m.place.Run(ctx, stdin, argv...)
}

func (m *mortal) Start(ctx context.Context, argv ...string) (*process, error) {
	if last, err := m.step(); last || err != nil {
		return nil, errKilled
	}
	return m.place.Start(ctx, argv...)
}

func (m *mortal) Dial(ctx context.Context, path string) (net.Conn, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return nil, errKilled
	}
	return m.place.Dial(ctx, path)
}

// die does work again and again, with the process killed at another command each time, until it is done before that.
// After each death a new process takes over, and where it finds the replica, survive says whether all is well. Of the
// commands one in a few is tried, others each time the tests run; KILL=all tries each.
func (w *world) die(work func(r *replica) error, survive func(r *replica)) {
	w.t.Helper()
	every := 4
	if os.Getenv("KILL") == "all" {
		every = 1
	}
	for n, deaths := rand.IntN(every), 0; ; n += every {
		for _, midway := range []bool{false, true} {
			r := w.reopen()
			if r == nil {
				return
			}
			grave := &mortal{place: w.h.place, left: n, midway: midway}
			w.h.place = grave
			err := work(r)
			grave.mu.Lock()
			died := grave.dead
			grave.mu.Unlock()
			if !died {
				require.NoError(w.t, err)
				require.NotZero(w.t, deaths, "nobody was killed")
				if r := w.reopen(); r != nil {
					survive(r)
				}
				return
			}
			deaths++
			require.ErrorIs(w.t, err, errKilled, "a failed command must not pass for success (command %d)", n)
			if d := r.draft; d != nil && d.export != nil {
				require.NoError(w.t, d.export.proc.Stop(w.ctx)) // as its lifeline does
			}
			if r := w.reopen(); r != nil {
				survive(r)
			}
			if w.t.Failed() {
				w.t.Fatalf("killed at command %d, midway %v", n, midway)
			}
		}
	}
}

func TestKilledInDraftAndCommit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.create()
	w.mustAdd(r, "p1")
	n := 0
	w.die(func(r *replica) error {
		n++
		return w.add(r, w.request(fmt.Sprintf("q%d", n)))
	}, func(r *replica) {
		s, err := r.Status(w.ctx)
		require.NoError(t, err)
		if last := s.Points[len(s.Points)-1].ID; last != w.newest() {
			// It was committed although nobody learned of it. Its content is known to the dead only; all others count.
			require.Equal(t, fmt.Sprintf("q%d", n), last)
			require.NoError(t, r.Drop(w.ctx, last))
		}
		w.check(r)
	})
	r = w.reopen()
	w.mustAdd(r, "after")
	w.check(r)
	require.Equal(t, pointFiles(w.ids...), w.images(r))
}

func TestKilledInDrop(t *testing.T) {
	t.Parallel()
	for _, victim := range []int{0, 1, 3} {
		t.Run(fmt.Sprint(victim), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			r := w.create()
			w.mustAdd(r, "p1", "p2", "p3", "p4")
			next := 5
			w.die(func(r *replica) error {
				return r.Drop(w.ctx, w.ids[victim])
			}, func(r *replica) {
				s, err := r.Status(w.ctx)
				require.NoError(t, err)
				if len(s.Points) < len(w.ids) {
					w.forget(w.ids[victim])
				}
				w.check(r)
				if len(w.ids) == 4 {
					return // it died before anything happened
				}
				for len(w.ids) < 4 {
					w.mustAdd(r, fmt.Sprintf("p%d", next)) // which also finishes what was interrupted
					next++
				}
				w.check(r)
			})
			require.Equal(t, pointFiles(w.ids...), w.images(w.reopen()))
		})
	}
}

func TestKilledInSettle(t *testing.T) {
	t.Parallel()
	w := newAdopted(t, "raw")
	r := w.adopt()
	w.mustAdd(r, "p1", "p2", "p3")
	w.die(func(r *replica) error { return r.Settle(w.ctx) }, func(*replica) {})
	w.checkSettled("p3")
}

func TestKilledInDelete(t *testing.T) {
	t.Parallel()
	w := newAdopted(t, "qcow2")
	r := w.adopt()
	w.mustAdd(r, "p1", "p2")
	w.die(func(r *replica) error { return r.Delete(w.ctx) }, w.check)
	w.checkUntouched()
	require.Equal(t, w.before, virsh(t, testLab.Target, "dumpxml", "--inactive", w.spec.Hardware.Name))
}

func TestFailedCommandsAreErrors(t *testing.T) {
	w := newWorld(t)
	r := w.create()
	w.h.place = &mortal{place: w.h.place, left: 0}
	require.ErrorIs(t, r.Drop(w.ctx, "p1"), errKilled)
	_, err := r.Draft(w.ctx, hypervisors.DraftRequest{Point: "p1"})
	require.ErrorIs(t, err, errKilled)
}
