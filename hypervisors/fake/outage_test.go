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

// outage commits a point of ones that was flushed, then one of twos of which only the first half was, and turns the
// power off. It returns both as they are afterwards.
func outage(t *testing.T, seed uint64) (first, second []byte) {
	t.Helper()
	ctx := t.Context()
	const size = 8*snapshot.BlockSize + 3*sector
	hv := fake.New("host", clock(), fake.WithSeed(seed))
	r, err := hv.Connect(owner).(hypervisors.Target).CreateReplica(ctx, hypervisors.ReplicaSpec{ID: "r",
		Hardware: hypervisors.Hardware{Name: "r", Disks: []hypervisors.Disk{{ID: "vda", Size: size}}}})
	require.NoError(t, err)
	for i, name := range []string{"p1", "p2"} {
		d, err := r.Draft(ctx, hypervisors.DraftRequest{Point: name, Disks: []hypervisors.DraftDiskSpec{{ID: "vda", Size: size}}})
		require.NoError(t, err)
		disk, content := d.Disks()[0], bytes.Repeat([]byte{byte(i + 1)}, size)
		_, err = disk.WriteAt(content[:size/2], 0)
		require.NoError(t, err)
		require.NoError(t, disk.Flush(ctx))
		_, err = disk.WriteAt(content[size/2:], size/2)
		require.NoError(t, err)
		if i == 0 {
			require.NoError(t, disk.Flush(ctx))
		}
		require.NoError(t, d.Commit(ctx, hypervisors.Point{ID: name, Disks: []hypervisors.PointDisk{{ID: "vda", Size: size}}}))
	}
	hv.PowerFail()
	r, err = hv.Connect(owner).(hypervisors.Target).Replica(ctx, "r")
	require.NoError(t, err)
	read := func(name string) []byte {
		p, err := r.Open(ctx, name)
		require.NoError(t, err)
		content := make([]byte, size)
		_, err = p.Disks()[0].ReadAt(content, 0)
		require.NoError(t, err)
		require.NoError(t, p.Close())
		return content
	}
	first, second = read("p1"), read("p2")
	hv.PowerFail()
	r, err = hv.Connect(owner).(hypervisors.Target).Replica(ctx, "r")
	require.NoError(t, err)
	require.Equal(t, second, read("p2"), "what survived one power failure survives the next")
	return first, second
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
