// Package provisioning turns a protected machine into a replica machine: its hardware on the target and the wishes
// that override it, its networks, the bubble in which it is tested, and the checks that say whether it is on stage.
//
// It decides what a replica looks like and whether it works. It never moves disk content, keeps no state, and knows no
// driver: hosts are reached through the interfaces of package hypervisors.
package provisioning

import (
	"fmt"
	"slices"
	"strings"

	"understudy/hypervisors"
)

// Wishes override what a replica takes over from its source; zero values take it over.
type Wishes struct {
	Name   string
	CPUs   int
	Memory int64 // bytes
	// NICModel for all NICs: a target may have no driver for what the source has.
	NICModel string
	// Disks are the wishes for single disks, by id; those of a disk that the source does not have are ignored.
	Disks map[string]DiskWish
}

// DiskWish is what a replica does not take over of a disk.
type DiskWish struct {
	// LeaveOut: the replica does not have it.
	LeaveOut bool
	// Bus it is attached to; empty: as at the source.
	Bus string
}

// Disk gives a disk as a replica has it; false: it is left out, or cannot be protected.
func (w Wishes) Disk(d hypervisors.Disk) (hypervisors.Disk, bool) {
	wish := w.Disks[d.ID]
	if wish.Bus != "" && wish.Bus != d.Bus {
		d.Bus, d.Controller = wish.Bus, ""
	}
	return d, !wish.LeaveOut && d.Excluded == ""
}

// BootDisk gives the id of the disk that a machine boots from, as far as its hardware says: the first of the boot order,
// else the first of all; empty: it has none.
func BootDisk(hw hypervisors.Hardware) string {
	id, first := "", 0
	for _, d := range hw.Disks {
		if id == "" || d.Boot > 0 && (first == 0 || d.Boot < first) {
			id, first = d.ID, d.Boot
		}
	}
	return id
}

// Networks maps the name of a source network to the name of a target network. Networks that are not named keep theirs.
type Networks map[string]string

// Target gives the target's name for a source network.
func (n Networks) Target(source string) string {
	if to, ok := n[source]; ok {
		return to
	}
	return source
}

// Replica derives the hardware of a replica from its source: everything a guest can see stays (disks, their ids, buses
// and sizes, NIC models, MAC addresses, firmware), except what the wishes say, what protection leaves out, and what the
// target does not have. It fails with ErrInvalid when nothing would be left to protect, and ErrUnknownNetwork when a NIC
// would lead to a network that the target does not have.
func Replica(source hypervisors.VM, w Wishes, networks Networks, devices hypervisors.Devices, target []hypervisors.Network) (hypervisors.Hardware, error) {
	hw := source.Hardware
	if w.Name != "" {
		hw.Name = w.Name
	}
	if w.CPUs > 0 {
		hw.CPUs = w.CPUs
	}
	if w.Memory > 0 {
		hw.Memory = w.Memory
	}
	hw.Disks = nil
	for _, d := range source.Hardware.Disks {
		if d, has := w.Disk(d); has {
			hw.Disks = append(hw.Disks, fitDisk(d, devices))
		}
	}
	if len(hw.Disks) == 0 {
		return hw, diskless(source, w)
	}
	hw.NICs = slices.Clone(hw.NICs)
	if missing := networks.Missing(source, target); len(missing) > 0 {
		return hw, missing[0]
	}
	for i, nic := range hw.NICs {
		hw.NICs[i].Network = networks.Target(nic.Network)
		if w.NICModel != "" {
			hw.NICs[i].Model = w.NICModel
		}
		hw.NICs[i].Model = fit(hw.NICs[i].Model, devices.NICs, commonNIC)
	}
	return hw, nil
}

// Missing gives an ErrUnknownNetwork for each network of a machine that leads to none of the target's.
func (n Networks) Missing(source hypervisors.VM, target []hypervisors.Network) (missing []error) {
	told := map[string]bool{}
	for _, nic := range source.Hardware.NICs {
		to := n.Target(nic.Network)
		if told[nic.Network] || slices.ContainsFunc(target, func(n hypervisors.Network) bool { return n.Name == to }) {
			continue
		}
		told[nic.Network] = true
		missing = append(missing, &hypervisors.Error{
			Op: "map network", Subject: fmt.Sprintf("%q of machine %s", nic.Network, source.Hardware.Name),
			Err:  fmt.Errorf("%w: the target has no network %q", hypervisors.ErrUnknownNetwork, to),
			Hint: "Map it to one of: " + strings.Join(names(target), ", ") + ".",
		})
	}
	return missing
}

// Clashes gives an error for the name and for each MAC address of a replica that other machines of the target have:
// ErrNameTaken, ErrMACTaken.
func Clashes(replica hypervisors.Hardware, others []hypervisors.VM) (clashes []error) {
	for _, vm := range others {
		if vm.Hardware.Name == replica.Name {
			clashes = append(clashes, &hypervisors.Error{Op: "use", Subject: "name " + replica.Name, Err: hypervisors.ErrNameTaken,
				Hint: "A machine of the target has this name; choose another name for the replica."})
		}
		for _, theirs := range vm.Hardware.NICs {
			if slices.ContainsFunc(replica.NICs, func(ours hypervisors.NIC) bool { return strings.EqualFold(ours.MAC, theirs.MAC) }) {
				clashes = append(clashes, &hypervisors.Error{Op: "use", Subject: "MAC address " + theirs.MAC, Err: hypervisors.ErrMACTaken,
					Hint: "Machine " + vm.Hardware.Name + " of the target has this address."})
			}
		}
	}
	return clashes
}

// Bubble maps every NIC of a machine, by MAC, to one isolated network.
func Bubble(hw hypervisors.Hardware, network string) map[string]string {
	m := make(map[string]string, len(hw.NICs))
	for _, nic := range hw.NICs {
		m[nic.MAC] = network
	}
	return m
}

// diskless is the error of a machine that has nothing to protect.
func diskless(source hypervisors.VM, w Wishes) error {
	e := &hypervisors.Error{Op: "protect", Subject: "machine " + source.Hardware.Name,
		Hint: "Give the machine a disk image of its own (qcow2 for change tracking)."}
	var why []string
	for _, d := range source.Hardware.Disks {
		reason := d.Excluded
		if w.Disks[d.ID].LeaveOut {
			reason, e.Hint = "left out", "Take one of its disks back, or take the machine out of the group."
		}
		why = append(why, d.ID+": "+reason)
	}
	reasons := ""
	if len(why) > 0 {
		reasons = " (" + strings.Join(why, "; ") + ")"
	}
	e.Err = fmt.Errorf("%w: no disk of it would be protected%s", hypervisors.ErrInvalid, reasons)
	return e
}

func names(networks []hypervisors.Network) []string {
	var out []string
	for _, n := range networks {
		out = append(out, n.Name)
	}
	return out
}
