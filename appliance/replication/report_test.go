package replication_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/hypervisors/hypervisortest"
)

func (w *world) reports(q api.ReportQuery) []api.Report {
	w.t.Helper()
	page, err := w.engine.ListReports(w.t.Context(), q)
	require.NoError(w.t, err)
	return page.Items
}

// A test has passed when it was cleaned up, and its record outlives restarts and its group.
func TestReportOfATest(t *testing.T) {
	w := newWorld(t)
	w.machine("web")
	g := w.protect(spec("shop", "web"))
	w.pass(7 * time.Second)
	job := w.done(w.engine.Test(t.Context(), "shop", api.TestOrder{}))
	r := w.report("test")
	require.Equal(t, job.ID, r.ID)
	require.Equal(t, "running", r.Outcome)
	require.Nil(t, r.Ended)
	require.InDelta(t, 7, r.LossSeconds, 1)
	require.Equal(t, w.points("shop")[0].ID, r.Point)
	require.Equal(t, w.points("shop")[0].Taken.UTC(), r.PointTaken.UTC())

	w.faults["away"].Queue("Isolation.RemoveNetwork", hypervisortest.Before, hypervisortest.Fail(errors.New("stuck")))
	end, err := w.engine.EndTest(t.Context(), "shop")
	require.NoError(t, err)
	require.Equal(t, api.JobFailed, w.wait(end.ID).State)
	r = w.report("test")
	require.Equal(t, "running", r.Outcome)
	require.Contains(t, r.Problem, "stuck")

	w.restart()
	end = w.done(w.engine.EndTest(t.Context(), "shop"))
	r = w.report("test")
	require.Equal(t, "passed", r.Outcome)
	require.Empty(t, r.Problem)
	require.Equal(t, end.ID, r.CleanUp)
	require.NotNil(t, r.Ended)
	require.Len(t, r.Steps, len(job.Steps)+len(end.Steps))
	require.Equal(t, job.Created.UTC(), r.Started.UTC())
	require.Len(t, w.reports(api.ReportQuery{}), 1, "a test is one report")

	w.done(w.engine.RemoveGroup(t.Context(), "shop", true))
	w.restart()
	require.Equal(t, r, w.report("test"))
	require.Len(t, w.reports(api.ReportQuery{Group: "shop"}), 1)
	require.Len(t, w.reports(api.ReportQuery{Group: g.ID}), 1)
	_, err = w.engine.ReportScreen(t.Context(), r.ID, "web")
	require.NoError(t, err)
}

func TestReportOfATestThatFails(t *testing.T) {
	w := newWorld(t)
	w.machine("web")
	s := spec("shop", "web")
	s.Machines[0].Checks[0].Contains = "farewell"
	s.Machines[0].Checks[0].TimeoutSeconds = 1
	w.protect(s)
	job, err := w.engine.Test(t.Context(), "shop", api.TestOrder{})
	require.NoError(t, err)
	require.Equal(t, api.JobFailed, w.wait(job.ID).State)
	require.Equal(t, "running", w.report("test").Outcome, "the machines are still up")
	w.done(w.engine.EndTest(t.Context(), "shop"))
	r := w.report("test")
	require.Equal(t, "failed", r.Outcome)
	require.Contains(t, r.Problem, "farewell")
	require.False(t, r.Machines[0].Checks[1].Passed)
	require.True(t, r.Machines[0].Screen, "most of all then somebody wants to see it")

	w.faults["away"].Queue("Replica.Run", hypervisortest.Before, hypervisortest.Fail(errors.New("no memory")))
	job, err = w.engine.Test(t.Context(), "shop", api.TestOrder{})
	require.NoError(t, err)
	require.Equal(t, api.JobFailed, w.wait(job.ID).State)
	r = w.report("test")
	require.Equal(t, "failed", r.Outcome, "it never was up")
	require.NotNil(t, r.Ended)
}

// The whole way there and back leaves its records, newest first, and tells what was lost.
func TestReportsOfEveryOrder(t *testing.T) {
	w := newWorld(t)
	vm := w.machine("web")
	g := w.protect(spec("shop", "web"))
	require.NoError(t, w.home.Crash(vm))
	w.pass(90 * time.Second)
	w.done(w.engine.Failover(t.Context(), "shop", api.FailoverOrder{}))
	r := w.report("failover")
	require.InDelta(t, 90, r.LossSeconds, 1)
	require.False(t, r.Planned)
	w.done(w.engine.Rollback(t.Context(), "shop"))
	w.done(w.engine.Failover(t.Context(), "shop", api.FailoverOrder{Force: true}))
	w.done(w.engine.Commit(t.Context(), "shop"))
	w.done(w.engine.Failback(t.Context(), "shop"))
	var kinds []string
	for _, r := range w.reports(api.ReportQuery{}) {
		require.Equal(t, "passed", r.Outcome, r.Kind)
		require.Equal(t, "shop", r.GroupName)
		kinds = append(kinds, r.Kind)
	}
	require.Equal(t, []string{"failback", "commit", "failover", "rollback", "failover"}, kinds)
	r = w.report("failback")
	require.Equal(t, []string{"away", "home"}, []string{r.From, r.To})
	require.NotEmpty(t, r.Point)
	require.Zero(t, r.LossSeconds)
	require.True(t, r.Machines[0].Screen)
	require.Equal(t, "home", r.Machines[0].Host)

	require.Len(t, w.reports(api.ReportQuery{Kind: "failover"}), 2)
	require.Empty(t, w.reports(api.ReportQuery{Scope: api.Scope{"other"}}))
	require.Len(t, w.reports(api.ReportQuery{Scope: api.Scope{g.ID}, Paging: api.Paging{Offset: 1, Limit: 2}}), 2)
	_, err := w.engine.GetReport(t.Context(), "nobody")
	require.Equal(t, api.CodeNotFound, api.CodeOf(err))
	_, err = w.engine.ListReports(t.Context(), api.ReportQuery{Paging: api.Paging{Limit: -1}})
	require.Equal(t, api.CodeInvalid, api.CodeOf(err))
}

// Pictures are large: only the newest reports of a group keep them, and nothing of the others stays in the state.
func TestOldPicturesGo(t *testing.T) {
	w := newWorld(t)
	w.machine("web")
	w.protect(spec("shop", "web"))
	for range 22 {
		w.done(w.engine.Test(t.Context(), "shop", api.TestOrder{}))
		w.done(w.engine.EndTest(t.Context(), "shop"))
	}
	for i, r := range w.reports(api.ReportQuery{}) {
		require.Equal(t, i < 20, r.Machines[0].Screen, i)
	}
	kept := 0
	require.NoError(t, w.db.Each("report-screens", func(string, func(any) error) error { kept++; return nil }))
	require.Equal(t, 20, kept)
}

// The bound drops the oldest, with all that belongs to them.
func TestOldReportsGo(t *testing.T) {
	w, _, _, _ := stagedShop(t)
	w.answers, w.keepReports = true, 2
	w.restart()
	for range 3 {
		w.done(w.engine.Failover(t.Context(), "shop", api.FailoverOrder{Planned: true}))
		w.done(w.engine.Rollback(t.Context(), "shop"))
	}
	require.Len(t, w.reports(api.ReportQuery{}), 2)
	for bucket, want := range map[string]int{"reports": 2, "report-screens": 2, "report-outputs": 3} {
		kept := 0
		require.NoError(t, w.db.Each(bucket, func(string, func(any) error) error { kept++; return nil }))
		require.Equal(t, want, kept, bucket)
	}
}
