// Package metrics shows the appliance to Prometheus. It reads what everybody can read through package api, counts what
// happens from the event stream, and decides nothing. It is the only code that knows Prometheus.
//
// # Cardinality
//
// Labels name groups, hosts, storages, kinds of jobs, kinds of alerts and routes of the API; never machines, points, jobs,
// users or addresses. So 5,000 machines in 100 groups make some thousand series, and nobody outside can make more.
// Counters of a group begin at 0 when the appliance starts, and end with the group.
package metrics

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/expfmt"

	"understudy/api"
)

// Source is what is shown. The engine is one.
type Source interface {
	ListGroups(ctx context.Context, q api.GroupQuery) (api.Page[api.Group], error)
	ListHosts(ctx context.Context) ([]api.Host, error)
	Overview(ctx context.Context, scope api.Scope) (api.Overview, error)
	ListAlerts(ctx context.Context, scope api.Scope) ([]api.ActiveAlert, error)
	Events(ctx context.Context, after uint64) (<-chan api.Event, error)
}

// Options of Metrics; Source is required.
type Options struct {
	Source  Source
	Version string
	Log     *slog.Logger
	// Secrets counts those that cannot be read; nil: there are none.
	Secrets func() int
	// Again says when to listen again after the event stream has ended. Nil: after a second.
	Again func(ctx context.Context)
}

// Metrics of one appliance.
type Metrics struct {
	o        Options
	registry *prometheus.Registry
	latency  *prometheus.HistogramVec
	jobs     *prometheus.CounterVec
	listens  prometheus.Gauge

	mu     sync.Mutex
	groups map[string]*counters // by id
}

// counters of a group since the start.
type counters struct {
	read, written, succeeded, failed, cancelled float64
}

// New makes metrics that show the source; Run makes them count.
func New(o Options) *Metrics {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Again == nil {
		o.Again = func(ctx context.Context) {
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
	m := &Metrics{
		o: o, registry: prometheus.NewRegistry(), groups: map[string]*counters{},
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "understudy_api_request_duration_seconds",
			Help:    "How long requests to the API took, by route.",
			Buckets: []float64{.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}}, []string{"method", "route", "status"}),
		jobs: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "understudy_jobs_total",
			Help: "Jobs that have ended, by kind and how they ended."}, []string{"kind", "state"}),
		listens: prometheus.NewGauge(prometheus.GaugeOpts{Name: "understudy_events_listening",
			Help: "1 while what happens is counted."}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "understudy_build_info", Help: "The version that runs.",
		ConstLabels: prometheus.Labels{"version": o.Version, "goversion": runtime.Version()}})
	build.Set(1)
	m.registry.MustRegister(m.latency, m.jobs, m.listens, build, state{m},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Handler answers Prometheus.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError,
		ErrorLog: slog.NewLogLogger(m.o.Log.Handler(), slog.LevelWarn), MaxRequestsInFlight: 4})
}

// Write writes all of them, as Prometheus gets them.
func (m *Metrics) Write(w io.Writer) error {
	families, err := m.registry.Gather()
	for _, f := range families {
		if _, failed := expfmt.MetricFamilyToText(w, f); failed != nil {
			return failed
		}
	}
	return err
}

// Observe notes a request to the API; route is the pattern that it matched, never the path that was asked for.
func (m *Metrics) Observe(method, route string, status int, took time.Duration) {
	m.latency.WithLabelValues(method, route, strconv.Itoa(status/100)+"xx").Observe(took.Seconds())
}

// Run counts what happens until ctx ends.
func (m *Metrics) Run(ctx context.Context) {
	defer m.listens.Set(0)
	var last uint64
	for ctx.Err() == nil {
		events, err := m.o.Source.Events(ctx, last)
		if err != nil {
			if ctx.Err() == nil {
				m.o.Log.Warn("metrics cannot listen to events", "error", err)
			}
		} else {
			m.listens.Set(1)
			for e := range events {
				last = max(last, e.ID)
				m.count(e)
			}
			m.listens.Set(0)
		}
		if ctx.Err() == nil {
			m.o.Again(ctx)
		}
	}
}

// count takes what an event tells. A job is told to have ended once.
func (m *Metrics) count(e api.Event) {
	if e.Kind == "group" && e.Action == "deleted" {
		m.mu.Lock()
		delete(m.groups, e.Group)
		m.mu.Unlock()
		return
	}
	if e.Kind != "job" || e.Action != "updated" || e.Job == nil || !e.Job.State.Ended() {
		return
	}
	j := e.Job
	m.jobs.WithLabelValues(j.Kind, string(j.State)).Inc()
	if j.Group == "" || j.Kind == "remove" {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.groups[j.Group]
	if c == nil {
		c = new(counters)
		m.groups[j.Group] = c
	}
	c.read += j.Result["bytesRead"]
	c.written += j.Result["bytesWritten"]
	if j.Kind != "cycle" && j.Kind != "mirror" {
		return
	}
	switch j.State {
	case api.JobSucceeded:
		c.succeeded++
	case api.JobFailed:
		c.failed++
	case api.JobCancelled:
		c.cancelled++
	}
}

// of gives the counters of a group.
func (m *Metrics) of(group string) counters {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.groups[group]; c != nil {
		return *c
	}
	return counters{}
}
