package protection

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
)

func TestHealth(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	policy := api.Policy{RPOSeconds: 100}
	aged := func(seconds int) Standing {
		return Standing{Phase: api.StateProtected, Newest: now.Add(-time.Duration(seconds) * time.Second)}
	}
	with := func(s Standing, change func(*Standing)) Standing { change(&s); return s }
	for name, c := range map[string]struct {
		standing Standing
		want     api.Health
		reason   string
	}{
		"new":                 {aged(0), api.HealthMet, ""},
		"three quarters":      {aged(75), api.HealthMet, ""},
		"more":                {aged(76), api.HealthAtRisk, "75 %"},
		"as old as it may":    {aged(100), api.HealthAtRisk, "75 %"},
		"too old":             {aged(101), api.HealthMissed, "1m40s"},
		"from the future":     {aged(-1000), api.HealthMet, ""},
		"failed":              {with(aged(1), func(s *Standing) { s.Failures = 1 }), api.HealthAtRisk, "failed"},
		"failed and too old":  {with(aged(101), func(s *Standing) { s.Failures = 1 }), api.HealthMissed, "older"},
		"paused":              {with(aged(1e6), func(s *Standing) { s.Paused = true }), api.HealthOff, "paused"},
		"mirroring":           {Standing{Phase: api.StateMirroring}, api.HealthOff, "first mirror"},
		"first mirror failed": {Standing{Phase: api.StateMirroring, Failures: 2}, api.HealthAtRisk, "no complete point"},
		"it fails and fails":  {Standing{Phase: api.StateMirroring, Failures: 3}, api.HealthMissed, "3 tries"},
		"failed over, paused": {with(aged(1e6), func(s *Standing) { s.Phase, s.Paused = api.StateFailedOver, true }), api.HealthOff, "roll back"},
		"window is closed":    {with(aged(1000), func(s *Standing) { s.Closed = now.Add(-950 * time.Second) }), api.HealthMet, ""},
		"closed too late":     {with(aged(1000), func(s *Standing) { s.Closed = now.Add(-850 * time.Second) }), api.HealthMissed, "older"},
		"window is new":       {with(aged(1000), func(s *Standing) { s.Opened = now.Add(-10 * time.Second) }), api.HealthMet, ""},
		"closes later":        {with(aged(101), func(s *Standing) { s.Closed = now.Add(time.Hour) }), api.HealthMissed, "older"},
	} {
		t.Run(name, func(t *testing.T) {
			got, reason := Health(policy, c.standing, now)
			require.Equal(t, c.want, got, reason)
			require.Contains(t, reason.Text, c.reason)
			require.Equal(t, c.want == api.HealthMet, reason.Text == "")
			require.Equal(t, c.want == api.HealthMet, reason.Code == "")
		})
	}
	for _, phase := range phases {
		if phase == api.StateProtected {
			continue
		}
		health, reason := Health(policy, Standing{Phase: phase, Newest: now}, now)
		if phase != api.StateMirroring {
			require.Equal(t, api.HealthOff, health, phase)
			require.NotEmpty(t, reason.Code, phase)
			require.NotEmpty(t, reason.Text, phase)
		}
	}
}

func TestFreshnessOfTests(t *testing.T) {
	now := time.Date(2026, 6, 2, 3, 4, 5, 0, time.UTC)
	passed, failed, running := &api.TestReport{State: "passed"}, &api.TestReport{State: "failed"}, &api.TestReport{State: "running"}
	require.Equal(t, api.TestNever, TestFreshness(nil, time.Time{}, now))
	require.Equal(t, api.TestNever, TestFreshness(running, time.Time{}, now))
	require.Equal(t, api.TestFailed, TestFreshness(failed, time.Time{}, now))
	require.Equal(t, api.TestFailed, TestFreshness(failed, now, now))
	require.Equal(t, api.TestFresh, TestFreshness(passed, now.Add(-90*24*time.Hour), now))
	require.Equal(t, api.TestStale, TestFreshness(passed, now.Add(-90*24*time.Hour-1), now))
	require.Equal(t, api.TestFresh, TestFreshness(running, now, now))
}
