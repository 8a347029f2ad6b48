package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"

	"understudy/api"
	"understudy/appliance/jobs"
	"understudy/hypervisors"
	"understudy/snapshot"
)

// undoTimeout bounds cleaning up after a cycle that failed or was cancelled.
const undoTimeout = 2 * time.Minute

// cycle makes one recovery point of all members of a group, in the direction in force:
//
//	checkpoint → changed extents → copy → flush → commit → record → forget
//
// The order of the last four is the one rule that all data safety rests on. A cycle that dies anywhere is simply run
// again: [Engine.reconcile] first learns from the target what really was committed.
type cycle struct {
	e *Engine
	r *jobs.Run
	g group
	// step of the job that this cycle is
	step string
	// look compares the drafts with the frozen moment before the commit; nil: as the policy says.
	look *inspection

	id      string // of the point
	source  hypervisors.Source
	members []*cycleMember
	stats   snapshot.Stats // of all disks that are done
	total   int64          // bytes to look at, as far as known
	started time.Time

	mu          sync.Mutex // guards the drafts against interrupt
	interrupted bool
}

// cycleMember is one machine in a cycle.
type cycleMember struct {
	index   int // in group.Members
	vm      string
	replica hypervisors.Replica
	newest  *hypervisors.Point // at the target; nil: none
	disks   []hypervisors.FrozenDisk
	draft   hypervisors.Draft
	point   hypervisors.Point
	kind    string
}

// Kinds of cycles, by what they had to look at.
const (
	kindFull        = "full"        // the replica was empty
	kindIncremental = "incremental" // what the source says has changed
	kindDifference  = "difference"  // everything, compared by hash with what the replica holds
)

// cycle runs one cycle as the named step of job r and returns the point it made, or the one that the same step made
// before it was interrupted.
func (e *Engine) cycle(ctx context.Context, r *jobs.Run, step string) (api.Point, error) {
	return e.inspectedCycle(ctx, r, step, nil)
}

// inspectedCycle is a cycle with an inspection of its own; one that found something is a *mismatch, and no point.
func (e *Engine) inspectedCycle(ctx context.Context, r *jobs.Run, step string, look *inspection) (api.Point, error) {
	var w work
	if err := r.Load(&w); err != nil {
		return api.Point{}, err
	}
	pending := w.Pending
	if w.PendingIn != step {
		pending = nil
	}
	g, err := e.reconcile(ctx, r.Group(), pending)
	if err != nil {
		return api.Point{}, err
	}
	if n := len(g.Points); pending != nil && n > 0 && g.Points[n-1].ID == pending.ID {
		e.forgetDoubted(ctx, g)
		return *pending, nil // committed just before the appliance died
	}
	e.pay(ctx, g.ID)
	release, err := e.slots(ctx, g.source().Host, g.target().Host)
	if err != nil {
		return api.Point{}, err
	}
	defer release()
	c := &cycle{e: e, r: r, g: g, step: step, look: look, started: e.Clock()}
	c.id = pointID(c.started, g.Points)
	if err := c.seatMembers(ctx); err != nil {
		return api.Point{}, err
	}
	p, err := c.run(ctx)
	var bad *mismatch
	if look == nil && errors.As(err, &bad) { // nobody else makes the consequences
		_, failed := e.distrust(ctx, g.ID, bad)
		err = errors.Join(err, failed)
	}
	return p, err
}

// pointID names a point after its moment, so that people and sorting find it; never the name of an older one, even when
// the clock went back.
func pointID(now time.Time, points []api.Point) string {
	for {
		id := now.UTC().Format("20060102-150405.000")
		if !slices.ContainsFunc(points, func(p api.Point) bool { return p.ID == id }) {
			return id
		}
		now = now.Add(time.Millisecond)
	}
}

func (c *cycle) seatMembers(ctx context.Context) error {
	var err error
	if c.source, err = c.e.source(ctx, c.g.source().Host); err != nil {
		return err
	}
	target, err := c.e.target(ctx, c.g.target().Host)
	if err != nil {
		return err
	}
	for i := range c.g.Members {
		from, to := c.g.Members[i].seats(c.g.Reversed)
		replica, err := target.Replica(ctx, to.Replica)
		if err != nil {
			return err
		}
		status, err := replica.Status(ctx)
		if err != nil {
			return err
		}
		m := &cycleMember{index: i, vm: from.VM, replica: replica, kind: kindIncremental}
		if n := len(status.Points); n > 0 {
			m.newest = &status.Points[n-1]
		}
		c.members = append(c.members, m)
	}
	return nil
}

func (c *cycle) run(ctx context.Context) (api.Point, error) {
	cp, err := c.checkpoint(ctx)
	if err != nil {
		return api.Point{}, err
	}
	outcome := failed
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		c.letGo(ctx, cp, outcome)
	}()
	// A read or write that hangs knows no ctx; closing what it works on ends it.
	stop := context.AfterFunc(ctx, func() { c.interrupt(context.WithoutCancel(ctx), cp) })
	err = c.copy(ctx, cp)
	if err == nil {
		err = c.inspect(ctx)
	}
	if errors.Is(err, snapshot.ErrMap) && errors.Is(err, syscall.EIO) {
		// The target's storage does not give the map back any more. The next cycle makes it anew.
		_, failed := c.e.update(c.g.ID, func(g *group) error { g.Compare = true; return nil })
		err = errors.Join(err, failed)
	}
	if bad := c.look.mismatch(); bad != nil { // whatever else happens, this is known now
		err = join(bad, err)
	}
	if !stop() {
		return api.Point{}, errors.Join(context.Cause(ctx), err)
	}
	if err != nil {
		return api.Point{}, err
	}
	// From the first commit on the cycle is finished whatever the user's cancel says: half a group helps nobody.
	ctx = context.WithoutCancel(ctx)
	if err := c.commit(ctx, cp); err != nil {
		return api.Point{}, err
	}
	outcome = committed
	point := c.point(cp)
	if err := c.record(point, cp.ChangeIDs()); err != nil {
		return api.Point{}, err
	}
	outcome = recorded
	return point, c.e.calm(c.g.ID, api.AlertMismatch) // this point is right
}

// outcome is how far a cycle came; it decides what the source may forget.
type outcome int

const (
	failed    outcome = iota // the new change id is worth nothing
	committed                // the target has the point, we do not know it yet: keep everything
	recorded                 // the older change id is worth nothing
)

func (c *cycle) checkpoint(ctx context.Context) (hypervisors.Checkpoint, error) {
	req := hypervisors.CheckpointRequest{Name: c.id, Quiesce: c.g.Spec.Policy.Consistency == string(hypervisors.ApplicationConsistent)}
	for _, m := range c.members {
		vm := hypervisors.CheckpointVM{ID: m.vm, LeaveOut: c.g.Spec.Machines[m.index].LeftOut()}
		// The target says what it holds, the record that this is still of the same direction: since the roles were swapped
		// the machine's disks were written by others than its guest, and no older change id may be trusted.
		if m.newest != nil && m.newest.ChangeID == c.g.Members[m.index].ChangeID {
			vm.Since = m.newest.ChangeID
		}
		req.VMs = append(req.VMs, vm)
	}
	host, err := c.e.host(ctx, c.g.source().Host)
	if err != nil {
		return nil, err
	}
	if c.g.Spec.Policy.GroupMoment && host.Capabilities().GroupMoment {
		return c.source.Checkpoint(ctx, req)
	}
	return c.separately(ctx, req) // nobody is held still for the others
}

// interrupt makes every read and write of the cycle fail.
func (c *cycle) interrupt(ctx context.Context, cp hypervisors.Checkpoint) {
	ctx, cancel := context.WithTimeout(ctx, undoTimeout)
	defer cancel()
	if err := cp.Close(ctx); err != nil {
		c.r.Log().Warn("close checkpoint", "group", c.g.Spec.Name, "error", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.interrupted = true
	for _, m := range c.members {
		if m.draft != nil {
			c.warn("discard draft", m, m.draft.Discard(ctx))
		}
	}
}

// letGo ends the cycle at the source: first the frozen moment, then the tracking that nobody needs any more.
func (c *cycle) letGo(ctx context.Context, cp hypervisors.Checkpoint, o outcome) {
	for _, m := range c.members {
		if m.draft != nil && o == failed {
			c.e.settle(ctx, c.g.ID, "discard draft", m.draft.Discard)
		}
	}
	c.e.settle(ctx, c.g.ID, "close checkpoint", cp.Close)
	for _, m := range c.members {
		if useless := c.useless(ctx, cp, m, o); len(useless) > 0 {
			c.e.settle(ctx, c.g.ID, "forget change ids", func(ctx context.Context) error { return c.source.Forget(ctx, m.vm, useless...) })
		}
	}
}

// useless are the change ids of a member that surely no committed point needs any more. Where nobody can tell yet, the
// next cycle that is recorded can.
func (c *cycle) useless(ctx context.Context, cp hypervisors.Checkpoint, m *cycleMember, o outcome) []hypervisors.ChangeID {
	fresh, at := cp.ChangeIDs()[m.vm], machine{c.g.source().Host, m.vm}
	var older hypervisors.ChangeID
	if m.newest != nil {
		older = m.newest.ChangeID
	}
	if o == recorded {
		// The newest point may have been dropped: then the recorded change id is another one.
		c.e.doubt(at, older, c.g.Members[m.index].ChangeID)
		return c.e.doubted(at, fresh)
	}
	if o == failed {
		// The group's commit failed, but this member's may have happened: only the target knows.
		status, err := m.replica.Status(ctx)
		if err == nil && !slices.ContainsFunc(status.Points, func(p hypervisors.Point) bool { return p.ID == c.id }) {
			return []hypervisors.ChangeID{fresh}
		}
	}
	c.e.doubt(at, older, fresh) // a change id too many costs little, one too few a full compare
	return nil
}

func (c *cycle) warn(what string, m *cycleMember, err error) {
	if err != nil {
		c.r.Log().Warn(what, "group", c.g.Spec.Name, "machine", c.g.Members[m.index].Name, "error", err)
	}
}

// copy fills a draft for every member.
func (c *cycle) copy(ctx context.Context, cp hypervisors.Checkpoint) error {
	plans := map[*cycleMember][]*diskPlan{}
	for _, m := range c.members {
		m.disks = slices.DeleteFunc(slices.Clone(cp.Disks()), func(d hypervisors.FrozenDisk) bool { return d.VM() != m.vm })
		for _, d := range m.disks {
			plan, err := planDisk(ctx, m, d, c.compares(m))
			if err != nil {
				return err
			}
			plans[m] = append(plans[m], plan)
			c.total += plan.data
		}
	}
	for _, m := range c.members {
		if err := c.openDraft(ctx, m, plans[m]); err != nil {
			return err
		}
		m.point = hypervisors.Point{ID: c.id, Taken: cp.Taken(), Consistency: cp.Consistency(), ChangeID: cp.ChangeIDs()[m.vm]}
		for i, plan := range plans[m] {
			digest, err := c.copyDisk(ctx, m, plan, m.draft.Disks()[i])
			if err != nil {
				return fmt.Errorf("copy disk %s of %s: %w", plan.disk.ID(), c.g.Members[m.index].Name, err)
			}
			m.point.Disks = append(m.point.Disks, hypervisors.PointDisk{ID: plan.disk.ID(), Size: plan.disk.Size(), Digest: digest.String()})
		}
	}
	return nil
}

// diskPlan says what to look at on a disk.
type diskPlan struct {
	disk    hypervisors.FrozenDisk
	extents snapshot.Extents
	data    int64 // bytes of the data extents
	before  *hypervisors.PointDisk
	tracked bool // extents are what the source told of changes
}

// compares says that a member is to be read in full on both sides: something was found to differ.
func (c *cycle) compares(m *cycleMember) bool {
	return c.g.Compare || m.newest != nil && m.newest.Suspect != ""
}

// planDisk asks the source what changed; when it cannot tell, everything is looked at, and the hashes of the newest
// point decide what travels.
func planDisk(ctx context.Context, m *cycleMember, d hypervisors.FrozenDisk, compare bool) (*diskPlan, error) {
	plan := &diskPlan{disk: d, extents: d.Changed(ctx), tracked: true}
	if m.newest != nil {
		if i := slices.IndexFunc(m.newest.Disks, func(p hypervisors.PointDisk) bool { return p.ID == d.ID() }); i >= 0 {
			plan.before = &m.newest.Disks[i]
		}
	}
	var err error
	plan.data, err = snapshot.DataBytes(plan.extents)
	if compare || errors.Is(err, hypervisors.ErrTrackingLost) || (err == nil && (plan.before == nil || plan.before.Size > d.Size())) {
		plan.extents, plan.tracked = d.Allocated(ctx), false
		if m.kind = kindDifference; m.newest == nil {
			m.kind = kindFull
		}
		plan.data, err = snapshot.DataBytes(plan.extents)
	}
	return plan, err
}

func (c *cycle) openDraft(ctx context.Context, m *cycleMember, plans []*diskPlan) error {
	req := hypervisors.DraftRequest{Point: c.id, Compress: c.g.Spec.Policy.Compression == api.CompressionZstd}
	attached, err := c.attached(ctx, m, plans)
	if err != nil {
		return err
	}
	for _, p := range plans {
		as := attached[p.disk.ID()]
		req.Disks = append(req.Disks, hypervisors.DraftDiskSpec{ID: p.disk.ID(), Size: p.disk.Size(), Bus: as.Bus, Boot: as.Boot})
		if m.kind != kindDifference { // what differs is known only after comparing
			req.ExpectBytes += p.data
		}
	}
	draft, err := m.replica.Draft(ctx, req)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	m.draft = draft // letGo discards it
	if c.interrupted {
		return context.Cause(ctx)
	}
	return nil
}

// copyDisk brings one disk of a draft to the frozen moment and makes it durable. It returns the digest of all of it.
func (c *cycle) copyDisk(ctx context.Context, m *cycleMember, plan *diskPlan, draft hypervisors.DraftDisk) (snapshot.Digest, error) {
	blocks, err := snapshot.OpenMap(ctx, draft.Map(), plan.disk.Size())
	if err != nil {
		return snapshot.Digest{}, err
	}
	digest, err := c.below(ctx, m, plan, draft, blocks)
	if err != nil {
		return digest, err
	}
	if err := c.overwritten(ctx, m, plan, draft, blocks); err != nil {
		return digest, err
	}
	done := c.stats
	stats, err := snapshot.Copy(ctx, snapshot.Job{
		Source: plan.disk, Size: plan.disk.Size(), Extents: plan.extents,
		Target: draft, Map: blocks, Digest: &digest, Limit: c.e.limiter(c.g),
		Progress: func(s snapshot.Stats) {
			c.r.Progress(done.BytesRead+s.BytesRead, max(c.total, done.BytesRead+s.BytesRead))
		},
	})
	c.stats = done.Plus(stats)
	if err != nil {
		return digest, err
	}
	if err := draft.Flush(ctx); err != nil {
		return digest, err
	}
	return digest, blocks.Flush(ctx)
}

// below gives the digest of what the draft holds before the copy, and makes the map say the same.
func (c *cycle) below(ctx context.Context, m *cycleMember, plan *diskPlan, draft hypervisors.DraftDisk, blocks *snapshot.Map) (snapshot.Digest, error) {
	size := plan.disk.Size()
	switch {
	case !draft.MapValid() || c.compares(m):
		// An adopted disk, or a replica that was found wrong: what it holds is found out by reading it, whatever the map says.
		m.kind = kindDifference
		if err := blocks.Clear(); err != nil {
			return snapshot.Digest{}, err
		}
		return snapshot.Scan(ctx, scarredOf(draft), size, blocks, nil)
	case plan.before == nil:
		return snapshot.Digest{}, nil // a new, empty disk
	case plan.before.Size == size:
		return snapshot.ParseDigest(plan.before.Digest)
	}
	return blocks.Digest(ctx) // the disk changed its size
}

// commit is the commit point, member by member. A group's point counts only when all members have it.
func (c *cycle) commit(ctx context.Context, cp hypervisors.Checkpoint) error {
	// What a restart must know to complete the point lies in the job's state before the first commit.
	var w work
	if err := c.r.Load(&w); err != nil {
		return err
	}
	p := c.point(cp)
	w.Pending, w.PendingIn = &p, c.step
	if err := c.r.Save(w); err != nil {
		return err
	}
	for _, m := range c.members {
		m.point.Committed = c.e.Clock()
		if err := m.draft.Commit(ctx, m.point); err != nil {
			return fmt.Errorf("commit point of %s: %w", c.g.Members[m.index].Name, err)
		}
	}
	return nil
}

// point describes what the cycle made.
func (c *cycle) point(cp hypervisors.Checkpoint) api.Point {
	now := c.e.Clock()
	p := api.Point{ID: c.id, Taken: cp.Taken(), Committed: now, Consistency: string(cp.Consistency()), Kind: kindIncremental,
		BytesRead: c.stats.BytesRead, BytesWritten: c.stats.BytesWritten, Seconds: max(0, now.Sub(c.started).Seconds()), Verified: c.look != nil && c.look.whole}
	for _, m := range c.members {
		if m.kind == kindFull || (m.kind == kindDifference && p.Kind != kindFull) {
			p.Kind = m.kind
		}
		p.Machines = append(p.Machines, api.PointMachine{Machine: c.g.Members[m.index].Name, Disks: pointDisks(m.point.Disks)})
	}
	return p
}

func pointDisks(disks []hypervisors.PointDisk) []api.PointDisk {
	out := []api.PointDisk{}
	for _, d := range disks {
		out = append(out, api.PointDisk(d))
	}
	return out
}

// record remembers a committed point, after the commit and before the source forgets.
func (c *cycle) record(p api.Point, ids map[string]hypervisors.ChangeID) error {
	g, err := c.e.update(c.g.ID, func(g *group) error {
		for i := range g.Members {
			from, _ := g.Members[i].seats(g.Reversed)
			g.Members[i].ChangeID = ids[from.VM]
		}
		g.Compare = false
		return g.add(p, c.e.Clock())
	})
	if err == nil {
		c.e.chronicleMade(&g, p)
	}
	return err
}
