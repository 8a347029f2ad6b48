package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"understudy/api"
	"understudy/hypervisors"
	"understudy/hypervisors/hypervisortest"
)

// testTime bounds the test of a host.
const testTime = 2 * time.Minute

// TestHost says whether a host could be added. It reads only, keeps no connection, and remembers nothing. Without a
// password it uses that of the host that is known by this name, address and user.
func (e *Engine) TestHost(ctx context.Context, spec api.HostSpec) (api.HostTest, error) {
	ctx, cancel := context.WithTimeout(ctx, testTime)
	defer cancel()
	t := api.HostTest{Checks: []api.DoctorCheck{}}
	var known *hostRecord
	if p, err := e.endpoint(spec.Name); err == nil {
		known = &p.hostRecord
	}
	login, err := e.loginAs(spec, known)
	if err != nil {
		return t, err
	}
	host, info, err := e.dial(ctx, login)
	if err != nil {
		if ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return t, ctx.Err()
		}
		why := asPublic(err)
		if why.Code == api.CodeInvalid && why.Field != "" { // nobody was asked yet
			return t, why
		}
		t.Problem, t.Hint = why.Message, why.Hint
		return t, nil
	}
	t.Reachable, t.Identity, t.Product, t.Version = true, info.Identity, info.Product, info.Version
	t.Capabilities = capabilities(host)
	t.Checks = doctorChecks(ctx, host)
	if err := e.addable(spec.Name, info.Identity); err != nil {
		t.Problem, t.Hint = err.Message, err.Hint
	}
	if p := e.knownAs(info.Identity); p != nil {
		t.Known = p.Name
	}
	if err := host.Close(); err != nil {
		e.Log.Warn("close connection to host", "uri", spec.URI, "error", err)
	}
	return t, nil
}

// addable says why a host cannot be added; nil: it can.
func (e *Engine) addable(name, identity string) *api.Error {
	if _, err := e.endpoint(name); err == nil {
		return nameInUse(name)
	}
	if p := e.knownAs(identity); p != nil {
		return knownAlready(p)
	}
	return nil
}

func nameInUse(name string) *api.Error {
	return &api.Error{Code: api.CodeConflict, Field: "name", Message: fmt.Sprintf("there is a host %q already", name), Hint: "Choose another name."}
}

func knownAlready(p *endpoint) *api.Error {
	return &api.Error{Code: api.CodeConflict, Field: "uri", Message: fmt.Sprintf("this host is known already as %q", p.Name),
		Hint: "Use that one; two names for one host would let it become source and target at once."}
}

// knownAs finds the host of an identity, or nil.
func (e *Engine) knownAs(identity string) *endpoint {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, p := range e.hosts {
		if p.Identity == identity {
			return p
		}
	}
	return nil
}

func capabilities(host hypervisors.Host) api.Capabilities {
	c := host.Capabilities()
	return api.Capabilities{Source: c.Source, Target: c.Target, ChangeTracking: c.ChangeTracking, Quiesce: c.Quiesce,
		GroupMoment: c.GroupMoment, Compression: c.Compression, Convert: c.Convert, Isolation: c.Isolation, Guest: c.Guest, Screen: c.Screen, Missing: c.Missing}
}

func doctorChecks(ctx context.Context, host hypervisors.Host) []api.DoctorCheck {
	checks := []api.DoctorCheck{}
	for _, r := range hypervisortest.Doctor(ctx, host) {
		checks = append(checks, api.DoctorCheck{Name: r.Name, Result: string(r.Outcome), Message: r.Message})
	}
	return checks
}

// UpdateHost changes the name of a host, how it is reached and how many copies it takes. It stays the same host: another
// address must lead to the same identity. What is at work goes on over the connection that it has.
func (e *Engine) UpdateHost(ctx context.Context, ref string, revision int64, spec api.HostSpec) (api.Host, error) {
	p, err := e.endpoint(ref)
	if err != nil {
		return api.Host{}, err
	}
	var fresh hypervisors.Host
	if !p.reachedAs(spec) || !spec.Password.IsZero() {
		login, err := e.loginAs(spec, &p.hostRecord)
		if err != nil {
			return api.Host{}, err
		}
		if fresh, err = e.sameHost(ctx, p, login); err != nil {
			return api.Host{}, err
		}
	}
	next, old, err := e.replace(p.ID, revision, spec, fresh)
	if err != nil {
		if fresh != nil {
			err = errors.Join(err, fresh.Close())
		}
		return api.Host{}, err
	}
	if old != nil {
		e.retire(next.ID, old)
	}
	e.publish("host", "updated", next.ID, "", "host "+next.Name+" changed")
	return next.view(), nil
}

// sameHost connects to a host in another way.
func (e *Engine) sameHost(ctx context.Context, p *endpoint, login Login) (hypervisors.Host, error) {
	host, info, err := e.dial(ctx, login)
	if err != nil {
		return nil, refused(err, login)
	}
	if info.Identity != p.Identity {
		return nil, errors.Join(&api.Error{Code: api.CodeConflict, Field: "uri",
			Message: fmt.Sprintf("there is another host at this address (identity %s, not %s)", info.Identity, p.Identity),
			Hint:    "Add it as a host of its own."}, host.Close())
	}
	return host, nil
}

// replace puts an endpoint in the place of the one that a host has. The connection that is not used any more is old.
func (e *Engine) replace(id string, revision int64, spec api.HostSpec, fresh hypervisors.Host) (next *endpoint, old hypervisors.Host, err error) {
	p, err := e.current(id) // nobody connects meanwhile, and whoever waits to finds the next one
	if err != nil {
		return nil, nil, err
	}
	defer p.mu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.hosts[id] != p {
		return nil, nil, api.Errorf(api.CodeNotFound, "It was removed meanwhile.", "there is no host %q", id)
	}
	if p.Revision != revision {
		return nil, nil, stale("host "+p.Name, p.Revision, revision)
	}
	for _, other := range e.hosts {
		if other != p && (other.Name == spec.Name || other.ID == spec.Name) {
			return nil, nil, nameInUse(spec.Name)
		}
	}
	if fresh == nil && !p.reachedAs(spec) {
		return nil, nil, stale("host "+p.Name, p.Revision, revision) // it was changed while this was looked at
	}
	rec := p.hostRecord
	rec.HostSpec, rec.Revision = spec, revision+1
	forget, err := e.keepPassword(&rec)
	if err != nil {
		return nil, nil, err
	}
	next = e.newEndpoint(rec)
	next.starts, next.contact = p.starts, p.contact
	next.link.Store(p.link.Load())
	if rec.MaxJobs == p.MaxJobs {
		next.slots = p.slots
	}
	if fresh != nil {
		old = p.connected()
		next.link.Store(&link{host: fresh})
	}
	if err := e.Store.Put(bucketHosts, id, rec); err != nil {
		forget()
		return nil, nil, fmt.Errorf("record host %s: %w", rec.Name, err)
	}
	if rec.PasswordSince != p.PasswordSince {
		e.forgetPassword(&p.hostRecord)
	}
	e.hosts[id] = next
	p.replaced = true
	p.link.Store(&link{})
	return next, old, nil
}

// retired is a connection of a host that is reached in another way now. What was at work then still uses it.
type retired struct {
	connection hypervisors.Host
	host       string
}

func (e *Engine) retire(host string, connection hypervisors.Host) {
	e.mu.Lock()
	e.retired = append(e.retired, retired{connection, host})
	e.mu.Unlock()
	e.closeRetired()
}

// closeRetired closes the connections that nobody can be using any more: no job of their host is at work, and no clean-up
// is owed that remembers one.
func (e *Engine) closeRetired() {
	e.mu.Lock()
	waiting := slices.Clone(e.retired)
	e.mu.Unlock()
	for _, r := range waiting {
		if e.isUsed(r.host) {
			continue
		}
		e.mu.Lock()
		e.retired = slices.DeleteFunc(e.retired, func(other retired) bool { return other.connection == r.connection })
		e.mu.Unlock()
		if err := r.connection.Close(); err != nil {
			e.Log.Warn("close former connection to host", "host", e.hostName(r.host), "error", err)
		}
	}
}

func (e *Engine) isUsed(host string) bool {
	for _, g := range e.snapshotGroups() {
		if g.Home.Host != host && g.Away.Host != host {
			continue
		}
		e.mu.Lock()
		owes := len(e.owed[g.ID]) > 0
		e.mu.Unlock()
		if owes || e.working(g.ID) != "" {
			return true
		}
	}
	return false
}
