package replication

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"understudy/api"
	"understudy/appliance/jobs"
	"understudy/appliance/protection"
)

// plan is an api.Plan in the making.
type plan struct {
	api.Plan
	e     *Engine
	g     group
	o     api.PlanOrder
	w     wish
	sight sight
	now   time.Time
	// Names of the hosts in force.
	source, target string
	// before and after are the hosts that the machines serve on, and run on afterwards.
	before, after *look
}

// Plan says what an order would do, and changes nothing.
func (e *Engine) Plan(ctx context.Context, ref string, o api.PlanOrder) (api.Plan, error) {
	g, err := e.group(ref)
	if err != nil {
		return api.Plan{}, err
	}
	w, err := e.wish(g, o)
	if err != nil {
		return api.Plan{}, err
	}
	p := &plan{e: e, g: g, o: o, w: w, now: e.Clock(), source: e.hostName(g.source().Host), target: e.hostName(g.target().Host),
		Plan: api.Plan{Order: o.Order, State: g.State, Machines: []api.PlanMachine{}, Changes: []api.PlanChange{}, Warnings: []api.PlanWarning{}}}
	at := slices.IndexFunc(e.kinds(), func(k jobs.Kind) bool { return k.Name == o.Order })
	for _, s := range e.kinds()[at].Steps {
		p.Steps = append(p.Steps, s.Name)
	}
	refused, aside, err := e.inTheWay(g, w)
	if err != nil {
		return api.Plan{}, err
	}
	if why := w.refused(g); why != nil {
		refused = why
	}
	if p.Allowed = refused == nil; !p.Allowed {
		why := asPublic(refused)
		p.Code, p.Refusal, p.Hint = why.Code, why.Message, why.Hint
	}
	if aside != nil {
		p.warn("cycle-interrupted", "", "", fmt.Sprintf("A %s is at work. It gives way and is started again later; no recovery point is lost.", aside.Kind), "", false)
	}
	p.sight = e.look(ctx, g)
	p.describe()
	return p.Plan, nil
}

// describe says what the order does; also where it is refused, as far as it makes sense there.
func (p *plan) describe() {
	p.before, p.after = p.sight.source, p.sight.target
	switch p.w.order {
	case protection.OrderTest:
		p.planTest()
	case protection.OrderEndTest:
		p.planEndTest()
	case protection.OrderFailover:
		p.planFailover()
	case protection.OrderCommit:
		p.planCommit()
	case protection.OrderRollback:
		p.planRollback()
	case protection.OrderReprotect:
		p.planReprotect()
	case protection.OrderFailback:
		p.planFailback()
	case protection.OrderFence:
		p.planFence()
	case protection.OrderDropPoint:
		p.planDropPoint()
	case protection.OrderRemove:
		p.planRemove()
	}
	p.From, p.To = p.before.host, p.after.host
	for i := range p.g.Members {
		p.Machines = append(p.Machines, p.machine(i))
	}
}

// isolated is what a plan calls the network of a test, which has no name before it is made.
const isolated = "isolated"

func (p *plan) machine(i int) api.PlanMachine {
	m := api.PlanMachine{Name: p.g.Members[i].Name, From: p.From, To: p.To, Networks: []api.NetworkMap{}, Stage: p.g.stage(i),
		Source: p.sight.source.vms[i].state(), Replica: p.sight.target.vms[i].state()}
	if p.starts() {
		m.Checks = len(p.g.Spec.Machines[i].Checks)
	}
	for _, nic := range p.after.vms[i].vm.Hardware.NICs {
		from := p.network(i, nic.MAC)
		to := nic.Network
		if p.w.order == protection.OrderTest {
			from, to = nic.Network, isolated
		}
		m.Networks = append(m.Networks, api.NetworkMap{From: from, To: to})
	}
	return m
}

// starts says that the order starts machines and makes their checks.
func (p *plan) starts() bool {
	return slices.Contains([]protection.Order{protection.OrderTest, protection.OrderFailover, protection.OrderFailback}, p.w.order)
}

// network is where a network card is connected before; empty: its host did not say.
func (p *plan) network(i int, mac string) string {
	for _, nic := range p.before.vms[i].vm.Hardware.NICs {
		if strings.EqualFold(nic.MAC, mac) {
			return nic.Network
		}
	}
	return ""
}

// change notes what happens on a host; machine may be empty.
func (p *plan) change(code, machine, host, format string, args ...any) {
	p.Changes = append(p.Changes, api.PlanChange{Code: code, Machine: machine, Host: host, Text: fmt.Sprintf(format, args...)})
}

func (p *plan) warn(code, machine, host, text, hint string, stops bool) {
	p.Warnings = append(p.Warnings, api.PlanWarning{Code: code, Machine: machine, Host: host, Text: text, Hint: hint, Stops: stops})
}

// from chooses the point that machines start from, and says how old it is.
func (p *plan) from(id string) {
	point, err := p.g.point(id)
	if err != nil {
		return // that is why it is refused
	}
	age := max(0, p.now.Sub(point.Taken))
	loss := age.Seconds()
	p.Point, p.LossSeconds = &point, &loss
	newest := p.g.Points[len(p.g.Points)-1]
	if point.Suspect != "" {
		p.warn("point-suspect", "", "", "This recovery point may be wrong: "+point.Suspect, "Choose one that is not suspect.", false)
	}
	switch rpo := time.Duration(p.g.Spec.Policy.RPOSeconds) * time.Second; {
	case newest.ID != point.ID && newest.Suspect == "":
		p.warn("point-not-newest", "", "", fmt.Sprintf("There is a newer recovery point, %s old.", span(p.now.Sub(newest.Taken))), "", false)
	case newest.ID != point.ID:
		p.warn("point-not-newest", "", "", fmt.Sprintf("The newest recovery point, %s old, may be wrong and is left aside.", span(p.now.Sub(newest.Taken))), "", false)
	case age > rpo:
		p.warn("point-old", "", "", fmt.Sprintf("The newest recovery point is %s old; the policy asks for one of %s.", span(age), span(rpo)), "", false)
	}
}

// span is a duration for people, to the second.
func span(d time.Duration) string { return max(0, d).Round(time.Second).String() }

// unanswered warns of a host that did not answer; stops says whether the job needs it.
func (p *plan) unanswered(l *look, code string, stops bool, without string) {
	if l.err == nil {
		return
	}
	text := fmt.Sprintf("%s did not answer: %v.", l.host, l.err)
	if without != "" {
		text += " " + without
	}
	p.warn(code, "", l.host, text, "Look whether the host is up and reachable.", stops)
}

// proven warns of what nobody knows to work.
func (p *plan) proven() {
	for i, m := range p.g.Spec.Machines {
		if len(m.Checks) == 0 {
			p.warn("checks-missing", p.g.Members[i].Name, "", "No boot check is made of "+p.g.Members[i].Name+" but that it runs.", "Add a check that asks its service.", false)
		}
	}
	for i, s := range p.after.vms {
		for _, nic := range s.vm.Hardware.NICs {
			if p.after.networks != nil && !p.after.has(nic.Network) && p.w.order != protection.OrderTest {
				p.warn("network-missing", p.g.Members[i].Name, p.after.host, fmt.Sprintf("%s has no network %q, which %s is connected to.", p.after.host, nic.Network, p.g.Members[i].Name),
					"Make the network there.", false)
			}
		}
	}
	if p.w.order == protection.OrderTest {
		return
	}
	if p.g.TestRun != "" {
		p.warn("test-running", "", p.target, "A test failover is running. It goes on beside.", "", false)
	}
	switch protection.TestFreshness(p.g.Test, p.g.Tested, p.now) {
	case api.TestNever:
		p.warn("never-tested", "", "", "No test failover of this group has ever passed.", "", false)
	case api.TestFailed:
		p.warn("test-failed", "", "", "The last test failover of this group failed.", "", false)
	case api.TestStale:
		p.warn("test-old", "", "", fmt.Sprintf("The last test failover passed on %s.", p.g.Tested.UTC().Format(time.DateOnly)), "", false)
	}
}

func (l *look) has(network string) bool {
	for _, n := range l.networks {
		if n.Name == network {
			return true
		}
	}
	return false
}

// both warns of machines that ran on both sides, which the order does not like.
func (p *plan) both() {
	for i, m := range p.g.Members {
		if m.Ran || p.g.replaced() && p.sight.source.vms[i].on() {
			p.warn("ran-on-both", m.Name, p.source, fmt.Sprintf("%s ran on %s after it was failed over. What it wrote there is nowhere else.", m.Name, p.source),
				"Decide which side is right before you go on: fence gives up what was written on "+p.source+".", false)
		}
	}
}
