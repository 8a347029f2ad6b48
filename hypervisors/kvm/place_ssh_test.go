package kvm

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// The folder of an appliance that was killed goes with the next connection, those of others stay.
func TestSocketsOfTheDeadAreRemoved(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	folder := func(name string) string {
		dir := filepath.Join(os.TempDir(), forwardPrefix+name)
		require.NoError(t, os.Mkdir(dir, 0o700))
		return dir
	}
	dead, alive, young := folder("dead"), folder("alive"), folder("young")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dead, forwardName)})
	require.NoError(t, err)
	l.SetUnlinkOnClose(false) // as after SIGKILL
	require.NoError(t, l.Close())
	live, err := net.Listen("unix", filepath.Join(alive, forwardName))
	require.NoError(t, err)
	defer live.Close()

	removeDeadForwards()
	require.NoDirExists(t, dead)
	require.DirExists(t, alive)
	require.DirExists(t, young)
}
