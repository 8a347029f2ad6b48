package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"
)

// machine is what the lab knows of one, beside what the simulator does.
type machine struct {
	ref    types.ManagedObjectReference
	id     string // InstanceUuid
	vmx    string
	on     bool
	disks  map[int32]*disk
	snaps  map[types.ManagedObjectReference]map[int32]frozen
	hidden map[*image]bool   // layers of removed snapshots that several layers rely on, or that were in use
	names  map[string]string // the ids that AddVM was given → "scsi0:0"
}

// disk of a machine as it is now.
type disk struct {
	key     int32
	name    string // "scsi0:0"
	image   *image
	mode    types.VirtualDiskMode
	history *history // nil: changes are not tracked
	device  string   // file in Devices
	private string   // what is written through it is thrown away with it
}

// frozen is a disk in a snapshot.
type frozen struct {
	image  *image
	change string // change id, or empty
}

func newMachine(ref types.ManagedObjectReference) *machine {
	return &machine{
		ref: ref, disks: map[int32]*disk{}, snaps: map[types.ManagedObjectReference]map[int32]frozen{},
		hidden: map[*image]bool{}, names: map[string]string{},
	}
}

// passing says that writes to a disk are thrown away.
func passing(mode types.VirtualDiskMode) bool {
	return mode == types.VirtualDiskModeIndependent_nonpersistent || mode == types.VirtualDiskModeNonpersistent
}

// independent disks are left out of snapshots.
func independent(mode types.VirtualDiskMode) bool {
	return mode == types.VirtualDiskModeIndependent_nonpersistent || mode == types.VirtualDiskModeIndependent_persistent
}

// refers says whether a disk of the machine, now or in a snapshot, is this image.
func (m *machine) refers(i *image) bool {
	for _, d := range m.disks {
		if d.image == i {
			return true
		}
	}
	for _, s := range m.snaps {
		for _, f := range s {
			if f.image == i {
				return true
			}
		}
	}
	return false
}

// above lists the machine's own layers right above an image.
func (m *machine) above(i *image) []*image {
	seen := map[*image]bool{}
	var out []*image
	add := func(top *image) {
		for ; top != nil; top = top.parent {
			if top.parent == i && !seen[top] {
				seen[top] = true
				out = append(out, top)
			}
		}
	}
	for _, d := range m.disks {
		add(d.image)
	}
	for _, s := range m.snaps {
		for _, f := range s {
			add(f.image)
		}
	}
	return out
}

// replace what refers to one image by another.
func (m *machine) replace(old, with *image) {
	for _, d := range m.disks {
		if d.image == old {
			d.image = with
		}
	}
	for _, s := range m.snaps {
		for k, f := range s {
			if f.image == old {
				f.image = with
				s[k] = f
			}
		}
	}
}

// use of an image by running machines.
type use int

const (
	unused use = iota
	reading
	writing
)

// use by running machines other than m. l.mu is held.
func (l *Lab) use(i *image, m *machine) use {
	var most use
	for _, other := range l.machines {
		if other == m || !other.on {
			continue
		}
		for _, d := range other.disks {
			for at := d.image; at != nil; at = at.parent {
				if at != i {
					continue
				}
				how := reading
				if at == d.image && !passing(d.mode) {
					how = writing
				}
				most = max(most, how)
			}
		}
	}
	return most
}

// lock checks that a running machine can open a disk. l.mu is held.
func (l *Lab) lock(m *machine, i *image, mode types.VirtualDiskMode) types.BaseMethodFault {
	if !i.whole() {
		return &types.GenericVmConfigFault{Reason: "The parent virtual disk has been modified since the child was created."}
	}
	if u := l.use(i, m); u == writing || u == reading && !passing(mode) {
		return locked(i)
	}
	for at := i.parent; at != nil; at = at.parent {
		if l.use(at, m) == writing {
			return locked(at)
		}
	}
	return nil
}

// appear shows the disks of the appliance's machine in the folder of devices, and takes away what is gone. l.mu is held.
func (l *Lab) appear(m *machine) error {
	if m.id != l.appliance {
		return nil
	}
	wanted := map[string]bool{}
	var failed []error
	for _, d := range m.disks {
		if !m.on {
			l.vanish(d)
			continue
		}
		if d.device == "" {
			failed = append(failed, l.show(d))
		}
		wanted[filepath.Base(d.device)] = true
	}
	entries, err := os.ReadDir(l.Devices())
	failed = append(failed, err)
	for _, e := range entries {
		if !wanted[e.Name()] {
			failed = append(failed, os.Remove(filepath.Join(l.Devices(), e.Name())))
		}
	}
	return errors.Join(failed...)
}

func (l *Lab) show(d *disk) error {
	name := filepath.Join(l.Devices(), "wwn-0x"+strings.ReplaceAll(d.image.uuid, "-", ""))
	content := d.image.content
	if passing(d.mode) {
		l.serial++
		content = filepath.Join(l.layers(), fmt.Sprintf("redo-%06d.raw", l.serial))
		if err := clone(d.image.content, content); err != nil {
			return err
		}
		d.private = content
	} else {
		d.image.version++ // whoever attached it may write to it
		l.untrack(d.image)
	}
	if err := os.Symlink(content, name); err != nil {
		return err
	}
	d.device = name
	return nil
}

func (l *Lab) vanish(d *disk) {
	if d.private != "" {
		if err := os.Remove(d.private); err != nil {
			l.log.Warn("throw away what was written to a disk", "error", err)
		}
	}
	d.device, d.private = "", ""
}

// named finds a disk by its name, or by what AddVM called it. l.mu is held.
func (m *machine) named(name string) (*disk, error) {
	if n, ok := m.names[name]; ok {
		name = n
	}
	for _, d := range m.disks {
		if d.name == name {
			return d, nil
		}
	}
	return nil, fmt.Errorf("disk %s: %w", name, os.ErrNotExist)
}

// slot names the place of a device: "scsi0:0".
func slot(devices object.VirtualDeviceList, d types.BaseVirtualDevice) string {
	v := d.GetVirtualDevice()
	c, ok := devices.FindByKey(v.ControllerKey).(types.BaseVirtualController)
	if !ok || v.UnitNumber == nil {
		return ""
	}
	kind := "scsi"
	switch c.(type) {
	case *types.VirtualIDEController:
		kind = "ide"
	case *types.VirtualAHCIController:
		kind = "sata"
	case *types.VirtualNVMEController:
		kind = "nvme"
	}
	return fmt.Sprintf("%s%d:%d", kind, c.GetVirtualController().BusNumber, *v.UnitNumber)
}
