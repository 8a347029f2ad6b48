package replication_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/hypervisors"
	"understudy/hypervisors/fake"
)

// level lists the codes of a preflight's checks of a level, sorted and each once.
func level(p api.Preflight, level string) []string {
	found := map[string]bool{}
	for _, c := range p.Checks {
		if c.Level == level {
			found[c.Code] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// Everything that is wrong is said at once, with the field that it is about, and nothing is made.
func TestPreflightTellsAll(t *testing.T) {
	w := newWorld(t)
	w.machine("web")
	w.protect(spec("taken", "web"))
	w.home.AddVM(hypervisors.Hardware{Name: "diskless"})
	w.home.AddVM(hypervisors.Hardware{Name: "clash", Disks: []hypervisors.Disk{{Size: mib}},
		NICs: []hypervisors.NIC{{Network: "lan", MAC: "52:54:00:aa:00:02"}}})
	w.away.AddVM(hypervisors.Hardware{Name: "clash", Disks: []hypervisors.Disk{{Size: mib}}})
	w.away.AddVM(hypervisors.Hardware{Name: "other", NICs: []hypervisors.NIC{{Network: "lan", MAC: "52:54:00:AA:00:02"}}})
	s := spec("taken", "web", "diskless", "clash", "ghost")
	s.Storage = "attic"
	s.Networks = []api.NetworkMap{{From: "lan", To: "moon"}}
	s.Policy.RPOSeconds = 0
	s.Machines[3].CPUs = -1
	before := w.everywhere()
	p, err := w.engine.Preflight(t.Context(), s)
	require.NoError(t, err)
	require.Equal(t, before, w.everywhere(), "a preflight makes nothing")
	require.False(t, p.Ready)
	require.Equal(t, []string{"disks", "mac", "machine", "name", "networks", "protected", "replica-name", "spec", "storage"}, level(p, api.LevelError))
	fields := map[string]bool{}
	for _, c := range p.Checks {
		if c.Level == api.LevelError {
			require.NotEmpty(t, c.Field, "%+v", c)
			require.NotEmpty(t, c.Message, "%+v", c)
			fields[c.Field] = true
		}
	}
	for _, f := range []string{"name", "policy.rpoSeconds", "machines[0].vm", "machines[1].vm", "machines[2].replicaName", "machines[3].vm", "machines[3].cpus", "networks", "storage"} {
		require.True(t, fields[f], "nothing is said of %s: %v", f, fields)
	}
	p, err = w.engine.Preflight(t.Context(), api.GroupSpec{})
	require.NoError(t, err)
	require.False(t, p.Ready)
}

func (w *world) everywhere() any {
	w.t.Helper()
	groups, err := w.engine.ListGroups(w.t.Context(), api.GroupQuery{})
	require.NoError(w.t, err)
	home, err := w.home.Connect("observer").VMs(w.t.Context())
	require.NoError(w.t, err)
	away, err := w.away.Connect("observer").VMs(w.t.Context())
	require.NoError(w.t, err)
	return []any{len(groups.Items), home, away, w.home.Leftovers(), w.away.Leftovers()}
}

// What works but is not what somebody may think is a warning, and the group can be made all the same.
func TestPreflightWarns(t *testing.T) {
	w := newWorld(t, fake.WithCapabilities(func(c *hypervisors.Capabilities) { c.Compression, c.Dial = false, false }))
	w.home.AddVM(hypervisors.Hardware{Name: "old", CPUs: 999, Memory: 1 << 50, NICs: []hypervisors.NIC{{Network: "lan"}},
		Disks: []hypervisors.Disk{{Size: mib, Format: "raw"}, {Size: 5 * mib}, {Size: mib, Excluded: "shared"}}})
	require.NoError(t, w.away.SetFree("default", mib))
	s := spec("shop", "old")
	s.Policy.Consistency, s.Policy.Windows = "application", []api.Window{{From: "22:00", To: "23:00"}}
	s.Policy.Compression = "zstd"
	p, err := w.engine.Preflight(t.Context(), s)
	require.NoError(t, err)
	require.True(t, p.Ready, "%+v", p.Checks)
	require.Equal(t, int64(6*mib), p.Bytes)
	require.Equal(t, []string{"agent", "checks", "compression", "cpus", "disk-excluded", "memory", "network-unmapped", "power", "storage-room", "tracking", "windows"}, level(p, api.LevelWarning))
	s.Networks = []api.NetworkMap{{From: "lan", To: "lan"}}
	p, err = w.engine.Preflight(t.Context(), s)
	require.NoError(t, err)
	require.NotContains(t, level(p, api.LevelWarning), "network-unmapped")
	_, err = w.engine.CreateGroup(t.Context(), s)
	require.NoError(t, err)
}

// A host that is away is one finding among the others.
func TestPreflightWithoutAHost(t *testing.T) {
	w := newWorld(t)
	w.machine("web")
	w.away.SetReachable(false)
	s := spec("shop", "web", "ghost")
	p, err := w.engine.Preflight(t.Context(), s)
	require.NoError(t, err)
	require.Equal(t, []string{"machine", "target-host"}, level(p, api.LevelError))
	w.away.SetReachable(true)
}

// Two people edit one group: the second is told, and nothing of an edit that is wrong stays.
func TestUpdateGroup(t *testing.T) {
	w := newWorld(t)
	vm := w.machine("web")
	w.machine("db")
	g := w.protect(spec("shop", "web", "db"))
	ctx := t.Context()
	edit := api.GroupEdit{Policy: g.Policy, Machines: []api.MachineEdit{{VM: vm, Checks: []api.Check{{Kind: "agent"}}}}}
	edit.Policy.RPOSeconds = 600
	edited, err := w.engine.UpdateGroup(ctx, "shop", g.Revision, edit)
	require.NoError(t, err)
	require.Equal(t, g.Revision+1, edited.Revision)
	require.Equal(t, 600, edited.Policy.RPOSeconds)
	require.Equal(t, []api.Check{{Kind: "agent"}}, edited.Machines[0].Checks)
	require.Equal(t, g.Machines[1], edited.Machines[1], "what is left out stays")
	_, err = w.engine.UpdateGroup(ctx, "shop", g.Revision, edit)
	w.refused(err, api.CodeStale, "changed meanwhile")

	half := edit
	half.Policy.RPOSeconds = 60
	half.Machines = []api.MachineEdit{{VM: "db"}, {VM: "ghost"}}
	_, err = w.engine.UpdateGroup(ctx, "shop", edited.Revision, half)
	w.refused(err, api.CodeNotFound, "ghost")
	require.Equal(t, edited.GroupSpec, w.group("shop").GroupSpec, "nothing of it")
	for _, wrong := range []api.GroupEdit{{}, {Policy: g.Policy, Machines: []api.MachineEdit{{VM: "db"}, {VM: "db"}}},
		{Policy: g.Policy, Machines: []api.MachineEdit{{VM: "db", Checks: []api.Check{{Kind: "ping"}}}}}, {Policy: g.Policy, Machines: []api.MachineEdit{{}}}} {
		_, err = w.engine.UpdateGroup(ctx, "shop", edited.Revision, wrong)
		w.refused(err, api.CodeInvalid)
	}
	_, err = w.engine.UpdateGroup(ctx, "nobody", 1, edit)
	w.refused(err, api.CodeNotFound, "nobody")
	w.restart()
	require.Equal(t, edited.GroupSpec, w.group("shop").GroupSpec)
}
