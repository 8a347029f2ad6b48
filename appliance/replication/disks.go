package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"understudy/api"
	"understudy/hypervisors"
	"understudy/provisioning"
)

// Which disks of a machine are protected, and how the replica has them. A disk that is left out is in no checkpoint and no
// point, in both directions: a disk of that name on the other side is another one, and must not overwrite it at home.

// mayLeaveOut looks at the machines whose disks an edit leaves out or takes back: what a name that nobody has would leave
// out is protected all the same, and no machine is without a disk.
func (e *Engine) mayLeaveOut(ctx context.Context, g group, edit api.GroupEdit) error {
	for i, m := range edit.Machines {
		at, err := g.machine(m.VM)
		if m.LeaveOut == nil || err != nil { // said later
			continue
		}
		was := g.Spec.Machines[at]
		if same(was.LeftOut(), m.LeaveOut) {
			continue
		}
		if err := g.atHome(i); err != nil {
			return err
		}
		host, failed := e.host(ctx, g.Home.Host)
		if failed != nil {
			return public(failed)
		}
		vm, failed := host.VM(ctx, g.Members[at].Home.VM)
		if failed != nil {
			return public(failed)
		}
		if err := leavesSome(vm, was, m.LeaveOut, fmt.Sprintf("machines[%d].leaveOut", i)); err != nil {
			return err
		}
	}
	return nil
}

// same says that two lists name the same disks.
func same(a, b []string) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(id string) bool { return !slices.Contains(b, id) })
}

// leavesSome refuses to leave out a disk that a machine does not have, unless it was left out before, and all that it has.
func leavesSome(vm hypervisors.VM, was api.GroupMachine, leaveOut []string, field string) error {
	for n, id := range leaveOut {
		if !slices.ContainsFunc(vm.Hardware.Disks, byID(id)) && !slices.Contains(was.LeftOut(), id) {
			unknown := unknownDisk(vm, id)
			unknown.Field = fmt.Sprintf("%s[%d]", field, n)
			return unknown
		}
	}
	was.Disks = was.LeavingOut(leaveOut)
	if _, err := provisioning.Replica(vm, wishes(was), nil, hypervisors.Devices{}, nil); errors.Is(err, hypervisors.ErrInvalid) {
		refused := asPublic(err)
		refused.Field = field
		return refused
	}
	return nil
}

// atHome refuses to change which disks are protected while production is elsewhere. What was left out there would not be
// copied home, and would go with the machine that served there; what was taken back there would overwrite the disk of
// that name at home, which nothing else has.
func (g *group) atHome(machine int) *api.Error {
	if !g.Reversed && (g.State == api.StateMirroring || g.State == api.StateProtected) {
		return nil
	}
	err := api.Errorf(api.CodeConflict, "Fail back first, and change it when the machines are at home again.",
		"which disks of group %s are protected cannot be changed while it is %s and its machines are not at home", g.Spec.Name, g.State)
	err.Field = fmt.Sprintf("machines[%d].leaveOut", machine)
	return err
}

// wishesForDisks looks at the disks of a machine that somebody has wishes for.
func (s *survey) wishesForDisks(vm hypervisors.VM, member int) {
	name, boots := vm.Hardware.Name, provisioning.BootDisk(vm.Hardware)
	for n, wish := range s.spec.Machines[member].Disks {
		field := fmt.Sprintf("machines[%d].disks[%d].id", member, n)
		at := slices.IndexFunc(vm.Hardware.Disks, byID(wish.ID))
		switch {
		case strings.TrimSpace(wish.ID) == "": // said already
		case at < 0:
			s.refuse("disk-unknown", field, name, unknownDisk(vm, wish.ID))
		case !wish.LeaveOut:
		case wish.ID == boots:
			s.doubt("boot-disk", field, name, fmt.Sprintf("%s boots from disk %s, which is left out: the replica will hardly start.", name, wish.ID), "Take it back, unless the machine boots from elsewhere.")
		default:
			s.note("disk-left-out", api.LevelOK, field, name, fmt.Sprintf("Disk %s of %s (%s) is left out as asked for: the replica will not have it.", wish.ID, name, giB(vm.Hardware.Disks[at].Size)), "")
		}
	}
}

// unknownDisk is the error of a wish for a disk that a machine does not have.
func unknownDisk(vm hypervisors.VM, id string) *api.Error {
	var has []string
	for _, d := range vm.Hardware.Disks {
		has = append(has, d.ID)
	}
	return api.Errorf(api.CodeInvalid, "It has "+strings.Join(has, ", ")+".", "machine %s has no disk %q", vm.Hardware.Name, id)
}

// attached says how the replica is to have disks that its newest point does not have, by id: as the wishes say, else as
// the source has them.
func (c *cycle) attached(ctx context.Context, m *cycleMember, plans []*diskPlan) (map[string]hypervisors.Disk, error) {
	if !slices.ContainsFunc(plans, func(p *diskPlan) bool { return p.before == nil }) {
		return nil, nil
	}
	host, err := c.e.host(ctx, c.g.source().Host)
	if err != nil {
		return nil, err
	}
	vm, err := host.VM(ctx, m.vm)
	if err != nil {
		return nil, err
	}
	var w provisioning.Wishes
	if !c.g.Reversed { // the machine at home has disks of its own
		w = wishes(c.g.Spec.Machines[m.index])
	}
	disks := map[string]hypervisors.Disk{}
	for _, d := range vm.Hardware.Disks {
		disks[d.ID], _ = w.Disk(d)
	}
	return disks, nil
}

func byID(id string) func(hypervisors.Disk) bool {
	return func(d hypervisors.Disk) bool { return d.ID == id }
}
