package kvm

import (
	"testing"

	"github.com/stretchr/testify/require"
	"libvirt.org/go/libvirtxml"

	"understudy/hypervisors"
)

func webHardware() hypervisors.Hardware {
	return hypervisors.Hardware{
		Name: "web1", CPUs: 2, Memory: 256 << 20, Firmware: hypervisors.BIOS, Arch: "x86_64", Chipset: "q35", GuestAgent: true,
		Disks: []hypervisors.Disk{{ID: "vda", Size: 4 << 20, Bus: "virtio", Boot: 1}, {ID: "sda", Size: 4 << 20, Bus: "scsi"}},
		NICs:  []hypervisors.NIC{{MAC: "52:54:00:00:00:01", Model: "e1000e", Network: "production"}, {MAC: "52:54:00:00:00:02", Network: "bridge/br0"}},
	}
}

const webXML = `<domain type="qemu">
  <name>web1</name>
  <memory unit="KiB">262144</memory>
  <vcpu>2</vcpu>
  <os>
    <type arch="x86_64" machine="q35">hvm</type>
  </os>
  <features>
    <acpi></acpi>
    <apic></apic>
  </features>
  <cpu mode="maximum"></cpu>
  <clock offset="utc"></clock>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <disk type="file" device="disk">
      <driver name="qemu" type="qcow2" discard="unmap"></driver>
      <source file="/s/understudy/r/vda_stage.qcow2"></source>
      <target dev="vda" bus="virtio"></target>
      <boot order="1"></boot>
    </disk>
    <disk type="file" device="disk">
      <driver name="qemu" type="qcow2" discard="unmap"></driver>
      <source file="/s/understudy/r/sda_stage.qcow2"></source>
      <target dev="sda" bus="scsi"></target>
      <address type="drive" controller="0" bus="0" target="0" unit="0"></address>
    </disk>
    <controller type="scsi" index="0" model="virtio-scsi"></controller>
    <interface type="network">
      <mac address="52:54:00:00:00:01"></mac>
      <source network="isolated"></source>
      <model type="e1000e"></model>
    </interface>
    <interface type="bridge">
      <mac address="52:54:00:00:00:02"></mac>
      <source bridge="br0"></source>
      <model type="virtio"></model>
    </interface>
    <serial type="pty"></serial>
    <console type="pty"></console>
    <channel type="unix">
      <target type="virtio" name="org.qemu.guest_agent.0"></target>
    </channel>
    <video>
      <model type="vga"></model>
    </video>
  </devices>
</domain>`

func TestMachineXML(t *testing.T) {
	hw := webHardware()
	def, err := machineXML(hw, true)
	require.NoError(t, err)
	m := &manifest{Hardware: hw}
	r := &replica{id: "r", dir: "/s/understudy/r"}
	require.NoError(t, fitDisks(def, m, r.dir, r.fittedDisks(m, nil, stageFile)))
	connectNICs(def, hw, map[string]string{"52:54:00:00:00:01": "isolated"})
	text, err := def.Marshal()
	require.NoError(t, err)
	require.Equal(t, webXML, text)
}

func TestMachineXMLChoices(t *testing.T) {
	hw := webHardware()
	hw.Accelerated = true
	def, err := machineXML(hw, true)
	require.NoError(t, err)
	require.Equal(t, "kvm", def.Type)
	require.Equal(t, "host-model", def.CPU.Mode)

	def, err = machineXML(hw, false)
	require.NoError(t, err)
	require.Equal(t, "qemu", def.Type, "the host cannot accelerate")
	require.Equal(t, "maximum", def.CPU.Mode)

	hw.Firmware, hw.SecureBoot, hw.TPM = hypervisors.UEFI, true, true
	def, err = machineXML(hw, true)
	require.NoError(t, err)
	require.Equal(t, "efi", def.OS.Firmware)
	require.Equal(t, "yes", def.OS.Loader.Secure)
	require.Len(t, def.Devices.TPMs, 1)

	require.Equal(t, "pc", board(hypervisors.Hardware{Chipset: "pc"}))
	require.Equal(t, "pc", board(hypervisors.Hardware{Chipset: "vmx-19", Disks: []hypervisors.Disk{{Bus: "ide"}}}), "q35 has no IDE")
	require.Equal(t, "q35", board(hypervisors.Hardware{Chipset: "vmx-19"}))

	for _, bad := range []hypervisors.Hardware{{}, {Name: "x", CPUs: 0, Memory: 1 << 30}, {Name: "x", CPUs: 1}} {
		_, err := machineXML(bad, true)
		require.ErrorIs(t, err, hypervisors.ErrInvalid)
	}
}

const ownXML = `<domain type='kvm'>
  <name>db</name><uuid>11111111-2222-3333-4444-555555555555</uuid>
  <metadata><app:x xmlns:app="urn:app">kept</app:x></metadata>
  <devices>
    <disk type='file' device='cdrom'><source file='/iso/x.iso'/><target dev='sdz' bus='sata'/></disk>
    <disk type='block' device='disk'><driver name='qemu' type='raw' cache='none' io='native'/><source dev='/dev/vg/db'/><target dev='vda' bus='virtio'/><serial>S1</serial></disk>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/img/gone.qcow2'/><target dev='vdb' bus='virtio'/></disk>
    <interface type='direct'><mac address='52:54:00:00:00:09'/><source dev='eth0' mode='bridge'/></interface>
  </devices>
</domain>`

func TestAdoptedDefinitionKeepsWhatIsNotOurs(t *testing.T) {
	def := &libvirtxml.Domain{}
	require.NoError(t, def.Unmarshal(ownXML))
	m := &manifest{Adopted: &adopted{Disks: []ground{{Disk: "vda"}, {Disk: "vdb"}}},
		Points: []point{{Disks: []pointDisk{{ID: "vda", Size: 1}, {ID: "sdb", Bus: "scsi", Size: 1}}}}}
	r := &replica{id: "r", dir: "/s/understudy/r"}
	require.NoError(t, fitDisks(def, m, r.dir, r.fittedDisks(m, &m.Points[0], stageFile)))
	connectNICs(def, m.Hardware, nil)
	setMark(def, replicaMark{ID: "r", Owner: "o"}, "t", "d")
	setMark(def, replicaMark{ID: "r", Owner: "o", Run: "x"}, "t", "d")

	var names []string
	for _, d := range def.Devices.Disks {
		names = append(names, d.Target.Dev)
	}
	require.Equal(t, []string{"sdz", "vda", "sdb"}, names)
	require.Equal(t, "/iso/x.iso", def.Devices.Disks[0].Source.File.File)
	vda := def.Devices.Disks[1]
	require.Equal(t, "/s/understudy/r/vda_stage.qcow2", vda.Source.File.File)
	require.Nil(t, vda.Source.Block)
	require.Equal(t, "S1", vda.Serial)
	require.Equal(t, "none", vda.Driver.Cache)
	require.Equal(t, "qcow2", vda.Driver.Type)
	require.NotNil(t, def.Devices.Interfaces[0].Source.Direct, "a NIC that we do not know stays")
	require.Contains(t, def.Metadata.XML, "kept")
	require.Equal(t, &replicaMark{ID: "r", Owner: "o", Run: "x"}, trimmed(readMarks(def).Replica))
}

func trimmed(m *replicaMark) *replicaMark {
	return &replicaMark{ID: m.ID, Owner: m.Owner, Run: m.Run}
}
