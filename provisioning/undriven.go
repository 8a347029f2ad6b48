package provisioning

import (
	"slices"
	"strings"

	"understudy/hypervisors"
	"understudy/provisioning/linux"
)

// Modules that Linux needs for devices, by what hypervisors.Devices calls these. What has no entry is not judged.
var (
	diskModules = map[string][]string{
		"virtio":           {"virtio_pci", "virtio_blk"},
		"scsi/virtio-scsi": {"virtio_pci", "virtio_scsi", "sd_mod"},
		"scsi/pvscsi":      {"vmw_pvscsi", "sd_mod"},
		"scsi/lsilogic":    {"mptspi", "sd_mod"},
		"scsi/lsisas1068":  {"mptsas", "sd_mod"},
		"scsi/buslogic":    {"BusLogic", "sd_mod"},
		"sata":             {"ahci", "sd_mod"},
		"ide":              {"ata_piix", "sd_mod"},
		"nvme":             {"nvme"},
	}
	nicModules = map[string][]string{
		"virtio":  {"virtio_pci", "virtio_net"},
		"e1000":   {"e1000"},
		"e1000e":  {"e1000e"},
		"rtl8139": {"8139cp"},
		"vmxnet3": {"vmxnet3"},
	}
)

// LinuxModules are all that [UndrivenBy] asks for.
func LinuxModules() (all []string) {
	for _, table := range []map[string][]string{diskModules, nicModules} {
		for _, modules := range table {
			all = append(all, modules...)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Undriven is a device that a guest has no driver for.
type Undriven struct {
	// Device as people call it: "disk vda", "NIC 52:54:00:00:00:01".
	Device string
	// Kind as hypervisors.Devices has it.
	Kind string
	// Modules that the guest lacks.
	Modules []string
	// Boots says that the machine boots from it: it will not start.
	Boots bool
}

// UndrivenBy gives the devices of a machine that its Linux has no driver for, as far as they are known: the disk that it
// boots from, for which the driver must be in the initial RAM disk, and its network cards.
func UndrivenBy(s linux.System, hw hypervisors.Hardware) (all []Undriven) {
	for _, d := range hw.Disks {
		if missing := without(diskModules[d.Attached()], s.Early); len(missing) > 0 && d.ID == BootDisk(hw) {
			all = append(all, Undriven{"disk " + d.ID, d.Attached(), missing, true})
		}
	}
	for _, n := range hw.NICs {
		if missing := without(nicModules[n.Model], s.Later); len(missing) > 0 && s.Whole {
			all = append(all, Undriven{"NIC " + strings.ToLower(n.MAC), n.Model, missing, false})
		}
	}
	return all
}

func without(wanted, has []string) (missing []string) {
	for _, m := range wanted {
		if !slices.Contains(has, m) {
			missing = append(missing, m)
		}
	}
	return missing
}
