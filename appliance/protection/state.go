// Package protection decides: what a group's state allows, where it leads, when the next cycle starts, and whether the
// RPO target is met. Its functions are pure, the time is an argument; it never touches a host, a job or the database.
package protection

import (
	"fmt"

	"understudy/api"
)

// Event is something that happened to a group.
type Event string

// The events. Those named Started come before the work, so that a crash finds the group in the state of its order.
const (
	FirstPoint      Event = "first-point"
	FailoverStarted Event = "failover-started"
	FailoverFailed  Event = "failover-failed"
	FailoverDone    Event = "failover-done"
	CommitDone      Event = "commit-done"
	RollbackStarted Event = "rollback-started"
	RollbackDone    Event = "rollback-done"
	ReverseStarted  Event = "reverse-started"
	ReverseFailed   Event = "reverse-failed"
	// ReverseDone: the roles are swapped. It flips Reversed, also inside a failback.
	ReverseDone     Event = "reverse-done"
	FailbackStarted Event = "failback-started"
	// FailbackFailed: production did not move; the group is back where it was, or reversed when the swap is done.
	FailbackFailed Event = "failback-failed"
	// FailbackDone: production is at home; protection goes on in the first direction.
	FailbackDone  Event = "failback-done"
	RemoveStarted Event = "remove-started"
)

// State is what decisions about a group need to know. It is a plain value; the engine fills and keeps it.
type State struct {
	Phase    api.GroupState `json:"phase"`
	Reversed bool           `json:"reversed"`
	// Points counts the complete points of this direction. Where the direction changes (ReverseDone, FailbackDone) the
	// engine sets it to what the new target holds before it asks for Next.
	Points int `json:"points"`
	// Testing: a test run stands.
	Testing bool `json:"testing"`
	// Busy: a job of an order works on the group. Mirrors, cycles and tests do not count: orders may interrupt them.
	Busy bool `json:"busy"`
	// Before is the phase in which a removal began: replicas that were production then are never deleted.
	Before api.GroupState `json:"before,omitempty"`
	// Restored: it came back from a backup, and nobody has looked where its machines run now.
	Restored bool `json:"restored,omitempty"`
}

// Initial is the state of a new group.
func Initial() State { return State{Phase: api.StateMirroring} }

// Next is the state after the event. An event that cannot happen in a state is a mistake of the engine, not of a person.
func Next(s State, e Event) (State, error) {
	next, ok := transitions[e][s.Phase]
	if !ok || e == FailbackStarted && atHome(s) {
		return s, fmt.Errorf("%s cannot happen to a group that is %s", e, s.Phase)
	}
	switch e {
	case FirstPoint:
		s.Points = max(s.Points, 1)
	case ReverseDone:
		s.Reversed = !s.Reversed
	case FailbackDone:
		s.Reversed = false
	case RemoveStarted:
		if s.Phase != api.StateRemoving {
			s.Before = s.Phase
		}
	}
	s.Phase = next(s)
	return s, nil
}

// transitions leads from an event and a phase to the next phase.
var transitions = map[Event]map[api.GroupState]func(State) api.GroupState{
	FirstPoint: {
		api.StateMirroring:   to(api.StateProtected),
		api.StateProtected:   to(api.StateProtected),
		api.StateFailingBack: to(api.StateFailingBack), // the swapped direction's first point, inside the order
	},
	FailoverStarted: {
		api.StateProtected: to(api.StateFailingOver),
		api.StateMirroring: to(api.StateFailingOver),
	},
	FailoverFailed: {api.StateFailingOver: protected},
	FailoverDone:   {api.StateFailingOver: to(api.StateFailedOver)},
	CommitDone:     {api.StateFailedOver: to(api.StateCommitted)},
	RollbackStarted: {
		api.StateFailedOver:  to(api.StateRollingBack),
		api.StateRollingBack: to(api.StateRollingBack),
	},
	RollbackDone:   {api.StateRollingBack: protected},
	ReverseStarted: {api.StateCommitted: to(api.StateReversing)},
	ReverseFailed:  {api.StateReversing: to(api.StateCommitted)},
	ReverseDone: {
		api.StateReversing:   protected,
		api.StateFailingBack: to(api.StateFailingBack),
	},
	FailbackStarted: {
		api.StateCommitted:   to(api.StateFailingBack),
		api.StateProtected:   to(api.StateFailingBack),
		api.StateFailingBack: to(api.StateFailingBack),
	},
	FailbackFailed: {api.StateFailingBack: func(s State) api.GroupState {
		if !s.Reversed {
			return api.StateCommitted
		}
		return protected(s)
	}},
	FailbackDone: {api.StateFailingBack: protected},
	RemoveStarted: {
		api.StateMirroring:   to(api.StateRemoving),
		api.StateProtected:   to(api.StateRemoving),
		api.StateFailingOver: to(api.StateRemoving),
		api.StateCommitted:   to(api.StateRemoving),
		api.StateRollingBack: to(api.StateRemoving),
		api.StateReversing:   to(api.StateRemoving),
		api.StateFailingBack: to(api.StateRemoving),
		api.StateRemoving:    to(api.StateRemoving),
	},
}

// atHome says that production runs where it ran at first, in a phase that a failback may start from.
func atHome(s State) bool {
	switch s.Phase {
	case api.StateProtected:
		return !s.Reversed
	case api.StateCommitted: // a failover swaps where production runs, and Reversed follows only with reprotect
		return s.Reversed
	default:
		return false
	}
}

func to(phase api.GroupState) func(State) api.GroupState {
	return func(State) api.GroupState { return phase }
}

// protected is where cycles run, as far as there is a point.
func protected(s State) api.GroupState {
	if s.Points > 0 {
		return api.StateProtected
	}
	return api.StateMirroring
}
