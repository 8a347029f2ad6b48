package linux

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// The Debian that is converted elsewhere: of all drivers for disks, its initial RAM disk has VMware's.
func TestRealGuest(t *testing.T) {
	if os.Getenv("CONVERT") == "" {
		t.Skip("make convert runs it: it builds a Debian")
	}
	image := filepath.Join(t.TempDir(), "debian.raw")
	out, err := exec.CommandContext(t.Context(), "sh", "../../hypervisors/kvm/testdata/debian.sh", image).CombinedOutput()
	require.NoError(t, err, string(out))
	f, err := os.Open(image)
	require.NoError(t, err)
	defer f.Close()
	s, err := apartFor(t, f, []string{"e1000e", "sd_mod", "virtio_blk", "virtio_net", "vmw_pvscsi", "vmxnet3"})
	require.NoError(t, err)
	require.Contains(t, s.Version, "cloud-amd64")
	require.True(t, s.Whole)
	t.Logf("%+v", s)
	require.Equal(t, []string{"sd_mod", "vmw_pvscsi"}, s.Early)
	require.Subset(t, s.Later, []string{"virtio_blk", "virtio_net"})
}
