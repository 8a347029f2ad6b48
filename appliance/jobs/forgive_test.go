package jobs_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/appliance/jobs"
)

// Between Forgive and the next Undo there is no way back.
func TestCancelAfterForgive(t *testing.T) {
	forgiven, rearmed, proceed := make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{})
	w := newWorld()
	undo := func(_ context.Context, _ *jobs.Run, arg string) error { w.remove(arg); return nil }
	b := newBench(t, newMemory(), nil, jobs.Kind{Name: "k", Steps: steps(
		func(_ context.Context, r *jobs.Run) error { return r.Undo("remove", "old") },
		func(_ context.Context, r *jobs.Run) error {
			defer func() { forgiven <- struct{}{}; <-proceed }()
			return r.Forgive()
		},
		func(ctx context.Context, r *jobs.Run) error {
			if err := r.Undo("remove", "new"); err != nil {
				return err
			}
			return block(rearmed)(ctx, r)
		}), Undos: map[string]func(context.Context, *jobs.Run, string) error{"remove": undo}})
	id := b.submit(t, "k", nil).ID
	await(t, forgiven)
	_, err := b.Cancel(id)
	require.Equal(t, api.CodeConflict, api.CodeOf(err))
	close(proceed)
	await(t, rearmed)
	_, err = b.Cancel(id)
	require.NoError(t, err)
	require.Equal(t, api.JobCancelled, b.wait(t, id).State)
	require.Equal(t, []string{"remove new"}, w.log())
}

// The step was past its point of no return when the cancel came, and trips over its dead context: it is done again.
func TestForgiveDropsACancelThatCameBefore(t *testing.T) {
	entered := make(chan struct{}, 1)
	var rounds atomic.Int32
	b := newBench(t, newMemory(), nil, jobs.Kind{Name: "k", Steps: steps(func(ctx context.Context, r *jobs.Run) error {
		if rounds.Add(1) == 2 {
			return ctx.Err()
		}
		entered <- struct{}{}
		<-ctx.Done() // a commit at the target went through all the same
		if err := r.Forgive(); err != nil {
			return err
		}
		return ctx.Err()
	}, fine)})
	id := b.submit(t, "k", nil).ID
	await(t, entered)
	_, err := b.Cancel(id)
	require.NoError(t, err)
	require.Equal(t, api.JobSucceeded, b.wait(t, id).State)
	require.EqualValues(t, 2, rounds.Load())
}

// What comes before the point of no return must not be undone because the store failed just then.
func TestForgiveTriesUntilTheStoreTakesIt(t *testing.T) {
	st, w := newMemory(), newWorld()
	failing := 0
	b := newBench(t, st, nil, jobs.Kind{Name: "k", Undos: map[string]func(context.Context, *jobs.Run, string) error{
		"remove": func(_ context.Context, _ *jobs.Run, arg string) error { w.remove(arg); return nil },
	}, Steps: steps(func(_ context.Context, r *jobs.Run) error {
		if err := r.Undo("remove", "replica"); err != nil {
			return err
		}
		w.make("replica")
		st.mu.Lock()
		st.fail = func(string) error {
			if failing++; failing <= 3 {
				return errors.New("disk full")
			}
			return nil
		}
		st.mu.Unlock()
		return r.Forgive()
	}, broken)})
	require.Equal(t, api.JobFailed, b.wait(t, b.submit(t, "k", nil).ID).State)
	require.Equal(t, []string{"replica"}, w.state())
	require.Equal(t, 3, strings.Count(b.logText(), "disk full"))
}

// An appliance that stops while the store fails goes on with the same step, and has forgiven nothing.
func TestForgiveEndsWithTheAppliance(t *testing.T) {
	st := newMemory()
	tried := make(chan struct{}, 1)
	forgive := func(_ context.Context, r *jobs.Run) error { return r.Forgive() }
	b := newBench(t, st, func(_, _, phase string) {
		if phase == "before forgive" {
			st.mu.Lock()
			st.fail = func(string) error { return errBroken }
			st.mu.Unlock()
			select {
			case tried <- struct{}{}:
			default:
			}
		}
	}, jobs.Kind{Name: "k", Steps: steps(forgive)})
	id := b.submit(t, "k", nil).ID
	await(t, tried)
	require.NoError(t, b.Close(t.Context()))
	st.fail = nil
	b = newBench(t, st, nil, jobs.Kind{Name: "k", Steps: steps(forgive)})
	job, err := b.Get(id)
	require.NoError(t, err)
	require.False(t, job.State.Ended())
	require.NoError(t, b.Resume(t.Context()))
	require.Equal(t, api.JobSucceeded, b.wait(t, id).State)
}
