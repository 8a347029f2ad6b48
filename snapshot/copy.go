package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Job says what to copy. A full mirror is all allocated extents and a map of zeros, a cycle is the changed extents and
// the last point's map, a difference mirror is all extents and an existing map: the same work each time.
type Job struct {
	Source io.ReaderAt
	// Size of the source in bytes. The target must be at least as large.
	Size int64
	// Extents to copy; what they leave out stays as it is. Zero extents are not read.
	Extents Extents
	Target  Writer
	// Map describes what the target holds below Size, and is brought up to date.
	Map *Map
	// Digest is that of Map, and is brought up to date. May be nil.
	Digest *Digest
	// Workers is how many chunks are in work at once. 0: 16, so that Workers × ChunkBytes is CopyMemory.
	Workers int
	// ChunkBytes is the largest read, whole blocks. Memory is Workers × ChunkBytes, and some MiB. 0: 256 KiB.
	ChunkBytes int64
	// Limit slows reading down; several jobs may share one. nil: no limit.
	Limit *Limiter
	// Progress is told after every chunk, from one goroutine at a time; it must return quickly. May be nil.
	Progress func(Stats)

	// scan makes Digest count all blocks that are seen, instead of differences to Map.
	scan bool
}

// Stats count bytes of the disk.
type Stats struct {
	// BytesTotal is how much there is to read, as far as the extents are known by now.
	BytesTotal int64
	BytesRead  int64
	// BytesWritten were different and moved to the target.
	BytesWritten int64
	// BytesZeroed had to become zeros and were not moved.
	BytesZeroed int64
	// BytesSame were read, or known to be zeros, and the target had them already.
	BytesSame int64
}

// Plus is the sum, as of several disks.
func (s Stats) Plus(o Stats) Stats {
	return Stats{
		BytesTotal:   s.BytesTotal + o.BytesTotal,
		BytesRead:    s.BytesRead + o.BytesRead,
		BytesWritten: s.BytesWritten + o.BytesWritten,
		BytesZeroed:  s.BytesZeroed + o.BytesZeroed,
		BytesSame:    s.BytesSame + o.BytesSame,
	}
}

// Copy makes the target equal to the source within the job's extents: it reads whole blocks, drops those whose hash
// the map has already, and writes the others. It flushes neither target nor map; the caller does, target first.
//
// The first error ends everything; Copy returns when the calls in flight have returned, so a hung source or target is
// interrupted by closing it. After an error neither the map nor the digest describe the target: both must be discarded
// together with it.
func Copy(ctx context.Context, j Job) (Stats, error) {
	if j.Target == nil {
		return Stats{}, errors.New("copy without a target")
	}
	return j.run(ctx)
}

// Scan builds the map of a disk by reading it, whatever the map said before, and returns its digest: for disks that were
// adopted, or whose map is in doubt. Where the disk is an Allocator, its zeros are not read. progress is as in Job; its
// BytesWritten counts what the map did not know. The caller flushes the map.
func Scan(ctx context.Context, disk io.ReaderAt, size int64, m *Map, progress func(Stats)) (Digest, error) {
	var d Digest
	j := Job{Source: disk, Size: size, Extents: Whole(size), Target: nowhere{}, Map: m, Digest: &d, Progress: progress, scan: true}
	if a, ok := disk.(Allocator); ok {
		j.Extents = Clip(a.Allocated(ctx), size)
	}
	_, err := j.run(ctx)
	return d, err
}

// nowhere is the target of a Scan.
type nowhere struct{}

func (nowhere) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (nowhere) Zero(int64, int64) error                { return nil }
func (nowhere) Flush(context.Context) error            { return nil }

func (j Job) run(ctx context.Context) (Stats, error) {
	workers, chunk, err := settings(j.Workers, j.ChunkBytes)
	if err != nil {
		return Stats{}, err
	}
	workers = int(min(int64(workers), max(1, (j.Size+chunk-1)/chunk))) // a small disk needs no memory for more
	if j.Map.blocks < Blocks(j.Size) {
		return Stats{}, fmt.Errorf("copy of %d bytes with a map of %d blocks", j.Size, j.Map.blocks)
	}
	if j.Digest == nil {
		j.Digest = new(Digest)
	}
	c := &copying{Job: j}
	memory, giveBack := memoryFor(j.Target, int64(workers)*chunk)
	defer giveBack()
	err = work(ctx, j.Extents, j.Size, chunk, workers, c.announce, func() func(context.Context, Extent) error {
		data := memory[:chunk:chunk]
		memory = memory[chunk:]
		w := &copier{
			copying: c, data: data,
			old: make([]Hash, chunk/BlockSize), now: make([]Hash, chunk/BlockSize),
		}
		return w.chunk
	})
	return c.stats, err
}

// memoryFor is memory of n bytes to write to the target from.
func memoryFor(target Writer, n int64) (memory []byte, giveBack func()) {
	if lender, ok := target.(Lender); ok {
		if memory, giveBack = lender.Lend(n); memory != nil {
			return memory, giveBack
		}
	}
	kept, _ := spare.Get().(*[]byte)
	if kept == nil || int64(cap(*kept)) < n {
		fresh := make([]byte, n)
		kept = &fresh
	}
	return (*kept)[:n], func() { spare.Put(kept) }
}

// spare is memory (*[]byte) of copies that ended. A cycle moves little and often, and would spend most of its time on fresh memory.
var spare sync.Pool

// copying is what the workers of one Copy share.
type copying struct {
	Job
	mu    sync.Mutex // guards stats, Digest and Progress
	stats Stats
}

func (c *copying) announce(e Extent) {
	if !e.Zero {
		c.report(Stats{BytesTotal: e.Length}, Digest{})
	}
}

func (c *copying) report(s Stats, d Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats = c.stats.Plus(s)
	c.Digest.Merge(d)
	if c.Progress != nil {
		c.Progress(c.stats)
	}
}

// copier is one worker with its memory.
type copier struct {
	*copying
	data     []byte
	old, now []Hash
	did      Stats
	change   Digest
}

func (w *copier) chunk(ctx context.Context, e Extent) error {
	w.did, w.change = Stats{}, Digest{}
	var err error
	if e.Zero {
		err = w.zeros(ctx, e)
	} else {
		err = w.bytes(ctx, e)
	}
	w.report(w.did, w.change)
	return err
}

// bytes copies a chunk of data.
func (w *copier) bytes(ctx context.Context, e Extent) error {
	if err := w.Limit.Wait(ctx, e.Length); err != nil {
		return err
	}
	first, data := e.Offset/BlockSize, w.data[:e.Length]
	n := Blocks(e.Length)
	old, now := w.old[:n], w.now[:n]
	if err := readFull(w.Source, data, e.Offset); err != nil {
		return fmt.Errorf("read %d bytes at %d: %w", e.Length, e.Offset, err)
	}
	w.did.BytesRead += e.Length
	for i := range now {
		now[i] = HashBlock(data[i*BlockSize : min((i+1)*BlockSize, len(data))])
	}
	if err := w.Map.Get(first, old); err != nil {
		return err
	}
	if err := w.runs(ctx, e, data, old, now); err != nil {
		return err
	}
	for i := range now {
		w.count(first+int64(i), old[i], now[i])
	}
	return w.Map.Set(first, now)
}

// runs brings each run of blocks with the same fate to the target in one call.
func (w *copier) runs(ctx context.Context, e Extent, data []byte, old, now []Hash) error {
	for i := 0; i < len(now); {
		kind, from := fateOf(old[i], now[i]), int64(i)*BlockSize
		for i < len(now) && fateOf(old[i], now[i]) == kind {
			i++
		}
		to := min(int64(i)*BlockSize, e.Length)
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		switch kind {
		case same:
			w.did.BytesSame += to - from
		case cleared:
			if err := w.zero(e.Offset+from, to-from); err != nil {
				return err
			}
		case changed:
			if _, err := w.Target.WriteAt(data[from:to], e.Offset+from); err != nil {
				return fmt.Errorf("write %d bytes at %d: %w", to-from, e.Offset+from, err)
			}
			w.did.BytesWritten += to - from
		}
	}
	return nil
}

// count brings the digest from a block's old hash to its new one.
func (w *copier) count(block int64, old, now Hash) {
	switch {
	case w.scan:
		w.change.Add(block, now)
	case old != now:
		w.change.Remove(block, old)
		w.change.Add(block, now)
	}
}

type fate int

const (
	same fate = iota
	cleared
	changed
)

func fateOf(old, now Hash) fate {
	switch {
	case old == now:
		return same
	case now == Hash{}:
		return cleared
	}
	return changed
}

func (w *copier) zero(off, n int64) error {
	if err := w.Target.Zero(off, n); err != nil {
		return fmt.Errorf("zero %d bytes at %d: %w", n, off, err)
	}
	w.did.BytesZeroed += n
	return nil
}

// zeros brings a range that is known to be zeros to the target, by looking at the map alone.
func (w *copier) zeros(ctx context.Context, e Extent) error {
	at, end := e.Offset/BlockSize, Blocks(e.End())
	for {
		first, err := w.Map.NextUsed(at, end)
		if err != nil {
			return err
		}
		w.did.BytesSame += min(first*BlockSize, e.End()) - at*BlockSize
		if first == end {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		old := w.old[:min(int64(len(w.old)), end-first)]
		if err := w.Map.Get(first, old); err != nil {
			return err
		}
		n := int64(0)
		for n < int64(len(old)) && old[n] != (Hash{}) {
			w.count(first+n, old[n], Hash{})
			n++
		}
		at = first + n
		if err := w.zero(first*BlockSize, min(at*BlockSize, e.End())-first*BlockSize); err != nil {
			return err
		}
		clear(old[:n])
		if err := w.Map.Set(first, old[:n]); err != nil {
			return err
		}
	}
}
