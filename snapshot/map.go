package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
)

const (
	hashSize    = int64(len(Hash{}))
	pageBytes   = 64 << 10
	pageEntries = pageBytes / hashSize
	// cachedPages bounds a map's memory: 16 MiB, the entries of 32 GiB of disk. Copies walk disks upwards, so that more
	// would hardly be used.
	cachedPages = 256
	// flushers write pages back at once, to wait for a distant area once and not for every page.
	flushers = 8
)

// Blocks is the number of blocks of a disk.
func Blocks(diskSize int64) int64 { return (diskSize + BlockSize - 1) / BlockSize }

// MapSize is the room a block map of a disk needs, in bytes.
func MapSize(diskSize int64) int64 { return Blocks(diskSize) * hashSize }

// ErrMap means that a block map cannot be read. What it described can be found out again: see [Map.Clear] and [Scan].
var ErrMap = errors.New("block map cannot be read")

// Map is the block map of a disk: one Hash for each block, in order, without any header, kept in an area of MapSize
// bytes. An area of zeros describes a disk of zeros. It keeps a bounded number of pages in memory and writes them back
// when they are pushed out, or by Flush. Safe for concurrent use.
type Map struct {
	area   Writer
	reader io.ReaderAt
	blocks int64
	// blank has a bit for each page that is known to be zeros, here and in the area: 16 KiB for 16 TiB.
	blank []uint64

	mu      sync.Mutex
	pages   map[int64]*page
	lru     page // ring of all pages in memory; next is the most recently used one
	maximum int
}

// page is a piece of a map in memory. refs and the ring are guarded by Map.mu, the rest by the page's own lock.
type page struct {
	index      int64
	refs       int
	prev, next *page

	sync.Mutex
	loaded  bool
	dirty   bool
	touched sectors // since it was written back
	bytes   []byte
}

// Allocator is what areas and disks can offer beyond Disk: which parts of them are zeros, without reading.
type Allocator interface {
	// Allocated yields the whole disk as data and zero extents without gaps.
	Allocated(ctx context.Context) Extents
}

// OpenMap opens the map of a disk of diskSize bytes in area, which must be exactly MapSize large. When the area is an
// Allocator, pages of zeros are never read: opening the map of a large empty disk costs nothing.
func OpenMap(ctx context.Context, area Disk, diskSize int64) (*Map, error) {
	if area.Size() != MapSize(diskSize) {
		return nil, fmt.Errorf("block map of %d bytes for a disk of %d bytes, want %d", area.Size(), diskSize, MapSize(diskSize))
	}
	m := newMap(area, diskSize)
	m.area = area
	if a, ok := area.(Allocator); ok {
		for e, err := range Validate(a.Allocated(ctx), area.Size()) {
			if err != nil {
				return nil, fmt.Errorf("block map: %w", err)
			}
			if e.Zero {
				m.markBlank(e)
			}
		}
	}
	return m, nil
}

// ReadMap opens a map that is only read. area must hold MapSize bytes.
func ReadMap(area io.ReaderAt, diskSize int64) *Map { return newMap(area, diskSize) }

func newMap(r io.ReaderAt, diskSize int64) *Map {
	m := &Map{reader: r, blocks: Blocks(diskSize), pages: map[int64]*page{}, maximum: cachedPages}
	m.lru.next, m.lru.prev = &m.lru, &m.lru
	m.blank = make([]uint64, (m.blocks/pageEntries)/64+1)
	return m
}

func (m *Map) markBlank(e Extent) {
	last := e.End() / pageBytes
	if e.End() == m.blocks*hashSize && e.End()%pageBytes != 0 {
		last++ // the last page may be short
	}
	for i := (e.Offset + pageBytes - 1) / pageBytes; i < last; i++ {
		m.blank[i/64] |= 1 << (i % 64)
	}
}

// Get reads the entries of len(into) blocks from first on.
func (m *Map) Get(first int64, into []Hash) error {
	return m.each(first, int64(len(into)), func(_ *page, entries []Hash, at int64) {
		copy(into[at:], entries)
	})
}

// Set changes the entries of len(from) blocks from first on.
func (m *Map) Set(first int64, from []Hash) error {
	if m.area == nil {
		return errors.New("block map is open for reading only")
	}
	return m.each(first, int64(len(from)), func(p *page, entries []Hash, at int64) {
		part := from[at : at+int64(len(entries))]
		if slices.Equal(entries, part) {
			return
		}
		for i, at := 0, (first+at)%pageEntries; i < len(part); i, at = i+1, at+1 {
			if entries[i] != part[i] {
				p.touched.add(at / sectorEntries)
			}
		}
		copy(entries, part)
		if !p.dirty {
			p.dirty = true
			m.unblank(p.index)
		}
	})
}

// Clear makes the map that of a disk of zeros, without reading it. Nobody else may use the map meanwhile.
func (m *Map) Clear() error {
	if m.area == nil {
		return errors.New("block map is open for reading only")
	}
	whole := Extent{Length: m.blocks * hashSize}
	if err := m.area.Zero(0, whole.Length); err != nil {
		return fmt.Errorf("block map: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.pages)
	m.lru.next, m.lru.prev = &m.lru, &m.lru
	m.markBlank(whole)
	return nil
}

// NextUsed finds the first block in [first, end) that is not zeros; end when there is none.
func (m *Map) NextUsed(first, end int64) (int64, error) {
	for first < end {
		stop := min(end, (first/pageEntries+1)*pageEntries)
		if m.isBlank(first / pageEntries) {
			first = stop
			continue
		}
		found := int64(-1)
		err := m.each(first, stop-first, func(_ *page, entries []Hash, _ int64) {
			for i, h := range entries {
				if h != (Hash{}) {
					found = first + int64(i)
					return
				}
			}
		})
		if err != nil {
			return 0, err
		}
		if found >= 0 {
			return found, nil
		}
		first = stop
	}
	return end, nil
}

// Flush writes everything back and makes it durable.
func (m *Map) Flush(ctx context.Context) error {
	if m.area == nil {
		return nil
	}
	m.mu.Lock()
	all := make([]*page, 0, len(m.pages))
	for _, p := range m.pages {
		p.refs++
		all = append(all, p)
	}
	m.mu.Unlock()
	group, stop := errgroup.WithContext(ctx)
	group.SetLimit(flushers)
	for _, p := range all {
		group.Go(func() error {
			defer m.release(p)
			if stop.Err() != nil {
				return stop.Err()
			}
			return m.writeBack(p)
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := m.area.Flush(ctx); err != nil {
		return fmt.Errorf("block map: %w", err)
	}
	return nil
}

// Digest computes the digest of the whole map, reading all of it.
func (m *Map) Digest(ctx context.Context) (Digest, error) {
	var d Digest
	entries := make([]Hash, pageEntries)
	for first := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return d, err
		}
		var err error
		if first, err = m.NextUsed(first, m.blocks); err != nil || first == m.blocks {
			return d, err
		}
		part := entries[:min(m.blocks, (first/pageEntries+1)*pageEntries)-first]
		if err := m.Get(first, part); err != nil {
			return d, err
		}
		for i, h := range part {
			d.Add(first+int64(i), h)
		}
		first += int64(len(part))
	}
}

// DigestOf computes the digest of a disk from its map.
func DigestOf(ctx context.Context, area io.ReaderAt, diskSize int64) (Digest, error) {
	return ReadMap(area, diskSize).Digest(ctx)
}

// each calls f for the pieces of the range that lie in one page each, with the page locked; at counts from first.
func (m *Map) each(first, n int64, f func(p *page, entries []Hash, at int64)) error {
	if first < 0 || n < 0 || first > m.blocks || n > m.blocks-first {
		return fmt.Errorf("block map: blocks %d to %d of %d", first, first+n, m.blocks)
	}
	for at := int64(0); at < n; {
		block := first + at
		from := block % pageEntries
		to := min(from+n-at, pageEntries)
		p, err := m.acquire(block / pageEntries)
		if err != nil {
			return err
		}
		f(p, hashesOf(p.bytes)[from:to], at)
		p.Unlock()
		m.release(p)
		at += to - from
	}
	return nil
}

// acquire returns a page loaded, locked and held in memory until release.
func (m *Map) acquire(index int64) (*page, error) {
	p, err := m.hold(index)
	if err != nil {
		return nil, err
	}
	p.Lock()
	if !p.loaded {
		if err := m.load(p); err != nil {
			p.Unlock()
			m.release(p)
			return nil, err
		}
	}
	return p, nil
}

// hold finds or makes room for a page. Pushing others out may need writing; that is done without the map's lock.
func (m *Map) hold(index int64) (*page, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for {
		if p, ok := m.pages[index]; ok {
			p.refs++
			m.unlink(p)
			m.link(p)
			return p, nil
		}
		victim := m.victim()
		if victim == nil {
			p := &page{index: index, refs: 1}
			m.pages[index] = p
			m.link(p)
			return p, nil
		}
		victim.refs++
		m.mu.Unlock()
		err := m.writeBack(victim)
		m.mu.Lock()
		victim.refs--
		if err != nil {
			return nil, err
		}
		// Somebody may have come, changed it and gone in between. Without references its fields are ours to read.
		if victim.refs == 0 && !victim.dirty {
			m.unlink(victim)
			delete(m.pages, victim.index)
		}
	}
}

// victim is the page to push out before another may come in; nil: there is room, or everything is in use.
func (m *Map) victim() *page {
	if len(m.pages) < m.maximum {
		return nil
	}
	for p := m.lru.prev; p != &m.lru; p = p.prev {
		if p.refs == 0 {
			return p
		}
	}
	return nil
}

func (m *Map) release(p *page) {
	m.mu.Lock()
	p.refs--
	m.mu.Unlock()
}

func (m *Map) link(p *page) {
	p.prev, p.next = &m.lru, m.lru.next
	p.prev.next, p.next.prev = p, p
}

func (m *Map) unlink(p *page) { p.prev.next, p.next.prev = p.next, p.prev }

func (m *Map) isBlank(index int64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.blank[index/64]&(1<<(index%64)) != 0
}

func (m *Map) unblank(index int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.blank[index/64] &^= 1 << (index % 64)
}

func (m *Map) load(p *page) error {
	size := min(pageBytes, m.blocks*hashSize-p.index*pageBytes)
	p.bytes = make([]byte, size)
	if !m.isBlank(p.index) {
		if n, err := m.reader.ReadAt(p.bytes, p.index*pageBytes); int64(n) < size {
			return fmt.Errorf("%w: %w", ErrMap, short(err))
		}
	}
	p.loaded = true
	return nil
}

func (m *Map) writeBack(p *page) error {
	p.Lock()
	defer p.Unlock()
	if !p.dirty {
		return nil
	}
	off := p.index * pageBytes
	var err error
	switch {
	case bytes.Equal(p.bytes, zeroBlock[:len(p.bytes)]):
		err = m.area.Zero(off, int64(len(p.bytes)))
	case p.touched.count() >= pageSectors/2:
		_, err = m.area.WriteAt(p.bytes, off)
	default:
		err = p.writeTouched(m.area, off)
	}
	if err != nil {
		return fmt.Errorf("block map: %w", err)
	}
	p.dirty, p.touched = false, sectors{}
	return nil
}

// short is the reason for a read that returned too little.
func short(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
