package replication

import (
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/hypervisors"
	"understudy/snapshot"
)

// blocks is a range of whole blocks.
func blocks(first, n int64) snapshot.Extent {
	return snapshot.Extent{Offset: first * snapshot.BlockSize, Length: n * snapshot.BlockSize}
}

// damage is the verdict on a piece in which these blocks are damaged.
func damage(ranges ...snapshot.Extent) snapshot.Verdict {
	v := snapshot.Verdict{Mismatches: ranges, Damaged: ranges}
	v.BytesDifferent = total(ranges)
	v.BytesDamaged = v.BytesDifferent
	return v
}

// TestFindingsAreBounded: what lies side by side is one range, and of very many some are kept, counted in full.
func TestFindingsAreBounded(t *testing.T) {
	i := &inspection{}
	for n := range int64(5000) {
		i.note(0, "web", "vda", 1<<40, snapshot.BlockSize, damage(blocks(n, 1)))
	}
	f := i.found[0]
	require.Equal(t, []snapshot.Extent{blocks(0, 5000)}, f.Ranges)
	require.Equal(t, f.Ranges, f.Damaged)
	require.True(t, f.complete())

	for n := range int64(5000) {
		i.note(0, "web", "vdb", 1<<40, snapshot.BlockSize, damage(blocks(2*n, 1)))
	}
	f = i.found[1]
	require.Len(t, f.Ranges, maxFound)
	require.Len(t, f.Damaged, maxFound)
	require.EqualValues(t, 5000*snapshot.BlockSize, f.Rotten)
	require.False(t, f.complete())
	require.Contains(t, f.reason("now"), "327680000 bytes")
}

// TestSampleLeavesNoRangeOut, however long others are.
func TestSampleLeavesNoRangeOut(t *testing.T) {
	ranges := []snapshot.Extent{blocks(3, 1), blocks(10, 100_000), blocks(200_000, 1), blocks(200_002, 1)}
	got := sample(ranges)
	require.Less(t, len(got), 2*maxSample)
	require.IsIncreasing(t, got)
	for _, n := range []int64{3, 10, 200_000, 200_002} {
		require.Contains(t, got, n)
	}
	require.Equal(t, []int64{0, 1, 2}, sample([]snapshot.Extent{{Length: 2*snapshot.BlockSize + 1}}))
}

func TestWithout(t *testing.T) {
	require.Equal(t, []snapshot.Extent{blocks(1, 1), blocks(4, 2), blocks(8, 2), blocks(20, 1)},
		without([]snapshot.Extent{blocks(0, 10), blocks(20, 1)}, []snapshot.Extent{blocks(0, 1), blocks(2, 2), blocks(6, 2)}))
	require.Empty(t, without([]snapshot.Extent{blocks(0, 4)}, []snapshot.Extent{blocks(0, 4)}))
}

// TestDoubtsAreOfOneHost: both sides of a machine may have one id.
func TestDoubtsAreOfOneHost(t *testing.T) {
	e := &Engine{doubts: map[machine][]hypervisors.ChangeID{}}
	e.doubt(machine{"home", "web"}, "old", "new")
	require.Empty(t, e.doubted(machine{"away", "web"}, "other"))
	require.Equal(t, []hypervisors.ChangeID{"old"}, e.doubted(machine{"home", "web"}, "new"))
}
