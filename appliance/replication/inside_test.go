package replication_test

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/hypervisors"
	"understudy/hypervisors/fake"
	"understudy/hypervisors/hypervisortest"
	"understudy/provisioning/linux"
)

// onlyCommon is a target without paravirtual devices.
var onlyCommon = fake.WithCapabilities(func(c *hypervisors.Capabilities) {
	c.Devices = hypervisors.Devices{Disks: []string{"sata"}, NICs: []string{"e1000e"}}
})

// Kernels of a guest at a source with virtio: an initial RAM disk made for that machine alone, and one with more.
var (
	lean = linux.System{Version: "5.14.0-427", Early: []string{"virtio_blk", "virtio_pci"}, Later: []string{"ahci", "e1000e", "sd_mod", "virtio_blk", "virtio_net", "virtio_pci"}, Whole: true}
	full = linux.System{Version: "6.1.0-13", Early: []string{"ahci", "sd_mod", "virtio_blk", "virtio_pci"}, Later: []string{"ahci", "e1000e", "sd_mod", "virtio_blk", "virtio_net", "virtio_pci"}, Whole: true}
)

// insides is what guests have inside, and how often somebody looked.
type insides struct {
	mu    sync.Mutex
	is    linux.System
	err   error
	looks int
}

func (n *insides) look(_ context.Context, disk io.ReaderAt, size int64) (linux.System, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.looks++
	if _, err := disk.ReadAt(make([]byte, 512), size-512); err != nil {
		return linux.System{}, err
	}
	return n.is, n.err
}

func (n *insides) become(s linux.System, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.is, n.err = s, err
}

func (w *world) withInsides(s linux.System) *insides {
	n := &insides{is: s}
	w.inside = n.look
	w.restart()
	return n
}

// onVirtio is a machine with paravirtual devices.
var onVirtio = hypervisors.Hardware{Name: "web", Arch: "x86_64", NICs: []hypervisors.NIC{{Network: "lan", Model: "virtio"}},
	Disks: []hypervisors.Disk{{ID: "vda", Size: mib, Bus: "virtio", Boot: 1}, {ID: "vdb", Size: mib, Bus: "virtio"}}}

// virtual makes one, and a group of it in which no boot check proves anything.
func (w *world) virtual() api.GroupSpec {
	w.home.AddVM(onVirtio)
	s := spec("shop", "web")
	s.Machines[0].Checks = nil
	return s
}

// A guest that would not start is told of when its first copy is made, and before every order; and no more when it would.
func TestGuestWithoutDrivers(t *testing.T) {
	w := newWorld(t, onlyCommon)
	inside := w.withInsides(lean)
	w.protect(w.virtual())

	actions, on := w.alerts(api.AlertDriverMissing)
	require.True(t, on)
	require.Equal(t, []string{"created"}, actions)
	said := w.group("shop").Alerts[0].Message
	require.Contains(t, said, "web would not start")
	require.Contains(t, said, "5.14.0-427 has no driver in its initial RAM disk for disk vda as sata (ahci, sd_mod)")
	for _, o := range []api.PlanOrder{{Order: "test"}, {Order: "failover"}, {Order: "failover", Planned: true}} {
		p := w.plan(o)
		require.True(t, p.Allowed)
		require.Equal(t, 1, count(warnings(p), "driver-missing"))
	}

	// The wish for a conversion answers it.
	require.NoError(t, w.wish("web", true))
	w.engine.Observe(t.Context())
	_, on = w.alerts(api.AlertDriverMissing)
	require.False(t, on)
	require.Zero(t, count(warnings(w.plan(api.PlanOrder{Order: "test"})), "driver-missing"))
	require.NoError(t, w.wish("web", false))
	w.restart()
	w.engine.Observe(t.Context())
	_, on = w.alerts(api.AlertDriverMissing)
	require.True(t, on)

	// So do drivers, which the next test finds.
	inside.become(full, nil)
	w.done(w.engine.SyncNow(t.Context(), "shop"))
	w.done(w.engine.Test(t.Context(), "shop", api.TestOrder{}))
	_, on = w.alerts(api.AlertDriverMissing)
	require.False(t, on)
	require.Equal(t, 2, inside.looks)
	w.done(w.engine.EndTest(t.Context(), "shop"))

	// And after a failover the replica is what runs.
	inside.become(lean, nil)
	w.done(w.engine.Test(t.Context(), "shop", api.TestOrder{}))
	w.done(w.engine.EndTest(t.Context(), "shop"))
	_, on = w.alerts(api.AlertDriverMissing)
	require.True(t, on)
	w.done(w.engine.Failover(t.Context(), "shop", api.FailoverOrder{Planned: true}))
	w.engine.Observe(t.Context())
	_, on = w.alerts(api.AlertDriverMissing)
	require.False(t, on)
	w.done(w.engine.Commit(t.Context(), "shop"))
	w.done(w.engine.Reprotect(t.Context(), "shop"))
	w.settle("shop")
	w.done(w.engine.Test(t.Context(), "shop", api.TestOrder{}))
	w.done(w.engine.EndTest(t.Context(), "shop"))
	require.Equal(t, 3, inside.looks, "at home it has its own devices")
	require.Zero(t, count(warnings(w.plan(api.PlanOrder{Order: "failback"})), "driver-missing"))
	w.clean()
}

// A machine that came up proves more than what was read: its boot loader may have another kernel.
func TestGuestCameUpAllTheSame(t *testing.T) {
	for _, order := range []string{"test", "failover"} {
		w := newWorld(t, onlyCommon)
		w.withInsides(lean)
		vm := w.home.AddVM(onVirtio)
		require.NoError(t, w.home.Guest(vm).Install(fake.GuestConfig{Seed: 1, Serves: map[string]string{answer: "hello from web"}}))
		require.NoError(t, w.home.Start(vm))
		w.protect(spec("shop", "web"))
		_, on := w.alerts(api.AlertDriverMissing)
		require.True(t, on)
		if order == "test" {
			w.done(w.engine.Test(t.Context(), "shop", api.TestOrder{}))
			w.done(w.engine.EndTest(t.Context(), "shop"))
		} else {
			w.done(w.engine.Failover(t.Context(), "shop", api.FailoverOrder{Planned: true}))
			w.done(w.engine.Rollback(t.Context(), "shop"))
			w.engine.Observe(t.Context())
		}
		_, on = w.alerts(api.AlertDriverMissing)
		require.False(t, on)
	}
}

// What cannot be told is told to nobody, and nothing fails of it.
func TestGuestThatCannotBeLookedInto(t *testing.T) {
	lost := errors.New("connection lost")
	for name, c := range map[string]struct {
		is  linux.System
		err error
		on  bool // after a look that found something
	}{
		"another system":      {err: linux.ErrUnknown},
		"the host fails":      {err: lost, on: true},
		"not even its source": {is: linux.System{Version: "6.1.0-13"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, onlyCommon)
			inside := w.withInsides(c.is)
			inside.become(c.is, c.err)
			w.protect(w.virtual())
			_, on := w.alerts(api.AlertDriverMissing)
			require.False(t, on)
			inside.become(lean, nil)
			w.done(w.engine.Test(t.Context(), "shop", api.TestOrder{}))
			w.done(w.engine.EndTest(t.Context(), "shop"))
			inside.become(c.is, c.err)
			w.done(w.engine.Test(t.Context(), "shop", api.TestOrder{}))
			w.done(w.engine.EndTest(t.Context(), "shop"))
			require.Equal(t, 3, inside.looks)
			_, on = w.alerts(api.AlertDriverMissing)
			require.Equal(t, c.on, on)
		})
	}
}

// Where a replica has the devices of its source, nobody looks.
func TestGuestWithItsOwnDevices(t *testing.T) {
	w := newWorld(t)
	inside := w.withInsides(lean)
	w.protect(w.virtual())
	require.Zero(t, inside.looks)
}

// A test does not wait for a source that hangs: what was found before still stands.
func TestGuestOfASourceThatHangs(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		inside := w.withInsides(lean)
		w.protect(w.virtual())
		w.faults["home"].Each(func(ctx context.Context, call hypervisortest.Call, when hypervisortest.When, _ string) error {
			if call == "Host.VM" && when == hypervisortest.Before {
				return hypervisortest.Hang(ctx)
			}
			return nil
		})
		w.done(w.engine.Test(t.Context(), "shop", api.TestOrder{}))
		w.faults["home"].Each(nil)
		w.done(w.engine.EndTest(t.Context(), "shop"))
		require.Equal(t, 1, inside.looks)
		_, on := w.alerts(api.AlertDriverMissing)
		require.True(t, on)
		w.clean()
	}, onlyCommon)
}

// A guest whose disk brings the appliance down does so once.
func TestGuestThatKillsTheAppliance(t *testing.T) {
	w := newWorld(t, onlyCommon)
	deaths := 0
	w.inside = func(context.Context, io.ReaderAt, int64) (linux.System, error) {
		deaths++
		w.dead.Store(true) // what it does from here on is not kept
		return linux.System{}, linux.ErrUnknown
	}
	w.restart()
	_, err := w.engine.CreateGroup(t.Context(), w.virtual())
	require.NoError(t, err)
	require.Eventually(t, w.dead.Load, waitFor, tick)
	w.restart()
	w.settle("shop")
	require.Equal(t, 1, deaths)
	require.Equal(t, api.StateProtected, w.group("shop").State)
}
