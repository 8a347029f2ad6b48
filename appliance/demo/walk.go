package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"understudy/api"
	"understudy/api/client"
	"understudy/appliance/rig"
	"understudy/hypervisors/kvm/lab"
	"understudy/hypervisors/kvm/lab/record"
)

const (
	machine = "web1"
	group   = "web"
	rpo     = 10 // seconds
	// fill is noise on the second disk, so that the mirror has something to move.
	fill = 24 << 20
)

// walk is one way through everything.
type walk struct {
	options
	*figures
	began time.Time
	lab   *lab.Lab
	api   *client.Client
	guest *lab.Guest

	points map[string]api.Point // every point that was ever seen, by id
	older  api.Point            // to fail over to
}

// say prints one line for one step.
func (w *walk) say(format string, args ...any) {
	fmt.Printf("%7.1f s  %s\n", time.Since(w.began).Seconds(), fmt.Sprintf(format, args...))
}

type step struct {
	name string
	do   func(context.Context) error
}

func (w *walk) run(ctx context.Context) error {
	w.points = map[string]api.Point{}
	return w.steps(ctx, []step{
		{"guest", w.startGuest},
		{"hosts", w.connect},
		{"mirror", w.protect},
		{"cycles", w.watchCycles},
		{"test failover", w.test},
		{"failover to the newest point", w.failOverNewest},
		{"failover to an older point", w.failOverOlder},
		{"failback", w.failBack},
		{"protected again", w.protectedAgain},
		{"final compare", w.compareAll},
	})
}

func (w *walk) steps(ctx context.Context, steps []step) error {
	for _, s := range steps {
		if err := s.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

func (w *walk) startGuest(ctx context.Context) (err error) {
	w.guest, err = w.lab.StartGuest(ctx, w.lab.Source, lab.GuestOptions{Name: machine, Number: 1, Fill: fill})
	if err != nil {
		return err
	}
	if err := w.guest.WaitSeq(ctx, 50); err != nil {
		return err
	}
	w.say("guest %s runs on host source at %s and writes numbered records to two disks", machine, w.guest.Addr)
	return nil
}

func (w *walk) connect(ctx context.Context) error {
	for _, h := range []*lab.Host{w.lab.Source, w.lab.Target} {
		if err := w.connectKVM(ctx, h); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) connectKVM(ctx context.Context, h *lab.Host) error {
	uri := h.SSHURI()
	if w.transport == "unix" {
		uri = h.URI
	}
	host, err := w.api.AddHost(ctx, api.HostSpec{Name: h.Name, URI: uri})
	if err != nil {
		return err
	}
	w.say("host %s connected over %s: %s %s", h.Name, w.transport, host.Product, host.Version)
	return nil
}

func (w *walk) protect(ctx context.Context) error {
	return w.createGroup(ctx, api.GroupSpec{
		Name: group, SourceHost: "source", TargetHost: "target",
		Machines: []api.GroupMachine{{VM: machine, Checks: []api.Check{{
			Kind: "http", Address: "http://" + w.guest.Addr + "/", Contains: machine, From: "192.168.77.253/24",
		}}}},
		Policy: api.Policy{RPOSeconds: rpo, VerifyCycles: true},
	})
}

// createGroup protects, and waits for the mirror.
func (w *walk) createGroup(ctx context.Context, spec api.GroupSpec) error {
	began := time.Now()
	if _, err := w.api.CreateGroup(ctx, spec); err != nil {
		return err
	}
	points, err := w.waitPoints(ctx, func(p []api.Point) bool { return len(p) > 0 })
	if err != nil {
		return err
	}
	first := points[0]
	w.MirrorS, w.MirrorBytes = first.Seconds, first.BytesWritten
	w.say("mirror: %s read, %s written in %.1f s (%.1f s after the order), compared in full: identical",
		size(first.BytesRead), size(first.BytesWritten), first.Seconds, time.Since(began).Seconds())
	return nil
}

func (w *walk) watchCycles(ctx context.Context) error {
	const enough = 3
	points, err := w.waitPoints(ctx, func(p []api.Point) bool { return len(p) > enough })
	if err != nil {
		return err
	}
	for _, p := range points[1:] {
		w.say("cycle %s: %s, %s written in %.2f s, compared in full: identical", p.ID, p.Kind, size(p.BytesWritten), p.Seconds)
	}
	w.older = points[1]
	return nil
}

func (w *walk) test(ctx context.Context) error {
	return w.testWhile(ctx, func(ctx context.Context) error { return w.guest.WaitSeq(ctx, 10) })
}

// testWhile tests beside production, which writes proves.
func (w *walk) testWhile(ctx context.Context, writes func(context.Context) error) error {
	before, err := w.listPoints(ctx)
	if err != nil {
		return err
	}
	if _, err := order(ctx, w, w.api.Test, api.TestOrder{}); err != nil {
		return err
	}
	g, err := w.api.GetGroup(ctx, group)
	if err != nil {
		return err
	}
	if g.Test == nil || g.Test.State != "running" {
		return fmt.Errorf("no test runs: %+v", g.Test)
	}
	w.TestFailoverS = g.Test.Seconds
	for _, m := range g.Test.Machines {
		for _, c := range m.Checks {
			w.say("test failover: %s of %s passed inside its isolated network after %.1f s", c.Kind, m.Name, c.Seconds)
		}
	}
	if err := w.silentAt(ctx, w.lab.Target); err != nil {
		return err
	}
	// Replication goes on beside it.
	after, err := w.waitPoints(ctx, func(p []api.Point) bool { return len(p) >= len(before)+2 })
	if err != nil {
		return err
	}
	if err := writes(ctx); err != nil {
		return fmt.Errorf("production does not write beside the test: %w", err)
	}
	w.say("outside the test network nothing answers at %s, and %d cycles went on beside it", w.guest.Addr, len(after)-len(before))
	if _, err := w.job(ctx, w.api.EndTest); err != nil {
		return err
	}
	networks, err := w.lab.Target.Virsh(ctx, "net-list", "--all", "--name")
	if err != nil {
		return err
	}
	domains, err := w.lab.Target.Virsh(ctx, "list", "--name")
	if err != nil {
		return err
	}
	if networks != lab.Production || domains != "" {
		return fmt.Errorf("the test left networks %q and running machines %q", networks, domains)
	}
	if g, err = w.api.GetGroup(ctx, group); err != nil {
		return err
	}
	if g.Test == nil || g.Test.State != "passed" {
		return fmt.Errorf("the test did not pass: %+v", g.Test)
	}
	w.say("test failover: ready %.1f s after the order; cleaned up, passed", g.Test.Seconds)
	return nil
}

// silentAt fails when the guest's address answers in a host's production network.
func (w *walk) silentAt(ctx context.Context, h *lab.Host) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if s, err := h.Status(ctx, w.guest.Addr); err == nil {
		return fmt.Errorf("%s answers in the production network of %s, boot %d", s.Name, h.Name, s.Boots)
	}
	return nil
}

func (w *walk) failOverNewest(ctx context.Context) error {
	before, err := w.guest.Status(ctx)
	if err != nil {
		return err
	}
	w.noteWrites(before)
	g, err := w.api.GetGroup(ctx, group)
	if err != nil {
		return err
	}
	w.RPOSMax = g.RPO.WorstSeconds
	killed := time.Now()
	if err := w.guest.KillQEMU(ctx); err != nil {
		return err
	}
	w.say("QEMU of %s killed at record %d; slowest write so far %.1f ms, oldest the newest point ever got %.1f s (RPO %d s)",
		machine, before.Seq, w.GuestWorstWriteMS, w.RPOSMax, rpo)
	took, err := order(ctx, w, w.api.Failover, api.FailoverOrder{})
	if err != nil {
		return err
	}
	w.FailoverS = took.Seconds()
	points, err := w.listPoints(ctx)
	if err != nil {
		return err
	}
	newest := points[len(points)-1]
	up, err := w.answersFrom(ctx, newest)
	if err != nil {
		return err
	}
	w.say("failover to the newest point: %s answers at the target %.1f s after the order, from %.1f s before the crash, at record %d (%d lost)",
		machine, w.FailoverS, killed.Sub(newest.Taken).Seconds(), up.Recovered, int64(before.Seq)-int64(up.Recovered))
	return nil
}

func (w *walk) failOverOlder(ctx context.Context) error {
	if _, err := w.job(ctx, w.api.Rollback); err != nil {
		return err
	}
	w.say("rolled back: what the replica wrote is discarded")
	took, err := order(ctx, w, w.api.Failover, api.FailoverOrder{Point: w.older.ID})
	if err != nil {
		return err
	}
	up, err := w.answersFrom(ctx, w.older)
	if err != nil {
		return err
	}
	w.say("failover to older point %s: answers after %.1f s, at record %d", w.older.ID, took.Seconds(), up.Recovered)
	if err := w.commit(ctx); err != nil {
		return err
	}
	w.say("committed: the replica is production and has written 100 records more")
	return nil
}

// commit makes the replica production, and waits until it has written 100 records more.
func (w *walk) commit(ctx context.Context) error {
	if _, err := w.job(ctx, w.api.Commit); err != nil {
		return err
	}
	return w.lab.Target.WaitSeq(ctx, w.guest.Addr, 100)
}

func (w *walk) protectedAgain(ctx context.Context) error {
	points, err := w.listPoints(ctx)
	if err != nil {
		return err
	}
	after, err := w.waitPoints(ctx, func(p []api.Point) bool { return len(p) > 0 && p[len(p)-1].ID != points[len(points)-1].ID })
	if err != nil {
		return err
	}
	g, err := w.api.GetGroup(ctx, group)
	if err != nil {
		return err
	}
	if g.State != api.StateProtected || g.Reversed {
		return fmt.Errorf("group is %s, reversed %v", g.State, g.Reversed)
	}
	if w.guest.Host != nil { // else it only seems to run
		s, err := w.guest.Status(ctx)
		if err != nil {
			return err
		}
		w.noteWrites(s)
	}
	last := after[len(after)-1]
	w.say("protected again in the first direction: %s cycle, %s written in %.2f s, identical", last.Kind, size(last.BytesWritten), last.Seconds)
	return nil
}

func (w *walk) noteWrites(s record.Status) {
	w.GuestWorstWriteMS = max(w.GuestWorstWriteMS, s.WorstWriteMS)
}

// listPoints lists the points of the group, oldest first, and remembers them.
func (w *walk) listPoints(ctx context.Context) ([]api.Point, error) {
	points, err := w.api.ListPoints(ctx, group)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(points, func(a, b api.Point) int { return a.Taken.Compare(b.Taken) })
	for _, p := range points {
		if !p.Verified {
			return nil, fmt.Errorf("point %s was not compared with its source", p.ID)
		}
		w.points[p.ID] = p
	}
	return points, nil
}

// waitPoints waits until the group's points are as wished, and gives up when the group has a problem.
func (w *walk) waitPoints(ctx context.Context, enough func([]api.Point) bool) (points []api.Point, err error) {
	err = rig.Until(ctx, func() (bool, error) {
		if points, err = w.listPoints(ctx); err != nil || enough(points) {
			return true, err
		}
		g, err := w.api.GetGroup(ctx, group)
		if err == nil && g.Problem != "" {
			err = fmt.Errorf("%s (%s)", g.Problem, g.Hint)
		}
		return false, err
	})
	return points, err
}

// order gives an order that has details and waits for its job; it returns how long that took.
func order[T any](ctx context.Context, w *walk, give func(context.Context, string, T) (api.Job, error), details T) (time.Duration, error) {
	began := time.Now()
	_, err := w.job(ctx, func(ctx context.Context, group string) (api.Job, error) { return give(ctx, group, details) })
	return time.Since(began), err
}

// job gives an order and waits for its job to succeed.
func (w *walk) job(ctx context.Context, give func(context.Context, string) (api.Job, error)) (api.Job, error) {
	return w.watchedJob(ctx, give, nil)
}

func (w *walk) watchedJob(ctx context.Context, give func(context.Context, string) (api.Job, error), watch func(api.Job)) (api.Job, error) {
	job, err := give(ctx, group)
	if err != nil {
		return job, err
	}
	if job, err = w.api.WaitJob(ctx, job.ID, watch); err != nil {
		return job, err
	}
	if job.State != api.JobSucceeded {
		return job, fmt.Errorf("job %s %s in step %s: %s (%s)", job.Kind, job.State, job.Step, job.Error, job.Hint)
	}
	return job, nil
}

// size writes bytes for people.
func size(n int64) string {
	switch {
	case n >= 10<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 10<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}
