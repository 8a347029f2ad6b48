package replication_test

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/hypervisors"
	"understudy/hypervisors/fake"
	"understudy/hypervisors/hypervisortest"
)

const kib = 1 << 10

// simGroup is a group, and what the simulation knows of it.
type simGroup struct {
	name     string
	id       string
	home     string // host
	away     string
	machines []*simMachine

	// What must still be there: see simulation_checks_test.go.
	spec     api.GroupSpec
	paused   bool
	points   []string
	reversed bool
	keep     int             // points that no policy dropped since points were looked at
	dropped  map[string]bool // points that were ordered to go
	rotten   map[string]bool // points that the target does not give back as they were
	// unsure: an order lost writes as it must, or a write had an unknown outcome.
	unsure bool
}

type simMachine struct {
	vm, replica string // ids of the machine on both sides
	last        uint64 // newest record that the guest was told is durable
	disks       int
	leavesOut   bool // it has a disk that is not protected
	// down are the hosts on which it died: nobody else may have turned it off.
	down map[string]bool
}

// leftOutDisk is the disk of some machines that is not protected, and leftOutText what it holds.
const leftOutDisk, leftOutText = "scratch", "nobody else has this"

// setUp makes the hosts, machines and groups, in peace.
func (s *simulation) setUp() {
	s.hosts = map[string]*fake.Hypervisor{"east": fake.New("east", s.clock, fake.WithNetwork("lan")), "west": fake.New("west", s.clock, fake.WithNetwork("lan"))}
	groups := []*simGroup{
		{name: "shop", home: "east", away: "west", machines: make([]*simMachine, 2)},
		{name: "mail", home: "east", away: "west", machines: make([]*simMachine, 1)},
		{name: "wiki", home: "west", away: "east", machines: make([]*simMachine, 1)},
		{name: "bank", home: "west", away: "east", machines: make([]*simMachine, 2)},
	}
	s.start()
	for _, host := range []string{"east", "west"} {
		_, err := s.engine.AddHost(s.t.Context(), api.HostSpec{Name: host, URI: "fake:" + host})
		require.NoError(s.t, err)
	}
	for i, g := range groups {
		g.spec = api.GroupSpec{Name: g.name, SourceHost: g.home, TargetHost: g.away, Policy: api.Policy{RPOSeconds: 10,
			Retention: []api.RetentionTier{{Count: 2 + i}}, GroupMoment: i == 3, VerifyCycles: i == 1, Compression: []string{"", "zstd"}[i%2]}}
		g.keep, g.dropped, g.rotten = 2+i, map[string]bool{}, map[string]bool{}
		for n := range g.machines {
			m := &simMachine{disks: 1, down: map[string]bool{}}
			name := g.name + string(rune('1'+n))
			disks := []hypervisors.Disk{{Size: int64(192+64*n) * kib}}
			if i == 0 && n == 0 {
				disks, m.disks = append(disks, hypervisors.Disk{Size: 128 * kib}), 2
			}
			wish := api.GroupMachine{VM: name}
			if m.leavesOut = i == 2; m.leavesOut {
				m.disks = 2
				wish.Disks = []api.GroupDisk{{ID: leftOutDisk, LeaveOut: true}}
			}
			m.vm = s.hosts[g.home].AddVM(hypervisors.Hardware{Name: name, Disks: disks, NICs: []hypervisors.NIC{{Network: "lan", MAC: fmt.Sprintf("52:54:00:aa:%02d:%02d", i, n)}}})
			require.NoError(s.t, s.hosts[g.home].Guest(m.vm).Install(fake.GuestConfig{Seed: uint64(10*i + n)}))
			require.NoError(s.t, s.hosts[g.home].Start(m.vm))
			if m.leavesOut {
				require.NoError(s.t, s.hosts[g.home].AddDisk(m.vm, hypervisors.Disk{ID: leftOutDisk, Size: 64 * kib}))
				require.NoError(s.t, s.hosts[g.home].Guest(m.vm).Write(leftOutDisk, 0, []byte(leftOutText)))
			}
			g.machines[n] = m
			g.spec.Machines = append(g.spec.Machines, wish)
		}
		s.groups = append(s.groups, g)
		s.user("create "+g.name, func(ctx context.Context) (api.Job, error) {
			made, err := s.engine.CreateGroup(ctx, g.spec)
			for n, m := range made.Members {
				g.machines[n].replica = m.TargetVM
			}
			g.id = made.ID
			return api.Job{}, err
		})
		s.rest()
	}
	s.settle()
}

// user gives an order, beside everything else. Of two orders to one group that wait for the same cycle to give way, nobody
// can tell which comes first: there is one at a time.
func (s *simulation) user(what string, order func(context.Context) (api.Job, error)) {
	whom := what[strings.LastIndex(what, " ")+1:]
	s.mu.Lock()
	if s.orders[whom] {
		s.mu.Unlock()
		return
	}
	s.orders[whom] = true
	s.users++
	s.mu.Unlock()
	s.note("order %s", what)
	go func() {
		_, _ = order(context.Background()) // many are refused; what was accepted ends as a job
		s.mu.Lock()
		defer s.mu.Unlock()
		s.users--
		delete(s.orders, whom)
	}()
	synctest.Wait()
}

// chaos makes so many moves.
func (s *simulation) chaos(moves int) {
	// An unplanned failover from a host that cannot be asked is right only when its machines are off, which the user must
	// know: so there are either cut networks or unplanned failovers.
	cut := s.rng.IntN(2) == 0
	s.cut = cut
	for range moves {
		s.move(cut)
		s.afterMove()
	}
	s.cut = false
}

func (s *simulation) move(cut bool) {
	keys := s.waiting()
	switch r := s.rng.Float64(); {
	case len(keys) > 0 && r < 0.75:
		s.release(pick(s, keys))
	case r < 0.80:
		s.write()
	case r < 0.985:
		if s.rng.IntN(4) == 0 {
			s.order(pick(s, s.groups), !cut)
			s.pause(time.Millisecond)
			return
		}
		s.note("tick")
		s.engine.Tick(s.t.Context())
		if s.rng.IntN(8) == 0 {
			s.guard()
		}
		s.pause(time.Duration(1+s.rng.IntN(3000)) * time.Millisecond)
	default:
		s.disaster(cut)
	}
}

// guard is what the schedule does from time to time.
func (s *simulation) guard() {
	s.user("guard", func(ctx context.Context) (api.Job, error) {
		s.engine.Guard(ctx)
		s.engine.Observe(ctx)
		s.engine.Look(ctx)
		return api.Job{}, nil
	})
}

func pick[T any](s *simulation, from []T) T { return from[s.rng.IntN(len(from))] }

// afterMove looks at what must be true at every moment, and starts the appliance again if it died.
func (s *simulation) afterMove() {
	s.neverBoth()
	for _, j := range s.takeEnded() {
		s.note("%s of %s: %s at %q", j.Kind, s.nameOf(j.Group), j.State, j.Step)
		s.counts[j.Kind+" "+string(j.State)]++
		if j.Kind == "cycle" || j.Kind == "mirror" {
			s.cycles++
		}
		s.jobEnded(j)
	}
	if s.life.dead.Load() {
		s.restart()
	}
}

const startedMeanwhile = "somebody started what was to be replaced"

// meanwhile, while the appliance is down, somebody starts production that it has turned off to replace it.
func (s *simulation) meanwhile() {
	for _, g := range s.groups {
		view, err := s.engine.GetGroup(s.t.Context(), g.name)
		if err != nil || view.State != api.StateFailingOver && view.State != api.StateFailingBack || s.rng.IntN(4) > 0 {
			continue
		}
		for _, m := range g.machines {
			host, vm := s.source(g, m, view.Reversed)
			if s.state(g.home, m.vm) != hypervisors.Off || s.state(g.away, m.replica) != hypervisors.Off || s.hosts[host].Start(vm) != nil {
				continue
			}
			s.note("somebody starts a machine of %s on %s", g.name, host)
			s.counts[startedMeanwhile]++
			g.unsure = true
		}
	}
}

func (s *simulation) takeEnded() []api.Job {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.ended
	s.ended = nil
	for _, j := range out {
		s.known[j.ID] = true
	}
	slices.SortFunc(out, func(a, b api.Job) int { // two that end together end in any order
		return cmp.Or(cmp.Compare(s.nameOf(a.Group), s.nameOf(b.Group)), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.ID, b.ID))
	})
	return out
}

func (s *simulation) restart() {
	s.note("the appliance starts again")
	s.counts["starts"]++
	s.stop()
	s.meanwhile()
	s.start()
	s.unheard()
	s.pause(time.Millisecond)
	s.acknowledged()
}

// unheard finds the jobs whose end the appliance wrote down, and died before it told.
func (s *simulation) unheard() {
	jobs, err := api.All(func(p api.Paging) (api.Page[api.Job], error) {
		return s.engine.ListJobs(s.t.Context(), api.JobQuery{Paging: p})
	})
	require.NoError(s.t, err)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, j := range jobs {
		if j.State.Ended() && !s.known[j.ID] && !slices.ContainsFunc(s.ended, func(o api.Job) bool { return o.ID == j.ID }) {
			s.ended = append(s.ended, j)
		}
	}
}

// release lets one call go on, mostly well.
func (s *simulation) release(key string) {
	call, about := callOf(key)
	l, fate := s.life, "well"
	switch r := s.rng.IntN(200); {
	case r < 5:
		fate = "fails"
		l.fault.Store(&strike{call: call, about: about, when: hypervisortest.Before, err: pick(s, faults)})
	case r < 8 && call != "Source.Checkpoint" && call != "Replica.Draft": // which promise to leave nothing when they fail
		fate = "is done, and said to fail"
		l.fault.Store(&strike{call: call, about: about, when: hypervisortest.After, err: hypervisors.ErrUnreachable})
	case r < 10:
		fate = "the appliance dies before"
		l.fault.Store(&strike{call: call, about: about, when: hypervisortest.Before, err: errKilled})
	case r < 12:
		fate = "the appliance dies behind it"
		l.fault.Store(&strike{call: call, about: about, when: hypervisortest.After, err: errKilled})
	case r < 16:
		f := &strike{call: pick(s, quiet), when: hypervisortest.When(s.rng.IntN(2)), err: pick(s, faults)}
		fate = "then " + f.call + " fails " + f.when.String()
		l.fault.Store(f)
	case r < 19:
		fate = "the appliance dies at a kill point"
		l.kill.Store(int32(1 + s.rng.IntN(12)))
	case r < 20:
		fate = "the state is full"
		l.full.Store(int32(1 + s.rng.IntN(6)))
	case r < 30 && s.cut && (call == "Replica.Run" || call == "Power.Start"):
		fate = "is done, and its host is away"
		host, _, _ := strings.Cut(key, " ")
		l.fault.Store(&strike{call: call, about: about, when: hypervisortest.After, err: hypervisors.ErrUnreachable,
			then: func() { s.hosts[host].SetReachable(false) }})
	}
	s.note("%s: %s", key, fate)
	s.counts[fate]++
	s.open(key)
	s.pause(time.Duration(1+s.rng.IntN(40)) * time.Millisecond)
}

var faults = []error{hypervisors.ErrUnreachable, hypervisors.ErrBusy, hypervisors.ErrNoSpace, hypervisors.ErrGaveWay, hypervisors.ErrTimeout}

// quiet are the calls that no job rests at.
var quiet = []string{"FrozenDisk.ReadAt", "FrozenDisk.Changed", "DraftDisk.ReadAt", "DraftDisk.WriteAt", "DraftMap.ReadAt", "DraftMap.WriteAt",
	"DraftMap.Flush", "Replica.Status", "Target.Replica", "Host.VM", "Checkpoint.Close", "Draft.Discard", "Source.Forget"}

// write lets the guest of a machine that serves write records, each durable.
func (s *simulation) write() {
	g := pick(s, s.groups)
	m := pick(s, g.machines)
	for _, at := range []struct{ host, vm string }{{g.home, m.vm}, {g.away, m.replica}} {
		if s.state(at.host, at.vm) != hypervisors.Running {
			continue
		}
		last, err := s.hosts[at.host].Guest(at.vm).Step(1 + s.rng.IntN(8))
		if m.last = last; err != nil {
			g.unsure = true
		}
		s.note("guest of %s on %s writes %d: %v", g.name, at.host, last, err)
	}
}

func (s *simulation) state(host, vm string) hypervisors.PowerState {
	defer s.reachable(host)()
	v, err := s.hosts[host].Connect("observer").VM(context.Background(), vm)
	if err != nil {
		return hypervisors.Off
	}
	return v.State
}

// order is one that a user may have the idea to give.
func (s *simulation) order(g *simGroup, unplanned bool) {
	view, err := s.engine.GetGroup(s.t.Context(), g.name)
	require.NoError(s.t, err)
	e := s.engine
	rare := s.rng.IntN(8) == 0
	switch {
	case view.State == api.StateFailedOver && rare:
		s.user("rollback "+g.name, func(ctx context.Context) (api.Job, error) { return e.Rollback(ctx, g.name) })
	case view.State == api.StateFailedOver && s.rng.IntN(2) == 0:
		s.user("commit "+g.name, func(ctx context.Context) (api.Job, error) { return e.Commit(ctx, g.name) })
	case view.State == api.StateCommitted && s.rng.IntN(2) == 0:
		s.user("reprotect "+g.name, func(ctx context.Context) (api.Job, error) { return e.Reprotect(ctx, g.name) })
	case view.State == api.StateCommitted, view.Reversed && s.rng.IntN(3) == 0:
		s.user("failback "+g.name, func(ctx context.Context) (api.Job, error) { return e.Failback(ctx, g.name) })
	case view.Job != "" && rare:
		s.note("cancel a job of %s", g.name)
		_, _ = e.CancelJob(s.t.Context(), view.Job) // refused when it is past its point of no return
	default:
		s.routine(g, view, unplanned)
	}
}

// routine are the orders of a group that is protected; some come when they cannot be accepted.
func (s *simulation) routine(g *simGroup, view api.Group, unplanned bool) {
	e := s.engine
	switch r := s.rng.IntN(20); {
	case r < 3:
		s.user("failover "+g.name, func(ctx context.Context) (api.Job, error) {
			return e.Failover(ctx, g.name, api.FailoverOrder{Planned: true})
		})
	case r < 5 && unplanned && view.State == api.StateProtected:
		s.lose(g, view)
	case r < 8:
		s.user("test "+g.name, func(ctx context.Context) (api.Job, error) { return e.Test(ctx, g.name, api.TestOrder{}) })
	case r < 11:
		s.user("end test "+g.name, func(ctx context.Context) (api.Job, error) { return e.EndTest(ctx, g.name) })
	case r < 12:
		s.drop(g)
	case r < 13:
		s.policy(g)
	case r < 14:
		s.user("verify "+g.name, func(ctx context.Context) (api.Job, error) { return e.Verify(ctx, g.name) })
	case r < 15:
		s.user("fence "+g.name, func(ctx context.Context) (api.Job, error) { return e.Fence(ctx, g.name) })
	case r < 16:
		s.note("pause %s: %v", g.name, !g.paused)
		set := e.Pause
		if g.paused {
			set = e.Resume
		}
		_, err := set(s.t.Context(), g.name)
		require.NoError(s.t, err)
		g.paused = !g.paused
	default:
		s.user("sync "+g.name, func(ctx context.Context) (api.Job, error) { return e.SyncNow(ctx, g.name) })
	}
}

// lose is a failover to the newest point: because the machines died, or by force though they live.
func (s *simulation) lose(g *simGroup, view api.Group) {
	e, force := s.engine, s.rng.IntN(2) == 0
	for _, m := range g.machines {
		host, vm := s.source(g, m, view.Reversed)
		if force {
			continue
		}
		m.down[host] = true
		require.NoError(s.t, s.hosts[host].Crash(vm))
	}
	g.unsure = true
	s.user("unplanned failover "+g.name, func(ctx context.Context) (api.Job, error) {
		return e.Failover(ctx, g.name, api.FailoverOrder{Force: force})
	})
}

// source is where a machine is production while its group is protected.
func (s *simulation) source(g *simGroup, m *simMachine, reversed bool) (host, vm string) {
	if reversed {
		return g.away, m.replica
	}
	return g.home, m.vm
}

func (s *simulation) drop(g *simGroup) {
	points, err := s.engine.ListPoints(s.t.Context(), g.name)
	require.NoError(s.t, err)
	if len(points) < 2 {
		return
	}
	point := pick(s, points).ID
	g.dropped[point] = true
	s.user("drop a point of "+g.name, func(ctx context.Context) (api.Job, error) { return s.engine.DropPoint(ctx, g.name, point) })
}

func (s *simulation) policy(g *simGroup) {
	view, err := s.engine.GetGroup(s.t.Context(), g.name)
	require.NoError(s.t, err)
	p := view.Policy
	p.Retention = []api.RetentionTier{{Count: 1 + s.rng.IntN(5)}}
	if s.rng.IntN(2) == 0 {
		p.Retention = append(p.Retention, api.RetentionTier{EverySeconds: 10, ForSeconds: 60})
	}
	s.note("policy of %s: %v", g.name, p.Retention)
	view, err = s.engine.UpdatePolicy(s.t.Context(), g.name, view.Revision, p)
	require.NoError(s.t, err)
	g.spec.Policy, g.keep = view.Policy, min(g.keep, p.Retention[0].Count)
}

var disasters = []string{"tracking is lost", "machine crashes", "power fails", "host is away", "host is back", "host is full",
	"scratch runs out", "clock jumps", "disks change", "appliance is killed"}

// disaster is what befalls hosts, machines, disks, clocks and appliances.
func (s *simulation) disaster(cut bool) {
	g := pick(s, s.groups)
	m := pick(s, g.machines)
	host := pick(s, []string{"east", "west"})
	hv := s.hosts[host]
	kind := s.rng.IntN(len(disasters) + 1) // the last twice
	s.counts[disasters[min(kind, len(disasters)-1)]]++
	switch kind {
	case 0:
		s.note("tracking of %s is lost", g.name)
		_ = s.hosts[g.home].LoseTracking(m.vm, "") // a machine that is a replica has none
	case 1:
		for _, at := range []struct{ host, vm string }{{g.home, m.vm}, {g.away, m.replica}} {
			if s.state(at.host, at.vm) == hypervisors.Running {
				s.note("machine of %s crashes on %s", g.name, at.host)
				require.NoError(s.t, s.hosts[at.host].Crash(at.vm))
				m.down[at.host] = true
			}
		}
	case 2:
		s.powerFail(host)
	case 3:
		if cut {
			s.note("%s cannot be reached", host)
			hv.SetReachable(false)
		}
	case 4:
		s.note("%s can be reached", host)
		hv.SetReachable(true)
	case 5:
		s.note("%s is full", host)
		require.NoError(s.t, hv.SetFree("default", int64(s.rng.IntN(8))*64*kib))
	case 6:
		err := s.hosts[g.home].GiveWay(m.vm)
		s.note("scratch of %s runs out: %v", g.name, err != nil)
	case 7:
		jump := time.Duration(s.rng.IntN(2000)-1000) * pick(s, []time.Duration{time.Second, time.Minute, time.Hour})
		s.note("the clock jumps by %s", jump)
		s.offset.Add(int64(jump))
	case 8:
		s.changeDisks(g, m)
	default:
		s.note("the appliance is killed")
		s.life.dead.Store(true)
	}
	s.pause(time.Millisecond)
}

func (s *simulation) powerFail(host string) {
	s.note("power of %s fails", host)
	for _, g := range s.groups {
		for _, m := range g.machines {
			for _, at := range []struct{ host, vm string }{{g.home, m.vm}, {g.away, m.replica}} {
				if at.host == host && s.state(host, at.vm) != hypervisors.Off {
					m.down[host] = true
				}
			}
		}
	}
	s.hosts[host].PowerFail()
}

// changeDisks adds, grows or removes a disk of a machine at home.
func (s *simulation) changeDisks(g *simGroup, m *simMachine) {
	hv := s.hosts[g.home]
	live := hv.Disks(m.vm)
	view, err := s.engine.GetGroup(s.t.Context(), g.name)
	require.NoError(s.t, err)
	if view.State != api.StateProtected || view.Reversed || view.Job != "" || len(live) == 0 {
		return
	}
	last := live[len(live)-1]
	switch s.rng.IntN(3) {
	case 0:
		if len(live) < m.disks+2 {
			err = hv.AddDisk(m.vm, hypervisors.Disk{ID: "extra" + string(rune('a'+len(live))), Size: 64 * kib * int64(1+s.rng.IntN(2))})
		}
	case 1:
		if last.Size() < 384*kib {
			err = hv.ResizeDisk(m.vm, last.ID(), last.Size()+64*kib)
		}
	default:
		if len(live) > m.disks {
			err = hv.RemoveDisk(m.vm, last.ID())
		}
	}
	s.note("disks of %s change: %v", g.name, err != nil)
}
