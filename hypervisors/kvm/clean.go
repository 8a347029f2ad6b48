package kvm

import (
	"context"
	"errors"
	"fmt"
	"path"
	"sort"
	"strings"

	"libvirt.org/go/libvirt"

	"understudy/hypervisors"
)

// Clean removes our leftovers: first whatever holds a guest still or burdens it, then what only takes up room. It goes
// on after a failure and returns all of them.
func (h *host) Clean(ctx context.Context, keep hypervisors.Keep) ([]string, error) {
	var removed []string
	var all []error
	step := func(done []string, err error) {
		removed = append(removed, done...)
		if err != nil {
			all = append(all, err)
		}
	}
	step(h.cleanHeld(ctx))
	step(h.cleanMachines(ctx, keep))
	step(h.cleanScratch(ctx))
	step(h.cleanTargets(ctx, keep))
	sort.Strings(removed)
	if err := errors.Join(all...); err != nil {
		return removed, &hypervisors.Error{Op: "clean up", Subject: "host", Err: err, Hint: "It is tried again at the next connect."}
	}
	return removed, nil
}

// cleanMachines ends our backup jobs and readers, and deletes checkpoints and bitmaps of ours that nobody wants.
func (h *host) cleanMachines(ctx context.Context, keep hypervisors.Keep) ([]string, error) {
	var removed []string
	var all []error
	err := h.eachDomain(ctx, func(d *libvirt.Domain) error {
		done, err := h.cleanMachine(ctx, d, keep)
		removed = append(removed, done...)
		if errors.Is(err, hypervisors.ErrUnreachable) {
			return err
		}
		all = append(all, ignoreGone(err))
		return nil
	})
	return removed, errors.Join(append(all, err)...)
}

func (h *host) cleanMachine(ctx context.Context, d *libvirt.Domain, keep hypervisors.Keep) (removed []string, err error) {
	def, err := define(d)
	if err != nil {
		return nil, err
	}
	if !h.locks.try(def.id) {
		return nil, nil // at work, for all that Clean must not run beside it
	}
	defer h.locks.release(def.id)
	name := def.next.Name
	if def.reader != nil && def.reader.Owner == h.owner {
		if err := h.stopReader(ctx, d); err != nil {
			return nil, fmt.Errorf("machine %s: %w", name, err)
		}
		removed = append(removed, "reader of machine "+name)
	}
	if def.active {
		ended, err := h.cleanJob(ctx, d)
		if err != nil {
			return removed, fmt.Errorf("machine %s: %w", name, err)
		}
		if ended {
			removed = append(removed, "backup job of machine "+name)
		}
	}
	done, err := h.cleanTracks(ctx, d, &def, keep.ChangeIDs[def.id])
	removed = append(removed, done...)
	if err != nil {
		return removed, fmt.Errorf("machine %s: %w", name, err)
	}
	return removed, nil
}

// cleanJob ends a backup job of ours, and lets the guest go on if the job had stopped it.
func (h *host) cleanJob(ctx context.Context, d *libvirt.Domain) (bool, error) {
	job, err := jobOf(d)
	if err != nil || path.Base(socketOf(job)) != h.name("nbd") {
		return false, err
	}
	if err := endJob(ctx, d); err != nil {
		return false, err
	}
	if err := removeAll(ctx, h.place, socketOf(job)); err != nil {
		return true, err
	}
	if stoppedByIO(d) {
		return true, virtError(d.Resume())
	}
	return true, nil
}

// cleanTracks deletes checkpoints that are not to be kept, and then, when the machine is off, bitmaps that no checkpoint
// names: those that a killed QEMU left in the images.
func (h *host) cleanTracks(ctx context.Context, d *libvirt.Domain, def *definition, keep []hypervisors.ChangeID) ([]string, error) {
	tracks, err := readTracks(d)
	if err != nil {
		return nil, err
	}
	kept := map[string]bool{}
	for _, id := range keep {
		kept[string(id)] = true
	}
	var unwanted, removed []string
	for name := range tracks {
		if h.owns(name) && !kept[name] {
			unwanted = append(unwanted, name)
			removed = append(removed, "checkpoint "+name+" of machine "+def.next.Name)
		}
	}
	if len(unwanted) > 0 {
		if err := h.forget(ctx, d, unwanted); err != nil {
			return nil, err
		}
	}
	if def.active || def.reader != nil && def.reader.Owner != h.owner {
		return removed, nil
	}
	orphans, err := h.removeBitmaps(ctx, d, def, func(b string) bool { _, known := tracks[b]; return !known || !kept[b] })
	for _, b := range orphans {
		removed = append(removed, "bitmap "+b+" of machine "+def.next.Name)
	}
	return removed, err
}

// cleanScratch removes scratch files of ours from wherever machines have their disks.
func (h *host) cleanScratch(ctx context.Context) ([]string, error) {
	dirs := map[string]bool{defaultImages: true}
	if h.addr.scratch != "" {
		dirs[h.addr.scratch] = true
	}
	busy := map[string]bool{}
	err := h.eachDomain(ctx, func(d *libvirt.Domain) error {
		def, err := define(d)
		if err != nil {
			return ignoreGone(err)
		}
		busy[def.id] = h.locks.taken(def.id)
		disks, err := h.disks(ctx, d, &def)
		if err != nil {
			return ignoreGone(err)
		}
		for _, k := range disks {
			if k.file {
				dirs[path.Dir(k.Path)] = true
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var found []string
	for dir := range dirs {
		names, err := list(ctx, h.place, dir)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			vm, ours := strings.CutPrefix(name, h.name(""))
			if vm, _, _ = strings.Cut(vm, "."); ours && strings.HasSuffix(name, ".scratch") && !busy[vm] {
				found = append(found, path.Join(dir, name))
			}
		}
	}
	if err := removeAll(ctx, h.place, found...); err != nil {
		return nil, err
	}
	for i := range found {
		found[i] = "scratch file " + found[i]
	}
	return found, nil
}
