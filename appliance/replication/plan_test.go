package replication_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/hypervisors"
	"understudy/hypervisors/fake"
	"understudy/hypervisors/hypervisortest"
)

// plan previews an order of the group shop.
func (w *world) plan(o api.PlanOrder) api.Plan {
	w.t.Helper()
	p, err := w.engine.Plan(w.t.Context(), "shop", o)
	require.NoError(w.t, err)
	require.NotEmpty(w.t, p.Steps)
	for _, c := range p.Changes {
		require.NotEmpty(w.t, c.Text, c.Code)
	}
	if !p.Allowed {
		require.NotEmpty(w.t, p.Refusal)
		require.NotEmpty(w.t, p.Code)
	}
	return p
}

func codes[T any](list []T, code func(T) string) (out []string) {
	for _, v := range list {
		out = append(out, code(v))
	}
	return out
}

func changes(p api.Plan) []string {
	return codes(p.Changes, func(c api.PlanChange) string { return c.Code })
}

func warnings(p api.Plan) []string {
	return codes(p.Warnings, func(c api.PlanWarning) string { return c.Code })
}

func stops(p api.Plan) (out []string) {
	for _, w := range p.Warnings {
		if w.Stops {
			out = append(out, w.Code)
		}
	}
	return out
}

// give orders what was previewed, the way that is meant for it.
func (w *world) give(o api.PlanOrder) (api.Job, error) {
	ctx, cancel := context.WithTimeout(w.t.Context(), waitFor) // an order that was not to wait for what is held
	defer cancel()
	e := w.engine
	switch o.Order {
	case "test":
		return e.Test(ctx, "shop", api.TestOrder{Point: o.Point})
	case "end-test":
		return e.EndTest(ctx, "shop")
	case "failover":
		return e.Failover(ctx, "shop", api.FailoverOrder{Planned: o.Planned, Point: o.Point, Force: o.Force})
	case "commit":
		return e.Commit(ctx, "shop")
	case "rollback":
		return e.Rollback(ctx, "shop")
	case "reprotect":
		return e.Reprotect(ctx, "shop")
	case "failback":
		return e.Failback(ctx, "shop")
	case "fence":
		return e.Fence(ctx, "shop")
	case "drop-point":
		return e.DropPoint(ctx, "shop", o.Point)
	case "remove":
		return e.RemoveGroup(ctx, "shop", o.DeleteReplicas)
	}
	return api.Job{}, errors.New("unknown order")
}

// situations lead a fresh world to every state that a group can rest in, or be held in. release lets go what is held.
var situations = map[string]func(w *world) (release func()){
	"mirroring": func(w *world) func() {
		hold := w.holdAt("mirror", "copy")
		w.protectOnly()
		return hold()
	},
	"protected": func(w *world) func() { w.protect(spec("shop", "web")); return func() {} },
	"two points": func(w *world) func() {
		w.protect(spec("shop", "web"))
		w.done(w.engine.SyncNow(w.t.Context(), "shop"))
		return func() {}
	},
	"cycle at work": func(w *world) func() {
		w.protect(spec("shop", "web"))
		hold := w.holdAt("cycle", "copy")
		_, err := w.engine.SyncNow(w.t.Context(), "shop")
		require.NoError(w.t, err)
		return hold()
	},
	"testing": func(w *world) func() {
		w.protect(spec("shop", "web"))
		w.done(w.engine.Test(w.t.Context(), "shop", api.TestOrder{}))
		return func() {}
	},
	"test at work": func(w *world) func() {
		w.protect(spec("shop", "web"))
		hold := w.holdAt("test", "start")
		_, err := w.engine.Test(w.t.Context(), "shop", api.TestOrder{})
		require.NoError(w.t, err)
		return hold()
	},
	"failing over": func(w *world) func() {
		w.protect(spec("shop", "web"))
		hold := w.holdAt("failover", "start")
		_, err := w.engine.Failover(w.t.Context(), "shop", api.FailoverOrder{Planned: true})
		require.NoError(w.t, err)
		return hold()
	},
	"failed over": func(w *world) func() { w.failedOver(); return func() {} },
	"rolling back": func(w *world) func() {
		w.failedOver()
		hold := w.holdAt("rollback", "source-on")
		_, err := w.engine.Rollback(w.t.Context(), "shop")
		require.NoError(w.t, err)
		return hold()
	},
	"ran on both": func(w *world) func() {
		w.failedOver()
		require.NoError(w.t, w.home.Start(w.group("shop").Members[0].SourceVM))
		w.engine.Guard(w.t.Context())
		w.done(w.engine.Commit(w.t.Context(), "shop"))
		return func() {}
	},
	"committed": func(w *world) func() {
		w.failedOver()
		w.done(w.engine.Commit(w.t.Context(), "shop"))
		return func() {}
	},
	"reversing": func(w *world) func() {
		w.failedOver()
		w.done(w.engine.Commit(w.t.Context(), "shop"))
		hold := w.holdAt("reprotect", "swap")
		_, err := w.engine.Reprotect(w.t.Context(), "shop")
		require.NoError(w.t, err)
		return hold()
	},
	"reversed": func(w *world) func() { w.reversed(); return func() {} },
	"failing back": func(w *world) func() {
		w.reversed()
		hold := w.holdAt("failback", "copy")
		_, err := w.engine.Failback(w.t.Context(), "shop")
		require.NoError(w.t, err)
		return hold()
	},
}

// holdAt stops the next job of a kind before a step; the function it gives waits until one is there, and gives the one
// that lets it go on.
func (w *world) holdAt(kind, step string) func() func() {
	there, on := make(chan struct{}), make(chan struct{})
	held := false
	w.kill = func(k, s, phase string) {
		if k == kind && s == step && phase == "before do" && !held {
			held = true
			close(there)
			<-on
		}
	}
	return func() func() {
		<-there
		return func() { close(on) }
	}
}

func (w *world) protectOnly() {
	w.t.Helper()
	_, err := w.engine.CreateGroup(w.t.Context(), spec("shop", "web"))
	require.NoError(w.t, err)
}

// Where the roles are swapped, points come to a host that may not be able to compress them.
func TestPreviewOfCompression(t *testing.T) {
	for capable, said := range map[bool]string{true: "stored compressed", false: "cannot store points compressed"} {
		w := newWorld(t, fake.WithCapabilities(func(c *hypervisors.Capabilities) { c.Compression = capable }))
		w.away.AddVM(hypervisors.Hardware{Name: "web", Disks: []hypervisors.Disk{{Size: mib}}})
		s := spec("shop", "web")
		s.SourceHost, s.TargetHost, s.Policy.Compression = s.TargetHost, s.SourceHost, api.CompressionZstd
		s.Machines[0].Checks = nil // it has no guest
		w.protect(s)
		w.done(w.engine.Failover(t.Context(), "shop", api.FailoverOrder{}))
		w.done(w.engine.Commit(t.Context(), "shop"))
		p := w.plan(api.PlanOrder{Order: "reprotect"})
		require.True(t, p.Allowed)
		require.Equal(t, !capable, slices.Contains(warnings(p), "compression-missing"))
		require.Contains(t, fmt.Sprintf("%+v %+v", p.Changes, p.Warnings), said)
	}
}

func (w *world) failedOver() {
	w.t.Helper()
	w.protect(spec("shop", "web"))
	w.done(w.engine.Failover(w.t.Context(), "shop", api.FailoverOrder{Planned: true}))
}

func (w *world) reversed() {
	w.t.Helper()
	w.failedOver()
	w.done(w.engine.Commit(w.t.Context(), "shop"))
	w.done(w.engine.Reprotect(w.t.Context(), "shop"))
}

// What a preview says of an order is what the order is answered, in every state, and a preview changes nothing.
func TestPreviewAndOrderAgree(t *testing.T) {
	orders := []api.PlanOrder{{Order: "test"}, {Order: "test", Point: "nowhere"}, {Order: "end-test"}, {Order: "failover"}, {Order: "failover", Planned: true},
		{Order: "failover", Force: true}, {Order: "failover", Point: "nowhere"}, {Order: "failover", Planned: true, Point: "nowhere"}, {Order: "commit"},
		{Order: "rollback"}, {Order: "reprotect"}, {Order: "failback"}, {Order: "fence"}, {Order: "drop-point", Point: "nowhere"}, {Order: "drop-point", Point: "first"},
		{Order: "remove"}, {Order: "remove", DeleteReplicas: true}}
	var mu sync.Mutex
	allowed := map[string]bool{}
	t.Run("all", func(t *testing.T) {
		n := 0
		for _, name := range slices.Sorted(maps.Keys(situations)) {
			lead := situations[name]
			for _, o := range orders {
				if n++; n%share != 0 {
					continue
				}
				t.Run(fmt.Sprintf("%s/%+v", name, o), func(t *testing.T) {
					t.Parallel()
					w := newWorld(t)
					w.machine("web")
					release := lead(w)
					if points := w.points("shop"); o.Point == "first" && len(points) > 0 {
						o.Point = points[0].ID
					}
					before := w.everything()
					p := w.plan(o)
					require.Equal(t, before, w.everything(), "a preview changes nothing")

					if p.Allowed && (name == "cycle at work" || name == "mirroring") {
						release() // what is to give way must be able to
					} else {
						defer release()
					}
					_, err := w.give(o)
					if err == nil {
						require.True(t, p.Allowed, "ordered, but the preview said: %s", p.Refusal)
						mu.Lock()
						defer mu.Unlock()
						allowed[o.Order] = true
						return
					}
					var e *api.Error
					require.ErrorAs(t, err, &e)
					require.False(t, p.Allowed, "allowed, but the order was answered: %v", err)
					require.Equal(t, [3]string{string(e.Code), e.Message, e.Hint}, [3]string{string(p.Code), p.Refusal, p.Hint})
				})
			}
		}
	})
	for _, o := range orders {
		require.True(t, share > 1 || allowed[o.Order], "%s was never allowed", o.Order)
	}
}

// everything is what the appliance shows of the group and its jobs, and what the hosts have.
func (w *world) everything() any {
	g := w.group("shop")
	g.RPO = api.RPOStatus{}
	jobs, err := w.engine.ListJobs(w.t.Context(), api.JobQuery{})
	require.NoError(w.t, err)
	home, err := w.home.Connect("observer").VMs(w.t.Context())
	require.NoError(w.t, err)
	away, err := w.away.Connect("observer").VMs(w.t.Context())
	require.NoError(w.t, err)
	return []any{g, w.points("shop"), jobs, home, away, w.home.Leftovers(), w.away.Leftovers()}
}

func TestPlanOfAFailover(t *testing.T) {
	w := newWorld(t)
	vm := w.machine("web")
	w.machine("db")
	s := spec("shop", "db", "web")
	s.Machines[0].Checks = nil
	w.protect(s)
	require.NoError(t, w.home.Connect("admin").(hypervisors.Power).SetAutostart(t.Context(), vm, true))
	w.pass(5 * time.Second)

	p := w.plan(api.PlanOrder{Order: "failover"})
	require.True(t, p.Allowed)
	require.False(t, p.Irreversible)
	require.Contains(t, p.Undo, "Roll back")
	require.Equal(t, "home", p.From)
	require.Equal(t, "away", p.To)
	require.Equal(t, w.points("shop")[0], *p.Point)
	require.InDelta(t, 5, *p.LossSeconds, 1)
	require.Equal(t, []string{"source-runs", "source-runs"}, stops(p), "it would end there")
	require.Equal(t, api.PlanMachine{Name: "db", From: "home", To: "away", Source: "running", Replica: "off", Stage: 1, Networks: []api.NetworkMap{{From: "lan", To: "lan"}}}, p.Machines[0])
	require.Equal(t, 1, p.Machines[1].Checks)
	require.Contains(t, warnings(p), "checks-missing")
	require.Contains(t, warnings(p), "never-tested")
	require.Contains(t, changes(p), "source-autostart-off")
	require.NotContains(t, changes(p), "source-off")

	p = w.plan(api.PlanOrder{Order: "failover", Force: true})
	require.Empty(t, stops(p))
	require.Contains(t, changes(p), "source-off")
	require.Contains(t, changes(p), "source-writes-given-up")

	p = w.plan(api.PlanOrder{Order: "failover", Planned: true})
	require.Zero(t, *p.LossSeconds)
	require.Nil(t, p.Point)
	require.Equal(t, []string{"last-copy", "source-off", "source-autostart-off", "source-off", "replica-starts", "replica-starts"}, changes(p))

	w.pass(time.Hour)
	require.Contains(t, warnings(w.plan(api.PlanOrder{Order: "failover"})), "point-old")
	w.done(w.engine.SyncNow(t.Context(), "shop"))
	require.Contains(t, warnings(w.plan(api.PlanOrder{Order: "failover", Point: w.points("shop")[0].ID})), "point-not-newest")

	// What was previewed happens.
	w.done(w.engine.Failover(t.Context(), "shop", api.FailoverOrder{Planned: true}))
	p = w.plan(api.PlanOrder{Order: "rollback"})
	require.True(t, p.Irreversible)
	require.Contains(t, changes(p), "replica-writes-discarded")
	require.Equal(t, "home", p.To)
	require.NotNil(t, p.LossSeconds)
	require.Empty(t, stops(p))
	p = w.plan(api.PlanOrder{Order: "commit"})
	require.True(t, p.Irreversible)
	require.Equal(t, []string{"no-way-back", "replica-autostart-on"}, changes(p))
	require.NoError(t, w.home.Start(vm))
	require.Contains(t, warnings(w.plan(api.PlanOrder{Order: "commit"})), "ran-on-both")
	p = w.plan(api.PlanOrder{Order: "fence"})
	require.Equal(t, []string{"stray-off", "source-writes-given-up"}, changes(p))
	require.True(t, p.Irreversible)
}

func TestPlanOfTheWayHome(t *testing.T) {
	w := newWorld(t)
	w.machine("web")
	w.failedOver()
	w.done(w.engine.Commit(t.Context(), "shop"))
	p := w.plan(api.PlanOrder{Order: "reprotect"})
	require.Contains(t, changes(p), "roles-swap")
	require.Equal(t, [2]string{"away", "away"}, [2]string{p.From, p.To}, "production stays")
	p = w.plan(api.PlanOrder{Order: "failback"})
	require.Equal(t, [2]string{"away", "home"}, [2]string{p.From, p.To})
	require.Zero(t, *p.LossSeconds)
	require.True(t, p.Irreversible)
	require.Empty(t, stops(p))
	w.done(w.engine.Reprotect(t.Context(), "shop"))
	p = w.plan(api.PlanOrder{Order: "failback"})
	require.Equal(t, [2]string{"away", "home"}, [2]string{p.From, p.To})
	require.NotContains(t, changes(p), "roles-swap")
	require.Contains(t, changes(p), "home-starts")
	require.Equal(t, []api.NetworkMap{{From: "lan", To: "lan"}}, p.Machines[0].Networks)
	w.done(w.engine.Failback(t.Context(), "shop"))
}

func TestPlanOfATest(t *testing.T) {
	w := newWorld(t)
	w.machine("web")
	w.protect(spec("shop", "web"))
	p := w.plan(api.PlanOrder{Order: "test"})
	require.Equal(t, []string{"test-network-made", "test-starts"}, changes(p))
	require.False(t, p.Irreversible)
	require.Equal(t, []api.NetworkMap{{From: "lan", To: "isolated"}}, p.Machines[0].Networks)
	w.done(w.engine.Test(t.Context(), "shop", api.TestOrder{}))
	require.Contains(t, warnings(w.plan(api.PlanOrder{Order: "failover", Planned: true})), "test-running")
	require.Equal(t, []string{"test-ends", "test-network-removed"}, changes(w.plan(api.PlanOrder{Order: "end-test"})))
	w.done(w.engine.EndTest(t.Context(), "shop"))
	require.NotContains(t, warnings(w.plan(api.PlanOrder{Order: "failover", Planned: true})), "never-tested")
	p = w.plan(api.PlanOrder{Order: "remove", DeleteReplicas: true})
	require.Equal(t, []string{"protection-ends", "replicas-deleted", "points-dropped"}, changes(p))
	require.True(t, p.Irreversible)
}

// In the worst night a host is dead, or hangs: the preview comes all the same, and says what nobody knows.
func TestPlanWithoutTheHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.machine("web")
		w.protect(spec("shop", "web"))
		w.faults["home"].Each(func(ctx context.Context, _ hypervisortest.Call, when hypervisortest.When, _ string) error {
			if when == hypervisortest.Before {
				return hypervisortest.Hang(ctx)
			}
			return nil
		})
		start := time.Now()
		p := w.plan(api.PlanOrder{Order: "failover"})
		require.LessOrEqual(t, time.Since(start), 5*time.Second)
		require.True(t, p.Allowed)
		require.Contains(t, warnings(p), "source-unreachable")
		require.Empty(t, stops(p), "an unplanned failover goes on")
		require.Equal(t, "unknown", p.Machines[0].Source)
		require.Equal(t, "off", p.Machines[0].Replica)
		require.Equal(t, []string{"source-unreachable"}, stops(w.plan(api.PlanOrder{Order: "failover", Planned: true})))
		w.faults["home"].Each(nil)

		w.faults["away"].Each(func(_ context.Context, _ hypervisortest.Call, when hypervisortest.When, _ string) error {
			return hypervisors.ErrUnreachable
		})
		require.Contains(t, stops(w.plan(api.PlanOrder{Order: "test"})), "target-unreachable")
		w.faults["away"].Each(nil)
	})
}

func TestUnknownOrderHasNoPlan(t *testing.T) {
	w := newWorld(t)
	w.machine("web")
	w.protect(spec("shop", "web"))
	for _, o := range []string{"", "cycle", "mirror", "delete", "dance"} {
		_, err := w.engine.Plan(t.Context(), "shop", api.PlanOrder{Order: o})
		w.refused(err, api.CodeInvalid, "there is no order")
	}
	_, err := w.engine.Plan(t.Context(), "nobody", api.PlanOrder{Order: "test"})
	w.refused(err, api.CodeNotFound, "nobody")
}
