// Command bench measures Understudy against its peers: each row is one piece of work, done by everybody in turn, in one run on
// one machine, so that the ratios mean something. It owns its images, servers and figures; it leaves nothing behind.
//
//	go run ./appliance/bench                    every row: a table for people, and bin/bench.json
//	go run ./appliance/bench -row P2,P3 -runs 1 a quick look at two of them
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime/pprof"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// rows is the whole table, in the order it is printed in.
var rows = []row{
	{"P1", mirror},
	{"P2", incremental},
	{"P3", idle},
	{"P4", difference},
	{"P6", scale},
	{"P7", memory},
	{"P8", rto},
	{"C1", console},
}

// row is one piece of work. It makes all it needs below b.dir, measures, and leaves nothing running.
type row struct {
	name    string
	measure func(ctx context.Context, b bench) ([]Figure, error)
}

// bench is what every row is given.
type bench struct {
	dir  string // empty, this row's own, removed afterwards
	runs int    // of each contender
}

func main() {
	runs := flag.Int("runs", 5, "runs of each contender")
	only := flag.String("row", "", "rows to run, with commas between (default: all)")
	dir := flag.String("dir", "", "where the images go, 10 GiB (default: memory if it has room and takes O_DIRECT, else the temporary directory)")
	out := flag.String("json", "bin/bench.json", "write the figures here as well; empty: nowhere")
	profile := flag.String("cpuprofile", "", "write a CPU profile of our own part here")
	table := flag.String("readme", "", "only print the README's table of the figures in this JSON file")
	// Two rows call this program again for a part of their work that is measured as a process of its own.
	mirrorDir := flag.String("mirror", "", "only mirror between the sockets in this folder, for row P7")
	machines := flag.Int("appliance", 0, "only be the appliance of rows P6 and C1, with so many machines")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	work := func() error { return run(ctx, *dir, *runs, *only, *out, *profile) }
	switch {
	case *table != "":
		work = func() error { return readme(os.Stdout, *table) }
	case *mirrorDir != "":
		work = func() error { return mirrorOnly(ctx, *mirrorDir) }
	case *machines > 0:
		work = func() error { return beAppliance(ctx, *dir, *machines) }
	}
	if err := work(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, dir string, runs int, only, out, profile string) (err error) {
	chosen, err := choose(only)
	if err != nil {
		return err
	}
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
	if dir == "" {
		dir = roomy()
	}
	var figures []Figure
	for _, r := range chosen {
		// A row that fails must not take the figures of the others with it.
		more, failed := one(ctx, r, dir, runs)
		figures, err = append(figures, more...), errors.Join(err, failed)
		if ctx.Err() != nil {
			break
		}
	}
	print(figures)
	return errors.Join(err, save(out, chosen, figures))
}

func one(ctx context.Context, r row, dir string, runs int) ([]Figure, error) {
	dir, err := os.MkdirTemp(dir, "bench")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	figures, err := r.measure(ctx, bench{dir: dir, runs: runs})
	for i := range figures {
		figures[i].Row = r.name
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", r.name, err)
	}
	return figures, err
}

// choose finds the rows that were asked for by name.
func choose(only string) ([]row, error) {
	if only == "" {
		return rows, nil
	}
	var chosen []row
	for name := range strings.SplitSeq(only, ",") {
		i := slices.IndexFunc(rows, func(r row) bool { return strings.EqualFold(r.name, strings.TrimSpace(name)) })
		if i < 0 {
			return nil, fmt.Errorf("there is no row %q", name)
		}
		chosen = append(chosen, rows[i])
	}
	return chosen, nil
}

// roomy prefers memory, where the software is measured and not the disk below it.
func roomy() string {
	var s unix.Statfs_t
	if err := unix.Statfs("/dev/shm", &s); err == nil && int64(s.Bavail)*s.Bsize >= 10<<30 && direct("/dev/shm") {
		return "/dev/shm"
	}
	return os.TempDir()
}

// direct says whether a folder's files can be opened as QEMU opens disks with cache=none: not in memory before Linux 6.6.
func direct(dir string) bool {
	f, err := os.CreateTemp(dir, "bench")
	if err != nil {
		return false
	}
	defer os.Remove(f.Name())
	defer f.Close()
	again, err := os.OpenFile(f.Name(), os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return false
	}
	return again.Close() == nil
}
