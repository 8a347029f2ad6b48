package metrics

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"understudy/api"
)

// scrapeWithin bounds how long the state may take to be read.
const scrapeWithin = 10 * time.Second

// page is how many groups are read at once.
const page = 1000

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("understudy_"+name, help, labels, nil)
}

var (
	groupsByHealth = describe("groups", "Protection groups, by whether they keep their RPO target.", "health")
	groupAge       = describe("group_rpo_age_seconds", "Age of the newest recovery point, counted from the start of its cycle.", "group")
	groupTarget    = describe("group_rpo_target_seconds", "How old the newest recovery point may become.", "group")
	groupMet       = describe("group_rpo_met", "1 while the newest recovery point is younger than the target.", "group")
	groupPoints    = describe("group_points", "Recovery points.", "group")
	groupMachines  = describe("group_machines", "Machines of the group.", "group")
	groupPaused    = describe("group_paused", "1 while the schedule of the group is stopped.", "group")
	groupState     = describe("group_state", "1 for the state that the group is in.", "group", "state")
	groupTested    = describe("group_tested_timestamp_seconds", "When the last test failover that passed ended.", "group")
	groupRead      = describe("group_read_bytes_total", "Bytes read from the sources, since the start of the appliance.", "group")
	groupWritten   = describe("group_written_bytes_total", "Bytes written to the targets, since the start of the appliance.", "group")
	groupCycles    = describe("group_cycles_total", "Cycles and mirrors that have ended, since the start of the appliance.", "group", "state")
	machines       = describe("machines", "Protected machines, by whether their group keeps its RPO target.", "health")
	jobsActive     = describe("jobs_active", "Jobs that have not ended.")
	alerts         = describe("alerts", "What is wrong now, by kind.", "kind", "severity")
	hostUp         = describe("host_up", "1 while the host is connected.", "host")
	storageFree    = describe("storage_free_bytes", "Free space where replicas are, as the host said last.", "host", "storage")
	storageTotal   = describe("storage_size_bytes", "Size of the storage where replicas are.", "host", "storage")
	unreadable     = describe("secrets_unreadable", "Kept secrets that the key file does not open.")
)

// state reads what is shown when somebody asks.
type state struct{ m *Metrics }

func (state) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{groupsByHealth, groupAge, groupTarget, groupMet, groupPoints, groupMachines, groupPaused, groupState,
		groupTested, groupRead, groupWritten, groupCycles, machines, jobsActive, alerts, hostUp, storageFree, storageTotal, unreadable} {
		out <- d
	}
}

func (s state) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeWithin)
	defer cancel()
	for d, collect := range map[*prometheus.Desc]func(context.Context, chan<- prometheus.Metric) error{
		groupAge: s.collectGroups, hostUp: s.collectHosts, jobsActive: s.collectOverview, alerts: s.collectAlerts,
	} {
		if err := collect(ctx, out); err != nil {
			out <- prometheus.NewInvalidMetric(d, err) // the others are shown all the same
		}
	}
	if s.m.o.Secrets != nil {
		gauge(out, unreadable, float64(s.m.o.Secrets()))
	}
}

func gauge(out chan<- prometheus.Metric, d *prometheus.Desc, v float64, labels ...string) {
	out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func counter(out chan<- prometheus.Metric, d *prometheus.Desc, v float64, labels ...string) {
	out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
}

func flag(on bool) float64 {
	if on {
		return 1
	}
	return 0
}

func (s state) collectGroups(ctx context.Context, out chan<- prometheus.Metric) error {
	byHealth := map[api.Health]int{api.HealthMet: 0, api.HealthAtRisk: 0, api.HealthMissed: 0, api.HealthOff: 0}
	seen := map[string]bool{} // a group that is made meanwhile moves others to the next page
	for offset := 0; ; offset += page {
		groups, err := s.m.o.Source.ListGroups(ctx, api.GroupQuery{Paging: api.Paging{Offset: offset, Limit: page}})
		if err != nil {
			return err
		}
		for _, g := range groups.Items {
			if !seen[g.Name] {
				seen[g.Name] = true
				byHealth[g.Health]++
				s.group(g, out)
			}
		}
		if len(groups.Items) < page {
			break
		}
	}
	for health, n := range byHealth {
		gauge(out, groupsByHealth, float64(n), string(health))
	}
	return nil
}

func (s state) group(g api.Group, out chan<- prometheus.Metric) {
	if g.RPO.NewestTaken != nil {
		gauge(out, groupAge, g.RPO.AgeSeconds, g.Name)
	}
	gauge(out, groupTarget, float64(g.Policy.RPOSeconds), g.Name)
	gauge(out, groupMet, flag(g.RPO.Met), g.Name)
	gauge(out, groupPoints, float64(g.Points), g.Name)
	gauge(out, groupMachines, float64(len(g.Members)), g.Name)
	gauge(out, groupPaused, flag(g.Paused), g.Name)
	gauge(out, groupState, 1, g.Name, string(g.State))
	if g.Tested != nil {
		gauge(out, groupTested, float64(g.Tested.Unix()), g.Name)
	}
	c := s.m.of(g.ID)
	counter(out, groupRead, c.read, g.Name)
	counter(out, groupWritten, c.written, g.Name)
	counter(out, groupCycles, c.succeeded, g.Name, string(api.JobSucceeded))
	counter(out, groupCycles, c.failed, g.Name, string(api.JobFailed))
	counter(out, groupCycles, c.cancelled, g.Name, string(api.JobCancelled))
}

func (s state) collectHosts(ctx context.Context, out chan<- prometheus.Metric) error {
	hosts, err := s.m.o.Source.ListHosts(ctx)
	for _, h := range hosts {
		gauge(out, hostUp, flag(h.Connected), h.Name)
	}
	return err
}

func (s state) collectOverview(ctx context.Context, out chan<- prometheus.Metric) error {
	o, err := s.m.o.Source.Overview(ctx, nil)
	if err != nil {
		return err
	}
	gauge(out, jobsActive, float64(o.ActiveJobs))
	for health, n := range map[api.Health]int{api.HealthMet: o.Health.Met, api.HealthAtRisk: o.Health.AtRisk,
		api.HealthMissed: o.Health.Missed, api.HealthOff: o.Health.Off} {
		gauge(out, machines, float64(n), string(health))
	}
	for _, u := range o.Storage {
		gauge(out, storageFree, float64(u.Free), u.HostName, u.Storage)
		gauge(out, storageTotal, float64(u.Total), u.HostName, u.Storage)
	}
	return nil
}

func (s state) collectAlerts(ctx context.Context, out chan<- prometheus.Metric) error {
	active, err := s.m.o.Source.ListAlerts(ctx, nil)
	if err != nil {
		return err
	}
	type label struct {
		kind     string
		severity api.Severity
	}
	count := map[label]int{}
	for _, a := range active {
		count[label{a.Kind, a.Severity}]++
	}
	for l, n := range count {
		gauge(out, alerts, float64(n), l.kind, string(l.severity))
	}
	return nil
}
