package main_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	appliance "understudy/appliance"
	"understudy/provisioning"
	"understudy/provisioning/linux"
)

// The program itself is the process that reads what guests wrote.
func TestLookInside(t *testing.T) {
	root, image := t.TempDir(), filepath.Join(t.TempDir(), "disk")
	modules := filepath.Join(root, "lib/modules/6.1.0")
	require.NoError(t, os.MkdirAll(modules, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(root, "vmlinuz-6.1.0"), nil, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(modules, "modules.dep"), []byte("kernel/drivers/net/vmxnet3/vmxnet3.ko:\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(modules, "modules.builtin"), []byte("kernel/drivers/ata/ahci.ko\nkernel/drivers/scsi/sd_mod.ko\n"), 0o600))
	const size = 8 << 20
	require.NoError(t, os.WriteFile(image, bytes.Repeat([]byte{0}, size), 0o600))
	out, err := exec.CommandContext(t.Context(), "mke2fs", "-q", "-t", "ext4", "-d", root, image).CombinedOutput()
	require.NoError(t, err, "%s", out)
	f, err := os.Open(image)
	require.NoError(t, err)
	defer f.Close()
	s, err := linux.Apart(t.Context(), f, size, provisioning.LinuxModules(), binary, appliance.InsideCommand)
	require.NoError(t, err)
	require.Equal(t, linux.System{Version: "6.1.0", Early: []string{"ahci", "sd_mod"}, Later: []string{"ahci", "sd_mod", "vmxnet3"}, Whole: true}, s)
}
