package jobs

import (
	"cmp"
	"slices"
	"time"

	"understudy/api"
)

// How much history is kept. A class is a group, a kind of job and whether it succeeded: so a week of good cycles does not
// push out the failover of last month, nor the cycle that failed last night.
const (
	keepOfClass = 10                  // the newest of each class
	keepFor     = 90 * 24 * time.Hour // of these; the newest one stays however old it is
	keepTotal   = 100_000             // of all classes together, about 100 MB
	// sweepEvery is how often classes are looked at in which nothing ends any more.
	sweepEvery = time.Hour
)

type class struct {
	group, kind string
	succeeded   bool
}

// forget names the jobs that need not be kept, oldest first. Jobs that have not ended are always kept. What is newer is
// told by the ids, which ascend also when a clock is set back.
func forget(all []api.Job, now time.Time) (ids []string) {
	all = slices.DeleteFunc(slices.Clone(all), func(j api.Job) bool { return !j.State.Ended() })
	slices.SortFunc(all, func(a, b api.Job) int { return cmp.Compare(b.ID, a.ID) })
	newer, kept := map[class]int{}, 0
	for _, j := range all {
		c := class{j.Group, j.Kind, j.State == api.JobSucceeded}
		n := newer[c]
		newer[c]++
		if n >= keepOfClass || n > 0 && j.Ended != nil && now.Sub(*j.Ended) > keepFor || kept == keepTotal {
			ids = append(ids, j.ID)
		} else {
			kept++
		}
	}
	slices.Reverse(ids)
	return ids
}

// trim forgets what the history need not keep: of the group whose job has just ended, and now and then of all.
func (r *Runner) trim(group string) {
	now := r.o.Clock()
	r.mu.Lock()
	runs := r.index.byGroup[group]
	if now.Sub(r.swept) >= sweepEvery || now.Before(r.swept) {
		r.swept, runs = now, r.index.all
	}
	all := make([]api.Job, 0, len(runs))
	for _, run := range runs {
		all = append(all, *run.shown.Load())
	}
	r.mu.Unlock()
	for _, id := range forget(all, now) { // without the lock: nothing changes a job that has ended
		if err := r.o.Store.Delete(Bucket, id); err != nil {
			r.o.Log.Warn("old job stays", "job", id, "error", err)
			return
		}
		r.mu.Lock()
		r.index.remove(id)
		r.mu.Unlock()
	}
}
