package main_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/appliance/replication"
)

// groupName is the group that is protected while the appliance dies.
const groupName = "shop"

// order is one that a person may give, and how it ends, however often the appliance dies meanwhile.
type order struct {
	name string
	kind string   // of its job
	from []string // orders that lead to where it may be given
	give func(v *victim) (api.Job, error)
	// cancelAt is the step at whose beginning a person cancels the job; empty: nobody does.
	cancelAt string
	// stops says that production may be off meanwhile.
	stops bool

	state    api.GroupState
	reversed bool
	gone     bool // the group, for good
}

func on(do func(v *victim, ctx context.Context) (api.Job, error)) func(*victim) (api.Job, error) {
	return func(v *victim) (api.Job, error) { return do(v, v.t.Context()) }
}

func planned(v *victim, ctx context.Context) (api.Job, error) {
	return v.Failover(ctx, groupName, api.FailoverOrder{Planned: true})
}

func test(v *victim, ctx context.Context) (api.Job, error) {
	return v.Test(ctx, groupName, api.TestOrder{})
}

func syncNow(v *victim, ctx context.Context) (api.Job, error) { return v.SyncNow(ctx, groupName) }
func again(v *victim, ctx context.Context) (api.Job, error)   { return v.Reprotect(ctx, groupName) }
func back(v *victim, ctx context.Context) (api.Job, error)    { return v.Failback(ctx, groupName) }

// orders are all there are, each kind of job at least once, with every undo it has. TestOrdersKnowEveryStep finds what
// is missing.
var orders = []order{
	{name: "mirror", kind: "mirror", give: create, state: api.StateProtected},
	{name: "cycle", kind: "cycle", from: []string{"mirror"}, give: on(syncNow), state: api.StateProtected},
	{name: "cancelled cycle", kind: "cycle", from: []string{"mirror"}, give: on(syncNow), cancelAt: "copy", state: api.StateProtected},
	{name: "verification", kind: "verify", from: []string{"mirror"}, state: api.StateProtected,
		give: on(func(v *victim, ctx context.Context) (api.Job, error) { return v.Verify(ctx, groupName) })},
	{name: "drop of a point", kind: "drop-point", from: []string{"mirror", "cycle"}, give: dropOldest, state: api.StateProtected},
	{name: "test", kind: "test", from: []string{"mirror"}, give: on(test), state: api.StateProtected},
	{name: "end of a test", kind: "end-test", from: []string{"mirror", "test"}, state: api.StateProtected,
		give: on(func(v *victim, ctx context.Context) (api.Job, error) { return v.EndTest(ctx, groupName) })},
	{name: "cancelled test", kind: "test", from: []string{"mirror"}, give: on(test), cancelAt: "checks", state: api.StateProtected},
	{name: "failover", kind: "failover", from: []string{"mirror"}, give: on(planned), stops: true, state: api.StateFailedOver},
	{name: "rollback", kind: "rollback", from: []string{"mirror", "failover"}, stops: true, state: api.StateProtected,
		give: on(func(v *victim, ctx context.Context) (api.Job, error) { return v.Rollback(ctx, groupName) })},
	{name: "cancelled failover", kind: "failover", from: []string{"mirror"}, give: on(planned), cancelAt: "checks", stops: true,
		state: api.StateProtected},
	{name: "commit", kind: "commit", from: []string{"mirror", "failover"}, state: api.StateCommitted,
		give: on(func(v *victim, ctx context.Context) (api.Job, error) { return v.Commit(ctx, groupName) })},
	{name: "fence", kind: "fence", from: []string{"mirror", "failover", "commit"}, state: api.StateCommitted,
		give: on(func(v *victim, ctx context.Context) (api.Job, error) { return v.Fence(ctx, groupName) })},
	{name: "cancelled reprotect", kind: "reprotect", from: []string{"mirror", "failover", "commit"}, give: on(again),
		cancelAt: "adopt", state: api.StateCommitted},
	{name: "reprotect", kind: "reprotect", from: []string{"mirror", "failover", "commit"}, give: on(again),
		state: api.StateProtected, reversed: true},
	{name: "cancelled failback", kind: "failback", from: []string{"mirror", "failover", "commit"}, give: on(back),
		cancelAt: "checks", stops: true, state: api.StateProtected, reversed: true},
	{name: "failback", kind: "failback", from: []string{"mirror", "failover", "commit"}, give: on(back), stops: true,
		state: api.StateProtected},
	{name: "removal", kind: "remove", from: []string{"mirror", "cycle"}, gone: true,
		give: on(func(v *victim, ctx context.Context) (api.Job, error) { return v.RemoveGroup(ctx, groupName, true) })},
}

func named(name string) order {
	return orders[slices.IndexFunc(orders, func(o order) bool { return o.name == name })]
}

func create(v *victim) (api.Job, error) {
	g, err := v.CreateGroup(v.t.Context(), v.world.spec())
	if err != nil {
		return api.Job{}, err
	}
	v.acknowledged("group " + g.ID)
	list, err := v.ListJobs(v.t.Context(), api.JobQuery{Group: g.ID, Paging: api.Paging{Limit: 1}})
	if err == nil && len(list.Items) == 0 {
		err = fmt.Errorf("no mirror of group %s", g.ID)
	}
	if err != nil {
		return api.Job{}, err
	}
	return list.Items[0], nil
}

func dropOldest(v *victim) (api.Job, error) {
	points, err := v.ListPoints(v.t.Context(), groupName)
	if err != nil {
		return api.Job{}, err
	}
	v.mu.Lock()
	v.dropped[points[0].ID] = true
	v.mu.Unlock()
	return v.DropPoint(v.t.Context(), groupName, points[0].ID)
}

// TestOrdersKnowEveryStep compares the orders with the work that the code knows: whoever adds a step or an undo is told
// when nobody would be killed in it.
func TestOrdersKnowEveryStep(t *testing.T) {
	for _, k := range replication.Kinds() {
		require.True(t, slices.ContainsFunc(orders, func(o order) bool { return o.kind == k.Name }), "no order makes a %s", k.Name)
	}
}

// unvisited names the work of all kinds in which nobody was killed.
func unvisited(deaths []moment) []string {
	var missing []string
	for _, k := range replication.Kinds() {
		for _, step := range k.Work() {
			if !slices.ContainsFunc(deaths, func(m moment) bool { return m.Kind == k.Name && m.Step == step }) {
				missing = append(missing, k.Name+" "+step)
			}
		}
	}
	return missing
}
