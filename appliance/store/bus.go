package store

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"understudy/api"
)

// What a reader may lag behind before its channel is closed, and how much of a replay is held in memory at once.
const (
	maxLag     = 1024
	replayPage = 256
	// maxWaiting bounds the memory of events that a slow disk has not taken yet.
	maxWaiting = 4096
	// atOnce bounds how many of them are handed out without a pause: what a stall of the disk has piled up must not
	// close the channels of readers that keep up.
	atOnce = maxLag / 2
)

// progress marks events that are shown and forgotten.
const progress = "progress"

// Bus keeps events and hands them to whoever listens. Events with Action "progress" are transient: they are not kept
// and carry the id of the last event that was, so that a reader who resumes after any id it saw misses progress only.
//
// An event is kept before any reader sees it, but not before Publish returns: many are written together, and nobody who
// works waits for the disk on behalf of those who watch. One that the appliance dies with was seen by nobody.
type Bus struct {
	db    *DB
	clock func() time.Time
	log   *slog.Logger

	mu      sync.Mutex
	waiting []api.Event // published, not yet kept
	writing bool        // somebody takes care of them
	room    sync.Cond   // on mu: fewer are waiting

	out  sync.Mutex // held over keeping and handing out: readers see the order of the ids
	last uint64
	subs map[*subscriber]struct{}
}

// subscriber is one reader. live is closed, under Bus.out, when it lags too far behind.
type subscriber struct {
	live chan api.Event
}

// NewBus makes a bus over the events of db. There must be one only, and nobody else may append.
func NewBus(db *DB, clock func() time.Time, log *slog.Logger) *Bus {
	b := &Bus{db: db, clock: clock, log: log, last: db.LastEvent(), subs: map[*subscriber]struct{}{}}
	b.room.L = &b.mu
	return b
}

// Publish hands the event on, in the order of the calls, without waiting for any reader; it waits for the disk only when
// that is far behind. The event gets the time when it has none, and its id when it is kept. An event that cannot be kept
// is logged and handed on like progress.
func (b *Bus) Publish(e api.Event) {
	if e.Time.IsZero() {
		e.Time = b.clock().UTC()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.waiting) >= maxWaiting {
		b.room.Wait()
	}
	b.waiting = append(b.waiting, e)
	if !b.writing {
		b.writing = true
		b.db.behind.Go(b.write)
	}
}

// write keeps and hands out until nothing is waiting.
func (b *Bus) write() {
	for b.some() {
	}
}

// flush takes care of all events that were published before it was called.
func (b *Bus) flush() {
	for range maxWaiting / atOnce {
		b.some()
	}
}

// some takes care of the events that wait longest; false when there were none.
func (b *Bus) some() bool {
	b.out.Lock()
	defer b.out.Unlock()
	b.mu.Lock()
	n := min(len(b.waiting), atOnce)
	events := b.waiting[:n:n]
	b.waiting = b.waiting[n:]
	b.writing = b.writing && n > 0
	b.room.Broadcast()
	b.mu.Unlock()
	b.keep(events)
	for _, e := range events {
		if e.ID > 0 {
			b.last = e.ID
		}
		e.ID = b.last
		for s := range b.subs {
			b.hand(s, e)
		}
	}
	return n > 0
}

// keep gives ids to the events that it could keep.
func (b *Bus) keep(events []api.Event) {
	var lasting []api.Event
	var at []int
	for i := range events {
		if events[i].ID = 0; events[i].Action != progress {
			lasting, at = append(lasting, events[i]), append(at, i)
		}
	}
	if len(lasting) == 0 {
		return
	}
	kept, err := b.db.appendEvents(lasting)
	if err != nil {
		for _, e := range lasting {
			b.log.Error("event lost", "kind", e.Kind, "action", e.Action, "subject", e.Subject, "error", err)
		}
		return
	}
	for i, e := range kept {
		events[at[i]].ID = e.ID
	}
}

// hand gives e to one reader. The second half of the room is kept for events that matter.
func (b *Bus) hand(s *subscriber, e api.Event) {
	if e.Action == progress && len(s.live) >= maxLag/2 {
		return
	}
	select {
	case s.live <- e:
	default:
		delete(b.subs, s)
		close(s.live)
	}
}

// Subscribe gives the kept events after the id and then those that happen, without a gap and without doubles, until ctx
// ends. After 0 (or an id that never was) means from now on. The channel is closed when ctx ends and when the reader is
// too slow; it may then subscribe again after the last id it saw. When events after the id are no longer kept, the
// first one it gets has an id that does not follow.
func (b *Bus) Subscribe(ctx context.Context, after uint64) (<-chan api.Event, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b.flush() // what happened before is not "from now on"
	s := &subscriber{live: make(chan api.Event, maxLag)}
	b.out.Lock()
	b.subs[s] = struct{}{}
	until := b.last // everything later comes through s.live
	b.out.Unlock()

	out := make(chan api.Event)
	go func() {
		defer close(out)
		defer b.leave(s)
		if after != 0 && !b.replay(ctx, after, until, out) {
			return
		}
		for {
			select {
			case <-ctx.Done():
				return
			case e, open := <-s.live:
				if !open || !send(ctx, out, e) {
					return
				}
			}
		}
	}()
	return out, nil
}

func (b *Bus) leave(s *subscriber) {
	b.out.Lock()
	defer b.out.Unlock()
	delete(b.subs, s)
}

// replay sends the kept events with after < id <= until; false when the reader is gone.
func (b *Bus) replay(ctx context.Context, after, until uint64, out chan<- api.Event) bool {
	for after < until {
		page, err := b.db.EventsAfter(after, replayPage)
		if err != nil {
			b.log.Error("replay of events ended", "after", after, "error", err)
			return false
		}
		for _, e := range page {
			if e.ID > until {
				return true
			}
			if !send(ctx, out, e) {
				return false
			}
			after = e.ID
		}
		if len(page) == 0 {
			return true
		}
	}
	return true
}

func send(ctx context.Context, out chan<- api.Event, e api.Event) bool {
	select {
	case out <- e:
		return true
	case <-ctx.Done():
		return false
	}
}
