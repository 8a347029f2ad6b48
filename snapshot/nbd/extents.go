package nbd

import (
	"context"
	"fmt"
	"iter"

	"understudy/snapshot"
)

// Allocation is the meta context that tells data from holes; its extents carry FlagHole and FlagZero.
const Allocation = "base:allocation"

// Bitmap is the meta context of one of QEMU's dirty bitmaps; its extents carry FlagDirty.
func Bitmap(name string) string { return "qemu:dirty-bitmap:" + name }

// Flags of extents; their meaning depends on the context.
const (
	FlagHole  = 1 << 0 // base:allocation: not allocated
	FlagZero  = 1 << 1 // base:allocation: reads as zeros
	FlagDirty = 1 << 0 // qemu:dirty-bitmap: changed
)

// Extent is a range of an export in bytes with the flags of one context.
type Extent struct {
	Offset int64
	Length int64
	Flags  uint32
}

// Extents walks the whole export in one of the contexts given to Dial: ascending, without gaps, neighbours with equal
// flags merged. Memory is bounded by one reply of the server (at most 2 GiB of disk), however large the disk is.
func (c *Client) Extents(ctx context.Context, name string) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		var held Extent // grows until something different comes
		for off := int64(0); off < c.size; {
			r, err := c.status(ctx, name, off)
			if err != nil {
				yield(Extent{}, err)
				return
			}
			for _, e := range r.extents {
				e.Length = min(e.Length, c.size-e.Offset) // the last one may exceed the disk
				if e.Length <= 0 {
					break
				}
				off = e.Offset + e.Length
				if held.Length > 0 && held.Flags == e.Flags {
					held.Length += e.Length
					continue
				}
				if held.Length > 0 && !yield(held, nil) {
					c.free(r)
					return
				}
				held = e
			}
			c.free(r)
		}
		if held.Length > 0 {
			yield(held, nil)
		}
	}
}

// status asks for the extents of one context from off on. The caller frees the request.
func (c *Client) status(ctx context.Context, name string, off int64) (*request, error) {
	conn := c.conn()
	id, ok := conn.contexts[name]
	if !ok {
		return nil, fmt.Errorf("%w: %q was not selected", ErrNoContext, name)
	}
	r := c.request(cmdStatus, off, min(c.size-off, 2<<30))
	r.context = id
	if err := conn.do(ctx, r, nil); err != nil {
		return nil, err
	}
	return r, nil
}

// Allocated yields the whole disk as data and zero extents without gaps, from the Allocation context. Where that was not
// selected nothing is known, and all of the disk is data.
func (c *Client) Allocated(ctx context.Context) snapshot.Extents {
	if _, ok := c.contexts[Allocation]; !ok {
		return snapshot.Whole(c.size)
	}
	return snapshot.Coalesce(func(yield func(snapshot.Extent, error) bool) {
		for e, err := range c.Extents(ctx, Allocation) {
			if !yield(snapshot.Extent{Offset: e.Offset, Length: e.Length, Zero: e.Flags&FlagZero != 0}, err) || err != nil {
				return
			}
		}
	})
}

// Changed yields what one of QEMU's dirty bitmaps has marked. When the Allocation context was selected too, it tells
// which of it reads as zeros.
func (c *Client) Changed(ctx context.Context, bitmap string) snapshot.Extents {
	dirty := func(yield func(snapshot.Extent, error) bool) {
		for e, err := range c.Extents(ctx, Bitmap(bitmap)) {
			if err == nil && e.Flags&FlagDirty == 0 {
				continue
			}
			if !yield(snapshot.Extent{Offset: e.Offset, Length: e.Length}, err) || err != nil {
				return
			}
		}
	}
	return snapshot.Within(c.Allocated(ctx), dirty)
}
