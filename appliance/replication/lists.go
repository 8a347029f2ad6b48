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

// standing is what the health of a group depends on.
func (g *group) standing(now time.Time) protection.Standing {
	s := protection.Standing{Phase: g.State, Paused: g.Paused, Failures: g.Failures, Newest: g.newest()}
	// Windows make a point no older: where it is young, nobody need look at them.
	if p := g.Spec.Policy; len(p.Windows) > 0 && now.Sub(s.Newest).Seconds() > float64(p.RPOSeconds)/2 {
		at, open := protection.Turned(g.Spec.Policy, now)
		if open {
			s.Opened = at
		} else {
			s.Closed = at
		}
	}
	return s
}

// newest is when the newest point was taken; zero: there is none.
func (g *group) newest() time.Time {
	if n := len(g.Points); n > 0 {
		return g.Points[n-1].Taken
	}
	return time.Time{}
}

func (g *group) health(now time.Time) (api.Health, protection.Reason) {
	return protection.Health(g.Spec.Policy, g.standing(now), now)
}

// hostNames gives the names of all hosts by id.
func (e *Engine) hostNames() map[string]string {
	e.mu.Lock()
	defer e.mu.Unlock()
	names := make(map[string]string, len(e.hosts))
	for id, p := range e.hosts {
		names[id] = p.Name
	}
	return names
}

// at says that a host is one of both sides.
func (g *group) at(host string, names map[string]string) bool {
	for _, id := range []string{g.Home.Host, g.Away.Host} {
		if host == id || host == names[id] {
			return true
		}
	}
	return false
}

// groupIn gives a group by id or name, if it is in the scope.
func (e *Engine) groupIn(scope api.Scope, ref string) (group, error) {
	g, err := e.group(ref)
	if err == nil && !scope.Has(g.ID) {
		return group{}, noGroup(ref)
	}
	return g, err
}

// ListGroups gives the groups that are asked for.
func (e *Engine) ListGroups(_ context.Context, q api.GroupQuery) (api.Page[api.Group], error) {
	if err := q.Validate(); err != nil {
		return api.Page[api.Group]{}, err
	}
	now, names, text := e.Clock(), e.hostNames(), strings.ToLower(q.Q)
	found := slices.DeleteFunc(e.snapshotGroups(), func(g *group) bool { return !g.matches(q, text, names, now) })
	if err := sortBy(found, q.Sort, groupOrders(found, now)); err != nil {
		return api.Page[api.Group]{}, err
	}
	from, to := q.Cut(len(found))
	out := api.Page[api.Group]{Items: []api.Group{}, Total: len(found)}
	for _, g := range found[from:to] {
		out.Items = append(out.Items, e.viewOf(g))
	}
	return out, nil
}

func (g *group) matches(q api.GroupQuery, text string, names map[string]string, now time.Time) bool {
	if !q.Scope.Has(g.ID) || q.State != "" && q.State != g.State || q.Host != "" && !g.at(q.Host, names) {
		return false
	}
	if text != "" && !contains(text, g.Spec.Name, names[g.Home.Host], names[g.Away.Host]) &&
		!slices.ContainsFunc(g.Members, func(m member) bool { return contains(text, m.Name) }) {
		return false
	}
	if q.Health == "" {
		return true
	}
	health, _ := g.health(now)
	return health == q.Health
}

// contains says that one of the words has the text, which is in lower case, in it.
func contains(text string, words ...string) bool {
	return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(strings.ToLower(w), text) })
}

// orders compare by the names of fields.
type orders[T any] map[string]func(a, b T) int

// groupOrders sort groups as they are now. What is worse, or older, is more.
func groupOrders(all []*group, now time.Time) orders[*group] {
	worse := map[string]int{}
	for _, g := range all {
		health, _ := g.health(now)
		worse[g.ID] = badness(health)
	}
	return orders[*group]{
		"name":   func(a, b *group) int { return cmp.Compare(a.Spec.Name, b.Spec.Name) },
		"state":  func(a, b *group) int { return cmp.Compare(a.State, b.State) },
		"points": func(a, b *group) int { return cmp.Compare(len(a.Points), len(b.Points)) },
		"tested": func(a, b *group) int { return a.Tested.Compare(b.Tested) },
		"health": func(a, b *group) int { return cmp.Compare(worse[a.ID], worse[b.ID]) },
		"age":    func(a, b *group) int { return b.newest().Compare(a.newest()) },
	}
}

// badness ranks healths.
func badness(health api.Health) int {
	return slices.Index([]api.Health{api.HealthMet, api.HealthOff, api.HealthAtRisk, api.HealthMissed}, health)
}

// sortBy sorts by a field, - before it turns the order round; what is equal stays as it was.
func sortBy[T any](list []T, field string, by orders[T]) error {
	if field == "" {
		return nil
	}
	name, down := strings.CutPrefix(field, "-")
	compare, known := by[name]
	if !known {
		return &api.Error{Code: api.CodeInvalid, Field: "sort", Message: "the list cannot be sorted by " + field, Hint: "Choose another field."}
	}
	slices.SortStableFunc(list, func(a, b T) int {
		if down {
			return compare(b, a)
		}
		return compare(a, b)
	})
	return nil
}

// ListJobs gives the jobs that are asked for, newest first.
func (e *Engine) ListJobs(_ context.Context, q api.JobQuery) (api.Page[api.Job], error) {
	if err := q.Validate(); err != nil {
		return api.Page[api.Job]{}, err
	}
	id := ""
	if q.Group != "" {
		g, err := e.groupIn(q.Scope, q.Group)
		if err != nil {
			return api.Page[api.Job]{}, err
		}
		id = g.ID
	}
	return e.runner.Find(id, q.Paging, func(j *api.Job) bool {
		return q.Scope.Has(j.Group) && (q.Kind == "" || q.Kind == j.Kind) && (q.State == "" || (q.State == "ended") == j.State.Ended())
	})
}
