package replication_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/appliance/scripts"
	"understudy/hypervisors"
	"understudy/hypervisors/hypervisortest"
)

// stagedShop is a protected group that comes up by the runbook of staged.
func stagedShop(t *testing.T, change ...func(*api.GroupSpec)) (w *world, vm, db string, g api.Group) {
	w = newWorld(t)
	vm, db = w.machine("web"), w.machine2("db")
	s := spec("shop", "web", "db")
	staged(&s)
	for _, f := range change {
		f(&s)
	}
	return w, vm, db, w.protect(s)
}

// waiting waits until a job waits for a person.
func (w *world) waiting(job string) api.Job {
	w.t.Helper()
	var j api.Job
	require.Eventually(w.t, func() bool {
		var err error
		j, err = w.engine.GetJob(w.t.Context(), job)
		require.False(w.t, err == nil && j.State.Ended(), "%+v", j)
		return err == nil && j.Waiting != nil
	}, waitFor, tick)
	return j
}

func (w *world) confirm(j api.Job) {
	w.t.Helper()
	_, err := w.engine.ConfirmJob(w.t.Context(), j.ID, api.Confirmation{Prompt: j.Waiting.Prompt, By: "Ada"})
	require.NoError(w.t, err)
}

// Stages start one after the other, and production goes down the other way round.
func TestStagesComeUpInOrder(t *testing.T) {
	w, _, _, g := stagedShop(t)
	var mu sync.Mutex
	var seen []string
	note := func(what string) { mu.Lock(); seen = append(seen, what); mu.Unlock() }
	for _, f := range w.faults {
		f.Each(func(_ context.Context, call hypervisortest.Call, when hypervisortest.When, subject string) error {
			if when == hypervisortest.After && (call == "Power.Shutdown" || call == "Replica.Run") {
				for _, m := range g.Members {
					if strings.Contains(subject, m.SourceVM) || strings.Contains(subject, m.ReplicaID) {
						note(fmt.Sprint(call, " ", m.Name))
					}
				}
			}
			return nil
		})
	}
	w.scripts.hook = func() error { note("script"); return nil }
	w.sleeps = func(_ context.Context, d time.Duration) error { note("sleep"); w.pass(d); return nil }
	w.answers = true
	job := w.done(w.engine.Failover(t.Context(), "shop", api.FailoverOrder{Planned: true}))
	for _, f := range w.faults {
		f.Each(nil)
	}
	require.Equal(t, []string{"Power.Shutdown web", "Power.Shutdown db", "script", "script", "Replica.Run db", "sleep", "Replica.Run web", "script", "script"}, seen)

	var parts []string
	for _, s := range job.Timeline {
		require.NotNil(t, s.Ended, "%+v", s)
		if s.Part != "" {
			parts = append(parts, s.Part)
		}
	}
	require.Equal(t, []string{"stage 1: DNS", "stage 1: start", "stage 1: checks", "stage 1: router", "stage 1: wait 60 s", "stage 2: start", "stage 2: mail"}, parts)
	require.Equal(t, scripts.Call{Name: "dns.sh", Args: []string{"up"}, Timeout: 9 * time.Second, Env: map[string]string{"UNDERSTUDY_GROUP": "shop",
		"UNDERSTUDY_ORDER": "failover", "UNDERSTUDY_STAGE": "1", "UNDERSTUDY_POINT": w.report("failover").Point, "UNDERSTUDY_TEST": "0"}}, w.scripts.calls[0])
}

// Without a runbook nothing is as before but that there is a report.
func TestWithoutRunbookAllStartAtOnce(t *testing.T) {
	w := newWorld(t)
	w.machine("web")
	w.machine2("db")
	w.protect(spec("shop", "web", "db"))
	job := w.done(w.engine.Failover(t.Context(), "shop", api.FailoverOrder{Planned: true}))
	for _, s := range job.Timeline {
		require.Empty(t, s.Part)
	}
	require.Len(t, job.Timeline, len(job.Steps))
	require.Empty(t, w.scripts.calls)
	r := w.report("failover")
	require.Equal(t, "passed", r.Outcome)
	require.Equal(t, job.Timeline, r.Steps)
	require.True(t, r.Planned)
	require.Zero(t, r.LossSeconds, "nothing is lost")
	require.Positive(t, r.Seconds)
	require.Equal(t, []string{"home", "away"}, []string{r.From, r.To})
	for _, m := range r.Machines {
		require.Equal(t, "away", m.Host)
		require.Len(t, m.Checks, 2)
		require.True(t, m.Screen)
		shot, err := w.engine.ReportScreen(t.Context(), r.ID, m.Name)
		require.NoError(t, err)
		require.Equal(t, "\x89PNG", string(shot[:4]))
	}
}

// While a person is waited for, production may come back. Then nobody is started beside it, and what was started is ended.
func TestSourceComesBackWhileAPersonIsWaitedFor(t *testing.T) {
	w, vm, db, g := stagedShop(t)
	job, err := w.engine.Failover(t.Context(), "shop", api.FailoverOrder{Planned: true})
	require.NoError(t, err)
	j := w.waiting(job.ID)
	require.True(t, j.Waiting.ProductionOff)
	require.Equal(t, "1-after-1", j.Waiting.Prompt)
	require.Contains(t, j.Waiting.Text, "Switch it over")
	require.Equal(t, api.StateFailingOver, w.group("shop").State)
	require.False(t, w.running(w.away, w.group("shop").Members[0].TargetVM), "web waits")
	require.NoError(t, w.home.Start(vm))
	w.confirm(j)
	j = w.wait(job.ID)
	require.Equal(t, api.JobFailed, j.State)
	require.Contains(t, j.Error, "both must never run at once")
	w.neverBoth(g)
	serving(w, true, vm, db, w.group("shop"))
	require.Equal(t, "failed", w.report("failover").Outcome)
	require.Equal(t, "Ada", w.report("failover").Actions[1].By)
}

// Waiting for a person is no point of no return, and survives restarts.
func TestWaitingFailoverIsCancelled(t *testing.T) {
	w, vm, db, _ := stagedShop(t)
	job, err := w.engine.Failover(t.Context(), "shop", api.FailoverOrder{Planned: true})
	require.NoError(t, err)
	since := w.waiting(job.ID).Waiting.Since
	w.restart()
	require.Equal(t, since, w.waiting(job.ID).Waiting.Since)
	_, err = w.engine.CancelJob(t.Context(), job.ID)
	require.NoError(t, err)
	require.Equal(t, api.JobCancelled, w.wait(job.ID).State)
	serving(w, true, vm, db, w.group("shop"))
	r := w.report("failover")
	require.Equal(t, "cancelled", r.Outcome)
	require.True(t, slices.ContainsFunc(r.Steps, func(s api.JobStep) bool { return s.Step == "undo source-on" }), "%+v", r.Steps)
	require.Equal(t, []string{"dns.sh"}, w.scripts.names(), "what was done is not done again")

	job, err = w.engine.Failover(t.Context(), "shop", api.FailoverOrder{Planned: true})
	require.NoError(t, err)
	w.waiting(job.ID)
	_, err = w.engine.CancelJob(t.Context(), job.ID)
	require.NoError(t, err)
	require.Equal(t, api.JobCancelled, w.wait(job.ID).State)
	require.Equal(t, "cancelled", w.report("failover").Actions[1].Outcome)
	serving(w, true, vm, db, w.group("shop"))
}

// A delay goes on where it was, and is never longer than it was meant.
func TestDelaySurvivesARestart(t *testing.T) {
	w, _, _, _ := stagedShop(t, func(s *api.GroupSpec) { s.Runbook.Stages[1].After = nil })
	asked := make(chan time.Duration, 10)
	w.sleeps = func(ctx context.Context, d time.Duration) error {
		asked <- d
		<-ctx.Done()
		return context.Cause(ctx)
	}
	job, err := w.engine.Failover(t.Context(), "shop", api.FailoverOrder{Planned: true})
	require.NoError(t, err)
	require.InDelta(t, 60, (<-asked).Seconds(), 1)
	w.pass(45 * time.Second)
	w.restart()
	require.InDelta(t, 15, (<-asked).Seconds(), 1)
	w.pass(-24 * time.Hour) // the clock is set back
	w.restart()
	require.InDelta(t, 60, (<-asked).Seconds(), 1)
	w.sleeps = nil
	w.pass(24 * time.Hour)
	w.restart()
	require.Equal(t, api.JobSucceeded, w.wait(job.ID).State)
}

// A script that fails ends the order, and production is as before; unless the runbook says to go on.
func TestScriptThatFails(t *testing.T) {
	w, vm, db, _ := stagedShop(t)
	w.answers = true
	w.scripts.fails = func(c scripts.Call) error {
		if c.Name == "dns.sh" {
			return errors.New("exit status 1")
		}
		return nil
	}
	job, err := w.engine.Failover(t.Context(), "shop", api.FailoverOrder{Planned: true})
	require.NoError(t, err)
	j := w.wait(job.ID)
	require.Equal(t, api.JobFailed, j.State)
	require.Contains(t, j.Error, `action "DNS" of stage 1 failed: exit status 1`)
	serving(w, true, vm, db, w.group("shop"))
	r := w.report("failover")
	require.Equal(t, "failed", r.Outcome)
	require.Equal(t, "it did not work", r.Actions[0].Output)
	require.Empty(t, r.Machines, "none was started")

	w.scripts.fails = func(c scripts.Call) error {
		if c.Name == "mail.sh" {
			return errors.New("exit status 2")
		}
		return nil
	}
	w.done(w.engine.Failover(t.Context(), "shop", api.FailoverOrder{Planned: true}))
	r = w.report("failover")
	require.Equal(t, "warning", r.Outcome)
	require.Contains(t, r.Problem, `action "mail": exit status 2`)
	require.Contains(t, w.group("shop").Problem, "mail")
	w.done(w.engine.Rollback(t.Context(), "shop"))
	require.Equal(t, []string{"away", "home"}, []string{w.report("rollback").From, w.report("rollback").To})

	// A test that had to do without a script has not passed.
	job, err = w.engine.Test(t.Context(), "shop", api.TestOrder{})
	require.NoError(t, err)
	require.Equal(t, api.JobFailed, w.wait(job.ID).State)
	require.Equal(t, "1", w.scripts.calls[len(w.scripts.calls)-1].Env["UNDERSTUDY_TEST"])
	w.done(w.engine.EndTest(t.Context(), "shop"))
	require.Equal(t, "failed", w.report("test").Outcome)
}

// Actions that are not for tests are left out there, and nobody is waited for.
func TestActionsOutsideOfTests(t *testing.T) {
	w, _, _, _ := stagedShop(t, func(s *api.GroupSpec) {
		for i := range s.Runbook.Stages {
			for _, list := range [][]api.Action{s.Runbook.Stages[i].Before, s.Runbook.Stages[i].After} {
				for k := range list {
					list[k].InTests = false
				}
			}
		}
	})
	w.done(w.engine.Test(t.Context(), "shop", api.TestOrder{}))
	require.Empty(t, w.scripts.calls)
	require.Len(t, w.group("shop").Test.Machines, 2)
}

func TestRunbookNamesScriptsThatAreThere(t *testing.T) {
	w := newWorld(t)
	w.machine("web")
	s := spec("shop", "web")
	s.Runbook = &api.Runbook{Stages: []api.RunbookStage{{Stage: 1, Before: []api.Action{{Name: "a", Kind: "script", Script: "missing.sh"}}}}}
	_, err := w.engine.CreateGroup(t.Context(), s)
	var e *api.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, "runbook.stages[0].before[0].script", e.Field)
	require.Equal(t, api.CodeInvalid, e.Code)
	list, err := w.engine.ListScripts(t.Context())
	require.NoError(t, err)
	require.Equal(t, []api.Script{{Name: "dns.sh", Size: 7}}, list)
}

// Pictures of screens prove something where there are some. Where there are none, the failover is as good.
func TestScreenThatCannotBeSeen(t *testing.T) {
	w := newWorld(t)
	w.machine("web")
	w.protect(spec("shop", "web"))
	w.faults["away"].Queue("Screen.Screenshot", hypervisortest.Before, hypervisortest.Fail(hypervisors.ErrIncapable))
	w.done(w.engine.Failover(t.Context(), "shop", api.FailoverOrder{Planned: true}))
	r := w.report("failover")
	require.Equal(t, "passed", r.Outcome)
	require.False(t, r.Machines[0].Screen)
	require.Contains(t, r.Machines[0].ScreenProblem, "lacks a capability")
	_, err := w.engine.ReportScreen(t.Context(), r.ID, "web")
	require.Equal(t, api.CodeNotFound, api.CodeOf(err))
	require.Equal(t, api.StateFailedOver, w.group("shop").State)
}
