package nbd

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"
)

// closeGrace is how long a polite goodbye may take before the connection is cut.
const closeGrace = time.Second

// request is one command in flight. Its buffer belongs to the caller until done fires; only the connection's receiver
// writes into it and only the receiver fires done, so that nobody gets a buffer back that is still being filled.
type request struct {
	cmd     command
	off     int64
	length  int64
	buf     []byte   // read: where the data goes
	context uint32   // status: the wanted one
	extents []Extent // status: the answer
	filled  int64
	err     error
	done    chan struct{}
}

var requests = sync.Pool{New: func() any { return &request{done: make(chan struct{}, 1)} }}

func newRequest(cmd command, off, length int64) *request {
	r := requests.Get().(*request)
	r.cmd, r.off, r.length, r.filled, r.err = cmd, off, length, 0, nil
	return r
}

// free gives a finished request back. One that may still be answered must not be given back.
func (r *request) free() {
	r.buf, r.extents = nil, r.extents[:0]
	requests.Put(r)
}

// conn carries many requests at once over one connection; replies are matched by handle.
type conn struct {
	export
	nc  net.Conn // what requests travel through (TLS or not)
	raw net.Conn // what is closed: closing TLS would wait for a hung peer
	in  *bufio.Reader

	sending sync.Mutex // guards writing, head, vec
	head    [28]byte
	parts   [2][]byte
	vec     net.Buffers

	mu      sync.Mutex // guards what follows
	pending map[uint64]*request
	last    uint64
	dead    error

	received chan struct{} // closed when the receiver has ended
}

// newConn takes over a connection whose handshake is done; its receive method must run next.
func newConn(raw, nc net.Conn, e export) *conn {
	return &conn{
		export: e, nc: nc, raw: raw,
		// Small on purpose: payload beyond it goes straight into the caller's buffer.
		in:      bufio.NewReaderSize(nc, 4<<10),
		pending: map[uint64]*request{}, received: make(chan struct{}),
	}
}

// do sends r with an optional payload and waits for its end. When ctx ends first, r stays with the connection and must not be
// used again; that is allowed only for requests without a caller's buffer.
func (c *conn) do(ctx context.Context, r *request, payload []byte) error {
	handle, err := c.register(r)
	if err != nil {
		return err
	}
	if ctx.Done() == nil {
		err = c.send(r, handle, payload)
	} else {
		err = c.sendWithin(ctx, r, handle, payload)
	}
	if err != nil {
		c.kill(fmt.Errorf("nbd: %v: %w", r.cmd, err)) // the receiver then ends r too
	}
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *conn) register(r *request) (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead != nil {
		return 0, c.dead
	}
	c.last++
	c.pending[c.last] = r
	return c.last, nil
}

// sendWithin is send that outlives ctx by a moment at most. Half a request cannot be taken back, so the connection ends.
func (c *conn) sendWithin(ctx context.Context, r *request, handle uint64, payload []byte) error {
	sent := make(chan struct{})
	defer close(sent)
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-sent:
		case <-time.After(closeGrace):
			c.kill(fmt.Errorf("nbd: server does not take requests: %w", context.Cause(ctx)))
		}
	})
	defer stop()
	return c.send(r, handle, payload)
}

func (c *conn) send(r *request, handle uint64, payload []byte) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	h := c.head[:]
	binary.BigEndian.PutUint32(h, magicRequest)
	binary.BigEndian.PutUint16(h[4:], 0)
	binary.BigEndian.PutUint16(h[6:], uint16(r.cmd))
	binary.BigEndian.PutUint64(h[8:], handle)
	binary.BigEndian.PutUint64(h[16:], uint64(r.off))
	binary.BigEndian.PutUint32(h[24:], uint32(r.length))
	if len(payload) == 0 {
		_, err := c.nc.Write(h)
		return err
	}
	c.parts[0], c.parts[1] = h, payload
	c.vec = c.parts[:]
	_, err := c.vec.WriteTo(c.nc) // one writev on sockets
	c.parts[1] = nil
	return err
}

// kill makes err the fate of this and all later requests, unless it has one already, and cuts the connection. The
// receiver notices and ends what is pending.
func (c *conn) kill(err error) {
	c.mu.Lock()
	if c.dead == nil {
		c.dead = err
	}
	c.mu.Unlock()
	_ = c.raw.Close()
}

// close says goodbye if the connection still takes it within a moment, and returns when the receiver has ended.
func (c *conn) close() {
	c.mu.Lock()
	alive := c.dead == nil
	if alive {
		c.dead = ErrClosed
	}
	c.mu.Unlock()
	if alive {
		said := make(chan struct{})
		go func() {
			defer close(said)
			_ = c.send(&request{cmd: cmdClose}, 0, nil)
		}()
		select {
		case <-said:
		case <-c.received:
		case <-time.After(closeGrace):
		}
	}
	_ = c.raw.Close()
	<-c.received
}

// receive reads replies until the connection ends, then ends every pending request.
func (c *conn) receive() {
	defer close(c.received)
	var err error
	for err == nil {
		err = c.reply()
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	c.kill(fmt.Errorf("nbd: connection lost: %w", err))
	c.mu.Lock()
	defer c.mu.Unlock()
	for handle, r := range c.pending {
		delete(c.pending, handle)
		r.err = c.dead
		r.done <- struct{}{}
	}
}

// reply reads one simple reply or one chunk of a structured one. An error ends the connection; a server's error to one
// request goes to that request.
func (c *conn) reply() error {
	head, err := c.in.Peek(4)
	if err != nil {
		return err
	}
	switch magic := binary.BigEndian.Uint32(head); magic {
	case magicSimple:
		return c.simple()
	case magicStructured:
		return c.chunk()
	default:
		return violation("bad magic %#x in a reply", magic)
	}
}

func (c *conn) simple() error {
	h, err := c.take(16)
	if err != nil {
		return err
	}
	errno, handle := binary.BigEndian.Uint32(h[4:]), binary.BigEndian.Uint64(h[8:])
	r, err := c.find(handle)
	if err != nil {
		return err
	}
	switch {
	case errno != 0:
		r.fail(errno, "")
	case r.cmd == cmdStatus || r.cmd == cmdRead && c.structured:
		return violation("simple reply to %v", r.cmd)
	case r.cmd == cmdRead:
		if _, err := io.ReadFull(c.in, r.buf); err != nil {
			return err
		}
		r.filled = r.length
	}
	return c.finish(handle, r)
}

func (c *conn) chunk() error {
	h, err := c.take(20)
	if err != nil {
		return err
	}
	if !c.structured {
		return violation("structured reply that nobody asked for")
	}
	flags, kind := binary.BigEndian.Uint16(h[4:]), binary.BigEndian.Uint16(h[6:])
	handle, n := binary.BigEndian.Uint64(h[8:]), int64(binary.BigEndian.Uint32(h[16:]))
	r, err := c.find(handle)
	if err != nil {
		return err
	}
	switch {
	case kind == chunkNone && n == 0 && flags&chunkDone != 0:
	case kind == chunkData && r.cmd == cmdRead:
		err = c.data(r, n)
	case kind == chunkHole && r.cmd == cmdRead:
		err = c.hole(r, n)
	case kind == chunkStatus && r.cmd == cmdStatus:
		err = c.status(r, n)
	case kind&chunkError != 0:
		err = c.failure(r, kind, n)
	default:
		err = violation("chunk %d of %d bytes in a reply to %v", kind, n, r.cmd)
	}
	if err != nil || flags&chunkDone == 0 {
		return err
	}
	return c.finish(handle, r)
}

// data reads a piece of a read's content straight into the caller's buffer.
func (c *conn) data(r *request, n int64) error {
	if n <= 8 {
		return violation("data chunk of %d bytes", n)
	}
	h, err := c.take(8)
	if err != nil {
		return err
	}
	piece, err := r.piece(binary.BigEndian.Uint64(h), n-8)
	if err != nil {
		return err
	}
	_, err = io.ReadFull(c.in, piece)
	return err
}

func (c *conn) hole(r *request, n int64) error {
	if n != 12 {
		return violation("hole chunk of %d bytes", n)
	}
	h, err := c.take(12)
	if err != nil {
		return err
	}
	piece, err := r.piece(binary.BigEndian.Uint64(h), int64(binary.BigEndian.Uint32(h[8:])))
	if err != nil {
		return err
	}
	clear(piece)
	return nil
}

// status reads the extents of one context. Memory grows with what really arrives, not with what is announced.
func (c *conn) status(r *request, n int64) error {
	if n < 12 || n > maxStatusChunk || n%8 != 4 {
		return violation("block status of %d bytes", n)
	}
	h, err := c.take(4)
	if err != nil {
		return err
	}
	if binary.BigEndian.Uint32(h) != r.context {
		_, err := c.in.Discard(int(n - 4))
		return err
	}
	if len(r.extents) > 0 {
		return violation("two block status chunks for one context")
	}
	off := r.off
	for range (n - 4) / 8 {
		h, err := c.take(8)
		if err != nil {
			return err
		}
		length := int64(binary.BigEndian.Uint32(h))
		if length == 0 {
			return violation("empty extent at %d", off)
		}
		r.extents = append(r.extents, Extent{Offset: off, Length: length, Flags: binary.BigEndian.Uint32(h[4:])})
		off += length
	}
	return nil
}

func (c *conn) failure(r *request, kind uint16, n int64) error {
	if n < 6 || n > maxErrorChunk {
		return violation("error chunk of %d bytes", n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(c.in, b); err != nil {
		return err
	}
	errno, length := binary.BigEndian.Uint32(b), int64(binary.BigEndian.Uint16(b[4:]))
	if errno == 0 || length > n-6 || kind == chunkErrAt && n-6-length != 8 {
		return violation("malformed error chunk")
	}
	r.fail(errno, strings.ToValidUTF8(string(b[6:6+length]), "?"))
	return nil
}

// take returns the next n bytes, valid until the next read. n is at most the reader's buffer.
func (c *conn) take(n int) ([]byte, error) {
	b, err := c.in.Peek(n)
	if err != nil {
		return nil, err
	}
	_, err = c.in.Discard(n)
	return b, err
}

func (c *conn) find(handle uint64) (*request, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.pending[handle]
	if r == nil {
		return nil, violation("reply to unknown request %d", handle)
	}
	return r, nil
}

// finish hands r back to whoever waits for it; nothing may touch r afterwards.
func (c *conn) finish(handle uint64, r *request) error {
	switch {
	case r.err != nil:
	case r.cmd == cmdRead && r.filled != r.length:
		return violation("read of %d bytes at %d got %d", r.length, r.off, r.filled)
	case r.cmd == cmdStatus && len(r.extents) == 0:
		return violation("block status at %d without extents", r.off)
	}
	c.mu.Lock()
	delete(c.pending, handle)
	c.mu.Unlock()
	r.done <- struct{}{}
	return nil
}

// piece is the part of a read's buffer that a chunk fills.
func (r *request) piece(off uint64, n int64) ([]byte, error) {
	at := off - uint64(r.off)
	if n <= 0 || at > uint64(r.length) || uint64(n) > uint64(r.length)-at || r.filled+n > r.length {
		return nil, violation("%d bytes at %d in a reply to a read of %d at %d", n, off, r.length, r.off)
	}
	r.filled += n
	return r.buf[at : at+uint64(n)], nil
}

func (r *request) fail(errno uint32, message string) {
	if r.err == nil {
		r.err = &Error{Op: r.cmd.String(), Offset: r.off, Length: r.length, Errno: errno, Message: message}
	}
}
