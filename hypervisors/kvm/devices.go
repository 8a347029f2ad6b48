package kvm

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"libvirt.org/go/libvirtxml"

	"understudy/hypervisors"
)

// Our words for devices, and QEMU's names of what they need. The best come first.
var (
	diskDevices = []struct{ kind, qemu string }{
		{"virtio", "virtio-blk-pci"}, {"scsi/virtio-scsi", "virtio-scsi-pci"}, {"scsi/pvscsi", "pvscsi"}, {"scsi/lsisas1068", "mptsas1068"},
		{"scsi/lsilogic", "lsi53c895a"}, {"sata", "ich9-ahci"}, {"ide", "piix3-ide"}, {"usb", "usb-storage"},
	}
	nicDevices = []struct{ kind, qemu string }{
		{"virtio", "virtio-net-pci"}, {"vmxnet3", "vmxnet3"}, {"e1000e", "e1000e"}, {"e1000", "e1000"}, {"rtl8139", "rtl8139"},
	}
)

var deviceLine = regexp.MustCompile(`(?m)^name "([^"]+)"`)

// devices asks QEMU what it has: who builds it leaves out what he does not support. None: QEMU did not say.
func (h *host) devices(ctx context.Context) (d hypervisors.Devices, err error) {
	emulator, err := h.emulator(ctx)
	if err != nil || emulator == "" {
		return d, err
	}
	help, err := h.place.Run(ctx, nil, emulator, "-device", "help")
	if err != nil {
		if errors.As(err, new(*runError)) {
			return d, nil
		}
		return d, err
	}
	has := map[string]bool{}
	for _, m := range deviceLine.FindAllSubmatch(help, -1) {
		has[string(m[1])] = true
	}
	for _, k := range diskDevices {
		if has[k.qemu] {
			d.Disks = append(d.Disks, k.kind)
		}
	}
	for _, k := range nicDevices {
		if has[k.qemu] {
			d.NICs = append(d.NICs, k.kind)
		}
	}
	return d, nil
}

// emulator is the program that runs machines of this host's own architecture.
func (h *host) emulator(ctx context.Context) (string, error) {
	caps, err := h.libvirtCapabilities(ctx)
	if err != nil {
		return "", err
	}
	if caps.Host.CPU == nil {
		return "", nil
	}
	arch, _ := archIn(&caps, caps.Host.CPU.Arch)
	return arch.Emulator, nil
}

// archIn is what libvirt says of machines of an architecture; false: the host runs none.
func archIn(caps *libvirtxml.Caps, name string) (libvirtxml.CapsGuestArch, bool) {
	for _, g := range caps.Guests {
		if g.OSType == "hvm" && g.Arch.Name == name {
			return g.Arch, true
		}
	}
	return libvirtxml.CapsGuestArch{}, false
}

// idPrefix is before the id of a disk whose name in libvirt is another, in the alias that libvirt keeps for us. Guests do
// not see it.
const idPrefix = "ua-understudy-"

// idOf a disk: its name in libvirt, which is its place, unless it came from a host that names places otherwise.
func idOf(x *libvirtxml.DomainDisk) string {
	if x.Alias != nil {
		if id, ours := strings.CutPrefix(x.Alias.Name, idPrefix); ours {
			return id
		}
	}
	if x.Target == nil {
		return ""
	}
	return x.Target.Dev
}

var targetName = regexp.MustCompile(`^(vd|sd|hd)[a-z]{1,2}$`)

// nameDisk gives a new disk of the machine its id: as its name where that can be one, and else as its alias.
func nameDisk(def *libvirtxml.Domain, d *libvirtxml.DomainDisk, id string) {
	taken := func(name string) bool {
		return slices.ContainsFunc(def.Devices.Disks, func(o libvirtxml.DomainDisk) bool { return o.Target != nil && o.Target.Dev == name })
	}
	if targetName.MatchString(id) && !taken(id) {
		d.Target.Dev = id
		return
	}
	prefix := map[string]string{"virtio": "vd", "ide": "hd"}[d.Target.Bus]
	if prefix == "" {
		prefix = "sd"
	}
	for n := 0; ; n++ {
		letters := string(rune('a' + n%26))
		if n >= 26 {
			letters = string(rune('a'+n/26-1)) + letters
		}
		if !taken(prefix + letters) {
			d.Target.Dev, d.Alias = prefix+letters, &libvirtxml.DomainAlias{Name: idPrefix + id}
			return
		}
	}
}

// scsiModel is one of libvirt's controllers for SCSI disks.
type scsiModel struct {
	kind, libvirt string
	// room is how many disks it takes. Its disks are apart by the target's number, or by that of the unit.
	room     uint
	byTarget bool
}

// The first is what guests of today have drivers for, for disks whose source said nothing; libvirt's own choice, which it
// does not name, is of 1996.
var scsiModels = []scsiModel{
	{kind: "virtio-scsi", libvirt: "virtio-scsi", room: 64},
	{kind: "pvscsi", libvirt: "vmpvscsi", room: 15, byTarget: true},
	{kind: "lsisas1068", libvirt: "lsisas1068", room: 7, byTarget: true},
	{kind: "lsilogic", libvirt: "lsilogic", room: 7},
}

// modelOf a controller; one that we do not know takes disks as most do.
func modelOf(c *libvirtxml.DomainController) scsiModel {
	name := c.Model
	switch name {
	case "", "auto":
		name = "lsilogic"
	case "virtio-transitional", "virtio-non-transitional":
		name = "virtio-scsi"
	}
	for _, m := range scsiModels {
		if m.libvirt == name {
			return m
		}
	}
	return scsiModel{kind: name, libvirt: name, room: 7}
}

// controllerOf a SCSI disk: the kind that the guest sees.
func controllerOf(def *libvirtxml.Domain, d *libvirtxml.DomainDisk) string {
	if d.Target == nil || d.Target.Bus != "scsi" {
		return ""
	}
	for i := range def.Devices.Controllers {
		c := &def.Devices.Controllers[i]
		if c.Type == "scsi" && indexOf(c) == driveOf(d).controller {
			return modelOf(c).kind
		}
	}
	return ""
}

func indexOf(c *libvirtxml.DomainController) uint {
	if c.Index == nil {
		return 0
	}
	return *c.Index
}

// drive is the address of a disk at a controller.
type drive struct{ controller, target, unit uint }

func driveOf(d *libvirtxml.DomainDisk) (a drive) {
	if d.Address == nil || d.Address.Drive == nil {
		return a
	}
	for _, part := range []struct {
		from *uint
		to   *uint
	}{{d.Address.Drive.Controller, &a.controller}, {d.Address.Drive.Target, &a.target}, {d.Address.Drive.Unit, &a.unit}} {
		if part.from != nil {
			*part.to = *part.from
		}
	}
	return a
}

// placeSCSI finds a place for one more SCSI disk at a controller of the kind, which the machine gets where it has none
// with room. Empty: any kind, one that it has first.
func placeSCSI(def *libvirtxml.Domain, kind string) (*libvirtxml.DomainAddress, error) {
	next := uint(0)
	for i := range def.Devices.Controllers {
		c := &def.Devices.Controllers[i]
		if c.Type != "scsi" {
			continue
		}
		next = max(next, indexOf(c)+1)
		if m := modelOf(c); kind == "" || m.kind == kind {
			if a := m.free(def, indexOf(c)); a != nil {
				return a, nil
			}
		}
	}
	for _, m := range scsiModels {
		if kind == "" || m.kind == kind {
			def.Devices.Controllers = append(def.Devices.Controllers, libvirtxml.DomainController{Type: "scsi", Model: m.libvirt, Index: &next})
			return m.free(def, next), nil
		}
	}
	return nil, fmt.Errorf("%w: QEMU has no SCSI controller of kind %s", hypervisors.ErrInvalid, kind)
}

// free is a place at a controller that no disk has; nil: there is none.
func (m scsiModel) free(def *libvirtxml.Domain, controller uint) *libvirtxml.DomainAddress {
	for n := range m.room {
		a := drive{controller: controller, unit: n}
		if m.byTarget {
			a.target, a.unit = n, 0
		}
		if !slices.ContainsFunc(def.Devices.Disks, func(d libvirtxml.DomainDisk) bool {
			return d.Target != nil && d.Target.Bus == "scsi" && driveOf(&d) == a
		}) {
			bus := uint(0)
			return &libvirtxml.DomainAddress{Drive: &libvirtxml.DomainAddressDrive{Controller: &a.controller, Bus: &bus, Target: &a.target, Unit: &a.unit}}
		}
	}
	return nil
}
