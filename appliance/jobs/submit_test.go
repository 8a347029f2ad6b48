package jobs_test

import (
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/appliance/jobs"
)

func TestLocks(t *testing.T) {
	entered := make(chan struct{}, 2)
	b := newBench(t, newMemory(), nil, jobs.Kind{Name: "k", Steps: steps(block(entered))})
	first := b.submit(t, "k", nil, "g1", "host-a")
	await(t, entered)
	_, err := b.Submit(t.Context(), "k", "g1", nil, "other", "host-a")
	var locked *jobs.ErrLocked
	require.ErrorAs(t, err, &locked)
	require.Equal(t, first.ID, locked.Job.ID)
	require.Equal(t, "host-a", locked.Key)
	require.Equal(t, api.CodeConflict, api.CodeOf(err))
	require.Contains(t, err.Error(), first.ID)

	free := b.submit(t, "k", nil, "other") // what was refused holds nothing
	await(t, entered)
	for _, id := range []string{first.ID, free.ID} {
		_, err := b.Cancel(id)
		require.NoError(t, err)
		b.wait(t, id)
	}
	third := b.submit(t, "k", nil, "g1", "other")
	await(t, entered)
	_, err = b.Cancel(third.ID)
	require.NoError(t, err)
}

// Whoever is refused is told of a job that is there, although it was just being written down.
func TestLockOfAJobThatIsBeingWritten(t *testing.T) {
	for name, disk := range map[string]error{"kept": nil, "not kept": errBroken} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st, write, first := newMemory(), make(chan struct{}), true
				b := newBench(t, st, func(_, _, phase string) {
					if phase == "before submit" && first {
						first = false
						<-write
					}
				}, jobs.Kind{Name: "k", Steps: steps(block(make(chan struct{}, 2)))})
				st.fail = func(key string) error {
					if key == "job-000001" {
						return disk
					}
					return nil
				}
				go func() { _, _ = b.Submit(t.Context(), "k", "g1", nil, "g1") }()
				synctest.Wait()
				var second error
				waits := true
				go func() {
					_, second = b.Submit(t.Context(), "k", "g1", nil, "g1")
					waits = false
				}()
				synctest.Wait()
				require.True(t, waits)
				close(write)
				synctest.Wait()
				require.False(t, waits)
				if disk != nil {
					require.NoError(t, second)
					return
				}
				var locked *jobs.ErrLocked
				require.ErrorAs(t, second, &locked)
				_, err := b.Cancel(locked.Job.ID)
				require.NoError(t, err)
			})
		})
	}
}

func TestSubmitThatCannotBeKept(t *testing.T) {
	st := newMemory()
	st.fail = func(string) error { return errBroken }
	b := newBench(t, st, nil, jobs.Kind{Name: "k", Steps: steps(fine)})
	_, err := b.Submit(t.Context(), "k", "g1", nil, "g1")
	require.ErrorIs(t, err, errBroken)
	st.fail = nil
	list, err := b.Find("", api.Paging{}, nil)
	require.NoError(t, err)
	require.Empty(t, list.Items)
	st.fail = func(string) error { panic("oops") }
	require.Panics(t, func() { _, _ = b.Submit(t.Context(), "k", "g1", nil, "g1") })
	st.fail = nil
	require.Equal(t, api.JobSucceeded, b.wait(t, b.submit(t, "k", nil, "g1").ID).State, "what was refused holds nothing")
	_, err = b.Submit(t.Context(), "nonsense", "g1", nil)
	require.ErrorContains(t, err, "nonsense")
}

// A record that makes no sense stops the appliance, which says what to do.
func TestDamagedRecord(t *testing.T) {
	for name, record := range map[string]string{
		"no record":      `{}`,
		"no steps":       `{"job":{"id":"j","kind":"k","state":"running","steps":[]}}`,
		"negative step":  `{"job":{"id":"j","kind":"k","state":"running","steps":["s1"]},"next":-1}`,
		"step too many":  `{"job":{"id":"j","kind":"k","state":"running","steps":["s1"]},"next":2}`,
		"unknown state":  `{"job":{"id":"j","kind":"k","state":"?","steps":["s1"]}}`,
		"another job":    `{"job":{"id":"other","kind":"k","state":"running","steps":["s1"]}}`,
		"another shape":  `{"job":{"id":"j","kind":"k","state":"running","steps":"s1"}}`,
		"no JSON at all": `{"job":`,
	} {
		t.Run(name, func(t *testing.T) {
			st := newMemory()
			st.data["j"] = []byte(record)
			err := newBench(t, st, nil, jobs.Kind{Name: "k", Steps: steps(fine)}).Resume(t.Context())
			require.ErrorIs(t, err, jobs.ErrDamaged)
			require.ErrorContains(t, err, "job j")
			var e *api.Error
			require.ErrorAs(t, err, &e)
			require.Contains(t, e.Hint, "backup")
			require.Equal(t, record, string(st.data["j"]), "it was touched")
		})
	}
}
