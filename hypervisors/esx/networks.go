package esx

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	faults "github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"understudy/hypervisors"
)

// isolatedPorts is how many ports a switch for tests asks for; ESX makes more as they are needed.
const isolatedPorts = 128

// networkNames gives the names of distributed port groups and opaque networks by what machines call them.
func (h *host) networkNames(ctx context.Context) (map[string]string, error) {
	names := map[string]string{}
	if !h.client.IsVC() {
		return names, nil // both need a vCenter
	}
	var groups []mo.DistributedVirtualPortgroup
	if err := h.collect(ctx, "DistributedVirtualPortgroup", []string{"name", "key"}, &groups); err != nil {
		return nil, fault("list networks of", h.addr.server, err)
	}
	for _, g := range groups {
		names[g.Key] = g.Name
	}
	var opaque []mo.OpaqueNetwork
	if err := h.collect(ctx, "OpaqueNetwork", []string{"name", "summary"}, &opaque); err != nil {
		return nil, fault("list networks of", h.addr.server, err)
	}
	for _, o := range opaque {
		if s, ok := o.Summary.(*types.OpaqueNetworkSummary); ok {
			names[s.OpaqueNetworkId] = o.Name
		}
	}
	return names, nil
}

// Networks lists what NICs can be connected to, by name.
func (h *host) Networks(ctx context.Context) ([]hypervisors.Network, error) {
	var all []mo.Network
	if err := h.collect(ctx, "Network", []string{"name"}, &all); err != nil {
		return nil, fault("list networks of", h.addr.server, err)
	}
	hosts, err := h.switches(ctx)
	if err != nil {
		return nil, fault("list networks of", h.addr.server, err)
	}
	var networks []hypervisors.Network
	for _, n := range all {
		if slices.ContainsFunc(networks, func(o hypervisors.Network) bool { return o.Name == n.Name }) {
			continue // one of another host
		}
		networks = append(networks, describe(n, hosts))
	}
	slices.SortFunc(networks, func(a, b hypervisors.Network) int { return cmp.Compare(a.Name, b.Name) })
	return networks, nil
}

// describe says of a network whether it leads anywhere.
func describe(n mo.Network, hosts []*switches) hypervisors.Network {
	out := hypervisors.Network{Name: n.Name, Kind: "port group"}
	switch n.Self.Type {
	case "DistributedVirtualPortgroup":
		out.Kind = "distributed port group"
		return out
	case "OpaqueNetwork":
		out.Kind = "opaque network"
		return out
	}
	found := 0
	for _, esx := range hosts {
		s := esx.of(n.Name)
		if s == nil {
			continue
		}
		out.Kind = "port group on " + s.Name
		if found++; esx.leads(s) != "" {
			return out
		}
	}
	if out.Isolated = found > 0; out.Isolated {
		out.Kind += ", isolated"
	}
	return out
}

// switches are the networks of one ESX host.
type switches struct {
	name   string // of the host
	system *object.HostNetworkSystem
	types.HostNetworkInfo
}

// switches of all ESX hosts that are connected.
func (h *host) switches(ctx context.Context) ([]*switches, error) {
	hosts, err := h.hosts(ctx, "name", "configManager.networkSystem")
	if err != nil {
		return nil, err
	}
	var all []*switches
	for _, esx := range hosts {
		ref := esx.ConfigManager.NetworkSystem
		if ref == nil {
			continue
		}
		var m mo.HostNetworkSystem
		if err := property.DefaultCollector(h.client).RetrieveOne(ctx, *ref, []string{"networkInfo"}, &m); err != nil {
			return nil, err
		}
		if m.NetworkInfo != nil {
			all = append(all, &switches{esx.Name, object.NewHostNetworkSystem(h.client, *ref), *m.NetworkInfo})
		}
	}
	return all, nil
}

// home are the networks of the ESX host that machines and networks are made on.
func (h *host) home(ctx context.Context) (*switches, error) {
	all, err := h.switches(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, esx := range all {
		if esx.name == h.addr.host || h.addr.host == "" && len(all) == 1 {
			return esx, nil
		}
		names = append(names, esx.name)
	}
	return nil, h.noHome(names)
}

// of finds the virtual switch that a port group is on.
func (s *switches) of(group string) *types.HostVirtualSwitch {
	for _, g := range s.Portgroup {
		if g.Spec.Name != group {
			continue
		}
		for i := range s.Vswitch {
			if s.Vswitch[i].Name == g.Spec.VswitchName {
				return &s.Vswitch[i]
			}
		}
	}
	return nil
}

// leads says where a virtual switch leads; empty: nowhere.
func (s *switches) leads(v *types.HostVirtualSwitch) string {
	if len(v.Pnic) > 0 {
		return "an uplink"
	}
	for _, nic := range s.Vnic {
		if on := s.of(nic.Portgroup); on != nil && on.Name == v.Name {
			return "the host itself, by " + nic.Device
		}
	}
	return ""
}

// bubble is the switch of an isolated network: it cannot carry a mark, so its name is one. 31 characters at most.
func (h *host) bubble(network string) string {
	sum := sha256.Sum256([]byte(network))
	return h.ours() + hex.EncodeToString(sum[:4])
}

// IsolatedNetwork makes a virtual switch without an uplink, with one port group.
func (h *host) IsolatedNetwork(ctx context.Context, name string) error {
	err := h.isolatedNetwork(ctx, name)
	return fault("make", "network "+name, err)
}

func (h *host) isolatedNetwork(ctx context.Context, name string) error {
	esx, err := h.home(ctx)
	if err != nil {
		return err
	}
	bubble := h.bubble(name)
	switch s := esx.of(name); {
	case s == nil:
	case s.Name == bubble:
		return nil
	default:
		return fmt.Errorf("%w: it is on %s", hypervisors.ErrNameTaken, s.Name)
	}
	if err := esx.system.AddVirtualSwitch(ctx, bubble, &types.HostVirtualSwitchSpec{NumPorts: isolatedPorts}); err != nil && !isTaken(err) {
		return err
	}
	if err := esx.system.AddPortGroup(ctx, types.HostPortGroupSpec{Name: name, VswitchName: bubble}); err != nil && !isTaken(err) {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), dialPatience)
		defer cancel()
		return errors.Join(err, esx.system.RemoveVirtualSwitch(undo, bubble))
	}
	return nil
}

func isTaken(err error) bool {
	return faults.Is(err, &types.AlreadyExists{}) || faults.Is(err, &types.DuplicateName{})
}

// AssertIsolated looks at the switch and at every machine on it.
func (h *host) AssertIsolated(ctx context.Context, name string) error {
	err := h.assertIsolated(ctx, name)
	return fault("check", "network "+name, err)
}

func (h *host) assertIsolated(ctx context.Context, name string) error {
	hosts, err := h.switches(ctx)
	if err != nil {
		return err
	}
	found := false
	for _, esx := range hosts {
		s := esx.of(name)
		if s == nil {
			continue
		}
		found = true
		if to := esx.leads(s); to != "" {
			return fmt.Errorf("%w: switch %s of host %s leads to %s", hypervisors.ErrNotIsolated, s.Name, esx.name, to)
		}
	}
	if !found {
		return fmt.Errorf("%w: no switch has it", hypervisors.ErrNotFound)
	}
	users, err := h.usersOf(ctx, name)
	if err != nil {
		return err
	}
	for _, m := range users {
		if m.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOff {
			continue
		}
		if tag(m.Config, tagOwner) != h.owner || tag(m.Config, tagRun) == "" || tag(m.Config, tagRun) == hypervisors.LiveRun {
			return fmt.Errorf("%w: machine %s is connected to it", hypervisors.ErrNotIsolated, m.Name)
		}
	}
	return nil
}

// usersOf are the machines that have a NIC in a network, running or off.
func (h *host) usersOf(ctx context.Context, network string) ([]mo.VirtualMachine, error) {
	all, err := h.machines(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(m mo.VirtualMachine) bool {
		hw, _ := hardware(m.Config, nil)
		return !slices.ContainsFunc(hw.NICs, func(n hypervisors.NIC) bool { return n.Network == network })
	}), nil
}

// RemoveNetwork removes an isolated network and its switch.
func (h *host) RemoveNetwork(ctx context.Context, name string) error {
	err := h.removeNetwork(ctx, name)
	return fault("remove", "network "+name, err)
}

func (h *host) removeNetwork(ctx context.Context, name string) error {
	esx, err := h.home(ctx)
	if err != nil {
		return err
	}
	bubble := h.bubble(name)
	if s := esx.of(name); s != nil && s.Name != bubble {
		return fmt.Errorf("%w: it is on %s", hypervisors.ErrForeign, s.Name)
	}
	// ESX would take the network from machines that are off.
	for _, remove := range []func() error{
		func() error { return esx.system.RemovePortGroup(ctx, name) },
		func() error { return esx.system.RemoveVirtualSwitch(ctx, bubble) },
	} {
		if err := remove(); err != nil && !faults.Is(err, &types.NotFound{}) {
			return err
		}
	}
	return nil
}

// cleanNetworks removes the isolated networks of this appliance that are not wanted.
func (h *host) cleanNetworks(ctx context.Context, keep []string) (removed []string, err error) {
	esx, err := h.home(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range esx.Vswitch {
		if !strings.HasPrefix(s.Name, h.ours()) {
			continue
		}
		wanted := false
		for _, g := range esx.Portgroup {
			if g.Spec.VswitchName != s.Name {
				continue
			}
			users, err := h.usersOf(ctx, g.Spec.Name)
			if err != nil {
				return removed, err
			}
			if slices.Contains(keep, g.Spec.Name) || len(users) > 0 {
				wanted = true
				continue
			}
			if err := esx.system.RemovePortGroup(ctx, g.Spec.Name); err != nil {
				return removed, fault("remove", "network "+g.Spec.Name, err)
			}
			removed = append(removed, "network "+g.Spec.Name)
		}
		if wanted {
			continue
		}
		if err := esx.system.RemoveVirtualSwitch(ctx, s.Name); err != nil {
			return removed, fault("remove", "switch "+s.Name, err)
		}
		removed = append(removed, "switch "+s.Name)
	}
	return removed, nil
}
