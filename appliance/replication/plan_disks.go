package replication

import (
	"fmt"
	"slices"

	"understudy/api"
	"understudy/hypervisors"
)

// without warns of the disks that machines start without: those that the point does not have, because they are left out,
// cannot be protected, or came later.
func (p *plan) without() {
	for i, m := range p.g.Members {
		leftOut := p.g.Spec.Machines[i].LeftOut()
		seen := p.sight.source.vms[i].vm.Hardware.Disks
		for _, d := range seen {
			if p.kept(i, d) {
				continue
			}
			text, hint := fmt.Sprintf("Disk %s of %s is not part of this recovery point: %s starts without it.", d.ID, m.Name, m.Name), "A newer recovery point may have it."
			switch {
			case slices.Contains(leftOut, d.ID):
				text, hint = fmt.Sprintf("Disk %s of %s is left out of protection: %s starts without it.", d.ID, m.Name, m.Name), "Give it an empty one where it needs one, for swap say."
			case d.Excluded != "":
				text, hint = fmt.Sprintf("Disk %s of %s cannot be protected (%s): %s starts without it.", d.ID, m.Name, d.Excluded, m.Name), ""
			}
			p.warn("disk-missing", m.Name, p.target, text, hint, false)
		}
		for _, id := range leftOut {
			if p.has(i, id) || slices.ContainsFunc(seen, byID(id)) {
				continue
			}
			switch {
			case p.g.Reversed:
				p.warn("disk-missing", m.Name, p.target, fmt.Sprintf("Disk %s of %s is left out of protection: %s starts without it. Its own one stays on %s as it is, and is attached again by a failback.", id, m.Name, m.Name, p.target), "", false)
			case p.sight.source.err != nil:
				p.warn("disk-missing", m.Name, p.target, fmt.Sprintf("Disk %s of %s is left out of protection: %s starts without it.", id, m.Name, m.Name), "Give it an empty one where it needs one, for swap say.", false)
			}
		}
	}
}

// kept says that a machine that starts has a disk of its source.
func (p *plan) kept(i int, d hypervisors.Disk) bool {
	if p.Point == nil { // the last copy is of all that is protected
		return d.Excluded == "" && !slices.Contains(p.g.Spec.Machines[i].LeftOut(), d.ID)
	}
	return p.has(i, d.ID)
}

// has says that the point of the plan has a disk of a machine.
func (p *plan) has(i int, disk string) bool {
	return p.Point != nil && slices.ContainsFunc(p.Point.Machines, func(m api.PointMachine) bool {
		return m.Machine == p.g.Members[i].Name && slices.ContainsFunc(m.Disks, func(d api.PointDisk) bool { return d.ID == disk })
	})
}

// leftBehind warns of what does not travel home: disks that are left out are on both sides what they are.
func (p *plan) leftBehind(away, home *look) {
	for i, m := range p.g.Members {
		for _, id := range p.g.Spec.Machines[i].LeftOut() {
			if slices.ContainsFunc(away.vms[i].vm.Hardware.Disks, byID(id)) {
				p.warn("disk-left-out", m.Name, away.host, fmt.Sprintf("Disk %s of %s on %s is left out: what is on it is not copied to %s.", id, m.Name, away.host, home.host),
					"Copy what you need of it from within the machine first.", false)
			}
			p.warn("disk-left-out", m.Name, home.host, fmt.Sprintf("Disk %s of %s on %s is left out: nothing of it is overwritten, and the machine has it at home as it was before the failover.", id, m.Name, home.host),
				"", false)
		}
	}
}
