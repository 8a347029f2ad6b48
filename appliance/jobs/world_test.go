package jobs_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/appliance/jobs"
)

// memory is a store that forgets nothing over restarts, and can be made to fail.
type memory struct {
	mu   sync.Mutex
	data map[string][]byte
	fail func(key string) error
}

func newMemory() *memory { return &memory{data: map[string][]byte{}} }

func (m *memory) Put(_, key string, v any) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		if err := m.fail(key); err != nil {
			return err
		}
	}
	value, err := json.Marshal(v)
	m.data[key] = value
	return err
}

func (m *memory) Delete(_, key string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.data, key)
	return nil
}

func (m *memory) Each(_ string, fn func(string, func(any) error) error) error {
	m.mu.Lock()
	data := maps.Clone(m.data)
	m.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(data)) {
		if err := fn(key, func(v any) error { return json.Unmarshal(data[key], v) }); err != nil {
			return err
		}
	}
	return nil
}

// world is what steps work on; it outlives the appliance.
type world struct {
	mu     sync.Mutex
	things map[string]bool
	calls  []string
}

func newWorld() *world { return &world{things: map[string]bool{}} }

func (w *world) make(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.things[name] = true
	w.calls = append(w.calls, "make "+name)
}

func (w *world) remove(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.things, name)
	w.calls = append(w.calls, "remove "+name)
}

func (w *world) state() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(maps.Keys(w.things))
}

func (w *world) log() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.calls)
}

type bench struct {
	*jobs.Runner
	store  *memory
	logged *bytes.Buffer

	mu     sync.Mutex
	now    time.Time
	ids    int
	events []api.Event
	slept  []time.Duration
}

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// newBench is an appliance over the store; a second one over the same store is the appliance after a restart.
func newBench(t *testing.T, store *memory, kill func(kind, step, phase string), kinds ...jobs.Kind) *bench {
	b := &bench{store: store, now: start, logged: &bytes.Buffer{}}
	b.ids = len(store.data)
	b.Runner = jobs.New(jobs.Options{
		Store: store, KillPoint: kill, Clock: b.clock,
		Publish: func(e api.Event) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.events = append(b.events, e)
		},
		Log: slog.New(slog.NewTextHandler(&lockedWriter{b: b}, nil)),
		NewID: func() string {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.ids++
			return fmt.Sprintf("job-%06d", b.ids)
		},
		Sleep: func(ctx context.Context, d time.Duration) error {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.slept = append(b.slept, d)
			return context.Cause(ctx)
		},
	})
	for _, k := range kinds {
		b.Register(k)
	}
	t.Cleanup(func() { _ = b.Close(context.Background()) })
	return b
}

type lockedWriter struct{ b *bench }

func (w *lockedWriter) Write(p []byte) (int, error) {
	w.b.mu.Lock()
	defer w.b.mu.Unlock()
	return w.b.logged.Write(p)
}

func (b *bench) logText() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.logged.String()
}

func (b *bench) clock() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now
}

func (b *bench) pass(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now = b.now.Add(d)
}

func (b *bench) published() []api.Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.events)
}

func (b *bench) submit(t *testing.T, kind string, input any, locks ...string) api.Job {
	t.Helper()
	job, err := b.Submit(t.Context(), kind, "g1", input, locks...)
	require.NoError(t, err)
	return job
}

func (b *bench) wait(t *testing.T, id string) api.Job {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	job, err := b.Wait(ctx, id)
	require.NoError(t, err)
	return job
}

func await(t *testing.T, ch <-chan struct{}) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(time.Minute):
		t.Fatal("nothing happened")
	}
}

// block is a step body that says when it started and then waits for its context.
func block(entered chan<- struct{}) func(context.Context, *jobs.Run) error {
	return func(ctx context.Context, _ *jobs.Run) error {
		entered <- struct{}{}
		<-ctx.Done()
		return fmt.Errorf("copy: %w", context.Cause(ctx))
	}
}

func steps(do ...func(context.Context, *jobs.Run) error) []jobs.Step {
	var all []jobs.Step
	for i, fn := range do {
		all = append(all, jobs.Step{Name: fmt.Sprint("s", i+1), Do: fn})
	}
	return all
}

func fine(context.Context, *jobs.Run) error { return nil }

var errBroken = errors.New("broken")

func broken(context.Context, *jobs.Run) error { return errBroken }
