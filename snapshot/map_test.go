package snapshot_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"lukechampine.com/blake3"

	"understudy/snapshot"
)

func TestHashBlock(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	full := make([]byte, block)
	require.Zero(t, snapshot.HashBlock(full))
	require.Zero(t, snapshot.HashBlock(full[:100]))
	for range 20 {
		fill(r, full)
		require.Equal(t, snapshot.Hash(blake3.Sum256(full)), snapshot.HashBlock(full))
	}
	for _, n := range []int{1, 511, 512, 4096, block - 1} {
		padded := make([]byte, block)
		copy(padded, full[:n])
		require.Equal(t, snapshot.Hash(blake3.Sum256(padded)), snapshot.HashBlock(full[:n]))
	}
	full[0], full[block-1] = 0, 1
	clear(full[:block-1])
	require.NotZero(t, snapshot.HashBlock(full))
}

func TestDigestFormula(t *testing.T) {
	h := snapshot.Hash{31: 9}
	var d snapshot.Digest
	d.Add(258, h)
	in := append(binary.LittleEndian.AppendUint64(nil, 258), h[:]...)
	sum := blake3.Sum256(in)
	for i := range 16 { // the number is little-endian, people read it big-endian
		sum[i], sum[31-i] = sum[31-i], sum[i]
	}
	want, err := snapshot.ParseDigest(d.String())
	require.NoError(t, err)
	require.Equal(t, want, d)
	require.Len(t, d.String(), 64)
	require.Equal(t, hexOf(sum[:]), d.String())

	before := d
	d.Add(1, snapshot.Hash{})
	require.Equal(t, before, d, "zeros do not count")
	d.Add(7, snapshot.Hash{1})
	d.Remove(258, h)
	d.Add(258, h)
	d.Remove(7, snapshot.Hash{1})
	require.Equal(t, before, d, "order does not matter")
	d.Remove(258, h)
	require.Equal(t, snapshot.Digest{}, d)
	for _, bad := range []string{"", "00", d.String() + "00", "g" + d.String()[1:]} {
		_, err := snapshot.ParseDigest(bad)
		require.Error(t, err, "%q", bad)
	}
}

func hexOf(b []byte) string {
	const digits = "0123456789abcdef"
	var s []byte
	for _, c := range b {
		s = append(s, digits[c>>4], digits[c&15])
	}
	return string(s)
}

// TestMapAgainstModel uses far more pages than the cache holds, from several goroutines.
func TestMapAgainstModel(t *testing.T) {
	const blocks = 700*2048 - 77
	size := int64(blocks*block - 100)
	area := newMemory(snapshot.MapSize(size))
	m, err := snapshot.OpenMap(t.Context(), area, size)
	require.NoError(t, err)
	model := make([]snapshot.Hash, blocks)
	var wg sync.WaitGroup
	for part := range 4 {
		r := rand.New(rand.NewPCG(9, uint64(part)))
		from, to := int64(blocks/4*part), int64(blocks/4*(part+1))
		wg.Go(func() {
			for range 2000 {
				first := from + r.Int64N(to-from)
				hashes := make([]snapshot.Hash, min(1+r.Int64N(20), to-first))
				if r.IntN(4) > 0 {
					for i := range hashes {
						hashes[i][0], hashes[i][1] = byte(r.Uint32()), byte(i)
					}
				}
				if err := m.Set(first, hashes); err != nil {
					t.Errorf("set: %v", err)
				}
				copy(model[first:], hashes)
				got := make([]snapshot.Hash, min(30, to-first))
				if err := m.Get(first, got); err != nil {
					t.Errorf("get: %v", err)
				}
				for i := range got {
					if got[i] != model[first+int64(i)] {
						t.Errorf("block %d", first+int64(i))
						return
					}
				}
			}
		})
	}
	wg.Wait()
	var digest snapshot.Digest
	at := int64(0)
	for i, h := range model {
		digest.Add(int64(i), h)
		if h == (snapshot.Hash{}) {
			continue
		}
		next, err := m.NextUsed(at, blocks)
		require.NoError(t, err)
		if next != int64(i) {
			require.Equal(t, int64(i), next)
		}
		at = next + 1
	}
	next, err := m.NextUsed(at, blocks)
	require.NoError(t, err)
	require.Equal(t, int64(blocks), next)

	require.NoError(t, m.Flush(t.Context()))
	got, err := snapshot.DigestOf(t.Context(), area, size)
	require.NoError(t, err)
	require.Equal(t, digest, got, "what was flushed is what was set")
	got, err = m.Digest(t.Context())
	require.NoError(t, err)
	require.Equal(t, digest, got)
}

func TestMapLimits(t *testing.T) {
	area := newMemory(snapshot.MapSize(10 * block))
	m, err := snapshot.OpenMap(t.Context(), area, 10*block)
	require.NoError(t, err)
	require.Error(t, m.Set(10, make([]snapshot.Hash, 1)))
	require.Error(t, m.Get(-1, make([]snapshot.Hash, 1)))
	require.Error(t, m.Get(9, make([]snapshot.Hash, 2)))
	_, err = snapshot.OpenMap(t.Context(), area, 11*block)
	require.Error(t, err)
	require.Error(t, snapshot.ReadMap(area, 10*block).Set(0, make([]snapshot.Hash, 1)))
	require.Error(t, snapshot.ReadMap(newMemory(5), 10*block).Get(0, make([]snapshot.Hash, 1)), "a truncated map")
}

// TestMapOfHugeEmptyDisk must not read 8 GiB of zeros.
func TestMapOfHugeEmptyDisk(t *testing.T) {
	const size = 16 << 40
	area := newSparse(snapshot.MapSize(size))
	m, err := snapshot.OpenMap(t.Context(), area, size)
	require.NoError(t, err)
	require.NoError(t, m.Set(1<<27, []snapshot.Hash{{1}}))
	next, err := m.NextUsed(0, snapshot.Blocks(size))
	require.NoError(t, err)
	require.Equal(t, int64(1<<27), next)
	require.NoError(t, m.Flush(t.Context()))
	require.Zero(t, area.reads.Load())
	require.Len(t, area.pages, 1)

	m, err = snapshot.OpenMap(t.Context(), area, size)
	require.NoError(t, err)
	next, err = m.NextUsed(0, snapshot.Blocks(size))
	require.NoError(t, err)
	require.Equal(t, int64(1<<27), next)
	require.NoError(t, m.Set(1<<27, []snapshot.Hash{{}}))
	d, err := m.Digest(t.Context())
	require.NoError(t, err)
	require.Equal(t, snapshot.Digest{}, d)
}

func FuzzMap(f *testing.F) {
	f.Add([]byte{}, int64(0), []byte{1, 2, 3})
	f.Add(make([]byte, 320), int64(10*block), []byte{0, 9, 5, 3})
	f.Add(append(make([]byte, 31), 1), int64(1), []byte{0, 0})
	f.Add(make([]byte, 33), int64(block+1), []byte{255, 1})
	f.Fuzz(func(t *testing.T, b []byte, size int64, ops []byte) {
		if size < 0 || size > 1<<30 {
			return
		}
		area := &memory{b: append([]byte(nil), b...)}
		m, err := snapshot.OpenMap(t.Context(), area, size)
		if int64(len(b)) != snapshot.MapSize(size) {
			require.Error(t, err)
			_, err = snapshot.DigestOf(t.Context(), area, size)
			require.True(t, err != nil || int64(len(b)) > snapshot.MapSize(size))
			return
		}
		require.NoError(t, err)
		d, err := m.Digest(t.Context())
		require.NoError(t, err)
		for ; len(ops) >= 2; ops = ops[2:] {
			index, value := int64(ops[0]), []snapshot.Hash{{ops[1]}}
			old := make([]snapshot.Hash, 1)
			if m.Get(index, old) != nil {
				require.GreaterOrEqual(t, index, snapshot.Blocks(size))
				continue
			}
			d.Remove(index, old[0])
			d.Add(index, value[0])
			require.NoError(t, m.Set(index, value))
		}
		require.NoError(t, m.Flush(t.Context()))
		again, err := snapshot.DigestOf(t.Context(), area, size)
		require.NoError(t, err)
		require.Equal(t, d, again)
	})
}

// Scattered changes must not make whole pages travel: a map's share stays below 1 % of the data that changed.
func TestMapWritesTouchedSectors(t *testing.T) {
	const (
		blocks = 8 * 2048 // of eight pages
		hash   = int64(len(snapshot.Hash{}))
	)
	area := &countingArea{memory: make([]byte, blocks*hash)}
	m, err := snapshot.OpenMap(t.Context(), area, blocks*snapshot.BlockSize)
	require.NoError(t, err)
	want := make([]snapshot.Hash, blocks)
	set := func(block int64, h snapshot.Hash) {
		want[block] = h
		require.NoError(t, m.Set(block, []snapshot.Hash{h}))
	}
	for i := range int64(blocks) {
		set(i, snapshot.Hash{1, byte(i), byte(i >> 8)})
	}
	require.NoError(t, m.Flush(t.Context()))
	require.EqualValues(t, blocks*hash, area.written, "a new map travels in whole pages")
	require.Equal(t, 8, area.calls)

	area.written = 0
	changed := int64(0)
	for i := int64(7); i < blocks; i += 97 {
		set(i, snapshot.Hash{2, byte(i)})
		changed++
	}
	require.NoError(t, m.Flush(t.Context()))
	require.LessOrEqual(t, area.written, changed*snapshot.BlockSize/100)
	have := make([]snapshot.Hash, blocks)
	require.NoError(t, snapshot.ReadMap(bytes.NewReader(area.memory), blocks*snapshot.BlockSize).Get(0, have))
	require.Equal(t, want, have)

	area.written = 0
	require.NoError(t, m.Flush(t.Context()))
	require.Zero(t, area.written)
}

// countingArea is a map's area in memory.
type countingArea struct {
	mu      sync.Mutex
	memory  []byte
	written int64
	calls   int
}

func (a *countingArea) Size() int64                 { return int64(len(a.memory)) }
func (a *countingArea) Flush(context.Context) error { return nil }

func (a *countingArea) ReadAt(p []byte, off int64) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return copy(p, a.memory[off:]), nil
}

func (a *countingArea) WriteAt(p []byte, off int64) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.written += int64(len(p))
	a.calls++
	return copy(a.memory[off:], p), nil
}

func (a *countingArea) Zero(off, n int64) error {
	clear(a.memory[off : off+n])
	return nil
}
