package replication

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"understudy/api"
	"understudy/hypervisors"
)

// connectTimeout bounds how long a host may take to answer when somebody waits for it.
const connectTimeout = 30 * time.Second

// hostRecord is a host as the state database keeps it.
type hostRecord struct {
	api.HostSpec // without the password, see passwordName
	ID           string
	Revision     int64
	// PasswordSince is the revision with which the password came; 0: the host has none.
	PasswordSince int64 `json:",omitempty"`
	Identity      string
	Product       string
	Version       string
}

// endpoint is a host of this engine: its record, and its connection while there is one.
type endpoint struct {
	hostRecord
	slots  *semaphore.Weighted // copies at once
	starts *semaphore.Weighted // machines that are being started or ended

	mu   sync.Mutex // held while connecting
	link atomic.Pointer[link]
	// replaced: another endpoint stands for the host, which Engine.endpoint gives.
	replaced bool
	*contact // of the host, whatever endpoint stands for it
}

// link is the connection to a host, or why there is none. Whoever only shows it does not wait for who is connecting.
type link struct {
	host    hypervisors.Host // nil: none
	problem string
}

func (e *Engine) newEndpoint(rec hostRecord) *endpoint {
	p := &endpoint{hostRecord: rec, slots: semaphore.NewWeighted(int64(cmp.Or(rec.MaxJobs, 4))),
		starts: semaphore.NewWeighted(int64(e.AtOnce)), contact: new(contact)}
	p.link.Store(&link{})
	return p
}

func (p *endpoint) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	host := p.connected()
	if host == nil {
		return nil
	}
	p.link.Store(&link{})
	return host.Close()
}

// connected gives the connection if there is one, without trying.
func (p *endpoint) connected() hypervisors.Host {
	return p.link.Load().host
}

func (p *endpoint) view() api.Host {
	l, problem := p.link.Load(), p.trouble()
	h := api.Host{HostSpec: p.HostSpec, ID: p.ID, Revision: p.Revision, Identity: p.Identity, Product: p.Product, Version: p.Version,
		Connected: l.host != nil && problem == "", Problem: cmp.Or(l.problem, problem)}
	if l.host != nil {
		h.Capabilities = capabilities(l.host)
	}
	return h
}

// connectAll connects every host at the start, in parallel, and only then cleans them: what a source must keep is
// known best by the targets.
func (e *Engine) connectAll(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for _, p := range e.hosts {
		wg.Go(func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			_ = e.open(ctx, p) // the problem stands in the endpoint; whoever needs the host tries again
		})
	}
	wg.Wait()
	for _, p := range e.hosts {
		p.mu.Lock()
		if p.connected() != nil {
			e.clean(ctx, p)
		}
		p.mu.Unlock()
		e.tellHost(p) // who watched an earlier life knows now
	}
}

// host gives the connection to a host, connecting and cleaning it when there is none.
func (e *Engine) host(ctx context.Context, id string) (hypervisors.Host, error) {
	p, err := e.current(id)
	if err != nil {
		return nil, err
	}
	defer p.mu.Unlock()
	if host := p.connected(); host != nil {
		return host, nil
	}
	if err := e.open(ctx, p); err != nil {
		return nil, err
	}
	e.clean(ctx, p)
	return p.connected(), nil
}

// current gives the endpoint that stands for a host, with its mutex held.
func (e *Engine) current(id string) (*endpoint, error) {
	for {
		p, err := e.endpoint(id)
		if err != nil {
			return nil, err
		}
		p.mu.Lock()
		if !p.replaced {
			return p, nil
		}
		p.mu.Unlock()
	}
}

// open connects p, whose mutex is held, and makes sure that the host is still the one that was added.
func (e *Engine) open(ctx context.Context, p *endpoint) error {
	var host hypervisors.Host
	var info hypervisors.Info
	login, err := e.loginOf(&p.hostRecord)
	if err == nil {
		host, info, err = e.dial(ctx, login)
	}
	if err == nil && info.Identity != p.Identity {
		err = errors.Join(fmt.Errorf("host %s is another one than was added (identity %s, not %s)", p.Name, info.Identity, p.Identity), host.Close())
	}
	if err != nil {
		p.link.Store(&link{problem: err.Error()})
		return err
	}
	p.link.Store(&link{host: host})
	return nil
}

func (e *Engine) dial(ctx context.Context, login Login) (hypervisors.Host, hypervisors.Info, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	host, err := e.Connect(ctx, login, e.owner)
	if err != nil {
		return nil, hypervisors.Info{}, err
	}
	info, err := host.Info(ctx)
	if err != nil {
		return nil, info, errors.Join(err, host.Close())
	}
	return host, info, nil
}

// clean removes leftovers of an earlier life from a host on which nothing of this life runs yet: p's mutex is held
// since it was connected.
func (e *Engine) clean(ctx context.Context, p *endpoint) {
	removed, err := p.connected().Clean(ctx, e.keep(ctx, p))
	if err != nil {
		// A leftover costs space, not data; refusing the host for it would cost recovery points.
		e.Log.Warn("leftovers on host stay", "host", p.Name, "error", err)
	}
	for _, what := range removed {
		e.Log.Info("removed leftover", "host", p.Name, "what", what)
	}
}

// keep names what must survive a clean of p: the change ids of the newest committed points, as the targets know them
// (a commit may have happened that we never heard of) and as we remember them, and the tests that are still wanted.
func (e *Engine) keep(ctx context.Context, p *endpoint) hypervisors.Keep {
	keep := hypervisors.Keep{ChangeIDs: map[string][]hypervisors.ChangeID{}}
	for _, g := range e.snapshotGroups() {
		if g.source().Host != p.ID && g.target().Host != p.ID {
			continue
		}
		if g.Test != nil && g.TestRun != "" {
			keep.TestRuns = append(keep.TestRuns, g.TestRun)
			keep.Networks = append(keep.Networks, bubble(g.TestRun))
		}
		if g.source().Host != p.ID {
			continue
		}
		for i := range g.Members {
			m := &g.Members[i]
			from, to := m.seats(g.Reversed)
			ids := append(keep.ChangeIDs[from.VM], m.ChangeID)
			if replica, err := e.replicaIfConnected(ctx, g.target().Host, to.Replica); err == nil {
				if status, err := replica.Status(ctx); err == nil && len(status.Points) > 0 {
					ids = append(ids, status.Points[len(status.Points)-1].ChangeID)
				}
			}
			keep.ChangeIDs[from.VM] = slices.DeleteFunc(ids, func(id hypervisors.ChangeID) bool { return id == "" })
		}
	}
	return keep
}

func (e *Engine) replicaIfConnected(ctx context.Context, hostID, replica string) (hypervisors.Replica, error) {
	p, err := e.endpoint(hostID)
	if err != nil {
		return nil, err
	}
	// TryLock: the two ends of a group may be connecting at once, each asking for the other.
	if !p.mu.TryLock() {
		return nil, hypervisors.ErrUnreachable
	}
	defer p.mu.Unlock()
	target, ok := p.connected().(hypervisors.Target)
	if !ok {
		return nil, hypervisors.ErrUnreachable
	}
	return target.Replica(ctx, replica)
}

func (e *Engine) endpoint(ref string) (*endpoint, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if p, ok := e.hosts[ref]; ok {
		return p, nil
	}
	for _, p := range e.hosts {
		if p.Name == ref {
			return p, nil
		}
	}
	return nil, api.Errorf(api.CodeNotFound, "List the hosts to see which there are.", "there is no host %q", ref)
}

// ability finds an optional part of a driver.
func ability[T any](ctx context.Context, e *Engine, hostID, what string) (T, error) {
	var none T
	host, err := e.host(ctx, hostID)
	if err != nil {
		return none, err
	}
	part, ok := host.(T)
	if !ok {
		return none, &hypervisors.Error{Op: what, Subject: "on host " + hostID, Err: hypervisors.ErrIncapable,
			Hint: "Run the doctor on this host: it says what is missing."}
	}
	return part, nil
}

func (e *Engine) source(ctx context.Context, hostID string) (hypervisors.Source, error) {
	return ability[hypervisors.Source](ctx, e, hostID, "read machines")
}

func (e *Engine) target(ctx context.Context, hostID string) (hypervisors.Target, error) {
	return ability[hypervisors.Target](ctx, e, hostID, "keep replicas")
}

func (e *Engine) power(ctx context.Context, hostID string) (hypervisors.Power, error) {
	return ability[hypervisors.Power](ctx, e, hostID, "power machines")
}

// slots waits for room on both hosts of a copy, always in the same order so that two groups that replicate in
// opposite directions cannot wait for each other.
func (e *Engine) slots(ctx context.Context, hosts ...string) (release func(), err error) {
	slices.Sort(hosts)
	var held []*endpoint
	release = func() {
		for _, p := range held {
			p.slots.Release(1)
		}
	}
	for _, id := range hosts {
		p, err := e.endpoint(id)
		if err == nil {
			err = p.slots.Acquire(ctx, 1)
		}
		if err != nil {
			release()
			return nil, err
		}
		held = append(held, p)
	}
	return release, nil
}
