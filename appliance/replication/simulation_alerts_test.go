package replication_test

import (
	"strings"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
)

// told notes what is published about an alert.
func (s *simulation) told(e api.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.alerts = append(s.alerts, strings.Join([]string{e.Action, e.Subject, e.Alert.GroupName + e.Alert.HostName}, " "))
}

// outage takes a host of a group away for a while: that is one alert about the group and one about the host, and both end.
func (s *simulation) outage(g *simGroup) {
	view, err := s.engine.GetGroup(s.t.Context(), g.name)
	require.NoError(s.t, err)
	if view.State != api.StateProtected || view.Paused {
		return
	}
	s.counts["outage in peace"]++
	s.calm(g)
	host := pick(s, []string{"east", "west"})
	s.note("%s is away for a while", host)
	s.mu.Lock()
	s.alerts = nil
	s.mu.Unlock()
	s.hosts[host].SetReachable(false)
	for range 6 {
		s.pause(5 * time.Second)
		s.engine.Tick(s.t.Context())
		synctest.Wait()
		for keys := s.waiting(); len(keys) > 0; keys = s.waiting() {
			s.open(keys[0])
			s.pause(time.Millisecond)
		}
		s.afterMove()
		s.looks()
	}
	s.rest()
	s.calm(g)
	for _, what := range []string{api.AlertRPOMissed + " " + g.name, api.AlertHostDown + " " + host} {
		var seen []string
		s.mu.Lock()
		for _, line := range s.alerts {
			if action, about, _ := strings.Cut(line, " "); about == what {
				seen = append(seen, action)
			}
		}
		s.mu.Unlock()
		require.Equal(s.t, []string{"created", "deleted"}, seen, "alert %s", what)
	}
}

// calm makes two points in time, so that nothing is wrong with the target any more.
func (s *simulation) calm(g *simGroup) {
	for range 2 {
		s.must("sync", g, s.engine.SyncNow)
		s.looks()
	}
}

func (s *simulation) looks() {
	s.engine.Observe(s.t.Context())
	s.engine.Look(s.t.Context())
	synctest.Wait()
}
