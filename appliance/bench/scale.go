package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"understudy/api"
	"understudy/appliance/protection"
)

// scaleRPO is what every machine of row P6 is protected with, in seconds. With it a cycle is due every 27 to 30 s.
const scaleRPO = 60

// scale is row P6: an appliance in a process of its own, on two cores, protects 100, 1,000 and 5,000 machines of the fake
// driver, each in a group of its own, each writing all the time. One reader listens to all events and the lists are asked for
// again and again, over HTTPS. The fake's memory and time count as ours. The state is on the disk of the temporary directory,
// not in memory: what fsync costs there is part of the figures.
func scale(ctx context.Context, _ bench) ([]Figure, error) {
	dir, err := os.MkdirTemp("", "bench-scale")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	const few, many, most = 100, 1000, 5000
	seen := map[int]scaled{}
	for _, n := range []int{few, many, most} {
		window := time.Minute
		if n == many {
			window = 3 * time.Minute // three RPO periods, six cycles of each machine
		}
		s, err := scaleOnce(ctx, filepath.Join(dir, fmt.Sprint(n)), n, window)
		if err != nil {
			return nil, fmt.Errorf("%d machines: %w", n, err)
		}
		fmt.Fprintf(os.Stderr, "P6: %v\n", s)
		seen[n] = s
	}
	s := seen[many]
	return []Figure{
		within("1,000 machines: start of a cycle after it was due, p99", "s", s.late, "limit", 1),
		within("1,000 machines: slowest list call of the API, p99", "ms", s.slowest(), "limit", 50),
		within("1,000 machines: resident memory, most", "MiB", s.rss, "limit", 500),
		within("CPU per machine and minute, 5,000", "ms", seen[most].cpu, "1.2 x that of 100 machines", 1.2*seen[few].cpu),
		against("5,000 machines: start of a cycle after it was due, p99", "s", seen[most].late, "1 s, to compare", 1, 0),
		against("5,000 machines: slowest list call of the API, p99", "ms", seen[most].slowest(), "50 ms, to compare", 50, 0),
		against("5,000 machines: resident memory, most", "MiB", seen[most].rss, "500 MiB, to compare", 500, 0),
	}, nil
}

// scaled is what was seen of one appliance.
type scaled struct {
	machines, cycles int
	late             float64            // seconds, p99
	lists            map[string]float64 // milliseconds, p99, by what was listed
	rss              float64            // MiB
	cpu              float64            // milliseconds of CPU per machine and minute
	worst            float64            // RPO age, seconds
}

func (s scaled) slowest() (most float64) {
	for _, ms := range s.lists {
		most = max(most, ms)
	}
	return most
}

func (s scaled) String() string {
	return fmt.Sprintf("%d machines, %d cycles: late p99 %.3f s, lists p99 %.1f ms %v, %.0f MiB, CPU %.2f ms per machine and minute, oldest point %.0f s",
		s.machines, s.cycles, s.late, s.slowest(), s.lists, s.rss, s.cpu, s.worst)
}

func scaleOnce(ctx context.Context, dir string, machines int, window time.Duration) (s scaled, err error) {
	s.machines = machines
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return s, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a, err := startAppliance(ctx, dir, machines)
	if err != nil {
		return s, err
	}
	defer a.stop()
	groups, err := a.protect(ctx, scaleRPO)
	if err != nil {
		return s, err
	}
	fmt.Fprintf(os.Stderr, "P6: %d machines are protected\n", machines)
	if err := pause(ctx, time.Minute); err != nil { // the first mirrors have gone by
		return s, err
	}
	w, err := a.watch(ctx, groups[0].ID, window, 250*time.Millisecond)
	if err != nil {
		return s, err
	}
	s.rss, s.cpu, s.lists = w.rss, w.cpu.Seconds()*1e3/float64(machines)/window.Minutes(), w.p99()
	var late []float64
	for _, g := range groups {
		points, err := a.client.ListPoints(ctx, g.ID)
		if err != nil {
			return s, err
		}
		late = append(late, lateness(g, points, w.from, w.until)...)
		if g, err = a.client.GetGroup(ctx, g.ID); err != nil {
			return s, err
		}
		if g.Problem != "" {
			return s, fmt.Errorf("group %s: %s", g.Name, g.Problem)
		}
		s.worst = max(s.worst, g.RPO.WorstSeconds)
	}
	if len(late) < machines {
		return s, fmt.Errorf("only %d cycles were seen", len(late))
	}
	s.late, s.cycles = p99(late), len(late)
	return s, nil
}

// lateness is how long after their moment the cycles between from and until began, by the points that they made: what the
// schedule promised, against when the frozen moment of the source was. One that was due and did not come is late by all
// the time that was left.
func lateness(g api.Group, points []api.Point, from, until time.Time) (late []float64) {
	for i, before := range points {
		taken := until
		if i+1 < len(points) {
			taken = points[i+1].Taken
		}
		h := protection.History{LastTaken: before.Taken, LastAttempt: before.Committed, Expected: time.Duration(before.Seconds * float64(time.Second))}
		due := protection.Due(g.Policy, h, before.Taken, g.ID)
		if due.After(from) && due.Before(until) {
			late = append(late, max(0, taken.Sub(due).Seconds()))
		}
	}
	return late
}

// protect gives every machine a group of its own and waits until all have their first point.
func (a *appliance) protect(ctx context.Context, rpo int) ([]api.Group, error) {
	policy := api.Policy{RPOSeconds: rpo, Retention: []api.RetentionTier{{Count: 8}}}
	for _, name := range []string{"home", "away"} {
		if _, err := a.client.AddHost(ctx, api.HostSpec{Name: name, URI: "fake:" + name}); err != nil {
			return nil, err
		}
	}
	work, wctx := errgroup.WithContext(ctx)
	work.SetLimit(8)
	for i, vm := range a.machines {
		work.Go(func() error {
			_, err := a.client.CreateGroup(wctx, api.GroupSpec{Name: fmt.Sprintf("g%04d", i), SourceHost: "home", TargetHost: "away",
				Machines: []api.GroupMachine{{VM: vm}}, Policy: policy})
			return err
		})
	}
	if err := work.Wait(); err != nil {
		return nil, err
	}
	for {
		groups, err := a.client.AllGroups(ctx, api.GroupQuery{})
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(groups, func(g api.Group) bool { return g.State != api.StateProtected }) {
			return groups, nil
		}
		if err := pause(ctx, time.Second); err != nil {
			return nil, err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func p99(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[min(len(v)-1, len(v)*99/100)]
}

var errGone = errors.New("the appliance has ended")
