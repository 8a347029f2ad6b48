// Package nbd reads and writes exports of NBD servers (QEMU's pull backups, qemu-storage-daemon, qemu-nbd, nbdkit).
//
// It owns the protocol: fixed newstyle handshake, STARTTLS, structured replies, meta contexts, many requests in flight
// on one connection, and several connections where the server allows it. It never starts a server, never decides what
// to read, and does not retry: a connection that broke stays broken.
//
// Every number a server sends is checked before it is used; a server that lies, hangs or dies yields errors.
package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"understudy/snapshot"
)

// Dialer opens one connection to the server. It is called again for every further connection, also after Dial returned.
type Dialer func(ctx context.Context) (net.Conn, error)

// Options say what to open and how.
type Options struct {
	// Export is the export's name; empty is the server's default export.
	Export string
	// Contexts are the meta contexts that Extents will be asked for: [Allocation], [Bitmap] of a name. Dial fails with
	// ErrNoContext when the export lacks one.
	Contexts []string
	// TLS, when set, is insisted on. ServerName must be set in it unless verification is done otherwise.
	TLS *tls.Config
	// Connections is how many to use at most when the server lets several see one disk (its multi-conn flag). 0: 2.
	Connections int
	// Patience is how long a server may owe replies without anything moving, before the connection is cut with
	// ErrStalled. Flush is exempt. 0: a minute; negative: for ever.
	Patience time.Duration
}

const (
	defaultConnections = 2
	writeBuffer        = 1 << 20
	defaultPatience    = time.Minute
)

// Client is one open export, safe for concurrent use. It is a [snapshot.Disk].
type Client struct {
	export
	conns atomic.Pointer[[]*conn] // grows only, under mu
	next  atomic.Uint32
	idle  sync.Pool // of *request

	mu     sync.Mutex
	closed bool
	cancel context.CancelFunc // ends the dialing of further connections
	joins  sync.WaitGroup
}

var _ snapshot.Disk = (*Client)(nil)

// Dial opens an export. It returns as soon as the first connection stands; the others join while requests already
// run, because a server may leave them waiting (qemu-nbd admits one client unless told otherwise). ctx bounds the first
// handshake only.
func Dial(ctx context.Context, dial Dialer, o Options) (*Client, error) {
	first, err := connect(ctx, dial, o)
	if err != nil {
		return nil, err
	}
	c := &Client{export: first.export}
	c.conns.Store(&[]*conn{first})
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c.cancel = cancel
	if o.Connections == 0 {
		o.Connections = defaultConnections
	}
	if c.flags&flagMultiConn == 0 {
		o.Connections = 1
	}
	for range o.Connections - 1 {
		c.joins.Go(func() { c.join(life, dial, o) })
	}
	return c, nil
}

// connect opens one connection and negotiates.
func connect(ctx context.Context, dial Dialer, o Options) (*conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	raw, err := dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("nbd: connect: %w", err)
	}
	if b, ok := raw.(interface{ SetWriteBuffer(int) error }); ok {
		_ = b.SetWriteBuffer(writeBuffer) // fewer, longer turns between us and the server; without it, slower
	}
	h := &handshake{nc: raw}
	var e export
	err = interruptible(ctx, raw, func() (err error) {
		e, err = h.open(o)
		return err
	})
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	n := newConn(raw, h.nc, e)
	go n.receive()
	if o.Patience == 0 {
		o.Patience = defaultPatience
	}
	if o.Patience > 0 {
		go n.watch(o.Patience)
	}
	return n, nil
}

// join adds one more connection if it shows the same disk. Failing is no error: the client works without it.
func (c *Client) join(ctx context.Context, dial Dialer, o Options) {
	n, err := connect(ctx, dial, o)
	if err != nil {
		return
	}
	c.mu.Lock()
	ok := !c.closed && n.size == c.size && n.flags == c.flags && n.maxBlock == c.maxBlock
	if ok {
		conns := append([]*conn(nil), *c.conns.Load()...)
		conns = append(conns, n)
		c.conns.Store(&conns)
	}
	c.mu.Unlock()
	if !ok {
		n.close()
	}
}

// List names the exports of a server. tlsConfig may be nil.
func List(ctx context.Context, dial Dialer, tlsConfig *tls.Config) ([]string, error) {
	raw, err := dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("nbd: connect: %w", err)
	}
	defer raw.Close()
	var names []string
	err = interruptible(ctx, raw, func() (err error) {
		if b, ok := raw.(interface{ SetWriteBuffer(int) error }); ok {
			_ = b.SetWriteBuffer(writeBuffer) // fewer, longer turns between us and the server; without it, slower
		}
		h := &handshake{nc: raw}
		if err = h.start(tlsConfig); err == nil {
			names, err = h.list()
		}
		return err
	})
	return names, err
}

// Close ends all connections; requests in flight on other goroutines fail with ErrClosed. It does not flush. Closing
// twice is success.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	var all sync.WaitGroup
	for _, n := range *c.conns.Load() {
		all.Go(n.close)
	}
	all.Wait()
	c.joins.Wait()
	return nil
}

// Size of the export in bytes.
func (c *Client) Size() int64 { return c.size }

// ReadOnly says that the server takes no writes.
func (c *Client) ReadOnly() bool { return c.flags&flagReadOnly != 0 }

// conn picks the connection for the next request.
func (c *Client) conn() *conn {
	conns := *c.conns.Load()
	return conns[int(c.next.Add(1))%len(conns)]
}

// request takes one that is idle, or a new one: a copy makes no garbage.
func (c *Client) request(cmd command, off, length int64) *request {
	r, ok := c.idle.Get().(*request)
	if !ok {
		r = &request{done: make(chan struct{}, 1)}
	}
	r.cmd, r.off, r.length, r.filled, r.spans, r.err = cmd, off, length, 0, r.spans[:0], nil
	return r
}

// free gives a finished request back. One that may still be answered must not be given back.
func (c *Client) free(r *request) {
	r.buf, r.extents = nil, r.extents[:0]
	c.idle.Put(r)
}

// run makes one request without a context: it ends with the reply or with the connection.
func (c *Client) run(r *request, payload []byte) error {
	err := c.conn().do(context.Background(), r, payload)
	c.free(r)
	return err
}

// ReadAt implements io.ReaderAt; it is interrupted by Close.
func (c *Client) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("nbd: read at %d", off)
	}
	if off >= c.size {
		return 0, io.EOF
	}
	want := p[:min(int64(len(p)), c.size-off)]
	for n < len(want) {
		part := want[n : n+int(min(int64(len(want)-n), c.maxBlock))]
		r := c.request(cmdRead, off+int64(n), int64(len(part)))
		r.buf = part
		if err := c.run(r, nil); err != nil {
			return n, err
		}
		n += len(part)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt implements io.WriterAt; it is interrupted by Close. A full target is errors.Is(err, syscall.ENOSPC).
func (c *Client) WriteAt(p []byte, off int64) (n int, err error) {
	if err := c.writable(cmdWrite, off, int64(len(p))); err != nil {
		return 0, err
	}
	for n < len(p) {
		part := p[n : n+int(min(int64(len(p)-n), c.maxBlock))]
		if err := c.run(c.request(cmdWrite, off+int64(n), int64(len(part))), part); err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}

// largestRange bounds requests that carry no data; their length is a 32-bit number.
const largestRange = 1 << 30

var zeros [1 << 20]byte

// Zero makes n bytes at off read as zeros, by punching a hole where the server can.
func (c *Client) Zero(off, n int64) error {
	if err := c.writable(cmdZero, off, n); err != nil {
		return err
	}
	if c.flags&flagZeroes != 0 {
		return c.ranges(cmdZero, off, n)
	}
	for n > 0 {
		part := min(n, int64(len(zeros)))
		if _, err := c.WriteAt(zeros[:part], off); err != nil {
			return err
		}
		off, n = off+part, n-part
	}
	return nil
}

// Trim tells the server that n bytes at off are no longer needed; what they read as afterwards is undefined. A server
// without it ignores it.
func (c *Client) Trim(off, n int64) error {
	if err := c.writable(cmdTrim, off, n); err != nil || c.flags&flagTrim == 0 {
		return err
	}
	return c.ranges(cmdTrim, off, n)
}

func (c *Client) ranges(cmd command, off, n int64) error {
	for n > 0 {
		part := min(n, largestRange)
		if err := c.run(c.request(cmd, off, part), nil); err != nil {
			return err
		}
		off, n = off+part, n-part
	}
	return nil
}

// Flush makes every write that was answered before it durable, whichever connection it went through.
func (c *Client) Flush(ctx context.Context) error {
	if c.ReadOnly() {
		return nil
	}
	if c.flags&flagFlush == 0 {
		return fmt.Errorf("nbd: the server cannot make writes durable: %w", errors.ErrUnsupported)
	}
	r := c.request(cmdFlush, 0, 0)
	err := c.conn().do(ctx, r, nil)
	// After an early end of ctx the server may still answer r; it is left to the collector.
	if ctx.Err() == nil {
		c.free(r)
	}
	return err
}

func (c *Client) writable(cmd command, off, n int64) error {
	if c.ReadOnly() {
		return ErrReadOnly
	}
	if off < 0 || n < 0 || off > c.size || n > c.size-off {
		return fmt.Errorf("nbd: %v of %d bytes at %d exceeds the disk of %d", cmd, n, off, c.size)
	}
	return nil
}
