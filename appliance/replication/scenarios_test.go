package replication_test

import (
	"context"
	"strings"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/hypervisors"
)

// scenario is an order to a group of two machines, what comes before it, and what must be true when it has ended.
type scenario struct {
	kind        string // of job
	unprotected bool   // there is no group yet
	shape       func(*api.GroupSpec)
	before      func(w *world, vm, db string)
	order       func(w *world, ctx context.Context) (api.Job, error)
	// broken makes calls to a host fail as often as they are made; then the job fails, and all is as it was.
	broken func(host, call, subject string) bool
	// found is the error of a job that comes to its end, and fails because of what it found.
	found string
	state api.GroupState // at the end; empty: the group is gone
	after func(w *world, vm, db string, g api.Group)
}

// scenarios are one for every kind of job at least, and one for every undo.
func scenarios() map[string]scenario {
	all := map[string]scenario{}
	for _, some := range []map[string]scenario{cycleScenarios(), verifyScenarios(), testScenarios(), failoverScenarios(), homeScenarios(), runbookScenarios()} {
		for name, s := range some {
			all[name] = s
		}
	}
	return all
}

func planned(w *world, _, _ string) {
	w.done(w.engine.Failover(w.t.Context(), "shop", api.FailoverOrder{Planned: true}))
}

func committed(w *world, vm, db string) {
	planned(w, vm, db)
	w.done(w.engine.Commit(w.t.Context(), "shop"))
	for _, m := range w.group("shop").Members {
		w.write(w.away, m.TargetVM, 10)
	}
}

func written(w *world, vm, db string) {
	w.write(w.home, vm, 30)
	w.write(w.home, db, 10)
}

func same(w *world, vm, db string, g api.Group) { w.sameAtTarget(g, vm, db) }

// serving expects both machines on at home, or both away, and none on the other side.
func serving(w *world, home bool, vm, db string, g api.Group) {
	for i, id := range []string{vm, db} {
		require.Equal(w.t, home, w.running(w.home, id), "%s at home", g.Members[i].Name)
		require.Equal(w.t, !home, w.running(w.away, g.Members[i].TargetVM), "%s away", g.Members[i].Name)
	}
}

func atHome(w *world, vm, db string, g api.Group)  { serving(w, true, vm, db, g) }
func notHome(w *world, vm, db string, g api.Group) { serving(w, false, vm, db, g) }

func cycleScenarios() map[string]scenario {
	return map[string]scenario{
		"mirror": {kind: "mirror", state: api.StateProtected, unprotected: true, after: same,
			order: func(w *world, ctx context.Context) (api.Job, error) {
				p := spec("shop", "web", "db")
				p.Policy.VerifyCycles = false
				if _, err := w.engine.CreateGroup(ctx, p); err != nil {
					return api.Job{}, err
				}
				list, err := w.engine.ListJobs(ctx, api.JobQuery{Paging: api.Paging{Limit: 1}})
				return list.Items[0], err
			}},
		"cycle": {kind: "cycle", state: api.StateProtected, after: same, before: written,
			order: func(w *world, ctx context.Context) (api.Job, error) { return w.engine.SyncNow(ctx, "shop") }},
		"cycle with retention": {kind: "cycle", state: api.StateProtected,
			before: func(w *world, vm, db string) {
				g := w.group("shop")
				g.Policy.Retention = []api.RetentionTier{{Count: 1}}
				_, err := w.engine.UpdatePolicy(w.t.Context(), "shop", g.Revision, g.Policy)
				require.NoError(w.t, err)
				written(w, vm, db)
			},
			order: func(w *world, ctx context.Context) (api.Job, error) { return w.engine.SyncNow(ctx, "shop") },
			after: func(w *world, vm, db string, g api.Group) {
				require.Len(w.t, w.points("shop"), 1)
				same(w, vm, db, g)
			}},
		"drop point": {kind: "drop-point", state: api.StateProtected,
			before: func(w *world, vm, db string) {
				written(w, vm, db)
				w.done(w.engine.SyncNow(w.t.Context(), "shop"))
			},
			order: func(w *world, ctx context.Context) (api.Job, error) {
				return w.engine.DropPoint(ctx, "shop", w.points("shop")[0].ID)
			},
			after: func(w *world, vm, db string, g api.Group) {
				require.Len(w.t, w.points("shop"), 1)
				same(w, vm, db, g)
			}},
		"remove": {kind: "remove",
			order: func(w *world, ctx context.Context) (api.Job, error) {
				return w.engine.RemoveGroup(ctx, "shop", true)
			},
			after: func(w *world, vm, db string, _ api.Group) {
				left, err := w.away.Connect("observer").VMs(w.t.Context())
				require.NoError(w.t, err)
				require.Empty(w.t, left)
				require.Empty(w.t, w.home.Tracked(vm))
				require.Empty(w.t, w.home.Tracked(db))
				w.clean()
			}},
	}
}

func verifyScenarios() map[string]scenario {
	verify := func(w *world, ctx context.Context) (api.Job, error) { return w.engine.Verify(ctx, "shop") }
	return map[string]scenario{
		"verify": {kind: "verify", state: api.StateProtected, before: written, order: verify,
			after: func(w *world, vm, db string, g api.Group) {
				require.Equal(w.t, "passed", g.Verification.State)
				require.EqualValues(w.t, 14*mib, g.Verification.BytesCompared, "each block once")
				same(w, vm, db, g)
			}},
		"verify that finds something": {kind: "verify", state: api.StateProtected, order: verify, found: "not identical",
			before: func(w *world, vm, db string) {
				written(w, vm, db)
				w.done(w.engine.SyncNow(w.t.Context(), "shop"))
				require.NoError(w.t, w.home.Corrupt(db, "vda", mib, []byte("nobody was told")))
			},
			after: func(w *world, vm, db string, g api.Group) {
				require.Equal(w.t, "repaired", g.Verification.State)
				require.EqualValues(w.t, 65536, g.Verification.BytesDifferent)
				require.Equal(w.t, ids(w.points("shop"), 1, 2), w.suspects(g))
				require.Equal(w.t, w.suspects(g), g.Verification.Suspect)
				require.Empty(w.t, g.Alerts)
				same(w, vm, db, g)
			}},
	}
}

func testScenarios() map[string]scenario {
	test := func(w *world, ctx context.Context) (api.Job, error) {
		return w.engine.Test(ctx, "shop", api.TestOrder{})
	}
	return map[string]scenario{
		"test": {kind: "test", state: api.StateProtected, order: test,
			after: func(w *world, _, _ string, g api.Group) {
				require.Equal(w.t, "running", g.Test.State)
				w.done(w.engine.EndTest(w.t.Context(), "shop"))
			}},
		"test that fails": {kind: "test", state: api.StateProtected, order: test,
			broken: func(_, call, _ string) bool { return call == "Isolation.AssertIsolated" },
			after: func(w *world, vm, db string, g api.Group) {
				require.Equal(w.t, "failed", g.Test.State)
				atHome(w, vm, db, g)
			}},
		"end test": {kind: "end-test", state: api.StateProtected,
			before: func(w *world, _, _ string) { w.done(w.engine.Test(w.t.Context(), "shop", api.TestOrder{})) },
			order:  func(w *world, ctx context.Context) (api.Job, error) { return w.engine.EndTest(ctx, "shop") },
			after:  func(w *world, _, _ string, g api.Group) { require.Equal(w.t, "passed", g.Test.State) }},
	}
}

func failoverScenarios() map[string]scenario {
	failover := func(w *world, ctx context.Context) (api.Job, error) {
		return w.engine.Failover(ctx, "shop", api.FailoverOrder{Planned: true})
	}
	rollback := func(w *world, ctx context.Context) (api.Job, error) { return w.engine.Rollback(ctx, "shop") }
	crash := func(w *world, vm, db string) {
		require.NoError(w.t, w.home.Crash(vm))
		require.NoError(w.t, w.home.Crash(db))
	}
	unplanned := func(w *world, ctx context.Context) (api.Job, error) {
		return w.engine.Failover(ctx, "shop", api.FailoverOrder{})
	}
	return map[string]scenario{
		"planned failover": {kind: "failover", state: api.StateFailedOver, before: written, order: failover,
			after: func(w *world, vm, db string, g api.Group) { // nothing lost
				notHome(w, vm, db, g)
				require.Equal(w.t, w.records(w.home, vm), w.records(w.away, g.Members[0].TargetVM))
				require.Equal(w.t, w.records(w.home, db), w.records(w.away, g.Members[1].TargetVM))
			}},
		"failover that fails": {kind: "failover", state: api.StateProtected, before: written, order: failover, after: atHome,
			broken: func(host, call, subject string) bool {
				return host == "away" && call == "Replica.Run" && strings.HasSuffix(subject, "-2 "+hypervisors.LiveRun)
			}},
		"unplanned failover": {kind: "failover", state: api.StateFailedOver, before: crash, order: unplanned, after: notHome},
		"rollback":           {kind: "rollback", state: api.StateProtected, before: planned, order: rollback, after: atHome},
		"rollback to machines that were off": {kind: "rollback", state: api.StateProtected, order: rollback,
			before: func(w *world, vm, db string) {
				crash(w, vm, db)
				w.done(unplanned(w, w.t.Context()))
			},
			after: func(w *world, vm, db string, g api.Group) { // nobody asked for them to be turned on
				require.False(w.t, w.running(w.home, vm) || w.running(w.home, db))
				require.False(w.t, w.running(w.away, g.Members[0].TargetVM) || w.running(w.away, g.Members[1].TargetVM))
			}},
		"fence": {kind: "fence", state: api.StateCommitted, after: notHome,
			before: func(w *world, vm, db string) {
				committed(w, vm, db)
				require.NoError(w.t, w.home.Start(vm))
				require.NoError(w.t, w.home.Start(db))
			},
			order: func(w *world, ctx context.Context) (api.Job, error) { return w.engine.Fence(ctx, "shop") }},
		"commit": {kind: "commit", state: api.StateCommitted, before: planned, after: notHome,
			order: func(w *world, ctx context.Context) (api.Job, error) { return w.engine.Commit(ctx, "shop") }},
	}
}

func homeScenarios() map[string]scenario {
	reprotect := func(w *world, ctx context.Context) (api.Job, error) { return w.engine.Reprotect(ctx, "shop") }
	failback := func(w *world, ctx context.Context) (api.Job, error) { return w.engine.Failback(ctx, "shop") }
	return map[string]scenario{
		"reprotect": {kind: "reprotect", state: api.StateProtected, before: committed, order: reprotect,
			after: func(w *world, vm, db string, g api.Group) {
				require.True(w.t, g.Reversed)
				notHome(w, vm, db, g)
			}},
		"reprotect that fails": {kind: "reprotect", state: api.StateCommitted, before: committed, order: reprotect, after: notHome,
			broken: func(_, call, subject string) bool {
				return call == "Target.Adopt" && strings.HasSuffix(subject, "-2-home")
			}},
		"failback": {kind: "failback", state: api.StateProtected, before: committed, order: failback,
			after: func(w *world, vm, db string, g api.Group) {
				require.False(w.t, g.Reversed)
				atHome(w, vm, db, g)
				require.EqualValues(w.t, 110, w.records(w.home, vm))
				require.EqualValues(w.t, 20, w.records(w.home, db))
				w.sameAtTarget(g, vm, db)
			}},
		"failback with a disk left out": {kind: "failback", state: api.StateProtected, order: failback,
			before: func(w *world, vm, db string) {
				w.scratch(vm, "only at home")
				require.NoError(w.t, w.leaveOut("web", "vdc"))
				committed(w, vm, db)
			},
			after: func(w *world, vm, db string, g api.Group) {
				atHome(w, vm, db, g)
				require.EqualValues(w.t, 110, w.records(w.home, vm))
				w.scratched(w.home, vm, "only at home")
				w.done(w.engine.SyncNow(w.t.Context(), "shop"))
				require.Equal(w.t, []string{"vda", "vdb"}, w.disksOf("web", 0))
			}},
		"failback with a disk left out that fails": {kind: "failback", state: api.StateMirroring, order: failback,
			broken: func(host, call, _ string) bool { return host == "home" && call == "Power.Start" },
			before: func(w *world, vm, db string) {
				w.scratch(vm, "only at home")
				require.NoError(w.t, w.leaveOut("web", "vdc"))
				committed(w, vm, db)
			},
			after: func(w *world, vm, db string, g api.Group) {
				notHome(w, vm, db, g)
				w.done(w.engine.SyncNow(w.t.Context(), "shop"))
				w.done(w.engine.Failback(w.t.Context(), "shop"))
				w.scratched(w.home, vm, "only at home")
			}},
		"failback that fails": {kind: "failback", state: api.StateMirroring, // settling gave up the points at home
			before: committed, order: failback,
			broken: func(host, call, _ string) bool { return host == "home" && call == "Power.Start" },
			after: func(w *world, vm, db string, g api.Group) {
				require.True(w.t, g.Reversed)
				notHome(w, vm, db, g)
				w.done(w.engine.SyncNow(w.t.Context(), "shop"))
			}},
	}
}
