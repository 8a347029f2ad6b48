package snapshot_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"

	"understudy/snapshot"
)

const block = snapshot.BlockSize

// memory is a disk that counts what is done to it. Like a real one it is not locked: overlapping access is a race.
type memory struct {
	b             []byte
	reads, writes atomic.Int64 // bytes
	writeCalls    atomic.Int64
	zeroed        atomic.Int64
	writeErr      atomic.Pointer[error]
	readErr       atomic.Pointer[error]
	delay         chan struct{} // when set, reads wait for it
}

func newMemory(size int64) *memory { return &memory{b: make([]byte, size)} }

func (m *memory) Size() int64 { return int64(len(m.b)) }

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	if m.delay != nil {
		<-m.delay
	}
	if err := m.readErr.Load(); err != nil {
		return 0, *err
	}
	if off >= int64(len(m.b)) {
		return 0, io.EOF
	}
	n := copy(p, m.b[off:])
	m.reads.Add(int64(n))
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if err := m.writeErr.Load(); err != nil {
		return 0, *err
	}
	if off < 0 || off+int64(len(p)) > int64(len(m.b)) {
		return 0, errors.New("write outside the disk")
	}
	m.writes.Add(int64(len(p)))
	m.writeCalls.Add(1)
	return copy(m.b[off:], p), nil
}

func (m *memory) Zero(off, n int64) error {
	if err := m.writeErr.Load(); err != nil {
		return *err
	}
	m.zeroed.Add(n)
	clear(m.b[off : off+n])
	return nil
}

func (m *memory) Flush(context.Context) error { return nil }

// sparse is an endless disk of zeros with only the written pages in memory.
type sparse struct {
	size  int64
	mu    sync.Mutex
	pages map[int64][]byte // of 64 KiB
	reads atomic.Int64
}

func newSparse(size int64) *sparse { return &sparse{size: size, pages: map[int64][]byte{}} }

func (s *sparse) Size() int64 { return s.size }

func (s *sparse) ReadAt(p []byte, off int64) (int, error) {
	s.reads.Add(int64(len(p)))
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := 0; i < len(p); {
		at := off + int64(i)
		n := min(len(p)-i, int(block-at%block))
		if page, ok := s.pages[at/block]; ok {
			copy(p[i:i+n], page[at%block:])
		} else {
			clear(p[i : i+n])
		}
		i += n
	}
	return len(p), nil
}

func (s *sparse) WriteAt(p []byte, off int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := 0; i < len(p); {
		at := off + int64(i)
		page, ok := s.pages[at/block]
		if !ok {
			page = make([]byte, block)
			s.pages[at/block] = page
		}
		i += copy(page[at%block:], p[i:])
	}
	return len(p), nil
}

func (s *sparse) Zero(off, n int64) error {
	for n > 0 {
		part := min(n, block-off%block)
		if _, err := s.WriteAt(make([]byte, part), off); err != nil {
			return err
		}
		off, n = off+part, n-part
	}
	return nil
}

func (s *sparse) Flush(context.Context) error { return nil }

func (s *sparse) Allocated(context.Context) snapshot.Extents {
	s.mu.Lock()
	var used []int64
	for i := range s.pages {
		used = append(used, i)
	}
	s.mu.Unlock()
	slices.Sort(used)
	return func(yield func(snapshot.Extent, error) bool) {
		at := int64(0)
		for _, i := range used {
			if i*block > at && !yield(snapshot.Extent{Offset: at, Length: i*block - at, Zero: true}, nil) {
				return
			}
			at = min((i+1)*block, s.size)
			if !yield(snapshot.Extent{Offset: i * block, Length: at - i*block}, nil) {
				return
			}
		}
		if at < s.size {
			yield(snapshot.Extent{Offset: at, Length: s.size - at, Zero: true}, nil)
		}
	}
}

func fill(r *rand.Rand, p []byte) {
	var key [32]byte
	for i := range key {
		key[i] = byte(r.Uint32())
	}
	_, _ = rand.NewChaCha8(key).Read(p)
}

// scribble changes a disk at random places, sometimes to zeros, and returns which ranges.
func scribble(r *rand.Rand, b []byte, times int) []snapshot.Extent {
	var ranges []snapshot.Extent
	for range times {
		off := r.Int64N(int64(len(b)))
		n := min(1+r.Int64N(5*block), int64(len(b))-off)
		if r.IntN(3) == 0 {
			clear(b[off : off+n])
		} else {
			fill(r, b[off:off+n])
		}
		ranges = append(ranges, snapshot.Extent{Offset: off, Length: n})
	}
	return union(ranges)
}

// union sorts ranges and joins those that touch or overlap.
func union(ranges []snapshot.Extent) []snapshot.Extent {
	slices.SortFunc(ranges, func(a, b snapshot.Extent) int { return int(a.Offset - b.Offset) })
	var out []snapshot.Extent
	for _, e := range ranges {
		if k := len(out); k > 0 && e.Offset <= out[k-1].End() {
			out[k-1].Length = max(out[k-1].End(), e.End()) - out[k-1].Offset
			continue
		}
		out = append(out, e)
	}
	return out
}

func extents(list ...snapshot.Extent) snapshot.Extents {
	return func(yield func(snapshot.Extent, error) bool) {
		for _, e := range list {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func list(in snapshot.Extents) (all []snapshot.Extent, err error) {
	for e, err := range in {
		if err != nil {
			return all, err
		}
		all = append(all, e)
	}
	return all, nil
}
