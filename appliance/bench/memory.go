package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"understudy/snapshot"
)

const (
	memoryLimit = 256 // MiB
	islands     = 16  // of data on every disk
	islandSize  = 16 << 20
)

// memory is row P7: what a mirror holds in memory at most, for disks from 1 GiB to 16 TiB with the same data on them. Each
// copy is a program of its own; ours is this one, told to do nothing else.
func memory(ctx context.Context, b bench) ([]Figure, error) {
	var figures []Figure
	for _, disk := range []struct {
		name string
		size int64
	}{{"1 GiB", 1 << 30}, {"64 GiB", 64 << 30}, {"1 TiB", 1 << 40}, {"16 TiB", 16 << 40}} {
		dir := filepath.Join(b.dir, strconv.FormatInt(disk.size, 10))
		if err := os.Mkdir(dir, 0o700); err != nil {
			return figures, err
		}
		ours, theirs, err := peaks(ctx, newPair(dir), disk.size)
		if err != nil {
			return figures, fmt.Errorf("disk of %s: %w", disk.name, err)
		}
		what := fmt.Sprintf("memory of a mirror, disk of %s", disk.name)
		figures = append(figures, within(what, "MiB", ours, fmt.Sprintf("%d MiB", memoryLimit), memoryLimit),
			against(what, "MiB", ours, "nbdcopy", theirs, 0))
		if err := os.RemoveAll(dir); err != nil {
			return figures, err
		}
	}
	first, last := figures[0].Ours, figures[len(figures)-2].Ours
	return append(figures, within("memory of a mirror, 16 TiB beside 1 GiB", "MiB", last, "1 GiB's + 32 MiB", first+32)), nil
}

// peaks are the most memory that ours and nbdcopy held.
func peaks(ctx context.Context, p *pair, size int64) (ours, theirs float64, err error) {
	for name, n := range map[string]int64{"source": size, "ground": size, "groundmap": snapshot.MapSize(size)} {
		if err := command(ctx, "qemu-img", "create", "-q", "-f", "qcow2", p.image(name), fmt.Sprint(n)); err != nil {
			return 0, 0, err
		}
	}
	for i := range int64(islands) {
		off := i * (size / islands) / islandSize * islandSize
		if err := command(ctx, "qemu-io", "-f", "qcow2", "-c", fmt.Sprintf("write -q -P %d %d %d", i+1, off, islandSize), p.image("source")); err != nil {
			return 0, 0, err
		}
	}
	source, err := serve(ctx, p.source, false, p.image("source"))
	if err != nil {
		return 0, 0, err
	}
	defer source.stop()
	self, err := os.Executable()
	if err != nil {
		return 0, 0, err
	}
	peak := func(argv ...string) (most float64, err error) {
		_, err = p.timed(func(ctx context.Context) error {
			most, err = peakOf(ctx, argv...)
			return err
		})(ctx)
		return most, err
	}
	ours, err1 := peak(self, "-mirror", p.dir)
	theirs, err2 := peak("nbdcopy", "--flush", "--destination-is-zero", "nbd+unix:///0?socket="+p.source, "nbd+unix:///0?socket="+p.target)
	return ours, theirs, errors.Join(err1, err2)
}

// peakOf runs a program and returns the most memory that it held, in MiB, as the kernel keeps it.
func peakOf(ctx context.Context, argv ...string) (float64, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	var most float64
	for {
		if now := highWater(cmd.Process.Pid); now > most {
			most = now
		}
		select {
		case err := <-ended:
			if err != nil {
				return 0, fmt.Errorf("%s: %w: %s", argv[0], err, bytes.TrimSpace(said.Bytes()))
			}
			return most, nil
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// highWater is VmHWM of a process in MiB; 0 when it is gone. What rusage says includes its parent's.
func highWater(pid int) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if kib, found := strings.CutPrefix(line, "VmHWM:"); found {
			n, _ := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(kib), "kB")), 64)
			return n / 1024
		}
	}
	return 0
}

// mirrorOnly is the program that memory measures: one mirror between the sockets in dir.
func mirrorOnly(ctx context.Context, dir string) error {
	m := newPair(dir)
	return m.ours(ctx)
}
