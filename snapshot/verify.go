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
	// Extents to look at, widened to blocks; nil: all.
	Extents Extents
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
	// Damaged are those of them, as many as Mismatches at most, in which the replica's own bytes do not have the hash
	// that the map kept for them: they changed after they were written. The others differ from the source only.
	Damaged []Extent
	// BytesDamaged counts all of them.
	BytesDamaged int64
	// Digest of what was seen of the source's content; of the replica's when there is no source.
	Digest Digest
	Stats  Stats
}

// Identical says that everything agreed.
func (v Verdict) Identical() bool { return v.BytesDifferent == 0 }

// Verify reads source and replica where it is asked to and compares them, block by block, with each other and with the
// map. Extents that are said to be zeros are read like all others. Differences are no error; errors are about reading.
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
	if c.Extents == nil {
		c.Extents = Whole(c.Size)
	}
	err = work(ctx, asData(c.Extents), c.Size, chunk, workers, v.announce, func() func(context.Context, Extent) error {
		w := &verifier{
			verifying: v, data: make([]byte, chunk),
			hashes: make([]Hash, chunk/BlockSize), other: make([]Hash, chunk/BlockSize),
		}
		return w.chunk
	})
	v.verdict.Mismatches, v.verdict.Damaged = mergeRanges(v.verdict.Mismatches), mergeRanges(v.verdict.Damaged)
	return v.verdict, err
}

// asData forgets which extents are zeros: that is to be proved too.
func asData(in Extents) Extents {
	return func(yield func(Extent, error) bool) {
		for e, err := range in {
			e.Zero = false
			if !yield(e, err) {
				return
			}
		}
	}
}

type verifying struct {
	Check
	mu      sync.Mutex // guards verdict and Progress
	verdict Verdict
}

func (v *verifying) announce(e Extent) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.verdict.Stats.BytesTotal += e.Length
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
	hashes, other, bad, damaged := w.hashes[:n], w.other[:n], make([]bool, n), make([]bool, n)
	compare := func(into []bool) {
		for i := range hashes {
			into[i] = into[i] || hashes[i] != other[i]
		}
	}
	if w.Replica != nil {
		if err := w.read(w.Replica, e, hashes); err != nil {
			return err
		}
		if w.Map != nil {
			if err := w.Map.Get(first, other); err != nil {
				return err
			}
			compare(damaged)
		}
	}
	if w.Source != nil {
		if w.Replica != nil {
			copy(other, hashes)
		} else if err := w.Map.Get(first, other); err != nil {
			return err
		}
		if err := w.read(w.Source, e, hashes); err != nil {
			return err
		}
		compare(bad)
	}
	w.report(e, hashes, bad, damaged)
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

func (w *verifier) report(e Extent, hashes []Hash, bad, damaged []bool) {
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
		if !bad[i] && !damaged[i] {
			continue
		}
		off := e.Offset + int64(i)*BlockSize
		x := Extent{Offset: off, Length: min(BlockSize, e.End()-off)}
		v.BytesDifferent += x.Length
		if damaged[i] {
			v.BytesDamaged += x.Length
			v.Damaged = append(v.Damaged, x)
		}
		v.Stats.BytesSame -= x.Length
		v.Mismatches = append(v.Mismatches, x)
	}
	if len(v.Mismatches) > 2*maxMismatches {
		v.Mismatches, v.Damaged = mergeRanges(v.Mismatches), mergeRanges(v.Damaged)
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
