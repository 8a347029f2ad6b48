package replication

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"understudy/api"
	"understudy/hypervisors"
)

const (
	// looksTo is how many looks in a row a host must fail until it counts as down, and answer until it is up again.
	looksTo = 2
	// lookTimeout bounds one look.
	lookTimeout = 30 * time.Second
	// A storage is low when less than lowFree of it is free, until there is more than enoughFree.
	lowFree, enoughFree = 0.10, 0.12
)

// contact is what the looks at a host have seen.
type contact struct {
	looking atomic.Bool // one look at a time
	asking  atomic.Bool // a question that was given up may still hang
	told    atomic.Bool // that the host was shown as not connected

	mu        sync.Mutex
	bad, good int    // looks in a row
	problem   string // of the last look
	storage   []hypervisors.Storage
	at        time.Time       // when storage was seen
	low       map[string]bool // storages; nil: not looked at yet
}

// trouble is why the last look failed; empty: it did not.
func (s *contact) trouble() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.problem
}

// saw notes the outcome of a look.
func (s *contact) saw(storage []hypervisors.Storage, err error, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.bad, s.good, s.problem = s.bad+1, 0, err.Error()
		return
	}
	s.bad, s.good, s.problem, s.storage, s.at = 0, s.good+1, "", storage, now
}

// Look looks at every host: whether it answers, and how much room it has. Nobody waits for a host that hangs but its own
// look. Run begins one every 15 seconds.
func (e *Engine) Look(ctx context.Context) {
	e.beginLooks(ctx).Wait()
}

func (e *Engine) beginLooks(ctx context.Context) *sync.WaitGroup {
	var looks sync.WaitGroup
	used := e.replicas()
	for _, p := range e.endpoints() {
		if p.looking.CompareAndSwap(false, true) {
			looks.Go(func() {
				defer p.looking.Store(false)
				e.lookAtHost(ctx, p, used[p.ID])
			})
		}
	}
	return &looks
}

func (e *Engine) endpoints() []*endpoint {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := make([]*endpoint, 0, len(e.hosts))
	for _, p := range e.hosts {
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b *endpoint) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// replicas counts the replicas by host and storage; the storage "" is the default of its host.
func (e *Engine) replicas() map[string]map[string]int {
	used := map[string]map[string]int{}
	for _, g := range e.snapshotGroups() {
		at := g.target()
		if used[at.Host] == nil {
			used[at.Host] = map[string]int{}
		}
		used[at.Host][at.Storage] += len(g.Members)
	}
	return used
}

func (e *Engine) lookAtHost(ctx context.Context, p *endpoint, used map[string]int) {
	storage, err := e.ask(ctx, p)
	if ctx.Err() != nil {
		return // the appliance stops: that says nothing about the host
	}
	p.saw(storage, err, e.Clock())
	e.tellHost(p)
	if err := errors.Join(e.judgeHost(p, err), e.judgeStorage(p, used)); err != nil && ctx.Err() == nil {
		e.Log.Error("alerts of a host cannot be kept", "host", p.Name, "error", err)
	}
}

// ask gives up on a host that takes too long, even where its driver does not.
func (e *Engine) ask(ctx context.Context, p *endpoint) ([]hypervisors.Storage, error) {
	if !p.asking.CompareAndSwap(false, true) {
		return nil, errHangs
	}
	type answer struct {
		storage []hypervisors.Storage
		err     error
	}
	answers := make(chan answer, 1)
	go func() {
		var a answer
		host, err := e.host(ctx, p.ID)
		if err == nil {
			a.storage, err = host.Storage(ctx)
		}
		a.err = err
		p.asking.Store(false) // first: who has the answer may ask again at once
		answers <- a
	}()
	timer := time.NewTimer(lookTimeout)
	defer timer.Stop()
	select {
	case a := <-answers:
		return a.storage, a.err
	case <-timer.C:
		return nil, errHangs
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

var errHangs = &hypervisors.Error{Op: "look at", Subject: "host", Err: hypervisors.ErrTimeout,
	Hint: "The host accepts connections and does not answer: look at its console."}

// tellHost publishes that a connection was lost or is back.
func (e *Engine) tellHost(p *endpoint) {
	v := p.view()
	if down := !v.Connected; p.told.Swap(down) != down {
		text := "host " + v.Name + " is connected again"
		if down {
			text = "host " + v.Name + " is not connected: " + v.Problem
		}
		e.publish("host", "updated", p.ID, "", text)
	}
}

func (e *Engine) judgeHost(p *endpoint, err error) error {
	p.contact.mu.Lock()
	bad, good := p.bad, p.good
	p.contact.mu.Unlock()
	switch {
	case bad >= looksTo:
		return e.raiseHost(p, api.AlertHostDown, func() api.Alert {
			return api.Alert{Message: fmt.Sprintf("host %s does not answer: %v", p.Name, err),
				Hint: cmp.Or(asPublic(err).Hint, "Check its power, its network and its hypervisor.")}
		})
	case good >= looksTo:
		return e.calmHost(p, api.AlertHostDown)
	}
	return nil
}

// judgeStorage looks at the storages in which there are replicas, where the host answered.
func (e *Engine) judgeStorage(p *endpoint, used map[string]int) error {
	on := e.hostAlert(p.ID, api.AlertStorageLow) != nil
	p.contact.mu.Lock()
	if p.problem != "" || p.at.IsZero() {
		p.contact.mu.Unlock()
		return nil
	}
	low := map[string]bool{}
	for _, s := range p.storage {
		bound := lowFree
		if on && p.low == nil || p.low[s.Name] {
			bound = enoughFree
		}
		if (used[s.Name] > 0 || s.Default && used[""] > 0) && float64(s.Free) < bound*float64(s.Total) {
			low[s.Name] = true
		}
	}
	p.low = low
	p.contact.mu.Unlock()
	if len(low) == 0 {
		return e.calmHost(p, api.AlertStorageLow)
	}
	var names []string
	for name := range low {
		names = append(names, name)
	}
	slices.Sort(names)
	message := fmt.Sprintf("storage %s of host %s has less than 10 %% free", strings.Join(names, ", "), p.Name)
	if a := e.hostAlert(p.ID, api.AlertStorageLow); a != nil && a.Message != message {
		return e.putHostAlert(p, api.Alert{Kind: a.Kind, Since: a.Since, Message: message, Hint: a.Hint}, "updated")
	}
	return e.raiseHost(p, api.AlertStorageLow, func() api.Alert {
		return api.Alert{Message: message, Hint: "Free space there, or keep fewer recovery points: cycles fail when it is full."}
	})
}

// storageUse gives the storages in which there are replicas, as they were seen last.
func (e *Engine) storageUse() []api.StorageUse {
	out, used := []api.StorageUse{}, e.replicas()
	for _, p := range e.endpoints() {
		p.contact.mu.Lock()
		for _, s := range p.storage {
			n := used[p.ID][s.Name]
			if s.Default {
				n += used[p.ID][""]
			}
			if n > 0 {
				out = append(out, api.StorageUse{Host: p.ID, HostName: p.Name, Storage: s.Name, Path: s.Path, Free: s.Free, Total: s.Total, Replicas: n, Seen: p.at})
			}
		}
		p.contact.mu.Unlock()
	}
	return out
}
