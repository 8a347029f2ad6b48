package jobs_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/appliance/jobs"
)

var prompt = api.Waiting{Prompt: "cable", Text: "Plug the cable in", ProductionOff: true}

// asking is a kind whose second step asks; the answers go to got.
func asking(got chan<- string) jobs.Kind {
	return jobs.Kind{Name: "k", Steps: steps(fine, func(ctx context.Context, r *jobs.Run) error {
		r.Part("ask")
		c, err := r.Ask(ctx, prompt)
		if err == nil {
			got <- c.Note
		}
		return err
	}, fine), Undos: map[string]func(context.Context, *jobs.Run, string) error{}}
}

func (b *bench) waits(t *testing.T, id string) api.Job {
	t.Helper()
	var j api.Job
	require.Eventually(t, func() bool {
		var err error
		j, err = b.Get(id)
		return err == nil && j.Waiting != nil
	}, time.Minute, time.Millisecond)
	return j
}

func TestJobWaitsForAPerson(t *testing.T) {
	got := make(chan string) // the job goes on when its answer is read
	b := newBench(t, newMemory(), nil, asking(got))
	id := b.submit(t, "k", nil).ID
	j := b.waits(t, id)
	require.Equal(t, api.JobRunning, j.State)
	require.Equal(t, &api.Waiting{Prompt: "cable", Text: "Plug the cable in", ProductionOff: true, Since: start}, j.Waiting)
	_, err := b.Confirm(id, api.Confirmation{Prompt: "another"})
	require.Equal(t, api.CodeConflict, api.CodeOf(err))
	require.ErrorContains(t, err, "it waits for cable")
	_, err = b.Confirm("nobody", api.Confirmation{Prompt: "cable"})
	require.Equal(t, api.CodeNotFound, api.CodeOf(err))
	for range 2 { // again is success
		j, err = b.Confirm(id, api.Confirmation{Prompt: "cable", Note: "by Ada"})
		require.NoError(t, err)
		require.Nil(t, j.Waiting)
	}
	require.Equal(t, "by Ada", <-got)
	require.Equal(t, api.JobSucceeded, b.wait(t, id).State)
	_, err = b.Confirm(id, api.Confirmation{Prompt: "cable"})
	require.ErrorContains(t, err, "it has ended")
}

// A restart loses neither the question, nor since when it is open, nor an answer that nobody has read yet.
func TestWaitingSurvivesARestart(t *testing.T) {
	got, st := make(chan string, 1), newMemory()
	b := newBench(t, st, nil, asking(got))
	id := b.submit(t, "k", nil).ID
	b.waits(t, id)
	require.NoError(t, b.Close(t.Context()))

	b = newBench(t, st, nil, asking(got))
	b.pass(time.Hour)
	require.NoError(t, b.Resume(t.Context()))
	require.Equal(t, start, b.waits(t, id).Waiting.Since)
	require.NoError(t, b.Close(t.Context()))

	b = newBench(t, st, nil, asking(got)) // not resumed yet
	_, err := b.Confirm(id, api.Confirmation{Prompt: "cable", Note: "by Bob"})
	require.NoError(t, err)
	require.NoError(t, b.Resume(t.Context()))
	j := b.wait(t, id)
	require.Equal(t, api.JobSucceeded, j.State)
	require.Equal(t, "by Bob", <-got)
	require.Len(t, j.Timeline, 4, "a step that was repeated has one entry: %+v", j.Timeline)
}

func TestWaitingIsCancelled(t *testing.T) {
	b := newBench(t, newMemory(), nil, asking(nil))
	id := b.submit(t, "k", nil).ID
	b.waits(t, id)
	_, err := b.Cancel(id)
	require.NoError(t, err)
	j := b.wait(t, id)
	require.Equal(t, api.JobCancelled, j.State)
	require.Nil(t, j.Waiting)
	_, err = b.Confirm(id, api.Confirmation{Prompt: "cable"})
	require.Equal(t, api.CodeConflict, api.CodeOf(err))
}

// An answer that could not be written down was not given.
func TestAnswerThatCannotBeKept(t *testing.T) {
	st := newMemory()
	b := newBench(t, st, nil, asking(make(chan string, 1)))
	id := b.submit(t, "k", nil).ID
	b.waits(t, id)
	st.mu.Lock()
	st.fail = func(string) error { return errors.New("disk full") }
	st.mu.Unlock()
	_, err := b.Confirm(id, api.Confirmation{Prompt: "cable"})
	require.ErrorContains(t, err, "disk full")
	st.mu.Lock()
	st.fail = nil
	st.mu.Unlock()
	require.NotNil(t, b.waits(t, id).Waiting)
	_, err = b.Confirm(id, api.Confirmation{Prompt: "cable"})
	require.NoError(t, err)
	require.Equal(t, api.JobSucceeded, b.wait(t, id).State)
}

// The timeline says when each step and part began and ended, then what was undone, and nothing stays open.
func TestTimeline(t *testing.T) {
	var b *bench
	undo := func(context.Context, *jobs.Run, string) error { b.pass(time.Second); return nil }
	b = newBench(t, newMemory(), nil, jobs.Kind{Name: "k", Steps: steps(
		func(_ context.Context, r *jobs.Run) error {
			for _, u := range [][2]string{{"on", "a"}, {"off", "a"}, {"off", "b"}} {
				if err := r.Undo(u[0], u[1]); err != nil {
					return err
				}
			}
			b.pass(time.Minute)
			return nil
		},
		func(_ context.Context, r *jobs.Run) error {
			for _, part := range []string{"one", "one", "two"} {
				r.Part(part)
				b.pass(time.Minute)
			}
			return errBroken
		}), Undos: map[string]func(context.Context, *jobs.Run, string) error{"on": undo, "off": undo}})
	j := b.wait(t, b.submit(t, "k", nil).ID)
	at := func(d time.Duration) *time.Time { t := start.Add(d); return &t }
	require.Equal(t, []api.JobStep{
		{Step: "s1", Started: start, Ended: at(time.Minute)},
		{Step: "s2", Started: *at(time.Minute), Ended: at(4 * time.Minute)},
		{Step: "s2", Part: "one", Started: *at(time.Minute), Ended: at(3 * time.Minute)},
		{Step: "s2", Part: "two", Started: *at(3 * time.Minute), Ended: at(4 * time.Minute)},
		{Step: "undo off", Started: *at(4 * time.Minute), Ended: at(4*time.Minute + 2*time.Second)},
		{Step: "undo on", Started: *at(4*time.Minute + 2*time.Second), Ended: at(4*time.Minute + 3*time.Second)},
	}, j.Timeline)
}
