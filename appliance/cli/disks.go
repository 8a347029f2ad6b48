package cli

import (
	"fmt"
	"slices"
	"strings"

	"understudy/api"
)

// leaveOut adds the wishes of --leave-out and --disk-bus to the machines that they name.
func leaveOut(machines []api.GroupMachine, out, buses []string) error {
	for _, text := range out {
		m, disk, err := diskOf(machines, "--leave-out", text)
		if err != nil {
			return err
		}
		wishFor(m, disk).LeaveOut = true
	}
	for _, text := range buses {
		at := strings.LastIndexByte(text, '=')
		if at < 0 || strings.Count(text, "=") < 2 {
			return wrong(fmt.Sprintf("--disk-bus %q is not MACHINE=DISK=BUS", text))
		}
		m, disk, err := diskOf(machines, "--disk-bus", text[:at])
		if err != nil {
			return err
		}
		wishFor(m, disk).Bus = text[at+1:]
	}
	return nil
}

// diskOf understands MACHINE=DISK.
func diskOf(machines []api.GroupMachine, flag, text string) (*api.GroupMachine, string, error) {
	name, disk, _ := strings.Cut(text, "=")
	if name == "" || disk == "" {
		return nil, "", wrong(fmt.Sprintf("%s %q is not MACHINE=DISK", flag, text))
	}
	m, err := machineNamed(machines, name, flag+" "+text)
	return m, disk, err
}

// wishFor finds the wish for a disk, or makes it.
func wishFor(m *api.GroupMachine, disk string) *api.GroupDisk {
	i := slices.IndexFunc(m.Disks, func(d api.GroupDisk) bool { return d.ID == disk })
	if i < 0 {
		i, m.Disks = len(m.Disks), append(m.Disks, api.GroupDisk{ID: disk})
	}
	return &m.Disks[i]
}

// diskEdits adds the machines that leave other disks out from now on to the edits.
func diskEdits(g api.Group, edits []api.MachineEdit, out, back []string) ([]api.MachineEdit, error) {
	change := func(flag, text string, do func(now []string, disk string) []string) error {
		name, disk, _ := strings.Cut(text, "=")
		if name == "" || disk == "" {
			return wrong(fmt.Sprintf("%s %q is not MACHINE=DISK", flag, text))
		}
		var i int
		i, edits = editOf(g, edits, name)
		if edits[i].LeaveOut == nil {
			m := machineOf(g, name)
			edits[i].LeaveOut = append([]string{}, m.LeftOut()...)
		}
		if edits[i].LeaveOut = do(edits[i].LeaveOut, disk); edits[i].LeaveOut == nil {
			return wrong(fmt.Sprintf("%s %s: disk %s is not left out", flag, text, disk))
		}
		return nil
	}
	for _, text := range out {
		if err := change("--leave-out", text, func(now []string, disk string) []string {
			if slices.Contains(now, disk) {
				return now
			}
			return append(now, disk)
		}); err != nil {
			return nil, err
		}
	}
	for _, text := range back {
		if err := change("--take-back", text, func(now []string, disk string) []string {
			if !slices.Contains(now, disk) {
				return nil
			}
			return slices.DeleteFunc(now, func(id string) bool { return id == disk })
		}); err != nil {
			return nil, err
		}
	}
	return edits, nil
}

// convertedText names the machines of a group whose guests are converted; empty: none.
func convertedText(g api.Group) string {
	var all []string
	for i, m := range g.Machines {
		if m.Convert {
			all = append(all, machineName(g, i))
		}
	}
	return strings.Join(all, ", ")
}

// machineName is what a machine of a group is called, once it is known; before, what the specification calls it.
func machineName(g api.Group, i int) string {
	if i < len(g.Members) {
		return g.Members[i].Name
	}
	return g.Machines[i].VM
}

// leftOutText says which disks of a group are left out; empty: none.
func leftOutText(g api.Group) string {
	var all []string
	for i, m := range g.Machines {
		if out := m.LeftOut(); len(out) > 0 {
			all = append(all, machineName(g, i)+": "+strings.Join(out, ", "))
		}
	}
	return strings.Join(all, "; ")
}
