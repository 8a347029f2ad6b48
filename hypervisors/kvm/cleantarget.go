package kvm

import (
	"context"
	"errors"
	"path"
	"slices"
	"strings"

	"libvirt.org/go/libvirt"

	"understudy/hypervisors"
)

// cleanTargets removes what an earlier run left on the target's side: exports, disks of probes, drafts, tests that nobody wants any more,
// their networks, and our probes in these.
func (h *host) cleanTargets(ctx context.Context, keep hypervisors.Keep) ([]string, error) {
	var removed []string
	var errs []error
	for _, clean := range []func(context.Context) ([]string, error){
		func(ctx context.Context) ([]string, error) { return h.cleanExports(ctx, exportPrefix(h.owner)) },
		h.cleanProbeDisks,
		func(ctx context.Context) ([]string, error) { return h.cleanReplicas(ctx, keep) },
		func(ctx context.Context) ([]string, error) { return h.cleanTests(ctx, keep) },
		h.cleanProbes,
		h.cleanConversions,
		func(ctx context.Context) ([]string, error) { return h.cleanNetworks(ctx, keep.Networks) },
	} {
		names, err := clean(ctx)
		removed, errs = append(removed, names...), append(errs, err)
	}
	return removed, errors.Join(errs...)
}

// cleanReplicas goes through all replicas of ours.
func (h *host) cleanReplicas(ctx context.Context, keep hypervisors.Keep) ([]string, error) {
	storages, err := h.Storage(ctx)
	if err != nil {
		return nil, err
	}
	var removed []string
	var errs []error
	for _, s := range storages {
		ids, err := list(ctx, h.place, path.Join(s.Path, replicaDir))
		errs = append(errs, err)
		for _, id := range ids {
			dir := path.Join(s.Path, replicaDir, id)
			m, err := readManifest(ctx, h.place, dir)
			if absent(err) || err == nil && m.Owner != h.owner {
				continue
			}
			if err == nil && m.Removed {
				err = h.replicaAt(id, dir).finishRemoval(ctx, m)
				removed = append(removed, "replica "+dir)
			} else if err == nil {
				var names []string
				names, err = h.replicaAt(id, dir).clean(ctx, keep)
				removed = append(removed, names...)
			}
			errs = append(errs, err)
		}
	}
	return removed, errors.Join(errs...)
}

// clean ends a replica's unwanted tests and removes the files that its manifest does not name.
func (r *replica) clean(ctx context.Context, keep hypervisors.Keep) (removed []string, err error) {
	err = r.work(ctx, "clean", func(m *manifest) error {
		for _, t := range slices.Clone(m.Tests) {
			if slices.Contains(keep.TestRuns, t.ID) {
				continue
			}
			if err := r.endTest(ctx, m, t.ID); err != nil {
				return err
			}
			removed = append(removed, "test run "+t.ID+" of replica "+r.id)
		}
		if r.draft != nil {
			return nil
		}
		files, err := r.removeLeftovers(ctx, m)
		for _, f := range files {
			removed = append(removed, "file "+f)
		}
		return err
	})
	return removed, err
}

// cleanTests ends test machines of ours that no manifest knows of, which a removed replica may have left.
func (h *host) cleanTests(ctx context.Context, keep hypervisors.Keep) ([]string, error) {
	var removed []string
	err := h.eachDomain(ctx, func(d *libvirt.Domain) error {
		def, err := define(d)
		if err != nil {
			return ignoreGone(err)
		}
		mark := readMarks(&def.live).Replica
		if !def.active || mark == nil || mark.Owner != h.owner || mark.Run == "" || slices.Contains(keep.TestRuns, mark.Run) {
			return nil
		}
		if err := h.destroy(ctx, def.id); err != nil {
			return err
		}
		removed = append(removed, "test machine "+def.live.Name)
		return nil
	})
	return removed, err
}

// cleanProbes removes ends of probes whose other end has not taken them along.
func (h *host) cleanProbes(ctx context.Context) ([]string, error) {
	all, err := h.links(ctx)
	var removed []string
	for _, l := range all {
		if !strings.HasPrefix(l.Name, ourProbe) {
			continue
		}
		if _, err := h.place.Run(ctx, nil, "ip", "link", "delete", "dev", l.Name); err != nil {
			return removed, err
		}
		removed = append(removed, "device "+l.Name)
	}
	return removed, err
}
