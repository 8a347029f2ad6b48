package fake

import (
	"context"
	"fmt"
	"sync"
	"time"

	"understudy/hypervisors"
	"understudy/snapshot"
)

// probeBytes is little: tests have many hosts.
const probeBytes = 4 * blockSize

// ProbePaths tries the only way there is.
func (c *conn) ProbePaths(ctx context.Context, storage string) ([]hypervisors.DataPath, error) {
	if err := c.lock(ctx, "try", "data paths"); err != nil {
		return nil, err
	}
	defer c.hv.mu.Unlock()
	p, err := c.probe(ctx, storage)
	if err != nil {
		return nil, fail("try", "data paths", err, "")
	}
	return []hypervisors.DataPath{p}, nil
}

func (c *conn) probe(ctx context.Context, storage string) (hypervisors.DataPath, error) {
	way := hypervisors.DataPath{Name: "memory"}
	if err := c.capable(c.hv.caps.Probe, "trying data paths"); err != nil {
		return way, err
	}
	p, err := c.hv.pool(storage)
	if err != nil {
		return way, err
	}
	if p.free() < probeBytes {
		return way, fmt.Errorf("storage %s: %w", p.name, hypervisors.ErrNoSpace)
	}
	d := &probeDisk{image: newImage(probeBytes, p)}
	defer d.image.release()
	trial := snapshot.Trial{Bytes: probeBytes, Time: time.Minute, Clock: c.hv.clock}
	written, rate, err := trial.Write(ctx, d)
	if err != nil {
		return way, err
	}
	way.Write = rate
	if way.Read, err = trial.Read(ctx, d, written); err != nil {
		return way, err
	}
	way.UsedToRead, way.UsedToWrite = true, true
	return way, nil
}

// probeDisk is an image that several may use at once while somebody holds the Hypervisor's lock for them.
type probeDisk struct {
	mu    sync.Mutex
	image *image
}

func (d *probeDisk) ReadAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.image.readAt(p, off)
	return len(p), nil
}

func (d *probeDisk) WriteAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(p), d.image.writeAt(p, off)
}

func (d *probeDisk) Zero(off, n int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.image.zero(off, n)
}

func (d *probeDisk) Flush(context.Context) error { return nil }
