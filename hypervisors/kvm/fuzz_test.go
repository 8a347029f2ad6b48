package kvm

import (
	"encoding/json"
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"libvirt.org/go/libvirtxml"

	"understudy/hypervisors"
)

// FuzzManifest reads manifests that anybody may have written. What is read names files of its folder only, survives being
// written again, and points can be removed from it one by one while each that is left keeps all that it stands on.
func FuzzManifest(f *testing.F) {
	hidden := chain([]string{"vda", "vdb"}, []string{"vda"}, []string{"vda", "vdb"})
	hidden.Points[0].Hidden, hidden.Points[1].Hidden = true, true
	whole := chain([]string{"vda"})
	whole.Stage, whole.Live = stage{Point: "p1", Disks: []string{"vda"}}, &liveRun{Point: "p1"}
	whole.Tests = []testRun{{ID: "t", Point: "p1", Disks: []string{"vda"}}}
	whole.Adopted = &adopted{Definition: "<domain/>", Disks: []ground{{Disk: "vda", Path: "/own", Format: "raw", Size: 1}}}
	outside := chain([]string{"vda"})
	outside.Points[0].Disks[0].Map.File = "../../etc/passwd"
	for _, m := range []*manifest{{Version: 1}, chain([]string{"vda"}, []string{"vda"}), hidden, whole, outside} {
		text, err := json.Marshal(m)
		require.NoError(f, err)
		f.Add(text)
	}
	for _, s := range []string{"", "null", "{}", `{"version":2}`, `{"version":1,"points":[{},{}]}`, `{"version":1,"points":[{"meta":{"id":"p"},"disks":null}]}`,
		`{"version":1,"stage":{"disks":["/"]}}`, `{"version":1,"tests":[{"id":"../x","disks":["vda"]}]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := parseManifest(text)
		if err != nil {
			require.ErrorIs(t, err, hypervisors.ErrInvalid)
			return
		}
		for name := range m.files() {
			require.Equal(t, path.Base(name), name, "a file outside of the folder")
			require.Equal(t, "/replica/"+name, path.Join("/replica", name))
		}
		once, err := json.Marshal(m)
		require.NoError(t, err)
		back, err := parseManifest(once)
		require.NoError(t, err)
		again, err := json.Marshal(back)
		require.NoError(t, err)
		require.Equal(t, string(once), string(again))
		for {
			r, ok := m.nextRemoval(-1)
			if !ok {
				break
			}
			if r.Into >= 0 {
				do, unneeded := m.folds(r.Point)
				require.Len(t, m.Points[r.Point].Disks, (len(do)+len(unneeded))/2, "each image is folded or goes")
			}
			n := len(m.Points)
			m.remove(r.Point)
			require.Len(t, m.Points, n-1)
			require.NoError(t, m.check(), "a point lost what it stands on")
		}
		for _, p := range m.Points {
			require.False(t, p.Hidden)
		}
	})
}

// FuzzDomain maps machine definitions that libvirt, or anybody, may have written. The hardware makes sense; a replica's
// machine stands on our overlays alone, is on the networks that were named and no other, and carries one mark of ours.
func FuzzDomain(f *testing.F) {
	for _, s := range []string{
		`<domain type='kvm'><name>a</name><memory unit='MiB'>64</memory><vcpu>2</vcpu><os firmware='efi'><type arch='x86_64' machine='pc-q35-7.2'>hvm</type><boot dev='hd'/></os>
<metadata><x:y xmlns:x="u">1</x:y></metadata><devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/i/a'/><target dev='vda' bus='virtio'/><boot order='1'/></disk>
<disk type='block' device='lun'><source dev='/dev/x'/><target dev='sda' bus='scsi'/></disk><disk type='network' device='disk'><source protocol='rbd' name='p'/><target dev='vdb'/></disk>
<interface type='network'><mac address='52:54:00:00:00:01'/><source network='production'/><model type='virtio'/></interface>
<interface type='bridge'><mac address='52:54:00:00:00:02'/><source bridge='br0'/><vlan><tag id='4'/></vlan></interface><interface type='user'><mac address='52:54:00:00:00:03'/></interface>
<interface type='direct'><mac address='52:54:00:00:00:04'/><source dev='eth0' mode='bridge'/></interface>
<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' state='connected'/></channel><tpm model='tpm-crb'/></devices></domain>`,
		`<domain/>`, `<domain><memory unit='TiB'>18446744073709551615</memory><devices/></domain>`, `<domain><memory unit='T'>9999999999</memory></domain>`,
		`<domain><devices><disk/><interface/><disk device='cdrom'><target dev='vda'/></disk></devices></domain>`,
		`<domain><metadata><understudy:replica xmlns:understudy="https://understudy.dev/replica" id="x" owner="y" run=""/></metadata><devices/></domain>`, `<`, ``,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		def := &libvirtxml.Domain{}
		if def.Unmarshal(text) != nil {
			return
		}
		hw := hardware(def)
		require.GreaterOrEqual(t, hw.Memory, int64(0))
		require.GreaterOrEqual(t, hw.CPUs, 0)
		_ = readMarks(def)
		if def.Devices == nil {
			return
		}
		for i := range def.Devices.Disks {
			if x := &def.Devices.Disks[i]; x.Target != nil {
				k := plainDisk(x)
				require.True(t, k.Path != "" || k.Excluded != "" || x.Source.File != nil || x.Source.Block != nil || x.Source.Volume != nil, "a disk from nowhere: %+v", k)
				require.GreaterOrEqual(t, bootOf(def, k.ID), 0)
			}
		}
		hw.NICs = nics(def.Devices.Interfaces)
		networks := map[string]string{}
		for _, nic := range hw.NICs {
			networks[nic.MAC] = "bubble"
		}
		_ = warnings(&definition{live: *def}, hw)

		m := chain([]string{"vda", "sdb"})
		fitDisks(def, m, "/replica", []fittedDisk{{id: "vda", bus: "virtio", file: "/replica/a"}, {id: "sdb", bus: "scsi", file: "/replica/b"}})
		connectNICs(def, hw, networks)
		mark := replicaMark{ID: "r", Owner: "owner123", Run: "t"}
		setMark(def, mark, "title", "description")
		setMark(def, mark, "title", "description")
		require.Equal(t, 1, strings.Count(def.Metadata.XML, mark.markup()))
		ours := 0
		for _, d := range def.Devices.Disks {
			if d.Target != nil && m.knows(d.Target.Dev) || within("/replica", d.Source) {
				ours++
				require.True(t, within("/replica", d.Source), "a replica's disk that is not ours")
				require.Nil(t, d.BackingStore)
			}
		}
		require.GreaterOrEqual(t, ours, 2)
		for i := range def.Devices.Interfaces {
			if nic := &def.Devices.Interfaces[i]; nic.MAC != nil && nic.MAC.Address != "" {
				require.Equal(t, "bubble", networkOf(nic), "a NIC of a test outside of its bubble")
			}
		}
		_, err := def.Marshal()
		require.NoError(t, err)
	})
}
