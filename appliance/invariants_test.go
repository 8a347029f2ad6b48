package main_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
)

// world is what the appliance works on and what goes on without it: hosts, machines, guests that write.
type world interface {
	name() string
	// serve starts what the appliance reaches its hosts by, for as long as the test runs.
	serve(t testing.TB, dir string, v *victim)
	hosts() map[string]string // URIs by name
	spec() api.GroupSpec
	// calm returns when nothing that a dead appliance had begun is under way any more.
	calm()
	// doubt lets holds read everything again, what it knows already too.
	doubt()
	// begin is told which order comes next.
	begin(o order)
	// tick is called at every moment that can be struck: guests write, and production is looked at.
	tick()
	// holds tells what is wrong with points that are offered: whether the target has them, with the content that the
	// source had at their checkpoints.
	holds(g api.Group, points []api.Point) []string
	// runs tells what is wrong with who runs: production on the side where it belongs, and nothing else.
	runs(g api.Group) []string
	// leftovers names what is on the hosts for the time being only, with no job under way; nil group: it is gone.
	leftovers(g *api.Group, points []api.Point) []string
}

// promised checks what holds at every moment: what was acknowledged is there, and what is offered is complete.
func (v *victim) promised() {
	v.t.Helper()
	g, points := v.look()
	kept := v.promises(g)
	there := map[string]bool{}
	for _, h := range call(v, func(ctx context.Context) ([]api.Host, error) { return v.ListHosts(ctx) }) {
		there["host "+h.Name] = true
	}
	for _, j := range call(v, func(ctx context.Context) ([]api.Job, error) { return v.AllJobs(ctx, api.JobQuery{}) }) {
		there["job "+j.ID] = true
	}
	if g != nil {
		there["group "+g.ID] = true
		for _, p := range points {
			there["point "+p.ID] = true
		}
		v.offered(*g, points)
	}
	for _, what := range kept {
		require.True(v.t, there[what], "%s was acknowledged and is gone", what)
	}
}

// offered checks that the target holds what is offered. The job at work may drop points or swap the roles meanwhile: what
// is missing is only wrong when it is still offered.
func (v *victim) offered(g api.Group, points []api.Point) {
	v.t.Helper()
	for g.State != api.StateRemoving && g.State != api.StateFailingBack { // then nothing is
		wrong := v.world.holds(g, points)
		if len(wrong) == 0 {
			return
		}
		now, still := v.look()
		if now == nil {
			return
		}
		if now.State == g.State && now.Reversed == g.Reversed && slices.EqualFunc(points, still, samePoint) {
			require.Empty(v.t, wrong, "points that are offered")
		}
		g, points = *now, still
	}
}

func samePoint(a, b api.Point) bool { return a.ID == b.ID }

// look gives the group, nil when there is none, and its points, which it must keep from now on.
func (v *victim) look() (*api.Group, []api.Point) {
	v.t.Helper()
	for {
		groups := call(v, func(ctx context.Context) ([]api.Group, error) { return v.AllGroups(ctx, api.GroupQuery{}) })
		if len(groups) == 0 {
			return nil, nil
		}
		g := groups[0]
		points, err := v.ListPoints(v.t.Context(), g.ID)
		now, again := v.GetGroup(v.t.Context(), g.ID)
		if err != nil || again != nil || now.Reversed != g.Reversed {
			v.died() // or removed, or turned round meanwhile
			continue
		}
		v.acknowledged("group " + g.ID)
		v.mu.Lock()
		for _, p := range points {
			v.points[p.ID] = g.Reversed
		}
		v.mu.Unlock()
		return &g, points
	}
}

// promises are what must be there now: all that was acknowledged but what the order at work ends. Points of the other
// direction wait and are not listed; a failback ends those that wait at home.
func (v *victim) promises(g *api.Group) (kept []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for what, play := range v.kept {
		// The history of jobs is bounded, and each play adds a few.
		old := strings.HasPrefix(what, "job ") && v.plays-play > 3
		if old || v.order.gone && strings.HasPrefix(what, "group ") {
			delete(v.kept, what)
		} else {
			kept = append(kept, what)
		}
	}
	for id, reversed := range v.points {
		if reversed && v.order.kind == "failback" || v.order.gone {
			delete(v.points, id)
		} else if g != nil && reversed == g.Reversed && !v.dropped[id] {
			kept = append(kept, "point "+id)
		}
	}
	return kept
}

// settled checks the six invariants after an order whose job has ended.
func (v *victim) settled(o order, job api.Job) {
	v.t.Helper()
	outcome := api.JobSucceeded
	if o.cancelAt != "" {
		outcome = api.JobCancelled
	}
	require.Equal(v.t, outcome, job.State, "%s ended in step %s: %s\n%s", o.name, job.Step, job.Error, v.LastWords())
	if o.gone {
		g, _ := v.look()
		require.Nil(v.t, g, "a group that was removed")
		v.promised()
		require.Empty(v.t, v.world.leftovers(nil, nil), "left behind by %s", o.name)
		return
	}
	g, _ := v.look()
	require.NotNil(v.t, g)
	// The schedule mirrors what has no point.
	for deadline := time.Now().Add(waitFor); g.State == api.StateMirroring && o.state == api.StateProtected || g.Job != ""; {
		require.True(v.t, time.Now().Before(deadline), "job %q is at work, state %s: %s", g.Job, g.State, g.Problem)
		time.Sleep(tick)
		g, _ = v.look()
	}
	require.Equal(v.t, o.state, g.State, "after %s: %s", o.name, g.Problem)
	require.Equal(v.t, o.reversed, g.Reversed, "after %s", o.name)
	v.sound(o.name)
	if g.State != api.StateProtected {
		return
	}
	if g.Test != nil && g.Test.State == "running" {
		v.done(v.EndTest(v.t.Context(), groupName))
		g, _ := v.look()
		require.Equal(v.t, "passed", g.Test.State, g.Test.Problem)
		v.sound("the test after " + o.name)
	}
	_, before := v.look()
	v.done(v.SyncNow(v.t.Context(), groupName)) // the next cycle, whatever happened
	_, points := v.look()
	require.Greater(v.t, points[len(points)-1].ID, before[len(before)-1].ID, "no point of the cycle after %s", o.name)
	v.sound("the cycle after " + o.name)
}

// sound checks what must be true whenever no job is at work.
func (v *victim) sound(after string) {
	v.t.Helper()
	v.world.doubt()
	v.promised()
	g, points := v.look()
	require.Empty(v.t, v.world.runs(*g), "after %s", after)
	if g.Test == nil || g.Test.State != "running" {
		require.Empty(v.t, v.world.leftovers(g, points), "left behind by %s", after)
	}
}

// done expects an order to be accepted and to succeed.
func (v *victim) done(j api.Job, err error) {
	v.t.Helper()
	require.NoError(v.t, err)
	j = v.finished(j.ID)
	require.Equal(v.t, api.JobSucceeded, j.State, "%s: step %s: %s\n%s", j.Kind, j.Step, j.Error, v.LastWords())
}

// away says whether production is on the target host.
func away(g api.Group) bool {
	return g.Reversed != slices.Contains([]api.GroupState{api.StateFailedOver, api.StateCommitted}, g.State)
}
