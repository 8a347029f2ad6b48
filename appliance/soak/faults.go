package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"understudy/api"
	"understudy/appliance/rig"
	"understudy/hypervisors/kvm/lab"
)

// fault is something bad that happens and ends. It returns when it has ended.
type fault struct {
	name string
	do   func(ctx context.Context) error
}

// killingShare is the part of the soak in which the appliance itself may be killed. Its memory is judged in what is left,
// which is one life.
const killingShare = 0.4

// faults come one after another until the deadline; after each, protection must come back by itself.
func (s *soak) faults(ctx context.Context, deadline time.Time) error {
	killUntil := time.Now().Add(time.Duration(float64(s.length) * killingShare))
	for time.Now().Before(deadline) {
		f := s.pick(time.Now().Before(killUntil))
		s.say("fault: %s", f.name)
		if err := f.do(ctx); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			s.violation("%s: %v", f.name, err)
		}
		ended := time.Now()
		if err := s.newPoint(ctx, ended); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("after %s protection did not come back by itself in %v: %w", f.name, rig.Patience, err)
		}
		took := time.Since(ended)
		s.mu.Lock()
		s.Faults[f.name]++
		s.RecoveryWorstS = max(s.RecoveryWorstS, took.Seconds())
		s.mu.Unlock()
		s.say("after %s: the next point was there %.1f s later", f.name, took.Seconds())
		s.failures(ctx)
		pause(ctx, time.Duration(s.random.IntN(10))*time.Second)
	}
	return ctx.Err()
}

// pick chooses the next fault. killing says whether the appliance may be killed.
func (s *soak) pick(killing bool) fault {
	all := []fault{
		{"libvirtd of the source killed", s.killLibvirtd(s.lab.Source)},
		{"libvirtd of the target killed", s.killLibvirtd(s.lab.Target)},
		{"libvirtd of the source restarted", s.lab.Source.Restart},
		{"QEMU of production killed", s.killQEMU},
		{"connection to the target cut", s.cut},
		{"export at the target stopped", s.stopExport},
		{"target full", s.fillTarget},
		{"appliance stopped for a while", s.freeze},
		{"test failover", s.test},
	}
	for range 4 { // often
		if killing {
			all = append(all, fault{"appliance killed", s.killDaemon})
		}
	}
	return all[s.random.IntN(len(all))]
}

// failures counts the cycles that failed; the history that they are found in is short.
func (s *soak) failures(ctx context.Context) {
	jobs, err := s.daemon.AllJobs(ctx, api.JobQuery{Group: group})
	if err != nil {
		return
	}
	for _, j := range jobs {
		if j.Kind == "cycle" && j.State == api.JobFailed {
			s.failed[j.ID] = true
		}
	}
	s.mu.Lock()
	s.FailedCycles = len(s.failed)
	s.mu.Unlock()
}

// a while is some seconds.
func (s *soak) aWhile(ctx context.Context, least, most int) {
	pause(ctx, time.Duration(least+s.random.IntN(most-least+1))*time.Second)
}

// killDaemon kills the appliance wherever it is. What it promised before must still be there.
func (s *soak) killDaemon(ctx context.Context) error {
	s.aWhile(ctx, 0, 6) // anywhere in a cycle
	before, err := s.daemon.ListPoints(ctx, group)
	s.daemon.Kill()
	s.mu.Lock()
	s.born = time.Now()
	s.mu.Unlock()
	if again := s.daemon.Start(ctx); again != nil {
		return again
	}
	if err != nil || len(before) == 0 {
		return err
	}
	after, err := s.daemon.ListPoints(ctx, group)
	if err != nil {
		return err
	}
	newest := before[len(before)-1].ID // retention never drops it before there is a newer one
	for _, p := range after {
		if p.ID >= newest {
			return nil
		}
	}
	return fmt.Errorf("point %s was acknowledged and is gone", newest)
}

func (s *soak) killLibvirtd(h *lab.Host) func(context.Context) error {
	return func(ctx context.Context) error {
		err := h.Kill()
		s.aWhile(ctx, 1, 6)
		return errors.Join(err, h.Restart(context.WithoutCancel(ctx)))
	}
}

// killQEMU crashes production, whose tracking is lost with it, and starts it again as its owner would.
func (s *soak) killQEMU(ctx context.Context) error {
	s.resting.Store(true)
	defer s.resting.Store(false)
	if err := s.guest.KillQEMU(ctx); err != nil {
		return err
	}
	if err := rig.Until(ctx, func() (bool, error) {
		state, err := s.lab.Source.Virsh(ctx, "domstate", machine)
		return err == nil && strings.HasPrefix(state, "shut"), nil
	}); err != nil {
		return err
	}
	if err := s.guest.Start(ctx); err != nil {
		return err
	}
	up, err := s.witness.Ask(ctx, s.lab.Source)
	if err == nil {
		s.boots.Store(up.Boots)
	}
	return err
}

// cut takes the target off the network.
func (s *soak) cut(ctx context.Context) error {
	_, err := s.lab.Target.Exec(ctx, "ip", "link", "set", "eth0", "down")
	s.aWhile(ctx, 3, 20)
	_, again := s.lab.Target.Exec(context.WithoutCancel(ctx), "ip", "link", "set", "eth0", "up")
	return errors.Join(err, again)
}

// stopExport stops what serves the replica's disks to a cycle, so that nothing answers and nothing fails.
func (s *soak) stopExport(ctx context.Context) error {
	var pid int
	if err := rig.Until(ctx, func() (bool, error) {
		for _, p := range s.lab.Strangers() {
			if strings.Contains(p, "qemu-storage-daemon") {
				_, err := fmt.Sscanf(p, "process %d", &pid)
				return true, err
			}
		}
		return false, nil
	}); err != nil {
		return err
	}
	err := ignoreGone(syscall.Kill(pid, syscall.SIGSTOP))
	s.aWhile(ctx, 2, 15)
	return errors.Join(err, ignoreGone(syscall.Kill(pid, syscall.SIGCONT)))
}

func ignoreGone(err error) error {
	if errors.Is(err, syscall.ESRCH) {
		return nil // its cycle was over
	}
	return err
}

// fillTarget leaves the target no room.
func (s *soak) fillTarget(ctx context.Context) error {
	filler := s.lab.Target.Images + "/filler"
	// Somebody else may take the last bytes first; then it is full as well.
	_, err := s.lab.Target.Exec(ctx, "sh", "-c", `fallocate -l $(($(stat -f -c '%a*%S' "$1") - 1048576)) "$2" || df "$1"`, "sh", s.lab.Target.Images, filler)
	s.aWhile(ctx, 5, 20)
	_, again := s.lab.Target.Exec(context.WithoutCancel(ctx), "rm", "-f", filler)
	return errors.Join(err, again)
}

// freeze stops the appliance as a hypervisor does that moves it, or a machine that is out of memory.
func (s *soak) freeze(ctx context.Context) error {
	err := s.daemon.Signal(syscall.SIGSTOP)
	s.aWhile(ctx, 2, 15)
	return errors.Join(err, s.daemon.Signal(syscall.SIGCONT))
}

// test makes a test failover, which must pass beside running replication.
func (s *soak) test(ctx context.Context) error {
	job, err := s.daemon.Test(ctx, group, api.TestOrder{})
	if err != nil {
		return err
	}
	err = s.job(ctx, job)
	s.aWhile(ctx, 0, 10)
	job, again := s.daemon.EndTest(ctx, group)
	if again == nil {
		again = s.job(ctx, job)
	}
	if err := errors.Join(err, again); err != nil {
		return err
	}
	g, err := s.daemon.GetGroup(ctx, group)
	if err == nil && (g.Test == nil || g.Test.State != "passed") {
		err = fmt.Errorf("it did not pass: %+v", g.Test)
	}
	return err
}
