package main_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/hypervisors/kvm/lab"
	"understudy/hypervisors/kvm/lab/record"
)

// verifies finds what a user must be told of: a target that gives back other bytes than were written, and a source that
// changed behind the back of QEMU's change tracking. Both are repaired. The guest runs when it returns.
func (d *daemon) verifies(t *testing.T, l *lab.Lab, guest *lab.Guest) {
	t.Helper()
	ctx := t.Context()
	g, err := d.GetGroup(ctx, "web")
	require.NoError(t, err)
	before, plain := g.Policy, g.Policy
	plain.BandwidthMbit, plain.VerifyCycles = 0, false
	g, err = d.UpdatePolicy(ctx, "web", g.Revision, plain)
	require.NoError(t, err)

	job := d.succeeded(d.Verify(ctx, "web")) // beside a guest that writes
	require.EqualValues(t, 160<<20, job.Result["bytesCompared"])
	points := d.succeededPoints(t)
	newest := points[len(points)-1].ID
	const at = record.LogSize + 1<<20 // in the noise, where no guest writes
	overwrite(t, l.Target, fmt.Sprintf("/var/lib/libvirt/images/understudy/%s/vdb.%s.qcow2", g.Members[0].ReplicaID, newest), at)
	v := d.mistrusts(t)
	require.EqualValues(t, 65536, v.BytesDifferent)
	require.Equal(t, api.VerifiedDisk{ID: "vdb", Size: 64 << 20, BytesCompared: 64 << 20, BytesDifferent: 65536, BytesDamaged: 65536,
		Ranges: []api.Range{{Offset: at, Length: 65536}}}, v.Machines[0].Disks[1])
	require.Equal(t, []string{newest}, v.Suspect, "the files of the points below are as they were")

	shutDown(t, l, guest)
	d.succeeded(d.SyncNow(ctx, "web"))
	points = d.succeededPoints(t)
	newest = points[len(points)-1].ID
	overwrite(t, l.Source, guest.Disks[1], at+65536)
	forgetChanges(t, l.Source, guest.Disks[1])
	v = d.mistrusts(t)
	require.EqualValues(t, 65536, v.BytesDifferent)
	require.Zero(t, v.Machines[0].Disks[1].BytesDamaged)
	require.Equal(t, []string{newest}, v.Suspect, "the point before was compared in full")
	d.succeeded(d.SyncNow(ctx, "web"))
	points = d.succeededPoints(t)
	require.Equal(t, "incremental", points[len(points)-1].Kind)

	require.NoError(t, guest.Start(ctx))
	g, err = d.GetGroup(ctx, "web")
	require.NoError(t, err)
	require.Empty(t, g.Alerts)
	_, err = d.UpdatePolicy(ctx, "web", g.Revision, before)
	require.NoError(t, err)
}

func (d *daemon) succeededPoints(t *testing.T) []api.Point {
	t.Helper()
	points, err := d.ListPoints(t.Context(), "web")
	require.NoError(t, err)
	return points
}

// mistrusts orders a verification that finds something and repairs it.
func (d *daemon) mistrusts(t *testing.T) api.Verification {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitFor)
	defer cancel()
	job, err := d.Verify(ctx, "web")
	require.NoError(t, err)
	job, err = d.WaitJob(ctx, job.ID, nil)
	require.NoError(t, err)
	require.Equal(t, api.JobFailed, job.State)
	require.Contains(t, job.Error, "repaired")
	g, err := d.GetGroup(ctx, "web")
	require.NoError(t, err)
	require.Equal(t, "repaired", g.Verification.State)
	points := d.succeededPoints(t)
	last := points[len(points)-1]
	require.Equal(t, g.Verification.Repaired, last.ID)
	require.Equal(t, "difference", last.Kind)
	require.True(t, last.Verified)
	require.Empty(t, last.Suspect)
	for _, p := range points {
		for _, s := range g.Verification.Suspect {
			require.False(t, p.ID == s && p.Suspect == "")
		}
	}
	return *g.Verification
}

// overwrite changes 64 KiB of an image that nobody has open.
func overwrite(t *testing.T, h *lab.Host, image string, at int64) {
	t.Helper()
	_, err := h.Exec(t.Context(), "qemu-io", "-f", "qcow2", "-c", fmt.Sprintf("write -P 0x5a %d 64k", at), image)
	require.NoError(t, err)
}

// forgetChanges makes an image's dirty bitmaps say that nothing was written.
func forgetChanges(t *testing.T, h *lab.Host, image string) {
	t.Helper()
	out, err := h.Exec(t.Context(), "qemu-img", "info", "--output=json", image)
	require.NoError(t, err)
	var info struct {
		Format struct {
			Data struct{ Bitmaps []struct{ Name string } }
		} `json:"format-specific"`
	}
	require.NoError(t, json.Unmarshal(out, &info))
	require.NotEmpty(t, info.Format.Data.Bitmaps)
	for _, b := range info.Format.Data.Bitmaps {
		_, err := h.Exec(t.Context(), "qemu-img", "bitmap", "--clear", image, b.Name)
		require.NoError(t, err)
	}
}

// splits starts the source by hand after a failover. It is noticed and left running; nothing overwrites it before it is
// fenced. Before the failover it started with its host, since then it does not.
func (d *daemon) splits(t *testing.T, l *lab.Lab, guest *lab.Guest) {
	t.Helper()
	ctx := t.Context()
	require.False(t, autostarts(t, l.Source, guest.Name))
	require.True(t, autostarts(t, l.Target, guest.Name))
	_, err := l.Source.Virsh(ctx, "start", guest.Name)
	require.NoError(t, err)
	d.alerted(t, api.AlertSplitBrain)
	_, err = d.Failback(ctx, "web")
	require.Equal(t, api.CodeConflict, api.CodeOf(err), "%v", err)
	require.ErrorContains(t, err, "both sides")
	_, err = l.Source.Virsh(ctx, "destroy", guest.Name)
	require.NoError(t, err)
	d.alerted(t, api.AlertDiverged)
	_, err = l.Source.Virsh(ctx, "start", guest.Name)
	require.NoError(t, err)
	d.succeeded(d.Fence(ctx, "web"))
	state, err := l.Source.Virsh(ctx, "domstate", guest.Name)
	require.NoError(t, err)
	require.Contains(t, state, "shut off")
	g, err := d.GetGroup(ctx, "web")
	require.NoError(t, err)
	require.Empty(t, g.Alerts)
}

// alerted waits until just this alert is on.
func (d *daemon) alerted(t *testing.T, kind string) {
	t.Helper()
	require.Eventually(t, func() bool {
		g, err := d.GetGroup(t.Context(), "web")
		return err == nil && len(g.Alerts) == 1 && g.Alerts[0].Kind == kind
	}, waitFor, 200*time.Millisecond)
}

func autostarts(t *testing.T, h *lab.Host, machine string) bool {
	t.Helper()
	out, err := h.Virsh(t.Context(), "dominfo", machine)
	require.NoError(t, err)
	for line := range strings.Lines(out) {
		if name, value, _ := strings.Cut(line, ":"); name == "Autostart" {
			return strings.TrimSpace(value) == "enable"
		}
	}
	t.Fatalf("dominfo of %s says nothing of autostart: %s", machine, out)
	return false
}
