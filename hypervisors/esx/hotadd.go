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
	gone bool // it is detached; under appliance.mu
}

// attach attaches disks to our own machine, all in one order, and opens them.
func (h *host) attach(ctx context.Context, files []diskFile, how mode) (_ []*attached, err error) {
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
	var spec types.VirtualMachineConfigSpec
	var ids []string
	for n, f := range files {
		if h.own.open[f.uuid] || slices.Contains(ids, f.uuid) {
			return nil, fmt.Errorf("%w: %s is attached already", hypervisors.ErrBusy, f.file)
		}
		controller, unit, err := freePlace(devices)
		if err != nil {
			return nil, err
		}
		disk := &types.VirtualDisk{
			VirtualDevice: types.VirtualDevice{Key: -int32(n + 1), ControllerKey: controller, UnitNumber: &unit,
				Backing: &types.VirtualDiskFlatVer2BackingInfo{
					VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: f.file}, DiskMode: string(how)}},
		}
		devices, ids = append(devices, disk), append(ids, f.uuid)
		// The mark is made with the disk and goes with it: nothing is attached without one.
		spec.DeviceChange = append(spec.DeviceChange, &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationAdd, Device: disk})
		spec.ExtraConfig = append(spec.ExtraConfig, &types.OptionValue{Key: tagAttached + f.uuid, Value: h.owner})
	}
	if err := h.reconfigure(ctx, vm, "attach", files[0].file, spec); err != nil {
		return nil, err
	}
	if h.own.open == nil {
		h.own.open = map[string]bool{}
	}
	var all []*attached
	defer func() {
		if err != nil {
			for _, a := range all {
				_ = a.Close()
			}
			undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterwards)
			defer cancel()
			err = errors.Join(err, h.detach(undo, vm, ids))
		}
	}()
	for _, id := range ids {
		h.own.open[id] = true
	}
	for _, f := range files {
		d, err := h.openDevice(ctx, f, how == writing)
		if err != nil {
			return nil, err
		}
		all = append(all, &attached{device: d, host: h, uuid: f.uuid})
	}
	return all, nil
}

// detachAll closes disks and detaches them, all in one order. It can be called again after an error.
func (h *host) detachAll(ctx context.Context, all []*attached) error {
	h.own.mu.Lock()
	defer h.own.mu.Unlock()
	all = slices.DeleteFunc(slices.Clone(all), func(a *attached) bool { return a.gone })
	if len(all) == 0 {
		return nil
	}
	var ids []string
	for _, a := range all {
		if err := a.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			h.log.Warn("a disk is closed badly", "disk", a.uuid, "error", err)
		}
		ids = append(ids, a.uuid)
	}
	vm, err := h.ownMachine(ctx)
	if err != nil {
		return err
	}
	if err := h.detach(ctx, vm, ids); err != nil {
		return err
	}
	for _, a := range all {
		a.gone = true
	}
	return nil
}

// detachLeft detaches those of some disks that an earlier run of this appliance has left attached.
func (h *host) detachLeft(ctx context.Context, disks []string) error {
	h.own.mu.Lock()
	defer h.own.mu.Unlock()
	_, err := h.detachMarked(ctx, func(id string) bool { return slices.Contains(disks, id) })
	return err
}

// cleanAttached detaches all that earlier runs of this appliance have left.
func (h *host) cleanAttached(ctx context.Context) (removed []string, err error) {
	h.own.mu.Lock()
	defer h.own.mu.Unlock()
	ids, err := h.detachMarked(ctx, func(string) bool { return true })
	for _, id := range ids {
		removed = append(removed, "disk "+id+" at the appliance's own machine")
	}
	return removed, err
}

// detachMarked detaches the disks that carry the mark of this appliance and are in nobody's use.
func (h *host) detachMarked(ctx context.Context, which func(id string) bool) (ids []string, err error) {
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
		if id, marked := strings.CutPrefix(v.Key, tagAttached); marked && v.Value == h.owner && !h.own.open[id] && which(id) {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	return ids, h.detach(ctx, vm, ids)
}

// detach takes disks from our own machine and leaves their files. One that is not there is success.
func (h *host) detach(ctx context.Context, vm *object.VirtualMachine, ids []string) error {
	devices, err := vm.Device(ctx)
	if err != nil {
		return fault("look at", "the appliance's own machine", err)
	}
	var spec types.VirtualMachineConfigSpec
	for _, id := range ids {
		spec.ExtraConfig = append(spec.ExtraConfig, &types.OptionValue{Key: tagAttached + id, Value: ""})
	}
	for _, d := range devices.SelectByType((*types.VirtualDisk)(nil)) {
		if slices.ContainsFunc(ids, func(id string) bool { return sameUUID(diskUUID(d.(*types.VirtualDisk)), id) }) {
			spec.DeviceChange = append(spec.DeviceChange, &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationRemove, Device: d})
		}
	}
	if err := h.reconfigure(ctx, vm, "detach", "disks "+strings.Join(ids, ", "), spec); err != nil {
		return err
	}
	for _, id := range ids {
		delete(h.own.open, id)
		if err := h.waitGone(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

func (h *host) reconfigure(ctx context.Context, vm *object.VirtualMachine, op, subject string, spec types.VirtualMachineConfigSpec) error {
	t, err := vm.Reconfigure(ctx, spec)
	if err != nil {
		return fault(op, subject, err)
	}
	_, err = h.wait(ctx, op, subject, t)
	return err
}

// ownMachine finds the machine that we run in. ErrIncapable: it is none of this host.
func (h *host) ownMachine(ctx context.Context) (*object.VirtualMachine, error) {
	if h.own.vm != nil {
		return h.own.vm, nil
	}
	id := h.addr.appliance
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
	return filepath.Join(h.addr.devices, "wwn-0x"+strings.ToLower(strings.ReplaceAll(id, "-", "")))
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
