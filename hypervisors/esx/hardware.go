package esx

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"understudy/hypervisors"
)

// hardware says what a machine is made of, and what of it cannot be protected. Networks are named by the keys of
// [host.networkNames].
func hardware(c *types.VirtualMachineConfigInfo, networks map[string]string) (hw hypervisors.Hardware, warnings []string) {
	hw = hypervisors.Hardware{
		Name: c.Name, CPUs: int(c.Hardware.NumCPU), Memory: int64(c.Hardware.MemoryMB) << 20, Firmware: hypervisors.BIOS, Arch: "x86_64", OS: osOf(c.GuestId),
		Accelerated: true, GuestAgent: true, // tools need nothing of the hardware
	}
	if c.Firmware == string(types.GuestOsDescriptorFirmwareTypeEfi) {
		hw.Firmware = hypervisors.UEFI
		hw.SecureBoot = c.BootOptions != nil && yes(c.BootOptions.EfiSecureBootEnabled)
	}
	for _, d := range disksOf(c) {
		hw.Disks = append(hw.Disks, d.shown)
		if d.shown.Excluded != "" {
			warnings = append(warnings, fmt.Sprintf("disk %s: %s", d.shown.ID, d.shown.Excluded))
		}
	}
	for _, d := range inOrder(c.Hardware.Device) {
		switch d := d.(type) {
		case types.BaseVirtualEthernetCard:
			hw.NICs = append(hw.NICs, nicOf(d, networks))
		case *types.VirtualTPM:
			hw.TPM = true
		case *types.VirtualPCIPassthrough:
			warnings = append(warnings, "a device of the host is passed through to it, which no snapshot takes")
		}
	}
	return hw, warnings
}

// inOrder sorts devices by their keys, which are by controller and place there; the host lists them as they came.
func inOrder(devices object.VirtualDeviceList) object.VirtualDeviceList {
	return slices.SortedStableFunc(slices.Values(devices), func(a, b types.BaseVirtualDevice) int {
		return cmp.Compare(a.GetVirtualDevice().Key, b.GetVirtualDevice().Key)
	})
}

func yes(b *bool) bool { return b != nil && *b }

// diskOf says what a disk is. Its id is its place, "scsi0-1": controller, bus and unit.
func diskOf(d *types.VirtualDisk, devices object.VirtualDeviceList) hypervisors.Disk {
	out := hypervisors.Disk{Size: d.CapacityInBytes, Format: "vmdk"}
	if out.Size == 0 {
		out.Size = d.CapacityInKB << 10
	}
	controller, _ := devices.FindByKey(d.ControllerKey).(types.BaseVirtualController)
	bus, unit := int32(0), int32(0)
	if controller != nil {
		bus = controller.GetVirtualController().BusNumber
	}
	if d.UnitNumber != nil {
		unit = *d.UnitNumber
	}
	out.Bus, out.Controller = cmp.Or(busOf(controller), "scsi"), scsiKind(controller)
	out.ID = fmt.Sprintf("%s%d-%d", out.Bus, bus, unit)
	if scsi, ok := controller.(types.BaseVirtualSCSIController); ok && scsi.GetVirtualSCSIController().SharedBus != types.VirtualSCSISharingNoSharing && scsi.GetVirtualSCSIController().SharedBus != "" {
		out.Excluded = "its controller is shared with other machines"
	}
	var mode, sharing string
	switch b := d.Backing.(type) {
	case *types.VirtualDiskFlatVer2BackingInfo:
		out.Path, mode, sharing = b.FileName, b.DiskMode, b.Sharing
	case *types.VirtualDiskSeSparseBackingInfo:
		out.Path, mode = b.FileName, b.DiskMode
	case *types.VirtualDiskSparseVer2BackingInfo:
		out.Path, mode = b.FileName, b.DiskMode
	case *types.VirtualDiskRawDiskMappingVer1BackingInfo:
		out.Path, mode, sharing = b.FileName, b.DiskMode, b.Sharing
		if b.CompatibilityMode == string(types.VirtualDiskCompatibilityModePhysicalMode) {
			out.Excluded = "it is a raw device in physical mode, which no snapshot takes"
		}
	default:
		out.Excluded = fmt.Sprintf("nobody knows how to read a disk of kind %T", b)
	}
	switch {
	case out.Excluded != "":
	case sharing == string(types.VirtualDiskSharingSharingMultiWriter):
		out.Excluded = "it is shared with other machines (multi-writer)"
	case strings.HasPrefix(mode, "independent"):
		out.Excluded = "it is independent, so that no snapshot takes it"
	}
	return out
}

// busOf a controller; empty: it is none for disks.
func busOf(c types.BaseVirtualController) string {
	switch c.(type) {
	case types.BaseVirtualSCSIController:
		return "scsi"
	case *types.VirtualIDEController:
		return "ide"
	case *types.VirtualAHCIController:
		return "sata"
	case *types.VirtualNVMEController:
		return "nvme"
	}
	return ""
}

// scsiKind is what a guest needs a driver for; empty: none on a SCSI bus.
func scsiKind(c types.BaseVirtualController) string {
	switch c.(type) {
	case *types.ParaVirtualSCSIController:
		return "pvscsi"
	case *types.VirtualLsiLogicSASController:
		return "lsisas1068"
	case *types.VirtualLsiLogicController:
		return "lsilogic"
	case *types.VirtualBusLogicController:
		return "buslogic"
	}
	return ""
}

// devices that machines can have, the best first. IDE is not among them: the appliance could not attach such a disk.
var devices = hypervisors.Devices{
	Disks: []string{"scsi/pvscsi", "scsi/lsisas1068", "scsi/lsilogic", "sata", "nvme"},
	NICs:  []string{"vmxnet3", "e1000e", "e1000"},
}

// bootOrder gives the places of disks in the order of boot, from 1, by device key. Where nobody chose, it is the first disk's.
func bootOrder(c *types.VirtualMachineConfigInfo, devices object.VirtualDeviceList) map[int32]int {
	places := map[int32]int{}
	if c.BootOptions != nil {
		for _, b := range c.BootOptions.BootOrder {
			if disk, ok := b.(*types.VirtualMachineBootOptionsBootableDiskDevice); ok {
				places[disk.DeviceKey] = len(places) + 1
			}
		}
	}
	if disks := devices.SelectByType((*types.VirtualDisk)(nil)); len(places) == 0 && len(disks) > 0 {
		places[disks[0].GetVirtualDevice().Key] = 1
	}
	return places
}

func nicOf(card types.BaseVirtualEthernetCard, networks map[string]string) hypervisors.NIC {
	nic := hypervisors.NIC{MAC: strings.ToLower(card.GetVirtualEthernetCard().MacAddress)}
	switch card.(type) {
	case *types.VirtualVmxnet3, *types.VirtualVmxnet3Vrdma:
		nic.Model = "vmxnet3"
	case *types.VirtualVmxnet2, *types.VirtualVmxnet:
		nic.Model = "vmxnet2"
	case *types.VirtualE1000e:
		nic.Model = "e1000e"
	case *types.VirtualE1000:
		nic.Model = "e1000"
	case *types.VirtualPCNet32:
		nic.Model = "pcnet"
	case *types.VirtualSriovEthernetCard:
		nic.Model = "sriov"
	}
	switch b := card.GetVirtualEthernetCard().Backing.(type) {
	case *types.VirtualEthernetCardNetworkBackingInfo:
		nic.Network = b.DeviceName
	case *types.VirtualEthernetCardDistributedVirtualPortBackingInfo:
		nic.Network = networks[b.Port.PortgroupKey]
	case *types.VirtualEthernetCardOpaqueNetworkBackingInfo:
		nic.Network = networks[b.OpaqueNetworkId]
	}
	return nic
}
