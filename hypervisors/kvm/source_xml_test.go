package kvm

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"understudy/hypervisors"
)

func testPlan() *plan {
	p := &plan{vm: "v", checkpoint: "understudy.testown1.c2", socket: "/run/s"}
	for _, id := range []string{"vda", "vdb"} {
		p.disks = append(p.disks, &planDisk{disk: disk{Disk: hypervisors.Disk{ID: id, Size: 1 << 20}, name: id, tracked: id == "vda"}, scratch: "/i/" + id})
	}
	p.disks[0].since = "understudy.testown1.c1"
	return p
}

func TestBackupXML(t *testing.T) {
	text, err := testPlan().backupXML()
	require.NoError(t, err)
	require.Equal(t, `<domainbackup mode="pull">
  <server transport="unix" socket="/run/s"></server>
  <disks>
    <disk type="file" name="vda" backup="yes" backupmode="incremental" incremental="understudy.testown1.c1" exportname="vda" exportbitmap="understudy-vda">
      <driver type="qcow2"></driver>
      <scratch file="/i/vda"></scratch>
    </disk>
    <disk type="file" name="vdb" backup="yes" backupmode="full" exportname="vdb">
      <driver type="qcow2"></driver>
      <scratch file="/i/vdb"></scratch>
    </disk>
  </disks>
</domainbackup>`, text)
	require.Equal(t, "/run/s", socketOf(text))
	require.Empty(t, socketOf("<domainbackup mode='push'/>"))
	require.Empty(t, socketOf(otherJob))

	text, err = testPlan().checkpointXML()
	require.NoError(t, err)
	require.Contains(t, text, `<disk name="vda" checkpoint="bitmap"></disk>`)
	require.Contains(t, text, `<disk name="vdb" checkpoint="no"></disk>`)
	require.Contains(t, text, "<description>sizes vda=1048576</description>")
	require.Equal(t, map[string]int64{"vda": 1 << 20, "vdb": 2}, parseSizes(describeSizes(map[string]int64{"vdb": 2, "vda": 1 << 20})))
	require.Empty(t, parseSizes("somebody's own words vda=5"))
}

func TestDistrust(t *testing.T) {
	lost := func(text string) error {
		return virtError(libvirt.Error{Code: libvirt.ERR_CHECKPOINT_INCONSISTENT, Message: text})
	}
	for _, c := range []struct {
		err   error
		given bool
		left  int // disks whose tracking is still trusted
	}{
		{lost("checkpoint inconsistent: missing or broken bitmap 'c8' for disk 'vda'"), true, 1},
		{lost("something about no disk"), true, 0},
		{errors.New("internal error: unable to execute QEMU command 'transaction': Bitmap 'c2' is inconsistent and cannot be used"), true, 0},
		{errors.New("Device is in use"), false, 2},
	} {
		p := testPlan()
		p.disks[1].since = "understudy.testown1.c1"
		require.Equal(t, c.given, p.distrust(c.err), c.err)
		left := 0
		for _, k := range p.disks {
			if k.since != "" {
				left++
			}
		}
		require.Equal(t, c.left, left, c.err)
	}
	p := testPlan()
	p.disks[0].since = ""
	require.False(t, p.distrust(lost("nothing left")), "else it would be tried without end")
}

func TestWithoutDisk(t *testing.T) {
	const text = `<domaincheckpoint><name>c</name><disks><disk name='vda' checkpoint='bitmap' bitmap='c'/>` +
		`<disk name='vdb' checkpoint='bitmap' bitmap='c'/><disk name='vdc' checkpoint='no'/></disks><domain><name>x</name></domain></domaincheckpoint>`
	got, ok := withoutDisk(text, "bitmap 'c' not found in backing chain of 'vda'")
	require.True(t, ok)
	require.Equal(t, `<domaincheckpoint><name>c</name><disks><disk name="vda" checkpoint="no"/><disk name="vdb" checkpoint="bitmap" bitmap="c"/>`+
		`<disk name="vdc" checkpoint="no"/></disks><domain><name>x</name></domain></domaincheckpoint>`, got)
	_, ok = withoutDisk(got, "not found in backing chain of 'vdb'")
	require.False(t, ok, "it was the last one")
	_, ok = withoutDisk(text, "something else")
	require.False(t, ok)
}

func TestReaderDefinition(t *testing.T) {
	var x libvirtxml.Domain
	require.NoError(t, x.Unmarshal(`<domain type='kvm'><name>m</name><uuid>u</uuid><metadata><a:b xmlns:a="x"/></metadata><memory unit='GiB'>64</memory><vcpu>32</vcpu>
<os firmware='efi'><type arch='x86_64' machine='q35'>hvm</type></os><devices>
<disk type='file' device='disk'><source file='/d'/><target dev='vda' bus='virtio'/><boot order='1'/></disk>
<disk type='file' device='cdrom'><source file='/gone.iso'/><target dev='sda'/></disk>
<interface type='network'><source network='gone'/></interface><hostdev mode='subsystem' type='pci'/></devices></domain>`))
	r := readerDefinition(&x, testOwner)
	require.Equal(t, testOwner, readMarks(r).Reader.Owner)
	require.Nil(t, readMarks(r).Replica)
	require.Len(t, r.Devices.Disks, 1)
	require.Empty(t, r.Devices.Interfaces)
	require.Empty(t, r.Devices.Hostdevs)
	require.Empty(t, r.OS.Firmware)
	_, err := r.Marshal()
	require.NoError(t, err)
	require.Nil(t, readMarks(&x).Reader)
	require.NotNil(t, x.Devices.Disks[0].Boot, "the original is not changed")
}

func TestMarks(t *testing.T) {
	in := replicaMark{ID: `a"<&>`, Owner: testOwner, Run: "live"}
	x := libvirtxml.Domain{Metadata: &libvirtxml.DomainMetadata{XML: `<o:x xmlns:o="urn:other"/>` + in.markup()}}
	got := readMarks(&x).Replica
	require.NotNil(t, got)
	require.Equal(t, []string{in.ID, in.Owner, in.Run}, []string{got.ID, got.Owner, got.Run})
	x.Metadata.XML = "<broken"
	require.Nil(t, readMarks(&x).Replica)
}
