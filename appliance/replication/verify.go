package replication

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"understudy/api"
	"understudy/appliance/jobs"
	"understudy/appliance/protection"
	"understudy/snapshot"
)

// Verify compares the replicas with their sources in full. It is made of cycles: each compares a further part of the disks
// before its commit, so that points keep coming while the disks are read, however large they are.
func (e *Engine) Verify(ctx context.Context, ref string) (api.Job, error) {
	return e.order(ctx, ref, wish{order: protection.OrderVerify})
}

func (e *Engine) verifyKind() jobs.Kind {
	return jobs.Kind{Name: string(protection.OrderVerify), Ended: e.verifyEnded, Steps: []jobs.Step{
		e.step("begin", e.beginVerification),
		e.step("compare", e.compareAll),
		e.step("mark", e.mark),
		e.step("repair", e.repair),
		{Name: "retention", Do: func(ctx context.Context, r *jobs.Run) error { return e.prune(ctx, r.Group()) }},
		e.step("verdict", e.verdict),
	}}
}

func (e *Engine) beginVerification(ctx context.Context, t *task) error {
	if t.group.Verification == nil || t.group.Verification.ID != t.ID() {
		if err := e.actOnFound(ctx, t.group); err != nil {
			return err
		}
	}
	_, err := e.update(t.group.ID, func(g *group) error {
		g.VerifyTried = e.Clock()
		if g.Verification == nil || g.Verification.ID != t.ID() {
			g.Compared = nil
			g.Verification = &api.Verification{ID: t.ID(), State: "running", Started: t.Created(), Points: []string{}, Machines: []api.VerifiedMachine{}}
		}
		return nil
	})
	return err
}

// compareAll runs cycles until all of every disk has been compared, or something was found.
func (e *Engine) compareAll(ctx context.Context, t *task) error {
	for {
		g, err := e.group(t.group.ID)
		if err != nil || g.Verification.State != "running" {
			return err
		}
		look := &inspection{
			// A point is as old as its cycle took, and the next one takes as long: half of the RPO in all.
			budget: time.Duration(g.Spec.Policy.RPOSeconds) * time.Second / 4,
			limit:  e.limiter(g), done: maps.Clone(g.Compared),
		}
		p, err := e.inspectedCycle(ctx, t.Run, "compare", look)
		var bad *mismatch
		if err != nil && !errors.As(err, &bad) {
			return err
		}
		if err := e.recordLook(t, look, p, bad); err != nil {
			return err
		}
		// The next cycle is another one, though of the same step.
		if err := t.Load(&t.work); err != nil {
			return err
		}
		t.work.Pending, t.work.PendingIn = nil, ""
		if err := t.Save(t.work); err != nil {
			return err
		}
		if bad == nil {
			e.publish("point", "created", p.ID, g.ID, "")
		}
		if look.ended {
			return nil
		}
	}
}

// recordLook adds what a cycle compared to the group's verification, in one change: what a restart compares again was
// not counted. A point that was committed just before the appliance died comes without a look.
func (e *Engine) recordLook(t *task, look *inspection, p api.Point, bad *mismatch) error {
	g, err := e.update(t.group.ID, func(g *group) error {
		v := g.Verification
		v.Machines = cloneMachines(v.Machines)
		for _, m := range look.machines {
			for _, d := range m.Disks {
				into := verifiedDisk(&v.Machines, m.Machine, d.ID)
				into.Size = d.Size
				into.BytesCompared += d.BytesCompared
				into.BytesDifferent += d.BytesDifferent
				into.BytesDamaged += d.BytesDamaged
				into.Ranges = append(into.Ranges, d.Ranges...)
			}
		}
		count(v)
		g.Compared = look.done
		switch {
		case bad != nil:
			v.State, v.Problem = "mismatch", bad.Error()
			g.Found, g.Compare = bad, true
		case len(look.machines) > 0:
			v.Points = append(slices.Clone(v.Points), p.ID)
		}
		return nil
	})
	if err == nil {
		t.Result("bytesCompared", float64(g.Verification.BytesCompared))
		t.Result("bytesDifferent", float64(g.Verification.BytesDifferent))
	}
	return err
}

// mark draws the consequences of what was found.
func (e *Engine) mark(ctx context.Context, t *task) error { return e.actOnFound(ctx, t.group) }

// actOnFound draws the consequences of what a verification found, if nobody has.
func (e *Engine) actOnFound(ctx context.Context, g group) error {
	if g.Found == nil {
		return nil
	}
	marked, err := e.distrust(ctx, g.ID, g.Found)
	if err != nil {
		return err
	}
	_, err = e.update(g.ID, func(g *group) error {
		g.Found, g.Verification.Suspect = nil, marked
		return nil
	})
	return err
}

// count adds the disks of a verification up.
func count(v *api.Verification) {
	v.BlocksCompared, v.BytesCompared, v.BlocksDifferent, v.BytesDifferent = 0, 0, 0, 0
	for _, m := range v.Machines {
		for _, d := range m.Disks {
			v.BytesCompared += d.BytesCompared
			v.BytesDifferent += d.BytesDifferent
			v.BlocksCompared += snapshot.Blocks(d.BytesCompared)
			v.BlocksDifferent += snapshot.Blocks(d.BytesDifferent)
		}
	}
}

// repair makes a good point after something was found: a cycle that compares everything, and is compared itself.
func (e *Engine) repair(ctx context.Context, t *task) error {
	if t.group.Verification.State != "mismatch" {
		return nil
	}
	look := &inspection{}
	p, err := e.inspectedCycle(ctx, t.Run, "repair", look)
	var bad *mismatch
	if errors.As(err, &bad) { // again: the alert stays
		_, failed := e.distrust(ctx, t.group.ID, bad)
		return errors.Join(err, failed)
	}
	if err != nil {
		return err
	}
	e.publish("point", "created", p.ID, t.group.ID, "repairs what a verification found")
	_, err = e.update(t.group.ID, func(g *group) error {
		g.Verification.State, g.Verification.Repaired = "repaired", p.ID
		return nil
	})
	return err
}

// verdict fails the job when something differed, so that whoever waits for it learns of it.
func (e *Engine) verdict(_ context.Context, t *task) error {
	v := t.group.Verification
	if v.State == "running" {
		return nil
	}
	return api.Errorf(api.CodeHost, "Nothing is left to do for this group. Find out why: check the storage of the target, and whether anything "+
		"writes to the source's disks past the hypervisor. Points marked as suspect are started only when they are named.",
		"%s; repaired by point %s", v.Problem, v.Repaired)
}

// verifyEnded closes the record of a verification. What it found is acted on even when it was cancelled before it could:
// the order that cancelled it must not take a point that is known to be wrong.
func (e *Engine) verifyEnded(ctx context.Context, r *jobs.Run, cause error) error {
	g, err := e.group(r.Group())
	if err == nil {
		err = e.actOnFound(ctx, g)
	}
	if api.CodeOf(err) == api.CodeNotFound {
		return nil // removed meanwhile
	}
	if err != nil {
		return err
	}
	_, err = e.update(r.Group(), func(g *group) error {
		v := g.Verification
		if v == nil || v.ID != r.ID() || v.Ended != nil {
			return nil
		}
		now := e.Clock()
		v.Ended = &now
		switch {
		case v.State == "repaired":
			g.Verified = v.Started
		case cause == nil:
			v.State, g.Verified = "passed", v.Started
		case v.State == "running":
			v.State, v.Problem = "failed", cause.Error()
		}
		return nil
	})
	if api.CodeOf(err) == api.CodeNotFound {
		return nil // removed meanwhile
	}
	return errors.Join(err, e.ended(ctx, r, cause))
}

func cloneMachines(in []api.VerifiedMachine) []api.VerifiedMachine {
	out := slices.Clone(in)
	for i := range out {
		out[i].Disks = slices.Clone(out[i].Disks)
		for n := range out[i].Disks {
			out[i].Disks[n].Ranges = slices.Clone(out[i].Disks[n].Ranges)
		}
	}
	return out
}

// verifyIsDue says whether the schedule wants a verification now.
func (g *group) verifyIsDue(now time.Time) bool {
	due, ever := protection.VerifyDue(g.Spec.Policy, g.Verified, g.VerifyTried, g.Created, now, g.ID)
	return ever && !now.Before(due) && g.Failures == 0 && protection.Can(g.decision(), protection.OrderVerify) == nil
}
