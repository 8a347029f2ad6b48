package hypervisortest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"understudy/hypervisors"
	"understudy/snapshot"
)

// block in bytes, as the engine counts.
const block = snapshot.BlockSize

var zeros = make([]byte, block)

// disk is a copy of a disk in memory; blocks that are absent are zeros.
type disk struct {
	id     string
	size   int64
	blocks map[int64][]byte
}

func newDisk(id string, size int64) *disk {
	return &disk{id: id, size: size, blocks: map[int64][]byte{}}
}

func (d *disk) clone() *disk { return &disk{id: d.id, size: d.size, blocks: maps.Clone(d.blocks)} }

// put takes p over at off.
func (d *disk) put(p []byte, off int64) {
	for len(p) > 0 {
		i, at := off/block, off%block
		n := min(int64(len(p)), block-at)
		old := d.blocks[i]
		if old == nil && bytes.Equal(p[:n], zeros[:n]) {
			p, off = p[n:], off+n
			continue
		}
		b := make([]byte, block)
		copy(b, old)
		copy(b[at:], p[:n])
		if d.blocks[i] = b; bytes.Equal(b, zeros) {
			delete(d.blocks, i)
		}
		p, off = p[n:], off+n
	}
}

// chunk is how much is read at once.
const chunk = 16 * block

// read takes everything over by plain reads.
func (d *disk) read(ctx context.Context, src io.ReaderAt) error {
	return d.readRange(ctx, src, 0, d.size)
}

func (d *disk) readRange(ctx context.Context, src io.ReaderAt, off, n int64) error {
	buf := make([]byte, min(n, chunk))
	for end := off + n; off < end; off += int64(len(buf)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		buf = buf[:min(int64(len(buf)), end-off)]
		if err := readFull(src, buf, off); err != nil {
			return fmt.Errorf("disk %s: read %d bytes at %d: %w", d.id, len(buf), off, err)
		}
		d.put(buf, off)
	}
	return nil
}

// readFull reads all of p; io.EOF is allowed at the very end.
func readFull(src io.ReaderAt, p []byte, off int64) error {
	n, err := src.ReadAt(p, off)
	if n == len(p) && (err == nil || errors.Is(err, io.EOF)) {
		return nil
	}
	return fmt.Errorf("got %d bytes: %w", n, errors.Join(err, io.ErrUnexpectedEOF))
}

// apply takes over what extents say, zeros without reading them, and judges the extents: ascending, without overlap,
// within the disk, none empty.
func (d *disk) apply(ctx context.Context, src io.ReaderAt, extents snapshot.Extents) (covered int64, err error) {
	end := int64(0)
	for e, err := range extents {
		if err != nil {
			return covered, fmt.Errorf("disk %s: extents: %w", d.id, err)
		}
		if e.Offset < end || e.Length <= 0 || e.End() > d.size {
			return covered, fmt.Errorf("disk %s of %d bytes: extent %+v behind %d", d.id, d.size, e, end)
		}
		end = e.End()
		covered += e.Length
		if e.Zero {
			d.clear(e)
		} else if err := d.readRange(ctx, src, e.Offset, e.Length); err != nil {
			return covered, err
		}
	}
	return covered, nil
}

func (d *disk) clear(e snapshot.Extent) {
	for _, i := range slices.Collect(maps.Keys(d.blocks)) {
		from, to := max(e.Offset, i*block), min(e.End(), (i+1)*block)
		if from < to {
			d.put(make([]byte, to-from), from)
		}
	}
}

// same fails at the first difference.
func (d *disk) same(other *disk) error {
	if d.id != other.id || d.size != other.size {
		return fmt.Errorf("disk %s of %d bytes is compared with disk %s of %d", d.id, d.size, other.id, other.size)
	}
	for i := range (d.size + block - 1) / block {
		a, b := d.blocks[i], other.blocks[i]
		if a == nil {
			a = zeros
		}
		if b == nil {
			b = zeros
		}
		if !bytes.Equal(a, b) {
			return fmt.Errorf("disk %s differs in block %d", d.id, i)
		}
	}
	return nil
}

// disks is a copy of several disks.
type disks []*disk

func (all disks) clone() (out disks) {
	for _, d := range all {
		out = append(out, d.clone())
	}
	return out
}

func (all disks) same(other disks) error {
	if len(all) != len(other) {
		return fmt.Errorf("%d disks are compared with %d", len(all), len(other))
	}
	for i, d := range all {
		if err := d.same(other[i]); err != nil {
			return err
		}
	}
	return nil
}

// differ fails when two copies are equal although something was written between them.
func (all disks) differ(other disks) error {
	if all.same(other) == nil {
		return errors.New("nothing changed although the guest wrote")
	}
	return nil
}

func (all disks) empty() bool {
	return !slices.ContainsFunc(all, func(d *disk) bool { return len(d.blocks) > 0 })
}

// readable is any side's disk.
type readable interface {
	io.ReaderAt
	ID() string
	Size() int64
}

// readAll copies disks by plain reads.
func readAll[D readable](ctx context.Context, from []D) (all disks, err error) {
	for _, src := range from {
		d := newDisk(src.ID(), src.Size())
		if err := d.read(ctx, src); err != nil {
			return nil, err
		}
		all = append(all, d)
	}
	return all, nil
}

// readAllocated copies the disks of a checkpoint as a mirror does.
func readAllocated(ctx context.Context, from []hypervisors.FrozenDisk) (all disks, err error) {
	for _, src := range from {
		d := newDisk(src.ID(), src.Size())
		covered, err := d.apply(ctx, src, src.Allocated(ctx))
		if err != nil {
			return nil, err
		}
		if covered != d.size {
			return nil, fmt.Errorf("disk %s: Allocated covers %d of %d bytes", d.id, covered, d.size)
		}
		all = append(all, d)
	}
	return all, nil
}

// catchUp applies what changed to an earlier copy, as a cycle does.
func (all disks) catchUp(ctx context.Context, from []hypervisors.FrozenDisk) error {
	for i, src := range from {
		if i >= len(all) || all[i].id != src.ID() {
			return fmt.Errorf("disk %s was not there before", src.ID())
		}
		if _, err := all[i].apply(ctx, src, src.Changed(ctx)); err != nil {
			return err
		}
	}
	return nil
}

// lost fails unless the source says at once that it cannot tell what changed.
func lost(ctx context.Context, d hypervisors.FrozenDisk) error {
	for e, err := range d.Changed(ctx) {
		if !errors.Is(err, hypervisors.ErrTrackingLost) {
			return fmt.Errorf("disk %s: Changed yields %+v, %v instead of %w", d.ID(), e, err, hypervisors.ErrTrackingLost)
		}
		return nil
	}
	return fmt.Errorf("disk %s: Changed yields nothing instead of %w", d.ID(), hypervisors.ErrTrackingLost)
}

func blockExtent(i int64) snapshot.Extent { return snapshot.Extent{Offset: i * block, Length: block} }
