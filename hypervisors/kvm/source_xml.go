package kvm

import (
	"fmt"
	"sort"
	"strconv"
	"strings"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"
)

// backupXML orders a pull backup of the plan's disks, each with what changed as far as that is known.
func (p *plan) backupXML() (string, error) {
	x := libvirtxml.DomainBackup{Pull: &libvirtxml.DomainBackupPull{
		Server: &libvirtxml.DomainBackupPullServer{UNIX: &libvirtxml.DomainBackupPullServerUNIX{Socket: p.socket}},
		Disks:  &libvirtxml.DomainBackupPullDisks{}}}
	for _, k := range p.disks {
		d := libvirtxml.DomainBackupPullDisk{Name: k.name, Backup: "yes", BackupMode: "full", ExportName: k.ID,
			Driver:  &libvirtxml.DomainBackupDiskDriver{Type: "qcow2"},
			Scratch: &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: k.scratch}}}
		if k.since != "" {
			d.BackupMode, d.Incremental, d.ExportBitmap = "incremental", k.since, exportBitmap(k.ID)
		}
		x.Pull.Disks.Disks = append(x.Pull.Disks.Disks, d)
	}
	return x.Marshal()
}

// exportBitmap is the name under which a disk's changes are served.
func exportBitmap(disk string) string { return "understudy-" + disk }

// checkpointXML orders the checkpoint that the next backup will start from; empty when no disk can be tracked.
func (p *plan) checkpointXML() (string, error) {
	if p.checkpoint == "" {
		return "", nil
	}
	x := libvirtxml.DomainCheckpoint{Name: p.checkpoint, Disks: &libvirtxml.DomainCheckpointDisks{}}
	sizes := map[string]int64{}
	for _, k := range p.disks {
		d := libvirtxml.DomainCheckpointDisk{Name: k.name, Checkpoint: "no"}
		if k.tracked {
			d.Checkpoint = "bitmap"
			sizes[k.name] = k.Size
		}
		x.Disks.Disks = append(x.Disks.Disks, d)
	}
	x.Description = describeSizes(sizes)
	return x.Marshal()
}

// A checkpoint's description keeps the sizes of its disks, as "sizes vda=1073741824 vdb=…": a bitmap does not mark what
// a disk has grown by, so that one must be able to tell.
func describeSizes(sizes map[string]int64) string {
	var parts []string
	for id, size := range sizes {
		parts = append(parts, fmt.Sprintf("%s=%d", id, size))
	}
	sort.Strings(parts)
	return "sizes " + strings.Join(parts, " ")
}

func parseSizes(description string) map[string]int64 {
	sizes := map[string]int64{}
	rest, ok := strings.CutPrefix(description, "sizes ")
	if !ok {
		return sizes
	}
	for part := range strings.FieldsSeq(rest) {
		id, n, _ := strings.Cut(part, "=")
		if size, err := strconv.ParseInt(n, 10, 64); err == nil {
			sizes[id] = size
		}
	}
	return sizes
}

// track is a checkpoint that a machine has.
type track struct {
	disks map[string]bool  // those with a bitmap
	sizes map[string]int64 // as they were, for checkpoints of ours
}

// readTracks lists the checkpoints of a machine by name.
func readTracks(d *libvirt.Domain) (map[string]track, error) {
	all, err := d.ListAllCheckpoints(0)
	if err != nil {
		return nil, virtError(err)
	}
	tracks := map[string]track{}
	for i := range all {
		defer all[i].Free()
		text, err := all[i].GetXMLDesc(libvirt.DOMAIN_CHECKPOINT_XML_NO_DOMAIN)
		if virtCode(err) == libvirt.ERR_NO_DOMAIN_CHECKPOINT {
			continue
		}
		if err != nil {
			return nil, virtError(err)
		}
		var x libvirtxml.DomainCheckpoint
		if err := x.Unmarshal(text); err != nil {
			return nil, err
		}
		t := track{disks: map[string]bool{}, sizes: parseSizes(x.Description)}
		if x.Disks != nil {
			for _, k := range x.Disks.Disks {
				t.disks[k.Name] = k.Checkpoint == "bitmap"
			}
		}
		tracks[x.Name] = t
	}
	return tracks, nil
}

// socketOf is the unix socket in the description of a backup job; empty when it has none.
func socketOf(text string) string {
	var x libvirtxml.DomainBackup
	if err := x.Unmarshal(text); err != nil || x.Pull == nil || x.Pull.Server == nil || x.Pull.Server.UNIX == nil {
		return ""
	}
	return x.Pull.Server.UNIX.Socket
}
