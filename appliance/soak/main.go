// Command soak lets the appliance protect a guest that writes, on two libvirt hosts of the lab, for a long time and
// through random faults, and watches what must stay true: every recovery point is what the source had, the guest never
// suffers, cycles come back by themselves, memory stays flat, nothing is left behind.
//
// It prints what it does, a summary, and one JSON object as its last line; it fails when anything was violated. --seed
// repeats the sequence of faults; when exactly they strike is up to the machine.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"understudy/api"
	"understudy/appliance/rig"
	"understudy/hypervisors/kvm/lab"
)

type options struct {
	understudy string
	length     time.Duration
	seed       uint64
}

func main() {
	var o options
	flag.StringVar(&o.understudy, "understudy", "bin/understudy", "the appliance's program")
	flag.DurationVar(&o.length, "for", 30*time.Minute, "how long faults go on")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().Unix()), "decides the sequence of faults")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	s := &soak{options: o, began: time.Now(), random: rand.New(rand.NewPCG(o.seed, 0)), failed: map[string]bool{}, proven: map[string]bool{}}
	s.figures = figures{Seed: o.seed, Faults: map[string]int{}, Violations: []string{}, Leftovers: []string{}}
	err := s.run(ctx)
	if err != nil {
		s.violation("the soak broke off: %v", err)
	}
	if !s.summary() {
		stop()
		os.Exit(1)
	}
}

const (
	machine = "web1"
	group   = "web"
	rpo     = 10 // seconds; cycles start every 5
	fill    = 16 << 20
	// targetSize is room for the points of a soak, and little enough to be filled up.
	targetSize = "2G"
)

// figures are what a soak tells about itself. Memory is the median of the appliance's resident set, in MiB, over the
// first and the last third of its last life after warming up.
type figures struct {
	Seconds        float64        `json:"seconds"`
	Seed           uint64         `json:"seed"`
	Points         int            `json:"points"`
	Proven         int            `json:"points_proven"`
	FailedCycles   int            `json:"failed_cycles"`
	Faults         map[string]int `json:"faults"`
	RPOWorstS      float64        `json:"rpo_s_worst"`
	WorstWriteMS   float64        `json:"guest_worst_write_ms"`
	RecoveryWorstS float64        `json:"recovery_s_worst"` // from a fault's end to the next point
	MemoryFirstMiB float64        `json:"memory_first_mib"`
	MemoryLastMiB  float64        `json:"memory_last_mib"`
	MemoryFlat     bool           `json:"memory_flat"`
	Violations     []string       `json:"violations"`
	Leftovers      []string       `json:"leftovers"`
}

// run starts everything, soaks, and takes everything away again, whatever happened.
func (s *soak) run(ctx context.Context) (err error) {
	s.say("starting two libvirt hosts; seed %d", s.seed)
	s.lab, err = lab.Start(ctx, lab.Options{Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, s.lab.Close(ctx))
		s.Leftovers = append(s.Leftovers, s.lab.Leftovers()...)
	}()
	if err := s.boundTarget(ctx); err != nil {
		return err
	}
	s.guest, err = s.lab.StartGuest(ctx, s.lab.Source, lab.GuestOptions{Name: machine, Number: 1, Fill: fill})
	if err != nil {
		return err
	}
	s.witness = rig.NewWitness(s.guest)
	if s.daemon, err = rig.New(filepath.Join(s.lab.Dir, "appliance"), s.understudy); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			s.say("the appliance's last words:\n%s", s.daemon.LastWords())
		}
		err = errors.Join(err, s.daemon.Stop(ctx))
		s.Leftovers = append(s.Leftovers, s.daemon.Leftovers()...)
		s.Leftovers = append(s.Leftovers, rig.Strangers(s.lab)...)
	}()
	if err := s.daemon.Start(ctx); err != nil {
		return err
	}
	if err := s.protect(ctx); err != nil {
		return err
	}
	if err := s.endure(ctx); err != nil {
		return err
	}
	return s.finish(ctx)
}

// boundTarget gives the target's images a file system of their own, so that it can be full without harm to the machine.
func (s *soak) boundTarget(ctx context.Context) error {
	file := filepath.Join(s.lab.Dir, "target.ext4")
	script := `truncate -s "$1" "$2" && mkfs.ext4 -q "$2" && mount -o loop "$2" "$3"`
	_, err := s.lab.Target.Exec(ctx, "sh", "-c", script, "sh", targetSize, file, s.lab.Target.Images)
	return err
}

func (s *soak) protect(ctx context.Context) error {
	// One of each way to reach a host.
	for name, uri := range map[string]string{"source": s.lab.Source.URI, "target": s.lab.Target.SSHURI()} {
		if _, err := s.daemon.AddHost(ctx, api.HostSpec{Name: name, URI: uri}); err != nil {
			return err
		}
	}
	_, err := s.daemon.CreateGroup(ctx, api.GroupSpec{Name: group, SourceHost: "source", TargetHost: "target",
		Policy: api.Policy{RPOSeconds: rpo, VerifyCycles: true},
		Machines: []api.GroupMachine{{VM: machine, Checks: []api.Check{{
			Kind: "http", Address: "http://" + s.guest.Addr + "/", Contains: machine, From: "192.168.77.253/24",
		}}}}})
	if err != nil {
		return err
	}
	s.say("protecting %s with cycles every %d s", machine, rpo/2)
	return s.newPoint(ctx, time.Now())
}

// finish ends protection in good order, and finds what it left.
func (s *soak) finish(ctx context.Context) error {
	s.say("no more faults; proving all points that are kept once more")
	if _, err := s.daemon.Pause(ctx, group); err != nil {
		return err
	}
	if err := rig.Until(ctx, func() (bool, error) {
		g, err := s.daemon.GetGroup(ctx, group)
		return g.Job == "", err
	}); err != nil {
		return err
	}
	points, err := s.daemon.ListPoints(ctx, group)
	if err != nil {
		return err
	}
	for _, p := range points {
		if err := s.witness.Prove(ctx, s.lab.Target, p); err != nil {
			s.violation("point %s at the end: %v", p.ID, err)
		}
	}
	s.Leftovers = append(s.Leftovers, rig.Leftovers(ctx, s.lab, machine, s.lab.Target, points)...)
	job, err := s.daemon.RemoveGroup(ctx, group, true)
	if err != nil {
		return err
	}
	if err := s.job(ctx, job); err != nil {
		return err
	}
	s.Leftovers = append(s.Leftovers, rig.Leftovers(ctx, s.lab, machine, nil, nil)...)
	return nil
}

// summary prints the outcome and says whether it is good.
func (s *soak) summary() bool {
	s.Seconds = time.Since(s.began).Seconds()
	s.judgeMemory()
	for _, l := range s.Leftovers {
		s.violation("left behind: %s", l)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Printf(`
%d points, %d of them proven against the guest's records and their hashes; %d cycles failed on the way
faults: %v
oldest the newest point ever got %.1f s (RPO %d s); longest wait for a point after a fault %.1f s
slowest write of the guest %.1f ms
memory of the appliance %.1f MiB, later %.1f MiB: flat %v
violations: %d
`, s.Points, s.Proven, s.FailedCycles, s.Faults, s.RPOWorstS, rpo, s.RecoveryWorstS, s.WorstWriteMS, s.MemoryFirstMiB,
		s.MemoryLastMiB, s.MemoryFlat, len(s.Violations))
	line, err := json.Marshal(s.figures)
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		return false
	}
	fmt.Println(string(line))
	return len(s.Violations) == 0
}
