package metrics_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/appliance/metrics"
)

// appliance is a source with as many groups as one likes. Its event stream ends when the test closes it.
type appliance struct {
	groups  []api.Group
	streams chan chan api.Event
	broken  error
}

func (a *appliance) ListGroups(_ context.Context, q api.GroupQuery) (api.Page[api.Group], error) {
	if a.broken != nil {
		return api.Page[api.Group]{}, a.broken
	}
	from := min(q.Offset, len(a.groups))
	return api.Page[api.Group]{Items: a.groups[from:min(from+q.Limit, len(a.groups))], Total: len(a.groups)}, nil
}

func (a *appliance) ListHosts(context.Context) ([]api.Host, error) {
	return []api.Host{{HostSpec: api.HostSpec{Name: "kvm1"}, Connected: true}, {HostSpec: api.HostSpec{Name: "kvm2"}}}, nil
}

func (a *appliance) Overview(context.Context, api.Scope) (api.Overview, error) {
	return api.Overview{ActiveJobs: 3, Health: api.HealthCount{Met: 5, Missed: 1},
		Storage: []api.StorageUse{{HostName: "kvm2", Storage: "default", Free: 10, Total: 100}}}, nil
}

func (a *appliance) ListAlerts(context.Context, api.Scope) ([]api.ActiveAlert, error) {
	return []api.ActiveAlert{{Kind: api.AlertHostDown, Severity: api.SeverityCritical}, {Kind: api.AlertHostDown, Severity: api.SeverityCritical}}, nil
}

func (a *appliance) Events(context.Context, uint64) (<-chan api.Event, error) {
	return <-a.streams, nil
}

func newAppliance(n int) *appliance {
	a := &appliance{streams: make(chan chan api.Event)}
	taken := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	for i := range n {
		a.groups = append(a.groups, api.Group{ID: fmt.Sprint("id", i), State: api.StateProtected, Health: api.HealthMet, Points: 7, Tested: &taken,
			GroupSpec: api.GroupSpec{Name: fmt.Sprint("group", i), Policy: api.Policy{RPOSeconds: 60}}, Members: make([]api.GroupMember, 2),
			RPO: api.RPOStatus{AgeSeconds: 12.5, NewestTaken: &taken, Met: true}})
	}
	return a
}

func scrape(t *testing.T, m *metrics.Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	require.Equal(t, http.StatusOK, w.Code, w.Body)
	return w.Body.String()
}

func ended(group, kind string, state api.JobState, read, written float64) api.Event {
	return api.Event{Kind: "job", Action: "updated", Group: group, Job: &api.Job{Kind: kind, Group: group, State: state,
		Result: map[string]float64{"bytesRead": read, "bytesWritten": written}}}
}

func TestWhatPrometheusSees(t *testing.T) {
	a := newAppliance(2)
	m := metrics.New(metrics.Options{Source: a, Version: "1.2.3", Secrets: func() int { return 4 }, Again: func(context.Context) {}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { m.Run(ctx); close(done) }()

	// The stream breaks in between: what comes after is counted too.
	first := make(chan api.Event)
	a.streams <- first
	first <- ended("id0", "cycle", api.JobSucceeded, 1000, 100)
	first <- ended("id0", "cycle", api.JobFailed, 0, 0)
	first <- api.Event{Kind: "job", Action: "progress", Job: &api.Job{Kind: "cycle", State: api.JobRunning}}
	close(first)
	second := make(chan api.Event)
	a.streams <- second
	second <- ended("id0", "mirror", api.JobSucceeded, 5000, 500)
	second <- ended("id1", "failover", api.JobCancelled, 7, 7)
	second <- api.Event{Kind: "group", Action: "deleted", Group: "id1"}
	second <- api.Event{} // now those before are counted
	m.Observe("GET", "/api/v1/groups/:id", 200, 30*time.Millisecond)

	text := scrape(t, m)
	for _, line := range []string{
		`understudy_build_info{goversion="`, `understudy_groups{health="met"} 2`, `understudy_groups{health="missed"} 0`,
		`understudy_group_rpo_age_seconds{group="group0"} 12.5`, `understudy_group_rpo_target_seconds{group="group1"} 60`,
		`understudy_group_read_bytes_total{group="group0"} 6000`, `understudy_group_written_bytes_total{group="group0"} 600`,
		`understudy_group_read_bytes_total{group="group1"} 0`, `understudy_group_cycles_total{group="group0",state="succeeded"} 2`,
		`understudy_group_cycles_total{group="group0",state="failed"} 1`, `understudy_jobs_total{kind="failover",state="cancelled"} 1`,
		`understudy_jobs_active 3`, `understudy_host_up{host="kvm2"} 0`, `understudy_machines{health="missed"} 1`,
		`understudy_storage_free_bytes{host="kvm2",storage="default"} 10`, `understudy_alerts{kind="host-down",severity="critical"} 2`,
		`understudy_secrets_unreadable 4`, `understudy_events_listening 1`,
		`understudy_api_request_duration_seconds_count{method="GET",route="/api/v1/groups/:id",status="2xx"} 1`, "process_", "go_goroutines",
	} {
		require.Contains(t, text, "\n"+line)
	}
	cancel()
	close(second)
	<-done
}

// The number of series follows the groups alone, and a part that cannot be read hides no other.
func TestCardinality(t *testing.T) {
	series := func(n int) int {
		return strings.Count(scrape(t, metrics.New(metrics.Options{Source: newAppliance(n)})), "group=")
	}
	require.Equal(t, 2500*series(1), series(2500), "more than a page of them")
	require.LessOrEqual(t, series(1), 15)

	a := newAppliance(1)
	a.broken = errors.New("no state")
	text := scrape(t, metrics.New(metrics.Options{Source: a}))
	require.Contains(t, text, "understudy_host_up")
	require.NotContains(t, text, "group=")
}

// Whatever the dashboard asks for must be there.
func TestDashboard(t *testing.T) {
	a := newAppliance(1)
	m := metrics.New(metrics.Options{Source: a, Secrets: func() int { return 0 }})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { m.Run(ctx); close(done) }()
	events := make(chan api.Event)
	a.streams <- events
	events <- ended("id0", "cycle", api.JobSucceeded, 1, 1)
	events <- api.Event{}
	m.Observe("GET", "/", 200, time.Millisecond)
	text := scrape(t, m)
	cancel()
	close(events)
	<-done

	b, err := os.ReadFile("grafana/understudy.json")
	require.NoError(t, err)
	var dashboard struct {
		Panels []struct {
			Title   string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr string }
		}
	}
	require.NoError(t, json.Unmarshal(b, &dashboard))
	queried := map[string]bool{}
	for _, p := range dashboard.Panels {
		require.LessOrEqual(t, p.GridPos.X+p.GridPos.W, 24, p.Title)
		require.NotEmpty(t, p.Targets, p.Title)
		for _, target := range p.Targets {
			names := regexp.MustCompile(`\b(understudy|go|process)_\w+`).FindAllString(target.Expr, -1)
			require.NotEmpty(t, names, target.Expr)
			require.Equal(t, strings.Count(target.Expr, "("), strings.Count(target.Expr, ")"))
			for _, name := range names {
				queried[name] = true
				require.Regexp(t, `(?m)^`+name+`[{ ]`, text, "%s asks for it", p.Title)
			}
			for _, label := range regexp.MustCompile(`by \(([^)]*)\)`).FindAllStringSubmatch(target.Expr, -1) {
				for _, l := range strings.Split(label[1], ", ") {
					require.Contains(t, text, l+`="`)
				}
			}
		}
	}
	require.Greater(t, len(queried), 15)
}
