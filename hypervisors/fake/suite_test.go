package fake_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/hypervisors"
	"understudy/hypervisors/fake"
	"understudy/hypervisors/hypervisortest"
)

const (
	owner  = "appl1234"
	answer = "192.0.2.10:80"
)

// clock is a time that advances with every look at it.
func clock() func() time.Time {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	return func() time.Time {
		now = now.Add(time.Millisecond)
		return now
	}
}

// guest defines a machine with two disks and an installed guest.
func guest(t testing.TB, hv *fake.Hypervisor, name string) string {
	vm := hv.AddVM(hypervisors.Hardware{
		Name: name, GuestAgent: true, NICs: []hypervisors.NIC{{}},
		Disks: []hypervisors.Disk{{Size: 4 << 20, Boot: 1}, {Size: 2<<20 + 4096}},
	})
	require.NoError(t, hv.Guest(vm).Install(fake.GuestConfig{Seed: 7, Serves: map[string]string{answer: "hello from " + name}}))
	return vm
}

func newEnv(opts ...fake.Option) func(t *testing.T) hypervisortest.Env {
	return func(t *testing.T) hypervisortest.Env {
		hv := fake.New("host", clock(), opts...)
		vm := guest(t, hv, "web")
		require.NoError(t, hv.Start(vm))
		dirty := func(_ context.Context, vm string) error {
			_, err := hv.Guest(vm).Step(50)
			return err
		}
		require.NoError(t, dirty(t.Context(), vm))
		t.Cleanup(func() { require.Empty(t, hv.Leftovers()) })
		return hypervisortest.Env{
			Host: hv.Connect(owner), Owner: owner,
			Connect: func(_ context.Context, owner string) (hypervisors.Host, error) { return hv.Connect(owner), nil },
			VM:      vm, Dirty: dirty,
			NewVM: func(context.Context) (string, error) { return guest(t, hv, "spare"), nil },
			Grow: func(_ context.Context, vm, disk string, size int64) error {
				return hv.ResizeDisk(vm, disk, size)
			},
			LoseTracking: func(ctx context.Context) error {
				return errors.Join(hv.Crash(vm), hv.Start(vm), dirty(ctx, vm))
			},
			Conversions: func(_ context.Context, vm string) (int, error) { return hv.Guest(vm).Conversions() },
			Storage:     "default", Network: "lan",
			Answer: hypervisortest.Answer{From: "192.0.2.253/24", Addr: answer},
		}
	}
}

func TestConformance(t *testing.T) { hypervisortest.Run(t, newEnv()) }

// The suite judges drivers that can do less, too, and finds a wrapped one no different.
func TestConformanceOfLess(t *testing.T) {
	for name, less := range map[string]func(*hypervisors.Capabilities){
		"a target only":            func(c *hypervisors.Capabilities) { c.Source, c.Guest, c.Isolation = false, false, false },
		"a source only":            func(c *hypervisors.Capabilities) { c.Target, c.Power = false, false },
		"no tracking, no networks": func(c *hypervisors.Capabilities) { c.ChangeTracking, c.GroupMoment, c.Isolation = false, false, false },
		"no conversion":            func(c *hypervisors.Capabilities) { c.Convert = false },
	} {
		t.Run(name, func(t *testing.T) { hypervisortest.Run(t, newEnv(fake.WithCapabilities(less))) })
	}
}

func TestConformanceWrapped(t *testing.T) {
	hypervisortest.Run(t, func(t *testing.T) hypervisortest.Env {
		env := newEnv()(t)
		env.Host = hypervisortest.Wrap(env.Host, hypervisortest.NewFaults(t))
		return env
	})
}
