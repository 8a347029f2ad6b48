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
	i := slices.IndexFunc(machines, func(m api.GroupMachine) bool { return m.VM == name })
	if i < 0 {
		return nil, "", wrong(fmt.Sprintf("%s %s: no --machine has that name", flag, text))
	}
	return &machines[i], disk, nil
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
		m := machineOf(g, name)
		i := slices.IndexFunc(edits, func(e api.MachineEdit) bool { return e.VM == name })
		if i < 0 {
			i, edits = len(edits), append(edits, api.MachineEdit{VM: name, Stage: m.Stage, Checks: m.Checks})
		}
		if edits[i].LeaveOut == nil {
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
		if !m.Convert {
			continue
		}
		if i < len(g.Members) {
			m.VM = g.Members[i].Name
		}
		all = append(all, m.VM)
	}
	return strings.Join(all, ", ")
}

// leftOutText says which disks of a group are left out; empty: none.
func leftOutText(g api.Group) string {
	var all []string
	for i, m := range g.Machines {
		name := m.VM
		if i < len(g.Members) {
			name = g.Members[i].Name
		}
		if out := m.LeftOut(); len(out) > 0 {
			all = append(all, name+": "+strings.Join(out, ", "))
		}
	}
	return strings.Join(all, "; ")
}
