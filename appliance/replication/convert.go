package replication

import (
	"context"
	"fmt"
	"slices"

	"understudy/api"
	"understudy/hypervisors"
	"understudy/provisioning"
)

// Guests that are converted when their replicas start away from home, because they come from another hypervisor. Points
// stay as the source has them; what a converted guest becomes as production travels home by a failback.

// converts says that the guest of a member is converted when its replica starts for the first time. At home a machine has
// devices of its own.
func (g *group) converts(i int, caps hypervisors.Capabilities) bool {
	return g.wantsConversion(i) && caps.Convert
}

func (g *group) wantsConversion(i int) bool { return !g.Reversed && g.Spec.Machines[i].Convert }

// convertReplicas converts the guests of some members for the live runs that are about to start, and says whether there
// was one.
func (e *Engine) convertReplicas(ctx context.Context, t *task, members []int) (bool, error) {
	host, err := e.host(ctx, t.group.target().Host)
	if err != nil {
		return false, err
	}
	members = slices.DeleteFunc(slices.Clone(members), func(i int) bool { return !t.group.converts(i, host.Capabilities()) })
	return len(members) > 0, e.some(ctx, t.group, t.group.target().Host, members, func(ctx context.Context, i int) error {
		return e.startReplica(ctx, t.group, i, t.work.Point, true)
	})
}

// cannotConvert says what surely keeps the guest of a machine from being converted on a host.
func cannotConvert(caps hypervisors.Capabilities, host string, hw hypervisors.Hardware) *api.Error {
	if !caps.Convert {
		return api.Errorf(api.CodeInvalid, "Take the wish back; or, on a libvirt host, install the package virt-v2v and start the appliance anew.",
			"%s cannot convert the guest of %s", host, hw.Name)
	}
	if why := provisioning.Inconvertible(hw); why != "" {
		return api.Errorf(api.CodeInvalid, "Take the wish back, and give the replica devices that the guest knows.", "the guest of %s cannot be converted: %s", hw.Name, why)
	}
	return nil
}

// conversion looks at a machine whose guest is to be converted.
func (s *survey) conversion(hw hypervisors.Hardware, field string) {
	if err := cannotConvert(s.target.host.Capabilities(), s.away.Name, hw); err != nil {
		s.refuse("convert", field, hw.Name, err)
		return
	}
	s.note("convert", api.LevelOK, field, hw.Name, fmt.Sprintf("The guest of %s is converted when it starts on %s, which takes minutes. Recovery points stay as the source has them.", hw.Name, s.away.Name), "")
}

// mayConvert looks at the machines whose guests an edit wants converted from now on.
func (e *Engine) mayConvert(ctx context.Context, g group, edit api.GroupEdit) error {
	for i, m := range edit.Machines {
		at, err := g.machine(m.VM)
		if m.Convert == nil || !*m.Convert || err != nil || g.Spec.Machines[at].Convert { // said later, or before
			continue
		}
		host, failed := e.host(ctx, g.Away.Host)
		if failed != nil {
			return public(failed)
		}
		replica, failed := host.VM(ctx, g.Members[at].Away.VM)
		if failed != nil {
			return public(failed)
		}
		hw := replica.Hardware
		hw.Name = g.Members[at].Name
		if err := cannotConvert(host.Capabilities(), e.hostName(g.Away.Host), hw); err != nil {
			err.Field = fmt.Sprintf("machines[%d].convert", i)
			return err
		}
	}
	return nil
}

// conversions says which guests are converted before they start, and warns of those that should be and are not.
func (p *plan) conversions() {
	for i, m := range p.g.Members {
		switch {
		case !p.g.wantsConversion(i) || p.sight.target.err != nil:
		case p.g.converts(i, p.sight.target.caps):
			p.change("guest-converted", m.Name, p.target, "The guest of %s is converted for the devices of %s before it starts, which takes minutes. Its recovery points stay as they are.", m.Name, p.target)
		default:
			p.warn("convert-missing", m.Name, p.target, fmt.Sprintf("%s cannot convert the guest of %s: it starts as it is, if it has drivers.", p.target, m.Name), "On a libvirt host, install the package virt-v2v and start the appliance anew.", false)
		}
	}
}

// comesConverted warns that a guest which was converted for one side will not be what it was at the other.
func (p *plan) comesConverted(home string) {
	for _, m := range p.g.Members {
		if m.Converted {
			p.warn("converted", m.Name, home, fmt.Sprintf("The guest of %s was converted when it was failed over. A failback brings it to %s as it is then, onto the devices that it has there.", m.Name, home),
				"Drivers and tools for its devices at home may have to be installed anew: look at it after the failback, or before by a test.", false)
		}
	}
}
