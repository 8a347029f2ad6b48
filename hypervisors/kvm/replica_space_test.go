package kvm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/hypervisors"
	"understudy/snapshot"
	"understudy/snapshot/nbd"
	"understudy/snapshot/vhost"
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
	noise := make([]byte, 64*mib)
	fill(w.rng, noise)
	writeAll := func(disk hypervisors.DraftDisk) (err error) {
		for off := 0; err == nil && off < len(noise); off += mib {
			if _, err = disk.WriteAt(noise[off:off+mib], int64(off)); err == nil {
				err = disk.Flush(w.ctx)
			}
		}
		return err
	}
	copyAll := func(disk hypervisors.DraftDisk) error { return copyTo(w.ctx, disk, bytes.NewReader(noise)) }
	for _, write := range []func(hypervisors.DraftDisk) error{writeAll, copyAll} {
		d, err := r.Draft(w.ctx, req)
		require.NoError(t, err)
		require.ErrorIs(t, write(d.Disks()[0]), hypervisors.ErrNoSpace)
		require.Error(t, d.Commit(w.ctx, describe(req)), "what could not be written must not become a point")
		require.NoError(t, d.Discard(w.ctx))
		require.Equal(t, pointFiles("p1", "p2"), w.images(r))
	}
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

// copyTo copies like a cycle does.
func copyTo(ctx context.Context, disk hypervisors.DraftDisk, source *bytes.Reader) error {
	m, err := snapshot.OpenMap(ctx, disk.Map(), disk.Size())
	if err != nil {
		return err
	}
	_, err = snapshot.Copy(ctx, snapshot.Job{Source: source, Size: source.Size(), Extents: snapshot.Whole(source.Size()), Target: disk, Map: m})
	return errors.Join(err, disk.Flush(ctx))
}

// TestLane copies through shared memory, which hosts on this machine have and hosts behind SSH have not.
func TestLane(t *testing.T) {
	w := newWorld(t)
	r := w.create()
	d, err := r.Draft(w.ctx, w.request("p1"))
	require.NoError(t, err)
	defer func() { require.NoError(t, d.Discard(w.ctx)) }()
	disk := d.Disks()[0]
	loan, giveBack := disk.(snapshot.Lender).Lend(snapshot.CopyMemory)
	require.EqualValues(t, snapshot.CopyMemory, len(loan))
	giveBack()
	noise := make([]byte, disk.Size()-512) // the last block is not whole
	fill(w.rng, noise)
	lane := disk.(*draftDisk).lane
	require.Zero(t, lane.Writes())
	require.NoError(t, copyTo(w.ctx, disk, bytes.NewReader(noise)))
	require.Positive(t, lane.Writes())
	require.True(t, bytes.Equal(append(noise, make([]byte, 512)...), readBytes(t, disk, int(disk.Size()))))

	remote := served{}
	loan, giveBack = remote.Lend(512)
	require.Nil(t, loan)
	giveBack()
}

// dialed is a place of which only the sockets matter.
type dialed struct{ place }

func (dialed) Dial(ctx context.Context, name string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "unix", name)
}

// TestLaneIsOptional gives images lanes that are of no use. Only the end of ctx is an error.
func TestLaneIsOptional(t *testing.T) {
	dir := t.TempDir()
	listen := func(name string, serve func(net.Conn)) string {
		l, err := net.Listen("unix", filepath.Join(dir, name))
		require.NoError(t, err)
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for conn, err := l.Accept(); err == nil; conn, err = l.Accept() {
				serve(conn)
			}
		}()
		return l.Addr().String()
	}
	silent := make(chan net.Conn, 1)
	e := &export{place: dialed{}, log: testLog(t), lanes: map[string]string{
		"none":     filepath.Join(dir, "none"),
		"hangs up": listen("hangup", func(c net.Conn) { _ = c.Close() }),
		"garbage":  listen("garbage", func(c net.Conn) { _, _ = c.Write(make([]byte, 4096)) }),
		"silent":   listen("silent", func(c net.Conn) { silent <- c }),
	}}
	for _, name := range []string{"without", "none", "hangs up", "garbage"} {
		lane, err := e.openLane(t.Context(), name)
		require.NoError(t, err, name)
		require.Nil(t, lane, name)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-silent
		cancel()
	}()
	_, err := e.openLane(ctx, "silent")
	require.ErrorIs(t, err, context.Canceled)
}

// TestExportErrors gives a draft's errors their words. The daemon of this export lives, so none of them needs to wait for
// what it says when it ends, but a connection that is lost.
func TestExportErrors(t *testing.T) {
	for name, c := range map[string]struct {
		err   error
		is    error
		hint  string
		waits time.Duration
	}{
		"closed":          {nbd.ErrClosed, nbd.ErrClosed, "", 0},
		"lane closed":     {fmt.Errorf("write: %w", vhost.ErrClosed), vhost.ErrClosed, "", 0},
		"stalled":         {nbd.ErrStalled, hypervisors.ErrTimeout, "Look whether the storage", 0},
		"lane stalled":    {vhost.ErrStalled, hypervisors.ErrTimeout, "Look whether the storage", 0},
		"answered":        {&nbd.Error{Op: "write", Errno: uint32(syscall.EIO)}, syscall.EIO, "The next cycle", 0},
		"answered: full":  {&nbd.Error{Op: "write", Errno: uint32(syscall.ENOSPC)}, hypervisors.ErrNoSpace, "Free space", 0},
		"connection lost": {io.ErrUnexpectedEOF, io.ErrUnexpectedEOF, "The next cycle", time.Second},
		"lane lost":       {vhost.ErrGone, vhost.ErrGone, "The next cycle", time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &served{export: &export{proc: &process{done: make(chan struct{})}}, subject: "disk"}
				start := time.Now()
				err := s.outcome("write to", c.err)
				require.Equal(t, c.waits, time.Since(start))
				require.ErrorIs(t, err, c.is)
				require.True(t, s.broken.Load())
				if c.hint == "" {
					require.Equal(t, c.err, err)
					return
				}
				require.Contains(t, hypervisors.Hint(err), c.hint)
			})
		})
	}
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
