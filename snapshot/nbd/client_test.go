package nbd_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/snapshot"
	"understudy/snapshot/nbd"
)

const mib = 1 << 20

func random(seed uint64, n int) []byte {
	b := make([]byte, n)
	var key [32]byte
	key[0] = byte(seed)
	_, _ = rand.NewChaCha8(key).Read(b)
	return b
}

func collect(t *testing.T, c *nbd.Client, name string) []nbd.Extent {
	t.Helper()
	var all []nbd.Extent
	for e, err := range c.Extents(t.Context(), name) {
		require.NoError(t, err)
		all = append(all, e)
	}
	return all
}

func TestWriteReadZeroTrimOnQcow2(t *testing.T) {
	dir := temp(t)
	image := filepath.Join(dir, "disk.qcow2")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", image, "64M")
	c := dial(t, storageDaemon(t, dir, "qcow2", image), nbd.Options{Export: "disk", Contexts: []string{nbd.Allocation}})
	require.Equal(t, int64(64*mib), c.Size())
	require.False(t, c.ReadOnly())

	want := make([]byte, 64*mib)
	data := random(1, 40*mib) // larger than the largest request
	copy(want[3*mib:], data)
	n, err := c.WriteAt(data, 3*mib)
	require.NoError(t, err)
	require.Equal(t, len(data), n)
	clear(want[10*mib : 20*mib])
	require.NoError(t, c.Zero(10*mib, 10*mib))
	require.NoError(t, c.Trim(50*mib, mib))
	require.NoError(t, c.Flush(t.Context()))

	got := make([]byte, 64*mib)
	n, err = c.ReadAt(got, 0)
	require.NoError(t, err)
	require.Equal(t, len(got), n)
	require.True(t, bytes.Equal(want, got))

	var ranges []snapshot.Extent
	for e, err := range c.Allocated(t.Context()) {
		require.NoError(t, err)
		ranges = append(ranges, e)
	}
	require.Equal(t, []snapshot.Extent{
		{Offset: 0, Length: 3 * mib, Zero: true},
		{Offset: 3 * mib, Length: 7 * mib},
		{Offset: 10 * mib, Length: 10 * mib, Zero: true},
		{Offset: 20 * mib, Length: 23 * mib},
		{Offset: 43 * mib, Length: 21 * mib, Zero: true},
	}, ranges)
}

func TestReadAtTheEnd(t *testing.T) {
	dir := temp(t)
	image := filepath.Join(dir, "disk.raw")
	data := random(2, 3*mib+512)
	require.NoError(t, os.WriteFile(image, data, 0o600))
	c := dial(t, storageDaemon(t, dir, "raw", image), nbd.Options{Export: "disk"})
	for e, err := range c.Allocated(t.Context()) {
		require.NoError(t, err)
		require.Equal(t, snapshot.Extent{Length: c.Size()}, e, "nothing is known without the context")
	}
	buf := make([]byte, mib)
	n, err := c.ReadAt(buf, 3*mib)
	require.Equal(t, 512, n)
	require.ErrorIs(t, err, io.EOF)
	require.Equal(t, data[3*mib:], buf[:n])
	_, err = c.ReadAt(buf, c.Size())
	require.ErrorIs(t, err, io.EOF)
	_, err = c.WriteAt(buf, c.Size()-512)
	require.ErrorContains(t, err, "exceeds")
	require.Error(t, c.Zero(-1, 1))
}

// TestManyAtOnce mixes reads and writes of many goroutines over several connections.
func TestManyAtOnce(t *testing.T) {
	dir := temp(t)
	socket := filepath.Join(dir, "s")
	serve(t, socket, "nbdkit", "-f", "-U", socket, "memory", "size=64M")
	var connections atomic.Int32
	c, err := nbd.Dial(t.Context(), func(ctx context.Context) (net.Conn, error) {
		connections.Add(1)
		return unix(socket)(ctx)
	}, nbd.Options{Connections: 4})
	require.NoError(t, err)
	defer c.Close()
	var wg sync.WaitGroup
	for worker := range 16 {
		wg.Go(func() {
			base := int64(worker) * 4 * mib
			for round := range 20 {
				data, back := random(uint64(worker*100+round), mib/2), make([]byte, mib/2)
				off := base + int64(round%7)*mib/2
				if _, err := c.WriteAt(data, off); err != nil {
					t.Errorf("write: %v", err)
				}
				if _, err := c.ReadAt(back, off); err != nil || !bytes.Equal(data, back) {
					t.Errorf("worker %d round %d: not what was written (%v)", worker, round, err)
				}
			}
		})
	}
	wg.Wait()
	require.Eventually(t, func() bool { return connections.Load() == 4 }, patience, patience/10000)
}

// TestDirtyBitmap reads a persistent bitmap together with the allocation.
func TestDirtyBitmap(t *testing.T) {
	dir := temp(t)
	image, socket := filepath.Join(dir, "disk.qcow2"), filepath.Join(dir, "s")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", image, "64M")
	run(t, "qemu-io", "-f", "qcow2", "-c", "write 0 1M", image)
	run(t, "qemu-img", "bitmap", "--add", "-g", "65536", image, "since")
	run(t, "qemu-io", "-f", "qcow2", "-c", "write 8M 64k", "-c", "write 8257536 64k", "-c", "write -z 32M 1M", image)
	serve(t, socket, "qemu-nbd", "-r", "-t", "-k", socket, "-f", "qcow2", "-B", "since", "-x", "disk", image)
	bitmap := nbd.Bitmap("since")
	c := dial(t, socket, nbd.Options{Export: "disk", Contexts: []string{nbd.Allocation, bitmap}})
	require.True(t, c.ReadOnly())
	dirty := []nbd.Extent{
		{Offset: 0, Length: 8*mib - 2*65536},
		{Offset: 8*mib - 2*65536, Length: 65536, Flags: nbd.FlagDirty},
		{Offset: 8*mib - 65536, Length: 65536},
		{Offset: 8 * mib, Length: 65536, Flags: nbd.FlagDirty},
		{Offset: 8*mib + 65536, Length: 24*mib - 65536},
		{Offset: 32 * mib, Length: mib, Flags: nbd.FlagDirty},
		{Offset: 33 * mib, Length: 31 * mib},
	}
	require.Equal(t, dirty, collect(t, c, bitmap))
	allocated := collect(t, c, nbd.Allocation)
	require.Equal(t, nbd.Extent{Offset: 0, Length: mib}, allocated[0])

	var changed []snapshot.Extent
	for e, err := range c.Changed(t.Context(), "since") {
		require.NoError(t, err)
		changed = append(changed, e)
	}
	require.Equal(t, []snapshot.Extent{
		{Offset: 8*mib - 2*65536, Length: 65536}, {Offset: 8 * mib, Length: 65536}, {Offset: 32 * mib, Length: mib, Zero: true},
	}, changed)

	_, err := c.WriteAt([]byte{1}, 0)
	require.ErrorIs(t, err, nbd.ErrReadOnly)
	require.ErrorIs(t, c.Zero(0, 1), nbd.ErrReadOnly)
	require.NoError(t, c.Flush(t.Context()))
	for _, err := range c.Extents(t.Context(), "qemu:dirty-bitmap:other") {
		require.ErrorIs(t, err, nbd.ErrNoContext)
	}
}

func TestHandshakeRefusals(t *testing.T) {
	dir := temp(t)
	image := filepath.Join(dir, "disk.raw")
	require.NoError(t, os.WriteFile(image, make([]byte, mib), 0o600))
	socket := storageDaemon(t, dir, "raw", image)
	_, err := nbd.Dial(t.Context(), unix(socket), nbd.Options{Export: "other"})
	require.ErrorIs(t, err, nbd.ErrNoExport)
	_, err = nbd.Dial(t.Context(), unix(socket), nbd.Options{Export: "disk", Contexts: []string{nbd.Bitmap("gone")}})
	require.ErrorIs(t, err, nbd.ErrNoContext)
	require.ErrorContains(t, err, "gone")
	_, err = nbd.Dial(t.Context(), unix(socket), nbd.Options{Export: "disk", TLS: &tls.Config{ServerName: "server.test"}})
	require.ErrorIs(t, err, nbd.ErrTLS)
	_, err = nbd.Dial(t.Context(), unix(filepath.Join(dir, "none")), nbd.Options{})
	require.ErrorIs(t, err, os.ErrNotExist)
	names, err := nbd.List(t.Context(), unix(socket), nil)
	require.NoError(t, err)
	require.Equal(t, []string{"disk"}, names)
}

func TestMutualTLS(t *testing.T) {
	dir, ca := temp(t), newAuthority(t)
	image, socket := filepath.Join(dir, "disk.raw"), filepath.Join(dir, "s")
	data := random(3, 8*mib)
	require.NoError(t, os.WriteFile(image, data, 0o600))
	serve(t, socket, "qemu-nbd", "-t", "-k", socket, "-f", "raw", "-x", "disk", "-e", "8",
		"--object", "tls-creds-x509,id=tls,endpoint=server,verify-peer=yes,dir="+ca.serverFiles(), "--tls-creds", "tls", image)
	good := &tls.Config{
		ServerName: "server.test", RootCAs: ca.pool(),
		Certificates: []tls.Certificate{ca.issue("client.test", x509.ExtKeyUsageClientAuth)},
	}
	c := dial(t, socket, nbd.Options{Export: "disk", TLS: good, Contexts: []string{nbd.Allocation}})
	got := make([]byte, len(data))
	_, err := c.ReadAt(got, 0)
	require.NoError(t, err)
	require.True(t, bytes.Equal(data, got))
	_, err = c.WriteAt(data[:mib], mib)
	require.NoError(t, err)
	require.NoError(t, c.Flush(t.Context()))
	names, err := nbd.List(t.Context(), unix(socket), good)
	require.NoError(t, err)
	require.Equal(t, []string{"disk"}, names)

	_, err = nbd.Dial(t.Context(), unix(socket), nbd.Options{Export: "disk"})
	require.ErrorIs(t, err, nbd.ErrTLS, "the server insists on TLS")
	stranger := newAuthority(t)
	for name, cfg := range map[string]*tls.Config{
		"no client certificate":     {ServerName: "server.test", RootCAs: ca.pool()},
		"foreign client":            {ServerName: "server.test", RootCAs: ca.pool(), Certificates: []tls.Certificate{stranger.issue("client.test", x509.ExtKeyUsageClientAuth)}},
		"server of another name":    {ServerName: "other.test", RootCAs: ca.pool(), Certificates: good.Certificates},
		"server nobody vouches for": {ServerName: "server.test", RootCAs: stranger.pool(), Certificates: good.Certificates},
	} {
		_, err = nbd.Dial(t.Context(), unix(socket), nbd.Options{Export: "disk", TLS: cfg})
		require.Error(t, err, name)
	}
}

func TestServerErrorsKeepTheConnection(t *testing.T) {
	dir := temp(t)
	socket, full := filepath.Join(dir, "s"), filepath.Join(dir, "full")
	serve(t, socket, "nbdkit", "-f", "-U", socket, "--filter=error", "memory", "size=4M", "error-pwrite=ENOSPC",
		"error-pwrite-rate=100%", "error-pwrite-file="+full)
	c := dial(t, socket, nbd.Options{})
	require.NoError(t, os.WriteFile(full, nil, 0o600))
	_, err := c.WriteAt(random(1, mib), 0)
	require.ErrorIs(t, err, syscall.ENOSPC)
	var e *nbd.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, "write", e.Op)
	require.Equal(t, int64(mib), e.Length)
	require.NoError(t, os.Remove(full))
	_, err = c.WriteAt(random(1, mib), 0)
	require.NoError(t, err)
}

func TestServerDies(t *testing.T) {
	dir := temp(t)
	socket := filepath.Join(dir, "s")
	server := serve(t, socket, "nbdkit", "-f", "-U", socket, "--filter=delay", "memory", "size=4M", "delay-read=3600")
	c := dial(t, socket, nbd.Options{Contexts: []string{nbd.Allocation}})
	failed := make(chan error, 1)
	go func() {
		_, err := c.ReadAt(make([]byte, mib), 0)
		failed <- err
	}()
	collect(t, c, nbd.Allocation)
	require.NoError(t, server.Kill())
	require.Error(t, <-failed)
	require.Eventually(t, func() bool { _, err := c.WriteAt([]byte{1}, 0); return err != nil }, patience, patience/10000)
	require.Error(t, c.Flush(t.Context()))
	require.NoError(t, c.Close())
}

func TestCloseInterruptsRequests(t *testing.T) {
	dir := temp(t)
	socket := filepath.Join(dir, "s")
	serve(t, socket, "nbdkit", "-f", "-U", socket, "--filter=delay", "memory", "size=4M", "delay-read=3600")
	c := dial(t, socket, nbd.Options{})
	failed := make(chan error, 8)
	for range cap(failed) {
		go func() {
			_, err := c.ReadAt(make([]byte, mib), 0)
			failed <- err
		}()
	}
	require.NoError(t, c.Close())
	for range cap(failed) {
		require.ErrorIs(t, <-failed, nbd.ErrClosed)
	}
	require.NoError(t, c.Close())
	_, err := c.WriteAt([]byte{1}, 0)
	require.ErrorIs(t, err, nbd.ErrClosed)
}

// mute is a peer that accepts and never answers.
func mute(t *testing.T) nbd.Dialer {
	return func(context.Context) (net.Conn, error) {
		ours, theirs := net.Pipe()
		t.Cleanup(func() { _ = theirs.Close() })
		return ours, nil
	}
}

func TestDialContextEndsHandshake(t *testing.T) {
	reason := errors.New("had enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(reason)
	_, err := nbd.Dial(ctx, mute(t), nbd.Options{})
	require.ErrorIs(t, err, reason)

	ctx, cancel = context.WithCancelCause(t.Context())
	_, err = nbd.Dial(ctx, func(ctx context.Context) (net.Conn, error) {
		defer cancel(reason)
		return mute(t)(ctx)
	}, nbd.Options{})
	require.ErrorIs(t, err, reason)
}
