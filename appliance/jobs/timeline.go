package jobs

import (
	"slices"
	"time"

	"understudy/api"
)

func (r *Run) now() time.Time { return r.runner.o.Clock().UTC() }

// enter begins the entry of a step. One that is still open is that step, being done again: it goes on.
func (rec *record) enter(now time.Time, step string) {
	if n := len(rec.Job.Timeline); n > 0 && rec.Job.Timeline[n-1].Ended == nil {
		return
	}
	rec.Job.Timeline = append(rec.Job.Timeline, api.JobStep{Step: step, Started: now})
}

// leave ends all entries that are open.
func (rec *record) leave(now time.Time) {
	for i := range rec.Job.Timeline { // its own: see clone
		if e := &rec.Job.Timeline[i]; e.Ended == nil {
			ended := latest(e.Started, now)
			e.Ended = &ended
		}
	}
}

// latest keeps an entry from ending before it began where the clock was set back.
func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// enterUndo begins the entry of the undo that comes next, if there is one. Several of a name share one entry: a hundred
// machines that are turned off again are one thing for whoever reads it.
func (rec *record) enterUndo(now time.Time) {
	next := ""
	if n := len(rec.Undos); n > 0 {
		next = UndoPrefix + rec.Undos[n-1].Name
	}
	if n := len(rec.Job.Timeline); n > 0 && rec.Job.Timeline[n-1].Step == next && rec.Job.Timeline[n-1].Ended == nil {
		return
	}
	rec.leave(now)
	if next != "" {
		rec.enter(now, next)
	}
}

// Part notes in the timeline what of the step is at work from now on; the part before it ends. Calling it again with the
// same name, as a repeated step does, changes nothing. It is durable with the next write.
func (r *Run) Part(name string) {
	r.mu.Lock()
	rec := r.rec.clone()
	n := len(rec.Job.Timeline)
	if n > 0 && rec.Job.Timeline[n-1].Part == name && rec.Job.Timeline[n-1].Ended == nil {
		r.mu.Unlock()
		return
	}
	now := r.now()
	for i := range rec.Job.Timeline {
		if e := &rec.Job.Timeline[i]; e.Part != "" && e.Ended == nil {
			ended := latest(e.Started, now)
			e.Ended = &ended
		}
	}
	rec.Job.Timeline = append(rec.Job.Timeline, api.JobStep{Step: rec.Job.Step, Part: name, Started: now})
	r.set(rec)
	r.mu.Unlock()
	r.runner.publish("updated", r.view())
}

// Job is the job as it is now.
func (r *Run) Job() api.Job {
	j := r.view()
	j.Timeline = slices.Clip(j.Timeline)
	return j
}
