package notify

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
)

// memory is a store that outlives notifiers. What it is told to refuse fails.
type memory struct {
	mu     sync.Mutex
	values map[string][]byte
	bus    *bus
	// before is called with each write, and may refuse it.
	before func(op, path string) error
}

func newMemory(b *bus) *memory { return &memory{values: map[string][]byte{}, bus: b} }

// bus keeps events as the store's does, without its disk.
type bus struct {
	mu     sync.Mutex
	events []api.Event
	subs   map[chan struct{}]bool
}

func newBus() *bus { return &bus{subs: map[chan struct{}]bool{}} }

func (b *bus) publish(e api.Event) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	e.ID = uint64(len(b.events) + 1)
	e.Time = time.Now()
	b.events = append(b.events, e)
	for s := range b.subs {
		select {
		case s <- struct{}{}:
		default:
		}
	}
	return e.ID
}

func (b *bus) Subscribe(ctx context.Context, after uint64) (<-chan api.Event, error) {
	wake, out := make(chan struct{}, 1), make(chan api.Event)
	b.mu.Lock()
	if after == 0 {
		after = uint64(len(b.events))
	}
	b.subs[wake] = true
	b.mu.Unlock()
	go func() {
		defer close(out)
		for {
			b.mu.Lock()
			fresh := slices.Clone(b.events[after:])
			b.mu.Unlock()
			for _, e := range fresh {
				select {
				case out <- e:
					after = e.ID
				case <-ctx.Done():
					return
				}
			}
			select {
			case <-wake:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, nil
}

// receiver is what a fake sender sends to.
type receiver struct {
	mu   sync.Mutex
	got  []message
	at   []time.Time
	fail func(n int) error // of the nth attempt, from 1
	hang bool
	n    int
}

func (r *receiver) send(ctx context.Context, m message) (string, error) {
	r.mu.Lock()
	r.n++
	n, hang := r.n, r.hang
	r.mu.Unlock()
	if hang {
		<-ctx.Done()
		return "", ctx.Err()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		if err := r.fail(n); err != nil {
			return "", err
		}
	}
	r.got, r.at = append(r.got, m), append(r.at, time.Now())
	return "fine", nil
}

func (r *receiver) messages() []message {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

func (r *receiver) attempts() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n
}

// world is an appliance that can die and live again, with one receiver for each host name.
type world struct {
	*Notifier
	t         *testing.T
	store     *memory
	bus       *bus
	secrets   *sealed
	engine    directory
	receivers map[string]*receiver
	log       strings.Builder
}

// sealed is a vault without a key.
type sealed struct {
	mu     sync.Mutex
	values map[string]api.Secret
}

func (s *sealed) Put(name string, v api.Secret) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.values[name] = v
	return nil
}

func (s *sealed) Get(name string) (api.Secret, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v, ok := s.values[name]; ok {
		return v, nil
	}
	return api.Secret{}, errors.New("no such secret")
}

func (s *sealed) Delete(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.values, name)
	return nil
}

// directory is an engine that knows what is wrong now.
type directory struct{ active []api.ActiveAlert }

func (d *directory) ListAlerts(context.Context, api.Scope) ([]api.ActiveAlert, error) {
	return d.active, nil
}

func (*directory) GetGroup(_ context.Context, id string) (api.Group, error) {
	if id == "gone" {
		return api.Group{}, api.Errorf(api.CodeNotFound, "", "no group")
	}
	return api.Group{ID: "g-" + strings.TrimPrefix(id, "g-"), GroupSpec: api.GroupSpec{Name: strings.TrimPrefix(id, "g-")}}, nil
}

// in runs a test in a bubble of simulated time.
func in(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newBus()
		w := &world{t: t, store: newMemory(b), bus: b, secrets: &sealed{values: map[string]api.Secret{}}, receivers: map[string]*receiver{}}
		w.start()
		defer func() { require.NoError(t, w.Close()) }()
		test(t, w)
	})
}

func (w *world) start() {
	w.t.Helper()
	var err error
	w.Notifier, err = New(Options{Store: w.store, Bus: w.bus, Secrets: w.secrets, Since: uint64(len(w.bus.events)), Hostname: "appliance", Version: "1",
		Log:    slog.New(slog.NewTextHandler(&w.log, nil)),
		sender: func(c api.ChannelSpec) sender { return w.receiver(c.Syslog.Host) }})
	require.NoError(w.t, err)
	w.Run(&w.engine)
	synctest.Wait()
}

// die ends the appliance as a power failure does: nothing that it holds in memory is kept.
func (w *world) die() {
	w.store.refuse(func(string, string) error { return errors.New("the power is off") })
	w.stop()
	w.done.Wait()
	w.store.refuse(nil)
}

func (w *world) receiver(name string) *receiver {
	if w.receivers[name] == nil {
		w.receivers[name] = &receiver{}
	}
	return w.receivers[name]
}

// channel makes an enabled channel to the receiver of that name.
func (w *world) channel(name string) api.Channel {
	w.t.Helper()
	w.receiver(name)
	c, err := w.CreateChannel(w.t.Context(), api.ChannelSpec{Name: name, Enabled: true, Kind: api.ChannelSyslog,
		Syslog: &api.SyslogChannel{Host: name, Port: 514, Transport: "udp"}})
	require.NoError(w.t, err)
	return c
}

// rule lets channels be told of what the change of the rule says; by default of everything.
func (w *world) rule(name string, change func(*api.RuleSpec), channels ...api.Channel) api.Rule {
	w.t.Helper()
	spec := api.RuleSpec{Name: name, Enabled: true}
	for _, c := range channels {
		spec.Channels = append(spec.Channels, c.ID)
	}
	if change != nil {
		change(&spec)
	}
	r, err := w.CreateRule(w.t.Context(), spec)
	require.NoError(w.t, err)
	return r
}

func alertEvent(action, id, kind, group string, severity api.Severity) api.Event {
	return api.Event{Kind: "alert", Action: action, Subject: kind, Group: group, Alert: &api.ActiveAlert{ID: id, Kind: kind, Severity: severity,
		Group: group, GroupName: strings.TrimPrefix(group, "g-"), Message: "something is wrong", Hint: "repair it"}}
}

func (w *world) begin(id string) {
	e := alertEvent("created", id, api.AlertRPOMissed, "g-shop", api.SeverityCritical)
	w.engine.active = append(w.engine.active, *e.Alert)
	w.bus.publish(e)
}

func (w *world) end(id string) {
	w.engine.active = slices.DeleteFunc(w.engine.active, func(a api.ActiveAlert) bool { return a.ID == id })
	w.bus.publish(alertEvent("deleted", id, api.AlertRPOMissed, "g-shop", api.SeverityCritical))
}

func (w *world) job(id, kind string, state api.JobState) {
	w.bus.publish(api.Event{Kind: "job", Action: "updated", Subject: id, Group: "g-shop", Job: &api.Job{ID: id, Kind: kind, Group: "g-shop", State: state, Error: "no luck"}})
}

// pass lets time pass until nothing moves.
func (w *world) pass(d time.Duration) {
	time.Sleep(d) // of the bubble
	synctest.Wait()
}

// told are the notices that a receiver got, as "id state".
func (r *receiver) told() []string {
	var all []string
	for _, m := range r.messages() {
		for _, n := range m.Notices {
			all = append(all, n.ID+" "+n.State)
		}
	}
	return all
}

func (w *world) deliveries(state api.DeliveryState) []api.Delivery {
	w.t.Helper()
	page, err := w.ListDeliveries(w.t.Context(), api.DeliveryQuery{State: string(state), Paging: api.Paging{Limit: 1000}})
	require.NoError(w.t, err)
	return page.Items
}
