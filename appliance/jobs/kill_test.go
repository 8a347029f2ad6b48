package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/appliance/jobs"
	"understudy/appliance/store"
)

type progress struct{ Count int }

// building makes a, b and c. What a and b leave is undone when c fails; forgive drops that after b.
func building(w *world, outcome error, forgive bool) jobs.Kind {
	step := func(name string) jobs.Step {
		return jobs.Step{Name: name, Do: func(_ context.Context, r *jobs.Run) error {
			var p progress
			if err := r.Load(&p); err != nil {
				return err
			}
			w.make(name)
			if err := r.Undo("remove", name); err != nil {
				return err
			}
			if forgive && name == "b" {
				if err := r.Forgive(); err != nil {
					return err
				}
			}
			if name == "c" && outcome != nil {
				return outcome
			}
			p.Count++
			return r.Save(p)
		}}
	}
	return jobs.Kind{
		Name:  "build",
		Steps: []jobs.Step{step("a"), step("b"), step("c")},
		Undos: map[string]func(context.Context, *jobs.Run, string) error{
			"remove": func(_ context.Context, _ *jobs.Run, arg string) error { w.remove(arg); return nil },
		},
		Ended: func(_ context.Context, r *jobs.Run, err error) error {
			w.make(fmt.Sprintf("ended %v", err))
			return nil
		},
	}
}

// The appliance dies before and after each step, each undo, each hook and each write, and starts again over the real
// database. Wherever it died, the end is the same.
func TestKillAnywhere(t *testing.T) {
	cases := map[string]struct {
		outcome error
		forgive bool
		state   api.JobState
		world   []string
	}{
		"succeeds":             {state: api.JobSucceeded, world: []string{"a", "b", "c", "ended <nil>"}},
		"fails":                {outcome: errBroken, state: api.JobFailed, world: []string{"ended broken"}},
		"fails, once forgiven": {outcome: errBroken, forgive: true, state: api.JobFailed, world: []string{"a", "b", "ended broken"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			points := 0
			for at := 0; at <= points; at++ {
				w := newWorld()
				path := filepath.Join(t.TempDir(), "state.db")
				kind := building(w, c.outcome, c.forgive)
				// The first round only counts the points; then each of them is where the power fails.
				seen := killedRun(t, path, kind, at)
				if at == 0 {
					points = seen
					require.Greater(t, points, 20)
				}
				job := resumed(t, path, kind)
				require.Equal(t, c.state, job.State, "killed at %d", at)
				require.Equal(t, c.world, w.state(), "killed at %d: %v", at, w.log())
				require.NotNil(t, job.Ended)
				if c.outcome != nil {
					require.Equal(t, "broken", job.Error)
				}
			}
		})
	}
}

// killedRun runs a job until its n-th kill point (0: never) and counts the points that it came by.
func killedRun(t *testing.T, path string, kind jobs.Kind, n int) int {
	t.Helper()
	db, err := store.Open(path)
	require.NoError(t, err)
	defer db.Close()
	var mu sync.Mutex
	seen := 0
	died := make(chan struct{})
	runner := jobs.New(jobs.Options{Store: db, KillPoint: func(_, _, phase string) {
		if phase == "before submit" || phase == "after submit" {
			return // a job that was not accepted is not ours to finish
		}
		mu.Lock()
		seen++
		now := seen == n
		mu.Unlock()
		if now {
			close(died)
			runtime.Goexit()
		}
	}})
	runner.Register(kind)
	job, err := runner.Submit(t.Context(), kind.Name, "g1", progress{}, "g1")
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if n == 0 {
		_, err := runner.Wait(ctx, job.ID)
		require.NoError(t, err)
	} else {
		await(t, died)
	}
	require.NoError(t, runner.Close(ctx))
	mu.Lock()
	defer mu.Unlock()
	return seen
}

func resumed(t *testing.T, path string, kind jobs.Kind) api.Job {
	t.Helper()
	db, err := store.Open(path)
	require.NoError(t, err)
	defer db.Close()
	runner := jobs.New(jobs.Options{Store: db})
	runner.Register(kind)
	require.NoError(t, runner.Resume(t.Context()))
	list, err := runner.Find("g1", api.Paging{}, nil)
	require.NoError(t, err)
	require.Len(t, list.Items, 1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	job, err := runner.Wait(ctx, list.Items[0].ID)
	require.NoError(t, err)
	require.NoError(t, runner.Close(ctx))
	return job
}

// A cancel that was promised is kept, though the appliance dies right after.
func TestKillAfterCancel(t *testing.T) {
	w, st := newWorld(), newMemory()
	kind := building(w, nil, false)
	entered := make(chan struct{}, 1)
	kind.Steps[1].Do = block(entered)
	first := newBench(t, st, func(_, step, phase string) {
		if step == "b" && phase == "after do" {
			runtime.Goexit()
		}
	}, kind)
	job := first.submit(t, "build", progress{}, "g1")
	await(t, entered)
	_, err := first.Cancel(job.ID)
	require.NoError(t, err)
	require.NoError(t, first.Close(t.Context()))
	require.Equal(t, []string{"a"}, w.state())

	second := newBench(t, st, nil, kind)
	require.NoError(t, second.Resume(t.Context()))
	job = second.wait(t, job.ID)
	require.Equal(t, api.JobCancelled, job.State)
	require.Equal(t, []string{"ended cancelled"}, w.state())
}

// A daemon that stops undoes nothing; the step goes on at the next start.
func TestCloseAndResume(t *testing.T) {
	w, st := newWorld(), newMemory()
	kind := building(w, nil, false)
	whole := kind.Steps[1].Do
	entered := make(chan struct{}, 1)
	var cause error
	kind.Steps[1].Do = func(ctx context.Context, r *jobs.Run) error {
		err := block(entered)(ctx, r)
		cause = context.Cause(ctx)
		return err
	}
	first := newBench(t, st, nil, kind)
	job := first.submit(t, "build", progress{}, "g1")
	await(t, entered)
	require.NoError(t, first.Close(t.Context()))
	require.ErrorIs(t, cause, jobs.ErrStopping)
	_, err := first.Wait(t.Context(), job.ID)
	require.ErrorIs(t, err, jobs.ErrStopping)
	_, err = first.Submit(t.Context(), "build", "g1", nil)
	require.ErrorIs(t, err, jobs.ErrStopping)
	require.Equal(t, []string{"a"}, w.state())

	kind.Steps[1].Do = whole
	second := newBench(t, st, nil, kind)
	var locked *jobs.ErrLocked
	_, err = second.Submit(t.Context(), "build", "g1", nil, "g1")
	require.ErrorAs(t, err, &locked, "locks are held before Resume already")
	require.Equal(t, job.ID, locked.Job.ID)
	require.NoError(t, second.Resume(t.Context()))
	require.Equal(t, api.JobSucceeded, second.wait(t, job.ID).State)
	require.Equal(t, []string{"make a", "make b", "make c", "make ended <nil>"}, w.log())
}

func TestResumeWithAnotherVersion(t *testing.T) {
	w, st := newWorld(), newMemory()
	entered := make(chan struct{}, 1)
	undos := map[string]func(context.Context, *jobs.Run, string) error{
		"remove": func(_ context.Context, _ *jobs.Run, arg string) error { w.remove(arg); return nil },
	}
	made := func(_ context.Context, r *jobs.Run) error { w.make("x"); return r.Undo("remove", "x") }
	first := newBench(t, st, nil,
		jobs.Kind{Name: "moved", Undos: undos, Steps: []jobs.Step{{"one", made}, {"two", block(entered)}}},
		jobs.Kind{Name: "gone", Undos: undos, Steps: []jobs.Step{{"one", made}, {"two", block(entered)}}},
		jobs.Kind{Name: "unknown", Steps: []jobs.Step{{"one", block(entered)}}})
	moved, gone, unknown := first.submit(t, "moved", nil), first.submit(t, "gone", nil), first.submit(t, "unknown", nil, "g9")
	for range 3 {
		await(t, entered)
	}
	require.NoError(t, first.Close(t.Context()))

	second := newBench(t, st, nil,
		jobs.Kind{Name: "moved", Undos: undos, Steps: []jobs.Step{{"one", broken}, {"half", broken}, {"two", fine}}},
		jobs.Kind{Name: "gone", Undos: undos, Steps: []jobs.Step{{"one", broken}}})
	require.ErrorContains(t, second.Resume(t.Context()), "unknown")
	require.Equal(t, api.JobSucceeded, second.wait(t, moved.ID).State)
	job := second.wait(t, gone.ID)
	require.Equal(t, api.JobFailed, job.State)
	require.Contains(t, job.Error, `"two"`)
	require.NotEmpty(t, job.Hint)
	job, err := second.Get(unknown.ID)
	require.NoError(t, err)
	require.False(t, job.State.Ended())
	_, err = second.Submit(t.Context(), "moved", "g1", nil, "g9")
	require.True(t, errors.As(err, new(*jobs.ErrLocked)))
	require.Contains(t, w.log(), "remove x")
}
