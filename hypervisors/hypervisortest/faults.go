package hypervisortest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
)

// Call names a method that a fault can befall: interface and method, as "Draft.Commit" or "FrozenDisk.ReadAt". Methods
// that only show what is known already (ID, Size, Taken, Capabilities …) cannot fail and have none. A draft's map is
// "DraftMap.…", a point's map "PointMap.ReadAt".
type Call string

// When a fault strikes.
type When int

// Before: the call has no effect. After: it has its full effect, but the caller is told that it failed and gets no
// handle, as when the connection breaks before the answer.
const (
	Before When = iota
	After
)

// Fault is what happens instead of an answer. A nil error lets the call go on.
type Fault func(ctx context.Context) error

// Fail is the fault that returns err.
func Fail(err error) Fault { return func(context.Context) error { return err } }

// Hang is the fault of a call that never answers: it returns when ctx ends. Calls without ctx hang until their
// checkpoint, draft or reader is closed, or the host is.
func Hang(ctx context.Context) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

// Faults are queued by tests and met by calls of the hosts that were wrapped with them. Safe for concurrent use.
type Faults struct {
	mu     sync.Mutex
	queue  []*queued
	random *random
	hook   Hook
}

type queued struct {
	call  Call
	when  When
	pass  int // calls that go through before this fault strikes
	fault Fault
}

type random struct {
	*rand.Rand
	share float64
	fault Fault
}

// Queue makes the next call fail. Faults of the same call and moment strike in the order of the queue.
func (f *Faults) Queue(call Call, when When, fault Fault) { f.QueueNth(call, 1, when, fault) }

// QueueNth makes the n-th call from now on fail, n from 1. After-faults count only calls that succeed.
func (f *Faults) QueueNth(call Call, n int, when When, fault Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.queue = append(f.queue, &queued{call: call, when: when, pass: n - 1, fault: fault})
}

// Random makes a share (0 to 1) of all calls fail, before or after, by a sequence that the seed decides. Calls made
// one after another meet the same faults with the same seed. A share of 0 ends it.
func (f *Faults) Random(seed uint64, share float64, fault Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.random = &random{Rand: rand.New(rand.NewPCG(seed, seed)), share: share, fault: fault}
}

// Hook is asked at both moments of every call. subject says what the call is about, by ids and what else tells two
// calls of a kind apart: machine, replica and run or point, checkpoint, disk, offset, network; empty where there is only
// one. A nil error lets the call go on.
type Hook func(ctx context.Context, call Call, when When, subject string) error

// Each asks hook at every call that meets no other fault; nil ends it.
func (f *Faults) Each(hook Hook) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook = hook
}

// Unmet lists queued faults that no call met.
func (f *Faults) Unmet() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, q := range f.queue {
		out = append(out, fmt.Sprintf("%s, %s, after %d more calls", q.call, q.when, q.pass))
	}
	return out
}

func (w When) String() string {
	if w == After {
		return "after"
	}
	return "before"
}

// NewFaults fails the test at its end when a queued fault was not met: what it should prove was never tried.
func NewFaults(t testing.TB) *Faults {
	f := &Faults{}
	t.Cleanup(func() {
		for _, u := range f.Unmet() {
			t.Errorf("queued fault was never met: %s", u)
		}
	})
	return f
}

// pick takes the fault that strikes a call now, or nil.
func (f *Faults) pick(call Call, when When, subject string) Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := slices.IndexFunc(f.queue, func(q *queued) bool { return q.call == call && q.when == when })
	if i >= 0 {
		if q := f.queue[i]; q.pass > 0 {
			q.pass--
		} else {
			f.queue = slices.Delete(f.queue, i, i+1)
			return q.fault
		}
	}
	// Half of the share at each of the two moments of a call.
	if r := f.random; r != nil && r.Float64() < r.share/2 {
		return r.fault
	}
	if hook := f.hook; hook != nil {
		return func(ctx context.Context) error { return hook(ctx, call, when, subject) }
	}
	return nil
}

func (f *Faults) strike(ctx context.Context, call Call, when When, subject string) error {
	if fault := f.pick(call, when, subject); fault != nil {
		return fault(ctx)
	}
	return nil
}

// around makes a call with whatever befalls it.
func (f *Faults) around(ctx context.Context, call Call, subject string, do func() error) error {
	if err := f.strike(ctx, call, Before, subject); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	return f.strike(ctx, call, After, subject)
}

// result is around for calls that return something besides the error.
func result[T any](f *Faults, ctx context.Context, call Call, subject string, do func() (T, error)) (out T, err error) {
	err = f.around(ctx, call, subject, func() (err error) {
		out, err = do()
		return err
	})
	if err != nil {
		return *new(T), err
	}
	return out, nil
}
