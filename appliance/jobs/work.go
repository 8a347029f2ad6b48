package jobs

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"understudy/api"
)

// How often a failing undo is tried, and the pauses between tries of anything.
const (
	undoTries  = 5
	firstPause = time.Second
	maxPause   = time.Minute
)

// errStop ends a job's goroutine while the job stays unfinished.
var errStop = errors.New("goes on after the next start")

// work is the goroutine of a job. Where it returns early the appliance stops, and the record says where to go on.
func (r *Run) work() {
	if !r.begin() || !r.forward() || !r.undoAll() || !r.hook() {
		return
	}
	r.end()
}

// begin shows the job as running, once.
func (r *Run) begin() bool {
	if r.read().Job.State != api.JobQueued {
		return true
	}
	return r.persist("start", true, func(rec *record) {
		now := r.after(rec.Job.Created)
		rec.Job.State, rec.Job.Started = api.JobRunning, &now
		rec.enter(now, rec.Job.Step)
	})
}

// after is now, or what came before it where the clock was set back since: no job takes less than no time.
func (r *Run) after(before time.Time) time.Time {
	if now := r.runner.o.Clock().UTC(); now.After(before) {
		return now
	}
	return before
}

// forward does the steps that are left. Afterwards they are all done, or there is a failure.
func (r *Run) forward() bool {
	for {
		rec := r.read()
		if rec.Failure != nil || rec.Next >= len(rec.Job.Steps) {
			return true
		}
		err := r.lost
		if err == nil {
			err = r.step(rec.Next)
		}
		switch {
		case err == nil:
			if !r.persist("step", true, func(rec *record) { rec.advance(r.now()) }) {
				return false
			}
		case errors.Is(err, errStop):
			return false
		case errors.Is(err, errAgain):
			r.Log().Info("cancel came after the point of no return", "step", rec.Job.Step)
		default:
			if !r.fail(err) {
				return false
			}
		}
	}
}

func (rec *record) advance(now time.Time) {
	rec.Next++
	rec.leave(now)
	rec.Job.Progress = api.Progress{}
	if rec.Job.Step = ""; rec.Next < len(rec.Job.Steps) {
		rec.Job.Step = rec.Job.Steps[rec.Next]
		rec.enter(now, rec.Job.Step)
	} else {
		rec.Cancel = false // it came too late
	}
}

// errAgain: the step was interrupted by a cancel that Forgive dropped.
var errAgain = errors.New("do the step again")

// step does one step. The error is errStop, errAgain, ErrCancelled or what went wrong.
func (r *Run) step(i int) error {
	ctx, cancel := context.WithCancelCause(r.runner.base)
	defer cancel(nil)
	r.mu.Lock()
	cancelled, name := r.rec.Cancel, r.rec.Job.Step
	r.interrupt = cancel
	r.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return errStop
	case cancelled:
		return ErrCancelled
	}

	r.killPoint(name, "before do")
	err := r.guard("step "+name, func() error { return r.kind.Steps[i].Do(ctx, r) })
	r.killPoint(name, "after do")
	if err == nil {
		return nil
	}
	switch cancelled := r.read().Cancel; {
	case r.runner.base.Err() != nil:
		r.Log().Info("step interrupted", "step", name, "error", err)
		return errStop
	case cancelled:
		r.Log().Info("step cancelled", "step", name, "error", err)
		return ErrCancelled
	case errors.Is(context.Cause(ctx), ErrCancelled):
		return errAgain
	}
	return err
}

// fail settles that the job cannot succeed and turns it round.
func (r *Run) fail(err error) bool {
	f := newFailure(err)
	if f.Cancelled = errors.Is(err, ErrCancelled); !f.Cancelled {
		r.Log().Warn("job fails", "step", r.read().Job.Step, "error", err)
	}
	return r.persist("undoing", true, func(rec *record) {
		rec.Failure = f
		rec.Cancel = false
		rec.Job.State = api.JobUndoing
		rec.Job.Progress = api.Progress{}
		rec.Job.Error, rec.Job.Hint = f.Message, f.Hint
		rec.Job.Waiting = nil
		rec.enterUndo(r.now())
	})
}

// undoAll runs what was registered, newest first.
func (r *Run) undoAll() bool {
	for {
		rec := r.read()
		if rec.Failure == nil || len(rec.Undos) == 0 {
			return true
		}
		u := rec.Undos[len(rec.Undos)-1]
		err := r.undo(u)
		if errors.Is(err, errStop) {
			return false
		}
		ok := r.persist("undone", false, func(rec *record) {
			rec.Undos = rec.Undos[:len(rec.Undos)-1]
			rec.enterUndo(r.now())
			if err != nil {
				rec.Failure.Undone = append(rec.Failure.Undone, fmt.Sprintf("%s %s: %v", u.Name, u.Arg, err))
			}
		})
		if !ok {
			return false
		}
	}
}

// undo tries one undo a few times. The error is errStop or that of the last try, which is logged here because the job
// goes on without it.
func (r *Run) undo(u undo) error {
	ctx := r.runner.base
	do, known := r.kind.Undos[u.Name]
	if !known {
		err := errors.New("this version does not know how")
		r.Log().Error("undo failed", "undo", u.Name, "arg", u.Arg, "error", err)
		return err
	}
	for try := 1; ; try++ {
		if ctx.Err() != nil {
			return errStop
		}
		r.killPoint(UndoPrefix+u.Name, "before do")
		err := r.guard("undo "+u.Name, func() error { return do(ctx, r, u.Arg) })
		r.killPoint(UndoPrefix+u.Name, "after do")
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return errStop
		}
		r.Log().Error("undo failed", "undo", u.Name, "arg", u.Arg, "try", try, "error", err)
		if try == undoTries {
			return err
		}
		if r.pause(try) != nil {
			return errStop
		}
	}
}

// hook calls Ended until it succeeds. The job keeps its locks meanwhile: giving up would let other orders work on a
// state that does not know of this job.
func (r *Run) hook() bool {
	if r.kind.Ended == nil {
		return true
	}
	ctx, failed := r.runner.base, r.read().Failure.err()
	for try := 1; ; try++ {
		if ctx.Err() != nil {
			return false
		}
		r.killPoint("", "before ended hook")
		err := r.guard("end of job", func() error { return r.kind.Ended(ctx, r, failed) })
		r.killPoint("", "after ended hook")
		if err == nil {
			return true
		}
		if ctx.Err() == nil {
			r.Log().Error("end of job cannot be settled", "try", try, "error", err)
		}
		if r.pause(try) != nil {
			return false
		}
	}
}

// end shows the outcome. What only the work needed is dropped.
func (r *Run) end() {
	locks := r.read().Locks
	ok := r.persist("ended", true, func(rec *record) {
		before := rec.Job.Created
		if rec.Job.Started != nil { // it may have ended without
			before = *rec.Job.Started
		}
		now := r.after(before)
		rec.Job.State, rec.Job.Ended, rec.Job.Step = rec.Failure.state(), &now, ""
		if rec.Failure != nil {
			rec.Job.Error = rec.Failure.message()
			if rec.Next < len(rec.Job.Steps) {
				rec.Job.Step = rec.Job.Steps[rec.Next] // where it ended
			}
		}
		rec.leave(now)
		rec.State, rec.Undos, rec.Locks, rec.Confirmed = nil, nil, nil, nil
	})
	if !ok {
		return
	}
	r.runner.ended(r, locks)
	close(r.done)
	r.runner.trim(r.Group())
}

// persist makes a change of the runner's own, again and again until the store takes it: a job that cannot write down
// where it is must not go on. It returns false when the appliance stops.
func (r *Run) persist(phase string, show bool, fn func(rec *record)) bool {
	for try := 1; ; try++ {
		err := r.change(phase, fn)
		if err == nil {
			break
		}
		r.Log().Error("job cannot be written down", "try", try, "error", err)
		if r.pause(try) != nil {
			return false
		}
	}
	if show {
		r.runner.publish("updated", r.view())
	}
	return true
}

// pause waits before the next try, longer each time.
func (r *Run) pause(try int) error {
	return r.runner.o.Sleep(r.runner.base, min(firstPause<<min(try-1, 10), maxPause))
}

// guard turns a panic into an error; the daemon and the other jobs live on.
func (r *Run) guard(what string, fn func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			r.Log().Error("panic in "+what, "panic", p, "stack", string(debug.Stack()))
			err = api.Errorf(api.CodeInternal, "This is a fault of the appliance; its log says where. Please report it.",
				"internal error in %s: %v", what, p)
		}
	}()
	return fn()
}
