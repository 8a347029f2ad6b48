package replication_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/hypervisors"
	"understudy/hypervisors/fake"
	"understudy/hypervisors/hypervisortest"
)

// outages are the seeds of TestPowerFailureOfHosts; each meets several power failures.
const outages = 100 / share

// TestPowerFailureOfHosts cuts the power of the target, or of the source, at a random moment of a cycle. Whatever was
// not flushed is lost, torn or there by chance. Every committed point must be what the source was at its checkpoint,
// no other point may be there, and the next cycle must succeed by itself.
func TestPowerFailureOfHosts(t *testing.T) {
	var struck atomic.Int64
	t.Run("seed", func(t *testing.T) {
		for seed := range uint64(outages) {
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				struck.Add(newBlackout(t, seed).run())
			})
		}
	})
	require.Greater(t, struck.Load(), int64(outages), "most cycles must have met their power failure")
}

// blackout is a world whose power fails.
type blackout struct {
	*world
	chance *rand.Rand
	vm     string
	truth  map[string][]string // what the source was, by the point that shows it: a hash for each disk
}

func newBlackout(t *testing.T, seed uint64) *blackout {
	b := &blackout{world: newWorld(t, fake.WithSeed(seed)), chance: rand.New(rand.NewPCG(seed, 2)), truth: map[string][]string{}}
	b.vm = b.home.AddVM(hypervisors.Hardware{Name: "web", Disks: []hypervisors.Disk{{Size: mib / 2}, {Size: mib/8 + 512}}})
	require.NoError(t, b.home.Guest(b.vm).Install(fake.GuestConfig{Seed: seed}))
	require.NoError(t, b.home.Start(b.vm))
	b.change()
	s := spec("shop", "web")
	s.Policy.VerifyCycles = seed%2 == 0
	s.Machines[0].Checks = nil
	b.protect(s)
	b.learn()
	return b
}

// run makes cycles in each of which the power may fail, and returns how often it did.
func (b *blackout) run() (struck int64) {
	for range 3 {
		b.change()
		if b.fail() {
			struck++
		}
		b.learn()
		b.check()
		if !b.running(b.home, b.vm) {
			require.NoError(b.t, b.home.Start(b.vm))
		}
		b.change()
		b.done(b.engine.SyncNow(b.t.Context(), "shop"))
		b.learn()
		b.away.PowerFail()
		b.check()
	}
	b.clean()
	return struck
}

// change lets the guest write, and part of its disks be written without sense.
func (b *blackout) change() {
	b.write(b.home, b.vm, 1+b.chance.IntN(20))
	for range 4 {
		noise := make([]byte, 512*(1+b.chance.IntN(200)))
		for i := range noise {
			noise[i] = byte(b.chance.Uint32())
		}
		off := mib/4 + b.chance.Int64N(mib/4-int64(len(noise)))
		require.NoError(b.t, b.home.Guest(b.vm).Write("vda", off, noise))
	}
}

// fail orders a cycle and cuts the power of a host at one of the calls to either. It returns false when the cycle was
// over before.
func (b *blackout) fail() (struck bool) {
	victim, hv := "away", b.away
	if b.chance.IntN(4) == 0 {
		victim, hv = "home", b.home
	}
	var mu sync.Mutex
	left := b.chance.IntN(120) // moments until it happens
	for name, f := range b.faults {
		f.Random(1, 2, func(context.Context) error { // a share of 2: every call, before and after
			mu.Lock()
			defer mu.Unlock()
			if left--; left != -1 {
				return nil
			}
			struck = true
			hv.PowerFail()
			if name != victim {
				return nil
			}
			return hypervisors.ErrUnreachable
		})
	}
	j, err := b.engine.SyncNow(b.t.Context(), "shop")
	require.NoError(b.t, err)
	b.wait(j.ID) // it may have failed
	for _, f := range b.faults {
		f.Random(1, 0, hypervisortest.Fail(nil))
	}
	mu.Lock()
	defer mu.Unlock()
	return struck
}

// learn notes what the source is, for the points that were made since the last time: nobody wrote to it meanwhile.
func (b *blackout) learn() {
	now := hashes(b.t, b.home.Disks(b.vm))
	for _, p := range b.replica() {
		if _, known := b.truth[p]; !known {
			b.truth[p] = now
		}
	}
}

// replica lists the points at the target.
func (b *blackout) replica() (ids []string) {
	r := b.open()
	status, err := r.Status(b.t.Context())
	require.NoError(b.t, err)
	for _, p := range status.Points {
		ids = append(ids, p.ID)
	}
	return ids
}

func (b *blackout) open() hypervisors.Replica {
	about, err := b.engine.About(b.t.Context())
	require.NoError(b.t, err)
	r, err := b.away.Connect(about.Appliance).(hypervisors.Target).Replica(b.t.Context(), b.group("shop").Members[0].ReplicaID)
	require.NoError(b.t, err)
	return r
}

// check reads every point that is offered, and expects that all of them are at the target, whole.
func (b *blackout) check() {
	ctx := b.t.Context()
	r, there := b.open(), b.replica()
	for _, id := range there {
		reader, err := r.Open(ctx, id)
		require.NoError(b.t, err)
		require.Equal(b.t, b.truth[id], hashes(b.t, reader.Disks()), "point %s is not what the source was", id)
		require.NoError(b.t, reader.Close())
	}
	for _, p := range b.points("shop") {
		require.True(b.t, slices.Contains(there, p.ID), "point %s is offered and not there", p.ID)
	}
}

// hashes sums up disks, whose order does not matter.
func hashes[D fake.DiskReader](t *testing.T, disks []D) (out []string) {
	t.Helper()
	for _, d := range disks {
		content := make([]byte, d.Size())
		_, err := d.ReadAt(content, 0)
		require.NoError(t, err)
		out = append(out, fmt.Sprintf("%s %x", d.ID(), sha256.Sum256(content)))
	}
	slices.Sort(out)
	return out
}
