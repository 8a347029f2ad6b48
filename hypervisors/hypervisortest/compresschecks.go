package hypervisortest

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"understudy/hypervisors"
)

// Every second point that the suite makes is asked to be compressed, of every driver, as the wish must change nothing of
// what it holds. What follows is for those that grant it.
func compressChecks() []Check {
	return []Check{{
		Name: "compressed points hold what was written, however it was", Why: "the host does not compress", Run: onStage(checkCompressed),
		Needs: func(c hypervisors.Capabilities) bool { return c.Target && c.Compression },
	}}
}

// asksCompression is whether the suite wants a point of this name compressed: p1, p3 and so on.
func asksCompression(id string) bool { return id[len(id)-1]%2 == 1 }

// checkCompressed writes points in the order in which QEMU 7.2 destroys data when it is asked naively: blocks that are
// packed together, all of them anew, others in their place, and then more to be packed. Points that are compressed and
// others stand on each other, and are merged.
func checkCompressed(ctx context.Context, s *stage) error {
	r, err := s.replica(ctx)
	if err != nil {
		return err
	}
	content := map[string]disks{}
	now := disks{newDisk("vda", 64*block)}
	for n := range byte(4) {
		id := fmt.Sprintf("p%d", n+1)
		if n == 2 {
			now[0].size += 8 * block
		}
		if content[id], err = s.scrawled(ctx, r, id, now, n); err != nil {
			return fmt.Errorf("point %s: %w", id, err)
		}
		now = content[id].clone()
	}
	for _, gone := range []string{"", "p2", "p1", "p4"} {
		if gone != "" {
			delete(content, gone)
			if err := r.Drop(ctx, gone); err != nil {
				return err
			}
		}
		for id, want := range content {
			if err := wantKept(ctx, r, id, want); err != nil {
				return fmt.Errorf("%d points are left: %w", len(content), err)
			}
		}
	}
	return s.commitOn(ctx, r, "p5", content["p3"], overwrite(content["p3"], 5))
}

// scrawled makes a point that was written in many ways on top of what was there.
func (s *stage) scrawled(ctx context.Context, r hypervisors.Replica, id string, was disks, n byte) (disks, error) {
	d, err := r.Draft(ctx, request(id, was))
	if err != nil {
		return nil, err
	}
	s.later(d.Discard)
	all, dd := was.clone(), d.Disks()[0]
	put := func(off int64, p []byte) {
		all[0].put(p, off)
		if err == nil {
			_, err = dd.WriteAt(p, off)
		}
	}
	zero := func(e int64, count int64) {
		for i := e; i < e+count; i++ {
			all[0].clear(blockExtent(i))
		}
		if err == nil {
			err = dd.Zero(e*block, count*block)
		}
	}
	for i := int64(0); i < 32; i += 4 { // whole blocks that compress well
		put(i*block, bytes.Repeat([]byte{n, byte(i)}, 2*block))
	}
	put(33*block+512, bytes.Repeat([]byte{n + 1}, 3*block))
	zero(38, 2)
	put(41*block, bytes.Repeat([]byte{n + 2}, 512))
	if n == 2 { // all of them again, as zeros or in part
		zero(0, 32)
	} else {
		for i := range int64(32) {
			put(i*block+int64(n)*512, bytes.Repeat([]byte{n + 3}, 1024))
		}
	}
	for i := int64(42); i < 56; i++ {
		put(i*block+1024, bytes.Repeat([]byte{n + 4}, 4096))
	}
	put(56*block, bytes.Repeat([]byte{n, 9}, 4*block))
	zero(int64(n)*4, 2)
	if err := errors.Join(err, dd.Flush(ctx)); err != nil {
		return nil, err
	}
	got, err := readAll(ctx, d.Disks())
	if err != nil {
		return nil, err
	}
	if err := got.same(all); err != nil {
		return nil, fmt.Errorf("draft: %w", err)
	}
	m := dd.Map()
	if _, err := m.WriteAt(mapOf(id, all[0]), 0); err != nil {
		return nil, err
	}
	return all, errors.Join(m.Flush(ctx), d.Commit(ctx, pointOf(id, all)))
}
