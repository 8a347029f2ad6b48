package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/appliance/jobs"
	"understudy/hypervisors"
)

func TestJobSucceeds(t *testing.T) {
	type input struct{ Point string }
	kind := jobs.Kind{Name: "k", Steps: steps(
		func(_ context.Context, r *jobs.Run) error {
			var in input
			if err := r.Load(&in); err != nil {
				return err
			}
			if r.Kind() != "k" || r.Group() != "g1" || !r.Created().Equal(start) || r.ID() == "" {
				return errBroken
			}
			r.Result("bytes", 42)
			return r.Save(input{in.Point + "+"})
		},
		func(_ context.Context, r *jobs.Run) error {
			var in input
			if err := r.Load(&in); err != nil {
				return err
			}
			if in.Point != "p1+" {
				return fmt.Errorf("state is %q", in.Point)
			}
			return nil
		},
	)}
	st := newMemory()
	b := newBench(t, st, nil, kind)
	job := b.submit(t, "k", input{"p1"})
	require.Equal(t, api.JobQueued, job.State)
	require.Equal(t, []string{"s1", "s2"}, job.Steps)
	job = b.wait(t, job.ID)
	require.Equal(t, api.JobSucceeded, job.State, job.Error)
	require.Equal(t, map[string]float64{"bytes": 42}, job.Result)
	require.NotNil(t, job.Started)
	require.NotNil(t, job.Ended)
	require.Empty(t, job.Error)

	var states []api.JobState
	for i, e := range b.published() {
		require.Equal(t, "job", e.Kind)
		require.Equal(t, job.ID, e.Subject)
		require.Equal(t, "g1", e.Group)
		require.Equal(t, i == 0, e.Action == "created")
		states = append(states, e.Job.State)
	}
	require.Equal(t, api.JobQueued, states[0])
	require.Equal(t, api.JobSucceeded, states[len(states)-1])

	again, err := newBench(t, st, nil, kind).Get(job.ID)
	require.NoError(t, err)
	require.Equal(t, job, again, "what ended is there after a restart")
}

func TestFailureUndoesNewestFirst(t *testing.T) {
	w := newWorld()
	undo := func(_ context.Context, _ *jobs.Run, arg string) error { w.remove(arg); return nil }
	register := func(args ...string) func(context.Context, *jobs.Run) error {
		return func(_ context.Context, r *jobs.Run) error {
			for _, arg := range args {
				if err := r.Undo("remove", arg); err != nil {
					return err
				}
			}
			return nil
		}
	}
	failing := func(context.Context, *jobs.Run) error {
		return fmt.Errorf("copy: %w", &hypervisors.Error{Op: "write", Err: hypervisors.ErrNoSpace, Hint: "Make room."})
	}
	b := newBench(t, newMemory(), nil, jobs.Kind{Name: "k",
		Steps: steps(register("a", "b"), register("c", "a"), failing, fine),
		Undos: map[string]func(context.Context, *jobs.Run, string) error{"remove": undo}})
	job := b.wait(t, b.submit(t, "k", nil).ID)
	require.Equal(t, api.JobFailed, job.State)
	require.Equal(t, []string{"remove c", "remove b", "remove a"}, w.log())
	require.Equal(t, "copy: write: no space left", job.Error)
	require.Equal(t, "Make room.", job.Hint)
	require.Equal(t, "s3", job.Step, "where it failed")
	require.True(t, slices.ContainsFunc(b.published(), func(e api.Event) bool { return e.Job.State == api.JobUndoing }),
		"that it turned round is told")
}

func TestHintOfAnAPIError(t *testing.T) {
	b := newBench(t, newMemory(), nil, jobs.Kind{Name: "k", Steps: steps(func(context.Context, *jobs.Run) error {
		return fmt.Errorf("order: %w", api.Errorf(api.CodeNotFound, "Look again.", "no point"))
	}), Ended: func(_ context.Context, _ *jobs.Run, err error) error {
		if api.CodeOf(err) != api.CodeNotFound {
			return errBroken
		}
		return nil
	}})
	require.Equal(t, "Look again.", b.wait(t, b.submit(t, "k", nil).ID).Hint)
}

func TestUnknownUndoIsAnError(t *testing.T) {
	b := newBench(t, newMemory(), nil, jobs.Kind{Name: "k", Steps: steps(func(_ context.Context, r *jobs.Run) error {
		return r.Undo("nonsense", "")
	})})
	require.Contains(t, b.wait(t, b.submit(t, "k", nil).ID).Error, "nonsense")
}

func TestPanicFailsTheJobOnly(t *testing.T) {
	b := newBench(t, newMemory(), nil,
		jobs.Kind{Name: "bad", Steps: steps(func(context.Context, *jobs.Run) error { panic("oops") })},
		jobs.Kind{Name: "good", Steps: steps(fine)})
	job := b.wait(t, b.submit(t, "bad", nil).ID)
	require.Equal(t, api.JobFailed, job.State)
	require.Contains(t, job.Error, "oops")
	require.NotEmpty(t, job.Hint)
	require.Contains(t, b.logText(), "jobs_test.go", "the stack is in the log")
	require.Equal(t, api.JobSucceeded, b.wait(t, b.submit(t, "good", nil).ID).State)
}

func TestFailingUndoIsRetriedRecordedAndPassed(t *testing.T) {
	w := newWorld()
	tries := map[string]int{}
	b := newBench(t, newMemory(), nil, jobs.Kind{Name: "k",
		Steps: steps(func(_ context.Context, r *jobs.Run) error {
			for _, name := range []string{"a", "flaky", "hopeless", "panics"} {
				if err := r.Undo("remove", name); err != nil {
					return err
				}
			}
			return errBroken
		}),
		Undos: map[string]func(context.Context, *jobs.Run, string) error{
			"remove": func(_ context.Context, r *jobs.Run, arg string) error {
				tries[arg]++
				switch {
				case arg == "hopeless", arg == "flaky" && tries[arg] < 3:
					return errors.New("host is gone")
				case arg == "panics":
					panic("oops")
				}
				w.remove(arg)
				return nil
			},
		}})
	job := b.wait(t, b.submit(t, "k", nil).ID)
	require.Equal(t, api.JobFailed, job.State)
	require.Equal(t, []string{"remove flaky", "remove a"}, w.log())
	require.Equal(t, map[string]int{"a": 1, "flaky": 3, "hopeless": 5, "panics": 5}, tries)
	require.Contains(t, job.Error, "broken; not undone: ")
	require.Contains(t, job.Error, "remove hopeless: host is gone")
	require.Contains(t, job.Error, "remove panics: ")
	require.NotContains(t, job.Error, "flaky")
	require.Equal(t, []time.Duration{1e9, 2e9, 4e9, 8e9}, b.slept[:4])
}

func TestCancelUndoesWithALivingContext(t *testing.T) {
	w := newWorld()
	entered := make(chan struct{}, 1)
	var ended error
	b := newBench(t, newMemory(), nil, jobs.Kind{Name: "k",
		Steps: steps(func(ctx context.Context, r *jobs.Run) error {
			if err := r.Undo("remove", "a"); err != nil {
				return err
			}
			return block(entered)(ctx, r)
		}, broken),
		Undos: map[string]func(context.Context, *jobs.Run, string) error{
			"remove": func(ctx context.Context, _ *jobs.Run, arg string) error {
				if ctx.Err() == nil {
					w.remove(arg)
				}
				return nil
			},
		},
		Ended: func(_ context.Context, _ *jobs.Run, err error) error { ended = err; return nil },
	})
	id := b.submit(t, "k", nil).ID
	await(t, entered)
	_, err := b.Cancel(id)
	require.NoError(t, err)
	job := b.wait(t, id)
	require.Equal(t, api.JobCancelled, job.State)
	require.Equal(t, "cancelled", job.Error)
	require.Equal(t, []string{"remove a"}, w.log())
	require.ErrorIs(t, ended, jobs.ErrCancelled)

	again, err := b.Cancel(id)
	require.NoError(t, err, "cancelling twice is success")
	require.Equal(t, job, again)
}

func TestCancelOfAnEndedJobIsRefused(t *testing.T) {
	b := newBench(t, newMemory(), nil, jobs.Kind{Name: "k", Steps: steps(fine)})
	id := b.submit(t, "k", nil).ID
	b.wait(t, id)
	_, err := b.Cancel(id)
	require.Equal(t, api.CodeConflict, api.CodeOf(err))
	_, err = b.Cancel("nobody")
	require.Equal(t, api.CodeNotFound, api.CodeOf(err))
}

// A cancel during the last step that finishes all the same changes nothing.
func TestCancelThatComesTooLate(t *testing.T) {
	entered := make(chan struct{}, 1)
	b := newBench(t, newMemory(), nil, jobs.Kind{Name: "k", Steps: steps(func(ctx context.Context, r *jobs.Run) error {
		_ = block(entered)(ctx, r)
		return nil
	})})
	id := b.submit(t, "k", nil).ID
	await(t, entered)
	_, err := b.Cancel(id)
	require.NoError(t, err)
	require.Equal(t, api.JobSucceeded, b.wait(t, id).State)
}

// Until the hook has succeeded the job is not shown as ended and holds its locks.
func TestHookIsTriedUntilItSucceeds(t *testing.T) {
	calls := 0
	var b *bench
	b = newBench(t, newMemory(), nil, jobs.Kind{Name: "k", Steps: steps(fine),
		Ended: func(_ context.Context, r *jobs.Run, err error) error {
			if calls++; calls >= 10 {
				return err
			}
			if calls == 2 {
				panic("oops")
			}
			_, lockErr := b.Submit(context.Background(), "k", "g1", nil, "g1")
			if !errors.As(lockErr, new(*jobs.ErrLocked)) {
				t.Errorf("lock was free: %v", lockErr)
			}
			if job, _ := b.Get(r.ID()); job.State.Ended() {
				t.Error("shown as ended before its hook succeeded")
			}
			return errBroken
		}})
	job := b.wait(t, b.submit(t, "k", nil, "g1").ID)
	require.Equal(t, api.JobSucceeded, job.State)
	require.Equal(t, 10, calls)
	require.Equal(t, time.Minute, b.slept[len(b.slept)-1], "pauses are bounded")
	b.submit(t, "k", nil, "g1")
}

func TestStoreThatFailsHoldsTheJobUp(t *testing.T) {
	st := newMemory()
	failing := 0
	b := newBench(t, st, nil, jobs.Kind{Name: "k", Steps: steps(func(_ context.Context, r *jobs.Run) error {
		st.mu.Lock()
		defer st.mu.Unlock()
		st.fail = func(string) error {
			if failing++; failing <= 3 {
				return errors.New("disk full")
			}
			return nil
		}
		return nil
	}, fine)})
	job := b.wait(t, b.submit(t, "k", nil).ID)
	require.Equal(t, api.JobSucceeded, job.State)
	require.Equal(t, 3, strings.Count(b.logText(), "disk full"))
}

func TestProgressIsThrottled(t *testing.T) {
	var b *bench
	b = newBench(t, newMemory(), nil, jobs.Kind{Name: "k", Steps: steps(func(_ context.Context, r *jobs.Run) error {
		for i := range int64(1000) {
			r.Progress(i, 1000)
			b.pass(10 * time.Millisecond)
		}
		r.Progress(1000, 1000)
		r.Progress(1000, 1000)
		job, err := b.Get(r.ID())
		if job.Progress != (api.Progress{Done: 1000, Total: 1000}) {
			return errBroken
		}
		return err
	})})
	job := b.wait(t, b.submit(t, "k", nil).ID)
	require.Equal(t, api.JobSucceeded, job.State)
	var shown []api.Progress
	for _, e := range b.published() {
		if e.Action == "progress" {
			shown = append(shown, e.Job.Progress)
		}
	}
	require.Len(t, shown, 10_000/500+1)
	require.Equal(t, api.Progress{Done: 1000, Total: 1000}, shown[len(shown)-1], "the end is always shown")
}

func TestListAndHistory(t *testing.T) {
	const total, kept = 25, 10
	st := newMemory()
	entered := make(chan struct{}, 1)
	b := newBench(t, st, nil, jobs.Kind{Name: "k", Steps: steps(fine)}, jobs.Kind{Name: "long", Steps: steps(block(entered))})
	long := b.submit(t, "long", nil) // the oldest of all, and at work
	await(t, entered)
	for range total {
		b.wait(t, b.submit(t, "k", nil).ID)
	}
	other, err := b.Submit(t.Context(), "k", "g2", nil)
	require.NoError(t, err)
	b.wait(t, other.ID)
	require.NoError(t, b.Close(t.Context()))

	b = newBench(t, st, nil)
	page, err := b.Find("", api.Paging{Limit: kept + 2}, nil)
	require.NoError(t, err)
	all := page.Items
	require.Equal(t, kept+2, page.Total)
	require.Equal(t, other.ID, all[0].ID, "newest first")
	require.Equal(t, long.ID, all[len(all)-1].ID, "what has not ended is kept")
	some, err := b.Find("g1", api.Paging{Limit: 2}, nil)
	require.NoError(t, err)
	require.Equal(t, []string{fmt.Sprintf("job-%06d", total+1), fmt.Sprintf("job-%06d", total)}, []string{some.Items[0].ID, some.Items[1].ID})
	require.Len(t, some.Items, 2)
	some, err = b.Find("", api.Paging{Offset: 1}, func(j *api.Job) bool { return j.Group == "g2" || !j.State.Ended() })
	require.NoError(t, err)
	require.Equal(t, 2, some.Total)
	require.Equal(t, long.ID, some.Items[0].ID)
	_, err = b.Get("job-000002")
	require.Equal(t, api.CodeNotFound, api.CodeOf(err))
}

func TestWaitEndsWithItsContext(t *testing.T) {
	entered := make(chan struct{}, 1)
	b := newBench(t, newMemory(), nil, jobs.Kind{Name: "k", Steps: steps(block(entered))})
	id := b.submit(t, "k", nil).ID
	await(t, entered)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := b.Wait(ctx, id)
	require.ErrorIs(t, err, context.Canceled)
}

// Default ids ascend, even when the clock is set back.
func TestDefaultIDsAscend(t *testing.T) {
	var back atomic.Int64
	r := jobs.New(jobs.Options{Store: newMemory(), Clock: func() time.Time { return start.Add(-time.Duration(back.Load())) }})
	r.Register(jobs.Kind{Name: "k", Steps: steps(fine)})
	last := ""
	for i := range 100 {
		if i == 50 {
			back.Store(int64(time.Hour))
		}
		job, err := r.Submit(t.Context(), "k", "", nil)
		require.NoError(t, err)
		require.Len(t, job.ID, 26)
		require.Greater(t, job.ID, last)
		last = job.ID
	}
	require.NoError(t, r.Close(t.Context()))
}
