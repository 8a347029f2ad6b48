package cli

import (
	"context"

	"understudy/api"
)

func (f *appliance) Bandwidth(context.Context) (api.BandwidthCalendar, error) {
	return api.BandwidthCalendar{Revision: 3, TimeZone: "Europe/Berlin", Mbit: 0, Rules: []api.BandwidthRule{
		{Window: api.Window{Days: []string{"mon", "tue", "wed", "thu", "fri"}, From: "08:00", To: "18:00"}, Mbit: 50},
		{Window: api.Window{From: "22:00", To: "04:00"}, Mbit: 0},
	}}, f.err
}

func (f *appliance) SetBandwidth(_ context.Context, revision int64, c api.BandwidthCalendar) (api.BandwidthCalendar, error) {
	f.note("bandwidth %d %+v", revision, c)
	c.Revision = revision + 1
	return c, f.err
}

func (f *appliance) Plan(ctx context.Context, group string, o api.PlanOrder) (api.Plan, error) {
	loss := 12.0
	p := api.Plan{Order: o.Order, State: api.StateProtected, Allowed: true, From: "kvm1", To: "kvm2",
		Undo: "Do the opposite of " + o.Order + ".",
		Machines: []api.PlanMachine{
			{Name: "db1", From: "kvm1", To: "kvm2", Source: "running", Replica: "off", Networks: []api.NetworkMap{{From: "default", To: "recovery"}}, Checks: 2},
			{Name: "web1", From: "kvm1", To: "kvm2", Source: "unknown", Replica: "off"}},
		Changes:  []api.PlanChange{{Code: "replica-starts", Machine: "db1", Host: "kvm2", Text: "db1 is part of the " + o.Order + "."}},
		Warnings: []api.PlanWarning{{Code: "never-tested", Text: "No test failover of this group has ever passed."}},
		Steps:    []string{"begin", "start", "done"}}
	if points, _ := f.ListPoints(ctx, "web"); o.Order == "failover" || o.Order == "test" || o.Order == "drop-point" {
		p.Point, p.LossSeconds = &points[0], &loss
		if o.Point == "p1" {
			p.Point = &points[1]
		}
	}
	switch {
	case o.Order == "commit":
		p.Irreversible, p.Undo = true, ""
	case o.Planned:
		none := 0.0
		p.Point, p.LossSeconds = nil, &none
	case o.Order == "failover" && !o.Force:
		p.Warnings = append(p.Warnings, api.PlanWarning{Code: "source-runs", Machine: "db1", Host: "kvm1", Text: "db1 still runs on kvm1; both must never run at once.",
			Hint: "Order a planned failover, or one with force.", Stops: true})
	}
	if o.Order == "drop-point" && o.Point != "p1" {
		p.Allowed, p.Code, p.Refusal, p.Hint = false, api.CodeNotFound, "group web has no recovery point \"p7\"", "List the points and choose another."
	}
	if group == "empty" {
		p.Allowed, p.Code, p.Refusal, p.Hint = false, api.CodeConflict, "failover is not possible: there is no complete recovery point yet", "Wait until the first mirror has finished."
	}
	return p, f.check(group)
}

func (f *appliance) Preflight(_ context.Context, spec api.GroupSpec) (api.Preflight, error) {
	f.note("preflight %s", spec.Name)
	p := api.Preflight{Ready: true, Bytes: 11 << 30, Checks: []api.PreflightCheck{
		{Code: "source-host", Level: api.LevelOK, Message: "kvm1 answers and can be read."},
		{Code: "tracking", Level: api.LevelWarning, Message: "Changes of disk vdb of db1 cannot be tracked.", Machine: "db1", Field: "machines[0].vm", Hint: "Convert it to qcow2."}}}
	if spec.Name == "bad" {
		p.Ready = false
		p.Checks = append(p.Checks, api.PreflightCheck{Code: "networks", Level: api.LevelError, Message: "the target has no network \"moon\"", Field: "networks", Machine: "db1", Hint: "Map it to one of: lan."})
	}
	return p, f.err
}

func (f *appliance) UpdateGroup(_ context.Context, id string, revision int64, edit api.GroupEdit) (api.Group, error) {
	stages := []api.RunbookStage(nil)
	if edit.Runbook != nil {
		stages, edit.Runbook = edit.Runbook.Stages, nil
	}
	convert := map[string]bool{}
	for i, m := range edit.Machines {
		if m.Convert != nil {
			convert[m.VM], edit.Machines[i].Convert = *m.Convert, nil // which would be shown as an address
		}
	}
	f.note("edit %s %d %+v %+v", id, revision, edit, stages)
	if len(convert) > 0 {
		f.note("convert %v", convert)
	}
	g := someGroup()
	g.Policy = edit.Policy
	return g, f.check(id)
}

func (f *appliance) TestHost(_ context.Context, spec api.HostSpec) (api.HostTest, error) {
	f.note("test host %+v", spec)
	if spec.URI == "qemu:///dead" {
		return api.HostTest{Problem: "connect host qemu:///dead: host cannot be reached", Hint: "Check the address."}, f.err
	}
	h := someHost("kvm3")
	return api.HostTest{Reachable: true, Identity: h.Identity, Product: h.Product, Version: h.Version, Capabilities: h.Capabilities,
		Checks: []api.DoctorCheck{{Name: "inventory", Result: "passed"}, {Name: "quiesce", Result: "skipped", Message: "no agent"}}}, f.err
}

func (f *appliance) UpdateHost(_ context.Context, id string, revision int64, spec api.HostSpec) (api.Host, error) {
	f.note("edit host %s %d %+v", id, revision, spec)
	h := someHost(spec.Name)
	h.HostSpec, h.Revision = spec, revision+1
	return h, f.check(id)
}
