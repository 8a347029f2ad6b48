package replication_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/hypervisors"
)

// TestRefusedGroups orders protection that cannot work. Each is refused before anything is made, saying why and what to do.
func TestRefusedGroups(t *testing.T) {
	w := newWorld(t)
	w.machine("web")
	w.protect(spec("taken", "web"))
	w.home.AddVM(hypervisors.Hardware{Name: "free", Disks: []hypervisors.Disk{{Size: mib}}, NICs: []hypervisors.NIC{{Network: "lan", MAC: "52:54:00:aa:00:01"}}})
	w.home.AddVM(hypervisors.Hardware{Name: "diskless"})
	w.home.AddVM(hypervisors.Hardware{Name: "clash", Disks: []hypervisors.Disk{{Size: mib}}})
	w.home.AddVM(hypervisors.Hardware{Name: "mac", Disks: []hypervisors.Disk{{Size: mib}}, NICs: []hypervisors.NIC{{Network: "lan", MAC: "52:54:00:aa:00:02"}}})
	w.away.AddVM(hypervisors.Hardware{Name: "clash", Disks: []hypervisors.Disk{{Size: mib}}})
	w.away.AddVM(hypervisors.Hardware{Name: "other", NICs: []hypervisors.NIC{{Network: "lan", MAC: "52:54:00:aa:00:02"}}})

	cases := map[string]struct {
		machine string
		change  func(*api.GroupSpec)
		code    api.Code
		words   string
	}{
		"unknown source":      {change: func(s *api.GroupSpec) { s.SourceHost = "nowhere" }, code: api.CodeNotFound, words: "nowhere"},
		"source is target":    {change: func(s *api.GroupSpec) { s.TargetHost = "home" }, code: api.CodeInvalid, words: "same host"},
		"machine gone":        {machine: "ghost", code: api.CodeNotFound, words: "ghost"},
		"protected twice":     {machine: "web", code: api.CodeConflict, words: "protected already, by group taken"},
		"named twice":         {change: func(s *api.GroupSpec) { s.Machines = append(s.Machines, s.Machines[0]) }, code: api.CodeInvalid, words: "free"},
		"no disk":             {machine: "diskless", code: api.CodeInvalid, words: "no disk"},
		"name clash":          {machine: "clash", code: api.CodeConflict, words: "clash"},
		"MAC clash":           {machine: "mac", code: api.CodeConflict, words: "52:54:00:aa:00:02"},
		"network to nowhere":  {change: func(s *api.GroupSpec) { s.Networks = []api.NetworkMap{{From: "lan", To: "moon"}} }, code: api.CodeInvalid, words: "moon"},
		"unknown storage":     {change: func(s *api.GroupSpec) { s.Storage = "attic" }, code: api.CodeInvalid, words: "attic"},
		"RPO of 0":            {change: func(s *api.GroupSpec) { s.Policy.RPOSeconds = 0 }, code: api.CodeInvalid, words: "RPO"},
		"RPO of a year":       {change: func(s *api.GroupSpec) { s.Policy.RPOSeconds = 365 * 86400 }, code: api.CodeInvalid, words: "RPO"},
		"retention of naught": {change: func(s *api.GroupSpec) { s.Policy.Retention = []api.RetentionTier{{}} }, code: api.CodeInvalid, words: "tier"},
		"group name taken":    {change: func(s *api.GroupSpec) { s.Name = "taken" }, code: api.CodeConflict, words: "taken"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := spec("new", "free")
			if c.machine != "" {
				s.Machines[0].VM = c.machine
			}
			if c.change != nil {
				c.change(&s)
			}
			before, err := w.away.Connect("observer").VMs(t.Context())
			require.NoError(t, err)
			preflight, err := w.engine.Preflight(t.Context(), s)
			require.NoError(t, err)
			_, err = w.engine.CreateGroup(t.Context(), s)
			w.refused(err, c.code, c.words)
			require.False(t, preflight.Ready)
			require.Contains(t, codes(preflight.Checks, func(c api.PreflightCheck) string { return c.Message }), err.Error(), "the preflight says the same")
			after, err := w.away.Connect("observer").VMs(t.Context())
			require.NoError(t, err)
			require.Equal(t, len(before), len(after), "nothing was made")
			groups, err := w.engine.ListGroups(t.Context(), api.GroupQuery{})
			require.NoError(t, err)
			require.Len(t, groups.Items, 1)
		})
	}
	// What was refused left nothing in the way: the same machine can be protected.
	s := spec("new", "free")
	_, err := w.engine.CreateGroup(t.Context(), s)
	require.NoError(t, err)
}

// TestRefusedHosts adds hosts that cannot be.
func TestRefusedHosts(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	_, err := w.engine.AddHost(ctx, api.HostSpec{Name: "third", URI: "fake:nowhere"})
	w.refused(err, api.CodeHost, "cannot be reached")
	_, err = w.engine.AddHost(ctx, api.HostSpec{Name: "again", URI: "fake:home"})
	w.refused(err, api.CodeConflict, "known already")
	_, err = w.engine.AddHost(ctx, api.HostSpec{Name: "home", URI: "fake:away"})
	w.refused(err, api.CodeConflict, "already")
	w.machine("web")
	w.protect(spec("shop", "web"))
	w.refused(w.engine.RemoveHost(ctx, "away"), api.CodeInUse, "shop")
}

// TestRefusedOrders gives orders that the state of the group does not allow.
func TestRefusedOrders(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	w.machine("web")
	w.protect(spec("shop", "web"))
	refused := func(words string) func(api.Job, error) {
		return func(_ api.Job, err error) { t.Helper(); w.refused(err, api.CodeConflict, words) }
	}
	refused("not failed over")(w.engine.Rollback(ctx, "shop"))
	refused("not failed over")(w.engine.Commit(ctx, "shop"))
	refused("committed")(w.engine.Reprotect(ctx, "shop"))
	refused("at home")(w.engine.Failback(ctx, "shop"))
	_, err := w.engine.EndTest(ctx, "shop")
	require.Error(t, err)

	_, err = w.engine.Failover(ctx, "shop", api.FailoverOrder{Point: "20200101-000000.000"})
	w.refused(err, api.CodeNotFound, "no recovery point")
	// The machine lives: an unplanned failover would make two of it.
	j, err := w.engine.Failover(ctx, "shop", api.FailoverOrder{})
	require.NoError(t, err)
	j = w.wait(j.ID)
	require.Equal(t, api.JobFailed, j.State)
	require.Contains(t, j.Error, "still runs")
	require.Contains(t, j.Hint, "planned")
	require.Equal(t, api.StateProtected, w.group("shop").State)

	w.done(w.engine.Failover(ctx, "shop", api.FailoverOrder{Force: true}))
	refused("failed over")(w.engine.Failover(ctx, "shop", api.FailoverOrder{}))
	refused("failed over")(w.engine.SyncNow(ctx, "shop"))
	w.done(w.engine.Commit(ctx, "shop"))
	refused("cannot be rolled back")(w.engine.Rollback(ctx, "shop"))
	_, err = w.engine.RemoveGroup(ctx, "shop", true)
	w.refused(err, api.CodeConflict, "production")
}

// TestTwoFailoversAtOnce accepts exactly one.
func TestTwoFailoversAtOnce(t *testing.T) {
	w := newWorld(t)
	vm := w.machine("web")
	w.protect(spec("shop", "web"))
	hold, release := make(chan struct{}), make(chan struct{})
	require.NoError(t, w.home.Guest(vm).OnShutdown(func(ctx context.Context) error {
		close(hold)
		<-release
		return nil
	}))
	first, err := w.engine.Failover(t.Context(), "shop", api.FailoverOrder{Planned: true})
	require.NoError(t, err)
	<-hold
	_, err = w.engine.Failover(t.Context(), "shop", api.FailoverOrder{Planned: true})
	w.refused(err, api.CodeConflict, "failover")
	close(release)
	require.Equal(t, api.JobSucceeded, w.wait(first.ID).State)
}

// TestDroppedPoint is not failed over to.
func TestDroppedPoint(t *testing.T) {
	w := newWorld(t)
	vm := w.machine("web")
	w.protect(spec("shop", "web"))
	w.write(w.home, vm, 5)
	w.done(w.engine.SyncNow(t.Context(), "shop"))
	old := w.points("shop")[0].ID
	w.done(w.engine.DropPoint(t.Context(), "shop", old))
	_, err := w.engine.Failover(t.Context(), "shop", api.FailoverOrder{Force: true, Point: old})
	w.refused(err, api.CodeNotFound, old)
	_, err = w.engine.DropPoint(t.Context(), "shop", w.points("shop")[0].ID)
	w.refused(err, api.CodeConflict, "only point")
}

// TestStalePolicy edits by somebody who has not seen the last edit.
func TestStalePolicy(t *testing.T) {
	w := newWorld(t)
	w.machine("web")
	g := w.protect(spec("shop", "web"))
	p := g.Policy
	p.RPOSeconds = 60
	_, err := w.engine.UpdatePolicy(t.Context(), "shop", g.Revision, p)
	require.NoError(t, err)
	_, err = w.engine.UpdatePolicy(t.Context(), "shop", g.Revision, p)
	w.refused(err, api.CodeStale, "changed meanwhile")
}
