package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// replay is a connection whose peer says a fixed sequence of bytes and takes everything.
type replay struct {
	mu     sync.Mutex
	says   *bytes.Reader
	closed bool
}

func newReplay(b []byte) *replay { return &replay{says: bytes.NewReader(b)} }

func (r *replay) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return 0, net.ErrClosed
	}
	return r.says.Read(p)
}

func (r *replay) Write(p []byte) (int, error) { return len(p), nil }

func (r *replay) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	return nil
}

func (r *replay) LocalAddr() net.Addr              { return nil }
func (r *replay) RemoteAddr() net.Addr             { return nil }
func (r *replay) SetDeadline(time.Time) error      { return nil }
func (r *replay) SetReadDeadline(time.Time) error  { return nil }
func (r *replay) SetWriteDeadline(time.Time) error { return nil }

// wire builds what a server says.
type wire struct{ b []byte }

func (w *wire) put(parts ...any) *wire {
	for _, p := range parts {
		if s, ok := p.(string); ok {
			w.b = append(w.b, s...)
			continue
		}
		w.b, _ = binary.Append(w.b, binary.BigEndian, p)
	}
	return w
}

func (w *wire) option(o option, kind uint32, data *wire) *wire {
	return w.put(uint64(magicOptReply), uint32(o), kind, uint32(len(data.b))).put(string(data.b))
}

func (w *wire) chunk(flags, kind uint16, handle uint64, data *wire) *wire {
	return w.put(uint32(magicStructured), flags, kind, handle, uint32(len(data.b))).put(string(data.b))
}

func (w *wire) simple(errno uint32, handle uint64) *wire {
	return w.put(uint32(magicSimple), errno, handle)
}

func with(parts ...any) *wire { return new(wire).put(parts...) }

// goodHandshake is a server with structured replies and one context, id 7.
func goodHandshake(size uint64) *wire {
	w := with(magicServer, magicOption, uint16(3))
	w.option(optStructured, repAck, with())
	w.option(optSetContext, repContext, with(uint32(7), Allocation)).option(optSetContext, repAck, with())
	w.option(optGo, repInfo, with(uint16(infoBlockSize), uint32(1), uint32(4096), uint32(1<<20)))
	w.option(optGo, repInfo, with(uint16(infoExport), size, uint16(1|flagFlush|flagTrim|flagZeroes)))
	return w.option(optGo, repAck, with())
}

const fuzzSize = 4096

// scenarios are the seeds of the fuzzer and the table of what each must lead to: the requests made are a read of 4096 bytes at
// 0 (handle 1) and then all extents (handle 2).
var scenarios = map[string]struct {
	says *wire
	fine bool
}{
	"good": {goodHandshake(fuzzSize).
		chunk(0, chunkHole, 1, with(uint64(0), uint32(1024))).chunk(chunkDone, chunkData, 1, with(uint64(1024), make([]byte, 3072))).
		chunk(0, chunkStatus, 2, with(uint32(9), uint32(1), uint32(0))).
		chunk(chunkDone, chunkStatus, 2, with(uint32(7), uint32(1024), uint32(3), uint32(99999), uint32(0))), true},
	"empty":             {with(), false},
	"not nbd":           {with("SSH-2.0-OpenSSH_9.2p1\r\n"), false},
	"oldstyle":          {with(magicServer, uint64(0x00420281861253), uint64(1)), false},
	"hello only":        {with(magicServer, magicOption, uint16(3)), false},
	"wrong option":      {with(magicServer, magicOption, uint16(3)).option(optGo, repAck, with()), false},
	"refused":           {with(magicServer, magicOption, uint16(3)).option(optStructured, repErrTLSRequired, with("tls \xff")), false},
	"long option reply": {with(magicServer, magicOption, uint16(3)).put(uint64(magicOptReply), uint32(optStructured), uint32(1), uint32(1<<31)), false},
	"huge size":         {goodHandshake(1 << 63), false},
	"empty disk":        {goodHandshake(0), true},
	"bad magic":         {goodHandshake(fuzzSize).put(uint64(1), uint64(2), uint64(3)), false},
	"unknown handle":    {goodHandshake(fuzzSize).chunk(chunkDone, chunkNone, 77, with()), false},
	"missing data":      {goodHandshake(fuzzSize).chunk(chunkDone, chunkNone, 1, with()), false},
	"half the data":     {goodHandshake(fuzzSize).chunk(chunkDone, chunkData, 1, with(uint64(0), make([]byte, 2048))), false},
	"data outside":      {goodHandshake(fuzzSize).chunk(chunkDone, chunkData, 1, with(uint64(4000), make([]byte, 200))), false},
	"data before":       {goodHandshake(fuzzSize).chunk(chunkDone, chunkData, 1, with(^uint64(0), make([]byte, 200))), false},
	"data twice":        {goodHandshake(fuzzSize).chunk(0, chunkData, 1, with(uint64(0), make([]byte, 4096))).chunk(1, chunkData, 1, with(uint64(0), make([]byte, 4096))), false},
	"half the data twice": {goodHandshake(fuzzSize).chunk(0, chunkData, 1, with(uint64(0), make([]byte, 2048))).
		chunk(chunkDone, chunkData, 1, with(uint64(0), make([]byte, 2048))).
		chunk(chunkDone, chunkStatus, 2, with(uint32(7), uint32(4096), uint32(0))), false},
	"overlapping data": {goodHandshake(fuzzSize).chunk(0, chunkData, 1, with(uint64(1024), make([]byte, 1024))).chunk(0, chunkData, 1, with(uint64(2048), make([]byte, 1024))).
		chunk(chunkDone, chunkHole, 1, with(uint64(0), uint32(2048))).
		chunk(chunkDone, chunkStatus, 2, with(uint32(7), uint32(4096), uint32(0))), false},
	"data backwards": {goodHandshake(fuzzSize).chunk(0, chunkData, 1, with(uint64(2048), make([]byte, 2048))).
		chunk(0, chunkData, 1, with(uint64(1024), make([]byte, 1024))).chunk(chunkDone, chunkHole, 1, with(uint64(0), uint32(1024))).
		chunk(chunkDone, chunkStatus, 2, with(uint32(7), uint32(4096), uint32(0))), true},
	"long data":          {goodHandshake(fuzzSize).put(uint32(magicStructured), uint16(1), uint16(chunkData), uint64(1), ^uint32(0), uint64(0)), false},
	"hole outside":       {goodHandshake(fuzzSize).chunk(chunkDone, chunkHole, 1, with(uint64(0), uint32(4097))), false},
	"empty hole":         {goodHandshake(fuzzSize).chunk(chunkDone, chunkHole, 1, with(uint64(0), uint32(0))), false},
	"simple to a read":   {goodHandshake(fuzzSize).simple(0, 1).put(make([]byte, 4096)), false},
	"error":              {goodHandshake(fuzzSize).chunk(chunkDone, chunkError|1, 1, with(uint32(5), uint16(3), "bad")), false},
	"error at":           {goodHandshake(fuzzSize).chunk(chunkDone, chunkErrAt, 1, with(uint32(5), uint16(3), "bad", uint64(17))), false},
	"malformed error":    {goodHandshake(fuzzSize).chunk(chunkDone, chunkError|1, 1, with(uint32(5), uint16(9), "bad")), false},
	"status to a read":   {goodHandshake(fuzzSize).chunk(chunkDone, chunkStatus, 1, with(uint32(7), uint32(1), uint32(0))), false},
	"status of nothing":  {goodRead().chunk(chunkDone, chunkStatus, 2, with(uint32(7), uint32(0), uint32(0))), false},
	"status of no other": {goodRead().chunk(chunkDone, chunkStatus, 2, with(uint32(8), uint32(5), uint32(0))), false},
	"status twice":       {goodRead().chunk(0, chunkStatus, 2, with(uint32(7), uint32(5), uint32(0))).chunk(1, chunkStatus, 2, with(uint32(7), uint32(5), uint32(0))), false},
	"status odd":         {goodRead().chunk(chunkDone, chunkStatus, 2, with(uint32(7), uint32(5))), false},
	"status announced":   {goodRead().put(uint32(magicStructured), uint16(1), uint16(chunkStatus), uint64(2), uint32(maxStatusChunk), uint32(7), uint32(1)), false},
}

func goodRead() *wire {
	return goodHandshake(fuzzSize).chunk(chunkDone, chunkData, 1, with(uint64(0), make([]byte, fuzzSize)))
}

// converse lets a client talk to a peer that says b. It reports whether everything went well. What is read must come
// from the peer, all of it: it is the same whatever was in the buffer before.
func converse(t *testing.T, b []byte) bool {
	t.Helper()
	first, fine := converseOver(t, b, 0)
	again, _ := converseOver(t, b, 0xff)
	if first != nil && again != nil && !bytes.Equal(first, again) {
		t.Fatal("a part of the buffer was never filled")
	}
	return fine
}

// converseOver reads into a buffer that holds a value, and returns it when the read succeeded.
func converseOver(t *testing.T, b []byte, before byte) (got []byte, fine bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	raw := newReplay(b)
	h := &handshake{nc: raw}
	e, err := h.open(Options{Contexts: []string{Allocation}})
	if err != nil {
		return nil, false
	}
	c := &Client{export: e, cancel: cancel}
	n := newConn(raw, raw, e)
	c.conns.Store(&[]*conn{n})
	// The peer speaks at once, so the receiver must not run before its request is known.
	read, status := c.request(cmdRead, 0, min(e.size, fuzzSize)), c.request(cmdStatus, 0, min(e.size, fuzzSize))
	read.buf, status.context = bytes.Repeat([]byte{before}, int(read.length)), e.contexts[Allocation]
	_, _ = n.register(read)
	_, _ = n.register(status)
	go n.receive()
	defer c.Close()
	fine = true
	for _, r := range []*request{read, status} {
		if e.size == 0 {
			break
		}
		select {
		case <-r.done:
		case <-ctx.Done():
			t.Fatal("a request never ended")
		}
		if r.err != nil {
			fine = false
			var known *Error
			if !errors.Is(r.err, ErrProtocol) && !errors.Is(r.err, io.ErrUnexpectedEOF) && !errors.As(r.err, &known) {
				t.Fatalf("error of an unexpected kind: %v", r.err)
			}
		}
		at := r.off
		for _, x := range r.extents {
			if x.Length <= 0 || x.Offset != at {
				t.Fatalf("extent %+v after %d", x, at)
			}
			at += x.Length
		}
		if int64(len(r.extents))*8 > int64(len(b)) {
			t.Fatalf("%d extents from %d bytes", len(r.extents), len(b))
		}
	}
	if e.size == 0 || read.err != nil {
		return nil, fine
	}
	return read.buf, fine
}

func TestWhatServersSay(t *testing.T) {
	for name, s := range scenarios {
		t.Run(name, func(t *testing.T) {
			if got := converse(t, s.says.b); got != s.fine {
				t.Errorf("went well: %v, want %v", got, s.fine)
			}
		})
	}
}

func FuzzServer(f *testing.F) {
	for _, s := range scenarios {
		f.Add(s.says.b)
	}
	f.Fuzz(func(t *testing.T, b []byte) { converse(t, b) })
}
