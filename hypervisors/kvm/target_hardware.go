package kvm

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"libvirt.org/go/libvirtxml"

	"understudy/hypervisors"
)

// newDefinition makes the definition of a replica machine from its hardware, without disks; those follow its points.
func (h *host) newDefinition(ctx context.Context, m *manifest) (*libvirtxml.Domain, error) {
	accelerated, err := h.offersKVM(ctx, m.Hardware.Arch)
	if err != nil {
		return nil, err
	}
	def, err := machineXML(m.Hardware, accelerated)
	if err != nil {
		return nil, err
	}
	def.UUID = m.VM
	return def, nil
}

// offersKVM says whether the host runs machines of the architecture with hardware acceleration.
func (h *host) offersKVM(ctx context.Context, arch string) (bool, error) {
	caps, err := h.libvirtCapabilities(ctx)
	if err != nil {
		return false, err
	}
	if a, ok := archIn(&caps, archOf(arch)); ok {
		return slices.ContainsFunc(a.Domains, func(d libvirtxml.CapsGuestDomain) bool { return d.Type == "kvm" }), nil
	}
	return false, &hypervisors.Error{Op: "run", Subject: "architecture " + archOf(arch), Err: hypervisors.ErrIncapable,
		Hint: "Install QEMU for this architecture on the host."}
}

func archOf(arch string) string {
	if arch == "" {
		return "x86_64"
	}
	return arch
}

// machineXML is a machine with the hardware, without disks. A machine that was accelerated runs in software where the
// host cannot do better.
func machineXML(hw hypervisors.Hardware, kvm bool) (*libvirtxml.Domain, error) {
	if hw.Name == "" || hw.CPUs < 1 || hw.Memory < 1<<20 {
		return nil, fmt.Errorf("%w hardware: name %q, %d CPUs, %d bytes of memory", hypervisors.ErrInvalid, hw.Name, hw.CPUs, hw.Memory)
	}
	def := &libvirtxml.Domain{
		Type:       "qemu",
		Name:       hw.Name,
		Memory:     &libvirtxml.DomainMemory{Value: uint(hw.Memory >> 10), Unit: "KiB"},
		VCPU:       &libvirtxml.DomainVCPU{Value: uint(hw.CPUs)},
		OS:         &libvirtxml.DomainOS{Type: &libvirtxml.DomainOSType{Arch: archOf(hw.Arch), Machine: board(hw), Type: "hvm"}},
		Features:   &libvirtxml.DomainFeatureList{ACPI: &libvirtxml.DomainFeature{}, APIC: &libvirtxml.DomainFeatureAPIC{}},
		Clock:      &libvirtxml.DomainClock{Offset: "utc"},
		OnPoweroff: "destroy", OnReboot: "restart", OnCrash: "destroy",
		Devices: &libvirtxml.DomainDeviceList{
			Serials:  []libvirtxml.DomainSerial{{Source: &libvirtxml.DomainChardevSource{Pty: &libvirtxml.DomainChardevSourcePty{}}}},
			Consoles: []libvirtxml.DomainConsole{{Source: &libvirtxml.DomainChardevSource{Pty: &libvirtxml.DomainChardevSourcePty{}}}},
			// A screen without a viewer: many systems do not boot without one.
			Videos: []libvirtxml.DomainVideo{{Model: libvirtxml.DomainVideoModel{Type: "vga"}}},
		},
	}
	if hw.Accelerated && kvm {
		def.Type = "kvm"
	}
	def.CPU = cpuXML(hw.CPUModel, def.Type)
	if hw.Firmware == hypervisors.UEFI {
		setUEFI(def, hw)
	}
	if !slices.ContainsFunc(hw.Disks, func(d hypervisors.Disk) bool { return d.Boot > 0 }) {
		def.OS.BootDevices = []libvirtxml.DomainBootDevice{{Dev: "hd"}}
	}
	if hw.GuestAgent {
		def.Devices.Channels = []libvirtxml.DomainChannel{{
			Source: &libvirtxml.DomainChardevSource{UNIX: &libvirtxml.DomainChardevSourceUNIX{}},
			Target: &libvirtxml.DomainChannelTarget{VirtIO: &libvirtxml.DomainChannelTargetVirtIO{Name: "org.qemu.guest_agent.0"}},
		}}
	}
	if osPattern.MatchString(fmt.Sprintf(osElement, hw.OS)) {
		def.Metadata = &libvirtxml.DomainMetadata{XML: fmt.Sprintf(osElement, hw.OS)}
	}
	for _, nic := range hw.NICs {
		model := nic.Model
		if model == "" {
			model = "virtio"
		}
		def.Devices.Interfaces = append(def.Devices.Interfaces, libvirtxml.DomainInterface{
			MAC: &libvirtxml.DomainInterfaceMAC{Address: nic.MAC}, Source: nicSource(nic.Network),
			Model: &libvirtxml.DomainInterfaceModel{Type: model},
		})
	}
	return def, nil
}

// board is QEMU's name of the board: what the source says where that is one of QEMU's; else the newer one, unless a
// disk needs the older.
func board(hw hypervisors.Hardware) string {
	if c := chipset(hw.Chipset); c == "q35" || c == "pc" {
		return c
	}
	if arch := archOf(hw.Arch); arch != "x86_64" && arch != "i686" {
		return "virt"
	}
	if slices.ContainsFunc(hw.Disks, func(d hypervisors.Disk) bool { return d.Bus == "ide" }) {
		return "pc"
	}
	return "q35"
}

// cpuXML takes the source's words for a CPU where this kind of machine can have it. Software emulation knows no host
// CPU; there "maximum" is everything that it can do.
func cpuXML(model, kind string) *libvirtxml.DomainCPU {
	hostly := strings.HasPrefix(model, "host-")
	switch {
	case kind == "qemu" && (model == "" || hostly), model == "maximum":
		return &libvirtxml.DomainCPU{Mode: "maximum"}
	case model == "":
		return &libvirtxml.DomainCPU{Mode: "host-model"}
	case hostly:
		return &libvirtxml.DomainCPU{Mode: model}
	}
	return &libvirtxml.DomainCPU{Mode: "custom", Model: &libvirtxml.DomainCPUModel{Value: model, Fallback: "allow"}}
}

// setUEFI leaves the choice of firmware files, and of the template for its variables, to the host.
func setUEFI(def *libvirtxml.Domain, hw hypervisors.Hardware) {
	def.OS.Firmware = "efi"
	if hw.SecureBoot {
		def.OS.Loader = &libvirtxml.DomainLoader{Secure: "yes"}
		def.Features.SMM = &libvirtxml.DomainFeatureSMM{State: "on"}
	}
	if hw.TPM {
		def.Devices.TPMs = []libvirtxml.DomainTPM{{Model: "tpm-crb",
			Backend: &libvirtxml.DomainTPMBackend{Emulator: &libvirtxml.DomainTPMBackendEmulator{Version: "2.0"}}}}
	}
}

func nicSource(network string) *libvirtxml.DomainInterfaceSource {
	if bridge, ok := strings.CutPrefix(network, bridgePrefix); ok {
		return &libvirtxml.DomainInterfaceSource{Bridge: &libvirtxml.DomainInterfaceSourceBridge{Bridge: bridge}}
	}
	return &libvirtxml.DomainInterfaceSource{Network: &libvirtxml.DomainInterfaceSourceNetwork{Network: network}}
}
