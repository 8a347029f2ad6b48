package protection

import (
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/api"
)

var phases = []api.GroupState{api.StateMirroring, api.StateProtected, api.StateFailingOver, api.StateFailedOver,
	api.StateCommitted, api.StateRollingBack, api.StateReversing, api.StateFailingBack, api.StateRemoving}

var events = []Event{FirstPoint, FailoverStarted, FailoverFailed, FailoverDone, CommitDone, RollbackStarted, RollbackDone,
	ReverseStarted, ReverseFailed, ReverseDone, FailbackStarted, FailbackFailed, FailbackDone, RemoveStarted}

// begins is the event with which an order that changes the phase begins.
var begins = map[Order]Event{
	OrderFailover:  FailoverStarted,
	OrderCommit:    CommitDone,
	OrderRollback:  RollbackStarted,
	OrderReprotect: ReverseStarted,
	OrderFailback:  FailbackStarted,
	OrderRemove:    RemoveStarted,
	OrderDelete:    RemoveStarted,
}

// The whole graph, from a new group on: what orders allow, the events can do; every phase is reached; every order in
// every state is either allowed or refused with a reason; and from everywhere there is a way back to protected, or out.
func TestWalkTheGraph(t *testing.T) {
	seen := map[State][]State{} // and where it leads
	todo := []State{Initial()}
	for len(todo) > 0 {
		s := todo[0]
		todo = todo[1:]
		if _, known := seen[s]; known {
			continue
		}
		seen[s] = []State{}
		for _, next := range neighbours(t, s) {
			seen[s] = append(seen[s], next)
			todo = append(todo, next)
		}
	}

	reached := map[api.GroupState]bool{}
	allowed := map[Order]bool{}
	for s := range seen {
		reached[s.Phase] = true
		if s.Phase == api.StateProtected {
			require.Positive(t, s.Points, "%+v", s)
		}
		for _, o := range Orders {
			if err := Can(s, o); err == nil {
				allowed[o] = true
			} else {
				requireReason(t, err)
			}
		}
		require.True(t, leads(seen, s, func(s State) bool {
			return s.Phase == api.StateProtected && !s.Reversed || s.Phase == api.StateRemoving
		}), "%+v is a dead end", s)
	}
	for _, p := range phases {
		require.True(t, reached[p], "%s is never reached", p)
	}
	for _, o := range Orders {
		require.True(t, allowed[o], "%s is never allowed", o)
	}
	require.True(t, leads(seen, Initial(), func(s State) bool { return s.Phase == api.StateProtected && s.Reversed }))
}

func requireReason(t *testing.T, err error) {
	t.Helper()
	var e *api.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, api.CodeConflict, e.Code)
	require.Regexp(t, `^[a-z-]+ is not possible: .{10,}`, e.Message)
	require.NotContains(t, e.Message, "unknown")
}

// neighbours are the states that one order or one piece of news leads to.
func neighbours(t *testing.T, s State) []State {
	t.Helper()
	var all []State
	starts := map[Event]bool{}
	for o, e := range begins {
		starts[e] = true
		if Can(s, o) != nil {
			continue
		}
		next, err := Next(s, e)
		require.NoError(t, err, "%s is allowed in %+v", o, s)
		all = append(all, next)
	}
	for _, e := range events {
		if starts[e] {
			continue
		}
		for _, points := range []int{s.Points, 0, 2} {
			given := s
			if e == ReverseDone || e == FailbackDone {
				given.Points = points
			}
			if next, err := Next(given, e); err == nil {
				all = append(all, next)
			} else {
				require.ErrorContains(t, err, string(s.Phase))
				require.Equal(t, given, next, "a refused event changes nothing")
			}
		}
	}
	more, busy, test := s, s, s
	if s.Phase == api.StateProtected && s.Points < 2 {
		more.Points++
	}
	busy.Busy = !s.Busy
	if s.Testing {
		test.Testing = false
	} else if Can(s, OrderTest) == nil {
		test.Testing = true
	}
	return append(all, more, busy, test)
}

// leads says whether a state that is wanted can be reached.
func leads(graph map[State][]State, from State, wanted func(State) bool) bool {
	seen := map[State]bool{}
	todo := []State{from}
	for len(todo) > 0 {
		s := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen[s] {
			continue
		}
		if seen[s] = true; wanted(s) {
			return true
		}
		todo = append(todo, graph[s]...)
	}
	return false
}

func TestNext(t *testing.T) {
	type S = State
	cases := []struct {
		from  State
		event Event
		want  State
	}{
		{S{Phase: api.StateMirroring}, FirstPoint, S{Phase: api.StateProtected, Points: 1}},
		{S{Phase: api.StateProtected, Points: 3}, FailoverStarted, S{Phase: api.StateFailingOver, Points: 3}},
		{S{Phase: api.StateFailingOver, Points: 3}, FailoverFailed, S{Phase: api.StateProtected, Points: 3}},
		{S{Phase: api.StateFailingOver, Points: 3}, FailoverDone, S{Phase: api.StateFailedOver, Points: 3}},
		{S{Phase: api.StateFailedOver, Points: 3}, RollbackStarted, S{Phase: api.StateRollingBack, Points: 3}},
		{S{Phase: api.StateRollingBack, Points: 3}, RollbackDone, S{Phase: api.StateProtected, Points: 3}},
		{S{Phase: api.StateFailedOver, Points: 3}, CommitDone, S{Phase: api.StateCommitted, Points: 3}},
		{S{Phase: api.StateCommitted, Points: 3}, ReverseStarted, S{Phase: api.StateReversing, Points: 3}},
		{S{Phase: api.StateReversing, Points: 3}, ReverseFailed, S{Phase: api.StateCommitted, Points: 3}},
		{S{Phase: api.StateReversing}, ReverseDone, S{Phase: api.StateMirroring, Reversed: true}},
		{S{Phase: api.StateReversing, Points: 1}, ReverseDone, S{Phase: api.StateProtected, Reversed: true, Points: 1}},
		{S{Phase: api.StateReversing, Reversed: true}, ReverseDone, S{Phase: api.StateMirroring}},
		{S{Phase: api.StateCommitted}, FailbackStarted, S{Phase: api.StateFailingBack}},
		{S{Phase: api.StateFailingBack}, FailbackFailed, S{Phase: api.StateCommitted}},
		{S{Phase: api.StateFailingBack}, ReverseDone, S{Phase: api.StateFailingBack, Reversed: true}},
		{S{Phase: api.StateFailingBack, Reversed: true}, FailbackFailed, S{Phase: api.StateMirroring, Reversed: true}},
		{S{Phase: api.StateFailingBack, Reversed: true, Points: 1}, FailbackFailed,
			S{Phase: api.StateProtected, Reversed: true, Points: 1}},
		{S{Phase: api.StateFailingBack, Reversed: true, Points: 2}, FailbackDone, S{Phase: api.StateProtected, Points: 2}},
		{S{Phase: api.StateFailingBack, Reversed: true}, FailbackDone, S{Phase: api.StateMirroring}},
		{S{Phase: api.StateCommitted}, RemoveStarted, S{Phase: api.StateRemoving, Before: api.StateCommitted}},
		{S{Phase: api.StateRemoving, Before: api.StateCommitted}, RemoveStarted,
			S{Phase: api.StateRemoving, Before: api.StateCommitted}},
	}
	for _, c := range cases {
		got, err := Next(c.from, c.event)
		require.NoError(t, err, "%s of %+v", c.event, c.from)
		require.Equal(t, c.want, got, "%s of %+v", c.event, c.from)
	}
}

func TestCan(t *testing.T) {
	type S = State
	protected := S{Phase: api.StateProtected, Points: 2}
	cases := []struct {
		state  State
		order  Order
		reason string // empty: allowed
	}{
		{S{Phase: api.StateMirroring}, OrderFailover, "no complete recovery point"},
		{S{Phase: api.StateMirroring, Points: 1}, OrderFailover, ""},
		{S{Phase: api.StateMirroring}, OrderTest, "no complete recovery point"},
		{S{Phase: api.StateMirroring}, OrderCycle, "no complete recovery point"},
		{S{Phase: api.StateMirroring}, OrderMirror, ""},
		{protected, OrderCycle, ""},
		{protected, OrderTest, ""},
		{protected, OrderFailover, ""},
		{protected, OrderDropPoint, ""},
		{protected, OrderRemove, ""},
		{protected, OrderDelete, ""},
		{protected, OrderEndTest, "no test is running"},
		{protected, OrderCommit, "not failed over"},
		{protected, OrderRollback, "not failed over"},
		{protected, OrderReprotect, "no committed failover"},
		{protected, OrderFailback, "at home"},
		{S{Phase: api.StateProtected, Points: 1}, OrderDropPoint, "the only point"},
		{S{Phase: api.StateProtected, Points: 2, Reversed: true}, OrderFailback, ""},
		{S{Phase: api.StateProtected, Points: 2, Busy: true}, OrderFailover, "another order is at work"},
		{S{Phase: api.StateProtected, Points: 2, Testing: true}, OrderFailover, ""},
		{S{Phase: api.StateProtected, Points: 2, Testing: true}, OrderCycle, ""},
		{S{Phase: api.StateProtected, Points: 2, Testing: true}, OrderTest, "a test is running"},
		{S{Phase: api.StateProtected, Points: 2, Testing: true}, OrderRemove, "a test is running"},
		{S{Phase: api.StateProtected, Points: 2, Testing: true}, OrderEndTest, ""},
		{S{Phase: api.StateFailedOver, Points: 2, Testing: true}, OrderEndTest, ""},
		{S{Phase: api.StateFailingOver, Points: 2, Busy: true}, OrderFailover, "a failover is at work"},
		{S{Phase: api.StateFailedOver, Points: 2}, OrderFailover, "it is failed over"},
		{S{Phase: api.StateFailedOver, Points: 2}, OrderTest, "it is failed over"},
		{S{Phase: api.StateFailedOver, Points: 2}, OrderCycle, "it is failed over"},
		{S{Phase: api.StateFailedOver, Points: 2}, OrderRemove, "it is failed over"},
		{S{Phase: api.StateFailedOver, Points: 2}, OrderReprotect, "it is failed over"},
		{S{Phase: api.StateFailedOver, Points: 2}, OrderCommit, ""},
		{S{Phase: api.StateFailedOver, Points: 2}, OrderRollback, ""},
		{S{Phase: api.StateFailedOver, Points: 2, Busy: true}, OrderRollback, "another order is at work"},
		{S{Phase: api.StateCommitted, Points: 2}, OrderRollback, "what was committed cannot be rolled back"},
		{S{Phase: api.StateCommitted, Points: 2}, OrderFailover, "the replicas are production"},
		{S{Phase: api.StateCommitted, Points: 2}, OrderReprotect, ""},
		{S{Phase: api.StateCommitted, Points: 2}, OrderFailback, ""},
		{S{Phase: api.StateCommitted, Points: 2, Reversed: true}, OrderFailback, "at home already"},
		{S{Phase: api.StateCommitted, Points: 2, Reversed: true}, OrderReprotect, ""},
		{S{Phase: api.StateCommitted, Points: 2, Testing: true}, OrderReprotect, "a test is running"},
		{S{Phase: api.StateCommitted, Points: 2}, OrderRemove, ""},
		{S{Phase: api.StateCommitted, Points: 2}, OrderDelete, "the replicas are production"},
		{S{Phase: api.StateRollingBack, Points: 2}, OrderRollback, ""},
		{S{Phase: api.StateRollingBack, Points: 2}, OrderCommit, "a rollback is at work"},
		{S{Phase: api.StateReversing}, OrderFailover, "roles are being swapped"},
		{S{Phase: api.StateFailingBack}, OrderFailback, ""},
		{S{Phase: api.StateFailingBack}, OrderFailover, "a failback is at work"},
		{S{Phase: api.StateRemoving, Before: api.StateProtected}, OrderDelete, ""},
		{S{Phase: api.StateRemoving, Before: api.StateCommitted}, OrderDelete, "may be production"},
		{S{Phase: api.StateRemoving}, OrderDelete, "may be production"},
		{S{Phase: api.StateRemoving}, OrderRemove, ""},
		{S{Phase: api.StateRemoving}, OrderCycle, "being removed"},
	}
	for _, c := range cases {
		err := Can(c.state, c.order)
		if c.reason == "" {
			require.NoError(t, err, "%s in %+v", c.order, c.state)
			continue
		}
		require.ErrorContains(t, err, c.reason, "%s in %+v", c.order, c.state)
		requireReason(t, err)
	}
	require.Equal(t, api.CodeInvalid, api.CodeOf(Can(protected, "dance")))
}
