package esx

import (
	"context"
	"crypto/rand"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/hypervisors"
	"understudy/hypervisors/esx/lab"
	"understudy/hypervisors/hypervisortest"
)

const owner = "appl1234"

// kinds of what the driver is judged on.
var kinds = map[string]bool{"ESX host": false, "vCenter": true}

func startLab(t testing.TB, o lab.Options) *lab.Lab {
	t.Helper()
	o.Dir = t.TempDir()
	l, err := lab.Start(context.Background(), o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l
}

func options(l *lab.Lab) Options {
	return Options{Owner: owner, User: l.User, Password: l.Password}
}

func open(t testing.TB, l *lab.Lab) *host {
	t.Helper()
	h, err := connect(t.Context(), l.URI(), options(l))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	return h
}

// guest makes a machine with two disks that is off.
func guest(t testing.TB, l *lab.Lab, name string) string {
	t.Helper()
	id, err := l.AddVM(hypervisors.Hardware{Name: name, GuestAgent: true, NICs: []hypervisors.NIC{{}},
		Disks: []hypervisors.Disk{{ID: "a", Size: 4 << 20, Boot: 1}, {ID: "b", Size: 2<<20 + 4096}}})
	require.NoError(t, err)
	return id
}

// slot is what the lab calls a disk.
func slot(disk string) string { return strings.Replace(disk, "-", ":", 1) }

func newEnv(vcenter bool) func(t *testing.T) hypervisortest.Env {
	return func(t *testing.T) hypervisortest.Env {
		l := startLab(t, lab.Options{VCenter: vcenter})
		vm := guest(t, l, "web")
		require.NoError(t, l.PowerOn(vm))
		dirty := func(_ context.Context, vm string) error {
			some := make([]byte, 4096)
			_, _ = rand.Read(some)
			return l.Write(vm, "scsi0:0", 64<<10, some)
		}
		require.NoError(t, dirty(t.Context(), vm))
		return hypervisortest.Env{
			Host: open(t, l), Owner: owner,
			Connect: func(ctx context.Context, owner string) (hypervisors.Host, error) {
				o := options(l)
				o.Owner = owner
				return Connect(ctx, l.URI(), o)
			},
			VM: vm, Dirty: dirty,
			NewVM:        func(context.Context) (string, error) { return guest(t, l, "spare"), nil },
			Grow:         func(_ context.Context, vm, disk string, size int64) error { return l.Grow(vm, slot(disk), size) },
			LoseTracking: func(ctx context.Context) error { return l.ResetTracking(vm) },
			Storage:      lab.Datastore, Network: lab.Network,
		}
	}
}

// TestConformance judges the driver on both kinds. With the race detector, which makes the simulator five times slower, an
// ESX host alone is enough: what a vCenter adds is in the simulator. The Makefile runs both without it.
func TestConformance(t *testing.T) {
	for name, vcenter := range kinds {
		if raced && vcenter {
			continue
		}
		t.Run(name, func(t *testing.T) {
			hypervisortest.Run(t, newEnv(vcenter))
		})
	}
}
