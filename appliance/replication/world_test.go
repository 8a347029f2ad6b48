package replication_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/appliance/replication"
	"understudy/appliance/store"
	"understudy/appliance/vault"
	"understudy/hypervisors"
	"understudy/hypervisors/fake"
	"understudy/hypervisors/hypervisortest"
	"understudy/provisioning/linux"
)

const mib = 1 << 20

// waitFor bounds waiting for a condition that comes in milliseconds; tick is how often it is looked at.
const (
	waitFor = time.Minute
	tick    = time.Millisecond
)

// world is two hypervisors in memory, the appliance's state on disk, and an engine that can be killed and started again.
type world struct {
	t            *testing.T
	home, away   *fake.Hypervisor
	third        *fake.Hypervisor // nobody has added
	path         string
	faults       map[string]*hypervisortest.Faults // by host
	kill         func(kind, step, phase string)
	dead         atomic.Bool // cut off from the world, see cut
	db           *store.DB
	engine       *replication.Engine
	shutdownTime time.Duration
	noticeTime   time.Duration
	atOnce       int
	scripts      *play
	keepReports  int
	certificate  func() (api.Certificate, error) // of the appliance; nil: nobody looks
	// sleeps is asked instead of sleeping; nil: the clock moves on at once.
	sleeps func(ctx context.Context, d time.Duration) error
	// inside tells what is on a disk; nil: nothing that can be looked into.
	inside func(ctx context.Context, disk io.ReaderAt, size int64) (linux.System, error)
	// answers lets whoever waits for a job confirm its manual steps.
	answers bool

	mu   sync.Mutex
	now  time.Time
	open []connection
	// logins are all that were tried; passwords are those of users, where somebody signs in.
	logins    []replication.Login
	passwords map[string]string
	vault     *vault.Vault
	refuses   error // what every connection is answered; nil: it is made
	// before is asked before each write of the state; nil: it is made.
	before func(bucket string) error
}

func newWorld(t *testing.T, away ...fake.Option) *world {
	w := &world{t: t, scripts: &play{}, path: filepath.Join(memory(t), "state.db"), now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		faults: map[string]*hypervisortest.Faults{"home": hypervisortest.NewFaults(t), "away": hypervisortest.NewFaults(t)}}
	w.home = fake.New("home", w.clock, fake.WithNetwork("lan"))
	w.away = fake.New("away", w.clock, append(away, fake.WithNetwork("lan"))...)
	w.third = fake.New("third", w.clock)
	w.start()
	t.Cleanup(w.stop)
	w.addHost("home")
	w.addHost("away")
	return w
}

// memory is a directory that needs no disk: what fsync is good for is proved where the store is tested.
func memory(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "understudy-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

// clock moves on a little with every look, so that no two moments are the same.
func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(time.Millisecond)
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func (w *world) connect(_ context.Context, to replication.Login, owner string) (hypervisors.Host, error) {
	uri := to.URI
	w.mu.Lock()
	w.logins = append(w.logins, to)
	w.mu.Unlock()
	if w.refuses != nil {
		return nil, w.refuses
	}
	if to.User != "" && to.Password.Reveal() != w.passwords[to.User] {
		return nil, &hypervisors.Error{Op: "connect host", Subject: uri, Err: hypervisors.ErrUnauthorized, Hint: "Check name and password."}
	}
	hosts := map[string]*fake.Hypervisor{"fake:home": w.home, "fake:away": w.away, "fake:third": w.third}
	name, _, _ := strings.Cut(uri, "?")
	hv, known := hosts[name]
	if !known {
		return nil, &hypervisors.Error{Op: "connect host", Subject: uri, Err: hypervisors.ErrUnreachable, Hint: "Check the address."}
	}
	var host hypervisors.Host
	if faults := w.faults[strings.TrimPrefix(name, "fake:")]; faults != nil {
		host = hypervisortest.Wrap(hv.Connect(owner), faults)
	} else {
		host = hv.Connect(owner)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open = append(w.open, connection{host, uri})
	return host, nil
}

// connection is one that an engine has made.
type connection struct {
	host hypervisors.Host
	uri  string
}

// connections counts those to an address that still answer.
func (w *world) connections(uri string) (open int) {
	w.t.Helper()
	w.mu.Lock()
	all := slices.Clone(w.open)
	w.mu.Unlock()
	for _, c := range all {
		if _, err := c.host.Info(w.t.Context()); err == nil && c.uri == uri {
			open++
		}
	}
	return open
}

func (w *world) start() {
	w.t.Helper()
	db, err := store.Open(w.path)
	require.NoError(w.t, err)
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	w.dead.Store(false)
	w.vault, err = vault.Open(w.keyFile(), mortal{db, w})
	require.NoError(w.t, err)
	engine, err := replication.New(w.t.Context(), replication.Options{Store: mortal{db, w}, Bus: store.NewBus(db, w.clock, log),
		Connect: w.connect, Secrets: w.vault, Certificate: w.certificate, Clock: w.clock, Log: log, ShutdownTimeout: w.shutdownTime, NoticeTime: w.notice(), AtOnce: w.atOnce, Scripts: w.scripts, KeepReports: w.keepReports, Sleep: w.sleep,
		LookInside: w.lookInside,
		KillPoint: func(kind, step, phase string) {
			if w.kill != nil {
				w.kill(kind, step, phase)
			}
		}})
	require.NoError(w.t, err)
	w.db, w.engine = db, engine
}

func (w *world) lookInside(ctx context.Context, disk io.ReaderAt, size int64) (linux.System, error) {
	if w.inside == nil {
		return linux.System{}, linux.ErrUnknown
	}
	return w.inside(ctx, disk, size)
}

func (w *world) keyFile() string { return filepath.Join(filepath.Dir(w.path), "secret.key") }

// notice is short, because on the fake a machine that is on stays on, except where a test wants to see the waiting.
func (w *world) notice() time.Duration {
	if w.noticeTime > 0 {
		return w.noticeTime
	}
	return time.Millisecond
}

func (w *world) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := w.engine.Close(ctx)
	if !w.dead.Load() {
		require.NoError(w.t, err)
	}
	require.NoError(w.t, w.db.Close())
}

// cut is SIGKILL as the world sees it: from this moment on nothing that the engine does has any effect, neither on the
// hosts nor on its state. What is left of it is collected by the next stop.
func (w *world) cut() {
	w.dead.Store(true)
	w.home.BreakConnections()
	w.away.BreakConnections()
}

// mortal is a store that fails once its process is dead.
type mortal struct {
	*store.DB
	w *world
}

var errDead = errors.New("the process is dead")

func (m mortal) Put(bucket, key string, v any) error {
	if m.w.dead.Load() {
		return errDead
	}
	if m.w.before != nil {
		if err := m.w.before(bucket); err != nil {
			return err
		}
	}
	return m.DB.Put(bucket, key, v)
}

func (m mortal) Delete(bucket, key string) error {
	if m.w.dead.Load() {
		return errDead
	}
	return m.DB.Delete(bucket, key)
}

func (w *world) restart() { w.stop(); w.start() }

func (w *world) addHost(name string) {
	w.t.Helper()
	_, err := w.engine.AddHost(w.t.Context(), api.HostSpec{Name: name, URI: "fake:" + name})
	require.NoError(w.t, err)
}

const answer = "10.0.0.10:80"

// machine makes a running machine with two disks and a guest that writes records and answers HTTP.
func (w *world) machine(name string) string {
	w.t.Helper()
	id := w.home.AddVM(hypervisors.Hardware{Name: name, Disks: []hypervisors.Disk{{Size: 8 * mib}, {Size: 4 * mib}},
		NICs: []hypervisors.NIC{{Network: "lan"}}, GuestAgent: true})
	require.NoError(w.t, w.home.Guest(id).Install(fake.GuestConfig{Seed: 1, Serves: map[string]string{answer: "hello from " + name}}))
	require.NoError(w.t, w.home.Start(id))
	w.write(w.home, id, 100)
	return id
}

func (w *world) write(hv *fake.Hypervisor, vm string, n int) uint64 {
	w.t.Helper()
	last, err := hv.Guest(vm).Step(n)
	require.NoError(w.t, err)
	return last
}

func spec(name string, machines ...string) api.GroupSpec {
	s := api.GroupSpec{Name: name, SourceHost: "home", TargetHost: "away", Policy: api.Policy{RPOSeconds: 10, VerifyCycles: true}}
	for _, m := range machines {
		s.Machines = append(s.Machines, api.GroupMachine{VM: m, Checks: []api.Check{{Kind: "http", Address: "http://" + answer + "/", Contains: "hello"}}})
	}
	return s
}

// protect makes a group and waits for its first mirror.
func (w *world) protect(s api.GroupSpec) api.Group {
	w.t.Helper()
	g, err := w.engine.CreateGroup(w.t.Context(), s)
	require.NoError(w.t, err)
	w.settle(g.ID)
	g = w.group(g.ID)
	require.Equal(w.t, api.StateProtected, g.State, "problem: %s", g.Problem)
	return g
}

// settle waits until no job of the group is at work.
func (w *world) settle(group string) {
	w.t.Helper()
	for _, j := range w.jobs(group, 100) {
		w.wait(j.ID)
	}
}

// jobs are the newest of a group.
func (w *world) jobs(group string, limit int) []api.Job {
	w.t.Helper()
	page, err := w.engine.ListJobs(w.t.Context(), api.JobQuery{Group: group, Paging: api.Paging{Limit: limit}})
	require.NoError(w.t, err)
	return page.Items
}

func (w *world) wait(job string) api.Job {
	w.t.Helper()
	require.Eventually(w.t, func() bool {
		return w.ended(job)
	}, waitFor, tick)
	j, err := w.engine.GetJob(w.t.Context(), job)
	require.NoError(w.t, err)
	return j
}

// done expects an order to be accepted and its job to succeed.
func (w *world) done(j api.Job, err error) api.Job {
	w.t.Helper()
	require.NoError(w.t, err)
	j = w.wait(j.ID)
	require.Equal(w.t, api.JobSucceeded, j.State, "%s: step %s: %s", j.Kind, j.Step, j.Error)
	return j
}

func (w *world) group(ref string) api.Group {
	w.t.Helper()
	g, err := w.engine.GetGroup(w.t.Context(), ref)
	require.NoError(w.t, err)
	return g
}

func (w *world) points(ref string) []api.Point {
	w.t.Helper()
	p, err := w.engine.ListPoints(w.t.Context(), ref)
	require.NoError(w.t, err)
	return p
}

// records judges the disks of a running or stopped machine and gives its newest record.
func (w *world) records(hv *fake.Hypervisor, vm string) uint64 {
	w.t.Helper()
	newest, err := fake.CheckRecords(hv.Disks(vm))
	require.NoError(w.t, err)
	return newest
}

// clean expects that nothing temporary is left on either host.
func (w *world) clean() {
	w.t.Helper()
	require.Empty(w.t, w.home.Leftovers())
	require.Empty(w.t, w.away.Leftovers())
}

// neverBoth expects that a machine runs on at most one side, tests aside.
func (w *world) neverBoth(g api.Group) {
	w.t.Helper()
	for _, m := range g.Members {
		require.False(w.t, w.running(w.home, m.SourceVM) && w.running(w.away, m.TargetVM), "%s runs on both sides", m.Name)
	}
}

func (w *world) running(hv *fake.Hypervisor, vm string) bool {
	v, err := hv.Connect("observer").VM(w.t.Context(), vm)
	return err == nil && v.State == hypervisors.Running
}

// refused expects an order to be refused with a code, telling what happened and what to do.
func (w *world) refused(err error, code api.Code, words ...string) {
	w.t.Helper()
	require.Error(w.t, err)
	require.Equal(w.t, code, api.CodeOf(err), "%v", err)
	for _, word := range words {
		require.True(w.t, strings.Contains(err.Error(), word), "%q does not say %q", err, word)
	}
}
