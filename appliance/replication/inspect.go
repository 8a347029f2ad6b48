package replication

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"understudy/api"
	"understudy/hypervisors"
	"understudy/snapshot"
)

// An inspection compares drafts with the frozen moment that they were copied from, between the copy and the commit of a
// cycle. Three things must agree in every block: the source's bytes, the bytes that the target gives back, and the hash
// that was kept when they were written. A map alone shows a source that changes without telling (its hash is another
// one), but believes the target; reading the target's bytes shows what rotted there.

// inspectPiece is what is compared before the clock is looked at.
const inspectPiece = 64 << 20

// inspection of all disks of a group, in one cycle or over several of them.
type inspection struct {
	// budget bounds it within one cycle, so that the next point is not late; 0: no bound. Once something differs there is
	// none: all that differs must be known to tell which points are built on it.
	budget time.Duration
	limit  *snapshot.Limiter
	// done is how far each disk is compared, in this cycle or an earlier one, by machine and disk. Bytes.
	done map[string]int64
	// machines is what was compared in this cycle.
	machines []api.VerifiedMachine
	found    []finding
	// whole: all disks were compared in full in this cycle. ended: no disk has anything left.
	whole, ended bool
}

// finding is a disk that does not agree.
type finding struct {
	Member        int
	Machine, Disk string
	// Ranges differ at all; in those of Damaged the target does not give back what was written. Ascending, apart from each
	// other, and no more than maxFound of each.
	Ranges, Damaged []snapshot.Extent
	// Different and Rotten count the bytes of all there are.
	Different, Rotten int64
}

// maxFound bounds what is remembered of a disk: of very many ranges, the first.
const maxFound = 1000

// complete says that all ranges are remembered.
func (f *finding) complete() bool {
	return total(f.Ranges) >= f.Different && total(f.Damaged) >= f.Rotten
}

func total(ranges []snapshot.Extent) (bytes int64) {
	for _, e := range ranges {
		bytes += e.Length
	}
	return bytes
}

// merged sorts ranges, joins those that touch, and keeps maxFound of them.
func merged(all []snapshot.Extent) []snapshot.Extent {
	slices.SortFunc(all, func(a, b snapshot.Extent) int { return cmp.Compare(a.Offset, b.Offset) })
	out := all[:0]
	for _, e := range all {
		if n := len(out) - 1; n >= 0 && e.Offset <= out[n].End() {
			out[n].Length = max(out[n].End(), e.End()) - out[n].Offset
			continue
		}
		out = append(out, e)
	}
	return out[:min(len(out), maxFound)]
}

// mismatch is the error of a cycle whose inspection found something.
type mismatch struct {
	Found             []finding
	Different, Rotten int64 // bytes
}

var errMismatch = errors.New("replica is not identical to the frozen moment")

func (m *mismatch) Unwrap() error { return errMismatch }

func (m *mismatch) Error() string {
	f := m.Found[0]
	text := fmt.Sprintf("%v: disk %s of %s", errMismatch, f.Disk, f.Machine)
	if n := len(m.Found) - 1; n > 0 {
		text += fmt.Sprintf(" and %d more", n)
	}
	return fmt.Sprintf("%s, %d bytes in all, %d of them changed at the target after they were written", text, m.Different, m.Rotten)
}

// join puts what went wrong after a mismatch behind it.
func join(bad *mismatch, err error) error {
	if err == nil {
		return bad
	}
	return errors.Join(bad, err)
}

// inspect runs the inspection that is due in this cycle: the one that a verification ordered, or a full one where the
// policy asks for it in every cycle.
func (c *cycle) inspect(ctx context.Context) error {
	if c.look == nil {
		if !c.g.Spec.Policy.VerifyCycles {
			return nil
		}
		c.look = &inspection{}
	}
	i := c.look
	i.whole, i.ended = len(i.done) == 0, true
	if i.done == nil {
		i.done = map[string]int64{}
	}
	until := c.e.Clock().Add(i.budget)
	for _, m := range c.members {
		for n := range m.disks {
			if err := c.inspectDisk(ctx, m, n, until); err != nil {
				return err
			}
		}
	}
	i.whole = i.whole && i.ended
	return nil
}

// mismatch is what an inspection found, as far as it came; nil: nothing.
func (i *inspection) mismatch() *mismatch {
	if i == nil || len(i.found) == 0 {
		return nil
	}
	bad := &mismatch{Found: i.found}
	for _, m := range i.machines {
		for _, d := range m.Disks {
			bad.Different, bad.Rotten = bad.Different+d.BytesDifferent, bad.Rotten+d.BytesDamaged
		}
	}
	return bad
}

// inspectDisk compares what is left of a disk, as far as the time goes.
func (c *cycle) inspectDisk(ctx context.Context, m *cycleMember, n int, until time.Time) error {
	i, frozen, draft := c.look, m.disks[n], m.draft.Disks()[n]
	machine := c.g.Members[m.index].Name
	key := machine + "/" + frozen.ID()
	from, size := i.done[key], frozen.Size()
	blocks := snapshot.ReadMap(draft.Map(), size)
	var digest snapshot.Digest
	for at := from; at < size; at = i.done[key] {
		// One piece at least, so that it ends in any case.
		if i.budget > 0 && len(i.found) == 0 && len(i.machines) > 0 && !c.e.Clock().Before(until) {
			i.ended = false
			return nil
		}
		piece := snapshot.Extent{Offset: at, Length: min(inspectPiece, size-at)}
		verdict, err := snapshot.Verify(ctx, snapshot.Check{Source: frozen, Replica: scarred{draft}, Map: blocks, Size: size, Extents: one(piece), Limit: i.limit,
			Progress: func(s snapshot.Stats) { c.r.Progress(c.stats.BytesRead+at+s.BytesRead, 0) }})
		if err != nil {
			return fmt.Errorf("compare disk %s of %s: %w", frozen.ID(), machine, err)
		}
		digest.Merge(verdict.Digest)
		i.note(m.index, machine, frozen.ID(), size, piece.Length, verdict)
		i.done[key] = piece.End()
	}
	if from == 0 && digest.String() != m.point.Disks[n].Digest && !i.knows(m.index, frozen.ID()) {
		// Nothing to see in the bytes, and yet the number that is kept for them is another one.
		i.note(m.index, machine, frozen.ID(), size, 0, snapshot.Verdict{Mismatches: []snapshot.Extent{{Length: size}}, BytesDifferent: size})
	}
	return nil
}

// overwritten compares what the copy is about to overwrite with what was kept of it: damage there would never be seen
// again, but older points stand on it.
func (c *cycle) overwritten(ctx context.Context, m *cycleMember, plan *diskPlan, draft hypervisors.DraftDisk, blocks *snapshot.Map) error {
	if c.look == nil || !plan.tracked || plan.before == nil {
		return nil
	}
	verdict, err := snapshot.Verify(ctx, snapshot.Check{Replica: scarred{draft}, Map: blocks, Size: plan.disk.Size(), Extents: plan.extents, Limit: c.look.limit})
	if err == nil && !verdict.Identical() {
		c.look.note(m.index, c.g.Members[m.index].Name, plan.disk.ID(), plan.disk.Size(), 0, verdict)
	}
	return err
}

func one(e snapshot.Extent) snapshot.Extents {
	return func(yield func(snapshot.Extent, error) bool) { yield(e, nil) }
}

// note adds a verdict on a piece of a disk.
func (i *inspection) note(member int, machine, disk string, size, compared int64, v snapshot.Verdict) {
	d := verifiedDisk(&i.machines, machine, disk)
	d.Size = size
	d.BytesCompared += compared
	d.BytesDifferent += v.BytesDifferent
	d.BytesDamaged += v.BytesDamaged
	if v.Identical() {
		return
	}
	for _, e := range v.Mismatches {
		if len(d.Ranges) < maxRanges {
			d.Ranges = append(d.Ranges, api.Range{Offset: e.Offset, Length: e.Length})
		}
	}
	at := slices.IndexFunc(i.found, func(f finding) bool { return f.Member == member && f.Disk == disk })
	if at < 0 {
		at = len(i.found)
		i.found = append(i.found, finding{Member: member, Machine: machine, Disk: disk})
	}
	f := &i.found[at]
	f.Ranges, f.Damaged = merged(append(f.Ranges, v.Mismatches...)), merged(append(f.Damaged, v.Damaged...))
	f.Different, f.Rotten = f.Different+v.BytesDifferent, f.Rotten+v.BytesDamaged
}

// maxRanges is how many ranges of a disk are kept for people to look at.
const maxRanges = 100

func (i *inspection) knows(member int, disk string) bool {
	return slices.ContainsFunc(i.found, func(f finding) bool { return f.Member == member && f.Disk == disk })
}

// verifiedDisk finds the entry of a disk, or makes it.
func verifiedDisk(machines *[]api.VerifiedMachine, machine, disk string) *api.VerifiedDisk {
	at := slices.IndexFunc(*machines, func(m api.VerifiedMachine) bool { return m.Machine == machine })
	if at < 0 {
		at = len(*machines)
		*machines = append(*machines, api.VerifiedMachine{Machine: machine})
	}
	m := &(*machines)[at]
	n := slices.IndexFunc(m.Disks, func(d api.VerifiedDisk) bool { return d.ID == disk })
	if n < 0 {
		n = len(m.Disks)
		m.Disks = append(m.Disks, api.VerifiedDisk{ID: disk})
	}
	return &m.Disks[n]
}
