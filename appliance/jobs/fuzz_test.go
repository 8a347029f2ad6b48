package jobs_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/appliance/jobs"
)

// FuzzRecord lets an appliance find a job in its store that any version, or no version, may have written. It says that it
// cannot read it, or that it does not know its kind, or brings it to an end; and it never does a step that was done.
func FuzzRecord(f *testing.F) {
	for _, s := range []string{
		`{"job":{"id":"j","kind":"k","state":"running","step":"two","steps":["one","two","three"]},"next":1,"undos":[{"name":"un","arg":"a"}],"locks":["l"]}`,
		`{"job":{"id":"j","kind":"k","state":"running","step":"gone","steps":["one","gone"]},"next":1,"undos":[{"name":"missing"}]}`,
		`{"job":{"id":"j","kind":"k","state":"undoing","steps":[]},"next":-1,"failure":{"code":"host","message":"m","cancelled":true,"undone":["x"]}}`,
		`{"job":{"id":"other","kind":"k","state":"queued"},"next":99,"cancel":true}`,
		`{"job":{"id":"j","kind":"k","state":"succeeded","result":{"a":[1]}},"next":3,"forgiven":true}`,
		`{"job":{"kind":"unknown","state":"running"}}`, `{"job":{"kind":"k","state":"?"},"state":{"x":1}}`, `null`, `{}`, `[`, `{"next":1e30}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, record []byte) {
		store := newMemory()
		store.data["j"] = record
		done := map[string]int{}
		step := func(name string) jobs.Step {
			return jobs.Step{Name: name, Do: func(context.Context, *jobs.Run) error { done[name]++; return nil }}
		}
		b := newBench(t, store, nil, jobs.Kind{Name: "k", Steps: []jobs.Step{step("one"), step("two"), step("three")},
			Undos: map[string]func(context.Context, *jobs.Run, string) error{"un": func(context.Context, *jobs.Run, string) error { return nil }}})
		if err := b.Resume(t.Context()); err != nil {
			damaged := errors.Is(err, jobs.ErrDamaged)
			require.True(t, damaged || strings.Contains(err.Error(), "unknown kind"), "%v", err)
			require.Equal(t, record, store.data["j"], "it was touched")
			return
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		list, err := b.List("", 10)
		require.NoError(t, err)
		for _, j := range list {
			ended, err := b.Wait(ctx, "j")
			require.NoError(t, err, "%+v", j)
			require.True(t, ended.State.Ended(), "%+v", ended)
		}
		require.NoError(t, b.Close(ctx))
		for name, times := range done {
			require.Equal(t, 1, times, "step %s", name)
		}
		require.True(t, json.Valid(store.data["j"]))
		once := len(done)
		again := newBench(t, store, nil, jobs.Kind{Name: "k", Steps: []jobs.Step{step("one"), step("two"), step("three")}})
		require.NoError(t, again.Resume(ctx), "what the appliance wrote itself must be good")
		require.NoError(t, again.Close(ctx))
		require.Len(t, done, once, "an ended job went on after a restart")
	})
}
