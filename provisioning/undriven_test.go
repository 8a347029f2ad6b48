package provisioning_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/hypervisors"
	"understudy/provisioning"
	"understudy/provisioning/linux"
)

func TestUndrivenBy(t *testing.T) {
	s := linux.System{Version: "6.1.0", Early: []string{"ahci", "sd_mod"}, Later: []string{"ahci", "e1000e", "sd_mod"}, Whole: true}
	hw := func(bus, controller, nic string) hypervisors.Hardware {
		return hypervisors.Hardware{
			// The second one is none that it boots from: its driver comes from the root file system.
			Disks: []hypervisors.Disk{{ID: "sda", Bus: bus, Controller: controller, Boot: 1}, {ID: "sdb", Bus: "virtio"}},
			NICs:  []hypervisors.NIC{{MAC: "52:54:00:00:00:0A", Model: nic}},
		}
	}
	require.Empty(t, provisioning.UndrivenBy(s, hw("sata", "", "e1000e")))
	require.Empty(t, provisioning.UndrivenBy(s, hw("scsi", "", "unheard-of")), "nobody knows")
	require.Equal(t, []provisioning.Undriven{
		{Device: "disk sda", Kind: "scsi/pvscsi", Modules: []string{"vmw_pvscsi"}, Boots: true},
		{Device: "NIC 52:54:00:00:00:0a", Kind: "virtio", Modules: []string{"virtio_pci", "virtio_net"}},
	}, provisioning.UndrivenBy(s, hw("scsi", "pvscsi", "virtio")))

	s.Whole = false
	require.Empty(t, provisioning.UndrivenBy(s, hw("sata", "", "virtio")), "its modules cannot be read")
	require.Subset(t, provisioning.LinuxModules(), []string{"ahci", "sd_mod", "virtio_blk", "vmxnet3"})
}
