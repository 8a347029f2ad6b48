package main_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/hypervisors"
	"understudy/hypervisors/fake"
	"understudy/hypervisors/fake/remote"
	"understudy/hypervisors/hypervisortest"
)

const mib = 1 << 20

// memoryWorld is two hypervisors in the memory of the harness, which outlive the appliance.
type memoryWorld struct {
	home, away *fake.Hypervisor
	machines   []string // ids at home
	faults     *hypervisortest.Faults
	calls      sync.WaitGroup // connections of the appliance

	mu      sync.Mutex
	order   order
	owner   string
	truth   map[string]string // digests of disks at their checkpoints, by point, machine and disk
	trouble []string          // seen meanwhile
	ticks   int
}

// newMemoryWorld makes two machines at home, whose group is only whole when both have a point.
func newMemoryWorld(t testing.TB) *memoryWorld {
	w := &memoryWorld{home: fake.New("home", time.Now), away: fake.New("away", time.Now), faults: &hypervisortest.Faults{},
		truth: map[string]string{}}
	for i, name := range []string{"web", "db"} {
		id := w.home.AddVM(hypervisors.Hardware{Name: name, Disks: []hypervisors.Disk{{Size: mib}, {Size: mib / 2}},
			NICs: []hypervisors.NIC{{Network: "lan"}}, GuestAgent: true})
		require.NoError(t, w.home.Guest(id).Install(fake.GuestConfig{Seed: uint64(i), Serves: map[string]string{answerOf(name): "hello from " + name}}))
		require.NoError(t, w.home.Start(id))
		_, err := w.home.Guest(id).Step(40)
		require.NoError(t, err)
		w.machines = append(w.machines, id)
	}
	return w
}

func answerOf(name string) string {
	return map[string]string{"web": "10.0.0.10:80", "db": "10.0.0.11:80"}[name]
}

func (w *memoryWorld) name() string { return "fake" }

func (w *memoryWorld) hosts() map[string]string {
	return map[string]string{"home": "fake:home", "away": "fake:away"}
}

func (w *memoryWorld) spec() api.GroupSpec {
	s := api.GroupSpec{Name: groupName, SourceHost: "home", TargetHost: "away", Policy: api.Policy{RPOSeconds: 86400, VerifyCycles: true}}
	for _, name := range []string{"web", "db"} {
		s.Machines = append(s.Machines, api.GroupMachine{VM: name,
			Checks: []api.Check{{Kind: "http", Address: "http://" + answerOf(name) + "/", Contains: "hello"}}})
	}
	return s
}

func (w *memoryWorld) serve(t testing.TB, dir string, v *victim) {
	w.faults.Each(func(_ context.Context, call hypervisortest.Call, when hypervisortest.When, _ string) error {
		if v.strikes(moment{Step: string(call), Phase: when.String()}) {
			return hypervisors.ErrUnreachable
		}
		return nil
	})
	end := listen(t, filepath.Join(dir, "fake"), func(nc net.Conn) {
		w.calls.Add(1)
		defer w.calls.Done()
		_ = remote.Serve(nc, w.connect)
	})
	t.Cleanup(end)
}

func (w *memoryWorld) connect(name, owner string) (hypervisors.Host, error) {
	hv := map[string]*fake.Hypervisor{"home": w.home, "away": w.away}[name]
	if hv == nil {
		return nil, fmt.Errorf("host %q: %w", name, hypervisors.ErrUnreachable)
	}
	w.mu.Lock()
	w.owner = owner
	w.mu.Unlock()
	return hypervisortest.Wrap(&witness{everything: hv.Connect(owner).(everything), w: w}, w.faults), nil
}

// everything is what the fake implements.
type everything interface {
	hypervisors.Host
	hypervisors.Power
	hypervisors.Source
	hypervisors.Target
	hypervisors.Isolation
	hypervisors.Guest
}

// witness notes what the disks held at each checkpoint.
type witness struct {
	everything
	w *memoryWorld
}

func (c *witness) Checkpoint(ctx context.Context, req hypervisors.CheckpointRequest) (hypervisors.Checkpoint, error) {
	cp, err := c.everything.Checkpoint(ctx, req)
	if err != nil {
		return nil, err
	}
	for _, d := range cp.Disks() {
		sum, err := contentOf(d, d.Size())
		if err != nil {
			return nil, errors.Join(err, cp.Close(ctx))
		}
		c.w.mu.Lock()
		c.w.truth[req.Name+" "+d.VM()+" "+d.ID()] = sum
		c.w.mu.Unlock()
	}
	return cp, nil
}

func contentOf(r io.ReaderAt, size int64) (string, error) {
	h := sha256.New()
	_, err := io.Copy(h, io.NewSectionReader(r, 0, size))
	return fmt.Sprintf("%d bytes, %x", size, h.Sum(nil)), err
}

func (w *memoryWorld) calm() { w.calls.Wait() }

func (w *memoryWorld) doubt() {} // nothing is taken on trust

func (w *memoryWorld) begin(o order) {
	w.mu.Lock()
	w.order = o
	w.mu.Unlock()
	w.write(5)
}

// write lets every machine that runs as production write.
func (w *memoryWorld) write(n int) {
	for _, hv := range []*fake.Hypervisor{w.home, w.away} {
		for _, id := range w.machines {
			_, _ = hv.Guest(id).Step(n) // those that are off cannot
		}
	}
}

func (w *memoryWorld) tick() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ticks++; w.ticks%5 == 0 {
		w.write(1)
	}
	for _, id := range w.machines {
		home, away := running(w.home, id), running(w.away, id)
		if !home && !away && !w.order.stops {
			w.trouble = append(w.trouble, fmt.Sprintf("machine %s stood still for a %s", id, w.order.name))
		}
		if home && away {
			w.trouble = append(w.trouble, fmt.Sprintf("machine %s ran on both sides during a %s", id, w.order.name))
		}
	}
}

func running(hv *fake.Hypervisor, vm string) bool {
	v, err := hv.Connect("observer").VM(context.Background(), vm)
	return err == nil && v.State == hypervisors.Running
}

func (w *memoryWorld) holds(g api.Group, points []api.Point) (wrong []string) {
	for _, m := range g.Members {
		hv, id, vm := w.away, m.ReplicaID, m.SourceVM
		if g.Reversed {
			hv, id, vm = w.home, id+"-home", m.TargetVM
		}
		for _, p := range points {
			if err := w.holdsPoint(hv, id, vm, p.ID); err != nil {
				wrong = append(wrong, fmt.Sprintf("point %s of %s: %v", p.ID, m.Name, err))
			}
		}
	}
	return wrong
}

// holdsPoint compares a point at the target with what the source had at its checkpoint.
func (w *memoryWorld) holdsPoint(hv *fake.Hypervisor, replica, vm, point string) error {
	ctx := context.Background()
	w.mu.Lock()
	defer w.mu.Unlock()
	r, err := hv.Connect(w.owner).(hypervisors.Target).Replica(ctx, replica)
	if err != nil {
		return err
	}
	p, err := r.Open(ctx, point)
	if err != nil {
		return err
	}
	defer p.Close()
	for _, d := range p.Disks() {
		have, err := contentOf(d, d.Size())
		if err != nil {
			return err
		}
		if want := w.truth[point+" "+vm+" "+d.ID()]; have != want {
			return fmt.Errorf("disk %s holds %s, the source had %s", d.ID(), have, want)
		}
	}
	if len(p.Disks()) != 2 {
		return fmt.Errorf("%d disks of 2", len(p.Disks()))
	}
	_, err = fake.CheckRecords(p.Disks())
	return err
}

func (w *memoryWorld) runs(g api.Group) (wrong []string) {
	w.mu.Lock()
	wrong, w.trouble = w.trouble, nil
	w.mu.Unlock()
	for _, m := range g.Members {
		here, there := w.home, w.away
		if away(g) {
			here, there = there, here
		}
		vms := map[*fake.Hypervisor]string{w.home: m.SourceVM, w.away: m.TargetVM}
		if !running(here, vms[here]) {
			wrong = append(wrong, m.Name+" does not run where it is production")
		}
		if running(there, vms[there]) {
			wrong = append(wrong, m.Name+" runs on both sides")
		}
	}
	return wrong
}

func (w *memoryWorld) leftovers(g *api.Group, points []api.Point) []string {
	left := slices.Concat(w.home.Leftovers(), w.away.Leftovers())
	want := map[*fake.Hypervisor]int{w.home: len(w.machines), w.away: len(w.machines)}
	if g == nil {
		want[w.away] = 0
	}
	for hv, n := range want {
		vms, err := hv.Connect("observer").VMs(context.Background())
		if err != nil || len(vms) != n {
			left = append(left, fmt.Sprintf("%d machines, not %d: %v", len(vms), n, err))
		}
		for _, vm := range vms {
			// One change id to go on from, no more; and none where nothing is read from.
			if ids := hv.Tracked(vm.ID); len(ids) > 1 || g == nil && len(ids) > 0 {
				left = append(left, fmt.Sprintf("change ids %v of %s", ids, vm.Hardware.Name))
			}
		}
	}
	return left
}

// shortKills is how many kill points of an order `make test` takes.
const shortKills = 2

// TestCrashFake kills the real daemon at the kill points of every order, one at a time, each in a fresh world.
func TestCrashFake(t *testing.T) {
	if os.Getenv("SEED") != "" {
		t.Skip("one random run was asked for")
	}
	var mu sync.Mutex
	var deaths, lived []moment
	t.Run("orders", func(t *testing.T) {
		for _, o := range orders {
			t.Run(o.name, func(t *testing.T) {
				t.Parallel()
				var points []moment
				t.Run("lives", func(t *testing.T) { points, _ = playFake(t, o, 0) })
				mu.Lock()
				lived = append(lived, points...)
				mu.Unlock()
				chosen := rand.Perm(len(points))
				if !crashAll() {
					chosen = chosen[:min(shortKills, len(chosen))]
				}
				slices.Sort(chosen)
				for _, at := range chosen {
					t.Run(points[at].String(), func(t *testing.T) {
						_, died := playFake(t, o, at+1)
						require.Len(t, died, 1, "nobody was killed")
						mu.Lock()
						defer mu.Unlock()
						deaths = append(deaths, died...)
					})
				}
			})
		}
	})
	if crashAll() {
		require.Empty(t, unvisited(deaths), "nobody was killed there")
		for _, m := range lived {
			require.Contains(t, deaths, m, "nobody was killed there")
		}
	}
}

// playFake kills the appliance at the n-th kill point of an order (0: never). It gives the points that it met, and where
// it died.
func playFake(t *testing.T, o order, at int) (met, died []moment) {
	t.Helper()
	w := newMemoryWorld(t)
	v := newVictim(t, w)
	for _, before := range o.from {
		job, _ := v.play(named(before), nil)
		require.Equal(t, api.JobSucceeded, job.State)
	}
	job, died := v.play(o, func(m moment) bool {
		if m.Kind == "" {
			return false
		}
		met = append(met, m)
		return len(met) == at
	})
	v.settled(o, job)
	v.progress("died at %v, %s", died, job.State)
	return met, died
}
