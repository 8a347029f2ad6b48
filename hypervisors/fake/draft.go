package fake

import (
	"context"
	"fmt"
	"slices"

	"understudy/hypervisors"
	"understudy/snapshot"
)

type draft struct {
	h     *replicaHandle
	point string
	disks []*draftDisk
	// ended says how: "" while open, "committed" or "discarded".
	ended string
}

type draftDisk struct {
	file
	id, bus  string
	boot     int
	hashes   file
	mapValid bool
}

// file is a volume of a draft as package snapshot sees it.
type file struct {
	d      *draft
	volume *volume
}

func (h *replicaHandle) Draft(ctx context.Context, req hypervisors.DraftRequest) (hypervisors.Draft, error) {
	if err := h.lock(ctx, "open", "draft "+req.Point); err != nil {
		return nil, err
	}
	defer h.c.hv.mu.Unlock()
	d, err := h.draft(req)
	if err != nil {
		return nil, h.fail("open", "draft "+req.Point, err)
	}
	return d, nil
}

func (h *replicaHandle) draft(req hypervisors.DraftRequest) (*draft, error) {
	r := h.r
	if !pointName.MatchString(req.Point) {
		return nil, fmt.Errorf("point %q: %w", req.Point, hypervisors.ErrInvalid)
	}
	if _, err := r.point(req.Point); err == nil {
		return nil, fmt.Errorf("point %s is committed: %w", req.Point, hypervisors.ErrInvalid)
	}
	if r.draft != nil {
		r.draft.release()
	}
	if r.pool.free() < max(req.ExpectBytes, blockSize) {
		return nil, fmt.Errorf("storage %s has %d bytes: %w", r.pool.name, r.pool.free(), hypervisors.ErrNoSpace)
	}
	d := &draft{h: h, point: req.Point}
	r.draft = d
	for _, spec := range req.Disks {
		if err := d.add(spec); err != nil {
			d.release()
			return nil, err
		}
	}
	for _, dd := range d.disks {
		dd.volume.now.packed = req.Compress && h.c.hv.caps.Compression
	}
	return d, nil
}

func (d *draft) add(spec hypervisors.DraftDiskSpec) error {
	if spec.ID == "" || spec.Size <= 0 || d.disk(spec.ID) != nil {
		return fmt.Errorf("disk %q of %d bytes: %w", spec.ID, spec.Size, hypervisors.ErrInvalid)
	}
	pool := d.h.r.pool
	content, hashes := d.h.r.base(d.h.r.newest(), spec.ID)
	dd := &draftDisk{id: spec.ID, bus: spec.Bus, boot: spec.Boot, mapValid: content == nil || hashes != nil}
	if newest := d.h.r.newest(); spec.Bus == "" && newest != nil {
		if before := newest.disk(spec.ID); before != nil {
			dd.bus, dd.boot = before.bus, before.boot
		}
	}
	fork := func(of *image, size int64) (file, error) {
		v := &volume{now: newImage(0, pool)}
		if of != nil {
			v.now = of.fork(pool)
		}
		return file{d: d, volume: v}, v.now.resize(size)
	}
	var err error
	if dd.file, err = fork(content, spec.Size); err != nil {
		dd.volume.release()
		return err
	}
	dd.hashes, err = fork(hashes, snapshot.MapSize(spec.Size))
	d.disks = append(d.disks, dd)
	return err
}

func (d *draft) disk(id string) *draftDisk {
	if i := slices.IndexFunc(d.disks, func(dd *draftDisk) bool { return dd.id == id }); i >= 0 {
		return d.disks[i]
	}
	return nil
}

func (d *draft) Disks() (out []hypervisors.DraftDisk) {
	for _, dd := range d.disks {
		out = append(out, dd)
	}
	return out
}

// Commit does not flush: what the caller did not flush is lost with the next power failure, committed or not.
func (d *draft) Commit(ctx context.Context, p hypervisors.Point) error {
	if err := d.h.lock(ctx, "commit", "draft "+d.point); err != nil {
		return err
	}
	defer d.h.c.hv.mu.Unlock()
	if d.ended == "committed" {
		return nil
	}
	if err := d.check(p); err != nil {
		return d.h.fail("commit", "draft "+d.point, err)
	}
	r := d.h.r
	kept := &point{Point: p}
	kept.Disks = slices.Clone(p.Disks)
	for _, dd := range d.disks {
		kept.disks = append(kept.disks, &pointDisk{id: dd.id, bus: dd.bus, boot: dd.boot, content: dd.volume, hashes: dd.hashes.volume})
	}
	r.points = append(r.points, kept)
	r.draft, d.ended = nil, "committed"
	r.rest()
	return nil
}

func (d *draft) check(p hypervisors.Point) error {
	if d.ended != "" {
		return fmt.Errorf("draft was %s: %w", d.ended, hypervisors.ErrNotFound)
	}
	if p.ID != d.point || len(p.Disks) != len(d.disks) {
		return fmt.Errorf("point %s with %d disks does not describe the draft: %w", p.ID, len(p.Disks), hypervisors.ErrInvalid)
	}
	for _, pd := range p.Disks {
		if dd := d.disk(pd.ID); dd == nil || dd.volume.now.size != pd.Size {
			return fmt.Errorf("disk %s of %d bytes is not in the draft: %w", pd.ID, pd.Size, hypervisors.ErrInvalid)
		}
	}
	return nil
}

func (d *draft) Discard(ctx context.Context) error {
	if err := d.h.c.lock(ctx, "discard", "draft "+d.point); err != nil {
		return err
	}
	defer d.h.c.hv.mu.Unlock()
	d.release()
	return nil
}

func (d *draft) release() {
	if d.ended != "" {
		return
	}
	d.ended = "discarded"
	d.h.r.draft = nil
	for _, dd := range d.disks {
		dd.volume.release()
		dd.hashes.volume.release()
	}
}

func (dd *draftDisk) ID() string         { return dd.id }
func (dd *draftDisk) Map() snapshot.Disk { return dd.hashes }
func (dd *draftDisk) MapValid() bool     { return dd.mapValid }

// lock begins a call on the file of an open draft.
func (f file) lock(ctx context.Context, op string) error {
	if err := f.d.h.c.lock(ctx, op, "draft "+f.d.point); err != nil {
		return err
	}
	if f.d.ended != "" {
		f.d.h.c.hv.mu.Unlock()
		return f.d.h.fail(op, "draft "+f.d.point, fmt.Errorf("draft was %s: %w", f.d.ended, hypervisors.ErrNotFound))
	}
	return nil
}

func (f file) Size() int64 {
	f.d.h.c.hv.mu.Lock()
	defer f.d.h.c.hv.mu.Unlock()
	return f.volume.now.size
}

func (f file) ReadAt(p []byte, off int64) (int, error) {
	if err := f.lock(context.Background(), "read"); err != nil {
		return 0, err
	}
	defer f.d.h.c.hv.mu.Unlock()
	return readImage(f.volume.now, p, off)
}

func (f file) WriteAt(p []byte, off int64) (int, error) {
	err := f.change("write", off, int64(len(p)), func(im *image) error { return im.writeAt(p, off) })
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

func (f file) Zero(off, n int64) error {
	return f.change("zero", off, n, func(im *image) error { return im.zero(off, n) })
}

func (f file) change(op string, off, n int64, do func(*image) error) error {
	if err := f.lock(context.Background(), op); err != nil {
		return err
	}
	defer f.d.h.c.hv.mu.Unlock()
	err := f.volume.now.check(off, n)
	if err == nil {
		f.volume.dirty()
		err = do(f.volume.now)
	}
	if err != nil {
		return f.d.h.fail(op, "draft "+f.d.point, err)
	}
	return nil
}

func (f file) Flush(ctx context.Context) error {
	if err := f.lock(ctx, "flush"); err != nil {
		return err
	}
	defer f.d.h.c.hv.mu.Unlock()
	f.volume.flush()
	return nil
}
