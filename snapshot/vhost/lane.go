// Package vhost writes to a disk that a process of this machine serves, through memory that both share: what lies in
// that memory reaches the disk without passing a socket, which is most of what copying to a local disk costs.
//
// It owns the front end of vhost-user-blk as qemu-storage-daemon serves it: the handshake and one virtqueue, for
// writing only. Reading, zeros and flushes go through the NBD export of the same disk; see [Lane].
//
// Sources: QEMU's vhost-user specification (docs/interop/vhost-user), and Virtual I/O Device 1.2, sections 2.7 (split
// virtqueues) and 5.2 (block device).
package vhost

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

var (
	// ErrClosed means that the lane was closed by its user.
	ErrClosed = errors.New("vhost: lane closed")
	// ErrGone means that the server went away.
	ErrGone = errors.New("vhost: server went away")
	// ErrStalled means that the server took requests and finished none for as long as the lane's patience.
	ErrStalled = errors.New("vhost: server does not answer")
	// ErrFailed is a write that the server could not do. It does not say why; the same write over NBD does.
	ErrFailed = errors.New("vhost: write failed")
	// ErrProtocol means that the server does not speak vhost-user as it should.
	ErrProtocol = errors.New("vhost: protocol violation")
)

// SectorSize is the unit of offsets and lengths in bytes, whatever the disk's own sectors are.
const SectorSize = 512

// defaultPatience is that of the NBD client.
const defaultPatience = time.Minute

// Options say how to open a lane.
type Options struct {
	// Memory is how much can be lent at once, in bytes.
	Memory int64
	// Patience is how long the server may owe answers without giving any, before the lane ends with ErrStalled. 0: a minute.
	Patience time.Duration
}

// Lane writes from memory that it lends. It is safe for concurrent use. A write that has returned may still be in a
// cache of the server, like any other; a flush of the same disk through another export makes it durable.
type Lane struct {
	conn     *net.UnixConn
	mem      []byte  // shared: the ring, then what is lent
	base     uintptr // of mem
	size     int64   // of mem
	ring     *ring
	kick     *os.File // tells the server that there are requests
	call     *os.File // tells us that some are done
	patience time.Duration

	free chan int // idle slots of the ring
	wait [slots]chan byte
	sent atomic.Uint64 // requests
	done atomic.Uint64 // requests that were answered

	ended chan struct{} // closed after why is set
	loops sync.WaitGroup

	mu   sync.Mutex // guards what follows
	why  error
	lent bool
	uses int // who may still touch mem: the loan, writes, and complete
}

// Open takes over a fresh connection to a vhost-user-blk server and agrees on memory and a queue. The connection is
// closed when that fails, and with the lane. A hung server is interrupted by the connection's deadline, or by closing it.
func Open(conn *net.UnixConn, o Options) (*Lane, error) {
	if o.Patience == 0 {
		o.Patience = defaultPatience
	}
	l := &Lane{conn: conn, patience: o.Patience, free: make(chan int, slots), ended: make(chan struct{})}
	for i := range slots {
		l.free <- i
		l.wait[i] = make(chan byte, 1)
	}
	if err := l.open(o.Memory); err != nil {
		l.release()
		_ = conn.Close()
		return nil, fmt.Errorf("vhost: %w", err)
	}
	l.uses = 1
	l.loops.Go(l.complete)
	l.loops.Go(l.attend)
	return l, nil
}

func (l *Lane) open(memory int64) error {
	l.size = ringBytes + memory
	fd, err := unix.MemfdCreate("understudy-lane", unix.MFD_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, l.size); err != nil {
		return err
	}
	if l.mem, err = unix.Mmap(fd, 0, int(l.size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return err
	}
	l.base, l.ring = uintptr(unsafe.Pointer(&l.mem[0])), newRing(l.mem)
	if l.kick, err = event("kick"); err != nil {
		return err
	}
	if l.call, err = event("call"); err != nil {
		return err
	}
	return shake(l.conn, fd, l.size, l.kick, l.call)
}

// event makes an eventfd that Go's poller watches.
func event(name string) (*os.File, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Lend gives out n bytes to write from, until giveBack is called; nothing of them may be touched afterwards. There is one
// loan at a time; it is nil while there is another, when n is more than the lane's memory, and after the lane's end.
func (l *Lane) Lend(n int64) (loan []byte, giveBack func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.why != nil || l.lent || n > l.size-ringBytes {
		return nil, func() {}
	}
	l.lent = true
	l.uses++
	return l.mem[ringBytes : ringBytes+n : ringBytes+n], sync.OnceFunc(func() {
		l.mu.Lock()
		l.lent = false
		l.mu.Unlock()
		l.leave()
	})
}

// within is where in the shared memory p lies.
func (l *Lane) within(p []byte) (at int64, ok bool) {
	at = int64(uintptr(unsafe.Pointer(unsafe.SliceData(p))) - l.base)
	return at, at >= ringBytes && at+int64(len(p)) <= l.size
}

// Takes says whether p lies in lent memory and on whole sectors, so that WriteAt can write it.
func (l *Lane) Takes(p []byte, off int64) bool {
	_, ok := l.within(p)
	return ok && len(p) > 0 && off%SectorSize == 0 && len(p)%SectorSize == 0
}

// WriteAt implements io.WriterAt for what [Lane.Takes]. It is interrupted by Close.
func (l *Lane) WriteAt(p []byte, off int64) (int, error) {
	at, _ := l.within(p)
	if !l.Takes(p, off) {
		return 0, fmt.Errorf("vhost: %d bytes at %d are not lent memory, or not whole sectors", len(p), off)
	}
	if err := l.enter(); err != nil {
		return 0, err
	}
	defer l.leave()
	var slot int
	select {
	case slot = <-l.free:
	case <-l.ended:
		return 0, l.why
	}
	l.sent.Add(1)
	if l.ring.submit(slot, off/SectorSize, at, len(p)) {
		if _, err := l.kick.Write(one); err != nil {
			l.fail(fmt.Errorf("%w: %w", ErrGone, err))
		}
	}
	select {
	case status := <-l.wait[slot]:
		l.free <- slot
		if status != statusOK {
			return 0, fmt.Errorf("%w: status %d, %d bytes at %d", ErrFailed, status, len(p), off)
		}
		return len(p), nil
	case <-l.ended: // the slot stays taken: the server may still look at it
		return 0, l.why
	}
}

// Writes counts the writes that the server has answered, well or not.
func (l *Lane) Writes() int64 { return int64(l.done.Load()) }

// one is what an eventfd counts.
var one = binary.NativeEndian.AppendUint64(nil, 1)

// complete hands answers to those who wait for them.
func (l *Lane) complete() {
	defer l.leave()
	var count [8]byte
	for {
		if _, err := l.call.Read(count[:]); err != nil {
			l.fail(fmt.Errorf("%w: %w", ErrGone, err))
			return
		}
		if err := l.ring.collect(func(slot int, status byte) {
			l.done.Add(1)
			l.wait[slot] <- status // has room: there is one answer for each request
		}); err != nil {
			l.fail(err)
			return
		}
	}
}

// attend notices a server that went away or hangs. After the handshake a server says nothing by itself.
func (l *Lane) attend() {
	var b [1]byte
	done, owed := uint64(0), false
	for {
		_ = l.conn.SetReadDeadline(time.Now().Add(l.patience))
		if _, err := l.conn.Read(b[:]); !errors.Is(err, os.ErrDeadlineExceeded) {
			l.fail(fmt.Errorf("%w: it hung up", ErrGone))
			return
		}
		if owed && l.done.Load() == done {
			l.fail(ErrStalled)
			return
		}
		done = l.done.Load()
		owed = l.sent.Load() > done
	}
}

// Close ends the lane; writes in flight fail with ErrClosed. Closing twice is success.
func (l *Lane) Close() error {
	l.fail(ErrClosed)
	l.loops.Wait()
	return nil
}

// fail ends everything with the first reason given.
func (l *Lane) fail(why error) {
	l.mu.Lock()
	first := l.why == nil
	if first {
		l.why = why
	}
	l.mu.Unlock()
	if !first {
		return
	}
	close(l.ended)
	_ = l.conn.Close()
	_ = l.call.Close()
}

// enter begins a use of the memory.
func (l *Lane) enter() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.why != nil {
		return l.why
	}
	l.uses++
	return nil
}

// leave ends one; after the last one of a lane that ended, the memory goes. The server keeps its own view of it.
func (l *Lane) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.uses--; l.uses == 0 && l.why != nil {
		l.release()
	}
}

func (l *Lane) release() {
	for _, f := range []*os.File{l.kick, l.call} {
		if f != nil {
			_ = f.Close()
		}
	}
	if l.mem != nil {
		_ = unix.Munmap(l.mem)
		l.mem = nil
	}
}
