package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
)

// maxMismatches is how many ranges a Verdict names.
const maxMismatches = 1000

// Check says what to compare. Source, Replica and Map must agree in every block; each of them may be nil, but not so
// many that nothing is left to compare.
type Check struct {
	Source  io.ReaderAt
	Replica io.ReaderAt
	// Size in bytes of all of them.
	Size int64
	Map  *Map
	// Workers and ChunkBytes as in Job; memory is twice as much.
	Workers    int
	ChunkBytes int64
	Limit      *Limiter
	// Progress as in Job; BytesSame counts what agreed.
	Progress func(Stats)
}

// Verdict is what Verify found.
type Verdict struct {
	// Mismatches are the ranges of blocks that do not agree, ascending; with very many of them, some.
	Mismatches []Extent
	// BytesDifferent counts all of them.
	BytesDifferent int64
	// Digest of the source's content; of the replica's when there is no source.
	Digest Digest
	Stats  Stats
}

// Identical says that everything agreed.
func (v Verdict) Identical() bool { return v.BytesDifferent == 0 }

// Verify reads source and replica in full and compares them, block by block, with each other and with the map.
// Differences are no error; errors are about reading.
func Verify(ctx context.Context, c Check) (Verdict, error) {
	workers, chunk, err := settings(c.Workers, c.ChunkBytes)
	if err != nil {
		return Verdict{}, err
	}
	present := 0
	for _, there := range []bool{c.Source != nil, c.Replica != nil, c.Map != nil} {
		if there {
			present++
		}
	}
	if present < 2 || c.Source == nil && c.Replica == nil {
		return Verdict{}, errors.New("verify needs two things to compare")
	}
	if c.Map != nil && c.Map.blocks < Blocks(c.Size) {
		return Verdict{}, fmt.Errorf("verify of %d bytes with a map of %d blocks", c.Size, c.Map.blocks)
	}
	v := &verifying{Check: c}
	v.verdict.Stats.BytesTotal = c.Size
	err = work(ctx, Whole(c.Size), c.Size, chunk, workers, func(Extent) {}, func() func(context.Context, Extent) error {
		w := &verifier{
			verifying: v, data: make([]byte, chunk),
			hashes: make([]Hash, chunk/BlockSize), other: make([]Hash, chunk/BlockSize),
		}
		return w.chunk
	})
	v.verdict.Mismatches = mergeRanges(v.verdict.Mismatches)
	return v.verdict, err
}

type verifying struct {
	Check
	mu      sync.Mutex // guards verdict and Progress
	verdict Verdict
}

// verifier is one worker with its memory.
type verifier struct {
	*verifying
	data          []byte
	hashes, other []Hash
}

func (w *verifier) chunk(ctx context.Context, e Extent) error {
	if err := w.Limit.Wait(ctx, e.Length); err != nil {
		return err
	}
	first := e.Offset / BlockSize
	n := Blocks(e.Length)
	hashes, other, bad := w.hashes[:n], w.other[:n], make([]bool, n)
	compare := func() {
		for i := range hashes {
			bad[i] = bad[i] || hashes[i] != other[i]
		}
	}
	readers := []io.ReaderAt{w.Source, w.Replica}
	readers = slices.DeleteFunc(readers, func(r io.ReaderAt) bool { return r == nil })
	if err := w.read(readers[0], e, hashes); err != nil {
		return err
	}
	if len(readers) == 2 {
		if err := w.read(readers[1], e, other); err != nil {
			return err
		}
		compare()
	}
	if w.Map != nil {
		if err := w.Map.Get(first, other); err != nil {
			return err
		}
		compare()
	}
	w.report(e, hashes, bad)
	return nil
}

func (w *verifier) read(r io.ReaderAt, e Extent, into []Hash) error {
	data := w.data[:e.Length]
	if err := readFull(r, data, e.Offset); err != nil {
		return fmt.Errorf("read %d bytes at %d: %w", e.Length, e.Offset, err)
	}
	for i := range into {
		into[i] = HashBlock(data[i*BlockSize : min((i+1)*BlockSize, len(data))])
	}
	return nil
}

func (w *verifier) report(e Extent, hashes []Hash, bad []bool) {
	var digest Digest
	for i, h := range hashes {
		digest.Add(e.Offset/BlockSize+int64(i), h)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	v := &w.verdict
	v.Digest.Merge(digest)
	v.Stats.BytesRead += e.Length
	v.Stats.BytesSame += e.Length
	for i := range bad {
		if !bad[i] {
			continue
		}
		off := e.Offset + int64(i)*BlockSize
		x := Extent{Offset: off, Length: min(BlockSize, e.End()-off)}
		v.BytesDifferent += x.Length
		v.Stats.BytesSame -= x.Length
		v.Mismatches = append(v.Mismatches, x)
	}
	if len(v.Mismatches) > 2*maxMismatches {
		v.Mismatches = mergeRanges(v.Mismatches)
	}
	if w.Progress != nil {
		w.Progress(v.Stats)
	}
}

// mergeRanges sorts ranges, joins those that touch, and keeps maxMismatches of them.
func mergeRanges(all []Extent) []Extent {
	slices.SortFunc(all, func(a, b Extent) int { return cmp.Compare(a.Offset, b.Offset) })
	var merged []Extent
	for e := range Coalesce(func(yield func(Extent, error) bool) {
		for _, e := range all {
			if !yield(e, nil) {
				return
			}
		}
	}) {
		if len(merged) == maxMismatches {
			break
		}
		merged = append(merged, e)
	}
	return merged
}
