package fake_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/hypervisors"
	"understudy/hypervisors/fake"
	"understudy/snapshot"
)

const sector = 512

const size = 8*snapshot.BlockSize + 3*sector

// vessel is a host with a replica of one disk of that size.
func vessel(t *testing.T, options ...fake.Option) (*fake.Hypervisor, hypervisors.Replica) {
	t.Helper()
	hv := fake.New("host", clock(), options...)
	r, err := hv.Connect(owner).(hypervisors.Target).CreateReplica(t.Context(), hypervisors.ReplicaSpec{ID: "r",
		Hardware: hypervisors.Hardware{Name: "r", Disks: []hypervisors.Disk{{ID: "vda", Size: size}}}})
	require.NoError(t, err)
	return hv, r
}

// commit makes a point. What a point does not write it has from the one below.
func commit(t *testing.T, r hypervisors.Replica, point string, write func(disk hypervisors.DraftDisk)) {
	t.Helper()
	ctx := t.Context()
	d, err := r.Draft(ctx, hypervisors.DraftRequest{Point: point, Disks: []hypervisors.DraftDiskSpec{{ID: "vda", Size: size}}})
	require.NoError(t, err)
	write(d.Disks()[0])
	require.NoError(t, d.Commit(ctx, hypervisors.Point{ID: point, Disks: []hypervisors.PointDisk{{ID: "vda", Size: size}}}))
}

func fill(t *testing.T, disk hypervisors.DraftDisk, value byte, from, until int) {
	t.Helper()
	_, err := disk.WriteAt(bytes.Repeat([]byte{value}, until-from), int64(from))
	require.NoError(t, err)
}

func read(t *testing.T, r hypervisors.Replica, point string) []byte {
	t.Helper()
	p, err := r.Open(t.Context(), point)
	require.NoError(t, err)
	content := make([]byte, size)
	_, err = p.Disks()[0].ReadAt(content, 0)
	require.NoError(t, err)
	require.NoError(t, p.Close())
	return content
}

// again is the replica as it is found after a power failure.
func again(t *testing.T, hv *fake.Hypervisor) hypervisors.Replica {
	t.Helper()
	hv.PowerFail()
	r, err := hv.Connect(owner).(hypervisors.Target).Replica(t.Context(), "r")
	require.NoError(t, err)
	return r
}

// outage commits a point of ones that was flushed, then one of twos of which only the first half was, and turns the
// power off. It returns both as they are afterwards.
func outage(t *testing.T, seed uint64) (first, second []byte) {
	t.Helper()
	hv, r := vessel(t, fake.WithSeed(seed))
	commit(t, r, "p1", func(disk hypervisors.DraftDisk) {
		fill(t, disk, 1, 0, size)
		require.NoError(t, disk.Flush(t.Context()))
	})
	commit(t, r, "p2", func(disk hypervisors.DraftDisk) {
		fill(t, disk, 2, 0, size/2)
		require.NoError(t, disk.Flush(t.Context()))
		fill(t, disk, 2, size/2, size)
	})
	r = again(t, hv)
	first, second = read(t, r, "p1"), read(t, r, "p2")
	require.Equal(t, second, read(t, again(t, hv), "p2"), "what survived one power failure survives the next")
	return first, second
}

// A point that was not flushed takes what stands on it along: no flush reaches the files below.
func TestPowerFailureTakesWhatStandsOnItAlong(t *testing.T) {
	lost := 0
	for seed := range uint64(20) {
		hv, r := vessel(t, fake.WithSeed(seed))
		commit(t, r, "p1", func(disk hypervisors.DraftDisk) {
			fill(t, disk, 1, 0, size)
			require.NoError(t, disk.Flush(t.Context()))
		})
		commit(t, r, "p2", func(disk hypervisors.DraftDisk) {
			fill(t, disk, 2, 0, 4*snapshot.BlockSize)
			require.NoError(t, disk.Zero(4*snapshot.BlockSize, 2*snapshot.BlockSize))
		})
		commit(t, r, "p3", func(disk hypervisors.DraftDisk) {
			fill(t, disk, 3, 0, snapshot.BlockSize)
			require.NoError(t, disk.Flush(t.Context()))
		})
		run, err := r.Run(t.Context(), hypervisors.RunSpec{ID: "t1", Point: "p3"})
		require.NoError(t, err)
		r = again(t, hv)
		second, third, runs := read(t, r, "p2"), read(t, r, "p3"), make([]byte, size)
		_, err = hv.Disks(run.VM)[0].ReadAt(runs, 0)
		require.NoError(t, err)
		require.Equal(t, bytes.Repeat([]byte{3}, snapshot.BlockSize), third[:snapshot.BlockSize], "its own stays")
		require.True(t, bytes.Equal(second[snapshot.BlockSize:], third[snapshot.BlockSize:]), "the rest is that of the point below")
		require.True(t, bytes.Equal(third, runs), "and so it is for what runs on it")
		lost += bytes.Count(third[snapshot.BlockSize:6*snapshot.BlockSize], []byte{1})
	}
	require.Positive(t, lost)
}

func TestPowerFailureTakesOnlyWhatWasNotFlushed(t *testing.T) {
	lost, kept, torn := 0, 0, 0 // blocks of all seeds
	for seed := range uint64(40) {
		first, second := outage(t, seed)
		require.Equal(t, bytes.Repeat([]byte{1}, len(first)), first, "a point below is not touched")
		half := len(second) / 2
		require.Equal(t, bytes.Repeat([]byte{2}, half), second[:half], "what was flushed stays")
		_, again := outage(t, seed)
		require.Equal(t, second, again, "the same seed, the same loss")
		for off := half/snapshot.BlockSize*snapshot.BlockSize + snapshot.BlockSize; off < len(second); off += snapshot.BlockSize {
			block := second[off:min(off+snapshot.BlockSize, len(second))]
			count := 0
			for at := 0; at < len(block); at += sector {
				require.Contains(t, []byte{1, 2}, block[at])
				require.Equal(t, bytes.Repeat(block[at:at+1], sector), block[at:at+sector], "a sector is whole")
				count += int(block[at]) - 1
			}
			switch count {
			case 0:
				lost++
			case len(block) / sector:
				kept++
			default:
				torn++
			}
		}
	}
	require.Greater(t, lost, 20)
	require.Greater(t, kept, 10)
	require.Greater(t, torn, 10)
}

// Damage over several blocks reaches the points that share each of them, and no other.
func TestRotReachesThePointsThatShareTheBlock(t *testing.T) {
	hv, r := vessel(t)
	const block = snapshot.BlockSize
	commit(t, r, "p1", func(disk hypervisors.DraftDisk) { fill(t, disk, 1, 0, size-2*block) })
	commit(t, r, "p2", func(disk hypervisors.DraftDisk) { fill(t, disk, 2, block, 2*block) })
	require.NoError(t, hv.Rot("r", "p1", "vda", block/2, bytes.Repeat([]byte{9}, 2*block)))
	first := bytes.Repeat([]byte{1}, size-2*block)
	first = append(first, make([]byte, 2*block)...)
	second := bytes.Clone(first)
	copy(second[block:], bytes.Repeat([]byte{2}, block))
	copy(first[block/2:], bytes.Repeat([]byte{9}, 2*block))
	copy(second[block/2:], bytes.Repeat([]byte{9}, block/2))
	copy(second[2*block:], bytes.Repeat([]byte{9}, block/2))
	require.True(t, bytes.Equal(first, read(t, r, "p1")))
	require.True(t, bytes.Equal(second, read(t, r, "p2")))
	require.Error(t, hv.Rot("r", "p1", "vda", size-1, []byte{9, 9}), "beyond the end")

	require.NoError(t, hv.Rot("r", "p2", "vda", block, []byte{8})) // its own block
	require.EqualValues(t, 9, read(t, r, "p1")[block])
	require.EqualValues(t, 8, read(t, r, "p2")[block])
}
