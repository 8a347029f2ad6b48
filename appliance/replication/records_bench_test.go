package replication_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/appliance/replication"
	"understudy/hypervisors"
)

// BenchmarkRecords asks an appliance with 5,000 groups what a console asks. A call must take less than 50 ms.
func BenchmarkRecords(b *testing.B) {
	const groups = 5000
	disk := &memoryState{data: map[string]map[string][]byte{}}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	taken := now.Add(-time.Minute)
	for _, host := range []string{"home", "away"} {
		require.NoError(b, disk.Put("hosts", host, map[string]any{"ID": host, "Name": host, "uri": "fake:" + host, "name": host}))
	}
	for i := range groups {
		id, name := fmt.Sprintf("%08x", i), fmt.Sprintf("g%04d", groups-i)
		var points []api.Point
		for range 8 {
			points = append(points, api.Point{ID: "p", Taken: taken, Committed: taken})
		}
		g := map[string]any{"ID": id, "State": api.StateProtected, "Home": map[string]any{"Host": "home"}, "Away": map[string]any{"Host": "away"}, "Points": points,
			"Spec":    api.GroupSpec{Name: name, SourceHost: "home", TargetHost: "away", Policy: api.Policy{RPOSeconds: 60 + i%60}},
			"Members": []any{map[string]any{"Name": "vm" + name, "Home": map[string]any{"VM": name}, "Away": map[string]any{"VM": name}}}}
		require.NoError(b, disk.Put("groups", id, g))
		for n := range 10 {
			job := fmt.Sprintf("01%024d", 10*i+n)
			require.NoError(b, disk.Put("jobs", job, map[string]any{"next": 2, "job": api.Job{ID: job, Kind: "cycle", Group: id, State: api.JobSucceeded, Steps: []string{"copy", "retention"}, Created: taken, Ended: &taken}}))
		}
	}
	engine, err := replication.New(b.Context(), replication.Options{Store: disk, Bus: simBus{&life{s: &simulation{}}}, Clock: func() time.Time { return now },
		Log: slog.New(slog.DiscardHandler),
		Connect: func(context.Context, replication.Login, string) (hypervisors.Host, error) {
			return nil, hypervisors.ErrUnreachable
		}})
	require.NoError(b, err)
	run := func(name string, call func() error) {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				require.NoError(b, call())
			}
		})
	}
	ctx := b.Context()
	run("overview", func() error { _, err := engine.Overview(ctx, nil); return err })
	run("alerts", func() error { _, err := engine.ListAlerts(ctx, nil); return err })
	for _, q := range []api.MachineQuery{{}, {Sort: "-age"}, {Sort: "-health", Health: api.HealthAtRisk}, {Q: "g42"}, {Paging: api.Paging{Limit: 1000}}} {
		run(fmt.Sprintf("machines %s%s%s%d", q.Sort, q.Health, q.Q, q.Limit), func() error { _, err := engine.ListMachines(ctx, q); return err })
	}
	for _, q := range []api.GroupQuery{{}, {Sort: "-health"}, {Q: "g42"}, {Paging: api.Paging{Limit: 1000}}} {
		run(fmt.Sprintf("groups %s%s%d", q.Sort, q.Q, q.Limit), func() error { _, err := engine.ListGroups(ctx, q); return err })
	}
	run("active jobs", func() error { _, err := engine.ListJobs(ctx, api.JobQuery{State: "active"}); return err })
	run("observe", func() error { engine.Observe(ctx); return nil })
	run("history", func() error { _, err := engine.History(ctx, api.HistoryQuery{Hours: 744}); return err })
}
