package replication_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/appliance/replication"
	"understudy/hypervisors"
	"understudy/hypervisors/hypervisortest"
)

// TestKillAtEveryStep kills the appliance before and after everything that a job persists and everything that it asks
// a host for, starts it again, and expects that the job ends as if nothing had happened. Every group has two machines,
// so that every order is cut between them too. What there is to be visited, the code says.
func TestKillAtEveryStep(t *testing.T) {
	visited := &visits{seen: map[string]bool{}}
	t.Run("orders", func(t *testing.T) {
		for name, s := range scenarios() {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				met := s.run(t, 0)
				require.Greater(t, len(met), 4)
				visited.add(met)
				for at := range kills(met) {
					s.run(t, at)
				}
			})
		}
	})
	for _, kind := range replication.Kinds() {
		for _, work := range kind.Work() {
			require.True(t, visited.seen[kind.Name+": "+work], "no scenario kills the appliance in %s of a job %s: add one", work, kind.Name)
		}
	}
}

// visits are the steps and undos in which the appliance is killed, here or, where the race detector leaves some out, by make moments.
type visits struct {
	mu   sync.Mutex
	seen map[string]bool
}

func (v *visits) add(met []moment) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, m := range met {
		if m.within() {
			v.seen[m.kind+": "+m.step] = true
		}
	}
}

// moment is where the appliance may be killed: a kill point of a job, or a call to a host while a step is at work.
type moment struct{ kind, step, phase string }

// within says that it is in the middle of a step or an undo.
func (m moment) within() bool { return strings.HasSuffix(m.phase, " do") }

// kills picks moments to try, counted from 1: about killsPerOrder of the hundreds of an order, unless KILL=all asks for
// each, and always one within every step and undo, or every so many of them (share).
func kills(met []moment) map[int]bool {
	stride := max(1, len(met)/killsPerOrder)
	if os.Getenv("KILL") == "all" {
		stride = 1
	}
	picked := map[int]bool{}
	for at := 1; at <= len(met); at += stride {
		picked[at] = true
	}
	for i, m := range met {
		if m.within() && i%share == 0 {
			picked[i+1] = true
		}
	}
	return picked
}

// run plays a scenario and kills the appliance at the n-th moment (0: never). It returns the moments that it met.
func (s scenario) run(t *testing.T, at int) []moment {
	w := newWorld(t)
	db := w.machine2("db") // first, so that the disks of web are read while those of db are
	vm := w.machine("web")
	p := spec("shop", "web", "db")
	p.Policy.VerifyCycles = false // halves the moments
	if s.shape != nil {
		s.shape(&p)
	}
	w.answers = true
	if !s.unprotected {
		w.protect(p)
	}
	if s.before != nil {
		s.before(w, vm, db)
	}
	watch := &watcher{w: w, kind: s.kind, at: at}
	w.kill = watch.killPoint
	w.scripts.hook = func() error {
		if watch.call(); w.dead.Load() {
			return errDead
		}
		return nil
	}
	for name, f := range w.faults {
		f.Each(func(_ context.Context, call hypervisortest.Call, when hypervisortest.When, subject string) error {
			watch.call()
			switch {
			case w.dead.Load():
				return hypervisors.ErrUnreachable
			case when == hypervisortest.Before && s.broken != nil && s.broken(name, string(call), subject):
				return errBroken
			}
			return nil
		})
	}
	job, err := s.order(w, t.Context())
	require.NoError(t, err)
	if at > 0 {
		require.Eventually(t, func() bool { return w.dead.Load() || w.ended(job.ID) }, waitFor, tick)
	}
	if at > 0 && w.dead.Load() {
		w.restart()
	}
	j := w.wait(job.ID)
	if s.found != "" {
		require.Equal(t, api.JobFailed, j.State, "killed at %d", at)
		require.Contains(t, j.Error, s.found, "killed at %d", at)
	} else if s.broken == nil {
		require.Equal(t, api.JobSucceeded, j.State, "killed at %d: step %s: %s", at, j.Step, j.Error)
	} else {
		require.Equal(t, api.JobFailed, j.State, "killed at %d: step %s: %s", at, j.Step, j.Error)
		require.Contains(t, j.Error, errBroken.Error(), "killed at %d", at)
		require.NotContains(t, j.Error, "not undone", "killed at %d", at)
	}
	met := watch.stop()
	for _, f := range w.faults {
		f.Each(nil)
	}
	w.scripts.hook = nil
	s.judge(w, at, vm, db)
	return met
}

// judge looks at the world after the job.
func (s scenario) judge(w *world, at int, vm, db string) {
	if s.state == "" {
		_, err := w.engine.GetGroup(w.t.Context(), "shop")
		w.refused(err, api.CodeNotFound, "shop")
		s.after(w, vm, db, api.Group{})
		return
	}
	g := w.group("shop")
	require.Equal(w.t, s.state, g.State, "killed at %d", at)
	w.neverBoth(g)
	if s.after != nil {
		s.after(w, vm, db, g)
	}
	w.clean()
}

var errBroken = errors.New("broken for good")

// watcher counts moments of a kind of job and cuts the appliance off at one of them.
type watcher struct {
	w    *world
	kind string
	at   int

	mu   sync.Mutex
	step string // at work; calls belong to it
	met  []moment
	over bool
}

func (c *watcher) killPoint(kind, step, phase string) {
	if kind != c.kind || phase == "before submit" || phase == "after submit" { // an order that was not accepted may be forgotten
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.step = step
	c.meet(moment{kind, step, phase})
}

// call is a call to a host, before or after.
func (c *watcher) call() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.met) > 0 { // not before the job
		c.meet(moment{c.kind, c.step, "call"})
	}
}

func (c *watcher) meet(m moment) {
	if c.over {
		return
	}
	if c.met = append(c.met, m); len(c.met) == c.at {
		c.w.cut()
	}
}

func (c *watcher) stop() []moment {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	return slices.Clone(c.met)
}

func (w *world) ended(job string) bool {
	j, err := w.engine.GetJob(w.t.Context(), job)
	if err == nil && w.answers && j.Waiting != nil {
		_, _ = w.engine.ConfirmJob(w.t.Context(), job, api.Confirmation{Prompt: j.Waiting.Prompt, Note: "done", By: "Ada"})
	}
	return err == nil && j.State.Ended()
}

// TestEveryOrderIsKilled: the scenarios know no kind that the code does not, and none is without.
func TestEveryOrderIsKilled(t *testing.T) {
	known, killed := map[string]bool{}, map[string]bool{}
	for _, k := range replication.Kinds() {
		known[k.Name] = true
	}
	for _, s := range scenarios() {
		killed[s.kind] = true
	}
	require.Equal(t, slices.Sorted(maps.Keys(known)), slices.Sorted(maps.Keys(killed)))
}
