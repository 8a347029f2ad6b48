package hypervisortest

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"understudy/hypervisors"
)

func pointChecks() []Check {
	check := func(name string, run func(context.Context, *stage) error) Check {
		return Check{Name: name, Needs: needTarget, Why: whyTarget, Run: onStage(run)}
	}
	return []Check{
		check("dropping the first point", dropping(0)),
		check("dropping a middle point", dropping(1)),
		check("dropping two neighbours in the middle", dropping(1, 2)),
		check("dropping the newest point", dropping(3)),
		check("dropping all points", checkDropAll),
		check("an unknown point", checkUnknownPoint),
		check("a mark stays with its point", checkMark),
	}
}

// dropping makes four points, drops some, and proves that the others keep their content and that the next point still
// stands on the newest one.
func dropping(gone ...int) func(context.Context, *stage) error {
	return func(ctx context.Context, s *stage) error {
		r, err := s.replica(ctx)
		if err != nil {
			return err
		}
		content := map[string]disks{}
		for n := range byte(4) {
			id := fmt.Sprintf("p%d", n+1)
			content[id] = overwrite(content[fmt.Sprintf("p%d", n)], n+1)
			if err := commit(ctx, r, id, content[id]); err != nil {
				return err
			}
		}
		left := []string{"p1", "p2", "p3", "p4"}
		for k, i := range gone {
			i -= k
			if err := r.Drop(ctx, left[i]); err != nil {
				return err
			}
			if err := r.Drop(ctx, left[i]); err != nil {
				return fmt.Errorf("drop again: %w", err)
			}
			left = append(left[:i], left[i+1:]...)
			if err := wantPoints(ctx, r, left...); err != nil {
				return err
			}
		}
		newest := content[left[len(left)-1]]
		content["p5"] = overwrite(newest, 5)
		if err := s.commitOn(ctx, r, "p5", newest, content["p5"]); err != nil {
			return err
		}
		for _, id := range append(left, "p5") {
			if err := wantKept(ctx, r, id, content[id]); err != nil {
				return fmt.Errorf("after the drop: %w", err)
			}
		}
		return nil
	}
}

// overwrite gives content that shares some blocks with an earlier one.
func overwrite(base disks, n byte) disks {
	if base == nil {
		return pattern(n)
	}
	out := base.clone()
	for i, d := range out {
		d.put([]byte{n}, int64(n)*block+int64(i))
		d.clear(blockExtent(int64(n) - 1))
	}
	return out
}

// commitOn commits after proving what the draft stands on, and writes only what differs, as a cycle does.
func (s *stage) commitOn(ctx context.Context, r hypervisors.Replica, id string, base, want disks) error {
	d, err := r.Draft(ctx, request(id, want))
	if err != nil {
		return err
	}
	s.later(d.Discard)
	got, err := readAll(ctx, d.Disks())
	if err != nil {
		return err
	}
	if err := got.same(base); err != nil {
		return fmt.Errorf("draft %s does not show the newest point: %w", id, err)
	}
	if err := fill(ctx, d, id, want); err != nil {
		return err
	}
	return d.Commit(ctx, pointOf(id, want))
}

func checkDropAll(ctx context.Context, s *stage) error {
	r, err := s.replica(ctx)
	if err != nil {
		return err
	}
	for _, id := range []string{"p1", "p2"} {
		if err := commit(ctx, r, id, pattern(id[1]-'0')); err != nil {
			return err
		}
	}
	for _, id := range []string{"p2", "p1"} {
		if err := r.Drop(ctx, id); err != nil {
			return err
		}
	}
	if err := wantPoints(ctx, r); err != nil {
		return err
	}
	return errors.Join(commit(ctx, r, "p3", pattern(3)), wantKept(ctx, r, "p3", pattern(3)))
}

func checkUnknownPoint(ctx context.Context, s *stage) error {
	r, err := s.replica(ctx)
	if err != nil {
		return err
	}
	if err := r.Drop(ctx, "no-such-point"); err != nil {
		return fmt.Errorf("drop: %w", err)
	}
	_, err = r.Open(ctx, "no-such-point")
	return wants("open", err, hypervisors.ErrNotFound)
}

// checkMark: a mark is there for whoever asks, also over another connection and after the points around it have gone,
// and changes nothing else.
func checkMark(ctx context.Context, s *stage) error {
	r, err := s.replica(ctx)
	if err != nil {
		return err
	}
	for _, id := range []string{"p1", "p2", "p3"} {
		if err := commit(ctx, r, id, pattern(id[1]-'0')); err != nil {
			return err
		}
	}
	d, err := r.Draft(ctx, request("p4", pattern(4)))
	if err != nil {
		return err
	}
	s.later(d.Discard)
	for range 2 {
		if err := r.Mark(ctx, "p2", "damaged"); err != nil {
			return err
		}
	}
	if err := errors.Join(wantMarks(ctx, r, "", "damaged", ""), fill(ctx, d, "p4", pattern(4)), d.Commit(ctx, pointOf("p4", pattern(4)))); err != nil {
		return err
	}
	if err := r.Drop(ctx, "p1"); err != nil {
		return err
	}
	again, err := s.connect(ctx, s.Owner)
	if err != nil {
		return err
	}
	same, err := again.(hypervisors.Target).Replica(ctx, r.ID())
	if err != nil {
		return err
	}
	if err := wantMarks(ctx, same, "damaged", "", ""); err != nil {
		return fmt.Errorf("on another connection: %w", err)
	}
	if err := errors.Join(wantKept(ctx, r, "p2", pattern(2)), wantKept(ctx, r, "p3", pattern(3))); err != nil {
		return err
	}
	return wants("mark an unknown point", r.Mark(ctx, "no-such-point", "x"), hypervisors.ErrNotFound)
}

func wantMarks(ctx context.Context, r hypervisors.Replica, want ...string) error {
	status, err := r.Status(ctx)
	if err != nil {
		return err
	}
	var got []string
	for _, p := range status.Points {
		got = append(got, p.Suspect)
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("points are marked %q, want %q", got, want)
	}
	return nil
}
