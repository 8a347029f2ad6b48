package snapshot_test

import (
	"errors"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/snapshot"
)

func data(off, n int64) snapshot.Extent { return snapshot.Extent{Offset: off, Length: n} }
func zero(off, n int64) snapshot.Extent { return snapshot.Extent{Offset: off, Length: n, Zero: true} }

func all(t *testing.T, in snapshot.Extents) []snapshot.Extent {
	t.Helper()
	out, err := list(in)
	require.NoError(t, err)
	return out
}

func TestCoalesce(t *testing.T) {
	got := all(t, snapshot.Coalesce(extents(data(0, 5), data(5, 5), zero(10, 1), zero(11, 0), zero(11, 4), data(15, 1), data(20, 1))))
	require.Equal(t, []snapshot.Extent{data(0, 10), zero(10, 5), data(15, 1), data(20, 1)}, got)
	require.Empty(t, all(t, snapshot.Coalesce(extents())))
}

func TestErrorsPassThrough(t *testing.T) {
	broken := errors.New("broken")
	failing := func(yield func(snapshot.Extent, error) bool) {
		if yield(data(0, block), nil) {
			yield(snapshot.Extent{}, broken)
		}
	}
	for name, in := range map[string]snapshot.Extents{
		"coalesce": snapshot.Coalesce(failing), "validate": snapshot.Validate(failing, 1<<20),
		"align": snapshot.Align(failing, 1<<20), "clip": snapshot.Clip(failing, 1<<20),
		"within": snapshot.Within(failing, extents(data(0, 1<<20))), "within ranges": snapshot.Within(extents(data(0, 1<<20)), failing),
	} {
		got, err := list(in)
		require.ErrorIs(t, err, broken, name)
		require.Equal(t, []snapshot.Extent{data(0, block)}, got, name)
	}
}

func TestValidate(t *testing.T) {
	for name, bad := range map[string][]snapshot.Extent{
		"overlap":      {data(0, 10), data(9, 5)},
		"descending":   {data(10, 1), data(0, 1)},
		"negative":     {data(-1, 5)},
		"negative len": {data(5, -1)},
		"beyond":       {data(90, 11)},
		"far beyond":   {data(math.MaxInt64, math.MaxInt64)},
		"wraps":        {data(1, math.MaxInt64)},
	} {
		_, err := list(snapshot.Validate(extents(bad...), 100))
		require.ErrorIs(t, err, snapshot.ErrExtents, name)
	}
	good := []snapshot.Extent{data(0, 10), data(10, 0), zero(10, 90)}
	require.Equal(t, good, all(t, snapshot.Validate(extents(good...), 100)))
}

func TestAlign(t *testing.T) {
	const size = 10*block + 100
	for name, c := range map[string]struct{ in, want []snapshot.Extent }{
		"widened":            {[]snapshot.Extent{data(block+5, 1), data(3*block, 1)}, []snapshot.Extent{data(block, block), data(3*block, block)}},
		"shared block once":  {[]snapshot.Extent{data(5, 1), data(100, block)}, []snapshot.Extent{data(0, 2*block)}},
		"zero with ragged":   {[]snapshot.Extent{zero(10, 3*block)}, []snapshot.Extent{data(0, block), zero(block, 2*block), data(3*block, block)}},
		"zero inside block":  {[]snapshot.Extent{zero(10, 20)}, []snapshot.Extent{data(0, block)}},
		"zeros that touch":   {[]snapshot.Extent{zero(0, 10), zero(10, block-10)}, []snapshot.Extent{zero(0, block)}},
		"mixed block":        {[]snapshot.Extent{zero(0, block+10), data(block+10, 10), zero(block+20, 2*block-20)}, []snapshot.Extent{zero(0, block), data(block, block), zero(2*block, block)}},
		"short last block":   {[]snapshot.Extent{zero(9*block, block+100)}, []snapshot.Extent{zero(9*block, block+100)}},
		"last block partly":  {[]snapshot.Extent{zero(9*block, block+99)}, []snapshot.Extent{zero(9*block, block), data(10*block, 100)}},
		"last block as data": {[]snapshot.Extent{data(10*block+99, 1)}, []snapshot.Extent{data(10*block, 100)}},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, c.want, all(t, snapshot.Align(extents(c.in...), size))) })
	}
}

func TestClip(t *testing.T) {
	require.Equal(t, []snapshot.Extent{data(0, 10), zero(10, 5)}, all(t, snapshot.Clip(extents(data(0, 10), zero(10, 10), data(20, 5)), 15)))
}

// sequence turns fuzzed bytes into extents, valid or not, and per-byte truth for small disks: 0 unknown, 1 data, 2 zero.
func sequence(b []byte, unit int64) []snapshot.Extent {
	var out []snapshot.Extent
	at := int64(0)
	for ; len(b) >= 3; b = b[3:] {
		at += int64(b[0]) * unit
		n := int64(b[1]) * unit
		out = append(out, snapshot.Extent{Offset: at, Length: n, Zero: b[2]&1 == 1})
		at += n
	}
	return out
}

// paint is the truth of what extents say about each unit of a disk.
func paint(list []snapshot.Extent, size, unit int64) []byte {
	p := make([]byte, (size+unit-1)/unit)
	for _, e := range list {
		for u := e.Offset / unit; u*unit < e.End() && u < int64(len(p)); u++ {
			p[u] = 1
			if e.Zero {
				p[u] = 2
			}
		}
	}
	return p
}

func FuzzExtents(f *testing.F) {
	f.Add([]byte{0, 4, 1, 0, 4, 0, 3, 9, 1}, []byte{1, 6, 0, 2, 9, 0}, uint16(40))
	f.Add([]byte{0, 64, 1, 0, 64, 0, 0, 63, 1, 0, 1, 1}, []byte{0, 255, 0}, uint16(192))
	f.Add([]byte{}, []byte{0, 1, 0}, uint16(1))
	f.Add([]byte{255, 255, 1}, []byte{}, uint16(3))
	f.Fuzz(func(t *testing.T, a, b []byte, units uint16) {
		const unit = 4096
		size := (int64(units)%2000 + 1) * unit
		in, ranges := sequence(a, unit), sequence(b, unit)
		valid, err := list(snapshot.Validate(extents(in...), size))
		if err != nil {
			in = valid // the part before the error
		}
		truth := paint(in, size, unit)

		merged := all(t, snapshot.Coalesce(extents(in...)))
		require.Equal(t, truth, paint(merged, size, unit))
		tidy(t, merged, size)

		aligned := all(t, snapshot.Align(extents(in...), size))
		tidy(t, aligned, size)
		byBlock := paint(aligned, size, block)
		for i := range byBlock {
			want := byte(0)
			part := truth[i*16 : min((i+1)*16, len(truth))]
			zeros := 0
			for _, kind := range part {
				if kind != 0 {
					want = 1
				}
				if kind == 2 {
					zeros++
				}
			}
			if zeros == len(part) {
				want = 2
			}
			require.Equal(t, want, byBlock[i], "block %d", i)
		}
		for _, e := range aligned {
			require.Zero(t, e.Offset%block)
			require.True(t, e.End()%block == 0 || e.End() == size)
		}

		ranges = all(t, snapshot.Clip(extents(ranges...), size))
		cut := all(t, snapshot.Within(extents(in...), extents(ranges...)))
		tidy(t, cut, size)
		inRange, got := paint(ranges, size, unit), paint(cut, size, unit)
		for i := range got {
			want := byte(0)
			if inRange[i] != 0 {
				want = max(truth[i], 1)
			}
			require.Equal(t, want, got[i], "unit %d", i)
		}
	})
}

// tidy asserts that extents are ascending, not empty, within size and coalesced.
func tidy(t *testing.T, all []snapshot.Extent, size int64) {
	t.Helper()
	end := int64(0)
	for i, e := range all {
		require.GreaterOrEqual(t, e.Offset, end)
		require.Positive(t, e.Length)
		require.LessOrEqual(t, e.End(), size)
		if i > 0 && e.Offset == end {
			require.NotEqual(t, all[i-1].Zero, e.Zero)
		}
		end = e.End()
	}
}
