package esx

import (
	"context"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/task"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

const (
	firstLook = 5 * time.Millisecond
	mostPause = time.Second
	// afterwards bounds how long a task that was told to stop is waited for, and how long calls fail before a task is given up.
	afterwards = 2 * time.Minute
)

// wait waits for a task to end and gives its result. When ctx ends before, the task is told to stop; some cannot. What
// then became of it is what wait says: without an error it was done, and its result must be undone by whoever no longer
// wants it.
//
// It looks now and then instead of listening, for that needs nothing that the loss of a session takes away.
func (h *host) wait(ctx context.Context, op, subject string, t *object.Task) (any, error) {
	var deadline <-chan time.Time
	stopping := ctx.Done()
	looking := context.WithoutCancel(ctx)
	lost := time.Time{} // since when the host does not answer
	for delay := firstLook; ; delay = min(2*delay, mostPause) {
		info, err := h.look(looking, t)
		switch {
		case err == nil && info.State == types.TaskInfoStateSuccess:
			return info.Result, nil
		case err == nil && info.State == types.TaskInfoStateError:
			if ctx.Err() != nil && isCanceled(info.Error) {
				return nil, context.Cause(ctx)
			}
			return nil, fault(op, subject, task.Error{LocalizedMethodFault: info.Error})
		case err == nil:
			lost = time.Time{}
		case lost.IsZero():
			lost = time.Now()
		case time.Since(lost) > afterwards:
			return nil, fault(op, subject, err)
		}
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-stopping:
			stopping, deadline, delay = nil, time.After(afterwards), firstLook
			_ = t.Cancel(looking) // one that cannot be cancelled goes on
		case <-deadline:
			timer.Stop()
			return nil, context.Cause(ctx)
		}
		timer.Stop()
	}
}

func (h *host) look(ctx context.Context, t *object.Task) (types.TaskInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, dialPatience)
	defer cancel()
	var m mo.Task
	err := property.DefaultCollector(h.client).RetrieveOne(ctx, t.Reference(), []string{"info"}, &m)
	return m.Info, err
}

func isCanceled(f *types.LocalizedMethodFault) bool {
	_, canceled := f.Fault.(*types.RequestCanceled)
	return canceled
}
