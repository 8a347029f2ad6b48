package replication_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/hypervisors"
	"understudy/hypervisors/fake"
	"understudy/hypervisors/hypervisortest"
)

// conversions says how often the guest of a machine was converted.
func (w *world) conversions(hv *fake.Hypervisor, vm string) int {
	w.t.Helper()
	n, err := hv.Guest(vm).Conversions()
	require.NoError(w.t, err)
	return n
}

func converting(s api.GroupSpec) api.GroupSpec {
	for i := range s.Machines {
		s.Machines[i].Convert = true
	}
	return s
}

// wish sets whether the guest of a machine is converted.
func (w *world) wish(machine string, convert bool) error {
	g := w.group("shop")
	_, err := w.engine.UpdateGroup(w.t.Context(), "shop", g.Revision, api.GroupEdit{Policy: g.Policy,
		Machines: []api.MachineEdit{{VM: machine, Stage: g.Machines[0].Stage, Checks: g.Machines[0].Checks, Convert: &convert}}})
	return err
}

// TestConvertedGuest walks a guest that is converted to the other side and home again. Points stay what the source has, and
// at home nothing is converted: there it is what it became.
func TestConvertedGuest(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	vm := w.machine("web")
	w.machine("db")
	s := spec("shop", "web", "db")
	s.Machines[0].Convert = true
	g := w.protect(s)
	away, other := g.Members[0].TargetVM, g.Members[1].TargetVM

	p := w.plan(api.PlanOrder{Order: "test"})
	require.Equal(t, 1, count(changes(p), "guest-converted"))
	before := w.points("shop")
	w.done(w.engine.Test(ctx, "shop", api.TestOrder{}))
	test := w.group("shop").Test
	require.Equal(t, 1, w.conversions(w.away, test.Machines[0].VM))
	require.Zero(t, w.conversions(w.away, test.Machines[1].VM))
	w.done(w.engine.EndTest(ctx, "shop"))
	require.Equal(t, before, w.points("shop"))

	p = w.plan(api.PlanOrder{Order: "failover", Planned: true})
	require.Equal(t, 1, count(changes(p), "guest-converted"))
	last := w.write(w.home, vm, 7)
	w.done(w.engine.Failover(ctx, "shop", api.FailoverOrder{Planned: true}))
	require.Equal(t, last, w.records(w.away, away))
	require.Equal(t, 1, w.conversions(w.away, away))
	require.Zero(t, w.conversions(w.away, other))
	require.Equal(t, 1, count(warnings(w.plan(api.PlanOrder{Order: "commit"})), "converted"))
	w.restart()
	w.done(w.engine.Commit(ctx, "shop"))
	require.Equal(t, 1, count(warnings(w.plan(api.PlanOrder{Order: "failback"})), "converted"))
	require.Equal(t, 1, count(warnings(w.plan(api.PlanOrder{Order: "reprotect"})), "converted"))

	w.done(w.engine.Reprotect(ctx, "shop"))
	w.settle(g.ID)
	require.Zero(t, count(changes(w.plan(api.PlanOrder{Order: "test"})), "guest-converted"))
	w.done(w.engine.Test(ctx, "shop", api.TestOrder{}))
	require.Equal(t, 1, w.conversions(w.home, w.group("shop").Test.Machines[0].VM), "as it came from the other side")
	w.done(w.engine.EndTest(ctx, "shop"))
	require.Equal(t, 1, count(warnings(w.plan(api.PlanOrder{Order: "failback"})), "converted"))
	last = w.write(w.away, away, 3)
	w.done(w.engine.Failback(ctx, "shop"))
	require.Equal(t, last, w.records(w.home, vm))
	require.Equal(t, 1, w.conversions(w.home, vm))

	// The wish is edited for the next start; a rollback leaves home alone.
	require.NoError(t, w.wish("web", false))
	require.False(t, w.group("shop").Machines[0].Convert)
	w.done(w.engine.Failover(ctx, "shop", api.FailoverOrder{Planned: true}))
	require.Equal(t, 1, w.conversions(w.away, away))
	require.Zero(t, count(warnings(w.plan(api.PlanOrder{Order: "commit"})), "converted"))
	w.done(w.engine.Rollback(ctx, "shop"))
	require.NoError(t, w.wish("web", true))
	w.done(w.engine.Failover(ctx, "shop", api.FailoverOrder{Planned: true}))
	require.Equal(t, 2, w.conversions(w.away, away))
	w.done(w.engine.Rollback(ctx, "shop"))
	require.Equal(t, 1, w.conversions(w.home, vm))
	w.clean()
}

// A guest that virt-v2v does not know fails a test with its words, and nothing of it stays; a failover is undone.
func TestGuestThatCannotBeConverted(t *testing.T) {
	w := newWorld(t)
	vm := w.home.AddVM(hypervisors.Hardware{Name: "web", NICs: []hypervisors.NIC{{Network: "lan"}}, Disks: []hypervisors.Disk{{Size: mib}}})
	require.NoError(t, w.home.Start(vm))
	s := converting(spec("shop", "web"))
	s.Machines[0].Checks = nil
	g := w.protect(s)
	for _, order := range []api.PlanOrder{{Order: "test"}, {Order: "failover", Planned: true}} {
		j, err := w.give(order)
		require.NoError(t, err)
		j = w.wait(j.ID)
		require.Equal(t, api.JobFailed, j.State)
		require.Contains(t, j.Error, "guest cannot be converted")
	}
	w.clean()
	require.True(t, w.running(w.home, vm))
	require.False(t, w.running(w.away, g.Members[0].TargetVM))
	require.Equal(t, api.StateProtected, w.group("shop").State)
}

// A conversion takes minutes, in which somebody may turn the source on: then the replica does not start.
func TestSourceStartsDuringConversion(t *testing.T) {
	w := newWorld(t)
	vm := w.machine("web")
	g := w.protect(converting(spec("shop", "web")))
	w.faults["away"].Queue("Replica.Run", hypervisortest.After, func(context.Context) error {
		require.False(t, w.running(w.home, vm))
		require.False(t, w.running(w.away, g.Members[0].TargetVM), "it is only converted")
		return w.home.Start(vm)
	})
	j, err := w.engine.Failover(t.Context(), "shop", api.FailoverOrder{Planned: true})
	require.NoError(t, err)
	j = w.wait(j.ID)
	require.Equal(t, api.JobFailed, j.State, j.Error)
	require.True(t, w.running(w.home, vm))
	require.False(t, w.running(w.away, g.Members[0].TargetVM))
	w.clean()
}

// What surely cannot be converted is refused before, with the field; where conversion would help, the doubt says so.
func TestPreflightOfConversion(t *testing.T) {
	w := newWorld(t, fake.WithCapabilities(func(c *hypervisors.Capabilities) { c.Devices.Disks = []string{"virtio", "sata"} }))
	add := func(name, os, arch string) {
		w.home.AddVM(hypervisors.Hardware{Name: name, OS: os, Arch: arch, Disks: []hypervisors.Disk{{Size: mib, Bus: "scsi", Controller: "pvscsi"}}, NICs: []hypervisors.NIC{{Network: "lan"}}})
	}
	add("debian", "http://debian.org/debian/12", "x86_64")
	add("freebsd", "http://freebsd.org/freebsd/14.0", "x86_64")
	add("arm", "", "aarch64")
	of := func(s api.GroupSpec, code string) (found []api.PreflightCheck) {
		p, err := w.engine.Preflight(t.Context(), s)
		require.NoError(t, err)
		for _, c := range p.Checks {
			if c.Code == code {
				found = append(found, c)
			}
		}
		return found
	}
	all := spec("shop", "debian", "freebsd", "arm")
	doubts := of(all, "driver")
	require.Len(t, doubts, 3)
	require.Contains(t, doubts[0].Hint, "away can do that")
	require.NotContains(t, doubts[1].Hint, "away can do that")
	require.NotContains(t, doubts[2].Hint, "away can do that")
	require.Empty(t, of(all, "convert"))

	all = converting(all)
	require.Empty(t, of(all, "driver"))
	found := of(all, "convert")
	require.Len(t, found, 3)
	require.Equal(t, []string{api.LevelOK, api.LevelError, api.LevelError}, []string{found[0].Level, found[1].Level, found[2].Level})
	require.Contains(t, found[1].Message, "FreeBSD")
	require.Equal(t, "machines[1].convert", found[1].Field)
	require.Contains(t, found[2].Message, "aarch64")
	_, err := w.engine.CreateGroup(t.Context(), all)
	w.refused(err, api.CodeInvalid, "FreeBSD")

	s := spec("shop", "debian", "freebsd")
	s.Machines[0].Checks, s.Machines[1].Checks = nil, nil // nobody answers there
	w.protect(s)
	w.atField(w.wish("freebsd", true), "machines[0].convert", "FreeBSD")
	require.NoError(t, w.wish("debian", true))

	// The host cannot do it any more: nobody may ask for it, and who has asked is warned, and started all the same.
	w.stop()
	fake.WithCapabilities(func(c *hypervisors.Capabilities) { c.Convert = false })(w.away)
	w.start()
	found = of(converting(spec("other", "arm")), "convert")
	require.Len(t, found, 1)
	require.Equal(t, api.LevelError, found[0].Level)
	require.Contains(t, found[0].Hint, "virt-v2v")
	require.NotContains(t, of(spec("other", "arm"), "driver")[0].Hint, "away can do that")
	w.atField(w.wish("freebsd", true), "machines[0].convert", "cannot convert")
	require.NoError(t, w.wish("debian", true), "it is as it was")
	for _, o := range []api.PlanOrder{{Order: "test"}, {Order: "failover"}} {
		p := w.plan(o)
		require.Equal(t, 1, count(warnings(p), "convert-missing"))
		require.Zero(t, count(changes(p), "guest-converted"))
	}
	w.done(w.engine.Test(t.Context(), "shop", api.TestOrder{}))
	w.done(w.engine.EndTest(t.Context(), "shop"))
}
