package kvm

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/hypervisors"
)

// smallStorage gives the target host a storage of a few megabytes for one test.
func smallStorage(t *testing.T, size string) string {
	t.Helper()
	const name, dir = "small", "/var/lib/libvirt/small"
	ctx := testContext(t)
	_, err := testLab.Target.Exec(ctx, "mkdir", "-p", dir)
	require.NoError(t, err)
	_, err = testLab.Target.Exec(ctx, "mount", "-t", "tmpfs", "-o", "size="+size, "small", dir)
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := testLab.Target.Exec(testContext(t), "umount", dir)
		require.NoError(t, err)
	})
	virsh(t, testLab.Target, "pool-create-as", name, "dir", "--target", dir)
	t.Cleanup(func() { virsh(t, testLab.Target, "pool-destroy", name) })
	return name
}

func TestFullStorage(t *testing.T) {
	w := newWorld(t)
	w.spec.Storage = smallStorage(t, "24M")
	w.spec.Hardware.Disks[0].Size = 64 * mib
	r := w.create()
	w.mustAdd(r, "p1", "p2")

	req := w.request("p3")
	req.ExpectBytes = 32 * mib
	_, err := r.Draft(w.ctx, req)
	require.ErrorIs(t, err, hypervisors.ErrNoSpace)
	require.NotEmpty(t, hypervisors.Hint(err))
	require.Equal(t, pointFiles("p1", "p2"), w.images(r))

	req.ExpectBytes = 0 // nobody knows
	d, err := r.Draft(w.ctx, req)
	require.NoError(t, err)
	noise := make([]byte, mib)
	fill(w.rng, noise)
	for off := int64(0); err == nil && off < 64*mib; off += mib {
		if _, err = d.Disks()[0].WriteAt(noise, off); err == nil {
			err = d.Disks()[0].Flush(w.ctx)
		}
	}
	require.ErrorIs(t, err, hypervisors.ErrNoSpace)
	require.Error(t, d.Commit(w.ctx, describe(req)), "what could not be written must not become a point")
	require.NoError(t, d.Discard(w.ctx))
	require.Equal(t, pointFiles("p1", "p2"), w.images(r))
	w.check(r)
	w.drop(r, "p1")
	w.check(r)

	// Even a manifest that cannot be written loses nothing.
	_, err = testLab.Target.Exec(w.ctx, "sh", "-c", "cat /dev/zero >/var/lib/libvirt/small/filler 2>/dev/null; exit 0")
	require.NoError(t, err)
	err = r.Drop(w.ctx, "p2")
	require.ErrorIs(t, err, hypervisors.ErrNoSpace)
	w.check(r)
	_, err = testLab.Target.Exec(w.ctx, "rm", "/var/lib/libvirt/small/filler")
	require.NoError(t, err)
	w.mustAdd(r, "p4")
	w.check(r)
}

func TestCancelledDraftLeavesNothing(t *testing.T) {
	w := newWorld(t)
	r := w.create()
	w.mustAdd(r, "p1")
	for _, after := range []time.Duration{0, 5 * time.Millisecond, 50 * time.Millisecond, 150 * time.Millisecond} {
		ctx, cancel := context.WithTimeout(w.ctx, after)
		d, err := r.Draft(ctx, w.request("p2"))
		cancel()
		if err == nil {
			err = d.Discard(w.ctx)
			require.NoError(t, err)
			continue
		}
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
	require.Equal(t, pointFiles("p1"), w.images(r))
	names, err := list(w.ctx, w.h.place, exportDir)
	require.NoError(t, err)
	require.Empty(t, names)
	w.check(r)
}
