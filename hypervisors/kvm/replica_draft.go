package kvm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"sync/atomic"

	"understudy/hypervisors"
	"understudy/snapshot"
	"understudy/snapshot/nbd"
	"understudy/snapshot/vhost"
)

// Draft room: what an overlay needs beside the data, and what must stay free for manifests and stages.
const (
	draftMargin   = 4 << 20
	draftOverhead = 128 // one byte of tables for so many of data, at most
)

// Connections for each image of a draft. What is written to a block map is little beside its disk's data.
const (
	dataConnections = 4
	mapConnections  = 1
)

// draft is an open uncommitted point.
type draft struct {
	replica *replica
	request hypervisors.DraftRequest
	export  *export
	planned []pointDisk
	disks   []*draftDisk
}

// draftDisk is one disk of a draft.
type draftDisk struct {
	*served
	id       string
	blockMap *served
	mapValid bool
}

func (d *draftDisk) ID() string         { return d.id }
func (d *draftDisk) Map() snapshot.Disk { return d.blockMap }
func (d *draftDisk) MapValid() bool     { return d.mapValid }

// served is an image behind our export. QEMU rounds sizes up to sectors; size is the one that was asked for.
type served struct {
	client *nbd.Client
	lane   *vhost.Lane // nil where there is none
	packer *packer     // nil where nothing is compressed; else the lane is its
	size   int64
	// broken: a write or a flush failed. What it should have written may be gone even if the next flush succeeds.
	broken atomic.Bool
	// export and what of it this is, to say what became of them.
	export  *export
	subject string
}

func (s *served) Size() int64 { return s.size }

func (s *served) ReadAt(p []byte, off int64) (int, error) {
	if off >= s.size {
		return 0, io.EOF
	}
	want := p[:min(int64(len(p)), s.size-off)]
	n, err := s.client.ReadAt(want, off)
	if err == nil && n < len(p) {
		return n, io.EOF
	}
	return n, s.explain("read", err)
}

// Lend implements snapshot.Lender.
func (s *served) Lend(n int64) (loan []byte, giveBack func()) {
	if s.lane == nil {
		return nil, func() {}
	}
	return s.lane.Lend(n)
}

// WriteAt takes the lane for what lies in its memory. A write that fails there is done again by NBD, which says why.
func (s *served) WriteAt(p []byte, off int64) (int, error) {
	switch {
	case s.packer != nil:
		if err := s.packer.write(p, off); err == nil {
			return len(p), nil
		} else if !errors.Is(err, errPlain) {
			return 0, s.outcome("write to", err)
		}
	case s.lane != nil && s.lane.Takes(p, off):
		if n, err := s.lane.WriteAt(p, off); !errors.Is(err, vhost.ErrFailed) {
			return n, s.outcome("write to", err)
		}
	}
	n, err := s.client.WriteAt(p, off)
	return n, s.outcome("write to", err)
}

func (s *served) close() {
	if s.lane != nil {
		_ = s.lane.Close()
	}
	if s.packer != nil {
		_ = s.packer.client.Close()
	}
	_ = s.client.Close()
}

func (s *served) Zero(off, n int64) error {
	if s.packer != nil {
		s.packer.touch(off, n)
	}
	return s.outcome("write to", s.client.Zero(off, n))
}

func (s *served) Flush(ctx context.Context) error {
	return s.outcome("flush", s.client.Flush(ctx))
}

// outcome is that of a write or a flush.
func (s *served) outcome(op string, err error) error {
	if err != nil {
		s.broken.Store(true)
	}
	return s.explain(op, err)
}

// explain says what became of the export: that a connection was lost says nothing to a person.
func (s *served) explain(op string, err error) error {
	switch {
	case err == nil || isEnd(err), errors.Is(err, nbd.ErrClosed), errors.Is(err, vhost.ErrClosed),
		errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	}
	e := &hypervisors.Error{Op: op, Subject: s.subject, Err: noSpace(err), Hint: "The next cycle starts from the last recovery point."}
	var reply *nbd.Error
	switch {
	case errors.Is(e.Err, hypervisors.ErrNoSpace):
		e.Hint = hintNoSpace
	case errors.As(err, &reply): // so the daemon lives
	case errors.Is(err, nbd.ErrStalled), errors.Is(err, vhost.ErrStalled):
		e.Err, e.Hint = fmt.Errorf("%w: %w", hypervisors.ErrTimeout, err), "Look whether the storage there hangs. "+e.Hint
	default:
		e.Err = s.export.died(err)
	}
	return e
}

const hintNoSpace = "Free space there, keep fewer points, or move the replica to a larger storage."

// Allocated says what of the image and all below it is zeros, without reading; see snapshot.Allocator.
func (s *served) Allocated(ctx context.Context) snapshot.Extents {
	return func(yield func(snapshot.Extent, error) bool) {
		for e, err := range s.client.Extents(ctx, nbd.Allocation) {
			if err != nil {
				yield(snapshot.Extent{}, err)
				return
			}
			x := snapshot.Extent{Offset: e.Offset, Length: min(e.Length, s.size-e.Offset), Zero: e.Flags&nbd.FlagZero != 0}
			if x.Length <= 0 || !yield(x, nil) {
				return
			}
		}
	}
}

// Draft makes the overlays of a new point and opens them.
func (r *replica) Draft(ctx context.Context, req hypervisors.DraftRequest) (hypervisors.Draft, error) {
	var d *draft
	err := r.work(ctx, "open a draft of", func(m *manifest) (err error) {
		d, err = r.openDraft(ctx, m, req)
		return err
	})
	if err != nil {
		return nil, err
	}
	return d, nil
}

func (r *replica) openDraft(ctx context.Context, m *manifest, req hypervisors.DraftRequest) (_ *draft, err error) {
	if r.draft != nil {
		return nil, fmt.Errorf("%w: a draft is open", hypervisors.ErrBusy)
	}
	if err := errors.Join(unsettled(m), checkDraft(m, req)); err != nil {
		return nil, err
	}
	if err := r.sweep(ctx, m); err != nil {
		return nil, err
	}
	if _, err := r.host.cleanExports(ctx, r.draftExports()); err != nil {
		return nil, err
	}
	if _, err := r.removeLeftovers(ctx, m); err != nil {
		return nil, err
	}
	r.left = nil
	if err := r.checkSpace(ctx, req.ExpectBytes); err != nil {
		return nil, err
	}
	d := &draft{replica: r, request: req}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.abandon(ctx, m))
		}
	}()
	if err := d.makeImages(ctx, m); err != nil {
		return nil, err
	}
	if err := d.open(ctx); err != nil {
		return nil, err
	}
	r.draft = d
	return d, nil
}

func checkDraft(m *manifest, req hypervisors.DraftRequest) error {
	if err := valid("point", pointID, req.Point); err != nil {
		return err
	}
	if m.index(req.Point) >= 0 {
		return fmt.Errorf("%w: there is a point %s already", hypervisors.ErrInvalid, req.Point)
	}
	if len(req.Disks) == 0 {
		return fmt.Errorf("%w: a point needs a disk", hypervisors.ErrInvalid)
	}
	seen := map[string]bool{}
	for _, d := range req.Disks {
		if err := valid("disk", diskID, d.ID); err != nil {
			return err
		}
		if seen[d.ID] || d.Size <= 0 || d.Size%512 != 0 {
			return fmt.Errorf("%w: disk %s of %d bytes", hypervisors.ErrInvalid, d.ID, d.Size)
		}
		seen[d.ID] = true
		if g := m.ground(d.ID); g != nil && d.Size < g.Size {
			return fmt.Errorf("%w: disk %s would shrink from %d to %d bytes", hypervisors.ErrInvalid, d.ID, g.Size, d.Size)
		}
	}
	return nil
}

// checkSpace finds out early that the expected bytes have no room.
func (r *replica) checkSpace(ctx context.Context, expect int64) error {
	room, err := freeSpace(ctx, r.host.place, r.dir)
	if err != nil {
		return err
	}
	need := expect + expect/draftOverhead + draftMargin
	if room.Free >= need {
		return nil
	}
	return &hypervisors.Error{Op: "use", Subject: "storage " + path.Dir(path.Dir(r.dir)),
		Err:  fmt.Errorf("%w: %d bytes are free, the copy may need %d", hypervisors.ErrNoSpace, room.Free, need),
		Hint: hintNoSpace}
}

// layout says for each disk of the request what its images stand on: the newest point's; else an adopted machine's own
// disk; else nothing. A disk that became smaller is another disk under an old name.
func layout(m *manifest, req hypervisors.DraftRequest) []pointDisk {
	var disks []pointDisk
	for _, spec := range req.Disks {
		d := pointDisk{ID: spec.ID, Bus: spec.Bus, Boot: spec.Boot, Size: spec.Size,
			Data: image{File: dataFile(spec.ID, req.Point)}, Map: image{File: mapFile(spec.ID, req.Point)}}
		var below *pointDisk
		if newest := m.newest(); newest != nil {
			below = newest.disk(spec.ID)
		}
		if below != nil && spec.Bus == "" {
			d.Bus, d.Boot = below.Bus, below.Boot
		}
		switch g := m.ground(spec.ID); {
		case below != nil && below.Size <= spec.Size:
			d.Data.Backing, d.Map.Backing = below.Data.File, below.Map.File
		case below == nil && g != nil:
			d.Data.Backing = g.Path
		}
		disks = append(disks, d)
	}
	return disks
}

func (d *draft) makeImages(ctx context.Context, m *manifest) error {
	r := d.replica
	d.planned = layout(m, d.request)
	var overlays []overlay
	for _, disk := range d.planned {
		data := overlay{file: path.Join(r.dir, disk.Data.File), backing: disk.Data.Backing, format: "qcow2", size: disk.Size, cluster: dataCluster, zstd: d.compress(disk)}
		if path.IsAbs(data.backing) {
			data.format = m.ground(disk.ID).Format
		}
		blockMap := overlay{file: path.Join(r.dir, disk.Map.File), backing: disk.Map.Backing, format: "qcow2",
			size: snapshot.MapSize(disk.Size), cluster: mapCluster}
		overlays = append(overlays, data, blockMap)
	}
	return makeImages(ctx, r.host.place, overlays)
}

// compress says whether a disk's data is compressed. Its block map never is: it is made of hashes. QEMU's filter does not
// take a disk that ends within a cluster.
func (d *draft) compress(disk pointDisk) bool {
	return d.request.Compress && d.replica.host.caps.Compression && disk.Size%dataClusterBytes == 0
}

// open serves the images and connects to them.
func (d *draft) open(ctx context.Context) (err error) {
	r := d.replica
	var images []exported
	for _, disk := range d.planned {
		images = append(images,
			exported{name: disk.ID, file: path.Join(r.dir, disk.Data.File), writable: true, lane: true, compress: d.compress(disk)},
			exported{name: disk.ID + ".map", file: path.Join(r.dir, disk.Map.File), writable: true})
	}
	if d.export, err = r.host.startExport(ctx, r.draftExports(), images); err != nil {
		return err
	}
	for _, disk := range d.planned {
		data, err := d.export.open(ctx, disk.ID, dataConnections)
		if err != nil {
			return err
		}
		// Without a map below, an image on something has content that the map does not tell of.
		opened := &draftDisk{id: disk.ID, served: &served{client: data, size: disk.Size, export: d.export, subject: r.subject(disk.ID)}, mapValid: disk.Data.Backing == "" || disk.Map.Backing != ""}
		d.disks = append(d.disks, opened)
		if opened.lane, err = d.export.openLane(ctx, disk.ID); err != nil {
			return err
		}
		if d.compress(disk) {
			packed, err := d.export.open(ctx, disk.ID+packedSuffix, dataConnections)
			if err != nil {
				return err
			}
			opened.packer = newPacker(packed, opened.lane, disk.Size)
		}
		blockMap, err := d.export.open(ctx, disk.ID+".map", mapConnections)
		if err != nil {
			return err
		}
		opened.blockMap = &served{client: blockMap, size: snapshot.MapSize(disk.Size), export: d.export, subject: r.subject(disk.ID)}
	}
	return nil
}

func (d *draft) Disks() []hypervisors.DraftDisk {
	var disks []hypervisors.DraftDisk
	for _, disk := range d.disks {
		disks = append(disks, disk)
	}
	return disks
}

// close ends the connections and the export. Without an error all that was written is in the files, if not on the disk.
func (d *draft) close(ctx context.Context) error {
	for _, disk := range d.disks {
		disk.close()
		if disk.blockMap != nil {
			disk.blockMap.close()
		}
	}
	if d.export == nil {
		return nil
	}
	return d.export.stop(ctx)
}

// abandon closes the draft and removes its files, unless they are a point's by now.
func (d *draft) abandon(ctx context.Context, m *manifest) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), exportPatience)
	defer cancel()
	_ = d.close(ctx) // what it did not write out is of no use any more
	if m.index(d.request.Point) >= 0 {
		return nil
	}
	var files []string
	for _, disk := range d.planned {
		files = append(files, disk.Data.File, disk.Map.File)
	}
	return removeAll(ctx, d.replica.host.place, d.replica.paths(files...)...)
}

// Discard gives the draft up. After Commit, also one that failed late, only the manifest decides. After a failure it can
// be called again, and removes what it left.
func (d *draft) Discard(ctx context.Context) error {
	r := d.replica
	ctx = context.WithoutCancel(ctx)
	return r.alone(ctx, "discard the draft of", func() error {
		if r.draft != d && r.left != d {
			return nil // and perhaps there is no replica any more
		}
		// Whatever comes of it: a draft that stayed open because its host was away would be in the way for ever. What it
		// leaves is removed by the next try, or by the next draft, whose files may have the same names.
		r.draft, r.left = nil, d
		m, err := r.load(ctx)
		if errors.Is(err, hypervisors.ErrNotFound) {
			m, err = &manifest{}, nil // somebody else deleted it; the export must end all the same
		}
		if err != nil {
			_ = d.close(ctx)
			return err
		}
		if err := d.abandon(ctx, m); err != nil {
			return err
		}
		r.left = nil
		return nil
	})
}

// Commit makes everything durable, and then the manifest says that it is a point. When it says so already, an earlier
// Commit's answer was lost.
func (d *draft) Commit(ctx context.Context, p hypervisors.Point) error {
	r := d.replica
	return r.work(ctx, "commit point "+p.ID+" of", func(m *manifest) error {
		if m.holds(p) {
			if r.draft == d {
				r.draft = nil
				_ = d.close(ctx) // what is committed was written out before
			}
			return r.restage(ctx, m)
		}
		if r.draft != d {
			return fmt.Errorf("%w: the draft has ended", hypervisors.ErrInvalid)
		}
		if err := d.matches(p); err != nil {
			return err
		}
		if err := d.secure(ctx); err != nil {
			return err
		}
		m.Points = append(m.Points, point{Meta: p, Disks: d.planned})
		if err := r.save(ctx, m); err != nil {
			return err
		}
		// From here on it is a point.
		r.draft = nil
		return r.restage(ctx, m)
	})
}

// matches refuses a description that is not of this draft.
func (d *draft) matches(p hypervisors.Point) error {
	if p.ID != d.request.Point {
		return fmt.Errorf("%w: the draft is for point %s", hypervisors.ErrInvalid, d.request.Point)
	}
	for _, disk := range d.planned {
		if !slices.ContainsFunc(p.Disks, func(pd hypervisors.PointDisk) bool { return pd.ID == disk.ID && pd.Size == disk.Size }) {
			return fmt.Errorf("%w: point has no disk %s of %d bytes", hypervisors.ErrInvalid, disk.ID, disk.Size)
		}
	}
	if len(p.Disks) != len(d.planned) {
		return fmt.Errorf("%w: point has %d disks, the draft %d", hypervisors.ErrInvalid, len(p.Disks), len(d.planned))
	}
	return nil
}

// secure brings all that was written to the disk: flushes through the export, so that errors of earlier writes show,
// then ends it, so that it holds nothing back, then syncs the files and their names.
func (d *draft) secure(ctx context.Context) error {
	files := []string{d.replica.dir}
	for i, disk := range d.disks {
		if disk.broken.Load() || disk.blockMap.broken.Load() {
			return fmt.Errorf("%w: a write to disk %s of the draft failed", hypervisors.ErrInvalid, disk.id)
		}
		if err := disk.Flush(ctx); err != nil {
			return err
		}
		if err := disk.blockMap.Flush(ctx); err != nil {
			return err
		}
		files = append(files, d.replica.paths(d.planned[i].Data.File, d.planned[i].Map.File)...)
	}
	if err := d.close(ctx); err != nil {
		return err
	}
	return syncPaths(ctx, d.replica.host.place, files...)
}

// removeLeftovers removes images and unfinished files that the manifest does not name: drafts that were never committed
// and what an interrupted removal left.
func (r *replica) removeLeftovers(ctx context.Context, m *manifest) ([]string, error) {
	names, err := list(ctx, r.host.place, r.dir)
	if err != nil {
		return nil, err
	}
	keep := m.files()
	var gone []string
	for _, name := range names {
		ours := strings.HasSuffix(name, ".qcow2") || strings.HasSuffix(name, ".map") || strings.HasSuffix(name, ".new")
		if ours && !keep[name] {
			gone = append(gone, name)
		}
	}
	return r.paths(gone...), removeAll(ctx, r.host.place, r.paths(gone...)...)
}
