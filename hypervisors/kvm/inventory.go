package kvm

import (
	"context"
	"errors"
	"fmt"
	"sort"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"understudy/hypervisors"
)

// Info asks libvirt who the host is. Its identity is the host's UUID, which is the same whatever the address.
func (h *host) Info(ctx context.Context) (hypervisors.Info, error) {
	info, err := h.info(ctx)
	if err != nil {
		return hypervisors.Info{}, &hypervisors.Error{Op: "ask", Subject: "host", Err: virtError(err)}
	}
	return info, nil
}

func (h *host) info(ctx context.Context) (hypervisors.Info, error) {
	var info hypervisors.Info
	c, err := h.conn(ctx)
	if err != nil {
		return info, err
	}
	caps, err := h.libvirtCapabilities(ctx)
	if err != nil {
		return info, err
	}
	node, err := c.GetNodeInfo()
	if err != nil {
		return info, err
	}
	lib, err := c.GetLibVersion()
	if err != nil {
		return info, err
	}
	qemu, err := c.GetVersion()
	if err != nil {
		return info, err
	}
	name, err := c.GetHostname()
	if err != nil {
		return info, err
	}
	return hypervisors.Info{Identity: caps.Host.UUID, Product: "QEMU/libvirt", Version: versionText(qemu) + "/" + versionText(lib),
		Hostname: name, CPUs: int(node.Cpus), Memory: int64(node.Memory) << 10}, nil
}

// libvirtCapabilities are what libvirt says of the host and of the machines that it can run.
func (h *host) libvirtCapabilities(ctx context.Context) (caps libvirtxml.Caps, err error) {
	c, err := h.conn(ctx)
	if err != nil {
		return caps, err
	}
	text, err := c.GetCapabilities()
	if err != nil {
		return caps, virtError(err)
	}
	if err := caps.Unmarshal(text); err != nil {
		return caps, fmt.Errorf("capabilities: %w", err)
	}
	return caps, nil
}

// VMs lists all machines, running or not. One that goes away meanwhile is left out.
func (h *host) VMs(ctx context.Context) ([]hypervisors.VM, error) {
	var vms []hypervisors.VM
	err := h.eachDomain(ctx, func(d *libvirt.Domain) error {
		vm, err := h.describe(ctx, d)
		if errors.Is(err, hypervisors.ErrNotFound) {
			return nil
		}
		vms = append(vms, vm)
		return err
	})
	if err != nil {
		return nil, &hypervisors.Error{Op: "list", Subject: "machines", Err: err}
	}
	sort.Slice(vms, func(i, j int) bool { return vms[i].Hardware.Name < vms[j].Hardware.Name })
	return vms, nil
}

// eachDomain calls f for every machine of the host until one fails.
func (h *host) eachDomain(ctx context.Context, f func(*libvirt.Domain) error) error {
	c, err := h.conn(ctx)
	if err != nil {
		return err
	}
	domains, err := c.ListAllDomains(0)
	if err != nil {
		return virtError(err)
	}
	defer func() {
		for i := range domains {
			domains[i].Free()
		}
	}()
	for i := range domains {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := f(&domains[i]); err != nil {
			return err
		}
	}
	return nil
}

func (h *host) VM(ctx context.Context, id string) (hypervisors.VM, error) {
	d, err := h.domain(ctx, id)
	if err != nil {
		return hypervisors.VM{}, err
	}
	defer d.Free()
	vm, err := h.describe(ctx, d)
	if err != nil {
		return vm, &hypervisors.Error{Op: "inspect", Subject: "machine " + id, Err: err}
	}
	return vm, nil
}

// definition is a machine as it is now and as it will be at its next start.
type definition struct {
	id         string
	active     bool
	persistent bool
	autostart  bool
	state      hypervisors.PowerState
	// live has the devices of now: those of the running process, or of next when the machine is off.
	live libvirtxml.Domain
	next libvirtxml.Domain
	// reader is set when the process that runs is only there so that an appliance can read the disks; the machine
	// is off for everybody else, and live is what next says.
	reader *readerMark
}

// define reads a machine's definition. A machine that stops or starts meanwhile is read again.
func define(d *libvirt.Domain) (definition, error) {
	for {
		def, err := defineOnce(d)
		if err != nil {
			return def, virtError(err)
		}
		active, err := d.IsActive()
		if err != nil {
			return def, virtError(err)
		}
		if active == def.active || def.reader != nil {
			return def, nil
		}
	}
}

func defineOnce(d *libvirt.Domain) (def definition, err error) {
	if def.id, err = d.GetUUIDString(); err != nil {
		return def, err
	}
	if def.active, err = d.IsActive(); err != nil {
		return def, err
	}
	if def.persistent, err = d.IsPersistent(); err != nil {
		return def, err
	}
	if def.persistent { // others cannot start by themselves
		if def.autostart, err = d.GetAutostart(); err != nil {
			return def, err
		}
	}
	read := func(into *libvirtxml.Domain, flags libvirt.DomainXMLFlags) error {
		text, err := d.GetXMLDesc(flags)
		if err != nil {
			return err
		}
		return into.Unmarshal(text)
	}
	if err := read(&def.next, libvirt.DOMAIN_XML_INACTIVE); err != nil {
		return def, err
	}
	def.live, def.state = def.next, hypervisors.Off
	if !def.active {
		return def, nil
	}
	var live libvirtxml.Domain
	if err := read(&live, 0); err != nil {
		return def, err
	}
	if def.reader = readMarks(&live).Reader; def.reader != nil {
		def.active = false
		return def, nil
	}
	def.live = live
	state, _, err := d.GetState()
	if err != nil {
		return def, err
	}
	switch state {
	case libvirt.DOMAIN_PAUSED, libvirt.DOMAIN_PMSUSPENDED, libvirt.DOMAIN_CRASHED:
		def.state = hypervisors.Paused
	case libvirt.DOMAIN_SHUTOFF:
		def.state = hypervisors.Off
	default:
		def.state = hypervisors.Running
	}
	return def, nil
}

// describe tells a machine in the words of package hypervisors.
func (h *host) describe(ctx context.Context, d *libvirt.Domain) (hypervisors.VM, error) {
	def, err := define(d)
	if err != nil {
		return hypervisors.VM{}, err
	}
	vm := hypervisors.VM{ID: def.id, State: def.state, Autostart: def.autostart, Hardware: hardware(&def.next)}
	if r := readMarks(&def.next).Replica; r != nil {
		vm.Replica = r.ID
	}
	disks, err := h.disks(ctx, d, &def)
	if err != nil {
		return vm, err
	}
	vm.Hardware.Disks = nil
	for _, k := range disks {
		vm.Hardware.Disks = append(vm.Hardware.Disks, k.Disk)
	}
	if def.live.Devices != nil {
		vm.Hardware.NICs = nics(def.live.Devices.Interfaces)
	}
	vm.Warnings = warnings(&def, vm.Hardware)
	return vm, nil
}

// disk is a disk of a machine with what only this driver needs to know of it.
type disk struct {
	hypervisors.Disk
	// name is libvirt's for it, which is mostly its id.
	name string
	// tracked says that its image can hold dirty bitmaps.
	tracked bool
	// file says that Path is a file, and not a block device.
	file bool
}

// disks lists the disks of a machine as it is now, with their sizes. CD-ROM and floppy drives are none.
func (h *host) disks(ctx context.Context, d *libvirt.Domain, def *definition) ([]disk, error) {
	if def.live.Devices == nil {
		return nil, nil
	}
	var disks []disk
	for i := range def.live.Devices.Disks {
		x := &def.live.Devices.Disks[i]
		if x.Target == nil || x.Device != "" && x.Device != "disk" && x.Device != "lun" {
			continue
		}
		k := plainDisk(x)
		k.Boot, k.Controller = bootOf(&def.next, k.ID), controllerOf(&def.live, x)
		if x.Source != nil && x.Source.Volume != nil && k.Path == "" {
			p, err := h.volumePath(ctx, x.Source.Volume)
			if err != nil {
				k.Excluded = fmt.Sprintf("volume %s of pool %s: %v", x.Source.Volume.Volume, x.Source.Volume.Pool, err)
			}
			k.Path, k.file = p, true
		}
		if k.Path != "" {
			// By path, not by name: libvirt looks a name up in the definition that a reader replaced.
			info, err := d.GetBlockInfo(k.Path, 0)
			switch {
			case err == nil:
				k.Size = int64(info.Capacity)
			case errors.Is(virtError(err), hypervisors.ErrUnreachable), errors.Is(virtError(err), hypervisors.ErrNotFound):
				return nil, virtError(err)
			case k.Excluded == "":
				k.Excluded = "its image cannot be opened: " + virtError(err).Error()
			}
		}
		disks = append(disks, k)
	}
	return disks, nil
}

// volumePath finds the file of a volume, for a machine that is off; libvirt fills it in when one runs.
func (h *host) volumePath(ctx context.Context, v *libvirtxml.DomainDiskSourceVolume) (string, error) {
	c, err := h.conn(ctx)
	if err != nil {
		return "", err
	}
	pool, err := c.LookupStoragePoolByName(v.Pool)
	if err != nil {
		return "", virtError(err)
	}
	defer pool.Free()
	vol, err := pool.LookupStorageVolByName(v.Volume)
	if err != nil {
		return "", virtError(err)
	}
	defer vol.Free()
	p, err := vol.GetPath()
	return p, virtError(err)
}
