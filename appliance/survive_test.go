package main_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/hypervisors/kvm/lab"
	"understudy/hypervisors/kvm/lab/record"
)

// TestKilledDaemon kills the real daemon in a mirror, a cycle, a test failover and a failback, on real hosts with a
// guest that writes, and starts it again; verifications that find something and a source that is started by hand come
// between. Each ends well, and in the end the guest finds every record it ever wrote.
func TestKilledDaemon(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	l := startLab(t)
	guest, err := l.StartGuest(ctx, l.Source, lab.GuestOptions{Name: "web1", Number: 1, Fill: 16 << 20, Delay: calm})
	require.NoError(t, err)
	d := newDaemon(t)
	for name, uri := range map[string]string{"source": l.Source.URI, "target": l.Target.URI} {
		_, err := d.AddHost(ctx, api.HostSpec{Name: name, URI: uri})
		require.NoError(t, err)
	}

	// Slow enough that there is a middle to kill it in.
	policy := api.Policy{RPOSeconds: 3600, BandwidthMbit: 40, VerifyCycles: true}
	g := d.mirrored(t, api.GroupSpec{Name: "web", SourceHost: "source", TargetHost: "target", Policy: policy,
		Machines: []api.GroupMachine{{VM: "web1", Checks: []api.Check{{Kind: "http", Address: "http://" + guest.Addr + "/"}}}}})
	require.Equal(t, api.StateProtected, g.State, g.Problem)

	require.NoError(t, guest.WaitSeq(ctx, 100))
	d.killAt(func() (api.Job, error) { return d.SyncNow(ctx, "web") }, copying("copy"))
	points, err := d.ListPoints(ctx, "web")
	require.NoError(t, err)
	require.Len(t, points, 2)
	require.True(t, points[1].Verified)

	d.killAt(func() (api.Job, error) { return d.Test(ctx, "web", api.TestOrder{}) }, at("checks"))
	d.succeeded(d.EndTest(ctx, "web"))
	g, err = d.GetGroup(ctx, "web")
	require.NoError(t, err)
	require.Equal(t, "passed", g.Test.State, g.Test.Problem)

	d.verifies(t, l, guest)
	_, err = l.Source.Virsh(ctx, "autostart", guest.Name)
	require.NoError(t, err)
	d.succeeded(d.Failover(ctx, "web", api.FailoverOrder{Planned: true}))
	d.succeeded(d.Commit(ctx, "web"))
	d.splits(t, l, guest)
	require.NoError(t, l.Target.WaitSeq(ctx, guest.Addr, 50))
	d.killAt(func() (api.Job, error) { return d.Failback(ctx, "web") }, at("settle"))
	g, err = d.GetGroup(ctx, "web")
	require.NoError(t, err)
	require.Equal(t, api.StateProtected, g.State, g.Problem)
	require.False(t, g.Reversed)
	require.True(t, autostarts(t, l.Source, guest.Name))
	require.False(t, autostarts(t, l.Target, guest.Name))

	status, err := l.Source.WaitStatus(ctx, guest.Addr)
	require.NoError(t, err)
	require.Empty(t, status.Problems)
	shutDown(t, l, guest)
	a, err := l.Source.ReadImage(ctx, guest.Disks[0])
	require.NoError(t, err)
	defer a.Close()
	b, err := l.Source.ReadImage(ctx, guest.Disks[1])
	require.NoError(t, err)
	defer b.Close()
	report, err := record.Check(a, b)
	require.NoError(t, err)
	require.Empty(t, report.Problems())
}

// mirrored creates a group and kills the daemon in its first mirror.
func (d *daemon) mirrored(t *testing.T, spec api.GroupSpec) api.Group {
	t.Helper()
	d.killAt(func() (api.Job, error) {
		g, err := d.CreateGroup(t.Context(), spec)
		if err != nil {
			return api.Job{}, err
		}
		list, err := d.ListJobs(t.Context(), api.JobQuery{Group: g.ID, Paging: api.Paging{Limit: 1}})
		if err != nil {
			return api.Job{}, err
		}
		require.Len(t, list.Items, 1)
		return list.Items[0], nil
	}, copying("copy"))
	g, err := d.GetGroup(t.Context(), spec.Name)
	require.NoError(t, err)
	return g
}

func shutDown(t *testing.T, l *lab.Lab, guest *lab.Guest) {
	t.Helper()
	_, err := l.Source.Virsh(t.Context(), "shutdown", guest.Name)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		state, err := l.Source.Virsh(t.Context(), "domstate", guest.Name)
		return err == nil && len(state) >= 4 && state[:4] == "shut"
	}, waitFor, 200*time.Millisecond)
}
