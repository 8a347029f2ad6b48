package replication

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"understudy/api"
	"understudy/appliance/protection"
)

// observe looks at hosts and groups until ctx ends.
func (e *Engine) observe(ctx context.Context) {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		looks := e.beginLooks(ctx)
		e.done.Go(looks.Wait) // they end with ctx, or by themselves
		e.Observe(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// judging bounds how many groups are written at once when much happens together: the store writes those that wait in one
// go.
const judging = 64

// Observe judges all groups: it begins and ends their alerts about missed targets, failing cycles and drivers, and tells whose
// health has changed by the passing of time. It also looks at the appliance's own certificate, and keeps history. It asks no
// host. Run calls it every 15 seconds.
func (e *Engine) Observe(ctx context.Context) {
	now := e.Clock()
	var work errgroup.Group
	work.SetLimit(judging)
	for _, g := range e.snapshotGroups() {
		if ctx.Err() != nil {
			break
		}
		if e.isCreating(g.ID) {
			continue
		}
		e.chronicleAge(g, now)
		changed := slices.DeleteFunc([]judgement{
			{api.AlertRPOMissed, g.missed(now), missing},
			{api.AlertCycleFailing, g.failing(), failingCycles},
			{api.AlertDriverMissing, g.lacksDrivers(), withoutDrivers},
		}, func(j judgement) bool { return j.on == (g.alert(j.kind) >= 0) })
		if len(changed) == 0 {
			e.tellHealth(g, now)
			continue
		}
		work.Go(func() error {
			if err := e.setAlerts(g, changed); err != nil && api.CodeOf(err) != api.CodeNotFound {
				e.Log.Error("alerts of a group cannot be kept", "group", g.Spec.Name, "error", err)
			}
			return nil
		})
	}
	_ = work.Wait() // each has logged what went wrong
	if err := e.judgeCertificate(now); err != nil {
		e.Log.Error("the alert about the certificate cannot be kept", "error", err)
	}
	e.keepHistory(ctx, now)
}

// judgement says whether an alert should be on, and what it says.
type judgement struct {
	kind  string
	on    bool
	words func(*group) api.Alert
}

func (e *Engine) setAlerts(g *group, judgements []judgement) error {
	seen := g.clone()
	var errs []error
	for _, j := range judgements {
		errs = append(errs, e.set(seen, j.kind, j.on, func() api.Alert { return j.words(g) }))
	}
	return errors.Join(errs...)
}

// calmAfter is how long a target must be met again at most until the alert ends.
const calmAfter = 10 * time.Minute

// missed says whether the alert about the target should be on. One that is on ends when the newest point stood for less
// than the target, so that the next one was in time too, or when the target has been met for a while: cycles that are
// late every time are one alert, and not one each.
func (g *group) missed(now time.Time) bool {
	s := g.standing(now)
	if !s.Promised() || s.Newest.IsZero() {
		return false
	}
	target := time.Duration(g.Spec.Policy.RPOSeconds) * time.Second
	switch {
	case s.Age(now) > target:
		return true
	case g.alert(api.AlertRPOMissed) < 0:
		return false
	}
	met := now.Sub(g.Points[len(g.Points)-1].Committed)
	return g.Gap > target.Seconds() && met < min(target/2, calmAfter)
}

// failing says whether the alert about failing cycles should be on.
func (g *group) failing() bool {
	return (g.State == api.StateMirroring || g.State == api.StateProtected) && !g.Paused && g.Failures >= protection.FailingAfter
}

func missing(g *group) api.Alert {
	return api.Alert{Kind: api.AlertRPOMissed,
		Message: fmt.Sprintf("the newest recovery point of group %s is older than its target of %s", g.Spec.Name, time.Duration(g.Spec.Policy.RPOSeconds)*time.Second),
		Hint:    cmp.Or(g.Hint, "Look at the jobs of the group. When cycles succeed and take too long, the change rate is too high for the bandwidth or the target.")}
}

func failingCycles(g *group) api.Alert {
	return api.Alert{Kind: api.AlertCycleFailing,
		Message: fmt.Sprintf("cycles of group %s fail again and again: %s", g.Spec.Name, cmp.Or(g.Problem, "see its jobs")),
		Hint:    cmp.Or(g.Hint, "Look at the jobs of the group. Cycles are tried again by themselves.")}
}

// tellHealth publishes a group whose health is another one than at the last look.
func (e *Engine) tellHealth(g *group, now time.Time) {
	health, _ := g.health(now)
	e.mu.Lock()
	before, known := e.healths[g.ID]
	e.healths[g.ID] = health
	e.mu.Unlock()
	if known && before != health {
		e.publish("group", "updated", g.ID, g.ID, "")
	}
}
