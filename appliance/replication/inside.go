package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"understudy/api"
	"understudy/hypervisors"
	"understudy/provisioning"
	"understudy/provisioning/linux"
)

// Guests whose replicas have other devices than their sources. What their Linux starts with is read from a point, so that
// nobody learns in the worst night that it does not start there.

// lookInsideTimeout bounds how long one guest is looked into: a test waits for it.
const lookInsideTimeout = 2 * time.Minute

// undriven is what a guest lacks on the devices of its replica.
type undriven struct {
	Kernel  string // version
	Devices []provisioning.Undriven
}

// boots says that the guest comes up, if with less than it has at its source.
func (u *undriven) boots() bool {
	return u == nil || !slices.ContainsFunc(u.Devices, func(d provisioning.Undriven) bool { return d.Boots })
}

func (u *undriven) String() string {
	var devices []string
	for _, d := range u.Devices {
		devices = append(devices, fmt.Sprintf("%s as %s (%s)", d.Device, d.Kind, strings.Join(d.Modules, ", ")))
	}
	where := ""
	if !u.boots() {
		where = " in its initial RAM disk"
	}
	return fmt.Sprintf("its Linux %s has no driver%s for %s", u.Kernel, where, strings.Join(devices, " and "))
}

// lookInside looks into the guests of a point. Whatever comes of it, the job goes on: the error is that of ctx or of the
// state.
func (e *Engine) lookInside(ctx context.Context, t *task, point string) error {
	if e.LookInside == nil || t.group.Reversed || t.work.LookedInside {
		return nil
	}
	// Once for each job, so that what a guest has written cannot keep it from ending.
	t.work.LookedInside = true
	if err := t.Save(t.work); err != nil {
		return err
	}
	found := make([]*undriven, len(t.group.Members))
	for i, m := range t.group.Members {
		found[i] = m.Undriven // until something else is known
	}
	hosts := e.look(ctx, t.group) // a test does not wait for a source that is dead
	unknown := func(subject string, err error) {
		t.Log().Info("it is not known which drivers a guest has", "machine", subject, "error", err)
	}
	if err := e.eachReplica(ctx, t.group, func(ctx context.Context, i int, replica hypervisors.Replica) error {
		u, err := e.lookInsideOne(ctx, replica, point, hosts.source.vms[i], hosts.target.vms[i])
		switch {
		case err == nil || errors.Is(err, linux.ErrUnknown):
			found[i] = u
		case ctx.Err() != nil:
			return ctx.Err()
		}
		if err != nil {
			unknown(t.group.Members[i].Name, err)
		}
		return nil
	}); err != nil {
		unknown(t.group.Spec.Name, err)
		return ctx.Err()
	}
	return e.keepUndriven(t.group.ID, func(i int, m *member) { m.Undriven = found[i] })
}

// lookInsideOne gives what one guest lacks; nil: nothing, as far as is known.
func (e *Engine) lookInsideOne(ctx context.Context, replica hypervisors.Replica, point string, home, away seen) (*undriven, error) {
	if !home.there() || !away.there() {
		return nil, fmt.Errorf("the machine is %s at home, its replica %s away", home.state(), away.state())
	}
	at, is := home.vm.Hardware, away.vm.Hardware
	if len(provisioning.Replacements(at, is)) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookInsideTimeout)
	defer cancel()
	reader, err := replica.Open(ctx, point)
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	defer context.AfterFunc(ctx, func() { _ = reader.Close() })() // ends a read that hangs
	for _, disk := range reader.Disks() {
		if disk.ID() != provisioning.BootDisk(is) {
			continue
		}
		s, err := e.LookInside(ctx, disk, disk.Size())
		if err != nil {
			return nil, err
		}
		// It starts at its source. Where what was read says otherwise, it starts by other means than are known here.
		if len(provisioning.UndrivenBy(s, at)) > 0 {
			return nil, fmt.Errorf("%w: it seems to have no drivers for its source either", linux.ErrUnknown)
		}
		if devices := provisioning.UndrivenBy(s, is); len(devices) > 0 {
			return &undriven{s.Version, devices}, nil
		}
	}
	return nil, nil
}

// proved forgets what members were said to lack whose boot checks passed: they came up, by whatever kernel.
func (e *Engine) proved(t *task) error {
	came := func(m *member) bool {
		return m.Undriven != nil && slices.ContainsFunc(t.work.Boots[m.Name].Checks, func(c api.CheckResult) bool { return c.Passed && c.Kind != string(provisioning.CheckRunning) })
	}
	if !slices.ContainsFunc(t.group.Members, func(m member) bool { return came(&m) }) {
		return nil
	}
	return e.keepUndriven(t.group.ID, func(_ int, m *member) {
		if came(m) {
			m.Undriven = nil
		}
	})
}

// keepUndriven changes what members lack, and begins or ends the alert about it.
func (e *Engine) keepUndriven(id string, change func(i int, m *member)) error {
	g, err := e.update(id, func(g *group) error {
		for i := range g.Members {
			change(i, &g.Members[i])
		}
		return nil
	})
	if err != nil {
		return err
	}
	return e.set(g, api.AlertDriverMissing, g.lacksDrivers(), func() api.Alert { return withoutDrivers(&g) })
}

// lacks says that a member starts away with devices that its guest has no driver for: not where it is converted.
func (g *group) lacks(i int) bool {
	return !g.Reversed && g.Members[i].Undriven != nil && !g.wantsConversion(i)
}

// lacksDrivers says whether the alert about drivers should be on.
func (g *group) lacksDrivers() bool {
	for i := range g.Members {
		if g.State == api.StateProtected && g.lacks(i) {
			return true
		}
	}
	return false
}

const driversHint = "Add the modules to its initial RAM disk at the source (Debian: /etc/initramfs-tools/modules and update-initramfs; " +
	"Red Hat: dracut --force --add-drivers), choose other devices for the replica, or have the guest converted on a libvirt host. Then test."

func withoutDrivers(g *group) api.Alert {
	a := api.Alert{Kind: api.AlertDriverMissing, Hint: driversHint}
	more := 0
	for i, m := range g.Members {
		switch {
		case !g.lacks(i):
		case a.Message != "":
			more++
		case m.Undriven.boots():
			a.Message = fmt.Sprintf("%s would lack a device after a failover: %s", m.Name, m.Undriven)
		default:
			a.Message = fmt.Sprintf("%s would not start after a failover: %s", m.Name, m.Undriven)
		}
	}
	if more > 0 {
		a.Message += fmt.Sprintf("; and so with %d more machines", more)
	}
	return a
}

// drivers warns of guests that would not come up.
func (p *plan) drivers() {
	for i, m := range p.g.Members {
		if !p.g.lacks(i) {
			continue
		}
		text := "%s will not start on %s: %s."
		if m.Undriven.boots() {
			text = "%s will lack a device on %s: %s."
		}
		p.warn("driver-missing", m.Name, p.target, fmt.Sprintf(text, m.Name, p.target, m.Undriven), driversHint, false)
	}
}
