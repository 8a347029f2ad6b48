package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"understudy/snapshot"
)

const trackedBlock = snapshot.BlockSize // what QEMU's bitmaps tell apart, too

// incremental is row P2: a cycle after some of a disk's blocks changed, scattered, on a real libvirt domain, against
// virtnbdbackup's incremental backup of its twin. Both take their own checkpoint and clean up after it; ours ends in a
// bootable, durable recovery point on another host, virtnbdbackup's in a file beside the others.
func incremental(ctx context.Context, b bench) ([]Figure, error) {
	image := filepath.Join(b.dir, "source.qcow2")
	if err := noisy(ctx, image, diskSize, diskSize/2); err != nil {
		return nil, err
	}
	return onStage(ctx, b.dir, func(s *stage) ([]Figure, error) {
		t := &twins{stage: s, backups: filepath.Join(s.Dir, "backups")}
		if err := t.prepare(ctx, image); err != nil {
			return nil, err
		}
		var all []Figure
		for _, percent := range []int64{1, 10} {
			figures, err := t.measure(ctx, percent, b.runs)
			if err != nil {
				return all, err
			}
			all = append(all, figures...)
		}
		return all, t.check(ctx)
	})
}

// twins are two equal machines, one for each way to follow it.
type twins struct {
	*stage
	ours, theirs *machine
	protected    *protected
	backups      string
	fill         byte
}

func (t *twins) prepare(ctx context.Context, image string) (err error) {
	if t.ours, err = t.machine(ctx, "ours", image); err != nil {
		return err
	}
	if t.theirs, err = t.machine(ctx, "theirs", image); err != nil {
		return err
	}
	if t.protected, err = t.protect(ctx, t.ours.id); err != nil {
		return err
	}
	if _, err := t.protected.cycle(ctx); err != nil {
		return err
	}
	return t.backup(ctx, "full")
}

// backup runs virtnbdbackup where libvirtd runs.
func (t *twins) backup(ctx context.Context, level string) error {
	_, err := t.Source.Exec(ctx, "virtnbdbackup", "--domain", t.theirs.name, "--level", level, "--output", t.backups,
		"--scratchdir", t.Source.Images, "--socketfile", "/run/virtnbdbackup.sock", "--noprogress")
	return err
}

// change writes the same scattered blocks of both disks.
func (t *twins) change(ctx context.Context, percent int64) error {
	blocks := scattered(diskSize/trackedBlock, percent)
	t.fill++
	return errors.Join(t.ours.write(ctx, blocks, trackedBlock, t.fill), t.theirs.write(ctx, blocks, trackedBlock, t.fill))
}

func (t *twins) measure(ctx context.Context, percent int64, runs int) ([]Figure, error) {
	what := fmt.Sprintf("cycle after %d %% of 64 KiB blocks changed", percent)
	var read []float64
	figures, err := compare(ctx, what, runs, []contender{
		{"understudy", 0, func(ctx context.Context) (time.Duration, error) {
			if err := t.change(ctx, percent); err != nil {
				return 0, err
			}
			c, err := t.protected.cycle(ctx)
			read = append(read, float64(c.stats.BytesRead)/(1<<20))
			return c.all, err
		}},
		{"virtnbdbackup", 5, func(ctx context.Context) (time.Duration, error) {
			start := time.Now()
			err := t.backup(ctx, "inc")
			return time.Since(start), err
		}},
	})
	if err != nil {
		return nil, err
	}
	dirty := float64(diskSize/100*percent/trackedBlock*trackedBlock) / (1 << 20)
	return append(figures, within(what+", bytes read", "MiB", median(read), "dirty + 1 %", dirty*1.01)), nil
}

// check proves that the newest point is what the disk is, once, outside the measuring.
func (t *twins) check(ctx context.Context) error {
	if _, err := t.Source.Virsh(ctx, "destroy", t.ours.name); err != nil {
		return err
	}
	return command(ctx, "qemu-img", "compare", "-U", t.ours.host.Outside(t.ours.disk),
		t.Target.Outside(t.pointFile(t.protected, "vda")))
}

// pointFile is the image of the newest point.
func (s *stage) pointFile(p *protected, disk string) string {
	return filepath.Join(s.Target.Images, "understudy", p.replica, disk+"."+p.newest.ID+".qcow2")
}

// scattered chooses that many percent of the blocks of a disk, anywhere on it.
func scattered(blocks, percent int64) []int64 {
	var chosen []int64
	for _, b := range mathrand.Perm(int(blocks))[:blocks*percent/100] {
		chosen = append(chosen, int64(b))
	}
	return chosen
}

// noisy makes a qcow2 image whose first bytes are random.
func noisy(ctx context.Context, image string, size, random int64) error {
	raw := image + ".raw"
	f, err := os.Create(raw)
	if err != nil {
		return err
	}
	defer os.Remove(raw)
	defer f.Close()
	if _, err := io.CopyN(f, rand.Reader, random); err != nil {
		return err
	}
	if err := f.Truncate(size); err != nil {
		return err
	}
	return command(ctx, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, image)
}
