package provisioning_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/hypervisors"
	"understudy/provisioning"
)

func source() hypervisors.VM {
	return hypervisors.VM{ID: "1", Hardware: hypervisors.Hardware{Name: "web", CPUs: 2, Memory: 1 << 30, Firmware: hypervisors.UEFI, Chipset: "q35",
		Disks: []hypervisors.Disk{{ID: "vda", Size: 1 << 30, Bus: "virtio", Boot: 1}, {ID: "sda", Excluded: "shared with another machine"}},
		NICs:  []hypervisors.NIC{{MAC: "52:54:00:00:00:01", Model: "virtio", Network: "lan"}, {MAC: "52:54:00:00:00:02", Model: "e1000e", Network: "dmz"}}}}
}

var networks = []hypervisors.Network{{Name: "lan"}, {Name: "dr-dmz"}}

func TestReplicaTakesOverWhatGuestsSee(t *testing.T) {
	vm := source()
	hw, err := provisioning.Replica(vm, provisioning.Wishes{}, provisioning.Networks{"dmz": "dr-dmz"}, hypervisors.Devices{}, networks)
	require.NoError(t, err)
	require.Len(t, hw.Disks, 1, "what cannot be protected is left out")
	require.Equal(t, "dr-dmz", hw.NICs[1].Network)
	require.Equal(t, "52:54:00:00:00:02", hw.NICs[1].MAC)
	require.Equal(t, "dmz", vm.Hardware.NICs[1].Network, "the source's own description is not touched")
	hw.Disks, hw.NICs = vm.Hardware.Disks, vm.Hardware.NICs
	require.Equal(t, vm.Hardware, hw)
}

func TestReplicaFollowsWishes(t *testing.T) {
	hw, err := provisioning.Replica(source(), provisioning.Wishes{Name: "web-dr", CPUs: 1, Memory: 1 << 29, NICModel: "e1000e"},
		provisioning.Networks{"dmz": "lan"}, hypervisors.Devices{}, networks)
	require.NoError(t, err)
	require.Equal(t, "web-dr", hw.Name)
	require.Equal(t, 1, hw.CPUs)
	require.EqualValues(t, 1<<29, hw.Memory)
	require.Equal(t, "e1000e", hw.NICs[0].Model)
}

func TestReplicaFollowsWishesForDisks(t *testing.T) {
	vm := source()
	vm.Hardware.Disks = append(vm.Hardware.Disks, hypervisors.Disk{ID: "vdb", Bus: "virtio"}, hypervisors.Disk{ID: "vdc", Bus: "virtio"})
	mapping := provisioning.Networks{"dmz": "lan"}
	wishes := provisioning.Wishes{Disks: map[string]provisioning.DiskWish{"vdb": {LeaveOut: true}, "vdc": {Bus: "sata"}, "gone": {LeaveOut: true}}}
	hw, err := provisioning.Replica(vm, wishes, mapping, hypervisors.Devices{}, networks)
	require.NoError(t, err)
	require.Equal(t, []hypervisors.Disk{vm.Hardware.Disks[0], {ID: "vdc", Bus: "sata"}}, hw.Disks)
	require.Len(t, vm.Hardware.Disks, 4)
	require.Equal(t, "virtio", vm.Hardware.Disks[3].Bus, "the source's own description is not touched")

	for _, id := range []string{"vda", "vdc"} {
		wishes.Disks[id] = provisioning.DiskWish{LeaveOut: true}
	}
	_, err = provisioning.Replica(vm, wishes, mapping, hypervisors.Devices{}, networks)
	require.ErrorIs(t, err, hypervisors.ErrInvalid)
	require.Contains(t, err.Error(), "vda: left out; sda: shared with another machine; vdb: left out")
	require.Contains(t, hypervisors.Hint(err), "Take one of its disks back")
}

// On another hypervisor a guest finds what it knows from its own where that has it, and else what every guest knows.
func TestReplicaOnAnotherHypervisor(t *testing.T) {
	vm := source()
	vm.Hardware.Disks = []hypervisors.Disk{{ID: "a", Bus: "virtio"}, {ID: "b", Bus: "scsi", Controller: "pvscsi"}, {ID: "c", Bus: "scsi", Controller: "virtio-scsi"},
		{ID: "d", Bus: "scsi"}, {ID: "e", Bus: "nvme"}, {ID: "f", Bus: "scsi", Controller: "virtio-scsi"}}
	has := hypervisors.Devices{Disks: []string{"scsi/pvscsi", "scsi/lsilogic", "sata"}, NICs: []string{"vmxnet3", "e1000e"}}
	wishes := provisioning.Wishes{Disks: map[string]provisioning.DiskWish{"a": {Bus: "scsi"}}}
	hw, err := provisioning.Replica(vm, wishes, provisioning.Networks{"dmz": "lan"}, has, networks)
	require.NoError(t, err)
	var got []string
	for _, d := range hw.Disks {
		got = append(got, d.Attached())
	}
	require.Equal(t, []string{"scsi", "scsi/pvscsi", "sata", "scsi", "sata", "sata"}, got)
	require.Equal(t, "e1000e", hw.NICs[0].Model)
	require.Equal(t, []provisioning.Replaced{{"disk a", "virtio", "scsi"}, {"disk c", "scsi/virtio-scsi", "sata"}, {"disk e", "nvme", "sata"}, {"disk f", "scsi/virtio-scsi", "sata"},
		{"NIC 52:54:00:00:00:01", "virtio", "e1000e"}}, provisioning.Replacements(vm.Hardware, hw))

	has = hypervisors.Devices{Disks: []string{"virtio"}, NICs: []string{"virtio"}} // a host that has little
	hw, err = provisioning.Replica(vm, provisioning.Wishes{}, provisioning.Networks{"dmz": "lan"}, has, networks)
	require.NoError(t, err)
	require.Equal(t, "virtio", hw.Disks[5].Attached())
	require.Equal(t, "virtio", hw.NICs[1].Model)
}

func TestBootDisk(t *testing.T) {
	for want, disks := range map[string][]hypervisors.Disk{
		"":  nil,
		"a": {{ID: "a"}, {ID: "b"}},
		"b": {{ID: "a"}, {ID: "b", Boot: 2}},
		"c": {{ID: "a", Boot: 3}, {ID: "b", Boot: 2}, {ID: "c", Boot: 1}, {ID: "d"}},
	} {
		require.Equal(t, want, provisioning.BootDisk(hypervisors.Hardware{Disks: disks}))
	}
}

func TestReplicaThatCannotBe(t *testing.T) {
	_, err := provisioning.Replica(source(), provisioning.Wishes{}, nil, hypervisors.Devices{}, networks)
	require.ErrorIs(t, err, hypervisors.ErrUnknownNetwork)
	require.Contains(t, err.Error(), "dmz")
	require.Contains(t, hypervisors.Hint(err), "lan, dr-dmz")

	vm := source()
	vm.Hardware.Disks = vm.Hardware.Disks[1:]
	_, err = provisioning.Replica(vm, provisioning.Wishes{}, provisioning.Networks{"dmz": "lan"}, hypervisors.Devices{}, networks)
	require.ErrorIs(t, err, hypervisors.ErrInvalid)
	require.Contains(t, err.Error(), "shared with another machine")
}

func TestBubbleLeadsEveryNICInside(t *testing.T) {
	require.Equal(t, map[string]string{"52:54:00:00:00:01": "b", "52:54:00:00:00:02": "b"}, provisioning.Bubble(source().Hardware, "b"))
}
