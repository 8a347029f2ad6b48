package replication_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"understudy/api"
	"understudy/appliance/replication"
	"understudy/appliance/store"
	"understudy/hypervisors"
	"understudy/hypervisors/fake"
	"understudy/hypervisors/hypervisortest"
	"understudy/snapshot/powerloss"
)

// witnessed names the folder of an appliance whose life is recorded; see TestStateAfterPowerFailure.
const witnessed = "UNDERSTUDY_TEST_WITNESSED"

// losses is how many random power failures are tried, besides the plain ones, while something is not yet synced.
const losses = 6

// TestStateAfterPowerFailure records every write and sync of the state file while an appliance does real jobs, in a
// process of its own under strace, and what that process was told is durable. Then the power fails after every single
// write, both with all writes there and with some of the unsynced ones lost, torn or reordered. Each file that can come
// of it must open, whole, with all changes that were acknowledged; of those that were under way, which share a transaction
// where they meet, any may be there.
func TestStateAfterPowerFailure(t *testing.T) {
	if dir := os.Getenv(witnessed); dir != "" {
		live(t, dir)
		return
	}
	dir := memory(t)
	trace := filepath.Join(dir, "trace")
	argv := powerloss.Traced(trace, os.Args[0], "-test.run=^TestStateAfterPowerFailure$", "-test.count=1")
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), witnessed+"="+dir)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "strace is needed (make deps installs it), and the life must end well: %s", out)
	f, err := os.Open(trace)
	require.NoError(t, err)
	defer f.Close()
	calls, err := powerloss.ReadTrace(f)
	require.NoError(t, err)

	h := newHistory(t, dir)
	for _, c := range calls {
		h.next(c)
	}
	require.Greater(t, len(h.log), 300, "the life was too short")
	require.Greater(t, h.opened, len(h.log)/2/share)
	require.Greater(t, h.asked, 10)
	require.Positive(t, h.met, "no two changes were written together")
	t.Logf("%d operations, %d files opened, %d of them served the API, %d had several changes under way", len(h.log), h.opened, h.asked, h.met)
}

// history is what happened to the state file up to some moment.
type history struct {
	t      *testing.T
	dir    string
	chance *rand.Rand
	log    powerloss.Log
	named  bool // the file has its name
	kept   bool // and the name is durable

	values  map[string]json.RawMessage // acknowledged, by bucket and key
	pending map[string]statement       // begun and not acknowledged, likewise
	met     int                        // how often several were
	events  uint64                     // the last one that was published
	api     []statement                // what the API said, the newest for each subject

	seen          map[[32]byte]bool // files that were opened since the last acknowledgement
	opened, asked int
}

func newHistory(t *testing.T, dir string) *history {
	return &history{t: t, dir: dir, chance: rand.New(rand.NewPCG(1, 1)), values: map[string]json.RawMessage{}, pending: map[string]statement{}, seen: map[[32]byte]bool{}}
}

// statement is a line that the recorded process wrote about itself.
type statement struct {
	// Begin and Done frame a change of the state, of which there is one at a time for each key; Events says which event is durable; Said is an answer of the API.
	What  string
	Key   string
	Value json.RawMessage
	Event uint64
}

func (h *history) next(c powerloss.Call) {
	path := filepath.Join(h.dir, "state.db")
	switch {
	case c.Name == "write" && c.On() == filepath.Join(h.dir, "said"):
		var s statement
		require.NoError(h.t, json.Unmarshal(c.Args[1].Bytes, &s))
		require.True(h.t, h.kept, "something was acknowledged before the file's name was durable")
		h.hear(s)
	case c.Name == "linkat" && c.Names()[1] == path:
		h.named = true
		h.fail()
	case c.Name == "fsync" && c.On() == h.dir:
		h.kept = h.named
	case c.On() == path || (!h.named && filepath.Dir(c.On()) == h.dir && filepath.Base(c.On()) != "said"):
		op, known := c.Op()
		require.True(h.t, known, "%s of the state file", c.Name)
		h.log = append(h.log, op)
		if h.named && (len(h.log)%share == 0 || len(h.pending) > 1) {
			h.fail()
		}
	}
}

// hear notes what is acknowledged.
func (h *history) hear(s statement) {
	clear(h.seen)
	switch s.What {
	case "begin":
		require.NotContains(h.t, h.pending, s.Key)
		h.pending[s.Key] = s
	case "done":
		h.change(h.values, h.pending[s.Key])
		delete(h.pending, s.Key)
	case "events":
		h.events = max(h.events, s.Event)
	case "said":
		h.api = append(h.api, s)
		h.serve()
	}
}

func (h *history) change(values map[string]json.RawMessage, s statement) {
	if values[s.Key] = s.Value; s.Value == nil {
		delete(values, s.Key)
	}
}

// fail lets the power fail at this moment, in several ways.
func (h *history) fail() {
	h.open(h.log.Apply(nil))
	if len(h.log)-h.log.Synced() < 2 {
		return
	}
	for range losses {
		h.open(h.log.Lose(nil, h.chance))
	}
}

// open expects that a file is whole and has what was acknowledged.
func (h *history) open(content []byte) {
	if sum := sha256.Sum256(content); h.seen[sum] {
		return
	} else {
		h.seen[sum] = true
	}
	h.opened++
	path := filepath.Join(h.dir, "after.db")
	require.NoError(h.t, os.WriteFile(path, content, 0o600))
	db, err := store.Open(path)
	require.NoError(h.t, err, "after %d operations", len(h.log))
	defer func() { require.NoError(h.t, db.Close()) }()
	h.judge(db)
}

// buckets are those that are there at all times, and where else something should be.
func (h *history) buckets() map[string]bool {
	all := map[string]bool{"system": true, "hosts": true, "groups": true, "jobs": true}
	for _, keys := range [][]string{slices.Collect(maps.Keys(h.values)), slices.Collect(maps.Keys(h.pending))} {
		for _, key := range keys {
			bucket, _, _ := strings.Cut(key, " ")
			all[bucket] = true
		}
	}
	return all
}

func (h *history) judge(db *store.DB) {
	got := map[string]json.RawMessage{}
	for bucket := range h.buckets() {
		require.NoError(h.t, db.Each(bucket, func(key string, decode func(any) error) error {
			var v json.RawMessage
			err := decode(&v)
			got[bucket+" "+key] = v
			return err
		}))
	}
	want, under := maps.Clone(h.values), 0
	for key, s := range h.pending {
		if !bytes.Equal(h.values[key], s.Value) && bytes.Equal(got[key], s.Value) {
			h.change(want, s)
			under++
		}
	}
	require.Equal(h.t, want, got, "after %d operations, with %d of %d changes under way", len(h.log), under, len(h.pending))
	if under > 1 {
		h.met++
	}
	require.GreaterOrEqual(h.t, db.LastEvent(), h.events, "an event that was seen is lost")
	events, err := db.EventsAfter(0, 1<<20)
	require.NoError(h.t, err)
	require.Len(h.t, events, int(db.LastEvent()), "events have gaps")
}

// serve starts an appliance on what is left when the power fails just after the API has answered. It must give the same
// answers, or newer ones.
func (h *history) serve() {
	for _, content := range [][]byte{h.log[:h.log.Synced()].Apply(nil), h.log.Lose(nil, h.chance)} {
		h.asked++
		path := filepath.Join(h.dir, "after.db")
		require.NoError(h.t, os.WriteFile(path, content, 0o600))
		w := newWitness(h.t, path, nil, func(context.Context, replication.Login, string) (hypervisors.Host, error) {
			return nil, hypervisors.ErrUnreachable
		})
		for _, s := range h.api {
			require.NoError(h.t, w.repeats(s))
		}
		w.stop()
	}
}

// witness is an appliance that says what it was told is durable.
type witness struct {
	t      *testing.T
	db     *store.DB
	engine *replication.Engine
	said   io.Writer // nil: nobody listens
}

func newWitness(t *testing.T, path string, said io.Writer, connect func(context.Context, replication.Login, string) (hypervisors.Host, error)) *witness {
	t.Helper()
	w := &witness{t: t, said: said}
	var err error
	w.db, err = store.Open(path)
	require.NoError(t, err)
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	w.engine, err = replication.New(t.Context(), replication.Options{Store: witnessedStore{w.db, w}, Log: log, Connect: connect,
		Bus: witnessedBus{store.NewBus(w.db, time.Now, log), w}, NoticeTime: time.Millisecond})
	require.NoError(t, err)
	return w
}

func (w *witness) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	require.NoError(w.t, w.engine.Close(ctx))
	require.NoError(w.t, w.db.Close())
}

// say writes a statement with one system call.
func (w *witness) say(s statement) {
	if w.said == nil {
		return
	}
	line, err := json.Marshal(s)
	if err == nil {
		_, err = w.said.Write(line)
	}
	if err != nil {
		panic(err)
	}
}

// change makes one change of the state, and says when it begins and when it is durable.
func (w *witness) change(bucket, key string, v any, do func() error) error {
	s := statement{What: "begin", Key: bucket + " " + key}
	if v != nil {
		var err error
		if s.Value, err = json.Marshal(v); err != nil {
			return err
		}
	}
	w.say(s)
	err := do()
	if err == nil {
		w.say(statement{What: "done", Key: s.Key})
	}
	return err
}

type witnessedStore struct {
	*store.DB
	w *witness
}

func (s witnessedStore) Put(bucket, key string, v any) error {
	return s.w.change(bucket, key, v, func() error { return s.DB.Put(bucket, key, v) })
}

func (s witnessedStore) Delete(bucket, key string) error {
	return s.w.change(bucket, key, nil, func() error { return s.DB.Delete(bucket, key) })
}

type witnessedBus struct {
	*store.Bus
	w *witness
}

func (b witnessedBus) Publish(e api.Event) {
	b.Bus.Publish(e)
	if e.Action != "progress" {
		b.w.say(statement{What: "events", Event: b.w.db.LastEvent()})
	}
}

// live is the life that is recorded: hosts, a group, cycles, changes that meet, a test, a failover.
func live(t *testing.T, dir string) {
	said, err := os.Create(filepath.Join(dir, "said"))
	require.NoError(t, err)
	defer said.Close()
	w := &world{t: t, faults: map[string]*hypervisortest.Faults{"home": {}, "away": {}}, now: time.Now()}
	w.home, w.away = fake.New("home", w.clock), fake.New("away", w.clock)
	l := newWitness(t, filepath.Join(dir, "state.db"), said, w.connect)
	w.engine = l.engine
	ctx := t.Context()
	for _, name := range []string{"home", "away"} {
		host, err := w.engine.AddHost(ctx, api.HostSpec{Name: name, URI: "fake:" + name})
		l.answer("host", host.ID, host.HostSpec, err)
	}
	vm := w.machine("web")
	g, err := w.engine.CreateGroup(ctx, spec("shop", "web"))
	l.answer("group", g.ID, g.GroupSpec, err)
	w.settle(g.ID)
	l.answerPoints(g.ID)
	for range 2 {
		w.write(w.home, vm, 10)
		l.order(w.engine.SyncNow(ctx, g.ID))
		l.answerPoints(g.ID)
	}
	l.crowd()
	l.order(w.engine.Test(ctx, g.ID, api.TestOrder{}))
	l.order(w.engine.EndTest(ctx, g.ID))
	l.order(w.engine.Failover(ctx, g.ID, api.FailoverOrder{Planned: true}))
	l.order(w.engine.Commit(ctx, g.ID))
	l.stop()
}

// crowd makes changes at once, as many groups do, so that they share transactions.
func (w *witness) crowd() {
	w.t.Helper()
	const size = 6
	for round := range 10 {
		var all errgroup.Group
		var begun, made sync.WaitGroup
		begun.Add(size)
		made.Add(size)
		for i := range size {
			key := fmt.Sprint("crowd ", i)
			all.Go(func() error {
				return w.change("system", key, round, func() error {
					begun.Done()
					begun.Wait()
					err := w.db.Put("system", key, round)
					made.Done()
					made.Wait() // a slow machine would do one after the other
					return err
				})
			})
		}
		require.NoError(w.t, all.Wait())
	}
}

// answer says what the API answered.
func (w *witness) answer(kind, id string, v any, err error) {
	w.t.Helper()
	require.NoError(w.t, err)
	text, err := json.Marshal(v)
	require.NoError(w.t, err)
	w.say(statement{What: "said", Key: kind + " " + id, Value: text})
}

func (w *witness) answerPoints(group string) {
	w.t.Helper()
	points, err := w.engine.ListPoints(w.t.Context(), group)
	w.answer("points", group, points, err)
}

// order waits for a job, and says what the API answered both when it was ordered and when it had ended.
func (w *witness) order(j api.Job, err error) {
	w.t.Helper()
	w.answer("job", j.ID, j, err)
	require.Eventually(w.t, func() bool {
		j, err = w.engine.GetJob(w.t.Context(), j.ID)
		return err == nil && j.State.Ended()
	}, waitFor, tick)
	require.Equal(w.t, api.JobSucceeded, j.State, j.Error)
	w.answer("job", j.ID, j, nil)
}

// repeats asks the API again for what it said once.
func (w *witness) repeats(s statement) error {
	var kind, id string
	if _, err := fmt.Sscan(s.Key, &kind, &id); err != nil {
		return err
	}
	ctx := w.t.Context()
	switch kind {
	case "host":
		host, err := w.engine.GetHost(ctx, id)
		return equal(host.HostSpec, s.Value, err)
	case "group":
		g, err := w.engine.GetGroup(ctx, id)
		return equal(g.GroupSpec, s.Value, err)
	case "points":
		points, err := w.engine.ListPoints(ctx, id)
		var said []api.Point
		if err := json.Unmarshal(s.Value, &said); err != nil {
			return err
		}
		if len(points) < len(said) {
			return fmt.Errorf("%d points of %d", len(points), len(said))
		}
		return equal(points[:len(said)], s.Value, err)
	case "job":
		j, err := w.engine.GetJob(ctx, id)
		var said api.Job
		if err := errors.Join(err, json.Unmarshal(s.Value, &said)); err != nil {
			return err
		}
		if said.State.Ended() {
			return equal(j, s.Value, nil)
		}
		if j.Kind != said.Kind || j.Group != said.Group {
			return fmt.Errorf("job %+v was %+v", j, said)
		}
		return nil
	}
	return fmt.Errorf("unknown answer %s", kind)
}

func equal(v any, said json.RawMessage, err error) error {
	if err != nil {
		return err
	}
	text, err := json.Marshal(v)
	if err == nil && !bytes.Equal(text, said) {
		err = fmt.Errorf("the API says %s, and once said %s", text, said)
	}
	return err
}
