package replication_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/hypervisors"
	"understudy/hypervisors/fake"
)

// scratch gives a machine of home a third disk with something on it, which nobody else has.
func (w *world) scratch(vm, text string) {
	w.t.Helper()
	require.NoError(w.t, w.home.AddDisk(vm, hypervisors.Disk{ID: "vdc", Size: 2 * mib, Bus: "sata"}))
	require.NoError(w.t, w.home.Guest(vm).Write("vdc", mib+5, []byte(text)))
}

// scratched expects that a machine has its scratch disk, last, with this on it and nothing else.
func (w *world) scratched(hv *fake.Hypervisor, vm, text string) {
	w.t.Helper()
	disks := hv.Disks(vm)
	require.Len(w.t, disks, 3)
	require.Equal(w.t, "vdc", disks[2].ID())
	require.Equal(w.t, want(text), bytesOf(w.t, disks[2]))
}

func want(text string) []byte {
	all := make([]byte, 2*mib)
	copy(all[mib+5:], text)
	return all
}

func bytesOf(t *testing.T, d fake.DiskReader) []byte {
	all := make([]byte, d.Size())
	_, err := d.ReadAt(all, 0)
	require.NoError(t, err)
	return all
}

// disksOf are the disks of a machine in the newest point, or in an older one.
func (w *world) disksOf(machine string, back int) (ids []string) {
	w.t.Helper()
	points := w.points("shop")
	for _, m := range points[len(points)-1-back].Machines {
		if m.Machine == machine {
			for _, d := range m.Disks {
				ids = append(ids, d.ID)
			}
		}
	}
	return ids
}

func without(p api.GroupSpec, machine int, disks ...string) api.GroupSpec {
	for _, id := range disks {
		p.Machines[machine].Disks = append(p.Machines[machine].Disks, api.GroupDisk{ID: id, LeaveOut: true})
	}
	return p
}

// TestDiskThatIsLeftOut walks a machine whose scratch disk is left out to the other side and home again: no point has it,
// and at home it is what it was.
func TestDiskThatIsLeftOut(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	vm := w.machine("web")
	w.scratch(vm, "only at home")
	s := without(spec("shop", "web"), 0, "vdc")
	s.Machines[0].Disks = append(s.Machines[0].Disks, api.GroupDisk{ID: "vdb", Bus: "sata"})
	g := w.protect(s)
	away := g.Members[0].TargetVM
	require.Equal(t, []string{"vda", "vdb"}, w.disksOf("web", 0))
	replica, err := w.away.Connect("observer").VM(ctx, away)
	require.NoError(t, err)
	require.Equal(t, []string{"virtio", "sata"}, []string{replica.Hardware.Disks[0].Bus, replica.Hardware.Disks[1].Bus})

	require.NoError(t, w.home.Guest(vm).Write("vdc", mib+5, []byte("ONLY")))
	w.write(w.home, vm, 20)
	w.done(w.engine.SyncNow(ctx, "shop"))
	require.Equal(t, "incremental", w.points("shop")[1].Kind)
	w.done(w.engine.Verify(ctx, "shop"))
	require.EqualValues(t, 12*mib, w.group("shop").Verification.BytesCompared)

	for _, o := range []api.PlanOrder{{Order: "test"}, {Order: "failover"}, {Order: "failover", Planned: true}} {
		p := w.plan(o)
		require.Equal(t, 1, count(warnings(p), "disk-missing"), "%+v", o)
		require.Contains(t, text(p), "web starts without it")
	}
	last := w.write(w.home, vm, 7)
	w.done(w.engine.Failover(ctx, "shop", api.FailoverOrder{Planned: true}))
	require.Equal(t, last, w.records(w.away, away))
	require.Len(t, w.away.Disks(away), 2)
	w.done(w.engine.Commit(ctx, "shop"))
	w.refused(w.leaveOut("web"), api.CodeConflict, "not at home")
	p := w.plan(api.PlanOrder{Order: "failback"})
	require.Equal(t, 1, count(warnings(p), "disk-left-out"))
	require.Contains(t, text(p), "as it was before the failover")

	last = w.write(w.away, away, 30)
	w.done(w.engine.Failback(ctx, "shop"))
	require.Equal(t, last, w.records(w.home, vm))
	w.scratched(w.home, vm, "ONLY at home")
	w.write(w.home, vm, 3)
	w.done(w.engine.SyncNow(ctx, "shop"))
	require.Equal(t, "incremental", w.points("shop")[len(w.points("shop"))-1].Kind)
	require.Equal(t, []string{"vda", "vdb"}, w.disksOf("web", 0))
	w.clean()
}

// TestLeftOutDiskWithARepeatedName: the replica that serves has got a disk with the name of the one that is left out.
// Nothing of it travels home, by any way.
func TestLeftOutDiskWithARepeatedName(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	vm := w.machine("web")
	w.scratch(vm, "only at home")
	s := spec("shop", "web")
	g := w.protect(s)
	w.write(w.home, vm, 5)
	require.NoError(t, w.leaveOut("web", "vdc"))
	point := w.points("shop")[0] // it has the disk
	w.done(w.engine.SyncNow(ctx, "shop"))
	require.NoError(t, w.home.Guest(vm).Write("vdc", mib+5, []byte("ONLY")))
	require.NoError(t, w.home.Crash(vm))
	require.NotContains(t, warnings(w.plan(api.PlanOrder{Order: "failover", Point: point.ID})), "disk-missing")
	w.done(w.engine.Failover(ctx, "shop", api.FailoverOrder{Point: point.ID}))
	away := g.Members[0].TargetVM
	w.scratched(w.away, away, "only at home")
	w.done(w.engine.Commit(ctx, "shop"))
	require.NoError(t, w.away.Guest(away).Write("vdc", 0, []byte("not for home")))
	p := w.plan(api.PlanOrder{Order: "reprotect"})
	require.Equal(t, 2, count(warnings(p), "disk-left-out"))
	require.Contains(t, text(p), "is not copied to home")
	w.done(w.engine.Reprotect(ctx, "shop"))
	require.Equal(t, []string{"vda", "vdb"}, w.disksOf("web", 0))
	p = w.plan(api.PlanOrder{Order: "test"})
	require.Equal(t, 1, count(warnings(p), "disk-missing"))
	last := w.write(w.away, away, 9)
	w.done(w.engine.Failback(ctx, "shop"))
	require.Equal(t, last, w.records(w.home, vm))
	w.scratched(w.home, vm, "ONLY at home")
	w.clean()
}

// TestLeaveOutAndTakeBack edits which disks are protected: points that are there stay as they are, and what is taken
// back is copied whole, with the bus that it has at the source.
func TestLeaveOutAndTakeBack(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	vm := w.machine("web")
	g := w.protect(spec("shop", "web"))
	w.scratch(vm, "first")
	w.done(w.engine.SyncNow(ctx, "shop"))
	require.NoError(t, w.leaveOut("web", "vdc"))
	require.NoError(t, w.home.Guest(vm).Write("vdc", mib+5, []byte("other")))
	w.restart()
	w.write(w.home, vm, 5)
	w.done(w.engine.SyncNow(ctx, "shop"))
	require.Equal(t, "incremental", w.points("shop")[2].Kind)
	require.Equal(t, []string{"vda", "vdb"}, w.disksOf("web", 0))
	require.Equal(t, []string{"vda", "vdb", "vdc"}, w.disksOf("web", 1))

	require.NoError(t, w.leaveOut("web"))
	require.Empty(t, w.group("shop").Machines[0].Disks)
	w.write(w.home, vm, 5)
	w.done(w.engine.SyncNow(ctx, "shop"))
	newest := w.points("shop")[3]
	require.Equal(t, "difference", newest.Kind)
	require.True(t, newest.Verified)
	w.sameAtTarget(g, vm)
	w.done(w.engine.SyncNow(ctx, "shop"))
	require.Equal(t, "incremental", w.points("shop")[4].Kind)
	replica, err := w.away.Connect("observer").VM(ctx, g.Members[0].TargetVM)
	require.NoError(t, err)
	require.Equal(t, "sata", replica.Hardware.Disks[2].Bus)

	// Each point starts with the disks that it has.
	for n, has := range []string{"", "first", "", "other"} {
		id := w.points("shop")[n].ID
		missing := slices.Contains(warnings(w.plan(api.PlanOrder{Order: "test", Point: id})), "disk-missing")
		require.Equal(t, has == "", missing, "point %d", n)
		w.done(w.engine.Test(ctx, "shop", api.TestOrder{Point: id}))
		test := w.group("shop").Test.Machines[0].VM
		if has == "" {
			require.Len(t, w.away.Disks(test), 2)
		} else {
			w.scratched(w.away, test, has)
		}
		w.done(w.engine.EndTest(ctx, "shop"))
	}
	w.done(w.engine.Verify(ctx, "shop"))
	w.clean()
}

// TestLeaveOutIsRefused where it would protect other disks than somebody believes, or none.
func TestLeaveOutIsRefused(t *testing.T) {
	w := newWorld(t)
	w.machine("web")
	w.protect(spec("shop", "web"))
	w.refused(w.leaveOut("web", "vdx"), api.CodeInvalid, `no disk "vdx"`)
	w.refused(w.leaveOut("web", "vda", "vdb"), api.CodeInvalid, "no disk of it would be protected")
	w.refused(w.leaveOut("web", "vda", "vda"), api.CodeInvalid, "named twice")
	w.refused(w.leaveOut("web", ""), api.CodeInvalid, "no name")
	w.home.SetReachable(false)
	w.refused(w.leaveOut("web", "vdb"), api.CodeHost)
	require.NoError(t, w.leaveOut("web"), "nothing changes")
	require.Empty(t, w.group("shop").Machines[0].Disks)
}

func TestPreflightOfDisks(t *testing.T) {
	w := newWorld(t)
	vm := w.machine("web")
	w.scratch(vm, "")
	check := func(s api.GroupSpec) map[string]api.PreflightCheck {
		p, err := w.engine.Preflight(t.Context(), s)
		require.NoError(t, err)
		found := map[string]api.PreflightCheck{}
		for _, c := range p.Checks {
			found[c.Code] = c
		}
		_, err = w.engine.CreateGroup(t.Context(), s)
		if !p.Ready {
			w.refused(err, api.CodeInvalid)
		}
		return found
	}
	found := check(without(spec("x", "web"), 0, "vdc", "vdx"))
	require.Equal(t, api.LevelOK, found["disk-left-out"].Level)
	require.Contains(t, found["disk-left-out"].Message, "Disk vdc of web")
	require.Equal(t, "machines[0].disks[1].id", found["disk-unknown"].Field)
	require.Contains(t, found["disk-unknown"].Hint, "vda, vdb, vdc")
	all := check(without(spec("x", "web"), 0, "vda", "vdb", "vdc"))["disks"]
	require.Equal(t, []string{api.LevelError, "machines[0].disks"}, []string{all.Level, all.Field})
	p, err := w.engine.Preflight(t.Context(), without(spec("x", "web"), 0, "vda"))
	require.NoError(t, err)
	require.True(t, p.Ready)
	require.EqualValues(t, 6*mib, p.Bytes)
	require.Contains(t, codes(p.Checks, func(c api.PreflightCheck) string { return c.Level + " " + c.Code }), "warning boot-disk")
}

// leaveOut edits the group shop: of all disks of a machine exactly these are left out.
func (w *world) leaveOut(machine string, disks ...string) error {
	g := w.group("shop")
	_, err := w.engine.UpdateGroup(w.t.Context(), "shop", g.Revision, api.GroupEdit{Policy: g.Policy,
		Machines: []api.MachineEdit{{VM: machine, Checks: g.Machines[0].Checks, LeaveOut: append([]string{}, disks...)}}})
	return err
}

func text(p api.Plan) string {
	var b bytes.Buffer
	for _, warning := range p.Warnings {
		b.WriteString(warning.Text + "\n")
	}
	return b.String()
}

func count(list []string, of string) (n int) {
	for _, s := range list {
		if s == of {
			n++
		}
	}
	return n
}
