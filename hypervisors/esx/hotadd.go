package esx

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"understudy/hypervisors"
)

const (
	defaultDevices = "/dev/disk/by-id"
	dmiUUID        = "/sys/class/dmi/id/product_uuid"
	// tagAttached begins the marks that the appliance's machine has for each disk that we attached: by its UUID, the owner.
	tagAttached = "understudy.attached."
	// ownUnit of a SCSI controller is its own.
	ownUnit, unitsPerController = 7, 16
)

// mode of attaching.
type mode string

const (
	// reading: the disk is one that others rely on, and what would be written is thrown away.
	reading = mode(types.VirtualDiskModeIndependent_nonpersistent)
	// writing: the disk is ours alone.
	writing = mode(types.VirtualDiskModePersistent)
)

// appliance is the machine that we run in, as far as it is one of this host.
type appliance struct {
	mu   sync.Mutex // one change at a time
	vm   *object.VirtualMachine
	open map[string]bool // disks that are attached and in use, by UUID
}

// attached is a disk at our own machine, open.
type attached struct {
	*device
	host *host
	uuid string
}

// attach attaches a disk to our own machine and opens it.
func (h *host) attach(ctx context.Context, i diskFile, how mode) (_ *attached, err error) {
	h.own.mu.Lock()
	defer h.own.mu.Unlock()
	vm, err := h.ownMachine(ctx)
	if err != nil {
		return nil, err
	}
	devices, err := vm.Device(ctx)
	if err != nil {
		return nil, fault("look at", "the appliance's own machine", err)
	}
	controller, unit, err := freePlace(devices)
	if err != nil {
		return nil, err
	}
	disk := &types.VirtualDisk{
		VirtualDevice: types.VirtualDevice{Key: -1, ControllerKey: controller, UnitNumber: &unit,
			Backing: &types.VirtualDiskFlatVer2BackingInfo{
				VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: i.file}, DiskMode: string(how)}},
	}
	// The mark is made with the disk and goes with it: nothing is attached without one.
	spec := types.VirtualMachineConfigSpec{
		DeviceChange: []types.BaseVirtualDeviceConfigSpec{&types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationAdd, Device: disk}},
		ExtraConfig:  []types.BaseOptionValue{&types.OptionValue{Key: tagAttached + i.uuid, Value: h.owner}},
	}
	if err := h.reconfigure(ctx, vm, "attach", i.file, spec); err != nil {
		return nil, err
	}
	if h.own.open == nil {
		h.own.open = map[string]bool{}
	}
	h.own.open[i.uuid] = true
	a := &attached{host: h, uuid: i.uuid}
	defer func() {
		if err != nil {
			undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterwards)
			defer cancel()
			err = errors.Join(err, h.detach(undo, vm, i.uuid))
		}
	}()
	a.device, err = h.openDevice(ctx, i, how == writing)
	return a, err
}

// close detaches the disk. It can be called again after an error.
func (a *attached) close(ctx context.Context) error {
	if err := a.device.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		a.host.log.Warn("a disk is closed badly", "disk", a.uuid, "error", err)
	}
	a.host.own.mu.Lock()
	defer a.host.own.mu.Unlock()
	vm, err := a.host.ownMachine(ctx)
	if err != nil {
		return err
	}
	return a.host.detach(ctx, vm, a.uuid)
}

// detach takes a disk from our own machine and leaves its files. One that is not there is success.
func (h *host) detach(ctx context.Context, vm *object.VirtualMachine, id string) error {
	devices, err := vm.Device(ctx)
	if err != nil {
		return fault("look at", "the appliance's own machine", err)
	}
	spec := types.VirtualMachineConfigSpec{ExtraConfig: []types.BaseOptionValue{&types.OptionValue{Key: tagAttached + id, Value: ""}}}
	for _, d := range devices {
		if disk, ok := d.(*types.VirtualDisk); ok && sameUUID(diskUUID(disk), id) {
			spec.DeviceChange = append(spec.DeviceChange, &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationRemove, Device: disk})
		}
	}
	if err := h.reconfigure(ctx, vm, "detach", "disk "+id, spec); err != nil {
		return err
	}
	delete(h.own.open, id)
	return h.waitGone(ctx, id)
}

func (h *host) reconfigure(ctx context.Context, vm *object.VirtualMachine, op, subject string, spec types.VirtualMachineConfigSpec) error {
	t, err := vm.Reconfigure(ctx, spec)
	if err != nil {
		return fault(op, subject, err)
	}
	_, err = h.wait(ctx, op, subject, t)
	return err
}

// cleanAttached detaches what earlier runs of this appliance have left at its machine.
func (h *host) cleanAttached(ctx context.Context) (removed []string, err error) {
	h.own.mu.Lock()
	defer h.own.mu.Unlock()
	vm, err := h.ownMachine(ctx)
	if errors.Is(err, hypervisors.ErrIncapable) {
		return nil, nil // nothing is ever attached
	}
	if err != nil {
		return nil, err
	}
	var m mo.VirtualMachine
	if err := property.DefaultCollector(h.client).RetrieveOne(ctx, vm.Reference(), []string{"config.extraConfig"}, &m); err != nil {
		return nil, fault("look at", "the appliance's own machine", err)
	}
	for _, o := range m.Config.ExtraConfig {
		v := o.GetOptionValue()
		id, ours := strings.CutPrefix(v.Key, tagAttached)
		if !ours || v.Value != h.owner || h.own.open[id] {
			continue
		}
		if err := h.detach(ctx, vm, id); err != nil {
			return removed, err
		}
		removed = append(removed, "disk "+id+" at the appliance's own machine")
	}
	return removed, nil
}

// ownMachine finds the machine that we run in. ErrIncapable: it is none of this host.
func (h *host) ownMachine(ctx context.Context) (*object.VirtualMachine, error) {
	if h.own.vm != nil {
		return h.own.vm, nil
	}
	id := h.appliance
	if id == "" {
		text, err := os.ReadFile(dmiUUID)
		if err != nil {
			return nil, fmt.Errorf("%w: the appliance does not know its own machine: %w", hypervisors.ErrIncapable, err)
		}
		id = strings.TrimSpace(string(text))
	}
	bios := false
	for _, id := range []string{id, swapped(id)} { // newer hardware shows the first three parts in the other byte order
		found, err := object.NewSearchIndex(h.client).FindByUuid(ctx, nil, strings.ToLower(id), true, &bios)
		if err != nil {
			return nil, fault("find", "the appliance's own machine", err)
		}
		if found != nil {
			h.own.vm = object.NewVirtualMachine(h.client, found.Reference())
			return h.own.vm, nil
		}
	}
	return nil, fmt.Errorf("%w: the appliance is no machine of this host", hypervisors.ErrIncapable)
}

// swapped is a UUID with its first three parts in the other byte order.
func swapped(id string) string {
	u, err := uuid.Parse(id)
	if err != nil {
		return id
	}
	slices.Reverse(u[0:4])
	slices.Reverse(u[4:6])
	slices.Reverse(u[6:8])
	return u.String()
}

// freePlace finds a place on a paravirtual SCSI controller, on the last one first: the first has the appliance's own disks.
func freePlace(devices object.VirtualDeviceList) (controller, unit int32, err error) {
	all := devices.SelectByType((*types.ParaVirtualSCSIController)(nil))
	slices.Reverse(all)
	for _, c := range all {
		key := c.GetVirtualDevice().Key
		taken := map[int32]bool{ownUnit: true}
		for _, d := range devices {
			if v := d.GetVirtualDevice(); v.ControllerKey == key && v.UnitNumber != nil {
				taken[*v.UnitNumber] = true
			}
		}
		for unit := range int32(unitsPerController) {
			if !taken[unit] {
				return key, unit, nil
			}
		}
	}
	return 0, 0, &hypervisors.Error{Op: "attach a disk to", Subject: "the appliance's own machine",
		Err:  fmt.Errorf("%w: %d paravirtual SCSI controllers, none with a free place", hypervisors.ErrInUse, len(all)),
		Hint: "Turn the appliance off and add paravirtual SCSI controllers to its machine; each takes 15 disks."}
}

// devicePath is where a disk at our own machine appears.
func (h *host) devicePath(id string) string {
	return filepath.Join(h.devices, "wwn-0x"+strings.ToLower(strings.ReplaceAll(id, "-", "")))
}

// diskUUID of a disk; empty: it has none.
func diskUUID(d *types.VirtualDisk) string {
	switch b := d.Backing.(type) {
	case *types.VirtualDiskFlatVer2BackingInfo:
		return b.Uuid
	case *types.VirtualDiskSeSparseBackingInfo:
		return b.Uuid
	case *types.VirtualDiskSparseVer2BackingInfo:
		return b.Uuid
	case *types.VirtualDiskRawDiskMappingVer1BackingInfo:
		return b.Uuid
	}
	return ""
}

// sameUUID compares what is written with and without dashes.
func sameUUID(a, b string) bool {
	plain := func(s string) string { return strings.ToLower(strings.ReplaceAll(s, "-", "")) }
	x, err := hex.DecodeString(plain(a))
	return err == nil && len(x) == 16 && plain(a) == plain(b)
}
