package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"understudy/hypervisors"
)

// lookTime bounds how long a preview waits for hosts: in the worst night one of them is dead.
const lookTime = 4 * time.Second

// sight is what both hosts of a group showed, as far as they answered in time.
type sight struct {
	source, target *look
}

// look is what one host showed of a group.
type look struct {
	host string // name
	err  error  // why nothing or not all is known

	mu       sync.Mutex // what is below, while the host is asked
	vms      []seen     // by member
	networks []hypervisors.Network
	caps     hypervisors.Capabilities
	isolates bool // it can make isolated networks
}

// seen is one machine of a look.
type seen struct {
	vm    hypervisors.VM
	asked bool // vm is known, or gone
	gone  bool
}

// state is in words of the API.
func (s seen) state() string {
	switch {
	case s.gone:
		return "gone"
	case !s.asked:
		return "unknown"
	}
	return string(s.vm.State)
}

// there says that the machine is known.
func (s seen) there() bool { return s.asked && !s.gone }

// on says that the machine surely runs.
func (s seen) on() bool { return s.there() && s.vm.State != hypervisors.Off }

// look asks both hosts at once.
func (e *Engine) look(ctx context.Context, g group) sight {
	s := sight{source: &look{}, target: &look{}}
	var asking sync.WaitGroup
	asking.Go(func() { s.source = e.lookAt(ctx, g, g.source().Host, g.fromSeat) })
	asking.Go(func() { s.target = e.lookAt(ctx, g, g.target().Host, g.toSeat) })
	asking.Wait()
	return s
}

// lookAt asks one host, which may hang in ways that know no ctx.
func (e *Engine) lookAt(ctx context.Context, g group, hostID string, seat func(*member) *seat) *look {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	asking := &look{vms: make([]seen, len(g.Members))}
	done := make(chan error, 1)
	go func() { done <- e.fill(ctx, asking, g, hostID, seat) }()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%w: no answer within %s", hypervisors.ErrTimeout, lookTime)
	}
	asking.mu.Lock() // whoever still asks writes where nobody reads
	defer asking.mu.Unlock()
	return &look{host: e.hostName(hostID), err: err, vms: slices.Clone(asking.vms), networks: asking.networks, caps: asking.caps, isolates: asking.isolates}
}

func (e *Engine) fill(ctx context.Context, l *look, g group, hostID string, seat func(*member) *seat) error {
	host, err := e.host(ctx, hostID)
	if err != nil {
		return err
	}
	asks, ctx := errgroup.WithContext(ctx)
	asks.SetLimit(e.AtOnce)
	for i := range g.Members {
		asks.Go(func() error {
			vm, err := host.VM(ctx, seat(&g.Members[i]).VM)
			gone := errors.Is(err, hypervisors.ErrNotFound)
			if err != nil && !gone {
				return err
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			l.vms[i] = seen{vm: vm, asked: true, gone: gone}
			return nil
		})
	}
	asks.Go(func() error {
		networks, err := host.Networks(ctx)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.networks = networks
		l.caps = host.Capabilities()
		_, l.isolates = host.(hypervisors.Isolation)
		l.isolates = l.isolates && l.caps.Isolation
		return err
	})
	return asks.Wait()
}
