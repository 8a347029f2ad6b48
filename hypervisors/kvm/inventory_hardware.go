package kvm

import (
	"fmt"
	"math"
	"regexp"
	"strings"

	"libvirt.org/go/libvirtxml"

	"understudy/hypervisors"
)

// hardware tells a definition in the words of package hypervisors, without its disks and NICs.
func hardware(x *libvirtxml.Domain) hypervisors.Hardware {
	hw := hypervisors.Hardware{Name: x.Name, CPUs: 1, Firmware: hypervisors.BIOS, Accelerated: x.Type == "kvm", CPUModel: cpuModel(x.CPU), OS: osOf(x)}
	if x.VCPU != nil {
		hw.CPUs = int(x.VCPU.Value)
	}
	if x.Memory != nil {
		hw.Memory = inBytes(uint64(x.Memory.Value), x.Memory.Unit)
	}
	if os := x.OS; os != nil {
		if os.Type != nil {
			hw.Arch, hw.Chipset = os.Type.Arch, chipset(os.Type.Machine)
		}
		if os.Firmware == "efi" || os.Loader != nil && os.Loader.Type == "pflash" {
			hw.Firmware = hypervisors.UEFI
		}
		hw.SecureBoot = os.Loader != nil && os.Loader.Secure == "yes"
	}
	if dev := x.Devices; dev != nil {
		hw.TPM = len(dev.TPMs) > 0
		hw.GuestAgent, _ = guestAgent(x)
	}
	return hw
}

// osElement is what virt-manager and others note of a guest.
const osElement = `<libosinfo:libosinfo xmlns:libosinfo="http://libosinfo.org/xmlns/libvirt/domain/1.0"><libosinfo:os id="%s"/></libosinfo:libosinfo>`

var osPattern = regexp.MustCompile(`<libosinfo:os id=["'](https?://[A-Za-z0-9./_-]+)["']`)

// osOf a machine is libosinfo's id of the system in it.
func osOf(x *libvirtxml.Domain) string {
	if x.Metadata != nil {
		if m := osPattern.FindStringSubmatch(x.Metadata.XML); m != nil {
			return m[1]
		}
	}
	return ""
}

func cpuModel(c *libvirtxml.DomainCPU) string {
	switch {
	case c == nil:
		return ""
	case c.Model != nil && (c.Mode == "" || c.Mode == "custom"):
		return c.Model.Value
	}
	return c.Mode
}

// chipset is q35 or pc for the machine types of x86, in all their versions, and else the type itself.
func chipset(machine string) string {
	switch {
	case strings.Contains(machine, "q35"):
		return "q35"
	case machine == "pc" || strings.HasPrefix(machine, "pc-i440fx"):
		return "pc"
	}
	return machine
}

// inBytes reads libvirt's sizes of memory, which are in KiB when nothing else is said.
func inBytes(n uint64, unit string) int64 {
	factor := map[string]uint64{"b": 1, "bytes": 1, "KB": 1e3, "MB": 1e6, "MiB": 1 << 20, "M": 1 << 20, "GB": 1e9, "GiB": 1 << 30,
		"G": 1 << 30, "TB": 1e12, "TiB": 1 << 40, "T": 1 << 40}[unit]
	if factor == 0 {
		factor = 1 << 10
	}
	if n > math.MaxInt64/factor {
		return math.MaxInt64 // a definition that was never started
	}
	return int64(n * factor)
}

// guestAgent says whether there is a channel for a guest agent, and whether the agent is at its other end.
func guestAgent(x *libvirtxml.Domain) (channel, connected bool) {
	if x.Devices == nil {
		return false, false
	}
	for _, c := range x.Devices.Channels {
		if c.Target != nil && c.Target.VirtIO != nil && c.Target.VirtIO.Name == "org.qemu.guest_agent.0" {
			return true, c.Target.VirtIO.State == "connected"
		}
	}
	return false, false
}

// plainDisk tells a disk of a definition, all but its size and its place in the boot order.
func plainDisk(x *libvirtxml.DomainDisk) disk {
	k := disk{Disk: hypervisors.Disk{ID: idOf(x), Bus: x.Target.Bus, Format: "raw"}, name: x.Target.Dev}
	if x.Driver != nil && x.Driver.Type != "" {
		k.Format = x.Driver.Type
	}
	k.tracked = k.Format == "qcow2"
	k.Path, k.file = sourcePath(x.Source)
	k.Excluded = excluded(x)
	return k
}

// sourcePath is where a disk's image is on the host, and whether that is a file; empty where it has no path.
func sourcePath(s *libvirtxml.DomainDiskSource) (path string, file bool) {
	switch {
	case s == nil:
	case s.File != nil:
		return s.File.File, true
	case s.Block != nil:
		return s.Block.Dev, false
	}
	return "", false
}

// excluded says why a disk cannot be protected.
func excluded(x *libvirtxml.DomainDisk) string {
	switch s := x.Source; {
	case x.Device == "lun":
		return "it is a passed-through SCSI device"
	case x.Shareable != nil:
		return "it is shared with other machines"
	case x.ReadOnly != nil:
		return "it is read-only"
	case x.Transient != nil:
		return "its changes are thrown away when the machine stops"
	case s == nil:
		return "it has no image"
	case x.Encryption != nil || s.Encryption != nil:
		return "the host encrypts it, and a replica would hold it in clear text"
	case s.Network != nil:
		return fmt.Sprintf("it is on network storage (%s)", s.Network.Protocol)
	case s.File == nil && s.Block == nil && s.Volume == nil:
		return "it is a passed-through device"
	}
	return ""
}

// bootOf is the position of a disk in the boot order. Where the order names kinds of devices only ("hd"), the first
// disk is meant.
func bootOf(x *libvirtxml.Domain, id string) int {
	if x.Devices == nil {
		return 0
	}
	first := ""
	for _, k := range x.Devices.Disks {
		if k.Target == nil || k.Device != "" && k.Device != "disk" {
			continue
		}
		if first == "" {
			first = idOf(&k)
		}
		if idOf(&k) == id && k.Boot != nil {
			return int(k.Boot.Order)
		}
	}
	if x.OS != nil && id == first {
		for i, b := range x.OS.BootDevices {
			if b.Dev == "hd" {
				return i + 1
			}
		}
	}
	return 0
}

// nics tells network interfaces; those without a network of the host have an empty one.
func nics(all []libvirtxml.DomainInterface) []hypervisors.NIC {
	var out []hypervisors.NIC
	for _, x := range all {
		var nic hypervisors.NIC
		if x.MAC != nil {
			nic.MAC = strings.ToLower(x.MAC.Address)
		}
		if x.Model != nil {
			nic.Model = x.Model.Type
		}
		if s := x.Source; s != nil {
			switch {
			case s.Network != nil:
				nic.Network = s.Network.Network
			case s.Bridge != nil:
				nic.Network = bridgePrefix + s.Bridge.Bridge
			}
		}
		out = append(out, nic)
	}
	return out
}

// warnings say what of a machine cannot be protected, or not well.
func warnings(def *definition, hw hypervisors.Hardware) []string {
	var out []string
	warn := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	for _, k := range hw.Disks {
		switch {
		case k.Excluded != "":
			warn("disk %s cannot be protected: %s", k.ID, k.Excluded)
		case k.Format != "qcow2":
			warn("disk %s is %s, which has no change tracking: every cycle compares it in full", k.ID, k.Format)
		}
	}
	if !def.persistent {
		warn("the machine is transient: it has no change tracking, and is gone when it stops")
	}
	dev := def.live.Devices
	if dev == nil {
		return out
	}
	if n := len(dev.Hostdevs); n > 0 {
		warn("%d passed-through host devices will be missing in the replica", n)
	}
	if n := len(dev.Filesystems); n > 0 {
		warn("%d folders shared with the host are not protected", n)
	}
	for _, nic := range hw.NICs {
		if nic.Network == "" {
			warn("NIC %s is on no network of the host that a replica could use", nic.MAC)
		}
	}
	return out
}
