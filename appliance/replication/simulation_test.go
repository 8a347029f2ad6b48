package replication_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/appliance/replication"
	"understudy/hypervisors"
	"understudy/hypervisors/fake"
	"understudy/hypervisors/hypervisortest"
)

// A simulation is an engine, two hypervisors in memory, several groups, users, guests and disasters, all in one bubble
// of package synctest and all moved by one random source: whenever every goroutine rests, it decides what happens next.
// Jobs rest before every call of theirs that changes a host (a gate); of those that wait there, one goes on, and meets
// whatever the seed has for it: a failure, an unknown outcome, the death of the appliance. So a seed is a run, exactly.
type simulation struct {
	t       *testing.T
	rng     *rand.Rand
	trace   hash.Hash
	lines   []string // the newest of the trace, for people
	disk    *memoryState
	hosts   map[string]*fake.Hypervisor
	engine  *replication.Engine
	life    *life
	owner   string
	groups  []*simGroup
	offset  atomic.Int64 // of the clock that the appliance and the hosts see, ns
	truth   sync.Map     // what a machine held at a checkpoint: "point machine" → digest
	cut     bool         // hosts may be away now
	cycles  int          // mirrors and cycles that ended, well or not
	counts  map[string]int
	problem map[string]bool // hosts that do not answer now

	mu      sync.Mutex
	pending map[string]*gate
	ended   []api.Job
	alerts  []string        // what was told of them: action, kind, and name of what they are about
	known   map[string]bool // jobs whose end was seen
	users   int             // orders under way
	orders  map[string]bool // and to which groups
}

// life is one life of the appliance, from its start to its death.
type life struct {
	s    *simulation
	dead atomic.Bool
	// What happens to the calls and writes of the job that was let go last; counted down to 1.
	fault atomic.Pointer[strike]
	kill  atomic.Int32 // kill points
	full  atomic.Int32 // writes of the state
}

// strike is a fault that waits for a call. about, if set, is what the call is about; else it is not about the second
// machine of a group: two machines are worked on at once, and which of them makes its call first is not decided here.
type strike struct {
	call  string
	about string
	when  hypervisortest.When
	err   error
	then  func() // what else happens; may be nil
}

// gate is a call that rests.
type gate struct{ open chan struct{} }

// gated calls are made by jobs, never while they hold a lock, and never the same one by two jobs at once.
var gated = map[hypervisortest.Call]bool{"Source.Checkpoint": true, "Replica.Draft": true,
	"DraftDisk.Flush": true, "Draft.Commit": true, "Replica.Drop": true, "Replica.Run": true, "Replica.End": true,
	"Replica.Settle": true, "Replica.Delete": true, "Target.Adopt": true, "Target.CreateReplica": true, "Power.Start": true,
	"Power.Stop": true, "Power.Shutdown": true, "Isolation.IsolatedNetwork": true, "Isolation.RemoveNetwork": true,
	"Isolation.AssertIsolated": true}

// simulate runs one seed until so many mirrors and cycles have ended, and returns the hash of its trace.
func simulate(t *testing.T, seed uint64, cycles int) (trace string) {
	cryptotest.SetGlobalRandom(t, seed)
	defer debug.SetGCPercent(debug.SetGCPercent(800)) // buffers come and go, little stays
	synctest.Test(t, func(t *testing.T) {
		s := &simulation{t: t, rng: rand.New(rand.NewPCG(seed, 7)), trace: sha256.New(), pending: map[string]*gate{},
			disk: &memoryState{data: map[string]map[string][]byte{}}, counts: map[string]int{}, orders: map[string]bool{}, known: map[string]bool{}, problem: map[string]bool{}}
		defer s.explain(seed)
		s.setUp()
		for s.cycles < cycles {
			s.chaos(40 + s.rng.IntN(200))
			s.settle()
		}
		s.stop()
		if cycles >= longRun {
			s.covered()
		}
		trace = fmt.Sprintf("%x", s.trace.Sum(nil))
		t.Logf("seed %d: %d cycles, trace %s, %v", seed, s.cycles, trace[:16], s.counts)
	})
	return trace
}

// longRun is so many cycles that everything must have happened in them.
const longRun = 10_000

// covered expects that every kind of disaster and of job happened, and that each job came to a good end.
func (s *simulation) covered() {
	for _, what := range disasters {
		require.NotZero(s.t, s.counts[what], "no disaster: %s", what)
	}
	for _, kind := range replication.Kinds() {
		if kind.Name != "remove" { // the groups stay the same
			require.NotZero(s.t, s.counts[kind.Name+" succeeded"], "no %s succeeded", kind.Name)
		}
	}
	for _, what := range []string{startedMeanwhile, notUndone, "rot is found", "outage in peace"} {
		require.NotZero(s.t, s.counts[what], what)
	}
}

// explain shows how it came to a failure.
func (s *simulation) explain(seed uint64) {
	if s.t.Failed() {
		defer s.stop() // a bubble must not be left by its first goroutine alone
		s.t.Logf("SEED=%d repeats this run; its last moves:\n%s", seed, strings.Join(s.lines, "\n"))
	}
}

func (s *simulation) note(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	_, _ = io.WriteString(s.trace, line+"\n")
	if s.lines = append(s.lines, s.clock().Format("0102-150405.000 ")+line); len(s.lines) > 400 {
		s.lines = slices.Delete(s.lines, 0, 200)
	}
}

// clock is wall time alone, as a monotonic reading would hide that it jumped.
func (s *simulation) clock() time.Time {
	return time.Now().Round(0).UTC().Add(time.Duration(s.offset.Load()))
}

// start is a start of the appliance.
func (s *simulation) start() {
	l := &life{s: s}
	engine, err := replication.New(s.t.Context(), replication.Options{KeepReports: 30, Store: mortalState{s.disk, l}, Bus: simBus{l}, Clock: s.clock,
		Connect: l.connect, Log: slog.New(slog.DiscardHandler), KillPoint: l.killPoint, NoticeTime: time.Second, AtOnce: 64})
	require.NoError(s.t, err)
	s.engine, s.life = engine, l
	about, err := engine.About(s.t.Context())
	require.NoError(s.t, err)
	require.Contains(s.t, []string{"", about.Appliance}, s.owner, "the appliance has become another one")
	s.owner = about.Appliance
}

// stop ends the appliance, dead or alive; whatever rests is sent home.
func (s *simulation) stop() {
	l := s.life
	l.dead.Store(true)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		_ = s.engine.Close(ctx) // a dead process cannot say goodbye
	}()
	for ended := false; !ended; {
		for _, key := range s.waiting() {
			s.open(key)
		}
		select {
		case <-done:
			ended = true
		case <-time.After(time.Millisecond):
		}
	}
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = nil
}

func (l *life) connect(_ context.Context, to replication.Login, owner string) (hypervisors.Host, error) {
	name := strings.TrimPrefix(to.URI, "fake:")
	if l.dead.Load() {
		return nil, hypervisors.ErrUnreachable
	}
	f := &hypervisortest.Faults{}
	f.Each(func(ctx context.Context, call hypervisortest.Call, when hypervisortest.When, subject string) error {
		return l.meet(ctx, name, call, when, subject)
	})
	return hypervisortest.Wrap(l.s.hosts[name].Connect(owner), f), nil
}

// meet is around every call to a host.
func (l *life) meet(_ context.Context, host string, call hypervisortest.Call, when hypervisortest.When, subject string) error {
	if call == "Source.Checkpoint" && when == hypervisortest.After {
		l.s.witness(host, subject)
	}
	if when == hypervisortest.Before && gated[call] && !l.dead.Load() {
		l.s.wait(host + " " + string(call) + " " + subject)
	}
	if f := l.fault.Load(); f != nil && f.call == string(call) && f.when == when && f.befalls(l.s, subject) && l.fault.CompareAndSwap(f, nil) {
		if f.then != nil {
			f.then()
		}
		if errors.Is(f.err, errKilled) {
			l.dead.Store(true)
		} else {
			return f.err
		}
	}
	if l.dead.Load() {
		return hypervisors.ErrUnreachable
	}
	return nil
}

func (f *strike) befalls(s *simulation, subject string) bool {
	if f.about != "" {
		return f.about == subject
	}
	first, _, _ := strings.Cut(subject, " ")
	return !strings.HasSuffix(strings.TrimSuffix(first, "-home"), "-2") && !slices.ContainsFunc(s.groups, func(g *simGroup) bool {
		return len(g.machines) > 1 && (first == g.machines[1].vm || first == g.machines[1].replica)
	})
}

var errKilled = errors.New("the appliance was killed")

func (l *life) killPoint(string, string, string) {
	if l.kill.Load() > 0 && l.kill.Add(-1) == 0 {
		l.dead.Store(true)
	}
}

// callOf is the call of a gate's key, and what it is about.
func callOf(key string) (call, about string) {
	parts := strings.SplitN(key, " ", 3)
	return parts[1], parts[2]
}

// wait rests until the simulation lets this call go on.
func (s *simulation) wait(key string) {
	g := &gate{open: make(chan struct{})}
	s.mu.Lock()
	if s.pending[key] != nil {
		panic("two jobs at once make one call: " + key) // and a run could not be repeated
	}
	s.pending[key] = g
	s.mu.Unlock()
	<-g.open
}

func (s *simulation) waiting() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	keys := make([]string, 0, len(s.pending))
	for key := range s.pending {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

func (s *simulation) open(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.pending[key].open)
	delete(s.pending, key)
}

// pause lets time pass until every goroutine rests again; what was to befall the last job is over.
func (s *simulation) pause(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
	s.life.fault.Store(nil)
	s.life.kill.Store(0)
	s.life.full.Store(0)
}

// memoryState keeps what was put, as JSON: nothing is shared between the lives of the appliance.
type memoryState struct {
	mu   sync.Mutex
	data map[string]map[string][]byte
}

var errFull = errors.New("no space for the state")

func (m *memoryState) Put(bucket, key string, v any) error {
	value, err := json.Marshal(v)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.data[bucket] == nil {
		m.data[bucket] = map[string][]byte{}
	}
	m.data[bucket][key] = value
	return nil
}

func (m *memoryState) Delete(bucket, key string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.data[bucket], key)
	return nil
}

func (m *memoryState) Drop(bucket string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.data, bucket)
	return nil
}

func (m *memoryState) Get(bucket, key string, v any) error {
	m.mu.Lock()
	value, found := m.data[bucket][key]
	m.mu.Unlock()
	if !found {
		return errors.New("not found")
	}
	return json.Unmarshal(value, v)
}

func (m *memoryState) Each(bucket string, fn func(key string, decode func(v any) error) error) error {
	m.mu.Lock()
	all := maps.Clone(m.data[bucket])
	m.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if err := fn(key, func(v any) error { return json.Unmarshal(all[key], v) }); err != nil {
			return err
		}
	}
	return nil
}

// mortalState fails once its appliance is dead, and when it is full.
type mortalState struct {
	*memoryState
	l *life
}

func (m mortalState) Put(bucket, key string, v any) error {
	switch {
	case m.l.dead.Load():
		return errDead
	case m.l.full.Load() > 0 && m.l.full.Add(-1) == 0:
		return errFull
	}
	return m.memoryState.Put(bucket, key, v)
}

func (m mortalState) Delete(bucket, key string) error {
	if m.l.dead.Load() {
		return errDead
	}
	return m.memoryState.Delete(bucket, key)
}

// simBus hears which jobs end.
type simBus struct{ l *life }

func (b simBus) Publish(e api.Event) {
	if e.Kind == "alert" && !b.l.dead.Load() {
		b.l.s.told(e)
	}
	if e.Job == nil || e.Action != "updated" || !e.Job.State.Ended() || b.l.dead.Load() {
		return
	}
	s := b.l.s
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = append(s.ended, *e.Job)
}

func (simBus) Subscribe(context.Context, uint64) (<-chan api.Event, error) {
	return nil, errors.New("nobody listens")
}

// TestSimulation runs ten thousand cycles of one seed. SEED=… chooses another, CYCLES=… how many.
func TestSimulation(t *testing.T) {
	simulate(t, number("SEED", 1), int(number("CYCLES", simulatedCycles)))
}

// TestSimulationRepeats proves that a seed is a run: the second time everything happens in the same order.
func TestSimulationRepeats(t *testing.T) {
	seed := number("SEED", 2)
	var traces []string
	for _, name := range []string{"once", "again"} {
		t.Run(name, func(t *testing.T) { traces = append(traces, simulate(t, seed, 80)) })
	}
	require.Equal(t, traces[0], traces[1])
	t.Run("other", func(t *testing.T) { require.NotEqual(t, traces[0], simulate(t, seed+1, 10)) })
}

// TestSimulationSeeds runs SEEDS=… seeds from SEED=… on, each for CYCLES=… cycles.
func TestSimulationSeeds(t *testing.T) {
	first := number("SEED", 100)
	for seed := first; seed < first+number("SEEDS", 2); seed++ {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) { simulate(t, seed, int(number("CYCLES", 60))) })
	}
}

func number(name string, otherwise uint64) uint64 {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil {
		panic(name + ": " + err.Error())
	}
	return n
}
