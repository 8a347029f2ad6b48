package notify

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"golang.org/x/sync/errgroup"

	"understudy/api"
)

// How a channel gathers, retries and gives up; see the package's comment.
const (
	gatherFor  = 2 * time.Second
	quietFor   = time.Second
	gatherMost = 10 * time.Second
	window     = time.Minute
	maxInTime  = 5 // messages in a window
	maxWaiting = 10_000
	giveUp     = 24 * time.Hour
	firstPause = 10 * time.Second
	maxPause   = 15 * time.Minute
	// maxAsked bounds how long a receiver may ask to be left alone.
	maxAsked = time.Hour
)

// entry is what waits for a channel: one notice, or a digest of all up to the place Through.
type entry struct {
	Event   uint64    `json:"event"`
	Sub     int       `json:"sub,omitempty"` // tells apart what belongs to no event of its own: see catchUp
	Through string    `json:"through,omitempty"`
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
	Notices []Notice  `json:"notices"`
	Total   int       `json:"total"`
	Tries   int       `json:"tries,omitempty"`
	Next    time.Time `json:"next,omitzero"`
}

// newID makes an id for a message. It sorts by time.
func newID(now time.Time) string { return ulid.MustNewDefault(now).String() }

// line is a channel with what waits for it. All of it is guarded by Notifier.mu.
type line struct {
	api.Channel
	entries []entry // in the order of their events
	recent  []time.Time
	wake    chan struct{}
	stop    func() // of its worker; nil: there is none
}

func newLine(c api.Channel) *line { return &line{Channel: c, wake: make(chan struct{}, 1)} }

// wakeUp lets the worker look again.
func (l *line) wakeUp() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// place says where an entry stands in its queue: places sort as the entries do.
func (e entry) place() string { return fmt.Sprintf("%020d.%06d", e.Event, e.Sub) }

func (e entry) key(channel string) string { return channel + "/" + e.place() }

// enqueue lets an entry wait. When there is no room, the oldest that nobody has tried to send gives way.
func (n *Notifier) enqueue(c *changes, l *line, e entry) {
	l.entries = append(l.entries, e)
	c.before = append(c.before, func() error { return n.Store.Put(bucketQueue, e.key(l.ID), e) })
	if len(l.entries) <= maxWaiting {
		return
	}
	oldest := l.entries[1] // the first one may be on its way
	l.entries = slices.Delete(l.entries, 1, 2)
	n.record(l, oldest, api.DeliveryFailed, attempt{err: errFull})
	c.after = append(c.after, func() error { return n.Store.Delete(bucketQueue, oldest.key(l.ID)) })
}

// next gives the entry to send now, or how long to wait for one; a wait of 0 means until something changes.
func (n *Notifier) next(l *line, now time.Time) (*entry, time.Duration) {
	for len(l.entries) > 0 && now.Sub(l.entries[0].Created) > giveUp {
		n.abandon(l, attempt{err: errTooOld})
	}
	if !l.Enabled || len(l.entries) == 0 {
		return nil, 0
	}
	head := &l.entries[0]
	if head.Tries > 0 {
		if wait := head.Next.Sub(now); wait > 0 {
			return nil, min(wait, maxAsked)
		}
		return head, 0
	}
	newest := l.entries[len(l.entries)-1].Created
	ready := max(gatherFor, min(newest.Sub(head.Created)+quietFor, gatherMost))
	if wait := head.Created.Add(ready).Sub(now); wait > 0 {
		return nil, min(wait, gatherMost)
	}
	l.recent = slices.DeleteFunc(l.recent, func(t time.Time) bool { return now.Sub(t) >= window || t.After(now) })
	free := maxInTime - len(l.recent)
	if free <= 0 {
		return nil, l.recent[0].Add(window).Sub(now)
	}
	if len(l.entries) > free {
		n.gather(l)
	}
	l.recent = append(l.recent, now)
	return &l.entries[0], 0
}

// gather makes one digest of everything that waits. It is in the state before those it replaces are gone from there.
func (n *Notifier) gather(l *line) {
	all := l.entries
	digest := entry{Event: all[0].Event, Sub: all[0].Sub, Through: all[len(all)-1].place(), ID: all[0].ID, Created: all[0].Created}
	for _, e := range all {
		digest.Total += e.Total
		digest.Notices = append(digest.Notices, e.Notices[:min(len(e.Notices), maxNotices-len(digest.Notices))]...)
	}
	l.entries = []entry{digest}
	n.logged("keep digest", n.Store.Put(bucketQueue, digest.key(l.ID), digest))
	var work errgroup.Group // those that wait for the disk together are written together
	work.SetLimit(64)
	for _, e := range all[1:] {
		work.Go(func() error { return n.Store.Delete(bucketQueue, e.key(l.ID)) })
	}
	n.logged("forget gathered notifications", work.Wait())
}

// abandon takes the first entry off for good, as failed.
func (n *Notifier) abandon(l *line, a attempt) {
	n.record(l, l.entries[0], api.DeliveryFailed, a)
	n.drop(l)
}

// drop takes the first entry off.
func (n *Notifier) drop(l *line) {
	key := l.entries[0].key(l.ID)
	l.entries = slices.Delete(l.entries, 0, 1)
	n.logged("forget notification", n.Store.Delete(bucketQueue, key))
}

// settle writes down how an attempt to send the first entry went.
func (n *Notifier) settle(l *line, a attempt) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.channels[l.ID] != l || len(l.entries) == 0 || l.entries[0].ID != a.id {
		return // the channel is gone
	}
	head := &l.entries[0]
	head.Tries++
	now := n.Clock().UTC()
	switch {
	case a.err == nil:
		l.Problem = ""
		n.record(l, *head, api.Delivered, a)
		n.drop(l)
	case a.permanent() || now.Sub(head.Created) > giveUp:
		l.Problem = a.err.Error()
		n.abandon(l, a)
	default:
		l.Problem = a.err.Error()
		wait := min(firstPause<<min(head.Tries-1, 10), maxPause)
		head.Next = now.Add(max(wait, min(a.retryAfter(), maxAsked)))
		n.record(l, *head, api.DeliveryRetrying, a)
		n.logged("keep notification", n.Store.Put(bucketQueue, head.key(l.ID), *head))
	}
}

// load reads everything. Entries of events that do not count as dealt with are thrown away: they are made again. So are
// those that a digest has taken up.
func (n *Notifier) load() error {
	known := false
	err := n.Store.Each(bucketState, func(key string, decode func(any) error) error {
		if key != "cursor" {
			return nil
		}
		known = true
		return decode(&n.cursor)
	})
	if err != nil {
		return err
	}
	if !known || n.cursor > n.Since {
		// At the first start ever: the next one must not take its own moment for the first. Or the log is another one.
		n.cursor = n.Since
		if err := n.Store.Put(bucketState, "cursor", n.cursor); err != nil {
			return err
		}
	}
	n.kept = n.cursor
	if err := n.loadSettings(); err != nil {
		return err
	}
	if err := n.Store.Each(bucketAlerts, func(key string, decode func(any) error) error {
		var b begun
		if err := decode(&b); err != nil {
			return err
		}
		switch {
		case b.Event > n.cursor, b.Ended > 0 && b.Ended <= n.cursor:
			return n.Store.Delete(bucketAlerts, key)
		case b.Ended > n.cursor:
			b.Ended = 0
		}
		n.told[key] = b
		return nil
	}); err != nil {
		return err
	}
	if err := n.loadQueue(); err != nil {
		return err
	}
	return n.loadDeliveries()
}

func (n *Notifier) loadQueue() error {
	return n.Store.Each(bucketQueue, func(key string, decode func(any) error) error {
		var e entry
		if err := decode(&e); err != nil {
			return err
		}
		channel, _, _ := strings.Cut(key, "/")
		l := n.channels[channel]
		taken := l != nil && slices.ContainsFunc(l.entries, func(d entry) bool { return d.Through >= e.place() })
		if l == nil || taken || e.Event > n.cursor || len(e.Notices) == 0 {
			return n.Store.Delete(bucketQueue, key)
		}
		l.entries = append(l.entries, e)
		return nil
	})
}
