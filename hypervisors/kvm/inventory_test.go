package kvm

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"libvirt.org/go/libvirtxml"

	"understudy/hypervisors"
)

func TestHardware(t *testing.T) {
	var x libvirtxml.Domain
	require.NoError(t, x.Unmarshal(`<domain type='kvm'><name>m</name><memory unit='MiB'>512</memory><vcpu>3</vcpu>
<os firmware='efi'><type arch='x86_64' machine='pc-q35-7.2'>hvm</type><loader secure='yes'/><boot dev='network'/><boot dev='hd'/></os>
<cpu mode='host-model'/><devices><tpm model='tpm-crb'><backend type='emulator'/></tpm>
<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' state='connected'/></channel>
<disk type='file' device='disk'><driver type='qcow2'/><source file='/a'/><target dev='vda' bus='virtio'/></disk>
<disk type='block' device='disk'><source dev='/dev/b'/><target dev='vdb' bus='virtio'/></disk>
<disk type='file' device='disk'><source file='/s'/><target dev='vdc'/><shareable/></disk>
<disk type='file' device='disk'><source file='/r'/><target dev='vdd'/><readonly/></disk>
<disk type='network' device='disk'><source protocol='rbd' name='p/i'/><target dev='vde'/></disk>
<disk type='block' device='lun'><source dev='/dev/c'/><target dev='sda'/></disk>
<interface type='network'><mac address='52:54:00:AA:00:01'/><source network='n'/><model type='virtio'/></interface>
<interface type='bridge'><mac address='52:54:00:aa:00:02'/><source bridge='br0'/></interface>
<interface type='user'><mac address='52:54:00:aa:00:03'/></interface>
<hostdev mode='subsystem' type='usb'><source/></hostdev></devices></domain>`))
	hw := hardware(&x)
	require.Equal(t, hypervisors.Hardware{Name: "m", CPUs: 3, Memory: 512 << 20, Firmware: hypervisors.UEFI, SecureBoot: true, TPM: true,
		Arch: "x86_64", Chipset: "q35", CPUModel: "host-model", Accelerated: true, GuestAgent: true}, hw)
	for i := range x.Devices.Disks {
		hw.Disks = append(hw.Disks, plainDisk(&x.Devices.Disks[i]).Disk)
	}
	require.Equal(t, []string{"", "", "shared", "read-only", "rbd", "passed-through"}, []string{hw.Disks[0].Excluded, hw.Disks[1].Excluded,
		hasWord(hw.Disks[2].Excluded, "shared"), hasWord(hw.Disks[3].Excluded, "read-only"), hasWord(hw.Disks[4].Excluded, "rbd"), hasWord(hw.Disks[5].Excluded, "passed-through")})
	require.Equal(t, []string{"qcow2", "raw", "/a", "/dev/b"}, []string{hw.Disks[0].Format, hw.Disks[1].Format, hw.Disks[0].Path, hw.Disks[1].Path})
	require.Equal(t, []int{2, 0}, []int{bootOf(&x, "vda"), bootOf(&x, "vdb")})
	hw.NICs = nics(x.Devices.Interfaces)
	require.Equal(t, []hypervisors.NIC{{MAC: "52:54:00:aa:00:01", Model: "virtio", Network: "n"}, {MAC: "52:54:00:aa:00:02", Network: "bridge/br0"},
		{MAC: "52:54:00:aa:00:03"}}, hw.NICs)
	require.Len(t, warnings(&definition{live: x, persistent: true}, hw), 5+1+1, "raw, four excluded, NIC, host device")
}

// hasWord is the word if it is in the text, and else the text.
func hasWord(text, word string) string {
	if strings.Contains(text, word) {
		return word
	}
	return text
}

func TestInventory(t *testing.T) {
	ctx := testContext(t)
	name, vm := newMachine(t, "qcow2")
	h := openHost(t, testLab.Source.URI)
	got, err := h.VM(ctx, vm)
	require.NoError(t, err)
	require.Equal(t, hypervisors.Off, got.State)
	require.Equal(t, name, got.Hardware.Name)
	require.Empty(t, got.Warnings)
	require.Len(t, got.Hardware.Disks, 2)
	require.Equal(t, hypervisors.Disk{ID: "vda", Size: 8 << 20, Bus: "virtio", Format: "qcow2", Path: machineImage(name, "vda"), Boot: 1}, got.Hardware.Disks[0])
	all, err := h.VMs(ctx)
	require.NoError(t, err)
	require.Contains(t, all, got)
	_, err = h.VM(ctx, "not a uuid")
	require.ErrorIs(t, err, hypervisors.ErrNotFound)

	info, err := h.Info(ctx)
	require.NoError(t, err)
	other, err := openHost(t, testLab.Target.URI).Info(ctx)
	require.NoError(t, err)
	require.NotEqual(t, info.Identity, other.Identity)
	networks, err := h.Networks(ctx)
	require.NoError(t, err)
	require.Contains(t, networks, hypervisors.Network{Name: "production", Kind: "libvirt network, open"})
	stores, err := h.Storage(ctx)
	require.NoError(t, err)
	require.Len(t, stores, 1)
	require.True(t, stores[0].Default)
	require.Equal(t, "/var/lib/libvirt/images", stores[0].Path)

	virsh(t, testLab.Source, "pool-destroy", "default")
	t.Cleanup(func() { virsh(t, testLab.Source, "pool-start", "default") })
	stores, err = h.Storage(ctx)
	require.NoError(t, err)
	require.Len(t, stores, 1, "the folder stands in for the pool")
}

func TestOldHostsLackParts(t *testing.T) {
	now := capabilities(9_000_000, 7_002_022)
	require.True(t, now.Source && now.ChangeTracking && now.Quiesce && now.GroupMoment)
	require.Empty(t, now.Missing)
	old := capabilities(5_000_000, 3_001_000)
	require.False(t, old.Source || old.ChangeTracking || old.Quiesce || old.GroupMoment)
	require.True(t, old.Target && old.Power)
	require.Len(t, old.Missing, 2)
	require.Contains(t, old.Missing[0], "libvirt 5.0.0")
}
