package replication_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/hypervisors/hypervisortest"
)

// shops makes three groups: shop (web, db), mail and old, which is paused.
func shops(t *testing.T) *world {
	w := newWorld(t)
	for _, vm := range []string{"web", "mail1", "old1"} {
		w.machine(vm)
	}
	w.machine2("db")
	w.protect(spec("shop", "web", "db"))
	w.protect(spec("mail", "mail1"))
	w.protect(spec("old", "old1"))
	_, err := w.engine.Pause(t.Context(), "old")
	require.NoError(t, err)
	return w
}

func TestLists(t *testing.T) {
	w := shops(t)
	groups := func(q api.GroupQuery) (names []string) {
		page, err := w.engine.ListGroups(t.Context(), q)
		require.NoError(t, err)
		for _, g := range page.Items {
			names = append(names, g.Name)
		}
		require.LessOrEqual(t, len(names), page.Total)
		return names
	}
	machines := func(q api.MachineQuery) (names []string) {
		page, err := w.engine.ListMachines(t.Context(), q)
		require.NoError(t, err)
		for _, m := range page.Items {
			names = append(names, m.Name)
		}
		return names
	}
	mail := w.group("mail").ID
	require.Equal(t, []string{"mail", "old", "shop"}, groups(api.GroupQuery{}))
	require.Equal(t, []string{"shop", "old", "mail"}, groups(api.GroupQuery{Sort: "-name"}))
	require.Equal(t, []string{"old"}, groups(api.GroupQuery{Health: api.HealthOff}))
	require.Equal(t, []string{"mail", "shop"}, groups(api.GroupQuery{Health: api.HealthMet}))
	require.Equal(t, []string{"shop"}, groups(api.GroupQuery{Q: "WEB"}))
	require.Len(t, groups(api.GroupQuery{Q: "away"}), 3)
	require.Len(t, groups(api.GroupQuery{Host: "home", State: api.StateProtected}), 3)
	require.Empty(t, groups(api.GroupQuery{Host: "nowhere"}))
	require.Equal(t, []string{"old"}, groups(api.GroupQuery{Paging: api.Paging{Offset: 1, Limit: 1}}))
	require.Equal(t, []string{"mail"}, groups(api.GroupQuery{Scope: api.Scope{mail}}))
	require.Empty(t, groups(api.GroupQuery{Scope: api.Scope{}}))
	require.Equal(t, "old", groups(api.GroupQuery{Sort: "-health"})[0])
	w.done(w.engine.SyncNow(t.Context(), "shop"))
	require.Equal(t, "shop", groups(api.GroupQuery{Sort: "age"})[0])

	require.Equal(t, []string{"db", "mail1", "old1", "web"}, machines(api.MachineQuery{}))
	require.Equal(t, []string{"db", "web"}, machines(api.MachineQuery{Group: "shop"}))
	require.Equal(t, []string{"web"}, machines(api.MachineQuery{Q: "we"}))
	require.Len(t, machines(api.MachineQuery{Q: "shop"}), 2, "the name of the group finds all its machines")
	require.Equal(t, "mail1", machines(api.MachineQuery{Sort: "group"})[0])
	require.Equal(t, []string{"old1"}, machines(api.MachineQuery{Health: api.HealthOff}))
	require.Equal(t, []string{"mail1"}, machines(api.MachineQuery{Scope: api.Scope{mail}}))
	for _, sort := range []string{"name", "group", "health", "age"} {
		require.Len(t, machines(api.MachineQuery{Sort: "-" + sort}), 4)
	}
	page, err := w.engine.ListMachines(t.Context(), api.MachineQuery{Q: "web"})
	require.NoError(t, err)
	g := w.group("shop")
	points := w.points("shop")
	m := page.Items[0]
	require.Equal(t, api.ProtectedMachine{Name: "web", Group: g.ID, GroupName: "shop", GroupState: g.State, SourceHost: "home", TargetHost: "away",
		SourceVM: g.Members[0].SourceVM, ReplicaVM: g.Members[0].TargetVM, Health: api.HealthMet, RPO: m.RPO, NewestPoint: points[len(points)-1].ID}, m)

	_, err = w.engine.ListMachines(t.Context(), api.MachineQuery{Group: "shop", Scope: api.Scope{mail}})
	w.refused(err, api.CodeNotFound)
	_, err = w.engine.ListJobs(t.Context(), api.JobQuery{Group: "shop", Scope: api.Scope{mail}})
	w.refused(err, api.CodeNotFound)
	_, err = w.engine.History(t.Context(), api.HistoryQuery{Group: "shop", Scope: api.Scope{mail}})
	w.refused(err, api.CodeNotFound)
	_, err = w.engine.ListGroups(t.Context(), api.GroupQuery{Sort: "colour"})
	w.refused(err, api.CodeInvalid)
	_, err = w.engine.ListGroups(t.Context(), api.GroupQuery{Paging: api.Paging{Limit: 1001}})
	w.refused(err, api.CodeInvalid)
	jobs, err := w.engine.ListJobs(t.Context(), api.JobQuery{Kind: "mirror", State: "ended", Scope: api.Scope{mail}})
	require.NoError(t, err)
	require.Equal(t, 1, jobs.Total)
}

func TestOverview(t *testing.T) {
	w := shops(t)
	w.pass(time.Hour)
	w.engine.Observe(t.Context())
	w.engine.Look(t.Context())
	o, err := w.engine.Overview(t.Context(), nil)
	require.NoError(t, err)
	require.Equal(t, 3, o.Groups)
	require.Equal(t, 4, o.Machines)
	require.Equal(t, api.HealthCount{Missed: 3, Off: 1}, o.Health)
	require.Equal(t, api.TestCount{Never: 3}, o.Tests)
	require.Equal(t, api.HostCount{Connected: 2}, o.Hosts)
	require.Equal(t, 2, o.AlertCount)
	require.Len(t, o.Storage, 1)
	require.Equal(t, 4, o.Storage[0].Replicas)

	w.done(w.engine.Test(t.Context(), "mail", api.TestOrder{}))
	w.done(w.engine.EndTest(t.Context(), "mail"))
	mail := w.group("mail")
	require.Equal(t, api.TestFresh, mail.TestFreshness)
	require.NotNil(t, mail.Tested)
	o, err = w.engine.Overview(t.Context(), api.Scope{mail.ID})
	require.NoError(t, err)
	require.Equal(t, 1, o.Groups)
	require.Equal(t, api.TestCount{Fresh: 1}, o.Tests)
	require.Equal(t, 1, o.AlertCount)
	require.Equal(t, mail.ID, o.Alerts[0].Group)
	require.Empty(t, o.Hosts)
	require.Empty(t, o.Storage)
	w.restart()
	require.Equal(t, api.TestFresh, w.group("mail").TestFreshness)
	w.pass(91 * 24 * time.Hour)
	require.Equal(t, api.TestStale, w.group("mail").TestFreshness)
}

// TestHistory: cycles and failures are counted, ages are the worst, and what is paused has no ages.
func TestHistory(t *testing.T) {
	w := newWorld(t)
	vm := w.machine("web")
	g := w.protect(spec("shop", "web"))
	w.cycles(vm, 3)
	w.faults["home"].Queue("Source.Checkpoint", hypervisortest.Before, hypervisortest.Fail(errors.New("no snapshot")))
	job, err := w.engine.SyncNow(t.Context(), "shop")
	require.NoError(t, err)
	w.wait(job.ID)
	w.pass(30 * time.Second)
	w.engine.Observe(t.Context())
	sum := func(group string, from time.Time) (s api.Sample) {
		h, err := w.engine.History(t.Context(), api.HistoryQuery{Group: group, Hours: 48})
		require.NoError(t, err)
		for _, x := range h.Samples {
			if !x.Time.Before(from) {
				s.Cycles, s.Failed, s.BytesRead, s.BytesWritten = s.Cycles+x.Cycles, s.Failed+x.Failed, s.BytesRead+x.BytesRead, s.BytesWritten+x.BytesWritten
				s.WorstAge = max(s.WorstAge, x.WorstAge)
				s.Seconds += x.Seconds
			}
		}
		return s
	}
	seen := sum("shop", time.Time{})
	require.Equal(t, 4, seen.Cycles)
	require.Equal(t, 1, seen.Failed)
	require.InDelta(t, 30, seen.WorstAge, 2)
	var read int64
	for _, p := range w.points("shop") {
		read += p.BytesRead
	}
	require.Equal(t, read, seen.BytesRead)
	require.Equal(t, seen, sum("", time.Time{}))
	w.restart()
	require.Equal(t, seen, sum("shop", time.Time{}), "a stop loses nothing")

	_, err = w.engine.Pause(t.Context(), "shop")
	require.NoError(t, err)
	w.pass(10 * time.Minute)
	pause := w.clock().Truncate(5 * time.Minute)
	for range 5 {
		w.pass(10 * time.Minute)
		w.engine.Observe(t.Context())
	}
	require.Zero(t, sum("shop", pause).Seconds, "a pause is a gap")
	_, err = w.engine.Resume(t.Context(), "shop")
	require.NoError(t, err)
	w.engine.Observe(t.Context())
	require.Greater(t, sum("shop", pause).WorstAge, 3000.0)

	w.pass(time.Hour)
	w.engine.Observe(t.Context())
	w.done(w.engine.RemoveGroup(t.Context(), "shop", true))
	require.NoError(t, w.db.Each("history-"+g.ID, func(key string, _ func(any) error) error { return fmt.Errorf("%s is left", key) }))
	require.Equal(t, 4, sum("", time.Time{}).Cycles, "what happened has happened")
}
