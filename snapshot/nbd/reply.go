package nbd

import (
	"cmp"
	"encoding/binary"
	"io"
	"slices"
	"strings"
)

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
	if n <= 0 || at > uint64(r.length) || uint64(n) > uint64(r.length)-at || r.filled+n > r.length || !r.claim(int64(at), n) {
		return nil, violation("%d bytes at %d in a reply to a read of %d at %d", n, off, r.length, r.off)
	}
	r.filled += n
	return r.buf[at : at+uint64(n)], nil
}

// claim notes that a part of the buffer is filled; false: some of it is already. Without it a part that came twice would
// count for one that never came. Pieces that come in order stay one span.
func (r *request) claim(at, n int64) bool {
	i, found := slices.BinarySearchFunc(r.spans, at, func(s span, at int64) int { return cmp.Compare(s.from, at) })
	if found || i < len(r.spans) && r.spans[i].from < at+n || i > 0 && r.spans[i-1].to > at {
		return false
	}
	if i > 0 && r.spans[i-1].to == at {
		r.spans[i-1].to += n
	} else {
		r.spans = slices.Insert(r.spans, i, span{at, at + n})
	}
	return true
}

func (r *request) fail(errno uint32, message string) {
	if r.err == nil {
		r.err = &Error{Op: r.cmd.String(), Offset: r.off, Length: r.length, Errno: errno, Message: message}
	}
}
