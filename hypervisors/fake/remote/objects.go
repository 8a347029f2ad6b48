package remote

import (
	"context"
	"io"
	"time"

	"understudy/hypervisors"
	"understudy/snapshot"
)

// object is the near side of something at the other end.
type object struct {
	c *conn
	h handle
}

func (o object) call(ctx context.Context, q request) (reply, error) {
	q.Object = o.h.Object
	return o.c.call(ctx, q)
}

func (o object) do(ctx context.Context, q request) error {
	_, err := o.call(ctx, q)
	return err
}

func (o object) ID() string  { return o.h.ID }
func (o object) Size() int64 { return o.h.Size }

func (o object) ReadAt(p []byte, off int64) (int, error) { return o.c.readAt(o.h.Object, p, off) }

type checkpoint struct{ object }

func (c *checkpoint) Taken() time.Time                           { return c.h.Taken }
func (c *checkpoint) Consistency() hypervisors.Consistency       { return c.h.Consistency }
func (c *checkpoint) ChangeIDs() map[string]hypervisors.ChangeID { return c.h.ChangeIDs }
func (c *checkpoint) Close(ctx context.Context) error            { return c.do(ctx, request{Method: "Close"}) }
func (c *checkpoint) Disks() (out []hypervisors.FrozenDisk) {
	for _, d := range c.h.Disks {
		out = append(out, &frozenDisk{object{c.c, d}})
	}
	return out
}

type frozenDisk struct{ object }

func (d *frozenDisk) VM() string { return d.h.VM }

func (d *frozenDisk) Changed(ctx context.Context) snapshot.Extents { return d.extents(ctx, "Changed") }
func (d *frozenDisk) Allocated(ctx context.Context) snapshot.Extents {
	return d.extents(ctx, "Allocated")
}

// extents asks anew whenever they are ranged over, as the driver would.
func (d *frozenDisk) extents(ctx context.Context, method string) snapshot.Extents {
	return func(yield func(snapshot.Extent, error) bool) {
		a, err := d.call(ctx, request{Method: method})
		for _, e := range a.Extents {
			if !yield(e, nil) {
				return
			}
		}
		if err != nil {
			yield(snapshot.Extent{}, err)
		}
	}
}

type replica struct{ object }

func (r *replica) Status(ctx context.Context) (hypervisors.ReplicaStatus, error) {
	a, err := r.call(ctx, request{Method: "Status"})
	return a.Status, err
}

func (r *replica) Draft(ctx context.Context, req hypervisors.DraftRequest) (hypervisors.Draft, error) {
	a, err := r.call(ctx, request{Method: "Draft", Draft: req})
	if err != nil {
		return nil, err
	}
	return &draft{object{r.c, a.Handle}}, nil
}

func (r *replica) Open(ctx context.Context, point string) (hypervisors.PointReader, error) {
	a, err := r.call(ctx, request{Method: "Open", Name: point})
	if err != nil {
		return nil, err
	}
	return &pointReader{object{r.c, a.Handle}}, nil
}

func (r *replica) Drop(ctx context.Context, point string) error {
	return r.do(ctx, request{Method: "Drop", Name: point})
}

func (r *replica) Run(ctx context.Context, spec hypervisors.RunSpec) (hypervisors.RunStatus, error) {
	a, err := r.call(ctx, request{Method: "Run", Run: spec})
	return a.Run, err
}

func (r *replica) End(ctx context.Context, run string) error {
	return r.do(ctx, request{Method: "End", Name: run})
}

func (r *replica) Mark(ctx context.Context, point, suspect string) error {
	return r.do(ctx, request{Method: "Mark", Name: point, Suspect: suspect})
}

func (r *replica) Settle(ctx context.Context) error { return r.do(ctx, request{Method: "Settle"}) }
func (r *replica) Delete(ctx context.Context) error { return r.do(ctx, request{Method: "Delete"}) }

type draft struct{ object }

func (d *draft) Commit(ctx context.Context, p hypervisors.Point) error {
	return d.do(ctx, request{Method: "Commit", Point: p})
}

func (d *draft) Discard(ctx context.Context) error { return d.do(ctx, request{Method: "Discard"}) }

func (d *draft) Disks() (out []hypervisors.DraftDisk) {
	for _, h := range d.h.Disks {
		out = append(out, &draftDisk{writable{object{d.c, h}}})
	}
	return out
}

// writable is the content of a draft's disk, or its map.
type writable struct{ object }

func (f writable) WriteAt(p []byte, off int64) (int, error) {
	if err := f.do(context.Background(), request{Method: "WriteAt", Data: p, Offset: off}); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (f writable) Zero(off, n int64) error {
	return f.do(context.Background(), request{Method: "Zero", Offset: off, N: n})
}

func (f writable) Flush(ctx context.Context) error { return f.do(ctx, request{Method: "Flush"}) }

type draftDisk struct{ writable }

func (d *draftDisk) MapValid() bool { return d.h.MapValid }
func (d *draftDisk) Map() snapshot.Disk {
	return writable{object{d.c, handle{Object: d.h.Map, Size: snapshot.MapSize(d.h.Size)}}}
}

type pointReader struct{ object }

func (p *pointReader) Close() error { return p.do(context.Background(), request{Method: "Close"}) }

func (p *pointReader) Disks() (out []hypervisors.PointDiskReader) {
	for _, h := range p.h.Disks {
		out = append(out, &pointDisk{object{p.c, h}})
	}
	return out
}

type pointDisk struct{ object }

func (d *pointDisk) Map() io.ReaderAt { return object{d.c, handle{Object: d.h.Map}} }
