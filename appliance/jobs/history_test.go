package jobs

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
)

// past is a history of jobs, oldest first, one a minute.
type past struct {
	jobs []api.Job
	now  time.Time
}

func newPast() *past { return &past{now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)} }

func (p *past) add(n int, group, kind string, state api.JobState) (ids []string) {
	for range n {
		j := api.Job{ID: fmt.Sprintf("%06d", len(p.jobs)), Group: group, Kind: kind, State: state, Created: p.now}
		if p.now = p.now.Add(time.Minute); state.Ended() {
			ended := p.now
			j.Ended = &ended
		}
		p.jobs = append(p.jobs, j)
		ids = append(ids, j.ID)
	}
	return ids
}

func TestForgetKeepsTheNewestOfEachClass(t *testing.T) {
	p := newPast()
	failover := p.add(1, "g1", "failover", api.JobSucceeded)
	old := p.add(3, "g1", "cycle", api.JobSucceeded)
	failed := p.add(2, "g1", "cycle", api.JobFailed)
	cancelled := p.add(1, "g1", "cycle", api.JobCancelled)
	p.add(keepOfClass, "g1", "cycle", api.JobSucceeded)
	other := p.add(keepOfClass, "g2", "cycle", api.JobSucceeded)
	gone := forget(p.jobs, p.now)
	require.Equal(t, old, gone, "oldest first")
	for _, kept := range [][]string{failover, failed, cancelled, other} {
		require.NotContains(t, gone, kept[0])
	}
}

func TestForgetKeepsWhatHasNotEnded(t *testing.T) {
	p := newPast()
	for _, s := range []api.JobState{api.JobQueued, api.JobRunning, api.JobUndoing} {
		p.add(3*keepOfClass, "g", "cycle", s)
	}
	require.Empty(t, forget(p.jobs, p.now.Add(10*keepFor)))
}

func TestForgetKeepsTheNewestOfAClassHoweverOld(t *testing.T) {
	p := newPast()
	old := p.add(4, "g", "failover", api.JobSucceeded)
	failed := p.add(1, "g", "failover", api.JobFailed)
	p.now = p.now.Add(keepFor + time.Hour)
	p.add(2, "g", "cycle", api.JobSucceeded)
	gone := forget(p.jobs, p.now)
	require.Equal(t, old[:3], gone)
	require.NotContains(t, gone, failed[0])
}

func TestForgetBoundsTheTotal(t *testing.T) {
	p := newPast()
	p.add(1, "g", "mirror", api.JobRunning)
	first := p.add(7, "g", "mirror", api.JobSucceeded)
	for i := range keepTotal - 2 {
		p.add(1, fmt.Sprintf("g%d", i), "mirror", api.JobSucceeded)
	}
	require.Equal(t, first[:5], forget(p.jobs, p.now))
}

// A clock that is far ahead must not empty the history.
func TestForgetAndAClockThatJumps(t *testing.T) {
	p := newPast()
	ids := p.add(3, "g", "failover", api.JobSucceeded)
	require.Equal(t, ids[:2], forget(p.jobs, p.now.Add(20*365*24*time.Hour)))
	require.Empty(t, forget(p.jobs, p.now.Add(-20*365*24*time.Hour)))
}
