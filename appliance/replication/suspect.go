package replication

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"understudy/api"
	"understudy/hypervisors"
	"understudy/snapshot"
)

// distrust follows an inspection that found something: the points that are built on it are marked, in our record and with
// the points at the target, which outlive it; the next cycle compares everything; and there is an alert until that has
// made a good point. It returns the points that are marked. That the order was cancelled meanwhile changes nothing about
// what is known.
func (e *Engine) distrust(ctx context.Context, id string, bad *mismatch) ([]string, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	g, err := e.group(id)
	if err != nil {
		return nil, err
	}
	marks := map[string][]string{} // reasons, by point
	for _, f := range bad.Found {
		for _, p := range e.builtOn(ctx, g, f) {
			marks[p] = append(marks[p], f.reason(e.Clock().UTC().Format("2006-01-02 15:04:05Z")))
		}
	}
	g, err = e.update(id, func(g *group) error {
		g.Compare = true
		for i := range g.Points {
			if reasons := marks[g.Points[i].ID]; len(reasons) > 0 && g.Points[i].Suspect == "" {
				g.Points[i].Suspect = strings.Join(reasons, "; ")
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := e.raise(id, api.Alert{Kind: api.AlertMismatch, Message: bad.Error(),
		Hint: "The next cycle compares everything and repairs the replica by itself. If it happens again, check the storage of the target, " +
			"and whether anything writes to the source's disks past the hypervisor."}, always); err != nil {
		return nil, err
	}
	var marked []string
	for _, p := range g.Points {
		if len(marks[p.ID]) == 0 {
			continue
		}
		marked = append(marked, p.ID)
		e.publish("point", "updated", p.ID, id, "suspect: "+p.Suspect)
	}
	if err := e.keepMarks(ctx, g); err != nil {
		e.Log.Warn("the target does not know yet which points are suspect; the next cycle tells it", "group", g.Spec.Name, "error", err)
	}
	return marked, nil
}

func (f *finding) reason(when string) string {
	bytes, rotten := f.Different, f.Rotten
	switch rotten {
	case 0:
		return fmt.Sprintf("disk %s of %s: %d bytes changed at the source without being reported, found %s", f.Disk, f.Machine, bytes, when)
	case bytes:
		return fmt.Sprintf("disk %s of %s: %d bytes changed at the target after they were written, found %s", f.Disk, f.Machine, bytes, when)
	}
	return fmt.Sprintf("disk %s of %s: %d bytes differ, %d of them changed at the target after they were written, found %s", f.Disk, f.Machine, bytes, rotten, when)
}

// certain says that a point was read from its source in full, and not by what the source told of changes.
func certain(p api.Point) bool { return p.Verified || p.Kind == kindFull }

// uncertain are the points since the newest that is certain.
func uncertain(g group) (ids []string) {
	for i := len(g.Points) - 1; i >= 0 && !certain(g.Points[i]); i-- {
		ids = append(ids, g.Points[i].ID)
	}
	return ids
}

// builtOn finds the points of a member that a finding makes suspect:
//
//   - where the target was damaged, those that do not give back what was written;
//   - where the source did not tell of a change, nobody knows since when: those that have the same hash there as the
//     newest, back to the last one that was read in full, which was right at its moment.
//
// What cannot be examined counts as built on it: damage does not ask when a point was last read in full. So does
// everything when there is too much to remember all of it.
func (e *Engine) builtOn(ctx context.Context, g group, f finding) (ids []string) {
	lies := sample(without(f.Ranges, f.Damaged))
	damaged := sample(f.Damaged)
	doubted := uncertain(g)
	replica, unknown := e.replicaOf(ctx, g, &g.Members[f.Member])
	if !f.complete() {
		unknown = cmp.Or(unknown, errTooMuch)
	}
	var newest []placed
	for n := len(g.Points) - 1; n >= 0; n-- {
		p := g.Points[n]
		var at examined
		err := unknown
		if err == nil {
			at, err = examine(ctx, replica, p.ID, f.Disk, lies, damaged)
		}
		if errors.Is(err, hypervisors.ErrNotFound) && unknown == nil {
			continue // it is gone
		}
		if err != nil {
			e.Log.Warn("point cannot be examined, and may be wrong", "group", g.Spec.Name, "point", p.ID, "error", err)
		}
		if newest == nil {
			newest = at.kept
		}
		same := err != nil || slices.ContainsFunc(at.kept, func(h placed) bool { return slices.Contains(newest, h) })
		if at.damaged || err != nil && len(damaged) > 0 || same && slices.Contains(doubted, p.ID) {
			ids = append(ids, p.ID)
		}
	}
	return ids
}

var errTooMuch = errors.New("too much differs to know all of it")

// examined is what a point holds of a disk where something was found.
type examined struct {
	kept    []placed // the hashes that were kept at commit
	damaged bool     // its bytes are others
}

// placed is the hash of a block.
type placed struct {
	block int64
	hash  snapshot.Hash
}

func examine(ctx context.Context, replica hypervisors.Replica, point, disk string, lies, damaged []int64) (out examined, err error) {
	reader, err := replica.Open(ctx, point)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, reader.Close()) }()
	all := reader.Disks()
	at := slices.IndexFunc(all, func(d hypervisors.PointDiskReader) bool { return d.ID() == disk })
	if at < 0 {
		return out, nil
	}
	d := all[at]
	blocks := snapshot.ReadMap(d.Map(), d.Size())
	for _, n := range lies {
		if n >= snapshot.Blocks(d.Size()) {
			continue
		}
		var h [1]snapshot.Hash
		if err := blocks.Get(n, h[:]); err != nil {
			return out, err
		}
		out.kept = append(out.kept, placed{n, h[0]})
	}
	verdict, err := snapshot.Verify(ctx, snapshot.Check{Replica: d, Map: blocks, Size: d.Size(), Extents: snapshot.Clip(extentsOf(damaged), d.Size())})
	out.damaged = !verdict.Identical()
	return out, err
}

// maxSample bounds what is looked at of each point to tell whether it is built on a finding.
const maxSample = 1024

// sample gives the numbers of blocks in ranges, ascending: one of each range at least, and with very many of them some
// from everywhere.
func sample(ranges []snapshot.Extent) (out []int64) {
	stride := max(1, total(ranges)/snapshot.BlockSize/maxSample)
	for _, e := range ranges {
		for off := e.Offset; off < e.End(); off += stride * snapshot.BlockSize {
			out = append(out, off/snapshot.BlockSize)
		}
	}
	return out
}

// without gives what is left of ranges when others are taken out. Both ascend, and so does the result.
func without(ranges, others []snapshot.Extent) (out []snapshot.Extent) {
	for _, e := range ranges {
		at := e.Offset
		for _, x := range others {
			if x.End() <= at || x.Offset >= e.End() {
				continue
			}
			if x.Offset > at {
				out = append(out, snapshot.Extent{Offset: at, Length: x.Offset - at})
			}
			at = x.End()
		}
		if at < e.End() {
			out = append(out, snapshot.Extent{Offset: at, Length: e.End() - at})
		}
	}
	return out
}

func extentsOf(blocks []int64) snapshot.Extents {
	return func(yield func(snapshot.Extent, error) bool) {
		for _, n := range blocks {
			if !yield(snapshot.Extent{Offset: n * snapshot.BlockSize, Length: snapshot.BlockSize}, nil) {
				return
			}
		}
	}
}

// keepMarks makes the target keep the marks that we know of.
func (e *Engine) keepMarks(ctx context.Context, g group) error {
	return e.eachReplica(ctx, g, func(ctx context.Context, _ int, replica hypervisors.Replica) error {
		status, err := replica.Status(ctx)
		if err != nil {
			return err
		}
		for _, held := range status.Points {
			at := slices.IndexFunc(g.Points, func(p api.Point) bool { return p.ID == held.ID })
			if at < 0 || g.Points[at].Suspect == "" || held.Suspect != "" {
				continue
			}
			if err := replica.Mark(ctx, held.ID, g.Points[at].Suspect); err != nil && !errors.Is(err, hypervisors.ErrNotFound) {
				return err
			}
		}
		return nil
	})
}
