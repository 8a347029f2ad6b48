package lab

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/hypervisors/kvm/lab/record"
)

func image(t *testing.T, size int64, poke ...int64) *Image {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	require.NoError(t, f.Truncate(size))
	for _, off := range poke {
		_, err := f.WriteAt([]byte{7}, off)
		require.NoError(t, err)
	}
	return &Image{File: f, Size: size}
}

func TestCompareStill(t *testing.T) {
	const size = minDiskA
	plain := image(t, size)
	cases := []struct {
		name string
		disk int
		poke int64
		same bool
	}{
		{"boot partition", 0, bootOffset + 5, false},
		{"last byte before the file system", 0, dataOffset - 1, false},
		{"file system", 0, dataOffset, true},
		{"log of A", 0, record.OffsetA + record.LogSize - 1, true},
		{"behind the log of A", 0, record.OffsetA + record.LogSize, false},
		{"last byte", 0, size - 1, false},
		{"log of B", 1, 0, true},
		{"behind the log of B", 1, record.LogSize, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			err := CompareStill(plain, image(t, size, c.poke), c.disk)
			require.Equal(t, c.same, err == nil, "%v", err)
		})
	}
	require.Error(t, CompareStill(plain, image(t, size+1), 0))
}

func TestChanged(t *testing.T) {
	const block = 64 << 10
	a := image(t, 4*block+100)
	for _, c := range []struct {
		b    *Image
		want int64
	}{
		{image(t, 4*block+100), 0},
		{image(t, 4*block+100, 3, 2*block-1), 2 * block},
		{image(t, 4*block+100, 4*block+99), 100},
		{image(t, 5*block), block}, // the grown block has another length
	} {
		n, err := Changed(a, c.b, block)
		require.NoError(t, err)
		require.Equal(t, c.want, n)
	}
}
