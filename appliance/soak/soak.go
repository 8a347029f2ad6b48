package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"understudy/api"
	"understudy/appliance/rig"
	"understudy/hypervisors/kvm/lab"
)

// soak is one run.
type soak struct {
	options
	began   time.Time
	random  *rand.Rand      // of the faults, which come one after another
	failed  map[string]bool // cycles, by id; of the faults too
	lab     *lab.Lab
	guest   *lab.Guest
	daemon  *rig.Daemon
	witness *rig.Witness

	resting atomic.Bool // the guest is off because we turned it off
	boots   atomic.Uint64

	mu sync.Mutex
	figures
	proven map[string]bool
	memory []sample
	born   time.Time // the appliance's last life
}

type sample struct {
	at  time.Time
	rss int64
}

func (s *soak) say(format string, args ...any) {
	fmt.Printf("%7.1f s  %s\n", time.Since(s.began).Seconds(), fmt.Sprintf(format, args...))
}

// violation notes, and tells at once, that something is not as it must be.
func (s *soak) violation(format string, args ...any) {
	v := fmt.Sprintf(format, args...)
	s.mu.Lock()
	s.Violations = append(s.Violations, v)
	s.mu.Unlock()
	s.say("VIOLATION: %s", v)
}

// endure makes faults for as long as was ordered, and watches beside them.
func (s *soak) endure(ctx context.Context) error {
	up, err := s.witness.Ask(ctx, s.lab.Source)
	if err != nil {
		return err
	}
	s.boots.Store(up.Boots)
	s.born = time.Now()
	deadline := time.Now().Add(s.length)
	watching, done := context.WithCancel(ctx)
	all, watching := errgroup.WithContext(watching)
	for _, w := range []struct {
		every time.Duration
		look  func(context.Context)
	}{{time.Second, s.lookAtPoints}, {500 * time.Millisecond, s.lookAtGuest}, {5 * time.Second, s.lookAtMemory}} {
		all.Go(func() error {
			for watching.Err() == nil {
				w.look(watching)
				pause(watching, w.every)
			}
			return nil
		})
	}
	all.Go(func() error {
		defer done()
		return s.faults(watching, deadline)
	})
	return all.Wait()
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// lookAtPoints proves every point that is new.
func (s *soak) lookAtPoints(ctx context.Context) {
	points, err := s.daemon.ListPoints(ctx, group)
	if err != nil {
		return // the appliance is down or the group is busy; faults wait for it to come back
	}
	for _, p := range points {
		s.mu.Lock()
		known := s.proven[p.ID]
		s.proven[p.ID] = true
		s.mu.Unlock()
		if known {
			continue
		}
		err := s.witness.Prove(ctx, s.lab.Target, p)
		if ctx.Err() != nil {
			return
		}
		s.mu.Lock()
		s.Points++
		if err == nil {
			s.Proven++
		}
		s.mu.Unlock()
		if err != nil && s.offered(ctx, p.ID) { // else retention has dropped it meanwhile
			s.violation("point %s: %v", p.ID, err)
		}
	}
}

func (s *soak) offered(ctx context.Context, id string) bool {
	points, err := s.daemon.ListPoints(ctx, group)
	return err != nil || slices.ContainsFunc(points, func(p api.Point) bool { return p.ID == id })
}

// lookAtGuest expects production to run and write, whatever happens to its protection.
func (s *soak) lookAtGuest(ctx context.Context) {
	if s.resting.Load() {
		return
	}
	boots := s.boots.Load()
	up, err := s.witness.Ask(ctx, s.lab.Source)
	switch {
	case s.resting.Load() || ctx.Err() != nil || boots != s.boots.Load():
	case errors.Is(err, rig.ErrGuest):
		s.violation("%v", err)
	case err != nil:
		s.silent(ctx, err)
	case up.Boots != boots:
		s.violation("the guest booted by itself: boot %d, was %d", up.Boots, boots)
		s.boots.Store(up.Boots)
	}
	s.mu.Lock()
	s.WorstWriteMS = max(s.WorstWriteMS, up.WorstWriteMS)
	s.mu.Unlock()
}

// silent gives a guest that did not answer at once the time that a loaded machine may need.
func (s *soak) silent(ctx context.Context, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if _, again := s.lab.Source.WaitStatus(ctx, s.guest.Addr); again != nil && !s.resting.Load() && ctx.Err() == context.DeadlineExceeded {
		s.violation("the guest does not answer: %v", err)
	}
}

func (s *soak) lookAtMemory(context.Context) {
	rss, err := s.daemon.RSS()
	if err != nil {
		return // it was killed a moment ago
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.memory = append(s.memory, sample{time.Now(), rss})
}

// How flat memory must be: the median of the last third of the appliance's last life may exceed that of the first third,
// both without warming up, by a quarter and what the garbage collector's rhythm explains.
const (
	flatRatio = 1.25
	flatSlack = 8 << 20
	warmUp    = 2 * time.Minute
)

func (s *soak) judgeMemory() {
	s.mu.Lock()
	defer s.mu.Unlock()
	var life []int64
	from := s.born.Add(min(warmUp, s.length/10))
	for _, m := range s.memory {
		if m.at.After(from) {
			life = append(life, m.rss)
		}
	}
	third := len(life) / 3
	if third == 0 {
		s.Violations = append(s.Violations, "the appliance did not live long enough to judge its memory")
		return
	}
	first, last := median(life[:third]), median(life[len(life)-third:])
	s.MemoryFirstMiB, s.MemoryLastMiB = float64(first)/(1<<20), float64(last)/(1<<20)
	s.MemoryFlat = float64(last) <= float64(first)*flatRatio+flatSlack
	if !s.MemoryFlat {
		s.Violations = append(s.Violations, fmt.Sprintf("memory grew from %.1f to %.1f MiB", s.MemoryFirstMiB, s.MemoryLastMiB))
	}
}

func median(v []int64) int64 {
	v = slices.Clone(v)
	slices.Sort(v)
	return v[len(v)/2]
}

// newPoint waits for a point that was taken after a moment: protection goes on by itself.
func (s *soak) newPoint(ctx context.Context, after time.Time) error {
	return rig.Until(ctx, func() (bool, error) {
		g, err := s.daemon.GetGroup(ctx, group)
		if err != nil {
			return false, nil // it may just have been started
		}
		s.mu.Lock()
		s.RPOWorstS = max(s.RPOWorstS, g.RPO.WorstSeconds)
		s.mu.Unlock()
		return g.RPO.NewestTaken != nil && g.RPO.NewestTaken.After(after), nil
	})
}

// job waits for an order to succeed.
func (s *soak) job(ctx context.Context, job api.Job) error {
	ctx, cancel := context.WithTimeout(ctx, rig.Patience)
	defer cancel()
	job, err := s.daemon.WaitJob(ctx, job.ID, nil)
	if err == nil && job.State != api.JobSucceeded {
		err = fmt.Errorf("job %s %s in step %s: %s (%s)", job.Kind, job.State, job.Step, job.Error, job.Hint)
	}
	return err
}
