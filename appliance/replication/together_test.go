package replication_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/hypervisors"
	"understudy/hypervisors/hypervisortest"
)

// atOnce is the engine's default.
const atOnce = 8

// crew makes groups of so many small machines each, protected, and gives the machines' ids.
func (w *world) crew(groups, machines int) (vms []string) {
	w.t.Helper()
	for g := range groups {
		s := api.GroupSpec{Name: fmt.Sprint("g", g), SourceHost: "home", TargetHost: "away", Policy: api.Policy{RPOSeconds: 3600}}
		for m := range machines {
			name := fmt.Sprintf("g%dm%d", g, m)
			vms = append(vms, w.machine2(name))
			s.Machines = append(s.Machines, api.GroupMachine{VM: name})
		}
		w.protect(s)
	}
	return vms
}

// crowd sees how many are inside at once. Nobody leaves before enough are, so work that is done one after the other never
// ends; and then they stay a moment longer, for one too many to be seen.
type crowd struct {
	mu           sync.Mutex
	inside, most int
	all          int
	full         sync.Once
	open         chan struct{}
}

func newCrowd() *crowd { return &crowd{open: make(chan struct{})} }

func (c *crowd) visit(ctx context.Context) error {
	c.mu.Lock()
	c.all++
	c.inside++
	c.most = max(c.most, c.inside)
	if c.inside == atOnce {
		c.full.Do(func() { time.AfterFunc(100*time.Millisecond, func() { close(c.open) }) })
	}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.inside--
		c.mu.Unlock()
	}()
	select {
	case <-c.open:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Machines start several at once and never more than that on one host, whatever group they belong to; and nobody starts
// before every machine that is to be replaced is off.
func TestStartsAreTogetherAndBounded(t *testing.T) {
	w := newWorld(t)
	vms := w.crew(2, 6)
	starts, fences := newCrowd(), newCrowd()
	for range vms {
		w.faults["home"].Queue("Power.Stop", hypervisortest.Before, fences.visit)
		w.faults["away"].Queue("Replica.Run", hypervisortest.Before, starts.visit)
	}
	var orders []api.Job
	for _, group := range []string{"g0", "g1"} {
		job, err := w.engine.Failover(t.Context(), group, api.FailoverOrder{Force: true})
		require.NoError(t, err)
		orders = append(orders, job)
	}
	for _, job := range orders {
		require.Equal(t, api.JobSucceeded, w.wait(job.ID).State)
	}
	for _, c := range []*crowd{starts, fences} {
		require.Equal(t, len(vms), c.all)
		require.Equal(t, atOnce, c.most)
	}
	for _, group := range []string{"g0", "g1"} {
		w.neverBoth(w.group(group))
		w.done(w.engine.Rollback(t.Context(), group))
	}
}

func TestNobodyStartsBeforeAllAreOff(t *testing.T) {
	w := newWorld(t)
	vms := w.crew(1, 12)
	for range vms {
		w.faults["away"].Queue("Replica.Run", hypervisortest.Before, func(context.Context) error {
			for _, vm := range vms {
				if w.running(w.home, vm) {
					return fmt.Errorf("%s still runs at the source", vm)
				}
			}
			return nil
		})
	}
	w.done(w.engine.Failover(t.Context(), "g0", api.FailoverOrder{Force: true}))
}

// When one start fails, all that were begun are undone.
func TestAStartThatFailsUndoesTheOthers(t *testing.T) {
	w := newWorld(t)
	vms := w.crew(1, 12)
	for _, vm := range vms {
		require.NoError(t, w.home.Crash(vm))
	}
	broken := errors.New("broken")
	w.faults["away"].QueueNth("Replica.Run", 5, hypervisortest.After, hypervisortest.Fail(broken))
	job, err := w.engine.Failover(t.Context(), "g0", api.FailoverOrder{})
	require.NoError(t, err)
	job = w.wait(job.ID)
	require.Equal(t, api.JobFailed, job.State)
	require.Contains(t, job.Error, broken.Error())
	require.NotContains(t, job.Error, "not undone")
	g := w.group("g0")
	require.Equal(t, api.StateProtected, g.State)
	for _, m := range g.Members {
		require.False(t, w.running(w.away, m.TargetVM), "%s still runs", m.Name)
	}
	w.clean()
	w.done(w.engine.Failover(t.Context(), "g0", api.FailoverOrder{}))
}

// A host that died takes all its machines with it: however many they are, one moment is enough for it to be noticed.
func TestADeadHostIsNoticedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.stop()
		w.atOnce, w.noticeTime = 2, 10*time.Second
		w.start()
		vms := w.crew(1, 12)
		for _, vm := range vms {
			require.NoError(t, w.home.Crash(vm))
		}
		w.faults["home"].Each(func(_ context.Context, call hypervisortest.Call, _ hypervisortest.When, _ string) error {
			if call == "Host.VM" {
				return hypervisors.ErrUnreachable
			}
			return nil
		})
		began := time.Now()
		w.done(w.engine.Failover(t.Context(), "g0", api.FailoverOrder{}))
		require.Less(t, time.Since(began), 2*w.noticeTime)
	})
}

// The engine may be told to do one thing after the other.
func TestOneAtATime(t *testing.T) {
	w := newWorld(t)
	w.atOnce = 1
	w.restart()
	vms := w.crew(1, 4)
	var mu sync.Mutex
	inside, most, all := 0, 0, 0
	for range vms {
		w.faults["away"].Queue("Replica.Run", hypervisortest.Before, func(context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			all++
			inside++
			most = max(most, inside)
			return nil
		})
		w.faults["away"].Queue("Replica.Run", hypervisortest.After, func(context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			inside--
			return nil
		})
	}
	w.done(w.engine.Failover(t.Context(), "g0", api.FailoverOrder{Force: true}))
	require.Equal(t, 1, most)
	require.Equal(t, len(vms), all)
}
