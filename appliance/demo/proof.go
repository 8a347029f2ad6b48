package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"understudy/api"
	"understudy/hypervisors/kvm/lab"
	"understudy/hypervisors/kvm/lab/record"
)

const block = 64 << 10 // the unit in which differences travel

// disks are the contents of both disks of the machine at one moment.
type disks [2]*lab.Image

func (d disks) close() {
	for _, img := range d {
		if img != nil {
			_ = img.Close() // a copy of ours, gone with the lab at the latest
		}
	}
}

func readDisks(ctx context.Context, h *lab.Host, files [2]string) (disks, error) {
	var d disks
	for i, name := range files {
		img, err := h.ReadImage(ctx, name)
		if err != nil {
			d.close()
			return disks{}, err
		}
		d[i] = img
	}
	return d, nil
}

// check proves that the records of both disks are of one moment and whole, and returns the number of the newest.
func (d disks) check() (uint64, error) {
	r, err := record.Check(d[0], d[1])
	if err != nil {
		return 0, err
	}
	if problems := r.Problems(); len(problems) > 0 {
		return 0, fmt.Errorf("the guest's records: %s", strings.Join(problems, "; "))
	}
	return r.Newest(), nil
}

// pointDisks reads a recovery point without the appliance: its files are ordinary qcow2 images.
func (w *walk) pointDisks(ctx context.Context, id string) (disks, error) {
	var files [2]string
	for i, disk := range []string{"vda", "vdb"} {
		name := disk + "." + id + ".qcow2"
		root := w.lab.Target.Outside(w.lab.Target.Images)
		found, err := filepath.Glob(filepath.Join(root, "*", "*", name))
		if err != nil {
			return disks{}, err
		}
		if len(found) != 1 {
			return disks{}, fmt.Errorf("found %d files named %s at the target", len(found), name)
		}
		files[i] = path.Join(w.lab.Target.Images, strings.TrimPrefix(found[0], root))
	}
	return readDisks(ctx, w.lab.Target, files)
}

// answersFrom waits until the machine answers at the target, and proves that it woke up at exactly the given point, with
// nothing missing.
func (w *walk) answersFrom(ctx context.Context, p api.Point) (record.Status, error) {
	s, err := w.lab.Target.WaitStatus(ctx, w.guest.Addr)
	if err != nil {
		return s, err
	}
	d, err := w.pointDisks(ctx, p.ID)
	if err != nil {
		return s, err
	}
	defer d.close()
	newest, err := d.check()
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
	old, err := machineDisks(ctx, w.lab.Source)
	if err != nil {
		return err
	}
	defer old.close()
	away, err := w.lab.Target.Status(ctx, w.guest.Addr)
	if err != nil {
		return err
	}
	w.noteWrites(away)
	var last disks // of production at the target, as it shut down
	var lastErr error
	began := time.Now()
	job, err := w.watchedJob(ctx, w.api.Failback, func(j api.Job) {
		if last[0] == nil && lastErr == nil && slices.Contains([]string{"settle", "start", "checks", "turn", "protect"}, j.Step) {
			last, lastErr = machineDisks(ctx, w.lab.Target)
		}
	})
	defer func() { last.close() }()
	if err := errors.Join(err, lastErr); err != nil {
		return err
	}
	took := time.Since(began)
	if last[0] == nil {
		return errors.New("the disks at the target were gone before they could be read")
	}
	newest, err := last.check()
	if err != nil {
		return err
	}
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
	bytes, ok := job.Result["homeBytes"]
	if !ok {
		return fmt.Errorf("the job does not say what it wrote at home: %v", job.Result)
	}
	w.FailbackBytes = int64(bytes)
	for i := range old {
		n, err := lab.Changed(old[i], last[i], block)
		if err != nil {
			return err
		}
		w.ChangedBytes += n
	}
	w.say("failback in %.1f s: %s differed, %s written and the rest zeroed; %s woke up at home at record %d, where it had shut down",
		took.Seconds(), size(w.ChangedBytes), size(w.FailbackBytes), machine, newest)
	return nil
}

// machineDisks reads the disks of the machine on a host as they are in its definition now.
func machineDisks(ctx context.Context, h *lab.Host) (disks, error) {
	list, err := h.Virsh(ctx, "domblklist", machine)
	if err != nil {
		return disks{}, err
	}
	var files [2]string
	for line := range strings.Lines(list) {
		switch f := strings.Fields(line); {
		case len(f) != 2:
		case f[0] == "vda":
			files[0] = f[1]
		case f[0] == "vdb":
			files[1] = f[1]
		}
	}
	return readDisks(ctx, h, files)
}

// compareHome compares what never changes by itself: all but what the guest wrote since it woke up at home.
func (w *walk) compareHome(ctx context.Context, last disks) error {
	home, err := machineDisks(ctx, w.lab.Source)
	if err != nil {
		return err
	}
	defer home.close()
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
	replica, err := w.pointDisks(ctx, points[len(points)-1].ID)
	if err != nil {
		return err
	}
	defer replica.close()
	home, err := machineDisks(ctx, w.lab.Source)
	if err != nil {
		return err
	}
	defer home.close()
	for i := range home {
		if err := lab.Compare(ctx, home[i], replica[i]); err != nil {
			return err
		}
	}
	newest, err := home.check()
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
	return until(ctx, func() (bool, error) {
		g, err := w.api.GetGroup(ctx, group)
		return g.Job == "", err
	})
}

func (w *walk) shutDown(ctx context.Context) error {
	if _, err := w.lab.Source.Virsh(ctx, "shutdown", machine); err != nil {
		return err
	}
	return until(ctx, func() (bool, error) {
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
