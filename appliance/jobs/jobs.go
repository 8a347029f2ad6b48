// Package jobs does work that takes time so that it survives a restart: a job is a row of named steps, each persisted
// when it is done, with undos registered on the way. It owns the life of a job (start, go on after a restart, cancel,
// undo, end), its locks, its progress and its events; it knows nothing of what the steps do.
//
// # A job's life
//
//	queued → running ──────────────────────────────► Ended hook → succeeded
//	            └─ error, panic or Cancel → undoing ► Ended hook → failed, cancelled
//
// After a crash the step that was at work is done again, so steps are idempotent; undos and the hook likewise may run
// again after an unknown outcome. A job holds its locks, and is not shown as ended, until its hook has succeeded:
// whoever sees the end sees its consequences too.
//
// # Undo
//
// A step registers an undo right after the side effect; they run newest first. When the appliance dies between the two,
// the step runs again and registers it then. Forgive is the point of no return: it drops the undos, and until another
// one is registered the job cannot be cancelled any more.
package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"understudy/api"
)

var (
	// ErrStopping is the cause of a step's ended context when the daemon stops. The job goes on at the next start.
	ErrStopping = errors.New("the appliance is stopping")
	// ErrCancelled is the cause of a step's ended context after Cancel, and in the chain of Ended's error then.
	ErrCancelled = errors.New("cancelled")
)

// Bucket of the store in which the jobs are.
const Bucket = "jobs"

// ErrLocked, as a pointer, is the error of Submit while an unfinished job holds one of the locks. Its code is
// api.CodeConflict.
type ErrLocked struct {
	Key string
	Job api.Job // the job that holds it
}

func (e *ErrLocked) Error() string {
	return fmt.Sprintf("another job is at work: %s (%s)", e.Job.Kind, e.Job.ID)
}

func (e *ErrLocked) Unwrap() error {
	return &api.Error{Code: api.CodeConflict, Message: e.Error(), Hint: "Wait until it has ended, or cancel it."}
}

// Kind says how jobs of a name are done.
type Kind struct {
	Name  string
	Steps []Step
	// Undos by name, for Run.Undo. They are idempotent. One that fails is tried a few times; then it is recorded in the
	// job's error and the others go on. Their context ends only when the appliance stops.
	Undos map[string]func(ctx context.Context, r *Run, arg string) error
	// Ended, if set, is called when the outcome is settled, whatever it is, and again until it returns nil, over
	// restarts too. err is nil for success, else an *api.Error made from what was persisted (so it is the same after a
	// restart), with ErrCancelled in its chain after a cancel.
	Ended func(ctx context.Context, r *Run, err error) error
}

// UndoPrefix stands before the name of an undo where steps and undos are named together.
const UndoPrefix = "undo "

// Work names all that jobs of the kind do: the steps in their order, then the undos with UndoPrefix. It comes from what
// runs, so that a test that wants to have seen everything cannot forget a new step.
func (k Kind) Work() []string {
	all := names(k)
	for _, undo := range slices.Sorted(maps.Keys(k.Undos)) {
		all = append(all, UndoPrefix+undo)
	}
	return all
}

// Step is a part of a job. Do may be called again after a crash, with what it saved.
type Step struct {
	Name string
	Do   func(ctx context.Context, r *Run) error
}

// Store keeps the jobs. Put is durable when it returns; Each goes in key order.
type Store interface {
	Put(bucket, key string, v any) error
	Delete(bucket, key string) error
	Each(bucket string, fn func(key string, decode func(v any) error) error) error
}

// Options of a Runner. Only Store is required.
type Options struct {
	Store   Store
	Publish func(api.Event)
	Clock   func() time.Time
	Log     *slog.Logger
	// NewID gives ids that ascend; default: ULIDs.
	NewID func() string
	// Sleep waits between tries; it returns early with an error when ctx ends.
	Sleep func(ctx context.Context, d time.Duration) error
	// KillPoint is for tests: it is called around each step, each undo and each write. kind and step are as in
	// Kind.Work; step is empty where none is at work. phase is "before do" and "after do" of a step or an undo, or names
	// the write. A call of runtime.Goexit in it is the end of the job's goroutine, as if power failed.
	KillPoint func(kind, step, phase string)
}

func (o Options) withDefaults() Options {
	if o.Publish == nil {
		o.Publish = func(api.Event) {}
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.NewID == nil {
		o.NewID = ulids(o.Clock)
	}
	if o.Sleep == nil {
		o.Sleep = sleep
	}
	if o.KillPoint == nil {
		o.KillPoint = func(string, string, string) {}
	}
	return o
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
