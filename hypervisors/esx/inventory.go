package esx

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	faults "github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/view"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"understudy/hypervisors"
)

// machineProperties are what an answer about a machine is made of.
var machineProperties = []string{"name", "config", "runtime", "guest.toolsRunningStatus", "snapshot"}

// collect reads properties of all objects of a kind, wherever in the inventory they are.
func (h *host) collect(ctx context.Context, kind string, properties []string, into any) error {
	v, err := view.NewManager(h.client).CreateContainerView(ctx, h.client.ServiceContent.RootFolder, []string{kind}, true)
	if err != nil {
		return err
	}
	defer func() { _ = v.Destroy(context.WithoutCancel(ctx)) }() // it ends with the session otherwise
	return v.Retrieve(ctx, []string{kind}, properties, into)
}

// VMs lists the machines.
func (h *host) VMs(ctx context.Context) ([]hypervisors.VM, error) {
	all, err := h.machines(ctx)
	if err != nil {
		return nil, err
	}
	seen, err := h.surroundings(ctx, all...)
	if err != nil {
		return nil, err
	}
	vms := make([]hypervisors.VM, 0, len(all))
	for i := range all {
		vms = append(vms, seen.show(&all[i]))
	}
	slices.SortFunc(vms, func(a, b hypervisors.VM) int {
		return cmp.Or(cmp.Compare(a.Hardware.Name, b.Hardware.Name), cmp.Compare(a.ID, b.ID))
	})
	return vms, nil
}

// machines of the host. Those that it only knows the name of, for their files cannot be read, are left out, and so are
// templates, which never run.
func (h *host) machines(ctx context.Context) ([]mo.VirtualMachine, error) {
	var all []mo.VirtualMachine
	if err := h.collect(ctx, "VirtualMachine", machineProperties, &all); err != nil {
		return nil, fault("list machines of", h.addr.server, err)
	}
	return slices.DeleteFunc(all, func(m mo.VirtualMachine) bool { return m.Config == nil || m.Config.Template }), nil
}

// VM finds a machine.
func (h *host) VM(ctx context.Context, id string) (hypervisors.VM, error) {
	_, m, err := h.machine(ctx, id)
	if err != nil {
		return hypervisors.VM{}, err
	}
	seen, err := h.surroundings(ctx, m)
	if err != nil {
		return hypervisors.VM{}, err
	}
	return seen.show(&m), nil
}

// machine finds a machine by its id, for calls and with [machineProperties].
func (h *host) machine(ctx context.Context, id string) (*object.VirtualMachine, mo.VirtualMachine, error) {
	var m mo.VirtualMachine
	subject := "machine " + id
	instance := true
	found, err := object.NewSearchIndex(h.client).FindByUuid(ctx, nil, id, true, &instance)
	if err != nil {
		return nil, m, fault("find", subject, err)
	}
	if found == nil {
		return nil, m, noMachine(id)
	}
	vm := object.NewVirtualMachine(h.client, found.Reference())
	err = property.DefaultCollector(h.client).RetrieveOne(ctx, vm.Reference(), machineProperties, &m)
	switch {
	case faults.Is(err, &types.ManagedObjectNotFound{}):
		return nil, m, noMachine(id)
	case err != nil:
		return nil, m, fault("look at", subject, err)
	case m.Config == nil:
		return nil, m, &hypervisors.Error{Op: "look at", Subject: subject, Err: fmt.Errorf("%w: its files cannot be read", hypervisors.ErrUnreachable),
			Hint: "Look whether its datastore is there."}
	}
	return vm, m, nil
}

func noMachine(id string) error {
	return &hypervisors.Error{Op: "find", Subject: "machine " + id, Err: hypervisors.ErrNotFound}
}

// surroundings are what must be known to tell of machines, beside the machines.
type surroundings struct {
	networks map[string]string
	starts   map[types.ManagedObjectReference]bool
}

func (h *host) surroundings(ctx context.Context, machines ...mo.VirtualMachine) (*surroundings, error) {
	names, err := h.networkNames(ctx)
	if err != nil {
		return nil, err
	}
	seen := &surroundings{names, map[types.ManagedObjectReference]bool{}}
	asked := map[types.ManagedObjectReference]bool{}
	for _, m := range machines {
		at := m.Runtime.Host
		if at == nil || asked[*at] {
			continue
		}
		asked[*at] = true
		manager, err := h.autoStart(ctx, *at)
		if err != nil {
			return nil, fault("look at", h.addr.server, err)
		}
		maps.Copy(seen.starts, starts(manager))
	}
	return seen, nil
}

func (s *surroundings) show(m *mo.VirtualMachine) hypervisors.VM {
	hw, warnings := hardware(m.Config, s.networks)
	return hypervisors.VM{ID: m.Config.InstanceUuid, State: powerState(m.Runtime.PowerState), Hardware: hw, Replica: tag(m.Config, tagReplica),
		Autostart: s.starts[m.Self], Warnings: warnings}
}

func powerState(s types.VirtualMachinePowerState) hypervisors.PowerState {
	switch s {
	case types.VirtualMachinePowerStatePoweredOn:
		return hypervisors.Running
	case types.VirtualMachinePowerStateSuspended:
		return hypervisors.Paused
	}
	return hypervisors.Off
}

// Storage lists the datastores that can be used now. The roomiest is the default.
func (h *host) Storage(ctx context.Context) ([]hypervisors.Storage, error) {
	var all []mo.Datastore
	if err := h.collect(ctx, "Datastore", []string{"summary"}, &all); err != nil {
		return nil, fault("list datastores of", h.addr.server, err)
	}
	stores := make([]hypervisors.Storage, 0, len(all))
	roomiest := -1
	for _, d := range all {
		s := d.Summary
		if !s.Accessible || s.Capacity <= 0 || s.MaintenanceMode != "" && s.MaintenanceMode != string(types.DatastoreSummaryMaintenanceModeStateNormal) {
			continue
		}
		if stores = append(stores, hypervisors.Storage{Name: s.Name, Path: s.Url, Free: min(s.FreeSpace, s.Capacity), Total: s.Capacity}); roomiest < 0 || s.FreeSpace > stores[roomiest].Free {
			roomiest = len(stores) - 1
		}
	}
	if roomiest >= 0 {
		stores[roomiest].Default = true
	}
	slices.SortFunc(stores, func(a, b hypervisors.Storage) int { return cmp.Compare(a.Name, b.Name) })
	return stores, nil
}

// parent gives what something is in, and its own name.
func (h *host) parent(ctx context.Context, of types.ManagedObjectReference) (*types.ManagedObjectReference, string, error) {
	var e mo.ManagedEntity
	err := property.DefaultCollector(h.client).RetrieveOne(ctx, of, []string{"parent", "name"}, &e)
	return e.Parent, e.Name, err
}

// noHome: nobody said which of several ESX hosts is meant.
func (h *host) noHome(names []string) error {
	return &hypervisors.Error{Op: "choose", Subject: "an ESX host of " + h.addr.server,
		Err:  fmt.Errorf("%w: there is no %q among %s", hypervisors.ErrInvalid, h.addr.host, strings.Join(names, ", ")),
		Hint: "Put host=NAME into the address."}
}
