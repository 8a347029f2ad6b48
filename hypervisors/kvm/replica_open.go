package kvm

import (
	"context"
	"fmt"
	"io"
	"path"
	"sync"

	"understudy/hypervisors"
	"understudy/snapshot"
)

// pointReader is an open committed point.
type pointReader struct {
	replica *replica
	point   string
	export  *export
	disks   []*pointDiskReader
	once    sync.Once
	err     error
}

type pointDiskReader struct {
	*served
	id       string
	blockMap *served
}

func (d *pointDiskReader) ID() string       { return d.id }
func (d *pointDiskReader) Map() io.ReaderAt { return d.blockMap }

// Open serves the point's images, and all below them, for reading only. Runs and drafts may stand on them meanwhile.
func (r *replica) Open(ctx context.Context, id string) (hypervisors.PointReader, error) {
	var pr *pointReader
	err := r.work(ctx, "open point "+id+" of", func(m *manifest) (err error) {
		p, ok := m.visible(id)
		if !ok {
			return fmt.Errorf("point %s %w", id, hypervisors.ErrNotFound)
		}
		pr = &pointReader{replica: r, point: id}
		if err = pr.open(ctx, p); err != nil {
			_ = pr.disconnect(ctx)
			return err
		}
		r.reading(id, +1)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return pr, nil
}

func (pr *pointReader) open(ctx context.Context, p *point) (err error) {
	r := pr.replica
	var images []exported
	for _, d := range p.Disks {
		images = append(images,
			exported{name: d.ID, file: path.Join(r.dir, d.Data.File)},
			exported{name: d.ID + ".map", file: path.Join(r.dir, d.Map.File)})
	}
	if pr.export, err = r.host.startExport(ctx, r.host.readerExports(), images); err != nil {
		return err
	}
	for _, d := range p.Disks {
		data, err := pr.export.open(ctx, d.ID, dataConnections)
		if err != nil {
			return err
		}
		opened := &pointDiskReader{id: d.ID, served: &served{client: data, size: d.Size, export: pr.export, subject: r.subject(d.ID)}}
		pr.disks = append(pr.disks, opened)
		blockMap, err := pr.export.open(ctx, d.ID+".map", mapConnections)
		if err != nil {
			return err
		}
		opened.blockMap = &served{client: blockMap, size: snapshot.MapSize(d.Size), export: pr.export, subject: r.subject(d.ID)}
	}
	return nil
}

func (pr *pointReader) Disks() []hypervisors.PointDiskReader {
	var disks []hypervisors.PointDiskReader
	for _, d := range pr.disks {
		disks = append(disks, d)
	}
	return disks
}

func (pr *pointReader) Close() error {
	pr.once.Do(func() {
		pr.err = pr.disconnect(context.Background()) // stop has its own time limit
		pr.replica.reading(pr.point, -1)
	})
	return pr.err
}

func (pr *pointReader) disconnect(ctx context.Context) error {
	for _, d := range pr.disks {
		_ = d.client.Close()
		if d.blockMap != nil {
			_ = d.blockMap.client.Close()
		}
	}
	if pr.export == nil {
		return nil
	}
	return pr.export.stop(ctx)
}
