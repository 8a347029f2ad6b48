package snapshot

import (
	"context"
	"fmt"
	"io"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Defaults for copying: enough in flight to keep both ends busy, small enough for a core's cache.
const (
	defaultWorkers = 16
	defaultChunk   = 256 << 10
	// CopyMemory is how much memory a Job with default settings holds data in.
	CopyMemory = defaultWorkers * defaultChunk
	// ahead is how many extents are fetched before they are needed, so that BytesTotal is known early (1.5 MiB).
	ahead = 64 << 10
	// zeroChunk is how much of a zero extent one worker looks at; only its part of the map is touched.
	zeroChunk = 8 << 30
)

// feed cuts extents into chunks for several workers.
type feed struct {
	extents chan Extent
	chunk   int64

	mu      sync.Mutex
	current Extent
}

// run fetches extents until they or ctx end, announcing each before it is handed out.
func (f *feed) run(ctx context.Context, in Extents, announce func(Extent)) error {
	defer close(f.extents)
	for e, err := range in {
		if err != nil {
			return err
		}
		announce(e)
		select {
		case f.extents <- e:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// next is a part of an extent that does not cross a multiple of the chunk size; false when there are no more.
func (f *feed) next(ctx context.Context) (Extent, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.current.Length == 0 {
		select {
		case e, more := <-f.extents:
			if !more {
				return Extent{}, false
			}
			f.current = e
		case <-ctx.Done():
			return Extent{}, false
		}
	}
	size := f.chunk
	if f.current.Zero {
		size = zeroChunk
	}
	part := f.current
	part.Length = min(part.Length, size-part.Offset%size)
	f.current.Offset += part.Length
	f.current.Length -= part.Length
	return part, true
}

// work hands the chunks of extents, widened to blocks, to several workers. make gives each worker its own function.
// It returns the first error after all of them have ended.
func work(ctx context.Context, in Extents, size, chunk int64, workers int, announce func(Extent), make func() func(context.Context, Extent) error) error {
	group, ctx := errgroup.WithContext(ctx)
	f := &feed{extents: newExtentQueue(size), chunk: chunk}
	group.Go(func() error { return f.run(ctx, Align(Validate(in, size), size), announce) })
	for range workers {
		do := make()
		group.Go(func() error {
			for {
				e, more := f.next(ctx)
				if !more {
					return context.Cause(ctx)
				}
				if err := do(ctx, e); err != nil {
					return err
				}
			}
		})
	}
	return group.Wait()
}

// newExtentQueue holds what is fetched ahead; a small disk has not as many blocks.
func newExtentQueue(size int64) chan Extent { return make(chan Extent, min(ahead, Blocks(size))) }

// settings fills in and checks what Job and Check have in common.
func settings(workers int, chunk int64) (int, int64, error) {
	if workers == 0 {
		workers = defaultWorkers
	}
	if chunk == 0 {
		chunk = defaultChunk
	}
	if workers < 0 || chunk < 0 || chunk%BlockSize != 0 || chunk > 1<<30 {
		return 0, 0, fmt.Errorf("copy with %d workers and chunks of %d bytes: chunks must be whole blocks", workers, chunk)
	}
	return workers, chunk, nil
}

// Whole is a disk of which nothing is known: all of it is data.
func Whole(size int64) Extents {
	return func(yield func(Extent, error) bool) {
		if size > 0 {
			yield(Extent{Length: size}, nil)
		}
	}
}

// readFull reads exactly len(p) bytes at off.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n < len(p) {
		return short(err)
	}
	return nil
}
