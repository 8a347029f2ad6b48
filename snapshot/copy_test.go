package snapshot_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"understudy/snapshot"
)

// replica is a target with its map and digest.
type replica struct {
	disk   *memory
	area   *memory
	m      *snapshot.Map
	digest snapshot.Digest
}

func newReplica(t *testing.T, size int64) *replica {
	r := &replica{disk: newMemory(size), area: newMemory(snapshot.MapSize(size))}
	var err error
	r.m, err = snapshot.OpenMap(t.Context(), r.area, size)
	require.NoError(t, err)
	return r
}

func (r *replica) job(source *memory, in snapshot.Extents) snapshot.Job {
	return snapshot.Job{Source: source, Size: source.Size(), Extents: in, Target: r.disk, Map: r.m, Digest: &r.digest}
}

// same asserts that the replica is the source and that map and digest say so.
func (r *replica) same(t *testing.T, source *memory) {
	t.Helper()
	require.True(t, bytes.Equal(source.b, r.disk.b), "replica differs")
	require.NoError(t, r.m.Flush(t.Context()))
	d, err := snapshot.DigestOf(t.Context(), r.area, source.Size())
	require.NoError(t, err)
	require.Equal(t, d, r.digest, "digest of the map")
	v, err := snapshot.Verify(t.Context(), snapshot.Check{Source: source, Replica: r.disk, Size: source.Size(), Map: r.m})
	require.NoError(t, err)
	require.True(t, v.Identical(), "%+v", v)
	require.Equal(t, d, v.Digest)
}

// TestReplicaFollowsSource: a full mirror and many cycles of random changes, over sizes that are no multiple of a block.
func TestReplicaFollowsSource(t *testing.T) {
	for seed := range uint64(10) {
		r := rand.New(rand.NewPCG(seed, 7))
		size := 1 + r.Int64N(60*block)
		source, target := newMemory(size), newReplica(t, size)
		scribble(r, source.b, 10)
		job := target.job(source, truthful(source, 4096))
		job.ChunkBytes, job.Workers = block*(1+r.Int64N(20)), 1+r.IntN(12)
		stats, err := snapshot.Copy(t.Context(), job)
		require.NoError(t, err)
		target.same(t, source)
		require.Zero(t, stats.BytesZeroed, "an empty target has no blocks to clear")
		require.Equal(t, stats.BytesTotal, stats.BytesRead)
		for range 6 {
			changed := scribble(r, source.b, 1+r.IntN(8))
			job.Extents = snapshot.Within(truthful(source, 512), extents(changed...))
			_, err := snapshot.Copy(t.Context(), job)
			require.NoError(t, err)
			target.same(t, source)
		}
	}
}

// truthful describes a disk in units as a hypervisor would.
func truthful(m *memory, unit int64) snapshot.Extents {
	return snapshot.Coalesce(func(yield func(snapshot.Extent, error) bool) {
		empty := make([]byte, unit)
		for off := int64(0); off < m.Size(); off += unit {
			n := min(unit, m.Size()-off)
			if !yield(snapshot.Extent{Offset: off, Length: n, Zero: bytes.Equal(m.b[off:off+n], empty[:n])}, nil) {
				return
			}
		}
	})
}

func TestDifferenceMirrorMovesOnlyDifferences(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	const size = 300*block + 17
	source, target := newMemory(size), newReplica(t, size)
	fill(r, source.b)
	_, err := snapshot.Copy(t.Context(), target.job(source, snapshot.Whole(size)))
	require.NoError(t, err)
	calls := target.disk.writeCalls.Load()
	source.b[5]++
	source.b[100*block]++
	source.b[101*block]++ // a neighbour: one write
	source.b[size-1]++
	clear(source.b[200*block : 203*block])
	stats, err := snapshot.Copy(t.Context(), target.job(source, snapshot.Whole(size)))
	require.NoError(t, err)
	require.Equal(t, snapshot.Stats{
		BytesTotal: size, BytesRead: size, BytesWritten: 3*block + 17, BytesZeroed: 3 * block, BytesSame: 294 * block,
	}, stats)
	require.Equal(t, calls+3, target.disk.writeCalls.Load())
	target.same(t, source)

	// The source punches a hole: nothing is read, only what was data becomes zeros.
	reads := source.reads.Load()
	clear(source.b[198*block : 210*block])
	stats, err = snapshot.Copy(t.Context(), target.job(source, extents(zero(198*block, 12*block))))
	require.NoError(t, err)
	require.Equal(t, snapshot.Stats{BytesZeroed: 9 * block, BytesSame: 3 * block}, stats)
	require.Equal(t, reads, source.reads.Load())
	target.same(t, source)
}

func TestGrownDiskKeepsItsMap(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 3))
	source, target := newMemory(10*block+1000), newReplica(t, 10*block+1000)
	fill(r, source.b)
	_, err := snapshot.Copy(t.Context(), target.job(source, snapshot.Whole(source.Size())))
	require.NoError(t, err)
	require.NoError(t, target.m.Flush(t.Context()))

	grown := newReplica(t, 20*block)
	copy(grown.disk.b, target.disk.b)
	copy(grown.area.b, target.area.b)
	grown.digest = target.digest
	bigger := newMemory(20 * block)
	copy(bigger.b, source.b)
	stats, err := snapshot.Copy(t.Context(), grown.job(bigger, extents(zero(10*block+1000, 10*block-1000))))
	require.NoError(t, err)
	require.Equal(t, int64(block), stats.BytesSame-9*block, "the block that was short has kept its hash")
	require.Zero(t, stats.BytesWritten)
	grown.same(t, bigger)
}

func TestScanOfAdoptedDisk(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 3))
	const size = 100*block + 5
	source, target := newMemory(size), newReplica(t, size)
	fill(r, source.b[:60*block])
	fill(r, target.area.b) // whatever was there before
	copy(target.disk.b, source.b)
	var err error
	target.digest, err = snapshot.Scan(t.Context(), target.disk, size, target.m, nil)
	require.NoError(t, err)
	target.same(t, source)
	require.Zero(t, target.disk.writes.Load()+target.disk.zeroed.Load())
}

func TestScanOfSparseDiskReadsOnlyData(t *testing.T) {
	const size = 4 << 40
	disk, area := newSparse(size), newSparse(snapshot.MapSize(size))
	_, _ = disk.WriteAt([]byte("here"), 3<<40)
	m, err := snapshot.OpenMap(t.Context(), area, size)
	require.NoError(t, err)
	d, err := snapshot.Scan(t.Context(), disk, size, m, nil)
	require.NoError(t, err)
	require.Equal(t, int64(block), disk.reads.Load())
	got, err := m.Digest(t.Context())
	require.NoError(t, err)
	require.Equal(t, d, got)
}

func TestVerifyFindsDamage(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 3))
	const size = 80*block + 9
	source, target := newMemory(size), newReplica(t, size)
	fill(r, source.b)
	_, err := snapshot.Copy(t.Context(), target.job(source, snapshot.Whole(size)))
	require.NoError(t, err)
	target.disk.b[3*block+4]++
	target.disk.b[4*block]++
	target.disk.b[size-1]++
	want := []snapshot.Extent{data(3*block, 2*block), data(80*block, 9)}
	for name, c := range map[string]snapshot.Check{
		"all three":      {Source: source, Replica: target.disk, Map: target.m},
		"both disks":     {Source: source, Replica: target.disk},
		"replica, map":   {Replica: target.disk, Map: target.m},
		"one block each": {Source: source, Replica: target.disk, ChunkBytes: block, Workers: 3},
	} {
		c.Size = size
		v, err := snapshot.Verify(t.Context(), c)
		require.NoError(t, err, name)
		require.Equal(t, want, v.Mismatches, name)
		require.Equal(t, int64(2*block+9), v.BytesDifferent, name)
		require.Equal(t, size-v.BytesDifferent, v.Stats.BytesSame, name)
		if c.Map != nil { // only the map knows that it is the replica that changed
			require.Equal(t, want, v.Damaged, name)
			require.Equal(t, v.BytesDifferent, v.BytesDamaged, name)
		} else {
			require.Zero(t, v.BytesDamaged, name)
		}
	}
	v, err := snapshot.Verify(t.Context(), snapshot.Check{Source: source, Map: target.m, Size: size})
	require.NoError(t, err)
	require.True(t, v.Identical())
	require.Equal(t, target.digest, v.Digest)
	for _, nothing := range []snapshot.Check{{}, {Source: source}, {Map: target.m}} {
		_, err = snapshot.Verify(t.Context(), nothing)
		require.Error(t, err)
	}
	var broken error = syscall.EIO
	target.disk.readErr.Store(&broken)
	_, err = snapshot.Verify(t.Context(), snapshot.Check{Source: source, Replica: target.disk, Size: size})
	require.ErrorIs(t, err, syscall.EIO)
}

// What the source changed without telling anybody is no damage, and only the extents of the order are looked at.
func TestVerifyTellsLiesFromDamage(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 4))
	const size = 40 * block
	source, target := newMemory(size), newReplica(t, size)
	fill(r, source.b)
	_, err := snapshot.Copy(t.Context(), target.job(source, snapshot.Whole(size)))
	require.NoError(t, err)
	source.b[2*block]++
	target.disk.b[3*block]++
	source.b[30*block]++
	part := func(yield func(snapshot.Extent, error) bool) {
		_ = yield(snapshot.Extent{Offset: block + 5, Length: 4 * block, Zero: true}, nil)
	}
	v, err := snapshot.Verify(t.Context(), snapshot.Check{Source: source, Replica: target.disk, Map: target.m, Size: size, Extents: part})
	require.NoError(t, err)
	require.Equal(t, []snapshot.Extent{data(2*block, 2*block)}, v.Mismatches)
	require.Equal(t, []snapshot.Extent{data(3*block, block)}, v.Damaged)
	require.EqualValues(t, 5*block, v.Stats.BytesRead)
	require.EqualValues(t, 5*block, v.Stats.BytesTotal)
}

func TestVerifyNamesABoundedNumber(t *testing.T) {
	const size = 2401 * block
	a, b := newMemory(size), newMemory(size)
	for off := 0; off < size; off += 2 * block {
		b.b[off] = 1
	}
	v, err := snapshot.Verify(t.Context(), snapshot.Check{Source: a, Replica: b, Size: size})
	require.NoError(t, err)
	require.Len(t, v.Mismatches, 1000)
	require.Equal(t, int64(1201*block), v.BytesDifferent)
}

func TestCopyErrors(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 3))
	const size = 200 * block
	source, target := newMemory(size), newReplica(t, size)
	fill(r, source.b)
	full := error(syscall.ENOSPC)
	target.disk.writeErr.Store(&full)
	_, err := snapshot.Copy(t.Context(), target.job(source, snapshot.Whole(size)))
	require.ErrorIs(t, err, syscall.ENOSPC)

	target = newReplica(t, size)
	_, err = snapshot.Copy(t.Context(), target.job(source, extents(data(0, size+1))))
	require.ErrorIs(t, err, snapshot.ErrExtents)
	short := target.job(newMemory(size-1), snapshot.Whole(size))
	short.Size = size
	_, err = snapshot.Copy(t.Context(), short)
	require.ErrorContains(t, err, "unexpected EOF")
	small := newReplica(t, 10*block)
	_, err = snapshot.Copy(t.Context(), small.job(source, snapshot.Whole(size)))
	require.ErrorContains(t, err, "map")
	odd := target.job(source, snapshot.Whole(size))
	odd.ChunkBytes = block + 1
	_, err = snapshot.Copy(t.Context(), odd)
	require.ErrorContains(t, err, "whole blocks")
	broken := errors.New("tracking lost")
	_, err = snapshot.Copy(t.Context(), target.job(source, func(yield func(snapshot.Extent, error) bool) { yield(snapshot.Extent{}, broken) }))
	require.ErrorIs(t, err, broken)
}

func TestCopyIsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 1000 * block
		source, target := newMemory(size), newReplica(t, size)
		source.b[0], source.delay = 1, make(chan struct{})
		ctx, cancel := context.WithCancelCause(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := snapshot.Copy(ctx, target.job(source, snapshot.Whole(size)))
			done <- err
		}()
		synctest.Wait()
		reason := errors.New("gave way")
		cancel(reason)
		close(source.delay)
		require.ErrorIs(t, <-done, reason)
		require.LessOrEqual(t, source.reads.Load(), int64(16*256<<10), "only what was in flight")
		synctest.Wait() // fails when a worker is left
	})
}

func TestLimiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 160 * block // 10 MiB
		source, target := newMemory(size), newReplica(t, size)
		source.b[0] = 1
		job := target.job(source, snapshot.Whole(size))
		job.Limit = snapshot.NewLimiter(1 << 20)
		start := time.Now()
		_, err := snapshot.Copy(t.Context(), job)
		require.NoError(t, err)
		require.InDelta(t, 10, time.Since(start).Seconds(), 0.5)

		start = time.Now()
		go func() {
			time.Sleep(3 * time.Second)
			job.Limit.Set(0)
		}()
		_, err = snapshot.Copy(t.Context(), job)
		require.NoError(t, err)
		require.InDelta(t, 3, time.Since(start).Seconds(), 0.5)

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		job.Limit.Set(1)
		_, err = snapshot.Copy(ctx, job)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

// The tighter of two limiters holds, and what goes through several counts against the one that they share.
func TestLimiterWithinAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		took := func(outer, inner int64, several int) float64 {
			shared := snapshot.NewLimiter(outer)
			start := time.Now()
			var copies sync.WaitGroup
			for range several {
				l := snapshot.NewLimiter(inner).Within(shared)
				copies.Go(func() {
					for range 100 {
						assert.NoError(t, l.Wait(t.Context(), 1000))
					}
				})
			}
			copies.Wait()
			return time.Since(start).Seconds()
		}
		require.InDelta(t, 10, took(10_000, 0, 1), 0.5)
		require.InDelta(t, 10, took(0, 10_000, 1), 0.5)
		require.InDelta(t, 10, took(10_000, 40_000, 1), 0.5)
		require.InDelta(t, 10, took(40_000, 10_000, 1), 0.5)
		require.InDelta(t, 30, took(10_000, 40_000, 3), 0.5)

		shared := snapshot.NewLimiter(1)
		inside := snapshot.NewLimiter(0).Within(shared)
		require.NoError(t, inside.Wait(t.Context(), 1<<30))
		go func() {
			time.Sleep(3 * time.Second)
			shared.Set(0)
		}()
		start := time.Now()
		require.NoError(t, inside.Wait(t.Context(), 1<<30))
		require.InDelta(t, 3, time.Since(start).Seconds(), 0.1, "those who wait learn of a change")
	})
}

func TestProgressReachesTheTotal(t *testing.T) {
	const size = 50*block + 3
	source, target := newMemory(size), newReplica(t, size)
	source.b[7] = 7
	job := target.job(source, extents(data(0, 20*block), zero(20*block, 30*block+3)))
	var last snapshot.Stats
	job.Progress = func(s snapshot.Stats) {
		require.GreaterOrEqual(t, s.BytesRead, last.BytesRead)
		last = s
	}
	stats, err := snapshot.Copy(t.Context(), job)
	require.NoError(t, err)
	require.Equal(t, stats, last)
	require.Equal(t, snapshot.Stats{BytesTotal: 20 * block, BytesRead: 20 * block, BytesWritten: block, BytesSame: 49*block + 3}, stats)
}

func BenchmarkCopy(b *testing.B) {
	const size = 256 << 20
	source := newMemory(size)
	fill(rand.New(rand.NewPCG(1, 1)), source.b[:size/2])
	for name, zeros := range map[string]snapshot.Extents{
		"all read":    snapshot.Whole(size),
		"zeros known": extents(data(0, size/2), zero(size/2, size/2)),
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				area := newMemory(snapshot.MapSize(size))
				m, err := snapshot.OpenMap(b.Context(), area, size)
				require.NoError(b, err)
				target := &memory{b: source.b} // writing costs a copy onto itself
				_, err = snapshot.Copy(b.Context(), snapshot.Job{Source: source, Size: size, Extents: zeros, Target: target, Map: m, Workers: 2})
				require.NoError(b, err)
			}
		})
	}
}

// TestHugeDiskNeedsLittleMemory mirrors 4 TiB with a little data at both ends and in between.
func TestHugeDiskNeedsLittleMemory(t *testing.T) {
	const size = 4 << 40
	source, target, area := newSparse(size), newSparse(size), newSparse(snapshot.MapSize(size))
	piece := make([]byte, block)
	fill(rand.New(rand.NewPCG(1, 1)), piece)
	for off := int64(0); off < size; off += size / 64 {
		_, _ = source.WriteAt(piece, off)
	}
	_, _ = source.WriteAt([]byte("end"), size-3)
	m, err := snapshot.OpenMap(t.Context(), area, size)
	require.NoError(t, err)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var digest snapshot.Digest
	stats, err := snapshot.Copy(t.Context(), snapshot.Job{
		Source: source, Size: size, Extents: source.Allocated(t.Context()), Target: target, Map: m, Digest: &digest,
	})
	require.NoError(t, err)
	runtime.ReadMemStats(&after)
	require.Equal(t, int64(65*block), stats.BytesWritten)
	require.Equal(t, source.pages, target.pages)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(64<<20), "allocated in all, garbage included")
	require.NoError(t, m.Flush(t.Context()))
	got, err := snapshot.DigestOf(t.Context(), area, size)
	require.NoError(t, err)
	require.Equal(t, digest, got)
}
