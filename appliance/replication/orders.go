package replication

import (
	"context"
	"errors"
	"slices"
	"time"

	"understudy/api"
	"understudy/appliance/jobs"
	"understudy/appliance/protection"
)

// work is the state of a job: what was ordered, and what a restart in the middle must know.
type work struct {
	// The order.
	Point          string `json:",omitempty"`
	Planned        bool   `json:",omitempty"` // production is shut down, not expected to be dead; so is every failback
	Force          bool   `json:",omitempty"`
	DeleteReplicas bool   `json:",omitempty"`
	// Run is the id of a test.
	Run string `json:",omitempty"`
	// Pending is the point that the named step is about to commit.
	Pending   *api.Point `json:",omitempty"`
	PendingIn string     `json:",omitempty"`
	// Live are the machines that this job may have started in place of production, by name, and has not ended again.
	Live []string `json:",omitempty"`
	// LookedInside: the guests of the point were looked into, or the appliance died of that.
	LookedInside bool `json:",omitempty"`
	// Looked is the life of the appliance (Engine.started) in which production was turned off, or found to be off.
	Looked time.Time `json:",omitzero"`
	// Course is how the machines come up, Boots how they did, by name, and Actions what was done on the way.
	Course  *course            `json:",omitempty"`
	Boots   map[string]boot    `json:",omitempty"`
	Actions []api.ReportAction `json:",omitempty"`
	// Taken is when the point was, Seconds how long it took until all checks were made, Problem what was not as it should be.
	Taken   time.Time `json:",omitzero"`
	Seconds float64   `json:",omitempty"`
	Problem string    `json:",omitempty"`
	// Home counts the bytes that a failback wrote at home, by step.
	Home map[string]int64 `json:",omitempty"`
}

// task is a step at work: its job, what was ordered, and the group as it is now.
type task struct {
	*jobs.Run
	work  work
	group group
}

func (e *Engine) task(r *jobs.Run) (*task, error) {
	t := &task{Run: r}
	if err := r.Load(&t.work); err != nil {
		return nil, err
	}
	var err error
	t.group, err = e.group(r.Group())
	return t, err
}

// step is a step of a job on a group.
func (e *Engine) step(name string, do func(context.Context, *task) error) jobs.Step {
	return jobs.Step{Name: name, Do: func(ctx context.Context, r *jobs.Run) error {
		t, err := e.task(r)
		if err != nil {
			return err
		}
		return do(ctx, t)
	}}
}

// undos are the undos of a kind of job, by name.
type undos = map[string]func(context.Context, *jobs.Run, string) error

// undo is an undo of a job on a group; arg is what was registered.
func (e *Engine) undo(do func(ctx context.Context, t *task, arg string) error) func(context.Context, *jobs.Run, string) error {
	return func(ctx context.Context, r *jobs.Run, arg string) error {
		t, err := e.task(r)
		if err != nil {
			return err
		}
		return do(ctx, t, arg)
	}
}

// dataLock is held by every job that writes replicas or changes roles, testLock by those that run tests beside them.
func dataLock(group string) string { return "data:" + group }
func testLock(group string) string { return "test:" + group }

// givesWay are the jobs that orders may interrupt.
var givesWay = []protection.Order{protection.OrderMirror, protection.OrderCycle, protection.OrderVerify}

// interrupt cancels a cycle of the group and waits until it has cleaned up.
func (e *Engine) interrupt(ctx context.Context, group string) error {
	list, err := e.runner.Unfinished(group)
	if err != nil {
		return err
	}
	for _, j := range list {
		if !slices.Contains(givesWay, protection.Order(j.Kind)) {
			continue
		}
		if _, err := e.runner.Cancel(j.ID); err != nil && api.CodeOf(err) != api.CodeConflict { // conflict: it is ending by itself
			return err
		}
		if _, err := e.runner.Wait(ctx, j.ID); err != nil {
			return err
		}
	}
	return nil
}

// transition is a step's way to move the group: again and again with the same outcome. done is the state in which the
// event has happened already.
func (e *Engine) transition(id string, event protection.Event, done ...api.GroupState) (group, error) {
	return e.update(id, func(g *group) error {
		for _, s := range done {
			if g.State == s {
				return nil
			}
		}
		return g.apply(event)
	})
}

// begin is the first step of an order that changes the group's state, with the way back registered. The undo is
// registered before the change because nothing happens when it runs without it (revert looks at the state).
func (e *Engine) begin(event protection.Event, entered api.GroupState) jobs.Step {
	return jobs.Step{Name: "begin", Do: func(_ context.Context, r *jobs.Run) error {
		if err := r.Undo("revert", ""); err != nil {
			return err
		}
		_, err := e.transition(r.Group(), event, entered)
		return err
	}}
}

// revert is the undo of begin.
func (e *Engine) revert(event protection.Event, entered api.GroupState) func(context.Context, *jobs.Run, string) error {
	return func(_ context.Context, r *jobs.Run, _ string) error {
		_, err := e.update(r.Group(), func(g *group) error {
			if g.State != entered {
				return nil
			}
			return g.apply(event)
		})
		return err
	}
}

// ended shows on the group why its job failed.
func (e *Engine) ended(_ context.Context, r *jobs.Run, cause error) error {
	if cause == nil || errors.Is(cause, jobs.ErrCancelled) {
		return nil
	}
	_, err := e.update(r.Group(), func(g *group) error {
		public := asPublic(cause)
		g.Problem, g.Hint = r.Kind()+": "+public.Message, public.Hint
		return nil
	})
	if api.CodeOf(err) == api.CodeNotFound {
		return nil // removed meanwhile
	}
	return err
}

// mirrorKind makes the first complete copy.
func (e *Engine) mirrorKind() jobs.Kind {
	return jobs.Kind{Name: string(protection.OrderMirror), Ended: e.cycleEnded, Steps: []jobs.Step{
		e.step("provision", func(ctx context.Context, t *task) error {
			if t.group.Reversed {
				return e.adoptMissing(ctx, t)
			}
			return e.provision(ctx, t.group.ID)
		}),
		e.copyStep("copy"),
		e.step("drivers", func(ctx context.Context, t *task) error { return e.lookInside(ctx, t, t.work.Pending.ID) }),
	}}
}

// cycleKind makes one recovery point.
func (e *Engine) cycleKind() jobs.Kind {
	return jobs.Kind{Name: string(protection.OrderCycle), Ended: e.cycleEnded, Steps: []jobs.Step{
		e.copyStep("copy"),
		{Name: "retention", Do: func(ctx context.Context, r *jobs.Run) error { return e.prune(ctx, r.Group()) }},
	}}
}

// copyStep is a cycle as a step of a job.
func (e *Engine) copyStep(name string) jobs.Step {
	return jobs.Step{Name: name, Do: func(ctx context.Context, r *jobs.Run) error {
		p, err := e.cycle(ctx, r, name)
		if err != nil {
			return err
		}
		r.Result("bytesRead", float64(p.BytesRead))
		r.Result("bytesWritten", float64(p.BytesWritten))
		r.Result("seconds", p.Seconds)
		e.publish("point", "created", p.ID, r.Group(), "")
		return nil
	}}
}

// cycleEnded counts failures, so that the schedule backs off.
func (e *Engine) cycleEnded(ctx context.Context, r *jobs.Run, cause error) error {
	if cause == nil {
		return nil
	}
	_, err := e.update(r.Group(), func(g *group) error {
		g.Attempt = e.Clock()
		if !errors.Is(cause, jobs.ErrCancelled) {
			g.Failures++
		}
		return nil
	})
	if api.CodeOf(err) == api.CodeNotFound {
		return nil
	}
	if err == nil && !errors.Is(cause, jobs.ErrCancelled) {
		e.chronicle.note(r.Group(), e.Clock(), slot{failed: 1})
	}
	return errors.Join(err, e.ended(ctx, r, cause))
}

// SyncNow runs a cycle now.
func (e *Engine) SyncNow(ctx context.Context, ref string) (api.Job, error) {
	g, err := e.group(ref)
	if err != nil {
		return api.Job{}, err
	}
	return e.order(ctx, ref, wish{order: e.nextCycle(&g)})
}

// nextCycle is a mirror until there is a point to build on.
func (e *Engine) nextCycle(g *group) protection.Order {
	if g.State == api.StateMirroring {
		return protection.OrderMirror
	}
	return protection.OrderCycle
}

// DropPoint removes one point by hand.
func (e *Engine) DropPoint(ctx context.Context, ref, point string) (api.Job, error) {
	return e.give(ctx, ref, api.PlanOrder{Order: string(protection.OrderDropPoint), Point: point})
}

func (e *Engine) dropPointKind() jobs.Kind {
	return jobs.Kind{Name: string(protection.OrderDropPoint), Ended: e.ended, Steps: []jobs.Step{
		e.step("drop", func(ctx context.Context, t *task) error { return e.dropPoint(ctx, t.group, t.work.Point) }),
	}}
}

// GetJob gives one job.
func (e *Engine) GetJob(_ context.Context, id string) (api.Job, error) { return e.runner.Get(id) }

// CancelJob asks a job to stop and undo.
func (e *Engine) CancelJob(_ context.Context, id string) (api.Job, error) { return e.runner.Cancel(id) }

// Events streams what happens.
func (e *Engine) Events(ctx context.Context, after uint64) (<-chan api.Event, error) {
	return e.Bus.Subscribe(ctx, after)
}

// ConfirmJob lets a job go on that waits for a person.
func (e *Engine) ConfirmJob(_ context.Context, id string, c api.Confirmation) (api.Job, error) {
	if err := c.Validate(); err != nil {
		return api.Job{}, err
	}
	return e.runner.Confirm(id, c)
}
