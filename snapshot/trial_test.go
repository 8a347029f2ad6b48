package snapshot

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// kept is a disk in memory.
type kept struct {
	mu      sync.Mutex
	data    []byte
	flushed bool
	wrote   func() // after every write
}

func (k *kept) ReadAt(p []byte, off int64) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return copy(p, k.data[off:]), nil
}

func (k *kept) WriteAt(p []byte, off int64) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.wrote != nil {
		k.wrote()
	}
	return copy(k.data[off:], p), nil
}

func (k *kept) Zero(off, n int64) error     { clear(k.data[off : off+n]); return nil }
func (k *kept) Flush(context.Context) error { k.flushed = true; return nil }

func TestTrial(t *testing.T) {
	const size = 3*defaultChunk + BlockSize
	k := &kept{data: make([]byte, size)}
	trial := Trial{Bytes: size, Time: time.Minute, Clock: time.Now}
	rate, err := trial.Read(t.Context(), k, 0)
	require.NoError(t, err, "a new disk is zeros")
	require.Positive(t, rate)
	written, rate, err := trial.Write(t.Context(), k)
	require.NoError(t, err)
	require.EqualValues(t, size, written)
	require.Positive(t, rate)
	require.True(t, k.flushed)
	_, err = trial.Read(t.Context(), k, written)
	require.NoError(t, err)
	_, err = trial.Read(t.Context(), k, 0)
	require.ErrorIs(t, err, ErrDiffers)

	// A part that stands at the place of another, one byte that is wrong, and one that is missing are found.
	sound := append([]byte(nil), k.data...)
	copy(k.data[stampEvery:], sound[2*stampEvery:3*stampEvery])
	_, err = trial.Read(t.Context(), k, written)
	require.ErrorIs(t, err, ErrDiffers)
	copy(k.data, sound)
	k.data[size-1]++
	_, err = trial.Read(t.Context(), k, written)
	require.ErrorIs(t, err, ErrDiffers)
	k.data = sound[:size-1]
	_, err = trial.Read(t.Context(), k, written)
	require.Error(t, err)
}

// What time does not suffice for is neither written nor expected.
func TestTrialEndsInTime(t *testing.T) {
	const size = 8 * CopyMemory
	now := time.Unix(0, 0)
	var mu sync.Mutex
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	k := &kept{data: make([]byte, size), wrote: func() { mu.Lock(); now = now.Add(time.Second); mu.Unlock() }}
	trial := Trial{Bytes: size, Time: 10 * time.Second, Clock: clock}
	written, rate, err := trial.Write(t.Context(), k)
	require.NoError(t, err)
	require.Less(t, written, int64(size))
	require.GreaterOrEqual(t, written, int64(10*defaultChunk))
	require.EqualValues(t, defaultChunk, rate)
	trial.Time = time.Hour
	_, err = trial.Read(t.Context(), k, written)
	require.NoError(t, err)

	ctx, cancel := context.WithCancelCause(t.Context())
	wanted := errors.New("nobody waits")
	k.wrote = func() { cancel(wanted) }
	_, _, err = trial.Write(ctx, k)
	require.ErrorIs(t, err, wanted)
}
