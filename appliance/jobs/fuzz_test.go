package jobs_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/appliance/jobs"
)

// FuzzRecord lets an appliance find a job in its store that any version, or no version, may have written. It says that it
// cannot read it, or that it does not know its kind, and leaves it as it is; or it brings the job to an end. It does no
// step before the one at work, no step at all of a job that fails or has ended, and none twice, over a restart either.
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
		names := []string{"one", "two", "three"}
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
		list, err := b.Find("", api.Paging{Limit: 10}, nil)
		require.NoError(t, err)
		for _, j := range list.Items {
			ended, err := b.Wait(ctx, "j")
			require.NoError(t, err, "%+v", j)
			require.True(t, ended.State.Ended(), "%+v", ended)
		}
		require.NoError(t, b.Close(ctx))
		var was struct {
			Job     api.Job   `json:"job"`
			Next    int       `json:"next"`
			Failure *struct{} `json:"failure"`
		}
		require.NoError(t, json.Unmarshal(record, &was))
		first := slices.Index(names, was.Job.Step)
		if first < 0 || was.Job.State.Ended() || was.Failure != nil || was.Next >= len(was.Job.Steps) {
			first = len(names)
		}
		for i, name := range names {
			require.LessOrEqual(t, done[name], 1, "step %s", name)
			require.False(t, i < first && done[name] > 0, "step %s was not due", name)
		}
		require.True(t, json.Valid(store.data["j"]))
		once := len(done)
		again := newBench(t, store, nil, jobs.Kind{Name: "k", Steps: []jobs.Step{step("one"), step("two"), step("three")}})
		require.NoError(t, again.Resume(ctx), "what the appliance wrote itself must be good")
		require.NoError(t, again.Close(ctx))
		require.Len(t, done, once, "an ended job went on after a restart")
	})
}
