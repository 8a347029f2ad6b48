// Package notify tells people and other systems what happened: it listens to the bus, chooses by rules, and sends mail, SNMP
// notifications, syslog messages and webhooks. It owns channels, rules, what waits for each channel, and the records of
// what was delivered. It never touches a group or a host, and connects to nobody but the receivers that an administrator
// named.
//
// # What is told
//
// The beginning and the end of every alert, jobs that failed, and orders of people that ended. A failed cycle or mirror is told by
// its alerts alone (cycle-failing, rpo-missed): with an RPO of seconds each one would be a message. The end of an alert
// goes to the channels that were told of its beginning, whatever the rules say by then.
//
// # No storms
//
// Each channel gathers what comes within 2 s, and on while more comes each second, up to 10 s; and it sends 5 messages a
// minute at most. When more is waiting than it may send, everything that waits becomes one message, a digest. So a host
// that goes down with 1,000 machines is one message after some seconds, and what follows is gathered into four more in
// that minute.
//
// # Nothing lost, and hardly anything twice
//
// What waits for a channel is in the state before the bus is read on, under the id of its event. After a restart the bus
// is read from the last id that was dealt with. An event that nobody saw before the appliance died is in no log; so each
// start also compares the alerts that channels know of with those there are. A message keeps its id in all attempts (Message-ID of mails, webhook-id),
// so that a receiver can tell one that it got twice because its answer was lost.
package notify

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"understudy/api"
)

// Store keeps JSON values by bucket and key; a Put is durable when it returns. *store.DB is one.
type Store interface {
	Put(bucket, key string, v any) error
	Delete(bucket, key string) error
	Each(bucket string, fn func(key string, decode func(v any) error) error) error
	// EventsAfter gives at most limit of the events with an id above this one, ascending.
	EventsAfter(id uint64, limit int) ([]api.Event, error)
}

// Bus distributes what happened. *store.Bus is one.
type Bus interface {
	Subscribe(ctx context.Context, after uint64) (<-chan api.Event, error)
}

// Secrets keep passwords and keys sealed. *vault.Vault is one.
type Secrets interface {
	Put(name string, s api.Secret) error
	Get(name string) (api.Secret, error)
	Delete(name string) error
}

// Directory knows the names of groups, and what is wrong now.
type Directory interface {
	GetGroup(ctx context.Context, id string) (api.Group, error)
	ListAlerts(ctx context.Context, scope api.Scope) ([]api.ActiveAlert, error)
}

// Options of a Notifier; all are needed unless they say otherwise.
type Options struct {
	Store   Store
	Bus     Bus
	Secrets Secrets
	// Since is the newest event there is now. At the first start ever, nothing before it is told.
	Since   uint64
	Version string
	// Hostname is how messages name the appliance; empty: that of this machine.
	Hostname string
	// ConsoleURL is where people reach the console; empty: messages have no links.
	ConsoleURL string
	Clock      func() time.Time // nil: time.Now
	Log        *slog.Logger     // nil: slog.Default

	// sender makes what sends for a channel; tests put others in its place.
	sender func(c api.ChannelSpec) sender
}

// Buckets in the state.
const (
	bucketChannels   = "notify-channels"
	bucketRules      = "notify-rules"
	bucketQueue      = "notify-queue"
	bucketAlerts     = "notify-alerts"
	bucketDeliveries = "notify-deliveries"
	bucketState      = "notify-state"
)

// Notifier implements api.Notifications.
type Notifier struct {
	Options
	identity identity
	names    Directory

	mu         sync.Mutex
	channels   map[string]*line
	rules      map[string]api.Rule
	told       map[string]begun // alerts that channels know the beginning of, by their ids
	deliveries []api.Delivery   // oldest first
	cursor     uint64           // last event that was dealt with
	kept       uint64           // the cursor as the state has it
	ended      map[string]bool  // jobs whose end was told lately
	endedOrder []string

	ctx  context.Context // of the workers; nil before Run
	stop context.CancelFunc
	done sync.WaitGroup
}

var _ api.Notifications = (*Notifier)(nil)

// New loads channels, rules and what waits. Nothing is sent before Run. It must be made before anything is published that
// shall be told.
func New(o Options) (*Notifier, error) {
	o.Clock, o.Log = orDefault(o.Clock), cmp.Or(o.Log, slog.Default())
	if o.Hostname == "" {
		name, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("name of this machine: %w", err)
		}
		o.Hostname = name
	}
	if u, err := url.Parse(o.ConsoleURL); o.ConsoleURL != "" && (err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http") {
		return nil, fmt.Errorf("%q is no address of a console: write it as https://appliance.example.com:8443", o.ConsoleURL)
	}
	n := &Notifier{Options: o, channels: map[string]*line{}, rules: map[string]api.Rule{}, told: map[string]begun{},
		ended: map[string]bool{}}
	if err := n.load(); err != nil {
		return nil, fmt.Errorf("load notifications: %w", err)
	}
	if n.sender == nil {
		n.sender = n.realSender
	}
	return n, nil
}

func orDefault(clock func() time.Time) func() time.Time {
	if clock == nil {
		return time.Now
	}
	return clock
}

// Run listens and sends until Close. names gives the groups their names in messages.
func (n *Notifier) Run(names Directory) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.names = names
	n.ctx, n.stop = context.WithCancel(context.Background())
	for _, l := range n.channels {
		n.start(l)
	}
	ctx := n.ctx
	n.done.Go(func() {
		n.replay(ctx)
		n.catchUp(ctx)
		n.listen(ctx)
	})
}

// Close interrupts what is being sent, which is sent again after the next start, and remembers where the bus was read to.
func (n *Notifier) Close() error {
	n.mu.Lock()
	stop := n.stop
	n.mu.Unlock()
	if stop != nil {
		stop()
	}
	n.done.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.remember()
}

// listen deals with events until ctx ends.
func (n *Notifier) listen(ctx context.Context) {
	for ctx.Err() == nil {
		n.mu.Lock()
		after := n.cursor
		n.mu.Unlock()
		events, err := n.Bus.Subscribe(ctx, after)
		if err != nil {
			n.Log.Error("listen for notifications", "error", err)
			pause(ctx, time.Second)
			continue
		}
		if after == 0 {
			n.replay(ctx) // 0 means from now on to the bus
		}
		for batch := range together(events) {
			n.take(ctx, batch)
		}
	}
}

// atOnce bounds how many events are dealt with in one go.
const atOnce = 256

// together gives what came while the last batch was dealt with in one: in a storm, the disk takes many in one go.
func together(events <-chan api.Event) iter.Seq[[]api.Event] {
	buffer := make(chan api.Event, atOnce)
	go func() {
		defer close(buffer)
		for e := range events {
			buffer <- e
		}
	}()
	return func(yield func([]api.Event) bool) {
		for e := range buffer {
			batch := []api.Event{e}
			for len(batch) < atOnce && len(buffer) > 0 {
				batch = append(batch, <-buffer)
			}
			yield(batch)
		}
	}
}

// replay deals with what the log has.
func (n *Notifier) replay(ctx context.Context) {
	for ctx.Err() == nil {
		page, err := n.Store.EventsAfter(n.cursor, rememberEvery)
		n.logged("read events", err)
		n.take(ctx, page)
		if len(page) == 0 {
			return
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// rememberEvery is how many events that nobody is told of may be looked at again after a crash.
const rememberEvery = 256

// take deals with events: what is to be told waits in the state before they count as dealt with, and is sent only after
// that. Entries of events that do not count yet are thrown away at the next start, and made again.
func (n *Notifier) take(ctx context.Context, events []api.Event) {
	type found struct {
		event  uint64
		notice Notice
	}
	var all []found
	for _, e := range events {
		if notice, ok := noticeOf(e); ok && e.Action != "progress" {
			all = append(all, found{e.ID, n.named(ctx, notice)})
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	c := changes{alerts: map[string]begun{}, forget: map[string]bool{}}
	for _, f := range all {
		if f.event > n.cursor && (f.notice.Job == "" || !n.toldOf(f.notice.Job)) {
			n.tell(&c, f.event, 0, f.notice)
		}
	}
	for _, e := range events {
		if n.cursor > 0 && e.ID > n.cursor+1 {
			n.Log.Warn("events were no longer kept when notifications came to them", "after", n.cursor, "next", e.ID)
		}
		n.cursor = max(n.cursor, e.ID)
	}
	n.carryOut(&c)
}

// catchUp tells what the log of events does not: alerts that began or ended in the last moments before a death.
func (n *Notifier) catchUp(ctx context.Context) {
	active, err := n.names.ListAlerts(ctx, nil)
	if err != nil {
		n.Log.Error("compare alerts with what was told", "error", err)
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	c := changes{alerts: map[string]begun{}, forget: map[string]bool{}}
	there, sub := map[string]bool{}, 0
	for _, a := range active {
		notice, _ := noticeOfAlert(api.Event{Action: "created", Time: a.Since, Alert: &a})
		there[notice.ID] = true
		sub++
		n.tell(&c, n.cursor, sub, notice)
	}
	for _, id := range slices.Sorted(maps.Keys(n.told)) {
		if b := n.told[id]; !there[id] && b.Notice.ID != "" {
			sub++
			b.Notice.State, b.Notice.Time, b.Notice.Hint = stateResolved, n.Clock().UTC(), ""
			n.tell(&c, n.cursor, sub, b.Notice)
		}
	}
	n.carryOut(&c)
}

// carryOut keeps changes in their order, and lets the workers look.
func (n *Notifier) carryOut(c *changes) {
	var alerts []func() error
	for id, b := range c.alerts {
		alerts = append(alerts, func() error { return n.Store.Put(bucketAlerts, id, b) })
	}
	for id := range c.forget {
		c.after = append(c.after, func() error { return n.Store.Delete(bucketAlerts, id) })
	}
	n.logged("keep notifications", c.write(c.before))
	n.logged("keep alerts", c.write(alerts)) // only then: who is in there is not told again
	if len(c.before) > 0 || len(alerts) > 0 || n.cursor-n.kept >= rememberEvery {
		n.logged("remember", n.remember())
	}
	n.logged("forget", c.write(c.after))
	for _, l := range c.wake {
		l.wakeUp()
	}
}

// changes of the state around the one that makes events count as dealt with.
type changes struct {
	before, after []func() error
	alerts        map[string]begun // to keep before, by id
	forget        map[string]bool  // ids of alerts to forget after
	wake          []*line
}

// write makes changes at once: the disk takes those that wait for it in one go.
func (c *changes) write(all []func() error) error {
	var work errgroup.Group
	work.SetLimit(64)
	for _, change := range all {
		work.Go(change)
	}
	return work.Wait()
}

// tell lets a notice wait for all that it is for. The beginning of an alert that somebody knows of is not told again.
func (n *Notifier) tell(c *changes, event uint64, sub int, notice Notice) {
	began, open := n.told[notice.ID]
	if open && notice.State == stateFiring {
		return
	}
	ids := n.chosen(notice)
	now := n.Clock().UTC()
	for _, id := range ids {
		l := n.channels[id]
		n.enqueue(c, l, entry{Event: event, Sub: sub, ID: newID(now), Created: now, Notices: []Notice{notice}, Total: 1})
		c.wake = append(c.wake, l)
	}
	switch {
	case notice.State == stateFiring && len(ids) > 0:
		began = begun{Event: event, Channels: ids, Notice: notice}
		n.told[notice.ID] = began
		delete(c.forget, notice.ID)
	case notice.State == stateResolved && open:
		began.Ended = event
		delete(n.told, notice.ID)
		c.forget[notice.ID] = true
	default:
		return
	}
	c.alerts[notice.ID] = began
}

// begun is an alert that channels were told of. One that ended with an event that counts as dealt with is to be forgotten.
type begun struct {
	Event    uint64   `json:"event"`
	Channels []string `json:"channels"`
	Notice   Notice   `json:"notice"`
	Ended    uint64   `json:"ended,omitempty"`
}

// logged tells the log of what cannot be kept. What is to be told goes on from memory: a full disk is when people must
// hear of it.
func (n *Notifier) logged(what string, err error) {
	if err != nil {
		n.Log.Error("state of notifications cannot be kept", "what", what, "error", err)
	}
}

// remember keeps the cursor.
func (n *Notifier) remember() error {
	if n.kept == n.cursor {
		return nil
	}
	if err := n.Store.Put(bucketState, "cursor", n.cursor); err != nil {
		return err
	}
	n.kept = n.cursor
	return nil
}

// keepEnded bounds the memory of jobs that ended: a job may be shown again after it has.
const keepEnded = 1000

// toldOf says whether the end of this job was seen before, and notes that it was.
func (n *Notifier) toldOf(job string) bool {
	if n.ended[job] {
		return true
	}
	n.ended[job] = true
	n.endedOrder = append(n.endedOrder, job)
	if len(n.endedOrder) > keepEnded {
		delete(n.ended, n.endedOrder[0])
		n.endedOrder = n.endedOrder[1:]
	}
	return false
}

// named gives the group its name. A group that is gone keeps its id.
func (n *Notifier) named(ctx context.Context, notice Notice) Notice {
	if notice.GroupName != "" || notice.Group == "" {
		return notice
	}
	notice.GroupName = notice.Group
	n.mu.Lock()
	names := n.names
	n.mu.Unlock()
	if g, err := names.GetGroup(ctx, notice.Group); err == nil {
		notice.GroupName = g.Name
	}
	return notice
}
