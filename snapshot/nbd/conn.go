package nbd

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
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
	spans   []span // read: what of buf is filled, ascending
	err     error
	done    chan struct{}
}

// span is a part of a read's buffer.
type span struct{ from, to int64 }

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
	alive    atomic.Uint64 // changes whenever something comes in or has gone out
}

// source counts what comes in, so that a slow server is told from a hung one.
type source struct {
	net.Conn
	alive *atomic.Uint64
}

func (s source) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	s.alive.Add(1)
	return n, err
}

// newConn takes over a connection whose handshake is done; its receive method must run next.
func newConn(raw, nc net.Conn, e export) *conn {
	c := &conn{export: e, nc: nc, raw: raw, pending: map[uint64]*request{}, received: make(chan struct{})}
	// Small on purpose: payload beyond it goes straight into the caller's buffer.
	c.in = bufio.NewReaderSize(source{nc, &c.alive}, 4<<10)
	return c
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
	return c.transmit(r, handle, payload)
}

// transmit writes a request; the caller holds sending.
func (c *conn) transmit(r *request, handle uint64, payload []byte) error {
	defer c.alive.Add(1)
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
	if alive && c.sending.TryLock() { // otherwise a request is on its way out and there is no time for manners
		said := make(chan struct{})
		go func() {
			defer close(said)
			defer c.sending.Unlock()
			_ = c.transmit(&request{cmd: cmdClose}, 0, nil)
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

// watch kills the connection when the server owes replies and nothing moved for patience. A flush may take as long as its disk
// needs; it has a context of its own.
func (c *conn) watch(patience time.Duration) {
	tick := time.NewTicker(patience)
	defer tick.Stop()
	var before uint64
	owed := false // at the last tick
	for {
		select {
		case <-c.received:
			return
		case <-tick.C:
		}
		now, owes := c.alive.Load(), c.owed()
		if owed && owes && now == before {
			c.kill(fmt.Errorf("%w: nothing heard for %v", ErrStalled, patience))
			return
		}
		before, owed = now, owes
	}
}

// owed says whether the server has to answer something.
func (c *conn) owed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.pending {
		if r.cmd == cmdFlush {
			return false
		}
	}
	return len(c.pending) > 0
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
