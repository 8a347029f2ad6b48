package esx

import (
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/hypervisors"
	"understudy/hypervisors/esx/lab"
)

// withVDDK gives more of an address with the lab's stand-in for VMware's library. nbdkit is the real one, and so is its
// plugin: where the distribution leaves that out, as Debian does, UNDERSTUDY_VDDK_PLUGIN names one that was built.
func withVDDK(t *testing.T, l *lab.Lab) (more, folder string) {
	t.Helper()
	folder, err := l.VDDK(t.Context())
	require.NoError(t, err)
	if plugin := os.Getenv("UNDERSTUDY_VDDK_PLUGIN"); plugin != "" {
		require.NoError(t, os.Symlink(plugin, filepath.Join(folder, "nbdkit-vddk-plugin.so")))
	} else if exec.CommandContext(t.Context(), "nbdkit", "vddk", "--dump-plugin").Run() != nil {
		t.Skip("nbdkit has no plugin for VDDK here; build plugins/vddk of its sources and name it by UNDERSTUDY_VDDK_PLUGIN")
	}
	return "&vddk=" + url.QueryEscape(folder), folder
}

// nbdkits are the arguments of the nbdkits that read by a library.
func nbdkits(t *testing.T, folder string) (found []string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, file := range all {
		line, err := os.ReadFile(file)
		if err == nil && strings.Contains(string(line), "libdir="+folder) {
			found = append(found, string(line))
		}
	}
	return found
}

// TestReadByVDDK: frozen disks are read through nbdkit, as they were; the password is seen by nobody, and nothing stays.
func TestReadByVDDK(t *testing.T) {
	for name, vcenter := range kinds {
		t.Run(name, func(t *testing.T) {
			l := startLab(t, lab.Options{VCenter: vcenter})
			more, folder := withVDDK(t, l)
			h := openAs(t, l, more+"&path=vddk")
			vm := guest(t, l, "web")
			require.NoError(t, l.PowerOn(vm))
			require.NoError(t, l.Write(vm, "scsi0:0", 64<<10, []byte("before")))
			cp, err := h.Checkpoint(t.Context(), hypervisors.CheckpointRequest{Name: "c", VMs: []hypervisors.CheckpointVM{{ID: vm}}})
			require.NoError(t, err)
			want, err := l.Read(vm, "scsi0:0")
			require.NoError(t, err)
			require.NoError(t, l.Write(vm, "scsi0:0", 64<<10, []byte("after!")))
			got := make([]byte, len(want))
			_, err = cp.Disks()[0].ReadAt(got, 0)
			require.NoError(t, err)
			require.Equal(t, want, got)
			some := make([]byte, 6)
			_, err = cp.Disks()[0].ReadAt(some, 64<<10) // a part of a sector
			require.NoError(t, err)
			require.Equal(t, "before", string(some))

			running := nbdkits(t, folder)
			require.Len(t, running, 2, "one for each disk")
			for _, line := range running {
				require.NotContains(t, line, l.Password)
			}
			asked, err := os.ReadFile(filepath.Join(folder, "asked"))
			require.NoError(t, err)
			object, _, err := h.machine(t.Context(), vm)
			require.NoError(t, err)
			require.Contains(t, string(asked), "vm "+object.Reference().Value+"\nsnapshot "+cp.Disks()[0].(*frozenDisk).machine.snapshot.Value+"\n")
			require.NoError(t, cp.Close(t.Context()))
			require.Empty(t, nbdkits(t, folder))
		})
	}
}

func TestProbeOfVDDK(t *testing.T) {
	l := startLab(t, lab.Options{})
	guest(t, l, "web")
	more, folder := withVDDK(t, l)
	h := openAs(t, l, more)
	paths, err := h.ProbePaths(t.Context(), "")
	require.NoError(t, err)
	require.Len(t, paths, 3)
	got := byName(paths)
	for _, p := range paths {
		require.NoError(t, p.Err)
		t.Logf("%s reads %d MiB/s, writes %d MiB/s", p.Name, p.Read>>20, p.Write>>20)
	}
	require.Positive(t, got[byVDDK].Read)
	require.Zero(t, got[byVDDK].Write)
	require.True(t, got[byHotAdd].UsedToRead)
	nothingLeft(t, l, h)

	// Without HotAdd it is the next one.
	h, err = connect(t.Context(), strange(l)+more, options(l))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	paths, err = h.ProbePaths(t.Context(), "")
	require.NoError(t, err)
	require.True(t, byName(paths)[byVDDK].UsedToRead)

	// What the library complains of is told.
	known := filepath.Join(folder, "lab")
	text, err := os.ReadFile(known)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(known, []byte(strings.Replace(string(text), "password ", "password not", 1)), 0o600))
	paths, err = h.ProbePaths(t.Context(), "")
	require.NoError(t, err)
	require.ErrorContains(t, byName(paths)[byVDDK].Err, "wrong user name or password")
	require.NotErrorIs(t, byName(paths)[byVDDK].Err, hypervisors.ErrUnreachable)
	require.NotContains(t, byName(paths)[byVDDK].Err.Error(), l.Password)
	require.True(t, byName(paths)[byHTTPS].UsedToRead)
	nothingLeft(t, l, h)
	require.Empty(t, nbdkits(t, folder))
}

// Without the library, and without nbdkit, the way is one that does not work, and says what to do.
func TestWithoutVDDK(t *testing.T) {
	l := startLab(t, lab.Options{})
	h := openAs(t, l, "&vddk="+url.QueryEscape(t.TempDir()))
	paths, err := h.ProbePaths(t.Context(), "")
	require.NoError(t, err)
	require.Error(t, byName(paths)[byVDDK].Err)
	require.Contains(t, hypervisors.Hint(byName(paths)[byVDDK].Err), "Its folder must hold VMware's library")
	require.True(t, byName(paths)[byHotAdd].UsedToRead)
	t.Setenv("PATH", "/nowhere")
	paths, err = h.ProbePaths(t.Context(), "")
	require.NoError(t, err)
	require.ErrorIs(t, byName(paths)[byVDDK].Err, hypervisors.ErrIncapable)
	nothingLeft(t, l, h)
}
