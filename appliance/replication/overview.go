package replication

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"understudy/api"
	"understudy/appliance/protection"
)

// How much of what is wrong, and of what is at work, an overview shows.
const (
	overviewJobs   = 20
	overviewAlerts = 50
)

// Overview counts what there is. It asks no host.
func (e *Engine) Overview(_ context.Context, scope api.Scope) (api.Overview, error) {
	now := e.Clock()
	active, err := e.runner.Find("", api.Paging{Limit: overviewJobs}, func(j *api.Job) bool { return !j.State.Ended() && scope.Has(j.Group) })
	if err != nil {
		return api.Overview{}, err
	}
	alerts := e.alerts(scope)
	out := api.Overview{Jobs: active.Items, ActiveJobs: active.Total, Alerts: alerts[:min(len(alerts), overviewAlerts)], AlertCount: len(alerts),
		Storage: []api.StorageUse{}}
	for _, g := range e.snapshotGroups() {
		if !scope.Has(g.ID) {
			continue
		}
		out.Groups++
		out.Machines += len(g.Members)
		health, _ := g.health(now)
		*healthIn(&out.Health, health) += len(g.Members)
		*freshnessIn(&out.Tests, protection.TestFreshness(g.Test, g.Tested, now))++
	}
	if scope != nil {
		return out, nil // hosts are not theirs
	}
	for _, p := range e.endpoints() {
		if p.view().Connected {
			out.Hosts.Connected++
		} else {
			out.Hosts.Disconnected++
		}
	}
	out.Storage = e.storageUse()
	return out, nil
}

func healthIn(c *api.HealthCount, h api.Health) *int {
	switch h {
	case api.HealthMet:
		return &c.Met
	case api.HealthAtRisk:
		return &c.AtRisk
	case api.HealthMissed:
		return &c.Missed
	}
	return &c.Off
}

func freshnessIn(c *api.TestCount, f api.Freshness) *int {
	switch f {
	case api.TestFresh:
		return &c.Fresh
	case api.TestStale:
		return &c.Stale
	case api.TestFailed:
		return &c.Failed
	}
	return &c.Never
}

// ListAlerts gives what is wrong now.
func (e *Engine) ListAlerts(_ context.Context, scope api.Scope) ([]api.ActiveAlert, error) {
	return e.alerts(scope), nil
}

// alerts are those of groups in scope, and of hosts and the appliance for who sees everything: the worst and then the
// oldest first.
func (e *Engine) alerts(scope api.Scope) []api.ActiveAlert {
	out := []api.ActiveAlert{}
	for _, g := range e.snapshotGroups() {
		if scope.Has(g.ID) {
			for _, a := range g.Alerts {
				out = append(out, alertOfGroup(g, a))
			}
		}
	}
	if scope == nil {
		for _, p := range e.endpoints() {
			e.mu.Lock()
			all := e.hostAlerts[p.ID]
			e.mu.Unlock()
			for _, a := range all {
				out = append(out, e.alertOfHost(p, a))
			}
		}
		e.mu.Lock()
		own := e.ownAlert
		e.mu.Unlock()
		if own != nil {
			out = append(out, alertOfAppliance(*own))
		}
	}
	slices.SortStableFunc(out, func(a, b api.ActiveAlert) int {
		return cmp.Or(cmp.Compare(a.Severity, b.Severity), a.Since.Compare(b.Since)) // critical comes before warning in the alphabet, too
	})
	return out
}

// seated is a machine of a group, and how well the group is. What most lists are sorted by lies here as well: to look into
// thousands of groups again and again takes longer than to sort them.
type seated struct {
	*member
	group   *group
	health  api.Health
	badness int
	name    string
	newest  time.Time
}

// ListMachines gives the machines that are asked for.
func (e *Engine) ListMachines(_ context.Context, q api.MachineQuery) (api.Page[api.ProtectedMachine], error) {
	if err := q.Validate(); err != nil {
		return api.Page[api.ProtectedMachine]{}, err
	}
	now, names := e.Clock(), e.hostNames()
	groups := e.snapshotGroups()
	if q.Group != "" {
		g, err := e.groupIn(q.Scope, q.Group)
		if err != nil {
			return api.Page[api.ProtectedMachine]{}, err
		}
		groups = []*group{&g}
	}
	found := e.machines(groups, q, names, now)
	if err := sortBy(found, cmp.Or(q.Sort, "name"), machineOrders); err != nil {
		return api.Page[api.ProtectedMachine]{}, err
	}
	from, to := q.Cut(len(found))
	out := api.Page[api.ProtectedMachine]{Items: []api.ProtectedMachine{}, Total: len(found)}
	for _, m := range found[from:to] {
		out.Items = append(out.Items, m.view(names, now))
	}
	return out, nil
}

func (e *Engine) machines(groups []*group, q api.MachineQuery, names map[string]string, now time.Time) (found []*seated) {
	text := strings.ToLower(q.Q)
	for _, g := range groups {
		if !q.Scope.Has(g.ID) || q.Host != "" && !g.at(q.Host, names) {
			continue
		}
		health, _ := g.health(now)
		if q.Health != "" && q.Health != health {
			continue
		}
		all := text == "" || contains(text, g.Spec.Name, names[g.Home.Host], names[g.Away.Host])
		for i := range g.Members {
			if all || contains(text, g.Members[i].Name) {
				found = append(found, &seated{&g.Members[i], g, health, badness(health), g.Members[i].Name, g.newest()})
			}
		}
	}
	return found
}

var machineOrders = orders[*seated]{
	"name":   func(a, b *seated) int { return cmp.Compare(a.name, b.name) },
	"group":  func(a, b *seated) int { return cmp.Compare(a.group.Spec.Name, b.group.Spec.Name) },
	"health": func(a, b *seated) int { return cmp.Compare(a.badness, b.badness) },
	"age":    func(a, b *seated) int { return b.newest.Compare(a.newest) },
}

func (s *seated) view(names map[string]string, now time.Time) api.ProtectedMachine {
	g := s.group
	from, to := s.seats(g.Reversed)
	v := api.ProtectedMachine{Name: s.Name, Group: g.ID, GroupName: g.Spec.Name, GroupState: g.State, SourceHost: names[g.source().Host],
		TargetHost: names[g.target().Host], SourceVM: from.VM, ReplicaVM: to.VM, Health: s.health, Problem: cmp.Or(s.Problem, g.Problem),
		RPO: protection.RPO(g.Spec.Policy, s.newest, g.Worst, now)}
	if n := len(g.Points); n > 0 {
		v.NewestPoint = g.Points[n-1].ID
	}
	return v
}
