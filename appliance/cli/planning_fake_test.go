package cli

import (
	"context"
	"time"

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

func (f *appliance) Plan(_ context.Context, group string, o api.PlanOrder) (api.Plan, error) {
	loss := 12.0
	point := api.Point{ID: "p2", Taken: *ago(12 * time.Second), Consistency: "crash"}
	p := api.Plan{Order: o.Order, State: api.StateProtected, Allowed: true, From: "kvm1", To: "kvm2", Point: &point, LossSeconds: &loss,
		Undo: "Roll back, until the failover is committed.",
		Machines: []api.PlanMachine{
			{Name: "db1", From: "kvm1", To: "kvm2", Source: "running", Replica: "off", Networks: []api.NetworkMap{{From: "default", To: "recovery"}}, Checks: 2},
			{Name: "web1", From: "kvm1", To: "kvm2", Source: "unknown", Replica: "off"}},
		Changes:  []api.PlanChange{{Code: "replica-starts", Machine: "db1", Host: "kvm2", Text: "db1 starts on kvm2."}},
		Warnings: []api.PlanWarning{{Code: "never-tested", Text: "No test failover of this group has ever passed."}},
		Steps:    []string{"begin", "start", "done"}}
	switch {
	case o.Order == "commit":
		p.Irreversible, p.Point, p.LossSeconds = true, nil, nil
		p.Undo = "It cannot be undone."
	case o.Planned:
		none := 0.0
		p.Point, p.LossSeconds = nil, &none
	case o.Order == "failover" && !o.Force:
		p.Warnings = append(p.Warnings, api.PlanWarning{Code: "source-runs", Machine: "db1", Host: "kvm1", Text: "db1 still runs on kvm1; both must never run at once.",
			Hint: "Order a planned failover, or one with force.", Stops: true})
	}
	if group == "empty" {
		p.Allowed, p.Code, p.Refusal, p.Hint = false, api.CodeConflict, "failover is not possible: there is no complete recovery point yet", "Wait until the first mirror has finished."
	}
	return p, f.check(group)
}
