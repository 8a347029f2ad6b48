// Command demo shows Understudy at its main job, on one machine: it starts two libvirt hosts and a guest that writes
// (hypervisors/kvm/lab), runs the appliance beside them, and walks through protecting, testing, failing over and failing
// back, with figures and proofs. It speaks to the appliance as any other client does and knows nothing of its inside.
//
// With --headless it ends by itself and prints one JSON object as its last line; it fails when anything was not
// identical or anything was left behind.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"understudy/appliance/rig"
	"understudy/hypervisors/kvm/lab"
)

// budget bounds a headless run, many times what it needs.
const budget = 30 * time.Minute

type options struct {
	headless   bool
	understudy string
	transport  string
	esx        bool
	verbose    bool
}

func main() {
	var o options
	flag.BoolVar(&o.headless, "headless", false, "end after the walk, and print the figures as JSON")
	flag.StringVar(&o.understudy, "understudy", "bin/understudy", "the appliance's program")
	flag.StringVar(&o.transport, "transport", "ssh", "how the appliance reaches the hosts: ssh or unix")
	flag.BoolVar(&o.esx, "esx", false, "protect a machine of a simulated ESX host, instead of one on KVM")
	flag.BoolVar(&o.verbose, "verbose", false, "tell what the lab does")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// figures are what a headless run tells about itself. Times in seconds, sizes in bytes. ChangedBytes are the blocks of
// 64 KiB in which production's old disks and what came home differ; FailbackBytes is the data that was written at home,
// without the blocks that only had to become zeros.
type figures struct {
	Identical         bool     `json:"identical"`
	Points            int      `json:"points"`
	MirrorS           float64  `json:"mirror_s"`
	MirrorBytes       int64    `json:"mirror_bytes"`
	CycleSMedian      float64  `json:"cycle_s_median"`
	RPOSMax           float64  `json:"rpo_s_max"`
	TestFailoverS     float64  `json:"test_failover_s"`
	FailoverS         float64  `json:"failover_s"`
	FailbackBytes     int64    `json:"failback_bytes"`
	ChangedBytes      int64    `json:"changed_bytes"`
	GuestWorstWriteMS float64  `json:"guest_worst_write_ms"`
	Leftovers         []string `json:"leftovers"`
}

func run(ctx context.Context, o options) error {
	if o.headless {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, budget)
		defer cancel()
	}
	f := figures{Leftovers: []string{}}
	err := show(ctx, o, &f)
	if len(f.Leftovers) > 0 {
		err = errors.Join(err, fmt.Errorf("left behind: %q", f.Leftovers))
	}
	if err != nil {
		f.Identical = false
	}
	if o.headless {
		line, jsonErr := json.Marshal(f)
		fmt.Println(string(line))
		err = errors.Join(err, jsonErr)
	}
	return err
}

// show starts everything, walks, and takes everything away again, whatever happened.
func show(ctx context.Context, o options, f *figures) (err error) {
	w := &walk{options: o, figures: f, began: time.Now()}
	level := slog.LevelWarn
	if o.verbose {
		level = slog.LevelInfo
	}
	w.say("starting two libvirt hosts")
	w.lab, err = lab.Start(ctx, lab.Options{Emulated: o.esx, Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))})
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, w.lab.Close(ctx))
		f.Leftovers = append(f.Leftovers, w.lab.Leftovers()...)
	}()
	d, err := rig.New(filepath.Join(w.lab.Dir, "appliance"), o.understudy)
	if err != nil {
		return err
	}
	if err := d.Start(ctx); err != nil {
		return errors.Join(err, d.Stop(ctx))
	}
	defer func() {
		if err != nil && ctx.Err() == nil {
			w.say("the appliance's last words:\n%s", d.LastWords())
			for _, h := range []*lab.Host{w.lab.Source, w.lab.Target} {
				w.say("last words of libvirt on %s:\n%s", h.Name, h.LastWords())
			}
		}
		err = errors.Join(err, d.Stop(ctx))
		f.Leftovers = append(f.Leftovers, d.Leftovers()...)
		f.Leftovers = append(f.Leftovers, rig.Strangers(w.lab)...)
	}()
	w.api = d.Client
	walk := w.run
	if o.esx {
		from, startErr := startESX(ctx, w)
		if startErr != nil {
			return startErr
		}
		defer func() { err = errors.Join(err, from.close()) }()
		walk = from.run
	}
	if err := walk(ctx); err != nil {
		return err
	}
	token, err := d.SetupToken()
	if err != nil {
		return err
	}
	if !o.headless {
		tellHow(d, o)
	}
	fmt.Printf("The console is at %s\nIts one-time setup token is %s\n", d.URL(), token)
	if o.headless {
		return nil
	}
	<-ctx.Done()
	w.say("cleaning up")
	return nil
}

// tellHow says how to go on by hand.
func tellHow(d *rig.Daemon, o options) {
	program, err := filepath.Abs(o.understudy)
	if err != nil {
		program = o.understudy
	}
	fmt.Printf(`
Everything stays up until Ctrl-C. In another terminal:

  export UNDERSTUDY_URL=%s UNDERSTUDY_TOKEN_FILE=%s UNDERSTUDY_CA=%s
  %s groups list
  %s --help

The appliance's log is %s.
`, d.URL(), d.Token(), d.Certificate(), program, program, d.LogFile())
}
