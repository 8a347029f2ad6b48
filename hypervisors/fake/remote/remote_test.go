package remote_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/hypervisors"
	"understudy/hypervisors/fake"
	"understudy/hypervisors/fake/remote"
	"understudy/hypervisors/hypervisortest"
)

const owner = "appl1234"

// serve makes a hypervisor that is reached at the socket it returns, as if it were in another process.
func serve(t *testing.T, hv *fake.Hypervisor, f *hypervisortest.Faults) string {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	require.NoError(t, err)
	var served sync.WaitGroup
	served.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			served.Go(func() {
				_ = remote.Serve(nc, func(_, owner string) (hypervisors.Host, error) {
					return hypervisortest.Wrap(hv.Connect(owner), f), nil
				})
			})
		}
	})
	t.Cleanup(func() { require.NoError(t, l.Close()); served.Wait() })
	return socket
}

func machine(t *testing.T, hv *fake.Hypervisor, name string) string {
	vm := hv.AddVM(hypervisors.Hardware{Name: name, GuestAgent: true, NICs: []hypervisors.NIC{{}},
		Disks: []hypervisors.Disk{{Size: 4 << 20, Boot: 1}, {Size: 2<<20 + 4096}}})
	require.NoError(t, hv.Guest(vm).Install(fake.GuestConfig{Seed: 7, Serves: map[string]string{"192.0.2.10:80": "hello from " + name}}))
	return vm
}

// From another process a hypervisor is no different.
func TestConformance(t *testing.T) {
	hypervisortest.Run(t, func(t *testing.T) hypervisortest.Env {
		hv := fake.New("host", time.Now)
		vm := machine(t, hv, "web")
		require.NoError(t, hv.Start(vm))
		dirty := func(_ context.Context, vm string) error {
			_, err := hv.Guest(vm).Step(50)
			return err
		}
		require.NoError(t, dirty(t.Context(), vm))
		socket := serve(t, hv, hypervisortest.NewFaults(t))
		connect := func(ctx context.Context, owner string) (hypervisors.Host, error) {
			h, err := remote.Dial(ctx, socket, "host", owner)
			if err == nil {
				t.Cleanup(func() { _ = h.Close() }) // the suite may have done so
			}
			return h, err
		}
		host, err := connect(t.Context(), owner)
		require.NoError(t, err)
		return hypervisortest.Env{
			Host: host, Owner: owner, Connect: connect, VM: vm, Dirty: dirty,
			NewVM:        func(context.Context) (string, error) { return machine(t, hv, "spare"), nil },
			Grow:         func(_ context.Context, vm, disk string, size int64) error { return hv.ResizeDisk(vm, disk, size) },
			LoseTracking: func(ctx context.Context) error { return errors.Join(hv.Crash(vm), hv.Start(vm), dirty(ctx, vm)) },
			Conversions:  func(_ context.Context, vm string) (int, error) { return hv.Guest(vm).Conversions() },
			Storage:      "default", Network: "lan",
			Answer: hypervisortest.Answer{From: "192.0.2.253/24", Addr: "192.0.2.10:80"},
		}
	})
}

// A call that hangs ends with its context, or with the connection.
func TestHangingCalls(t *testing.T) {
	f := hypervisortest.NewFaults(t)
	f.Queue("Host.VMs", hypervisortest.Before, hypervisortest.Hang)
	f.Queue("Host.Networks", hypervisortest.Before, hypervisortest.Hang)
	socket := serve(t, fake.New("host", time.Now), f)
	h, err := remote.Dial(t.Context(), socket, "host", owner)
	require.NoError(t, err)
	hangs := func(left int) {
		require.Eventually(t, func() bool { return len(f.Unmet()) == left }, time.Minute, time.Millisecond)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		_, err := h.VMs(ctx)
		ended <- err
	}()
	hangs(1)
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)

	go func() {
		_, err := h.Networks(t.Context())
		ended <- err
	}()
	hangs(0)
	require.NoError(t, h.Close())
	require.ErrorIs(t, <-ended, hypervisors.ErrUnreachable)
}

func TestErrorsKeepTheirWords(t *testing.T) {
	hv := fake.New("host", time.Now)
	h, err := remote.Dial(t.Context(), serve(t, hv, hypervisortest.NewFaults(t)), "host", owner)
	require.NoError(t, err)
	defer h.Close()
	_, want := hv.Connect(owner).VM(t.Context(), "nobody")
	_, err = h.VM(t.Context(), "nobody")
	require.ErrorIs(t, err, hypervisors.ErrNotFound)
	require.NotErrorIs(t, err, hypervisors.ErrInvalid)
	require.Equal(t, want.Error(), err.Error())
	require.Equal(t, hypervisors.Hint(want), hypervisors.Hint(err))
}
