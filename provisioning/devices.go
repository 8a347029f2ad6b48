package provisioning

import (
	"slices"
	"strings"

	"understudy/hypervisors"
)

// Kinds of devices that systems of the last fifteen years have a driver for by themselves: what a replica gets instead of
// one that its host does not have. Paravirtual ones are quicker, but only some guests know another hypervisor's.
const (
	commonDisk = "sata"
	commonNIC  = "e1000e"
)

// fit gives the kind itself where the target has it, or nobody knows what it has; else the common one, else the first.
func fit(kind string, has []string, common string) string {
	switch {
	case kind == "" || len(has) == 0 || slices.Contains(has, kind):
		return kind
	case slices.Contains(has, common):
		return common
	}
	return has[0]
}

func fitDisk(d hypervisors.Disk, has hypervisors.Devices) hypervisors.Disk {
	if slices.ContainsFunc(has.Disks, func(kind string) bool { return strings.HasPrefix(kind, d.Attached()+"/") }) {
		return d // on a bus, and any controller will do
	}
	d.Bus, d.Controller, _ = strings.Cut(fit(d.Attached(), has.Disks, commonDisk), "/")
	return d
}

// Replaced is a device that a replica has in place of its source's.
type Replaced struct {
	// Device as people call it: "disk vda", "NIC 52:54:00:00:00:01".
	Device string
	// Was and Is are its kinds at the source and at the replica, as hypervisors.Devices has them.
	Was, Is string
}

// Replacements are the devices of a replica that its guest needs another driver for than at its source.
func Replacements(source, replica hypervisors.Hardware) (all []Replaced) {
	for _, is := range replica.Disks {
		for _, was := range source.Disks {
			if was.ID == is.ID && was.Attached() != is.Attached() {
				all = append(all, Replaced{"disk " + is.ID, was.Attached(), is.Attached()})
			}
		}
	}
	for _, is := range replica.NICs {
		for _, was := range source.NICs {
			if strings.EqualFold(was.MAC, is.MAC) && was.Model != is.Model {
				all = append(all, Replaced{"NIC " + is.MAC, was.Model, is.Model})
			}
		}
	}
	return all
}
