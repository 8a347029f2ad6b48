package esx

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/types"

	"understudy/hypervisors"
	"understudy/hypervisors/esx/lab"
)

func init() { probeBytes = 5 << 20 } // more than is moved at once

// openAs opens the lab with more in its address.
func openAs(t *testing.T, l *lab.Lab, more string) *host {
	t.Helper()
	h, err := connect(t.Context(), l.URI()+more, options(l))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	return h
}

// strange is the address of an appliance that is no machine of the lab.
func strange(l *lab.Lab) string {
	u := l.URI()
	i := strings.Index(u, "appliance=") + len("appliance=")
	return u[:i] + newUUID() + u[i+36:]
}

// nothingLeft wants no machine, file or device of a probe.
func nothingLeft(t *testing.T, l *lab.Lab, h *host) {
	t.Helper()
	removed, err := h.Clean(t.Context(), hypervisors.Keep{})
	require.NoError(t, err)
	require.Empty(t, removed)
	left, err := l.Leftovers(t.Context(), "web")
	require.NoError(t, err)
	require.Empty(t, left)
	require.Empty(t, probeFiles(t, l))
	devices, err := os.ReadDir(l.Devices())
	require.NoError(t, err)
	require.Empty(t, devices)
}

func probeFiles(t *testing.T, l *lab.Lab) (found []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(filepath.Dir(l.Devices()), func(name string, _ os.DirEntry, err error) error {
		if strings.Contains(name, ".probe.") {
			found = append(found, name)
		}
		return err
	}))
	return found
}

func byName(paths []hypervisors.DataPath) map[string]hypervisors.DataPath {
	all := map[string]hypervisors.DataPath{}
	for _, p := range paths {
		all[p.Name] = p
	}
	return all
}

func TestProbeOfEachWay(t *testing.T) {
	for name, vcenter := range kinds {
		t.Run(name, func(t *testing.T) {
			l := startLab(t, lab.Options{VCenter: vcenter})
			guest(t, l, "web")
			h := open(t, l)
			paths, err := h.ProbePaths(t.Context(), "")
			require.NoError(t, err)
			for _, p := range paths {
				require.NoError(t, p.Err)
				t.Logf("%s reads %d MiB/s, writes %d MiB/s", p.Name, p.Read>>20, p.Write>>20)
			}
			got := byName(paths)
			require.Positive(t, got[byHTTPS].Read)
			require.Zero(t, got[byHTTPS].Write)
			require.True(t, got[byHotAdd].UsedToRead && got[byHotAdd].UsedToWrite)
			nothingLeft(t, l, h)

			// The one that is forced is the one that is used.
			paths, err = openAs(t, l, "&path=https").ProbePaths(t.Context(), lab.Second)
			require.NoError(t, err)
			got = byName(paths)
			require.True(t, got[byHTTPS].UsedToRead && !got[byHotAdd].UsedToRead && got[byHotAdd].UsedToWrite)
			nothingLeft(t, l, h)
		})
	}
}

// A way that does not work says why, and the other one is tried all the same.
func TestProbeOfWaysThatFail(t *testing.T) {
	l := startLab(t, lab.Options{})
	guest(t, l, "web")
	h, err := connect(t.Context(), strange(l), options(l))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	paths, err := h.ProbePaths(t.Context(), "")
	require.NoError(t, err)
	got := byName(paths)
	isTold(t, got[byHotAdd].Err, hypervisors.ErrIncapable, "the appliance is no machine of this host", "Run the appliance as a machine of this host")
	require.NoError(t, got[byHTTPS].Err, "an empty disk is read")
	require.True(t, got[byHTTPS].UsedToRead)
	require.False(t, got[byHotAdd].UsedToWrite)
	nothingLeft(t, l, h)

	h = open(t, l)
	l.Folder(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(http.StatusConflict); return true })
	paths, err = h.ProbePaths(t.Context(), "")
	require.NoError(t, err)
	got = byName(paths)
	require.NoError(t, got[byHotAdd].Err)
	isTold(t, got[byHTTPS].Err, hypervisors.ErrInUse, "the file is in use", "HTTPS is needed only where HotAdd does not work")

	// What a way gives wrong is not taken for what works.
	l.Folder(func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Range", "bytes "+strings.TrimPrefix(r.Header.Get("Range"), "bytes=")+"/*")
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(make([]byte, 256<<10))
		return true
	})
	paths, err = h.ProbePaths(t.Context(), "")
	require.NoError(t, err)
	require.ErrorContains(t, byName(paths)[byHTTPS].Err, "what is read is not what was written")
	require.Zero(t, byName(paths)[byHTTPS].Read)
	l.Folder(nil)

	l.Full(true)
	paths, err = h.ProbePaths(t.Context(), "")
	l.Full(false)
	if err == nil {
		require.ErrorIs(t, byName(paths)[byHotAdd].Err, hypervisors.ErrNoSpace)
	} else {
		require.ErrorIs(t, err, hypervisors.ErrNoSpace)
	}
	nothingLeft(t, l, h)
}

// What is most likely to be missing at first: the disk is attached, and the appliance's system does not show it.
func TestProbeOfDiskThatDoesNotAppear(t *testing.T) {
	l := startLab(t, lab.Options{})
	guest(t, l, "web")
	h := open(t, l)
	h.addr.devices = t.TempDir()
	usual := wayPatience
	wayPatience = 2 * time.Second
	t.Cleanup(func() { wayPatience = usual })
	paths, err := h.ProbePaths(t.Context(), "")
	require.NoError(t, err)
	isTold(t, byName(paths)[byHotAdd].Err, hypervisors.ErrTimeout, "does not appear", "Set disk.EnableUUID to TRUE")
	nothingLeft(t, l, h)
}

// A probe that is called off removes its disk; of one that died, the next connection finds it.
func TestProbeCutOff(t *testing.T) {
	l := startLab(t, lab.Options{})
	guest(t, l, "web")
	h := open(t, l)
	ctx, cancel := context.WithCancel(t.Context())
	l.Folder(func(http.ResponseWriter, *http.Request) bool { cancel(); return false })
	_, err := h.ProbePaths(ctx, "")
	l.Folder(nil)
	require.ErrorIs(t, err, context.Canceled)
	nothingLeft(t, l, h)

	l.Fail("Destroy_Task", &types.GenericVmConfigFault{Reason: "the appliance is killed"}, 1)
	_, err = h.ProbePaths(t.Context(), "")
	require.ErrorContains(t, err, "the appliance is killed")
	require.NotEmpty(t, probeFiles(t, l))
	foreign, err := connect(t.Context(), l.URI(), Options{Owner: "somebody", User: l.User, Password: l.Password})
	require.NoError(t, err)
	removed, err := foreign.Clean(t.Context(), hypervisors.Keep{})
	require.NoError(t, err)
	require.Empty(t, removed)
	require.NoError(t, foreign.Close())
	removed, err = h.Clean(t.Context(), hypervisors.Keep{})
	require.NoError(t, err)
	require.Len(t, removed, 1)
	require.Contains(t, removed[0], "of a probe")
	nothingLeft(t, l, h)
}

// Whatever call fails in the middle, another appliance process finds all that is left.
func TestKilledProbe(t *testing.T) {
	l := startLab(t, lab.Options{})
	guest(t, l, "web")
	for _, method := range []string{"CreateVM_Task", "ReconfigVM_Task", "Destroy_Task", "DeleteDatastoreFile_Task"} {
		for _, fail := range []func(string, types.BaseMethodFault, int){l.Fail, l.FailLate} {
			h := open(t, l)
			fail(method, &types.GenericVmConfigFault{Reason: "the appliance is killed"}, 2)
			_, _ = h.ProbePaths(t.Context(), "")
			fail(method, nil, 0)
			again := open(t, l)
			_, err := again.Clean(t.Context(), hypervisors.Keep{})
			require.NoError(t, err, method)
			removed, err := again.Clean(t.Context(), hypervisors.Keep{})
			require.NoError(t, err, method)
			require.Empty(t, removed, method)
			for _, file := range probeFiles(t, l) {
				info, err := os.Stat(file)
				require.NoError(t, err)
				require.True(t, info.IsDir(), "%s: %s stays", method, file)
				require.NoError(t, os.Remove(file), "%s: an empty folder at most", method)
			}
			nothingLeft(t, l, again)
		}
	}
}
