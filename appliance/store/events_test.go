package store

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
)

func bus(t *testing.T, db *DB) *Bus {
	t.Helper()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return NewBus(db, func() time.Time { return at }, slog.New(slog.DiscardHandler))
}

func updated(subject string) api.Event {
	return api.Event{Kind: "group", Action: "updated", Subject: subject}
}

func appendOne(db *DB, e api.Event) (api.Event, error) {
	kept, err := db.appendEvents([]api.Event{e})
	if err != nil {
		return api.Event{}, err
	}
	return kept[0], nil
}

// next waits for one event; the deadline only ends a test that hangs.
func next(t *testing.T, events <-chan api.Event) (api.Event, bool) {
	t.Helper()
	select {
	case e, open := <-events:
		return e, open
	case <-time.After(time.Minute):
		t.Fatal("no event came")
		return api.Event{}, false
	}
}

func TestEventIdsAscendWithoutGaps(t *testing.T) {
	path := newPath(t)
	db := open(t, path)
	require.Zero(t, db.LastEvent())
	for i := range 3 {
		e, err := appendOne(db, updated(fmt.Sprint(i)))
		require.NoError(t, err)
		require.EqualValues(t, i+1, e.ID)
	}
	require.NoError(t, db.Close())

	db = open(t, path)
	require.EqualValues(t, 3, db.LastEvent())
	e, err := appendOne(db, updated("3"))
	require.NoError(t, err)
	require.EqualValues(t, 4, e.ID)
	events, err := db.EventsAfter(1, 2)
	require.NoError(t, err)
	require.Len(t, events, 2)
	require.EqualValues(t, 2, events[0].ID)
	require.Equal(t, "1", events[0].Subject)
	require.EqualValues(t, 3, events[1].ID)
}

func TestNewestEventsAreKept(t *testing.T) {
	db := open(t, newPath(t))
	db.bolt.NoSync = true // speed only: this test does not cut power
	const extra = 25
	for range keepEvents + extra {
		_, err := appendOne(db, updated("x"))
		require.NoError(t, err)
	}
	events, err := db.EventsAfter(0, 2*keepEvents)
	require.NoError(t, err)
	require.Len(t, events, keepEvents)
	require.EqualValues(t, extra+1, events[0].ID)
	require.EqualValues(t, keepEvents+extra, db.LastEvent())
}

func TestSubscribeReplaysThenGoesOnLive(t *testing.T) {
	b := bus(t, open(t, newPath(t)))
	for i := range 3 {
		b.Publish(updated(fmt.Sprint(i)))
	}
	events, err := b.Subscribe(t.Context(), 1)
	require.NoError(t, err)
	b.Publish(updated("3"))
	for id := uint64(2); id <= 4; id++ {
		e, open := next(t, events)
		require.True(t, open)
		require.Equal(t, id, e.ID)
		require.Equal(t, fmt.Sprint(id-1), e.Subject)
		require.False(t, e.Time.IsZero())
	}
}

func TestSubscribeAfterZeroIsFromNowOn(t *testing.T) {
	b := bus(t, open(t, newPath(t)))
	b.Publish(updated("old"))
	events, err := b.Subscribe(t.Context(), 0)
	require.NoError(t, err)
	b.Publish(updated("new"))
	e, _ := next(t, events)
	require.Equal(t, "new", e.Subject)
}

func TestSubscribeAfterAnIdThatNeverWas(t *testing.T) {
	b := bus(t, open(t, newPath(t)))
	events, err := b.Subscribe(t.Context(), 99)
	require.NoError(t, err)
	b.Publish(updated("new"))
	e, _ := next(t, events)
	require.EqualValues(t, 1, e.ID)
}

// Readers come in the middle of heavy publishing; each sees every id exactly once, in order.
func TestNoGapAndNoDoubleBetweenReplayAndLive(t *testing.T) {
	db := open(t, newPath(t))
	db.bolt.NoSync = true
	b := bus(t, db)
	const total = 600 // less than the permitted lag, more than a page of the replay
	b.Publish(updated("first"))
	var wg sync.WaitGroup
	wg.Go(func() {
		for range total - 1 {
			b.Publish(updated("x"))
			b.Publish(api.Event{Kind: "job", Action: progress})
		}
	})
	for range 8 {
		wg.Go(func() {
			events, err := b.Subscribe(t.Context(), 1)
			if err != nil {
				t.Error(err)
				return
			}
			want := uint64(2)
			for e := range events {
				if e.Action == progress {
					if e.ID != want-1 {
						t.Errorf("progress has id %d after event %d", e.ID, want-1)
					}
					continue
				}
				if e.ID != want {
					t.Errorf("event %d came where %d was due", e.ID, want)
					return
				}
				if want++; want > total {
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestProgressIsNotKept(t *testing.T) {
	db := open(t, newPath(t))
	b := bus(t, db)
	b.Publish(updated("a"))
	events, err := b.Subscribe(t.Context(), 0)
	require.NoError(t, err)
	b.Publish(api.Event{Kind: "job", Action: progress, Subject: "j"})
	e, _ := next(t, events)
	require.Equal(t, "j", e.Subject)
	require.EqualValues(t, 1, e.ID, "resuming after it loses nothing")
	require.EqualValues(t, 1, db.LastEvent())
}

func TestSlowReaderIsCutOffAndCanResume(t *testing.T) {
	db := open(t, newPath(t))
	db.bolt.NoSync = true
	b := bus(t, db)
	slow, err := b.Subscribe(t.Context(), 0)
	require.NoError(t, err)
	const total = maxLag + 100
	for range total { // returns although nobody reads
		b.Publish(updated("x"))
	}
	b.flush() // all handed out before the first is read
	var last uint64
	for {
		e, open := next(t, slow)
		if !open {
			break
		}
		require.Equal(t, last+1, e.ID)
		last = e.ID
	}
	require.Less(t, last, uint64(total))
	again, err := b.Subscribe(t.Context(), last)
	require.NoError(t, err)
	for last < total {
		e, open := next(t, again)
		require.True(t, open)
		require.Equal(t, last+1, e.ID)
		last = e.ID
	}
}

// What piled up while the disk stood still comes in portions that a reader who keeps up can take.
func TestAReaderThatKeepsUpOutlivesAStall(t *testing.T) {
	b := bus(t, open(t, newPath(t)))
	events, err := b.Subscribe(t.Context(), 0)
	require.NoError(t, err)
	b.writing = true // the disk stands still
	for range maxWaiting {
		b.Publish(updated("x"))
	}
	var last uint64
	for last < maxWaiting {
		require.True(t, b.some())
		for until := b.last; last < until; last++ {
			e, open := next(t, events)
			require.True(t, open)
			require.Equal(t, last+1, e.ID)
		}
	}
}

func TestProgressNeverCutsAReaderOff(t *testing.T) {
	b := bus(t, open(t, newPath(t)))
	events, err := b.Subscribe(t.Context(), 0)
	require.NoError(t, err)
	for range 3 * maxLag {
		b.Publish(api.Event{Kind: "job", Action: progress})
	}
	b.Publish(updated("end"))
	for {
		e, open := next(t, events)
		require.True(t, open)
		if e.Subject == "end" {
			return
		}
	}
}

func TestSubscriptionEndsWithItsContext(t *testing.T) {
	b := bus(t, open(t, newPath(t)))
	ctx, cancel := context.WithCancel(t.Context())
	events, err := b.Subscribe(ctx, 0)
	require.NoError(t, err)
	cancel()
	_, open := next(t, events)
	require.False(t, open)
	b.Publish(updated("x")) // nobody is there any more
	require.Empty(t, b.subs)
	_, err = b.Subscribe(ctx, 0)
	require.ErrorIs(t, err, context.Canceled)
}

// What a reader has seen survives any crash: it is in the file before it is handed out.
func TestEventsAreKeptBeforeTheyAreSeen(t *testing.T) {
	db := open(t, newPath(t))
	b := bus(t, db)
	events, err := b.Subscribe(t.Context(), 0)
	require.NoError(t, err)
	for range 50 {
		b.Publish(updated("x"))
	}
	for range 50 {
		e, _ := next(t, events)
		require.GreaterOrEqual(t, db.LastEvent(), e.ID)
	}
}

// An event that cannot be written down takes no change of others along.
func TestAnEventThatCannotBeKept(t *testing.T) {
	db := open(t, newPath(t))
	settle := gather(t, db, 1, func(int) error { return db.Put("things", "a", 1) })
	_, err := appendOne(db, api.Event{Kind: "job", Job: &api.Job{Result: map[string]float64{"ratio": math.NaN()}}})
	require.Error(t, err)
	require.NoError(t, settle()[0])
	require.Zero(t, db.LastEvent())
}

func TestCloseKeepsWhatWasPublished(t *testing.T) {
	path := newPath(t)
	db := open(t, path)
	b := bus(t, db)
	const total = 2000
	for range total {
		b.Publish(updated("x"))
	}
	require.NoError(t, db.Close())
	require.EqualValues(t, total, open(t, path).LastEvent())
}

// A disk that takes nothing more must not let events fill the memory, nor stop those who publish for good.
func TestPublishWaitsForASlowDisk(t *testing.T) {
	db := open(t, newPath(t))
	b := bus(t, db)
	release := hold(t, db) // somebody's write takes long
	var published atomic.Int64
	var wg sync.WaitGroup
	most := 0
	wg.Go(func() {
		for range 3 * maxWaiting {
			b.Publish(updated("x"))
			published.Add(1)
			b.mu.Lock()
			most = max(most, len(b.waiting))
			b.mu.Unlock()
		}
	})
	require.Eventually(t, func() bool { return published.Load() >= maxWaiting }, time.Minute, time.Millisecond)
	release()
	wg.Wait()
	b.flush()
	require.LessOrEqual(t, most, maxWaiting)
	require.EqualValues(t, 3*maxWaiting, db.LastEvent())
}
