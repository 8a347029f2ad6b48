package snapshot

import (
	"errors"
	"fmt"
	"iter"
)

// ErrExtents says that a source described its disk in a way that makes no sense.
var ErrExtents = errors.New("bad extents")

// Coalesce merges neighbours of the same kind that touch, so that each becomes one extent. Empty extents vanish. The
// input must be ascending; see Validate.
func Coalesce(in Extents) Extents {
	return func(yield func(Extent, error) bool) {
		var held Extent
		for e, err := range in {
			if err != nil {
				if held.Length == 0 || yield(held, nil) {
					yield(Extent{}, err)
				}
				return
			}
			switch {
			case e.Length == 0:
			case held.Length > 0 && held.End() == e.Offset && held.Zero == e.Zero:
				held.Length += e.Length
			default:
				if held.Length > 0 && !yield(held, nil) {
					return
				}
				held = e
			}
		}
		if held.Length > 0 {
			yield(held, nil)
		}
	}
}

// Validate passes extents on as long as they are ascending, do not overlap and lie within size, and ends with
// ErrExtents at the first one that does not.
func Validate(in Extents, size int64) Extents {
	return func(yield func(Extent, error) bool) {
		var end int64
		for e, err := range in {
			if err != nil {
				yield(Extent{}, err)
				return
			}
			if e.Offset < end || e.Length < 0 || e.Offset > size || e.Length > size-e.Offset {
				yield(Extent{}, fmt.Errorf("%w: %d bytes at %d, after %d, on a disk of %d", ErrExtents, e.Length, e.Offset, end, size))
				return
			}
			end = e.End()
			if !yield(e, nil) {
				return
			}
		}
	}
}

// Clip cuts extents off at size.
func Clip(in Extents, size int64) Extents {
	return func(yield func(Extent, error) bool) {
		for e, err := range in {
			if err == nil && e.Offset >= size {
				return
			}
			e.Length = min(e.Length, size-e.Offset)
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// Align widens extents to whole blocks, clipped to size, still ascending and without overlap, and coalesces them. A
// block is zero only if zero extents cover all of it; a block of which a part is data, or not mentioned, is data, so
// that it gets read. The input must be valid.
func Align(in Extents, size int64) Extents {
	return Coalesce(func(yield func(Extent, error) bool) {
		var done int64 // everything below has been passed on
		pass := func(from, to int64, zero bool) bool {
			from, to = max(from, done), min(to, size)
			if from >= to {
				return true
			}
			done = to
			return yield(Extent{Offset: from, Length: to - from, Zero: zero}, nil)
		}
		for e, err := range Coalesce(in) {
			if err != nil {
				yield(Extent{}, err)
				return
			}
			from, to := roundDown(e.Offset), roundUp(e.End())
			if !e.Zero {
				if !pass(from, to, false) {
					return
				}
				continue
			}
			// Because neighbours were merged, what shares the first or last block of a zero extent is not zero.
			inner, outer := roundUp(e.Offset), roundDown(e.End())
			if e.End() == size {
				outer = to
			}
			if !pass(from, inner, false) || !pass(inner, outer, true) || !pass(max(outer, inner), to, false) {
				return
			}
		}
	})
}

// DataBytes adds up the extents that are data.
func DataBytes(in Extents) (n int64, err error) {
	for e, err := range in {
		if err != nil {
			return 0, err
		}
		if !e.Zero {
			n += e.Length
		}
	}
	return n, nil
}

func roundDown(n int64) int64 { return n &^ (BlockSize - 1) }
func roundUp(n int64) int64   { return roundDown(n + BlockSize - 1) }

// Within cuts extents to the parts that lie in ranges: what changed, told apart as data and zeros. Parts of ranges that
// extents do not mention count as data. Both inputs must be valid; the output is coalesced.
func Within(extents, ranges Extents) Extents {
	return Coalesce(func(yield func(Extent, error) bool) {
		next, stop := iter.Pull2(Coalesce(extents))
		defer stop()
		kind, err, more := next()
		for r, rangeErr := range ranges {
			if rangeErr != nil {
				yield(Extent{}, rangeErr)
				return
			}
			for at := r.Offset; at < r.End(); {
				for more && err == nil && kind.End() <= at {
					kind, err, more = next()
				}
				if err != nil {
					yield(Extent{}, err)
					return
				}
				part := Extent{Offset: at, Length: r.End() - at}
				switch {
				case !more || kind.Offset >= r.End():
				case kind.Offset > at:
					part.Length = kind.Offset - at
				default:
					part.Length, part.Zero = min(kind.End(), r.End())-at, kind.Zero
				}
				if !yield(part, nil) {
					return
				}
				at = part.End()
			}
		}
	})
}
