package hypervisortest_test

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

var errFault = errors.New("fault")

func host(t *testing.T, f *hypervisortest.Faults) (hypervisors.Host, string) {
	t.Helper()
	hv := fake.New("host", func() time.Time { return time.Unix(1, 0) })
	vm := hv.AddVM(hypervisors.Hardware{Name: "web", Disks: []hypervisors.Disk{{Size: 1 << 20}}})
	return hypervisortest.Wrap(hv.Connect("appl1234"), f), vm
}

func TestFaultBefore(t *testing.T) {
	f := hypervisortest.NewFaults(t)
	h, vm := host(t, f)
	f.QueueNth("Power.Start", 2, hypervisortest.Before, hypervisortest.Fail(errFault))
	power := h.(hypervisors.Power)
	require.NoError(t, power.Start(t.Context(), vm))
	require.NoError(t, power.Stop(t.Context(), vm))
	require.ErrorIs(t, power.Start(t.Context(), vm), errFault)
	shown, err := h.VM(t.Context(), vm)
	require.NoError(t, err)
	require.Equal(t, hypervisors.Off, shown.State)
}

func TestFaultAfter(t *testing.T) {
	f := hypervisortest.NewFaults(t)
	h, _ := host(t, f)
	target := h.(hypervisors.Target)
	r, err := target.CreateReplica(t.Context(), hypervisors.ReplicaSpec{ID: "r", Hardware: hypervisors.Hardware{Name: "r"}})
	require.NoError(t, err)
	d, err := r.Draft(t.Context(), hypervisors.DraftRequest{Point: "p"})
	require.NoError(t, err)
	f.Queue("Draft.Commit", hypervisortest.After, hypervisortest.Fail(errFault))
	require.ErrorIs(t, d.Commit(t.Context(), hypervisors.Point{ID: "p"}), errFault)
	status, err := r.Status(t.Context())
	require.NoError(t, err)
	require.Len(t, status.Points, 1, "it happened all the same")
}

func TestFaultsInTransfers(t *testing.T) {
	f := hypervisortest.NewFaults(t)
	h, vm := host(t, f)
	cp, err := h.(hypervisors.Source).Checkpoint(t.Context(), hypervisors.CheckpointRequest{Name: "c", VMs: []hypervisors.CheckpointVM{{ID: vm}}})
	require.NoError(t, err)
	f.Queue("FrozenDisk.ReadAt", hypervisortest.Before, hypervisortest.Fail(errFault))
	_, err = cp.Disks()[0].ReadAt(make([]byte, 1), 0)
	require.ErrorIs(t, err, errFault)
	f.Queue("FrozenDisk.Allocated", hypervisortest.After, hypervisortest.Fail(errFault))
	n := 0
	for _, err = range cp.Disks()[0].Allocated(t.Context()) {
		n++
	}
	require.ErrorIs(t, err, errFault)
	require.Equal(t, 2, n, "one extent, then the fault")

	f.Queue("FrozenDisk.ReadAt", hypervisortest.Before, hypervisortest.Hang)
	done := make(chan error)
	go func() {
		_, err := cp.Disks()[0].ReadAt(make([]byte, 1), 0)
		done <- err
	}()
	require.Eventually(t, func() bool { return len(f.Unmet()) == 0 }, time.Minute, time.Millisecond)
	require.NoError(t, cp.Close(t.Context()))
	require.ErrorIs(t, <-done, context.Canceled)
}

func TestHangEndsWithContext(t *testing.T) {
	f := hypervisortest.NewFaults(t)
	h, _ := host(t, f)
	f.Queue("Host.VMs", hypervisortest.Before, hypervisortest.Hang)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err := h.VMs(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestUnmet(t *testing.T) {
	var f hypervisortest.Faults
	f.Queue("Host.Nonsense", hypervisortest.Before, hypervisortest.Fail(errFault))
	require.Equal(t, []string{"Host.Nonsense, before, after 0 more calls"}, f.Unmet())
}

func TestRandomFaultsRepeat(t *testing.T) {
	play := func(seed uint64) (out []bool) {
		var f hypervisortest.Faults
		f.Random(seed, 0.5, hypervisortest.Fail(errFault))
		h, _ := host(t, &f)
		for range 64 {
			_, err := h.VMs(t.Context())
			out = append(out, err != nil)
		}
		return out
	}
	require.Equal(t, play(1), play(1))
	require.NotEqual(t, play(1), play(2))
	require.Contains(t, play(1), true)
	require.Contains(t, play(1), false)
}

// bare is a host without any optional part.
type bare struct{ hypervisors.Host }

// sourceOnly adds one.
type sourceOnly struct {
	hypervisors.Host
	hypervisors.Source
}

func TestWrapImplementsWhatTheInnerHostDoes(t *testing.T) {
	var f hypervisortest.Faults
	full, _ := host(t, &f)
	for _, c := range []struct {
		inner                                   hypervisors.Host
		source, target, power, isolation, guest bool
	}{
		{full, true, true, true, true, true},
		{bare{full}, false, false, false, false, false},
		{sourceOnly{full, full.(hypervisors.Source)}, true, false, false, false, false},
		{struct {
			hypervisors.Host
			hypervisors.Target
			hypervisors.Guest
		}{full, full.(hypervisors.Target), full.(hypervisors.Guest)}, false, true, false, false, true},
	} {
		h := hypervisortest.Wrap(c.inner, &f)
		_, source := h.(hypervisors.Source)
		_, target := h.(hypervisors.Target)
		_, power := h.(hypervisors.Power)
		_, isolation := h.(hypervisors.Isolation)
		_, guest := h.(hypervisors.Guest)
		require.Equal(t, []bool{c.source, c.target, c.power, c.isolation, c.guest}, []bool{source, target, power, isolation, guest})
	}
}

func TestDoctorOnlyReads(t *testing.T) {
	f := hypervisortest.NewFaults(t)
	h, _ := host(t, f)
	results := hypervisortest.Doctor(t.Context(), bare{h})
	require.NotEmpty(t, results)
	for _, r := range results {
		if r.Name == "capabilities fit the driver" {
			require.Equal(t, hypervisortest.Failed, r.Outcome, "announces parts it does not implement")
			require.NotEmpty(t, r.Message)
			continue
		}
		require.Equal(t, hypervisortest.Passed, r.Outcome, "%s: %s", r.Name, r.Message)
	}
}
