package main

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A machine of ESX is replicated to KVM, boots there on the devices that it knows, is failed over, and comes home.
func TestFromESXToKVMAndBack(t *testing.T) {
	program := filepath.Join(t.TempDir(), "understudy")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "understudy/appliance").CombinedOutput()
	require.NoError(t, err, "%s", out)
	var f figures
	require.NoError(t, show(t.Context(), options{headless: true, esx: true, understudy: program, transport: "ssh"}, &f))
	require.True(t, f.Identical)
	require.Empty(t, f.Leftovers)
}
