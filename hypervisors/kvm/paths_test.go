package kvm

import (
	"context"
	"net"
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/hypervisors"
)

// probeLeft are files of probes, of any owner, in the storage and among the sockets.
func probeLeft(t *testing.T, h *host) (left []string) {
	t.Helper()
	store, err := h.chooseStorage(testContext(t), "")
	require.NoError(t, err)
	for _, dir := range []string{store.Path, exportDir} {
		names, err := list(testContext(t), h.place, dir)
		require.NoError(t, err)
		for _, name := range names {
			if strings.Contains(name, ".probe.") {
				left = append(left, path.Join(dir, name))
			}
		}
	}
	return left
}

func TestProbeOfEachWay(t *testing.T) {
	for uri, want := range map[string][]string{testLab.Target.URI: {byMemory, bySocket}, testLab.Target.SSHURI(): {bySSH}} {
		h := openHost(t, uri)
		if !h.lanes && !h.addr.ssh {
			want = []string{bySocket}
		}
		paths, err := h.ProbePaths(testContext(t), "")
		require.NoError(t, err)
		var names []string
		for _, p := range paths {
			require.NoError(t, p.Err)
			require.Equal(t, p.Name == want[0], p.UsedToWrite, p.Name)
			require.Equal(t, p.Name != byMemory, p.UsedToRead, p.Name)
			t.Logf("%s reads %d MiB/s, writes %d MiB/s", p.Name, p.Read>>20, p.Write>>20)
			names = append(names, p.Name)
		}
		require.Equal(t, want, names)
		require.Empty(t, probeLeft(t, h))
	}
}

// Without the lane, which nothing depends on, NBD is what is used.
func TestProbeWithoutLane(t *testing.T) {
	h := openHost(t, testLab.Target.URI)
	if !h.lanes {
		t.Skip("this QEMU has none")
	}
	h.place = withoutDescriptors{h.place}
	paths, err := h.ProbePaths(testContext(t), "")
	require.NoError(t, err)
	require.ErrorContains(t, paths[0].Err, "write through shared memory")
	require.NotEmpty(t, hypervisors.Hint(paths[0].Err))
	require.True(t, paths[1].UsedToWrite && paths[1].UsedToRead)
	require.Empty(t, probeLeft(t, h))
}

// withoutDescriptors is a place whose lanes lead nowhere.
type withoutDescriptors struct{ place }

func (p withoutDescriptors) Dial(ctx context.Context, name string) (net.Conn, error) {
	return p.place.Dial(ctx, strings.Replace(name, ".lane", ".none", 1))
}

// A probe that is called off removes its disks; of one that died, the next connection finds them, and nobody else.
func TestProbeCutOff(t *testing.T) {
	h := openHost(t, testLab.Target.URI)
	ctx, cancel := context.WithCancel(testContext(t))
	began := h.place
	h.place = cancelling{began, cancel}
	_, err := h.ProbePaths(ctx, "")
	h.place = began
	require.ErrorIs(t, err, context.Canceled)
	require.Empty(t, probeLeft(t, h))

	store, err := h.chooseStorage(testContext(t), "")
	require.NoError(t, err)
	file := path.Join(store.Path, h.name("probe", "0123abcd", "0"))
	require.NoError(t, makeImages(testContext(t), h.place, []overlay{{file: file, size: probeBytes, cluster: dataCluster}}))
	_, err = h.startExport(testContext(t), exportPrefix(h.owner)+"probe.", []exported{{name: "0", file: file, writable: true}})
	require.NoError(t, err)
	removed, err := openHostAs(t, testLab.Target.URI, "otherown").Clean(testContext(t), hypervisors.Keep{})
	require.NoError(t, err)
	require.Empty(t, removed)
	require.Len(t, probeLeft(t, h), 3)
	removed, err = openHost(t, testLab.Target.URI).Clean(testContext(t), hypervisors.Keep{})
	require.NoError(t, err)
	require.Contains(t, removed, "disk of a probe "+file)
	require.Empty(t, probeLeft(t, h))
}

// cancelling is a place where somebody loses patience as soon as the images can be opened.
type cancelling struct {
	place
	cancel func()
}

func (p cancelling) Dial(ctx context.Context, name string) (net.Conn, error) {
	conn, err := p.place.Dial(ctx, name)
	if err == nil {
		p.cancel()
	}
	return conn, err
}
