package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"understudy/api"
	"understudy/appliance/rig"
	"understudy/hypervisors/kvm/lab"
	"understudy/hypervisors/kvm/lab/record"
)

const block = 64 << 10 // the unit in which differences travel

// answersFrom waits until the machine answers at the target, and proves that it woke up at exactly the given point, with
// nothing missing.
func (w *walk) answersFrom(ctx context.Context, p api.Point) (record.Status, error) {
	s, err := w.lab.Target.WaitStatus(ctx, w.guest.Addr)
	if err != nil {
		return s, err
	}
	d, err := rig.PointDisks(ctx, w.lab.Target, p.ID)
	if err != nil {
		return s, err
	}
	defer d.Close()
	newest, err := d.Check()
	if err != nil {
		return s, fmt.Errorf("point %s: %w", p.ID, err)
	}
	return s, wokeAt(s, newest)
}

func wokeAt(s record.Status, newest uint64) error {
	if len(s.Problems) > 0 {
		return fmt.Errorf("the guest woke up with %s", strings.Join(s.Problems, "; "))
	}
	if s.Recovered != newest {
		return fmt.Errorf("the guest woke up at record %d, its disks were at %d", s.Recovered, newest)
	}
	return nil
}

// failBack brings the machine home and proves that what came home is what was away. In between, production at the target
// is off for good and its disks stand still; that is when they are read.
func (w *walk) failBack(ctx context.Context) error {
	old, err := rig.MachineDisks(ctx, w.lab.Source, machine)
	if err != nil {
		return err
	}
	defer old.Close()
	away, err := w.lab.Target.Status(ctx, w.guest.Addr)
	if err != nil {
		return err
	}
	w.noteWrites(away)
	last, newest, took, err := w.comeHome(ctx, old)
	if err != nil {
		return err
	}
	defer last.Close()
	home, err := w.guest.Status(ctx)
	if err != nil {
		return err
	}
	if err := wokeAt(home, newest); err != nil {
		return err
	}
	if err := w.silentAt(ctx, w.lab.Target); err != nil {
		return err
	}
	if err := w.compareHome(ctx, last); err != nil {
		return err
	}
	w.say("failback in %.1f s: %s differed, %s written and the rest zeroed; %s woke up at home at record %d, where it had shut down",
		took.Seconds(), size(w.ChangedBytes), size(w.FailbackBytes), machine, newest)
	return nil
}

// comeHome orders the failback, and notes what it moved; old are the disks at home before. last are those of production at
// the target as it shut down, at record newest: they are read while it is off for good. The caller closes them.
func (w *walk) comeHome(ctx context.Context, old rig.Disks) (last rig.Disks, newest uint64, took time.Duration, err error) {
	defer func() {
		if err != nil {
			last.Close()
		}
	}()
	var lastErr error
	began := time.Now()
	job, err := w.watchedJob(ctx, w.api.Failback, func(j api.Job) {
		if last[0] == nil && lastErr == nil && slices.Contains([]string{"settle", "start", "checks", "turn", "protect"}, j.Step) {
			last, lastErr = rig.MachineDisks(ctx, w.lab.Target, machine)
		}
	})
	took = time.Since(began)
	if err := errors.Join(err, lastErr); err != nil {
		return last, 0, took, err
	}
	if last[0] == nil {
		return last, 0, took, errors.New("the disks at the target were gone before they could be read")
	}
	bytes, ok := job.Result["homeBytes"]
	if !ok {
		return last, 0, took, fmt.Errorf("the job does not say what it wrote at home: %v", job.Result)
	}
	w.FailbackBytes = int64(bytes)
	for i := range old {
		n, err := lab.Changed(old[i], last[i], block)
		if err != nil {
			return last, 0, took, err
		}
		w.ChangedBytes += n
	}
	newest, err = last.Check()
	return last, newest, took, err
}

// compareHome compares what never changes by itself: all but what the guest wrote since it woke up at home.
func (w *walk) compareHome(ctx context.Context, last rig.Disks) error {
	home, err := rig.MachineDisks(ctx, w.lab.Source, machine)
	if err != nil {
		return err
	}
	defer home.Close()
	for i := range home {
		if err := lab.CompareStill(last[i], home[i], i); err != nil {
			return fmt.Errorf("home and away: %w", err)
		}
	}
	return nil
}

// compareAll shuts production down, makes a last point, and compares everything with everything.
func (w *walk) compareAll(ctx context.Context) error {
	if err := w.pause(ctx); err != nil {
		return err
	}
	if err := w.shutDown(ctx); err != nil {
		return err
	}
	if _, err := w.job(ctx, w.api.SyncNow); err != nil {
		return err
	}
	points, err := w.listPoints(ctx)
	if err != nil {
		return err
	}
	replica, err := rig.PointDisks(ctx, w.lab.Target, points[len(points)-1].ID)
	if err != nil {
		return err
	}
	defer replica.Close()
	home, err := rig.MachineDisks(ctx, w.lab.Source, machine)
	if err != nil {
		return err
	}
	defer home.Close()
	for i := range home {
		if err := lab.Compare(ctx, home[i], replica[i]); err != nil {
			return err
		}
	}
	newest, err := home.Check()
	if err != nil {
		return err
	}
	if err := lab.CheckFileSystem(ctx, home[0]); err != nil {
		return err
	}
	w.Identical, w.Points = true, len(w.points)
	w.CycleSMedian = w.medianCycle()
	w.say("shut down at record %d: qemu-img compare finds production and its newest of %d points identical, e2fsck finds nothing",
		newest, w.Points)
	if w.headless {
		return nil
	}
	if err := w.guest.Start(ctx); err != nil {
		return err
	}
	_, err = w.api.Resume(ctx, group)
	return err
}

// pause stops the schedule and waits for the cycle that may still run.
func (w *walk) pause(ctx context.Context) error {
	if _, err := w.api.Pause(ctx, group); err != nil {
		return err
	}
	return rig.Until(ctx, func() (bool, error) {
		g, err := w.api.GetGroup(ctx, group)
		return g.Job == "", err
	})
}

func (w *walk) shutDown(ctx context.Context) error {
	if _, err := w.lab.Source.Virsh(ctx, "shutdown", machine); err != nil {
		return err
	}
	return rig.Until(ctx, func() (bool, error) {
		state, err := w.lab.Source.Virsh(ctx, "domstate", machine)
		return state == "shut off", err
	})
}

// medianCycle is the median over all incremental points, in seconds.
func (w *walk) medianCycle() float64 {
	var took []float64
	for _, p := range w.points {
		if p.Kind == "incremental" {
			took = append(took, p.Seconds)
		}
	}
	if len(took) == 0 {
		return 0
	}
	slices.Sort(took)
	return took[len(took)/2]
}
