package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"understudy/api"
)

// Runner runs the jobs of an appliance. All methods are safe for concurrent use.
type Runner struct {
	o    Options
	base context.Context // ends when the appliance stops
	stop context.CancelCauseFunc
	wg   sync.WaitGroup

	mu      sync.Mutex // taken before a Run's, never while holding one
	kinds   map[string]Kind
	index   *index    // nil until it was read from the store
	settled sync.Cond // on mu: a job that was being written down is known, or gave up its locks
	swept   time.Time
	newest  string // id
	closed  bool
}

// New makes a Runner. Register all kinds, then call Resume.
func New(o Options) *Runner {
	base, stop := context.WithCancelCause(context.Background())
	r := &Runner{o: o.withDefaults(), base: base, stop: stop, kinds: map[string]Kind{}}
	r.settled.L = &r.mu
	return r
}

// Register makes a kind known. Registering a name twice, or no steps, is a mistake in the program and panics.
func (r *Runner) Register(k Kind) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, twice := r.kinds[k.Name]; twice || k.Name == "" || len(k.Steps) == 0 {
		panic(fmt.Sprintf("jobs: kind %q registered twice, or without name or steps", k.Name))
	}
	r.kinds[k.Name] = k
}

// Submit starts a job; it is durable, with its input and locks, when Submit returns. The job does not end with ctx.
// ErrLocked when another unfinished job holds one of the locks; ErrStopping after Close.
func (r *Runner) Submit(ctx context.Context, kind, group string, input any, locks ...string) (api.Job, error) {
	if err := ctx.Err(); err != nil {
		return api.Job{}, err
	}
	state, err := json.Marshal(input)
	if err != nil {
		return api.Job{}, fmt.Errorf("input of job %s: %w", kind, err)
	}
	run, err := r.accept(kind, group, state, locks)
	if err != nil {
		return api.Job{}, err
	}
	job := run.view()
	r.publish("created", job)
	r.start(run)
	return job, nil
}

// accept takes the locks first and only then writes the job down, so that nobody waits for a write to the disk but the one
// who submits, and who wants the same locks.
func (r *Runner) accept(kind, group string, state json.RawMessage, locks []string) (*Run, error) {
	run, err := r.reserve(kind, group, state, locks)
	if err != nil {
		return nil, err
	}
	kept := false
	defer func() { // also when the store panics: nobody else would ever give the locks back
		r.mu.Lock()
		defer r.mu.Unlock()
		if kept {
			r.index.add(run)
		} else {
			r.index.unlock(run, locks)
		}
		r.settled.Broadcast()
	}()
	if err := run.change("submit", func(*record) {}); err != nil {
		return nil, err
	}
	kept = true
	return run, nil
}

// reserve takes the locks for a new job. Whoever is refused gets a job that can be looked at and cancelled: what is still
// being written down is waited for.
func (r *Runner) reserve(kind, group string, state json.RawMessage, locks []string) (*Run, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k, known := r.kinds[kind]
	switch {
	case r.closed:
		return nil, ErrStopping
	case !known:
		return nil, fmt.Errorf("unknown kind of job %q", kind)
	}
	if err := r.load(); err != nil {
		return nil, err
	}
	for r.index.settling(locks) {
		r.settled.Wait()
	}
	if locked := r.locked(locks); locked != nil {
		return nil, locked
	}
	rec := record{State: state, Locks: slices.Clone(locks), Job: api.Job{
		ID: r.newID(), Kind: kind, Group: group, State: api.JobQueued,
		Steps: names(k), Step: k.Steps[0].Name, Created: r.o.Clock().UTC(),
	}}
	run := newRun(r, rec)
	run.kind = k
	r.index.lock(run, locks)
	return run, nil
}

// Locked says which job would keep another from getting the locks now; nil: none.
func (r *Runner) Locked(locks ...string) (*ErrLocked, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.load(); err != nil {
		return nil, err
	}
	return r.locked(locks), nil
}

func (r *Runner) locked(locks []string) *ErrLocked {
	for _, key := range locks {
		if holder := r.index.holder(key); holder != nil {
			return &ErrLocked{Key: key, Job: holder.view()}
		}
	}
	return nil
}

// newID is greater than any that is known.
func (r *Runner) newID() string {
	r.newest = behind(r.newest, r.o.NewID())
	return r.newest
}

// load reads the jobs from the store, once.
func (r *Runner) load() error {
	if r.index != nil {
		return nil
	}
	found := newIndex()
	err := r.o.Store.Each(Bucket, func(id string, decode func(v any) error) error {
		rec, err := readRecord(id, decode)
		if err != nil {
			return err
		}
		run := newRun(r, rec)
		if rec.Job.State.Ended() {
			close(run.done)
		}
		found.add(run)
		found.lock(run, rec.Locks)
		r.newest = max(r.newest, id)
		return nil
	})
	if err != nil {
		return fmt.Errorf("read jobs: %w", err)
	}
	r.index = found
	return nil
}

// Resume lets every unfinished job go on where it was. It is called once, when all kinds are registered. Jobs of a kind
// that is not registered stay as they are and keep their locks; they are in the error, and the others go on.
func (r *Runner) Resume(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r.mu.Lock()
	if err := r.load(); err != nil {
		r.mu.Unlock()
		return err
	}
	var ready []*Run
	var errs []error
	for _, run := range r.index.all {
		job := run.shown.Load()
		if job.State.Ended() {
			continue
		}
		k, known := r.kinds[job.Kind]
		if !known {
			errs = append(errs, fmt.Errorf("job %s: unknown kind %q", job.ID, job.Kind))
			continue
		}
		run.adopt(k)
		ready = append(ready, run)
	}
	r.mu.Unlock()
	for _, run := range ready {
		r.start(run)
	}
	return errors.Join(errs...)
}

// adopt connects a job from the store with its kind. Another version may have written it: the step to do is found by
// name, and a job whose step is gone is undone.
func (r *Run) adopt(k Kind) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.active {
		return
	}
	r.kind = k
	steps := names(k)
	switch i := slices.Index(steps, r.rec.Job.Step); {
	case r.rec.Next >= len(r.rec.Job.Steps):
		r.rec.Next = len(steps)
	case i >= 0:
		r.rec.Next = i
	default:
		r.lost = api.Errorf(api.CodeInternal, "Order it again.",
			"this version of the appliance has no step %q to go on with", r.rec.Job.Step)
		return
	}
	r.rec.Job.Steps = steps
}

// start gives the job its goroutine, unless it has one or the appliance stops.
func (r *Runner) start(run *Run) {
	r.mu.Lock()
	defer r.mu.Unlock()
	run.mu.Lock()
	defer run.mu.Unlock()
	if r.closed || run.active {
		return
	}
	run.active = true
	r.wg.Go(run.work)
}

// Cancel asks a job to stop and undo. It returns as soon as that is durable; a job that is being undone already, or was
// cancelled, is success. CodeConflict when the job has ended or is past its point of no return.
func (r *Runner) Cancel(id string) (api.Job, error) {
	run, err := r.find(id)
	if err != nil {
		return api.Job{}, err
	}
	return run.cancel()
}

// Confirm answers the job that waits for a person, see Run.Ask. It returns as soon as that is durable. Answering the same
// prompt again is success; CodeConflict when the job does not wait for it.
func (r *Runner) Confirm(id string, c api.Confirmation) (api.Job, error) {
	run, err := r.find(id)
	if err != nil {
		return api.Job{}, err
	}
	return run.confirm(c)
}

// Get gives a job; CodeNotFound.
func (r *Runner) Get(id string) (api.Job, error) {
	run, err := r.find(id)
	if err != nil {
		return api.Job{}, err
	}
	return run.view(), nil
}

// Find gives a page of the jobs of the group ("": of all groups) that fit (nil: all), newest first. fits must not
// change the job.
func (r *Runner) Find(group string, p api.Paging, fits func(*api.Job) bool) (api.Page[api.Job], error) {
	r.mu.Lock()
	if err := r.load(); err != nil {
		r.mu.Unlock()
		return api.Page[api.Job]{}, err
	}
	all := slices.Clone(r.index.of(group))
	r.mu.Unlock()
	found := make([]*Run, 0, len(all))
	for _, run := range slices.Backward(all) {
		if fits == nil || fits(run.shown.Load()) {
			found = append(found, run)
		}
	}
	from, to := p.Cut(len(found))
	page := api.Page[api.Job]{Items: []api.Job{}, Total: len(found)}
	for _, run := range found[from:to] {
		page.Items = append(page.Items, run.view())
	}
	return page, nil
}

// Unfinished gives the jobs of a group that have not ended, newest first. The history is short, see forget.
func (r *Runner) Unfinished(group string) ([]api.Job, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.load(); err != nil {
		return nil, err
	}
	var jobs []api.Job
	for _, run := range slices.Backward(r.index.byGroup[group]) {
		if !run.shown.Load().State.Ended() {
			jobs = append(jobs, run.view())
		}
	}
	return jobs, nil
}

// ended takes note that a job holds its locks no more.
func (r *Runner) ended(run *Run, locks []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.index.unlock(run, locks)
}

// Wait returns the job when it has ended, its hook included. ErrStopping when the appliance stops before.
func (r *Runner) Wait(ctx context.Context, id string) (api.Job, error) {
	run, err := r.find(id)
	if err != nil {
		return api.Job{}, err
	}
	select {
	case <-run.done:
		return run.view(), nil
	case <-ctx.Done():
		return run.view(), context.Cause(ctx)
	case <-r.base.Done():
	}
	select {
	case <-run.done:
		return run.view(), nil
	default:
		return run.view(), ErrStopping
	}
}

// Close interrupts the steps at work, undoes nothing and waits until all have let go, or until ctx ends. Unfinished jobs
// go on with the next Resume.
func (r *Runner) Close(ctx context.Context) error {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.stop(ErrStopping)
	gone := make(chan struct{})
	go func() {
		r.wg.Wait()
		close(gone)
	}()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("jobs did not stop: %w", context.Cause(ctx))
	}
}

func (r *Runner) find(id string) (*Run, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.load(); err != nil {
		return nil, err
	}
	run, known := r.index.byID[id]
	if !known {
		return nil, api.Errorf(api.CodeNotFound, "Jobs that ended long ago are not kept.", "there is no job %s", id)
	}
	return run, nil
}

func (r *Runner) publish(action string, job api.Job) {
	r.o.Publish(api.Event{
		Time: r.o.Clock().UTC(), Kind: "job", Action: action, Subject: job.ID, Group: job.Group,
		Message: job.Error, Job: &job,
	})
}

func names(k Kind) []string {
	var all []string
	for _, s := range k.Steps {
		all = append(all, s.Name)
	}
	return all
}
