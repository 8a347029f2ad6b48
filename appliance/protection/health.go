package protection

import (
	"fmt"
	"time"

	"understudy/api"
)

const (
	// riskAt is the part of the RPO target from which on a group is at risk.
	riskAt = 0.75
	// FailingAfter is how many cycles fail in a row before a person is told: one or two are mended by trying again.
	FailingAfter = 3
	// freshFor is how long a test that passed says that recovery works.
	freshFor = 90 * 24 * time.Hour
)

// Standing is what a group's health depends on.
type Standing struct {
	Phase  api.GroupState
	Paused bool
	// Newest is the start of the newest point's cycle; zero: there is no point.
	Newest time.Time
	// Failures of cycles since the last success.
	Failures int
	// Opened is when the window opened in which cycles may start, Closed when it closed; zero: it always was, or still is,
	// open. What ages outside of a window is as the policy wants it.
	Opened, Closed time.Time
}

// Age is how old the newest point is, as far as that counts against the target.
func (s Standing) Age(now time.Time) time.Duration {
	if !s.Closed.IsZero() && s.Closed.Before(now) {
		now = s.Closed
	}
	return max(0, now.Sub(later(s.Newest, s.Opened)))
}

// Reason says why a group is not well: by a code (as api.Group.HealthCode), and for people. The zero value: it is.
type Reason struct{ Code, Text string }

// Promised says that something is promised about a group now.
func (s Standing) Promised() bool { return s.Off() == Reason{} }

// Off says why nothing is promised about a group now; the zero value: something is.
func (s Standing) Off() Reason {
	switch {
	case s.Phase != api.StateProtected && s.Phase != api.StateMirroring:
		return Reason{string(s.Phase), reasons[s.Phase]}
	case s.Paused:
		return Reason{"paused", "it is paused"}
	case s.Newest.IsZero() && s.Failures == 0:
		return Reason{"first-mirror", "the first mirror is not complete yet"}
	}
	return Reason{}
}

// reasons why no cycles run in a phase.
var reasons = map[api.GroupState]string{
	api.StateFailingOver: "a failover is at work",
	api.StateFailedOver:  "it is failed over: commit or roll back",
	api.StateCommitted:   "its replicas are production: reprotect or fail back",
	api.StateRollingBack: "a rollback is at work",
	api.StateReversing:   "its roles are being swapped",
	api.StateFailingBack: "a failback is at work",
	api.StateRemoving:    "it is being removed",
}

// Health judges a group, and says why it is not well.
func Health(p api.Policy, s Standing, now time.Time) (api.Health, Reason) {
	if !s.Promised() {
		return api.HealthOff, s.Off()
	}
	age, target := s.Age(now), rpoOf(p)
	switch {
	case s.Newest.IsZero() && s.Failures >= FailingAfter:
		return api.HealthMissed, Reason{"no-point", fmt.Sprintf("there is no complete point, and %d tries have failed", s.Failures)}
	case s.Newest.IsZero():
		return api.HealthAtRisk, Reason{"no-point", "there is no complete point yet, and the last try failed"}
	case age > target:
		return api.HealthMissed, Reason{"point-too-old", fmt.Sprintf("the newest point is older than %s", target)}
	case s.Failures > 0:
		return api.HealthAtRisk, Reason{"cycle-failed", "the last cycle failed"}
	case age.Seconds() > riskAt*target.Seconds():
		return api.HealthAtRisk, Reason{"point-old", fmt.Sprintf("the newest point has more than %.0f %% of the age that it may have", 100*riskAt)}
	}
	return api.HealthMet, Reason{}
}

// TestFreshness judges the test failovers of a group: the last one, if there was any, and when the last one ended that
// passed (zero: none did).
func TestFreshness(last *api.TestReport, tested, now time.Time) api.Freshness {
	switch {
	case last != nil && last.State == "failed":
		return api.TestFailed
	case tested.IsZero():
		return api.TestNever
	case now.Sub(tested) > freshFor:
		return api.TestStale
	}
	return api.TestFresh
}
