package esx

import (
	"context"
	"slices"
	"strings"

	"understudy/hypervisors"
)

// Clean removes what earlier runs of this appliance left behind.
func (h *host) Clean(ctx context.Context, keep hypervisors.Keep) ([]string, error) {
	removed, err := h.cleanSource(ctx)
	if err != nil {
		return removed, err
	}
	more, err := h.cleanProbes(ctx)
	removed = append(removed, more...)
	if err != nil {
		return removed, err
	}
	more, err = h.cleanTarget(ctx, keep)
	removed = append(removed, more...)
	if err != nil {
		return removed, err
	}
	more, err = h.cleanNetworks(ctx, keep.Networks)
	return append(removed, more...), err
}

// cleanTarget ends tests that nobody wants and discards drafts that were left.
func (h *host) cleanTarget(ctx context.Context, keep hypervisors.Keep) (removed []string, err error) {
	all, err := h.machines(ctx)
	if err != nil {
		return nil, err
	}
	for _, m := range all {
		id := tag(m.Config, tagReplica)
		if r := h.replica(id); id != "" && r.is(m.Config) {
			more, err := r.clean(ctx, keep)
			removed = append(removed, more...)
			if err != nil {
				return removed, err
			}
		}
	}
	return removed, nil
}

func (r *replica) clean(ctx context.Context, keep hypervisors.Keep) (removed []string, err error) {
	err = r.work(ctx, "clean", func(s *state) error {
		for run := range s.tests() {
			if slices.Contains(keep.TestRuns, run) {
				continue
			}
			if err := s.endTest(ctx, run); err != nil {
				return err
			}
			removed = append(removed, "test "+run+" of replica "+r.id)
		}
		if err := s.merge(ctx); err != nil {
			return err
		}
		mark := s.tag(tagDraft)
		if mark == "" || s.draft != nil {
			return nil
		}
		point, _, _ := strings.Cut(mark, " ")
		if s.point(point) != nil { // it was committed, and the mark stayed
			return s.tagAll(ctx, tagDraft, "")
		}
		if err := s.clear(ctx); err != nil {
			return err
		}
		if err := s.scrap(ctx); err != nil {
			return err
		}
		removed = append(removed, "draft of point "+point+" of replica "+r.id)
		return nil
	})
	return removed, err
}
