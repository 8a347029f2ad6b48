// Command bench measures Understudy against its peers: each row is one piece of work, done by everybody in turn, in one run on
// one machine, so that the ratios mean something. It owns its images, servers and figures; it leaves nothing behind.
//
//	go run ./appliance/bench            table for people, then one line of JSON
//	go run ./appliance/bench -runs 1    a quick look
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime/pprof"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Row is one line of the table. Seconds are medians.
type Row struct {
	Row  string  `json:"row"`
	Work string  `json:"work"`
	Ours float64 `json:"ours"`
	// Peers in seconds, and how much faster than each we are.
	Peers  map[string]float64 `json:"peers"`
	Ratios map[string]float64 `json:"ratios"`
	Goals  map[string]float64 `json:"goals"`
	Met    bool               `json:"met"`
}

// contender is one way to do a row's work; it is called once per run.
type contender struct {
	name string
	goal float64 // how much faster than it we want to be; 0 for us
	run  func(ctx context.Context) (time.Duration, error)
}

func main() {
	runs := flag.Int("runs", 5, "runs of each contender")
	dir := flag.String("dir", "", "where the images go, 8 GiB (default: memory if there is room, else the temporary directory)")
	profile := flag.String("cpuprofile", "", "write a CPU profile of our own part here")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := bench(ctx, *dir, *runs, *profile); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

func bench(ctx context.Context, dir string, runs int, profile string) error {
	if dir == "" {
		dir = roomy()
	}
	dir, err := os.MkdirTemp(dir, "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if profile != "" {
		f, err := os.Create(profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	row, err := mirror(ctx, dir, runs)
	if err != nil {
		return err
	}
	return print([]Row{row})
}

// roomy prefers memory, where the software is measured and not the disk below it.
func roomy() string {
	var s unix.Statfs_t
	if err := unix.Statfs("/dev/shm", &s); err == nil && int64(s.Bavail)*s.Bsize >= 8<<30 {
		return "/dev/shm"
	}
	return os.TempDir()
}

// measure lets the contenders take turns, the first being us, and compares medians.
func measure(ctx context.Context, name, work string, runs int, all []contender) (Row, error) {
	times := make([][]float64, len(all))
	for run := range runs {
		for i, c := range all {
			took, err := c.run(ctx)
			if err != nil {
				return Row{}, fmt.Errorf("%s: %s: %w", name, c.name, err)
			}
			fmt.Fprintf(os.Stderr, "%s run %d of %d: %-22s %6.3f s\n", name, run+1, runs, c.name, took.Seconds())
			times[i] = append(times[i], took.Seconds())
		}
	}
	row := Row{
		Row: name, Work: work, Ours: median(times[0]), Met: true,
		Peers: map[string]float64{}, Ratios: map[string]float64{}, Goals: map[string]float64{},
	}
	for i, c := range all[1:] {
		peer := median(times[i+1])
		row.Peers[c.name], row.Ratios[c.name], row.Goals[c.name] = peer, peer/row.Ours, c.goal
		row.Met = row.Met && row.Ratios[c.name] >= c.goal
	}
	return row, nil
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

func print(rows []Row) error {
	fmt.Printf("%-4s %-44s %9s  %-22s %9s %7s %7s\n", "row", "work", "ours", "peer", "peer's", "ratio", "goal")
	for _, r := range rows {
		peers := make([]string, 0, len(r.Peers))
		for p := range r.Peers {
			peers = append(peers, p)
		}
		slices.SortFunc(peers, func(a, b string) int { return cmp.Or(cmp.Compare(r.Peers[a], r.Peers[b]), strings.Compare(a, b)) })
		for _, p := range peers {
			fmt.Printf("%-4s %-44s %7.3f s  %-22s %7.3f s %6.2fx %6.2fx\n", r.Row, r.Work, r.Ours, p, r.Peers[p], r.Ratios[p], r.Goals[p])
		}
	}
	return json.NewEncoder(os.Stdout).Encode(rows)
}
