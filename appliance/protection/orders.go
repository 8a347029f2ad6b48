package protection

import (
	"fmt"
	"slices"

	"understudy/api"
)

// Order is what a person or the schedule wants from a group.
type Order string

// The orders.
const (
	OrderMirror    Order = "mirror"
	OrderCycle     Order = "cycle"
	OrderVerify    Order = "verify"
	OrderTest      Order = "test"
	OrderEndTest   Order = "end-test"
	OrderFailover  Order = "failover"
	OrderCommit    Order = "commit"
	OrderRollback  Order = "rollback"
	OrderReprotect Order = "reprotect"
	OrderFailback  Order = "failback"
	OrderFence     Order = "fence"
	OrderDropPoint Order = "drop-point"
	OrderRemove    Order = "remove"
	OrderDelete    Order = "delete" // remove, and the replicas with it
)

// Orders are all of them.
var Orders = []Order{OrderMirror, OrderCycle, OrderVerify, OrderTest, OrderEndTest, OrderFailover, OrderCommit, OrderRollback,
	OrderReprotect, OrderFailback, OrderFence, OrderDropPoint, OrderRemove, OrderDelete}

// rule says where an order is possible.
type rule struct {
	// phases in which it may be given.
	phases []api.GroupState
	// idle: not while a job of another order works on the group.
	idle bool
	// untested: not while a test runs.
	untested bool
	// also, if set, gives further reasons against it, and what to do.
	also func(State) (reason, hint string)
}

// cycling are the phases in which mirrors and cycles run.
var cycling = []api.GroupState{api.StateMirroring, api.StateProtected}

const endTestFirst = "End the test first."

var rules = map[Order]rule{
	// A protected group mirrors again when its change tracking is lost.
	OrderMirror: {phases: cycling, idle: true},
	OrderCycle:  {phases: []api.GroupState{api.StateProtected}, idle: true},
	OrderVerify: {phases: []api.GroupState{api.StateProtected}, idle: true},
	OrderTest:   {phases: cycling, idle: true, untested: true, also: needsPoint},
	// A test stands apart from everything else, so that it can be ended at any time.
	OrderEndTest: {phases: nil, also: func(s State) (string, string) {
		if !s.Testing {
			return "no test is running", ""
		}
		return "", ""
	}},
	// A running test never stands in the way of a recovery.
	OrderFailover: {phases: cycling, idle: true, also: needsPoint},
	OrderCommit:   {phases: []api.GroupState{api.StateFailedOver}, idle: true},
	// Rolling back can be ordered again where it broke off; so can failing back and removing.
	OrderRollback:  {phases: []api.GroupState{api.StateFailedOver, api.StateRollingBack}, idle: true},
	OrderReprotect: {phases: []api.GroupState{api.StateCommitted}, idle: true, untested: true},
	OrderFailback: {
		phases: []api.GroupState{api.StateProtected, api.StateCommitted, api.StateFailingBack}, idle: true, untested: true,
		also: func(s State) (string, string) {
			switch {
			case !atHome(s):
				return "", ""
			case s.Phase == api.StateCommitted:
				return "the machines are at home already", "Order reprotect to protect them there."
			default:
				return "the machines are at home", ""
			}
		},
	},
	// Where it is settled which side must be off.
	OrderFence: {phases: []api.GroupState{api.StateMirroring, api.StateProtected, api.StateFailedOver, api.StateCommitted}, idle: true},
	OrderDropPoint: {phases: cycling, idle: true, also: func(s State) (string, string) {
		if s.Points < 2 {
			return "the only point of a group is not dropped", "Wait for the next point, or remove the group."
		}
		return "", ""
	}},
	OrderRemove: {phases: []api.GroupState{api.StateMirroring, api.StateProtected, api.StateFailingOver,
		api.StateCommitted, api.StateRollingBack, api.StateReversing, api.StateFailingBack, api.StateRemoving},
		idle: true, untested: true},
	OrderDelete: {phases: []api.GroupState{api.StateMirroring, api.StateProtected, api.StateRemoving},
		idle: true, untested: true, also: func(s State) (string, string) {
			if s.Phase == api.StateRemoving && !slices.Contains(cycling, s.Before) {
				return "its replicas may be production", "Remove the group without deleting the replicas."
			}
			return "", ""
		}},
}

func needsPoint(s State) (string, string) {
	if s.Points == 0 {
		return "there is no complete recovery point yet", "Wait until the first mirror has finished."
	}
	return "", ""
}

// Can says whether the order may be given now. The error is an *api.Error of CodeConflict with the reason, and in most
// cases what to do. It does not look at locks: that two orders at the same instant do not both win is up to the jobs.
func Can(s State, o Order) error {
	r, known := rules[o]
	if !known {
		return api.Errorf(api.CodeInvalid, "", "there is no order %q", o)
	}
	if s.Restored && o != OrderRemove {
		return refuse(o, "it was restored from a backup, and nobody knows yet where its machines run",
			"Make sure that no other appliance protects these machines, then resume the group.")
	}
	if r.phases != nil && !slices.Contains(r.phases, s.Phase) {
		reason, hint := against(s, o)
		return refuse(o, reason, hint)
	}
	if r.idle && s.Busy {
		return refuse(o, "another order is at work on the group", "Wait until its job has ended, or cancel it.")
	}
	if r.untested && s.Testing {
		return refuse(o, "a test is running", endTestFirst)
	}
	if r.also != nil {
		if reason, hint := r.also(s); reason != "" {
			return refuse(o, reason, hint)
		}
	}
	return nil
}

// against explains why a phase does not allow an order, and what to do instead.
func against(s State, o Order) (reason, hint string) {
	switch s.Phase {
	case api.StateMirroring:
		reason, hint = "there is no complete recovery point yet", "Wait until the mirror has finished."
	case api.StateProtected:
		reason = "it is protected and not failed over"
	case api.StateFailingOver:
		reason, hint = "a failover is at work", "Wait until its job has ended, or cancel it."
	case api.StateFailedOver:
		reason, hint = "it is failed over", "Commit the failover or roll it back first."
	case api.StateCommitted:
		reason, hint = "its failover is committed: the replicas are production", "Order reprotect or failback."
	case api.StateRollingBack:
		reason, hint = "a rollback is at work", "Wait until it has ended. If it failed, order rollback again."
	case api.StateReversing:
		reason, hint = "its roles are being swapped", "Wait until the job has ended, or cancel it."
	case api.StateFailingBack:
		reason, hint = "a failback is at work", "Wait until it has ended. If it failed, order failback again."
	case api.StateRemoving:
		reason, hint = "it is being removed", "If the removal failed, order it again."
	default:
		reason = fmt.Sprintf("its state %q is unknown", s.Phase)
	}
	switch {
	case o == OrderRollback && s.Phase == api.StateCommitted:
		reason, hint = "what was committed cannot be rolled back", "Order failback to bring the machines home."
	case (o == OrderCommit || o == OrderRollback) && slices.Contains(cycling, s.Phase):
		reason, hint = "it is not failed over", ""
	case o == OrderReprotect && slices.Contains(cycling, s.Phase):
		reason, hint = "there is no committed failover", ""
	case o == OrderReprotect && s.Phase == api.StateFailedOver:
		hint = "Commit the failover first."
	case o == OrderDelete && s.Phase == api.StateCommitted:
		hint = "Remove the group without deleting the replicas."
	}
	return reason, hint
}

func refuse(o Order, reason, hint string) error {
	return api.Errorf(api.CodeConflict, hint, "%s is not possible: %s", o, reason)
}
