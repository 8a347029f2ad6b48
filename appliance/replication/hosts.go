package replication

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"understudy/api"
	"understudy/hypervisors"
)

// AddHost connects a hypervisor and remembers it.
func (e *Engine) AddHost(ctx context.Context, spec api.HostSpec) (api.Host, error) {
	if _, err := e.endpoint(spec.Name); err == nil {
		return api.Host{}, nameInUse(spec.Name)
	}
	login, err := e.loginAs(spec, nil)
	if err != nil {
		return api.Host{}, err
	}
	host, info, err := e.dial(ctx, login)
	if err != nil {
		return api.Host{}, refused(err, login)
	}
	p := e.newEndpoint(hostRecord{HostSpec: spec, ID: newID(), Revision: 1, Identity: info.Identity, Product: info.Product, Version: info.Version})
	p.link.Store(&link{host: host})
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
		if other.Name == p.Name {
			return nameInUse(p.Name)
		}
		if other.Identity == p.Identity {
			return knownAlready(other)
		}
	}
	forget, err := e.keepPassword(&p.hostRecord)
	if err != nil {
		return err
	}
	if err := e.Store.Put(bucketHosts, p.ID, p.hostRecord); err != nil {
		forget()
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
	if now, ok := e.hosts[p.ID]; ok { // it may have been edited meanwhile
		p = now
	}
	err = e.Store.Delete(bucketHosts, p.ID)
	if err == nil {
		delete(e.hosts, p.ID)
	}
	e.mu.Unlock()
	if err != nil {
		return err
	}
	e.forgetPassword(&p.hostRecord)
	if err := e.forgetHostAlerts(p); err != nil {
		e.Log.Warn("alerts of a host that was removed stay until the next start", "host", p.Name, "error", err)
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
	protected := e.protected(p.ID)
	for _, vm := range vms {
		m := machineView(vm)
		m.Protected = protected[vm.ID]
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
		m.Disks = append(m.Disks, api.Disk{ID: d.ID, Size: d.Size, Bus: d.Bus, Format: d.Format, Path: d.Path, Boot: d.Boot, Excluded: d.Excluded})
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
	return api.DoctorReport{Host: p.Name, Checks: doctorChecks(ctx, host)}, nil
}
