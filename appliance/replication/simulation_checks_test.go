package replication_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
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

// witness keeps what the machines of a checkpoint hold; subject is its name and them. No guest writes meanwhile.
func (s *simulation) witness(host, subject string) {
	ids := strings.Fields(subject)
	for _, vm := range ids[1:] {
		protected := slices.DeleteFunc(s.hosts[host].Disks(vm), func(d *fake.LiveDisk) bool { return d.ID() == leftOutDisk })
		s.truth.Store(ids[0]+" "+vm, digest(protected))
	}
}

func digest[D fake.DiskReader](disks []D) string {
	sum := sha256.New()
	for _, d := range disks {
		fmt.Fprintf(sum, "%s %d\n", d.ID(), d.Size())
		if _, err := io.Copy(sum, io.NewSectionReader(d, 0, d.Size())); err != nil {
			return err.Error()
		}
	}
	return fmt.Sprintf("%x", sum.Sum(nil)[:12])
}

// neverBoth: no machine runs on both sides, tests aside.
func (s *simulation) neverBoth() {
	for _, g := range s.groups {
		for _, m := range g.machines {
			both := m.replica != "" && s.state(g.home, m.vm) == hypervisors.Running && s.state(g.away, m.replica) == hypervisors.Running
			require.False(s.t, both, "a machine of %s runs on both sides", g.name)
		}
	}
}

func (s *simulation) nameOf(id string) string {
	for _, g := range s.groups {
		if g.id == id {
			return g.name
		}
	}
	return "?"
}

const notUndone = "an undo failed for good"

// jobEnded looks at the newest points of the group that a job worked on.
func (s *simulation) jobEnded(j api.Job) {
	for _, g := range s.groups {
		if g.id == j.Group && j.Group != "" {
			if j.Kind == "failback" {
				g.points = nil
			}
			s.checkPoints(g, 1)
		}
	}
	if strings.Contains(j.Error, "; not undone: ") { // its host was away all the time, and the user was told to look there
		s.counts[notUndone]++
		for _, m := range s.groupOf(j.Group).machines {
			m.down["east"], m.down["west"] = true, true
		}
	}
	undone := (j.Kind == "failover" || j.Kind == "failback") && j.State != api.JobSucceeded
	if undone || j.Kind == "rollback" {
		s.groupOf(j.Group).unsure = true // what was written where it is now off is given up, as was ordered
	}
}

func (s *simulation) groupOf(id string) *simGroup {
	return s.groups[slices.IndexFunc(s.groups, func(g *simGroup) bool { return g.id == id })]
}

// checkPoints reads the newest points that are offered (0: all) past the appliance: each is there on all its machines,
// and is what they held at its checkpoint. It also sees whether one is missing that nobody dropped.
func (s *simulation) checkPoints(g *simGroup, newest int) {
	view, err := s.engine.GetGroup(s.t.Context(), g.name)
	require.NoError(s.t, err)
	points, err := s.engine.ListPoints(s.t.Context(), g.name)
	require.NoError(s.t, err)
	s.checkKept(g, view, points)
	look := points
	if newest > 0 && len(points) > newest {
		look = points[len(points)-newest:]
	}
	for _, p := range look {
		if g.rotten[p.ID] {
			continue
		}
		for i, m := range g.machines {
			_, vm := s.source(g, m, view.Reversed)
			host, replica := s.replica(g, i, view)
			want, known := s.truth.Load(p.ID + " " + vm)
			require.True(s.t, known, "point %s of %s was never taken", p.ID, g.name)
			require.Equal(s.t, want, s.read(host, replica, p.ID), "point %s of %s, machine %d", p.ID, g.name, i+1)
		}
	}
}

// read gives the digest of a point, or why it cannot be read.
func (s *simulation) read(host, replica, point string) string {
	ctx := context.Background()
	hv := s.hosts[host]
	defer s.reachable(host)()
	r, err := hv.Connect(s.owner).(hypervisors.Target).Replica(ctx, replica)
	if err != nil {
		return err.Error()
	}
	reader, err := r.Open(ctx, point)
	if err != nil {
		return err.Error()
	}
	defer reader.Close()
	return digest(reader.Disks())
}

// reachable makes a host answer the observer, and takes it back.
func (s *simulation) reachable(host string) (undo func()) {
	hv := s.hosts[host]
	if _, err := hv.Connect("observer").Info(context.Background()); err == nil {
		return func() {}
	}
	hv.SetReachable(true)
	return func() { hv.SetReachable(false) }
}

// checkKept: what was offered before is offered still, but for what was ordered to go or is older than what the policy
// keeps. Points of another direction have a history of their own.
func (s *simulation) checkKept(g *simGroup, view api.Group, points []api.Point) {
	ids := make([]string, 0, len(points))
	for _, p := range points {
		ids = append(ids, p.ID)
	}
	// A failback that settles the machines gives up their points, whether it then comes to its end or not.
	if view.Reversed != g.reversed || view.State == api.StateFailingBack {
		g.points, g.reversed = nil, view.Reversed
	}
	all := g.points
	for _, id := range ids {
		if !slices.Contains(all, id) {
			all = append(all, id)
		}
	}
	all = slices.DeleteFunc(all, func(id string) bool { return g.dropped[id] && !slices.Contains(ids, id) })
	// While a point that is to go was there, it counted.
	for _, id := range all[max(0, len(all)-max(1, g.keep-len(g.dropped))):] {
		require.Contains(s.t, ids, id, "a point of %s is gone that nobody dropped", g.name)
	}
	g.points = ids
	g.keep = g.spec.Policy.Retention[0].Count
}

// acknowledged: after a start of the appliance, everything that was accepted is there.
func (s *simulation) acknowledged() {
	for _, g := range s.groups {
		if g.id == "" {
			continue
		}
		view, err := s.engine.GetGroup(s.t.Context(), g.id)
		require.NoError(s.t, err, "group %s is gone", g.name)
		require.Equal(s.t, g.spec.Policy, view.Policy, "the policy of %s", g.name)
		require.Equal(s.t, g.paused, view.Paused, "whether %s is paused", g.name)
	}
}

// settle ends all trouble and lets everything come to rest; then nothing may be lost or left behind, and the next cycle
// of every group works.
func (s *simulation) settle() {
	s.note("peace")
	s.rest()
	for _, g := range s.groups {
		s.recover(g)
	}
	for _, g := range s.groups {
		s.checkRecords(g)
		s.checkPoints(g, 0)
	}
	if g := pick(s, s.groups); s.rng.IntN(2) == 0 {
		s.rot(g)
	}
	if g := pick(s, s.groups); s.rng.IntN(2) == 0 {
		s.outage(g)
	}
	s.guard()
	s.rest()
	for host, hv := range s.hosts {
		require.Empty(s.t, hv.Leftovers(), "left behind on %s", host)
	}
}

// rot lets the newest point of a group rot at the target, and a verification meet something when it looks. What it found
// is marked, however it ended; and at the latest the next one finds it, and repairs it.
func (s *simulation) rot(g *simGroup) {
	view, err := s.engine.GetGroup(s.t.Context(), g.name)
	require.NoError(s.t, err)
	points, err := s.engine.ListPoints(s.t.Context(), g.name)
	require.NoError(s.t, err)
	if view.State != api.StateProtected || len(points) == 0 {
		return
	}
	m := s.rng.IntN(len(g.machines))
	host, replica := s.replica(g, m, view)
	disks := points[len(points)-1].Machines[m].Disks
	require.NoError(s.t, s.hosts[host].Rot(replica, points[len(points)-1].ID, disks[s.rng.IntN(len(disks))].ID, 0, []byte{byte(s.rng.Uint32()), 'r', 'o', 't'}))
	_, vm := s.source(g, g.machines[m], view.Reversed)
	for _, p := range points {
		if want, known := s.truth.Load(p.ID + " " + vm); known && s.read(host, replica, p.ID) != want {
			g.rotten[p.ID] = true
		}
	}
	s.note("points of %s rot", g.name)
	s.user("verify "+g.name, func(ctx context.Context) (api.Job, error) { return s.engine.Verify(ctx, g.name) })
	if keys := s.waiting(); len(keys) > 0 { // its checkpoint
		if s.rng.IntN(2) == 0 {
			s.life.fault.Store(&strike{call: "FrozenDisk.ReadAt", when: hypervisortest.Before, err: hypervisors.ErrTimeout})
		}
		s.open(keys[0])
		time.Sleep(time.Millisecond)
		synctest.Wait()
	}
	if view, err = s.engine.GetGroup(s.t.Context(), g.name); err == nil && view.Job != "" && s.rng.IntN(2) == 0 {
		_, _ = s.engine.CancelJob(s.t.Context(), view.Job)
	}
	s.rest()
	view, err = s.engine.GetGroup(s.t.Context(), g.name)
	require.NoError(s.t, err)
	if view.Verification.State == "mismatch" || view.Verification.State == "repaired" {
		s.counts["rot is found"]++
		s.distrusted(g)
	}
	s.user("verify "+g.name, func(ctx context.Context) (api.Job, error) { return s.engine.Verify(ctx, g.name) })
	s.rest()
	s.distrusted(g)
	s.must("sync", g, s.engine.SyncNow)
	s.checkPoints(g, 1)
}

// distrusted: no point that is known to be wrong is offered as if it were right.
func (s *simulation) distrusted(g *simGroup) {
	points, err := s.engine.ListPoints(s.t.Context(), g.name)
	require.NoError(s.t, err)
	for _, p := range points {
		require.Equal(s.t, g.rotten[p.ID], p.Suspect != "", "point %s of %s: %s", p.ID, g.name, p.Suspect)
	}
}

// rest lets all jobs end, undisturbed.
func (s *simulation) rest() {
	for _, hv := range s.hosts {
		hv.SetReachable(true)
		require.NoError(s.t, hv.SetFree("default", 1<<30))
	}
	if s.life.dead.Load() {
		s.restart()
	}
	for range 20000 {
		if keys := s.waiting(); len(keys) > 0 {
			s.open(pick(s, keys))
			s.pause(time.Millisecond)
			s.afterMove()
			continue
		}
		s.pause(time.Second)
		s.afterMove()
		if len(s.waiting()) == 0 && s.idle() {
			return
		}
	}
	require.Fail(s.t, "jobs do not come to rest", "%v", s.waiting())
}

func (s *simulation) idle() bool {
	active, err := s.engine.ListJobs(s.t.Context(), api.JobQuery{State: "active"})
	require.NoError(s.t, err)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.users == 0 && active.Total == 0
}

// must gives an order that has to succeed now.
func (s *simulation) must(what string, g *simGroup, order func(context.Context, string) (api.Job, error)) api.Job {
	var job api.Job
	var err error
	s.user(what+" "+g.name, func(ctx context.Context) (api.Job, error) {
		job, err = order(ctx, g.name)
		return job, err
	})
	s.rest()
	require.NoError(s.t, err, "%s of %s", what, g.name)
	job, err = s.engine.GetJob(s.t.Context(), job.ID)
	require.NoError(s.t, err)
	require.Equal(s.t, api.JobSucceeded, job.State, "%s of %s: %s: %s", what, g.name, job.Step, job.Error)
	return job
}

// recover brings a group to where a user in peace would: power on, tests ended, protection current.
func (s *simulation) recover(g *simGroup) {
	view, err := s.engine.GetGroup(s.t.Context(), g.name)
	require.NoError(s.t, err)
	if view.Test != nil && view.Test.Ended == nil {
		s.must("end test", g, s.engine.EndTest)
	}
	switch view.State {
	case api.StateRollingBack:
		s.must("rollback", g, s.engine.Rollback)
	case api.StateFailingBack:
		s.must("failback", g, s.engine.Failback)
	}
	s.power(g)
	view, err = s.engine.GetGroup(s.t.Context(), g.name)
	require.NoError(s.t, err)
	switch view.State {
	case api.StateProtected, api.StateMirroring:
		if view.State == api.StateMirroring {
			s.must("mirror", g, s.engine.SyncNow)
		}
		s.must("sync", g, s.engine.SyncNow)
		s.checkTidy(g)
	case api.StateFailedOver, api.StateCommitted:
	default:
		require.Fail(s.t, "a group is stuck", "%s is %s", g.name, view.State)
	}
}

// checkTidy: after a cycle in peace the source tracks from one moment, and the target holds what is offered, no more.
func (s *simulation) checkTidy(g *simGroup) {
	view, err := s.engine.GetGroup(s.t.Context(), g.name)
	require.NoError(s.t, err)
	points, err := s.engine.ListPoints(s.t.Context(), g.name)
	require.NoError(s.t, err)
	for i, m := range g.machines {
		host, vm := s.source(g, m, view.Reversed)
		require.Len(s.t, s.hosts[host].Tracked(vm), 1, "change ids of machine %d of %s", i+1, g.name)
		to, replica := s.replica(g, i, view)
		r, err := s.hosts[to].Connect(s.owner).(hypervisors.Target).Replica(s.t.Context(), replica)
		require.NoError(s.t, err)
		status, err := r.Status(s.t.Context())
		require.NoError(s.t, err)
		require.Len(s.t, status.Points, len(points), "points of machine %d of %s", i+1, g.name)
	}
}

// replica is where the i-th machine of a group has its points.
func (s *simulation) replica(g *simGroup, i int, view api.Group) (host, id string) {
	if view.Reversed {
		return g.home, view.Members[i].ReplicaID + "-home"
	}
	return g.away, view.Members[i].ReplicaID
}

// power turns on what we turned off; everything else must be on already: no guest stops for us.
func (s *simulation) power(g *simGroup) {
	view, err := s.engine.GetGroup(s.t.Context(), g.name)
	require.NoError(s.t, err)
	away := view.Reversed
	if view.State == api.StateFailedOver || view.State == api.StateCommitted {
		away = !away
	}
	for i, m := range g.machines {
		host, vm := s.source(g, m, away)
		if other, left := s.source(g, m, !away); m.down[other] && s.state(other, left) == hypervisors.Running {
			s.note("what was not undone of %s is turned off on %s", g.name, other)
			require.NoError(s.t, s.hosts[other].Stop(left))
		}
		if m.down[host] || s.state(host, vm) == hypervisors.Paused {
			require.NoError(s.t, s.hosts[host].Start(vm))
		}
		m.down[host] = false
		require.Equal(s.t, hypervisors.Running, s.state(host, vm), "machine %d of %s was turned off (%s)", i+1, g.name, view.State)
	}
}

// checkRecords: production holds every write that the guest was told is durable.
func (s *simulation) checkRecords(g *simGroup) {
	view, err := s.engine.GetGroup(s.t.Context(), g.name)
	require.NoError(s.t, err)
	away := view.Reversed
	if view.State == api.StateFailedOver || view.State == api.StateCommitted {
		away = !away
	}
	for i, m := range g.machines {
		host, vm := s.source(g, m, away)
		newest, err := fake.CheckRecords(s.hosts[host].Disks(vm))
		require.NoError(s.t, err, "disks of machine %d of %s", i+1, g.name)
		if !g.unsure {
			require.Equal(s.t, m.last, newest, "writes of machine %d of %s are lost", i+1, g.name)
		}
		m.last = newest
		s.checkLeftOut(g, m)
	}
	g.unsure, g.dropped = false, map[string]bool{}
}

// checkLeftOut: a machine at home that is no replica has its disk that is left out as it always was.
func (s *simulation) checkLeftOut(g *simGroup, m *simMachine) {
	defer s.reachable(g.home)()
	vm, err := s.hosts[g.home].Connect("observer").VM(context.Background(), m.vm)
	require.NoError(s.t, err)
	if !m.leavesOut || vm.Replica != "" {
		return
	}
	live := s.hosts[g.home].Disks(m.vm)
	at := slices.IndexFunc(live, func(d *fake.LiveDisk) bool { return d.ID() == leftOutDisk })
	require.GreaterOrEqual(s.t, at, 0, "%s has lost the disk that is left out", g.name)
	text := make([]byte, len(leftOutText))
	_, err = live[at].ReadAt(text, 0)
	require.NoError(s.t, err)
	require.Equal(s.t, leftOutText, string(text), "the disk of %s that is left out is another one", g.name)
	s.counts["a disk that is left out is there"]++
}
