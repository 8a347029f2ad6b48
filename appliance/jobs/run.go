package jobs

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"understudy/api"
)

// progressEvery is how often a job's progress is published, about as often as a person can read it.
const progressEvery = 500 * time.Millisecond

// Run is a job as its steps see it. All methods are safe for concurrent use.
type Run struct {
	runner *Runner
	kind   Kind
	done   chan struct{} // closed when the job has ended
	lost   error         // why the steps cannot go on after an upgrade
	// shown is the job of rec, for looking at without a lock: mu is held for as long as a write to the disk takes.
	// Nothing that it refers to is ever changed.
	shown atomic.Pointer[api.Job]

	mu        sync.Mutex
	rec       record
	active    bool                    // its goroutine was started
	interrupt context.CancelCauseFunc // of the step at work, or nil
	told      time.Time               // when progress was published last
	answered  chan struct{}           // closed by Confirm while Ask waits, else nil
}

func newRun(runner *Runner, rec record) *Run {
	r := &Run{runner: runner, done: make(chan struct{})}
	r.set(rec)
	return r
}

// set makes rec what the job is; mu is held, or nobody else has r yet.
func (r *Run) set(rec record) {
	r.rec = rec
	job := rec.Job
	r.shown.Store(&job)
}

// ID of the job.
func (r *Run) ID() string { return r.shown.Load().ID }

// Kind of the job.
func (r *Run) Kind() string { return r.shown.Load().Kind }

// Group that the job works on; may be empty.
func (r *Run) Group() string { return r.shown.Load().Group }

// Created is when the job was submitted.
func (r *Run) Created() time.Time { return r.shown.Load().Created }

// Log writes with the job's name.
func (r *Run) Log() *slog.Logger {
	job := r.shown.Load()
	return r.runner.o.Log.With("job", job.ID, "kind", job.Kind, "group", job.Group)
}

// Load reads the job's own state: the input of Submit, or what was saved last.
func (r *Run) Load(v any) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := json.Unmarshal(r.rec.State, v); err != nil {
		return fmt.Errorf("read state of job: %w", err)
	}
	return nil
}

// Save replaces the job's own state. It is durable when it returns.
func (r *Run) Save(v any) error {
	state, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("save state of job: %w", err)
	}
	return r.change("save", func(rec *record) { rec.State = state })
}

// Undo registers an undo of the kind, to be called with arg when the job fails or is cancelled. It is durable when it
// returns. Registering the same again, as a repeated step does, changes nothing.
func (r *Run) Undo(name, arg string) error {
	if r.kind.Undos[name] == nil {
		return fmt.Errorf("job %s has no undo named %s", r.kind.Name, name)
	}
	r.mu.Lock()
	undoing, known := r.rec.Failure != nil, slices.Contains(r.rec.Undos, undo{name, arg})
	r.mu.Unlock()
	if undoing {
		return fmt.Errorf("undo %s comes too late: the job is being undone", name)
	}
	if known {
		return nil
	}
	return r.change("undo", func(rec *record) {
		rec.Undos = append(rec.Undos, undo{name, arg})
		rec.Forgiven = false
	})
}

// Forgive drops all registered undos: the point of no return. It is durable when it returns. A cancel that was asked
// for and has not yet led to undoing is dropped with them: the job goes on, with the step once more if that gave up.
// It tries until the store takes it, for what comes before it must not be undone: the only error is ErrStopping.
func (r *Run) Forgive() error {
	ok := r.persist("forgive", false, func(rec *record) {
		rec.Undos = nil
		rec.Forgiven = true
		rec.Cancel = false
	})
	if !ok {
		return ErrStopping
	}
	return nil
}

// Result notes a figure. It is durable with the next write and at the latest at the end.
func (r *Run) Result(name string, value float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec := r.rec.clone()
	if rec.Job.Result == nil {
		rec.Job.Result = map[string]float64{}
	}
	rec.Job.Result[name] = value
	r.set(rec)
}

// Progress of the step at work, in bytes; total 0: unknown. It may be called as often as one likes: what is published
// is bounded, and the last call of a step (done = total) always is.
func (r *Run) Progress(done, total int64) {
	r.mu.Lock()
	now, p := r.runner.o.Clock(), api.Progress{Done: done, Total: total}
	due := now.Sub(r.told) >= progressEvery || done == total && p != r.rec.Job.Progress
	if r.rec.Job.State.Ended() {
		r.mu.Unlock()
		return
	}
	rec := r.rec
	rec.Job.Progress = p
	r.set(rec)
	if due {
		r.told = now
	}
	r.mu.Unlock()
	if due {
		r.runner.publish("progress", r.view())
	}
}

func (r *Run) view() api.Job { return view(*r.shown.Load()) }

// read gives the record; only for reading.
func (r *Run) read() record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rec
}

// change is the only way a record changes durably: on disk first, then in memory.
func (r *Run) change(phase string, fn func(rec *record)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changeLocked(phase, fn)
}

func (r *Run) changeLocked(phase string, fn func(rec *record)) error {
	rec := r.rec.clone()
	fn(&rec)
	step, o := r.rec.Job.Step, r.runner.o
	o.KillPoint(rec.Job.Kind, step, "before "+phase)
	if err := o.Store.Put(Bucket, rec.Job.ID, rec); err != nil {
		return fmt.Errorf("%s of job %s: %w", phase, rec.Job.ID, err)
	}
	o.KillPoint(rec.Job.Kind, step, "after "+phase)
	r.set(rec)
	return nil
}

func (r *Run) killPoint(step, phase string) { r.runner.o.KillPoint(r.Kind(), step, phase) }

// cancel asks the job to stop.
func (r *Run) cancel() (api.Job, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	job := view(r.rec.Job)
	conflict := func(why string) error {
		return api.Errorf(api.CodeConflict, "", "job %s cannot be cancelled: %s", job.ID, why)
	}
	switch {
	case job.State == api.JobCancelled, r.rec.Failure != nil && !job.State.Ended(), r.rec.Cancel:
		return job, nil
	case job.State.Ended():
		return job, conflict("it has ended")
	case r.rec.Next >= len(job.Steps):
		return job, conflict("all its work is done")
	case r.rec.Forgiven:
		return job, conflict("it is past the point where it could be undone")
	}
	if err := r.changeLocked("cancel", func(rec *record) { rec.Cancel = true }); err != nil {
		return job, err
	}
	if r.interrupt != nil {
		r.interrupt(ErrCancelled)
	}
	return job, nil
}
