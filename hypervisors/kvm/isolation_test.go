package kvm

import (
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/hypervisors"
)

func TestIsolationIsMeasured(t *testing.T) {
	ctx := testContext(t)
	h := openHost(t, testLab.Target.URI)
	require.ErrorIs(t, h.AssertIsolated(ctx, "production"), hypervisors.ErrNotIsolated)
	require.ErrorIs(t, h.IsolatedNetwork(ctx, "production"), hypervisors.ErrNotIsolated)
	require.ErrorIs(t, h.RemoveNetwork(ctx, "production"), hypervisors.ErrForeign)
	require.NoError(t, h.RemoveNetwork(ctx, "nosuch"))
	require.ErrorIs(t, h.AssertIsolated(ctx, "nosuch"), hypervisors.ErrNotFound)

	require.NoError(t, h.IsolatedNetwork(ctx, "lonely"))
	t.Cleanup(func() { require.NoError(t, h.RemoveNetwork(testContext(t), "lonely")) })
	require.NoError(t, h.AssertIsolated(ctx, "lonely"))
	all, err := h.Networks(ctx)
	require.NoError(t, err)
	require.Contains(t, all, hypervisors.Network{Name: "lonely", Kind: "libvirt network, isolated", Isolated: true})
	foreign := openHostAs(t, testLab.Target.URI, "someone1")
	require.ErrorIs(t, foreign.RemoveNetwork(ctx, "lonely"), hypervisors.ErrForeign)

	bridge, err := h.isolatedBridge(ctx, "lonely")
	require.NoError(t, err)
	exec := func(argv ...string) {
		_, err := testLab.Target.Exec(ctx, argv...)
		require.NoError(t, err)
	}
	exec("ip", "link", "add", "leak", "type", "veth", "peer", "name", "leak1")
	t.Cleanup(func() { testLab.Target.Exec(testContext(t), "ip", "link", "delete", "leak") })
	exec("ip", "link", "set", "leak", "master", bridge)
	require.ErrorIs(t, h.AssertIsolated(ctx, "lonely"), hypervisors.ErrNotIsolated, "a foreign port")
	exec("ip", "link", "delete", "leak")
	require.NoError(t, h.AssertIsolated(ctx, "lonely"))
	exec("ip", "address", "add", "192.0.2.1/24", "dev", bridge)
	require.ErrorIs(t, h.AssertIsolated(ctx, "lonely"), hypervisors.ErrNotIsolated, "the host has an address")
	exec("ip", "address", "delete", "192.0.2.1/24", "dev", bridge)
	require.NoError(t, h.AssertIsolated(ctx, "lonely"))
}
