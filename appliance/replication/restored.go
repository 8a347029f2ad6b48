package replication

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"understudy/api"
	"understudy/hypervisors"
)

// A configuration that comes back from a backup says where machines ran when it was made, and that may have changed since:
// what was production then may be a replica now, and what a cycle would throw away may be production. So a group that
// came back takes no order, and nobody judges its machines, until a person resumes it. Then the hosts are asked, which
// know: see [Engine.findAgain].

// RestoredGroup gives the record of a group as it has to be kept after it came back from a backup that was made then. It
// fails when this is no record of a group.
func RestoredGroup(record json.RawMessage, made time.Time) (json.RawMessage, error) {
	var g group
	if err := json.Unmarshal(record, &g); err != nil {
		return nil, err
	}
	if g.ID == "" || g.Spec.Name == "" || g.Home.Host == "" || g.Away.Host == "" || len(g.Members) == 0 {
		return nil, errors.New("it says too little for a group")
	}
	switch g.State {
	case api.StateMirroring, api.StateProtected, api.StateFailedOver, api.StateCommitted:
	default: // the order that was at work is forgotten with its job
		g.State = api.StateMirroring
	}
	g.Restored, g.Paused, g.Compare = &made, true, true
	g.Points, g.OtherPoints, g.Lived = nil, nil, nil // the targets know
	for i := range g.Members {
		m := &g.Members[i]
		m.ChangeID, m.Problem, m.Ran, m.Stopped = "", "", false, false
	}
	g.Test, g.TestRun, g.StartOwed, g.Before, g.Failures, g.Found, g.Compared = nil, "", false, "", 0, nil, nil
	if g.Verification != nil && g.Verification.State == "running" {
		g.Verification = nil
	}
	g.Alerts = []api.Alert{{Kind: api.AlertRestored, Since: made,
		Message: fmt.Sprintf("the configuration of this group was restored from a backup of %s: nobody knows yet where its machines run now", made.UTC().Format(time.DateTime)),
		Hint:    restoredHint}}
	g.Problem, g.Hint = "", ""
	return json.Marshal(&g)
}

const restoredHint = "Nothing is replicated meanwhile, and nothing was started or turned off. Make sure that no other appliance still protects these " +
	"machines, then resume the group: both hosts are asked where production is, and the next cycle compares everything."

// RestoredHost fails when this is no record of a host.
func RestoredHost(record json.RawMessage, _ time.Time) (json.RawMessage, error) {
	var h hostRecord
	if err := json.Unmarshal(record, &h); err != nil {
		return nil, err
	}
	if h.ID == "" || h.Name == "" || h.URI == "" || h.Identity == "" {
		return nil, errors.New("it says too little for a host")
	}
	return record, nil
}

// findAgain ends the doubt about a group that came back from a backup. It only looks.
func (e *Engine) findAgain(ctx context.Context, g group) (group, error) {
	found, err := e.whereabouts(ctx, g)
	if err != nil {
		return group{}, err
	}
	now, err := e.update(g.ID, func(g *group) error {
		g.State, g.Reversed = api.StateMirroring, found.reversed
		if found.live {
			g.State = api.StateFailedOver // committed or not: a person decides that again
		}
		g.Restored, g.Paused, g.Compare = nil, false, true
		return nil
	})
	if err != nil {
		return group{}, err
	}
	if err := e.calm(g.ID, api.AlertRestored); err != nil {
		return group{}, err
	}
	if !found.replicas {
		return now, nil // the first mirror makes them
	}
	return e.reconcile(ctx, g.ID, nil) // which learns of the points
}

// whereabouts is what two hosts say of a group together.
type whereabouts struct {
	replicas bool // there are some
	reversed bool // those are at home
	live     bool // they run as production, or did and hold what they wrote
}

// whereabouts asks both hosts. A machine at home is a replica as long as the roles are swapped, and only then.
func (e *Engine) whereabouts(ctx context.Context, g group) (whereabouts, error) {
	var all whereabouts
	for i, m := range g.Members {
		home, live, err := e.replicaAt(ctx, g.Home.Host, m.Home.Replica)
		if err != nil {
			return all, public(err)
		}
		one := whereabouts{replicas: home, reversed: home, live: live}
		if !home {
			if one.replicas, one.live, err = e.replicaAt(ctx, g.Away.Host, m.Away.Replica); err != nil {
				return all, public(err)
			}
		}
		if i > 0 && one != all {
			return all, api.Errorf(api.CodeConflict, "Remove the group without deleting its replicas, look on both hosts where each machine "+
				"runs, and protect them again from there.", "the machines of group %s are not in the same state: an order was at work since the backup", g.Spec.Name)
		}
		all = one
	}
	return all, nil
}

// replicaAt looks for a replica on a host, and whether it has a live run. A host that cannot keep replicas has none.
func (e *Engine) replicaAt(ctx context.Context, hostID, id string) (found, live bool, err error) {
	target, err := e.target(ctx, hostID)
	if errors.Is(err, hypervisors.ErrIncapable) {
		return false, false, nil
	}
	if err != nil {
		return false, false, err
	}
	replica, err := target.Replica(ctx, id)
	if errors.Is(err, hypervisors.ErrNotFound) {
		return false, false, nil
	}
	if err != nil {
		return false, false, err
	}
	status, err := replica.Status(ctx)
	if err != nil {
		return false, false, err
	}
	for _, run := range status.Runs {
		live = live || run.ID == hypervisors.LiveRun
	}
	return true, live, nil
}
