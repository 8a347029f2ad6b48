package hypervisortest

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"understudy/hypervisors"
	"understudy/snapshot"
)

type faultySource struct {
	inner hypervisors.Source
	f     *Faults
	life  context.Context
}

func (s *faultySource) Checkpoint(ctx context.Context, req hypervisors.CheckpointRequest) (hypervisors.Checkpoint, error) {
	return result(s.f, ctx, "Source.Checkpoint", machines(req), func() (hypervisors.Checkpoint, error) {
		cp, err := s.inner.Checkpoint(ctx, req)
		if err != nil {
			return nil, err
		}
		life, end := context.WithCancel(s.life)
		return &faultyCheckpoint{Checkpoint: cp, f: s.f, life: life, end: end}, nil
	})
}

func (s *faultySource) Forget(ctx context.Context, vm string, ids ...hypervisors.ChangeID) error {
	return s.f.around(ctx, "Source.Forget", vm, func() error { return s.inner.Forget(ctx, vm, ids...) })
}

type faultyCheckpoint struct {
	hypervisors.Checkpoint
	f    *Faults
	life context.Context
	end  context.CancelFunc
}

func (c *faultyCheckpoint) Disks() (out []hypervisors.FrozenDisk) {
	for _, d := range c.Checkpoint.Disks() {
		out = append(out, &faultyFrozenDisk{FrozenDisk: d, f: c.f, life: c.life})
	}
	return out
}

func (c *faultyCheckpoint) Close(ctx context.Context) error {
	c.end()
	return c.f.around(ctx, "Checkpoint.Close", strings.Join(slices.Sorted(maps.Keys(c.ChangeIDs())), " "), func() error { return c.Checkpoint.Close(ctx) })
}

type faultyFrozenDisk struct {
	hypervisors.FrozenDisk
	f    *Faults
	life context.Context
}

func (d *faultyFrozenDisk) subject() string { return d.VM() + " " + d.ID() }

func (d *faultyFrozenDisk) ReadAt(p []byte, off int64) (int, error) {
	return transfer(d.f, d.life, "FrozenDisk.ReadAt", at(d.subject(), off), func() (int, error) { return d.FrozenDisk.ReadAt(p, off) })
}

func (d *faultyFrozenDisk) Changed(ctx context.Context) snapshot.Extents {
	return listing(d.f, ctx, "FrozenDisk.Changed", d.subject(), func() snapshot.Extents { return d.FrozenDisk.Changed(ctx) })
}

func (d *faultyFrozenDisk) Allocated(ctx context.Context) snapshot.Extents {
	return listing(d.f, ctx, "FrozenDisk.Allocated", d.subject(), func() snapshot.Extents { return d.FrozenDisk.Allocated(ctx) })
}

func machines(req hypervisors.CheckpointRequest) string {
	ids := []string{req.Name}
	for _, vm := range req.VMs {
		ids = append(ids, vm.ID)
	}
	return strings.Join(ids, " ")
}

func at(subject string, off int64) string { return subject + " " + strconv.FormatInt(off, 10) }

// transfer is around for reads and writes; io.EOF with data is an answer like any other.
func transfer(f *Faults, ctx context.Context, call Call, subject string, do func() (int, error)) (n int, err error) {
	var end error
	err = f.around(ctx, call, subject, func() (err error) {
		if n, err = do(); errors.Is(err, io.EOF) {
			end, err = err, nil
		}
		return err
	})
	if err != nil {
		return n, err
	}
	return n, end
}

// listing is around for extents: before the first one, or behind the last.
func listing(f *Faults, ctx context.Context, call Call, subject string, do func() snapshot.Extents) snapshot.Extents {
	return func(yield func(snapshot.Extent, error) bool) {
		if err := f.strike(ctx, call, Before, subject); err != nil {
			yield(snapshot.Extent{}, err)
			return
		}
		for e, err := range do() {
			if !yield(e, err) || err != nil {
				return
			}
		}
		if err := f.strike(ctx, call, After, subject); err != nil {
			yield(snapshot.Extent{}, err)
		}
	}
}

type faultyTarget struct {
	inner hypervisors.Target
	f     *Faults
	life  context.Context
}

func (t *faultyTarget) CreateReplica(ctx context.Context, spec hypervisors.ReplicaSpec) (hypervisors.Replica, error) {
	return t.replica(ctx, "Target.CreateReplica", spec.ID, func() (hypervisors.Replica, error) { return t.inner.CreateReplica(ctx, spec) })
}

func (t *faultyTarget) Adopt(ctx context.Context, spec hypervisors.AdoptSpec) (hypervisors.Replica, error) {
	return t.replica(ctx, "Target.Adopt", spec.ID, func() (hypervisors.Replica, error) { return t.inner.Adopt(ctx, spec) })
}

func (t *faultyTarget) Replica(ctx context.Context, id string) (hypervisors.Replica, error) {
	return t.replica(ctx, "Target.Replica", id, func() (hypervisors.Replica, error) { return t.inner.Replica(ctx, id) })
}

func (t *faultyTarget) replica(ctx context.Context, call Call, id string, do func() (hypervisors.Replica, error)) (hypervisors.Replica, error) {
	return result(t.f, ctx, call, id, func() (hypervisors.Replica, error) {
		r, err := do()
		if err != nil {
			return nil, err
		}
		return &faultyReplica{Replica: r, f: t.f, life: t.life, id: id}, nil
	})
}

type faultyReplica struct {
	hypervisors.Replica
	f    *Faults
	life context.Context
	id   string
}

func (r *faultyReplica) Status(ctx context.Context) (hypervisors.ReplicaStatus, error) {
	return result(r.f, ctx, "Replica.Status", r.id, func() (hypervisors.ReplicaStatus, error) { return r.Replica.Status(ctx) })
}

func (r *faultyReplica) Draft(ctx context.Context, req hypervisors.DraftRequest) (hypervisors.Draft, error) {
	return result(r.f, ctx, "Replica.Draft", r.id, func() (hypervisors.Draft, error) {
		d, err := r.Replica.Draft(ctx, req)
		if err != nil {
			return nil, err
		}
		life, end := context.WithCancel(r.life)
		return &faultyDraft{Draft: d, f: r.f, life: life, end: end, replica: r.id}, nil
	})
}

func (r *faultyReplica) Open(ctx context.Context, point string) (hypervisors.PointReader, error) {
	return result(r.f, ctx, "Replica.Open", r.id+" "+point, func() (hypervisors.PointReader, error) {
		p, err := r.Replica.Open(ctx, point)
		if err != nil {
			return nil, err
		}
		life, end := context.WithCancel(r.life)
		return &faultyReader{PointReader: p, f: r.f, life: life, end: end, replica: r.id}, nil
	})
}

func (r *faultyReplica) Drop(ctx context.Context, point string) error {
	return r.f.around(ctx, "Replica.Drop", r.id+" "+point, func() error { return r.Replica.Drop(ctx, point) })
}

func (r *faultyReplica) Mark(ctx context.Context, point, suspect string) error {
	return r.f.around(ctx, "Replica.Mark", r.id+" "+point, func() error { return r.Replica.Mark(ctx, point, suspect) })
}

func (r *faultyReplica) Run(ctx context.Context, spec hypervisors.RunSpec) (hypervisors.RunStatus, error) {
	return result(r.f, ctx, "Replica.Run", r.id+" "+spec.ID, func() (hypervisors.RunStatus, error) { return r.Replica.Run(ctx, spec) })
}

func (r *faultyReplica) End(ctx context.Context, run string) error {
	return r.f.around(ctx, "Replica.End", r.id+" "+run, func() error { return r.Replica.End(ctx, run) })
}

func (r *faultyReplica) Settle(ctx context.Context) error {
	return r.f.around(ctx, "Replica.Settle", r.id, func() error { return r.Replica.Settle(ctx) })
}

func (r *faultyReplica) Delete(ctx context.Context) error {
	return r.f.around(ctx, "Replica.Delete", r.id, func() error { return r.Replica.Delete(ctx) })
}

type faultyDraft struct {
	hypervisors.Draft
	f       *Faults
	life    context.Context
	end     context.CancelFunc
	replica string
}

func (d *faultyDraft) Disks() (out []hypervisors.DraftDisk) {
	for _, dd := range d.Draft.Disks() {
		subject := d.replica + " " + dd.ID()
		out = append(out, &faultyDraftDisk{DraftDisk: dd,
			file: faultyFile{Disk: dd, f: d.f, life: d.life, name: "DraftDisk", subject: subject},
			hash: faultyFile{Disk: dd.Map(), f: d.f, life: d.life, name: "DraftMap", subject: subject}})
	}
	return out
}

func (d *faultyDraft) Commit(ctx context.Context, p hypervisors.Point) error {
	return d.f.around(ctx, "Draft.Commit", d.replica, func() error { return d.Draft.Commit(ctx, p) })
}

func (d *faultyDraft) Discard(ctx context.Context) error {
	d.end()
	return d.f.around(ctx, "Draft.Discard", d.replica, func() error { return d.Draft.Discard(ctx) })
}

type faultyDraftDisk struct {
	hypervisors.DraftDisk // for ID, Size and MapValid
	file, hash            faultyFile
}

func (d *faultyDraftDisk) Map() snapshot.Disk                       { return &d.hash }
func (d *faultyDraftDisk) ReadAt(p []byte, off int64) (int, error)  { return d.file.ReadAt(p, off) }
func (d *faultyDraftDisk) WriteAt(p []byte, off int64) (int, error) { return d.file.WriteAt(p, off) }
func (d *faultyDraftDisk) Zero(off, n int64) error                  { return d.file.Zero(off, n) }
func (d *faultyDraftDisk) Flush(ctx context.Context) error          { return d.file.Flush(ctx) }

// faultyFile is the content of a draft's disk, or its map.
type faultyFile struct {
	snapshot.Disk
	f    *Faults
	life context.Context
	name Call
	// subject is replica and disk
	subject string
}

func (d *faultyFile) ReadAt(p []byte, off int64) (int, error) {
	return transfer(d.f, d.life, d.name+".ReadAt", at(d.subject, off), func() (int, error) { return d.Disk.ReadAt(p, off) })
}

func (d *faultyFile) WriteAt(p []byte, off int64) (int, error) {
	return transfer(d.f, d.life, d.name+".WriteAt", at(d.subject, off), func() (int, error) { return d.Disk.WriteAt(p, off) })
}

func (d *faultyFile) Zero(off, n int64) error {
	return d.f.around(d.life, d.name+".Zero", at(d.subject, off), func() error { return d.Disk.Zero(off, n) })
}

func (d *faultyFile) Flush(ctx context.Context) error {
	return d.f.around(ctx, d.name+".Flush", d.subject, func() error { return d.Disk.Flush(ctx) })
}

type faultyReader struct {
	hypervisors.PointReader
	f       *Faults
	life    context.Context
	end     context.CancelFunc
	replica string
}

func (r *faultyReader) Disks() (out []hypervisors.PointDiskReader) {
	for _, d := range r.PointReader.Disks() {
		out = append(out, &faultyPointDisk{PointDiskReader: d, f: r.f, life: r.life, subject: r.replica + " " + d.ID()})
	}
	return out
}

func (r *faultyReader) Close() error {
	r.end()
	return r.f.around(context.Background(), "PointReader.Close", r.replica, r.PointReader.Close)
}

type faultyPointDisk struct {
	hypervisors.PointDiskReader
	f       *Faults
	life    context.Context
	subject string
}

func (d *faultyPointDisk) ReadAt(p []byte, off int64) (int, error) {
	return transfer(d.f, d.life, "PointDisk.ReadAt", at(d.subject, off), func() (int, error) { return d.PointDiskReader.ReadAt(p, off) })
}

func (d *faultyPointDisk) Map() io.ReaderAt {
	return readerAt(func(p []byte, off int64) (int, error) {
		return transfer(d.f, d.life, "PointMap.ReadAt", at(d.subject, off), func() (int, error) { return d.PointDiskReader.Map().ReadAt(p, off) })
	})
}

type readerAt func(p []byte, off int64) (int, error)

func (f readerAt) ReadAt(p []byte, off int64) (int, error) { return f(p, off) }
