package snapshot

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Trial says how much is moved to see whether a way to the content of a disk works, and how fast it is. It moves as a
// Copy does: as much at once, in pieces of the same size.
type Trial struct {
	// Bytes are moved in each direction, at most. The disk has as many at least.
	Bytes int64
	// Time after which nothing more is begun in a direction; what was begun is waited for.
	Time time.Duration
	// Clock tells the time.
	Clock func() time.Time
}

// ErrDiffers means that a disk does not hold what was written to it.
var ErrDiffers = errors.New("what is read is not what was written")

// stampEvery is how often the pattern says where it stands, in bytes: no two such parts of a disk are the same, so that
// none is mistaken for another, by the check or by storage that keeps what is the same only once.
const stampEvery = 4 << 10

// trialPattern is what cannot be compressed.
var trialPattern = sync.OnceValue(func() []byte {
	random, p := rand.New(rand.NewPCG(1, 2)), make([]byte, defaultChunk)
	for i := 0; i < len(p); i += 8 {
		binary.LittleEndian.PutUint64(p[i:], random.Uint64())
	}
	return p
})

// stamp makes of the pattern what stands at off.
func stamp(p []byte, off int64) {
	for i := 0; i+8 <= len(p); i += stampEvery {
		binary.LittleEndian.PutUint64(p[i:], uint64(off)+uint64(i))
	}
}

// Write fills the beginning of a disk with a pattern and flushes it. It gives how many bytes that were and how many of
// them in a second, the flush included.
func (t Trial) Write(ctx context.Context, target Writer) (written, perSecond int64, err error) {
	memory, giveBack := memoryFor(target, t.workers()*defaultChunk)
	defer giveBack()
	began := t.Clock()
	written, err = t.move(ctx, func() func(off, n int64) error {
		p := memory[:defaultChunk:defaultChunk]
		memory = memory[defaultChunk:]
		copy(p, trialPattern())
		return func(off, n int64) error {
			stamp(p[:n], off)
			if _, err := target.WriteAt(p[:n], off); err != nil {
				return fmt.Errorf("write %d bytes at %d: %w", n, off, err)
			}
			return nil
		}
	})
	if err == nil {
		err = target.Flush(ctx)
	}
	if err != nil {
		return 0, 0, err
	}
	return written, t.rate(written, began), nil
}

// Read reads a disk of which so many bytes were written by Write; what follows them is zeros, as of a new disk. It gives
// how many bytes were read in a second. ErrDiffers: the disk holds something else.
func (t Trial) Read(ctx context.Context, source io.ReaderAt, written int64) (perSecond int64, err error) {
	began := t.Clock()
	zeros := make([]byte, defaultChunk)
	read, err := t.move(ctx, func() func(off, n int64) error {
		p, want := make([]byte, defaultChunk), bytes.Clone(trialPattern())
		return func(off, n int64) error {
			if err := readFull(source, p[:n], off); err != nil {
				return fmt.Errorf("read %d bytes at %d: %w", n, off, err)
			}
			expected := zeros[:n]
			if off < written {
				expected = want[:n]
				stamp(expected, off)
			}
			if !bytes.Equal(p[:n], expected) {
				return fmt.Errorf("%w: %d bytes at %d", ErrDiffers, n, off)
			}
			return nil
		}
	})
	if err != nil {
		return 0, err
	}
	return t.rate(read, began), nil
}

// move lets workers do chunk after chunk, in order, until all is done or time is over, and gives how many bytes were.
func (t Trial) move(ctx context.Context, worker func() func(off, n int64) error) (moved int64, err error) {
	end := t.Clock().Add(t.Time)
	var mu sync.Mutex
	next := func() (off, n int64) {
		mu.Lock()
		defer mu.Unlock()
		if moved == 0 || t.Clock().Before(end) {
			off, n = moved, min(defaultChunk, t.Bytes-moved)
			moved += n
		}
		return off, n
	}
	group, ctx := errgroup.WithContext(ctx)
	for range t.workers() {
		do := worker()
		group.Go(func() error {
			for {
				if err := ctx.Err(); err != nil {
					return context.Cause(ctx)
				}
				off, n := next()
				if n == 0 {
					return nil
				}
				if err := do(off, n); err != nil {
					return err
				}
			}
		})
	}
	err = group.Wait()
	return moved, err
}

// workers are fewer for a small trial.
func (t Trial) workers() int64 {
	return min(defaultWorkers, (t.Bytes+defaultChunk-1)/defaultChunk)
}

// rate is never 0, however coarse the clock.
func (t Trial) rate(n int64, began time.Time) int64 {
	return max(1, int64(float64(n)/max(t.Clock().Sub(began), time.Microsecond).Seconds()))
}
