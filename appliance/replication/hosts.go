package replication

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"understudy/api"
	"understudy/hypervisors"
	"understudy/hypervisors/hypervisortest"
)

// connectTimeout bounds how long a host may take to answer when somebody waits for it.
const connectTimeout = 30 * time.Second

// hostRecord is a host as the state database keeps it.
type hostRecord struct {
	api.HostSpec
	ID       string
	Identity string
	Product  string
	Version  string
}

// endpoint is a host of this engine: its record, and its connection while there is one.
type endpoint struct {
	hostRecord
	slots *semaphore.Weighted // copies at once

	mu      sync.Mutex // held while connecting
	host    hypervisors.Host
	problem string
}

func newEndpoint(rec hostRecord) *endpoint {
	return &endpoint{hostRecord: rec, slots: semaphore.NewWeighted(int64(cmp.Or(rec.MaxJobs, 4)))}
}

func (p *endpoint) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.host == nil {
		return nil
	}
	err := p.host.Close()
	p.host = nil
	return err
}

// connected gives the connection if there is one, without trying.
func (p *endpoint) connected() hypervisors.Host {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.host
}

func (p *endpoint) view() api.Host {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := api.Host{HostSpec: p.HostSpec, ID: p.ID, Identity: p.Identity, Product: p.Product, Version: p.Version,
		Connected: p.host != nil, Problem: p.problem}
	if p.host != nil {
		c := p.host.Capabilities()
		h.Capabilities = api.Capabilities{Source: c.Source, Target: c.Target, ChangeTracking: c.ChangeTracking, Quiesce: c.Quiesce,
			GroupMoment: c.GroupMoment, Isolation: c.Isolation, Guest: c.Guest, Missing: c.Missing}
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
			e.open(ctx, p)
		})
	}
	wg.Wait()
	for _, p := range e.hosts {
		p.mu.Lock()
		if p.host != nil {
			e.clean(ctx, p)
		}
		p.mu.Unlock()
	}
}

// host gives the connection to a host, connecting and cleaning it when there is none.
func (e *Engine) host(ctx context.Context, id string) (hypervisors.Host, error) {
	p, err := e.endpoint(id)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.host != nil {
		return p.host, nil
	}
	if err := e.open(ctx, p); err != nil {
		return nil, err
	}
	e.clean(ctx, p)
	return p.host, nil
}

// open connects p, whose mutex is held, and makes sure that the host is still the one that was added.
func (e *Engine) open(ctx context.Context, p *endpoint) error {
	host, info, err := e.dial(ctx, p.URI)
	if err == nil && info.Identity != p.Identity {
		err = errors.Join(fmt.Errorf("host %s is another one than was added (identity %s, not %s)", p.Name, info.Identity, p.Identity), host.Close())
	}
	if err != nil {
		p.problem = err.Error()
		return err
	}
	p.host, p.problem = host, ""
	return nil
}

func (e *Engine) dial(ctx context.Context, uri string) (hypervisors.Host, hypervisors.Info, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	host, err := e.Connect(ctx, uri, e.owner)
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
	removed, err := p.host.Clean(ctx, e.keep(ctx, p))
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
	target, ok := p.host.(hypervisors.Target)
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

// AddHost connects a hypervisor and remembers it.
func (e *Engine) AddHost(ctx context.Context, spec api.HostSpec) (api.Host, error) {
	if _, err := e.endpoint(spec.Name); err == nil {
		return api.Host{}, &api.Error{Code: api.CodeConflict, Field: "name", Message: fmt.Sprintf("there is a host %q already", spec.Name), Hint: "Choose another name."}
	}
	host, info, err := e.dial(ctx, spec.URI)
	if err != nil {
		return api.Host{}, public(err)
	}
	p := newEndpoint(hostRecord{HostSpec: spec, ID: newID(), Identity: info.Identity, Product: info.Product, Version: info.Version})
	p.host = host
	if err := e.register(p); err != nil {
		return api.Host{}, errors.Join(err, host.Close())
	}
	p.mu.Lock()
	e.clean(ctx, p)
	p.mu.Unlock()
	e.publish("host", "created", p.ID, "", "host "+p.Name+" added")
	return p.view(), nil
}

func (e *Engine) register(p *endpoint) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, other := range e.hosts {
		if other.Identity == p.Identity {
			return &api.Error{Code: api.CodeConflict, Field: "uri", Message: fmt.Sprintf("this host is known already as %q", other.Name),
				Hint: "Use that one; two names for one host would let it become source and target at once."}
		}
	}
	if err := e.Store.Put(bucketHosts, p.ID, p.hostRecord); err != nil {
		return err
	}
	e.hosts[p.ID] = p
	return nil
}

// ListHosts gives all hosts by name.
func (e *Engine) ListHosts(context.Context) ([]api.Host, error) {
	e.mu.Lock()
	all := make([]*endpoint, 0, len(e.hosts))
	for _, p := range e.hosts {
		all = append(all, p)
	}
	e.mu.Unlock()
	out := make([]api.Host, 0, len(all))
	for _, p := range all {
		out = append(out, p.view())
	}
	slices.SortFunc(out, func(a, b api.Host) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// GetHost gives one host by id or name.
func (e *Engine) GetHost(_ context.Context, ref string) (api.Host, error) {
	p, err := e.endpoint(ref)
	if err != nil {
		return api.Host{}, err
	}
	return p.view(), nil
}

// RemoveHost forgets a host that no group uses.
func (e *Engine) RemoveHost(_ context.Context, ref string) error {
	p, err := e.endpoint(ref)
	if err != nil {
		return err
	}
	e.mu.Lock()
	for _, g := range e.groups {
		if g.Home.Host == p.ID || g.Away.Host == p.ID {
			e.mu.Unlock()
			return api.Errorf(api.CodeInUse, "Remove the group first.", "host %s is used by group %s", p.Name, g.Spec.Name)
		}
	}
	err = e.Store.Delete(bucketHosts, p.ID)
	if err == nil {
		delete(e.hosts, p.ID)
	}
	e.mu.Unlock()
	if err != nil {
		return err
	}
	e.publish("host", "deleted", p.ID, "", "host "+p.Name+" removed")
	return p.close()
}

// Inventory asks the host itself.
func (e *Engine) Inventory(ctx context.Context, ref string) (api.Inventory, error) {
	p, err := e.endpoint(ref)
	if err != nil {
		return api.Inventory{}, err
	}
	host, err := e.host(ctx, p.ID)
	if err != nil {
		return api.Inventory{}, public(err)
	}
	vms, err := host.VMs(ctx)
	if err != nil {
		return api.Inventory{}, public(err)
	}
	networks, err := host.Networks(ctx)
	if err != nil {
		return api.Inventory{}, public(err)
	}
	storage, err := host.Storage(ctx)
	if err != nil {
		return api.Inventory{}, public(err)
	}
	inv := api.Inventory{Machines: []api.Machine{}, Networks: []api.Network{}, Storage: []api.Storage{}}
	for _, vm := range vms {
		m := machineView(vm)
		m.Protected = e.protectedBy(p.ID, vm.ID)
		inv.Machines = append(inv.Machines, m)
	}
	for _, n := range networks {
		inv.Networks = append(inv.Networks, api.Network(n))
	}
	for _, s := range storage {
		inv.Storage = append(inv.Storage, api.Storage(s))
	}
	return inv, nil
}

func machineView(vm hypervisors.VM) api.Machine {
	hw := vm.Hardware
	m := api.Machine{ID: vm.ID, Name: hw.Name, State: string(vm.State), CPUs: hw.CPUs, Memory: hw.Memory, Firmware: string(hw.Firmware),
		Replica: vm.Replica != "", GuestAgent: hw.GuestAgent, Warnings: vm.Warnings, Disks: []api.Disk{}, NICs: []api.NIC{}}
	for _, d := range hw.Disks {
		m.Disks = append(m.Disks, api.Disk{ID: d.ID, Size: d.Size, Bus: d.Bus, Format: d.Format, Path: d.Path, Excluded: d.Excluded})
	}
	for _, n := range hw.NICs {
		m.NICs = append(m.NICs, api.NIC(n))
	}
	return m
}

// Doctor runs the conformance checks that only read.
func (e *Engine) Doctor(ctx context.Context, ref string) (api.DoctorReport, error) {
	p, err := e.endpoint(ref)
	if err != nil {
		return api.DoctorReport{}, err
	}
	host, err := e.host(ctx, p.ID)
	if err != nil {
		return api.DoctorReport{}, public(err)
	}
	report := api.DoctorReport{Host: p.Name, Checks: []api.DoctorCheck{}}
	for _, r := range hypervisortest.Doctor(ctx, host) {
		report.Checks = append(report.Checks, api.DoctorCheck{Name: r.Name, Result: string(r.Outcome), Message: r.Message})
	}
	return report, nil
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
