package vhost_test

import (
	"bytes"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/snapshot/vhost"
)

const (
	mib      = 1 << 20
	diskSize = 32 * mib
	memory   = 4 * mib
	patience = 2 * time.Minute
)

// disk is a raw image that a qemu-storage-daemon serves.
type disk struct {
	t      *testing.T
	image  string
	socket string
	daemon *exec.Cmd
}

func newDisk(t *testing.T) *disk {
	dir, err := os.MkdirTemp("", "vhost") // short enough for a socket's address
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	d := &disk{t: t, image: filepath.Join(dir, "disk.raw"), socket: filepath.Join(dir, "lane")}
	f, err := os.Create(d.image)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(diskSize))
	require.NoError(t, f.Close())
	d.daemon = exec.Command("qemu-storage-daemon", "--blockdev", "driver=file,node-name=disk,filename="+d.image,
		"--export", "type=vhost-user-blk,id=lane,node-name=disk,writable=on,addr.type=unix,addr.path="+d.socket)
	d.daemon.Stderr = os.Stderr
	require.NoError(t, d.daemon.Start())
	t.Cleanup(func() {
		_ = d.daemon.Process.Kill()
		_ = d.daemon.Wait()
	})
	return d
}

func (d *disk) open(o vhost.Options) *vhost.Lane {
	d.t.Helper()
	var conn net.Conn
	require.Eventually(d.t, func() bool {
		var err error
		conn, err = net.Dial("unix", d.socket)
		return err == nil
	}, patience, time.Millisecond)
	require.NoError(d.t, conn.SetDeadline(time.Now().Add(patience)))
	l, err := vhost.Open(conn.(*net.UnixConn), o)
	require.NoError(d.t, err)
	d.t.Cleanup(func() { require.NoError(d.t, l.Close()) })
	return l
}

func (d *disk) content() []byte {
	d.t.Helper()
	b, err := os.ReadFile(d.image)
	require.NoError(d.t, err)
	return b
}

func fill(r *rand.ChaCha8, p []byte) { _, _ = r.Read(p) }

// TestWrites writes pieces of all sizes from many goroutines, more of them than the queue has room for.
func TestWrites(t *testing.T) {
	d := newDisk(t)
	l := d.open(vhost.Options{Memory: memory})
	loan, giveBack := l.Lend(memory)
	require.Len(t, loan, memory)
	want := make([]byte, diskSize)
	const writers, share = 64, diskSize / 64
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			r := rand.NewChaCha8([32]byte{byte(w)})
			buf := loan[w*memory/writers : (w+1)*memory/writers]
			for range 50 {
				n := (1 + int(r.Uint64()%uint64(len(buf)/vhost.SectorSize))) * vhost.SectorSize
				off := w*share + int(r.Uint64()%uint64((share-n)/vhost.SectorSize))*vhost.SectorSize
				fill(r, buf[:n])
				copy(want[off:], buf[:n])
				if written, err := l.WriteAt(buf[:n], int64(off)); err != nil || written != n {
					t.Errorf("write %d bytes at %d: %d, %v", n, off, written, err)
				}
			}
		})
	}
	all.Wait()
	require.EqualValues(t, writers*50, l.Writes())
	giveBack()
	require.NoError(t, l.Close())
	require.True(t, bytes.Equal(want, d.content()))
}

func TestLoans(t *testing.T) {
	d := newDisk(t)
	l := d.open(vhost.Options{Memory: memory})
	none, _ := l.Lend(memory + 1)
	require.Nil(t, none)
	loan, giveBack := l.Lend(mib)
	require.Len(t, loan, mib)
	second, _ := l.Lend(mib)
	require.Nil(t, second)
	giveBack()
	giveBack() // once is enough, twice no harm
	loan, giveBack = l.Lend(memory)
	require.Len(t, loan, memory)

	for name, c := range map[string]struct {
		p   []byte
		off int64
	}{
		"foreign memory": {make([]byte, 512), 0},
		"odd length":     {loan[:513], 0},
		"odd offset":     {loan[:512], 1},
		"nothing":        {loan[:0], 0},
	} {
		require.False(t, l.Takes(c.p, c.off), name)
		_, err := l.WriteAt(c.p, c.off)
		require.Error(t, err, name)
	}
	require.True(t, l.Takes(loan[512:1024], 512))
	_, err := l.WriteAt(loan[:512], diskSize)
	require.ErrorIs(t, err, vhost.ErrFailed, "beyond the end")
	_, err = l.WriteAt(loan[:512], 0)
	require.NoError(t, err, "one failed write is not the end")

	require.NoError(t, l.Close())
	loan[0] = 1 // the memory stays while it is lent
	_, err = l.WriteAt(loan[:512], 0)
	require.ErrorIs(t, err, vhost.ErrClosed)
	giveBack()
	none, _ = l.Lend(512)
	require.Nil(t, none)
}

// TestTrouble lets the server die, hang, and hang while the lane is closed, each with writes in flight.
func TestTrouble(t *testing.T) {
	stop := func(d *disk) { require.NoError(d.t, d.daemon.Process.Signal(syscall.SIGSTOP)) }
	for name, c := range map[string]struct {
		before, during func(*disk, *vhost.Lane)
		patience       time.Duration
		want           error
	}{
		"killed":  {nil, func(d *disk, _ *vhost.Lane) { require.NoError(t, d.daemon.Process.Kill()) }, 0, vhost.ErrGone},
		"stopped": {func(d *disk, _ *vhost.Lane) { stop(d) }, nil, 50 * time.Millisecond, vhost.ErrStalled},
		"closed":  {func(d *disk, _ *vhost.Lane) { stop(d) }, func(_ *disk, l *vhost.Lane) { require.NoError(t, l.Close()) }, 0, vhost.ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDisk(t)
			l := d.open(vhost.Options{Memory: memory, Patience: c.patience})
			loan, giveBack := l.Lend(memory)
			require.NotNil(t, loan)
			defer giveBack()
			if c.before != nil {
				c.before(d, l)
			}
			ended := make(chan error, 4)
			for w := range cap(ended) {
				go func() {
					for {
						if _, err := l.WriteAt(loan[w*mib:][:mib], int64(w)*mib); err != nil {
							ended <- err
							return
						}
					}
				}()
			}
			if c.during != nil {
				c.during(d, l)
			}
			for range cap(ended) {
				require.ErrorIs(t, <-ended, c.want)
			}
		})
	}
}
