package kvm

import (
	"context"
	"fmt"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"
)

// A machine that is off is read by a QEMU that is started paused on its disks and never runs: only QEMU can make the
// bitmaps that later tell what changed. That process has the machine's name and disks, a mark in its metadata that says
// that the machine is off, and nothing else of it, so that nothing else has to be there for it: no network, no memory
// to speak of, no devices. libvirt ends it when our connection goes.

// readerMemory is more than any firmware looks at before its first instruction, in MiB.
const readerMemory = 64

// readerDefinition keeps of a machine what its disks need.
func readerDefinition(x *libvirtxml.Domain, owner string) *libvirtxml.Domain {
	r := &libvirtxml.Domain{
		Type: x.Type, Name: x.Name, UUID: x.UUID,
		Metadata:  &libvirtxml.DomainMetadata{XML: readerMark{Owner: owner}.markup()},
		Memory:    &libvirtxml.DomainMemory{Value: readerMemory, Unit: "MiB"},
		VCPU:      &libvirtxml.DomainVCPU{Value: 1},
		IOThreads: x.IOThreads, IOThreadIDs: x.IOThreadIDs,
		SecLabel: x.SecLabel,
		OnCrash:  "destroy",
	}
	if x.OS != nil {
		r.OS = &libvirtxml.DomainOS{Type: x.OS.Type}
	}
	if dev := x.Devices; dev != nil {
		r.Devices = &libvirtxml.DomainDeviceList{Emulator: dev.Emulator, Controllers: dev.Controllers,
			MemBalloon: &libvirtxml.DomainMemBalloon{Model: "none"}}
		for _, k := range dev.Disks {
			if k.Device == "" || k.Device == "disk" {
				k.Boot = nil
				r.Devices.Disks = append(r.Devices.Disks, k)
			}
		}
	}
	return r
}

// startReader opens the disks of a machine that is off.
func (h *host) startReader(ctx context.Context, def *definition) error {
	if def.reader != nil {
		if err := h.endReader(ctx, def.id, def.reader); err != nil {
			return err
		}
	}
	text, err := readerDefinition(&def.next, h.owner).Marshal()
	if err != nil {
		return err
	}
	c, err := h.conn(ctx)
	if err != nil {
		return err
	}
	d, err := c.DomainCreateXML(text, libvirt.DOMAIN_START_PAUSED|libvirt.DOMAIN_START_AUTODESTROY)
	if err != nil {
		return fmt.Errorf("open the disks of a machine that is off: %w", virtError(err))
	}
	return d.Free()
}

// endReader ends a reader that somebody else needs out of the way: the checkpoint that holds it gives way. One that
// another appliance runs is left alone.
func (h *host) endReader(ctx context.Context, vm string, mark *readerMark) error {
	if mark.Owner != h.owner {
		return busy("another appliance reads its disks")
	}
	if cp := h.open.of(vm); cp != nil {
		cp.giveWay("the machine is being started", "The next cycle reads it while it runs.")
	}
	return h.onDomain(ctx, vm, func(d *libvirt.Domain) error { return h.stopReader(ctx, d) })
}

// stopReader ends the process of a reader in good order, so that QEMU writes its bitmaps. A machine that is off, or
// really runs, is left alone.
func (h *host) stopReader(ctx context.Context, d *libvirt.Domain) error {
	def, err := define(d)
	if err != nil || def.reader == nil || def.reader.Owner != h.owner {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err // it may be another reader by now
	}
	err = virtError(d.DestroyFlags(libvirt.DOMAIN_DESTROY_GRACEFUL))
	if err != nil && !isActive(d) {
		return nil
	}
	return err
}
