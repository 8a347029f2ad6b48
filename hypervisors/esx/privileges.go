package esx

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"understudy/hypervisors"
)

// role is what the account of the appliance must be allowed to, and nothing else: by what it is needed for.
var role = []struct {
	why        string
	privileges []string
}{
	{"protecting: freeze machines and tell what changed", []string{
		"VirtualMachine.State.CreateSnapshot", "VirtualMachine.State.RemoveSnapshot", "VirtualMachine.State.RenameSnapshot", "VirtualMachine.Config.ChangeTracking"}},
	{"reading and writing disks: attach them to the appliance's own machine, or read files of datastores", []string{
		"VirtualMachine.Config.AddExistingDisk", "VirtualMachine.Config.RemoveDisk", "Datastore.Browse", "Datastore.FileManagement"}},
	{"replicas: make machines that are off, change and remove them", []string{
		"VirtualMachine.Inventory.Create", "VirtualMachine.Inventory.Delete", "VirtualMachine.Config.AddNewDisk", "VirtualMachine.Config.DiskExtend",
		"VirtualMachine.Config.AddRemoveDevice", "VirtualMachine.Config.EditDevice", "VirtualMachine.Config.AdvancedConfig", "VirtualMachine.Config.Settings",
		"VirtualMachine.Config.CPUCount", "VirtualMachine.Config.Memory", "VirtualMachine.Config.Resource", "VirtualMachine.Config.Rename",
		"VirtualMachine.Config.Annotation", "VirtualMachine.State.RevertToSnapshot", "Datastore.AllocateSpace", "Network.Assign", "Resource.AssignVMToPool"}},
	{"failover and tests: start, look and stop; networks that lead nowhere", []string{
		"VirtualMachine.Interact.PowerOn", "VirtualMachine.Interact.PowerOff", "VirtualMachine.Interact.CreateScreenshot",
		"Host.Config.Network", "Host.Config.AutoStart"}},
}

// checkRole finds out what the account may not do, and lets nobody protect with half of it: each lack would show only in
// the middle of the work, or in the night of a failover.
func (h *host) checkRole(ctx context.Context) error {
	manager := h.client.ServiceContent.AuthorizationManager
	if manager == nil {
		return nil
	}
	var ids []string
	for _, part := range role {
		ids = append(ids, part.privileges...)
	}
	session, err := h.who(ctx)
	if err != nil {
		return err
	}
	res, err := methods.HasPrivilegeOnEntities(ctx, h.client, &types.HasPrivilegeOnEntities{This: *manager,
		Entity: []types.ManagedObjectReference{h.client.ServiceContent.RootFolder}, SessionId: session, PrivId: ids})
	if err != nil {
		return err
	}
	var missing []string
	for _, on := range res.Returnval {
		for _, p := range on.PrivAvailability {
			if !p.IsGranted {
				missing = append(missing, p.PrivId)
			}
		}
	}
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(missing)
	return &hypervisors.Error{Op: "use", Subject: h.addr.server, Err: fmt.Errorf("%w: the account lacks the privileges %s", hypervisors.ErrUnauthorized,
		strings.Join(slices.Compact(missing), ", ")), Hint: "Add them to the role of the account; the README lists all that are needed, and what for."}
}
