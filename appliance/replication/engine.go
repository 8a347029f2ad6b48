// Package replication is the engine: it turns what users order and what the schedule demands into jobs that mirror,
// cycle, test, fail over and fail back. It implements [api.Service].
//
// # Where to start reading
//
//	cycle.go      one cycle, and the one rule: write, flush, commit, then remember, then let the source forget
//	failover.go   failover, commit, roll back
//	reverse.go    reprotect and failback: the same cycle, with the roles swapped
//	testing.go    test failover in a bubble, beside running replication
//	verify.go     comparing replicas with their sources, on order or by schedule; inspect.go how, suspect.go what follows
//	observe.go    what is told of groups that miss their target, and contact.go of hosts that are away or full
//	chronicle.go  history
//	stages.go     how machines come up: stages, runbook, checks and pictures; boot.go, actions.go
//	report.go     the record of each order that is kept
//	guard.go      machines that run although they must not: split brain
//	schedule.go   when the next cycle starts
//
// It owns the groups and hosts as users see them and the order in which drivers are called. It never names a driver,
// never touches disk formats, and decides nothing that package protection can decide without it.
package replication

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"understudy/api"
	"understudy/appliance/jobs"
	"understudy/hypervisors"
	"understudy/provisioning/linux"
	"understudy/snapshot"
)

// Store keeps JSON values by bucket and key; a Put is durable when it returns. *store.DB is one.
type Store interface {
	jobs.Store
	// Drop removes a bucket with everything in it. None there is success.
	Drop(bucket string) error
	// Get reads one value into v.
	Get(bucket, key string, v any) error
}

// Bus distributes what happened.
type Bus interface {
	Publish(api.Event)
	Subscribe(ctx context.Context, after uint64) (<-chan api.Event, error)
}

// Options of an Engine; all are needed unless they say otherwise.
type Options struct {
	Store Store
	Bus   Bus
	// Connect opens a host on behalf of owner (the appliance's identity, which drivers put on everything they make). An
	// *api.Error may name the field of api.HostSpec that is wrong.
	Connect func(ctx context.Context, to Login, owner string) (hypervisors.Host, error)
	// Certificate is what the appliance proves itself with. Nil: nobody is told when it expires.
	Certificate func() (api.Certificate, error)
	// Secrets keeps the passwords of hosts. Nil: there can be none.
	Secrets Secrets
	Version string
	Clock   func() time.Time // nil: time.Now
	Log     *slog.Logger     // nil: slog.Default
	// KillPoint is that of jobs.Options, for tests that stop there; it is called around each write of a group too, with
	// kind "group". May be nil.
	KillPoint func(kind, step, phase string)
	// ShutdownTimeout bounds how long a guest may take to shut down. 0: 5 minutes.
	ShutdownTimeout time.Duration
	// AtOnce bounds how many machines are started, or ended, at once on one host, and how many due cycles are submitted
	// at once. 0: 8. With 1 everything happens in order.
	AtOnce int
	// KeepReports bounds how many reports are kept. 0: 10,000.
	KeepReports int
	// Scripts runs what runbooks name. Nil: nothing can be run.
	Scripts Scripts
	// LookInside tells what the Linux on a disk starts with, of [provisioning.LinuxModules]; see linux.Apart. Nil: nobody knows.
	LookInside func(ctx context.Context, disk io.ReaderAt, size int64) (linux.System, error)
	// Sleep waits, or ends with ctx. Nil: by the clock of the machine.
	Sleep func(ctx context.Context, d time.Duration) error
	// NoticeTime is how long a hypervisor may take to notice that a machine has died. 0: 10 seconds.
	NoticeTime time.Duration
}

// Engine implements api.Service.
type Engine struct {
	Options
	owner   string
	started time.Time
	runner  *jobs.Runner

	mu     sync.Mutex
	groups map[string]*group
	byName []string // ids of the groups in the order of their names; nil: not known now
	hosts  map[string]*endpoint
	limits map[string]*snapshot.Limiter // by group
	// retired are connections that were replaced while they were used.
	retired []retired
	line    line // what all of them share
	// creating are groups that are recorded but not provisioned yet.
	creating map[string]bool
	owed     map[string][]owed // by group
	doubts   map[machine][]hypervisors.ChangeID
	// hostAlerts are the alerts of hosts, by id; healths are those of groups at the last look.
	hostAlerts map[string][]api.Alert
	ownAlert   *api.Alert // about the appliance itself; never changed, only replaced
	healths    map[string]api.Health
	chronicle  *chronicle
	archive    archive
	ticked     atomic.Int64 // Clock in ns when the schedule was looked at last; 0 before Run

	stop func()
	done sync.WaitGroup
}

var _ api.Service = (*Engine)(nil)

const (
	bucketSystem = "system"
	bucketHosts  = "hosts"
	bucketGroups = "groups"

	bucketReports = "reports"
	bucketScreens = "report-screens" // of machines, for the newest reports
	bucketOutputs = "report-outputs" // of actions
)

// New loads the state, connects the hosts, removes what an earlier life left on them and resumes its jobs. Hosts that
// cannot be reached do not stop it: they are tried again whenever they are needed. Call Run to start the schedule.
func New(ctx context.Context, o Options) (*Engine, error) {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.ShutdownTimeout == 0 {
		o.ShutdownTimeout = 5 * time.Minute
	}
	if o.AtOnce == 0 {
		o.AtOnce = 8
	}
	if o.NoticeTime == 0 {
		o.NoticeTime = 10 * time.Second
	}
	if o.KeepReports == 0 {
		o.KeepReports = keepReports
	}
	if o.Sleep == nil {
		o.Sleep = sleep
	}
	if o.KillPoint == nil {
		o.KillPoint = func(string, string, string) {}
	}
	e := &Engine{Options: o, started: o.Clock(), groups: map[string]*group{}, hosts: map[string]*endpoint{},
		limits: map[string]*snapshot.Limiter{}, line: line{limit: snapshot.NewLimiter(0)}, creating: map[string]bool{}, owed: map[string][]owed{},
		hostAlerts: map[string][]api.Alert{}, healths: map[string]api.Health{},
		doubts: map[machine][]hypervisors.ChangeID{}}
	if err := e.load(); err != nil {
		return nil, err
	}
	e.chronicle = newChronicle(o.Store)
	e.runner = jobs.New(jobs.Options{Store: o.Store, Publish: o.Bus.Publish, Clock: o.Clock, Log: o.Log, KillPoint: o.KillPoint})
	for _, kind := range e.kinds() {
		e.runner.Register(kind)
	}
	e.connectAll(ctx)
	if err := e.runner.Resume(ctx); err != nil {
		return nil, fmt.Errorf("resume jobs: %w", err)
	}
	return e, nil
}

// kinds are all jobs there are.
func (e *Engine) kinds() []jobs.Kind {
	return []jobs.Kind{
		e.mirrorKind(), e.cycleKind(), e.verifyKind(), e.testKind(), e.endTestKind(), e.failoverKind(), e.commitKind(), e.rollbackKind(),
		e.reprotectKind(), e.failbackKind(), e.fenceKind(), e.dropPointKind(), e.removeKind(),
	}
}

// Kinds gives every kind of job with its steps and undos (jobs.Kind.Work), for tests that must visit them all. They are
// not connected to anything: nothing of them may be called.
func Kinds() []jobs.Kind { return new(Engine).kinds() }

// Run keeps the schedule until Close.
func (e *Engine) Run() {
	ctx, stop := context.WithCancel(context.Background())
	e.stop = stop
	e.ticked.Store(e.Clock().UnixNano())
	e.done.Go(func() { e.schedule(ctx) })
	e.done.Go(func() { e.observe(ctx) })
	e.done.Go(func() { e.watch(ctx) }) // apart: a host that does not answer must not delay the cycles of others
}

// Close interrupts the jobs, which go on at the next New, and disconnects the hosts.
func (e *Engine) Close(ctx context.Context) error {
	if e.stop != nil {
		e.stop()
	}
	e.done.Wait()
	err := errors.Join(e.runner.Close(ctx), e.closeHistory(ctx))
	e.mu.Lock()
	all, former := slices.Collect(maps.Values(e.hosts)), e.retired
	e.retired = nil
	e.mu.Unlock()
	for _, p := range all {
		err = errors.Join(err, p.close())
	}
	for _, r := range former {
		err = errors.Join(err, r.connection.Close())
	}
	return err
}

// About tells who answers.
func (e *Engine) About(context.Context) (api.About, error) {
	return api.About{Appliance: e.owner, Version: e.Version, Started: e.started}, nil
}

func (e *Engine) load() error {
	if err := e.loadOwner(); err != nil {
		return err
	}
	if err := e.loadCalendar(); err != nil {
		return err
	}
	if err := e.Store.Each(bucketHosts, func(_ string, decode func(any) error) error {
		var rec hostRecord
		if err := decode(&rec); err != nil {
			return err
		}
		rec.Revision = max(1, rec.Revision) // it had none once
		e.hosts[rec.ID] = e.newEndpoint(rec)
		return nil
	}); err != nil {
		return fmt.Errorf("load hosts: %w", err)
	}
	e.forgetStrayPasswords()
	if err := e.loadOwnAlert(); err != nil {
		return err
	}
	if err := e.loadHostAlerts(); err != nil {
		return err
	}
	if err := e.Store.Each(bucketGroups, func(_ string, decode func(any) error) error {
		g := &group{writing: new(sync.Mutex), watching: new(sync.Mutex)}
		if err := decode(g); err != nil {
			return err
		}
		for i := range g.Members { // as it was recorded once
			g.Members[i].Stopped = g.Members[i].Stopped || g.Stopped
		}
		g.Stopped = false
		if t := g.Test; g.Tested.IsZero() && t != nil && t.State == "passed" && t.Ended != nil { // likewise
			g.Tested = *t.Ended
		}
		e.groups[g.ID] = g
		return nil
	}); err != nil {
		return fmt.Errorf("load groups: %w", err)
	}
	return e.loadReports()
}

// loadOwner finds the appliance's identity, or makes it at the first start.
func (e *Engine) loadOwner() error {
	if err := e.loadSystem("owner", &e.owner); err != nil {
		return fmt.Errorf("load identity: %w", err)
	}
	if e.owner != "" {
		return nil
	}
	e.owner = newID()
	return e.Store.Put(bucketSystem, "owner", e.owner)
}

// loadSystem decodes what bucketSystem has under a key. Where it has nothing, v stays as it is.
func (e *Engine) loadSystem(key string, v any) error {
	return e.Store.Each(bucketSystem, func(k string, decode func(any) error) error {
		if k != key {
			return nil
		}
		return decode(v)
	})
}

// newID makes eight hexadecimal digits: short enough for the names of files and networks on the hosts.
func newID() string {
	var b [4]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func (e *Engine) publish(kind, action, subject, group, message string) {
	e.Bus.Publish(api.Event{Time: e.Clock(), Kind: kind, Action: action, Subject: subject, Group: group, Message: message})
}

// limiter is the bandwidth of a group, shared by all its copies and following its policy.
func (e *Engine) limiter(g group) *snapshot.Limiter {
	rate := bytesPerSecond(g.Spec.Policy.BandwidthMbit)
	e.mu.Lock()
	defer e.mu.Unlock()
	l, ok := e.limits[g.ID]
	if !ok {
		l = snapshot.NewLimiter(rate).Within(e.line.limit)
		e.limits[g.ID] = l
	}
	l.Set(rate)
	return l
}
