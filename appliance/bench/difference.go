package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"understudy/snapshot"
	"understudy/snapshot/nbd"
)

const differenceSize = 4 << 30

// difference is row P4: bringing a replica of a 4 GiB disk up to date that differs in 1 % of its blocks, when nobody
// can tell which. Ours reads the source alone, since the map has the replica's hashes, and writes a new recovery point;
// rsync and nbdcopy write the old file itself. Everybody's result is durable when the time is taken.
func difference(ctx context.Context, b bench) ([]Figure, error) {
	d := &differing{dir: b.dir}
	if err := d.prepare(ctx); err != nil {
		return nil, err
	}
	source, err := serveRaw(ctx, d.socket("source"), false, d.file("new.raw"))
	if err != nil {
		return nil, err
	}
	defer source.stop()
	what := "difference mirror, 4 GiB of which 1 % differs"
	figures, err := compare(ctx, what, b.runs, []contender{
		{"understudy", 0, d.ours},
		{"rsync --inplace --no-whole-file", 3, d.restored(func(ctx context.Context) error {
			return command(ctx, "rsync", "--inplace", "--no-whole-file", "--ignore-times", "--fsync", d.file("new.raw"), d.file("old.raw"))
		})},
		{"nbdcopy of all", 0, d.restored(d.nbdcopy)},
		readingAlone("nbd+unix:///0?socket=" + d.socket("source")),
	})
	if err != nil {
		return nil, err
	}
	sent, err := d.wire(ctx)
	if err != nil {
		return figures, err
	}
	differing := float64(len(d.blocks)*snapshot.BlockSize) / (1 << 20)
	return append(figures, within(what+", wire", "MiB", sent, "differing + 2 %", differing*1.02)), nil
}

type differing struct {
	dir      string
	blocks   []int64
	old      []byte // what they held before
	counting bool
	sent     atomic.Int64
}

func (d *differing) file(name string) string   { return filepath.Join(d.dir, name) }
func (d *differing) socket(name string) string { return filepath.Join(d.dir, name+".sock") }

// prepare makes both files and the map of the old one.
func (d *differing) prepare(ctx context.Context) error {
	f, err := os.Create(d.file("old.raw"))
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.CopyN(f, rand.Reader, differenceSize); err != nil {
		return err
	}
	if err := command(ctx, "cp", d.file("old.raw"), d.file("new.raw")); err != nil {
		return err
	}
	d.blocks = scattered(differenceSize/snapshot.BlockSize, 1)
	d.old = make([]byte, len(d.blocks)*snapshot.BlockSize)
	changed := make([]byte, snapshot.BlockSize)
	into, err := os.OpenFile(d.file("new.raw"), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer into.Close()
	for i, block := range d.blocks {
		_, _ = rand.Read(changed)
		_, err1 := f.ReadAt(d.old[i*snapshot.BlockSize:(i+1)*snapshot.BlockSize], block*snapshot.BlockSize)
		_, err2 := into.WriteAt(changed, block*snapshot.BlockSize)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
	}
	return d.prepareMap(ctx, f)
}

func (d *differing) prepareMap(ctx context.Context, old *os.File) error {
	if err := command(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", d.file("old.map"), fmt.Sprint(snapshot.MapSize(differenceSize))); err != nil {
		return err
	}
	target, err := serve(ctx, d.socket("target"), true, d.file("old.map"))
	if err != nil {
		return err
	}
	defer target.stop()
	area, err := d.open(ctx, "target", "0")
	if err != nil {
		return err
	}
	defer area.Close()
	blocks, err := snapshot.OpenMap(ctx, area, differenceSize)
	if err != nil {
		return err
	}
	if _, err := snapshot.Scan(ctx, old, differenceSize, blocks, nil); err != nil {
		return err
	}
	return blocks.Flush(ctx)
}

// ours makes a recovery point on the old file: images, export, copy, flush, end of the export.
func (d *differing) ours(ctx context.Context) (took time.Duration, err error) {
	if err := errors.Join(os.RemoveAll(d.file("point.qcow2")), os.RemoveAll(d.file("point.map"))); err != nil {
		return 0, err
	}
	start := time.Now()
	if err := errors.Join(
		command(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", d.file("old.raw"), d.file("point.qcow2")),
		command(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", "-F", "qcow2", "-b", d.file("old.map"), d.file("point.map")),
	); err != nil {
		return 0, err
	}
	target, err := serve(ctx, d.socket("target"), true, d.file("point.qcow2"), d.file("point.map"))
	if err != nil {
		return 0, err
	}
	err = d.copy(ctx)
	target.stop()
	return time.Since(start), err
}

func (d *differing) copy(ctx context.Context) error {
	var all [3]*nbd.Client
	for i, at := range [][2]string{{"source", "0"}, {"target", "0"}, {"target", "1"}} {
		c, err := d.open(ctx, at[0], at[1])
		if err != nil {
			return err
		}
		defer c.Close()
		all[i] = c
	}
	source, target, area := all[0], all[1], all[2]
	blocks, err := snapshot.OpenMap(ctx, area, differenceSize)
	if err != nil {
		return err
	}
	stats, err := snapshot.Copy(ctx, snapshot.Job{Source: source, Size: differenceSize, Extents: source.Allocated(ctx), Target: target, Map: blocks})
	if err != nil {
		return err
	}
	if want := int64(len(d.blocks) * snapshot.BlockSize); stats.BytesWritten != want {
		return fmt.Errorf("%d bytes differed instead of %d", stats.BytesWritten, want)
	}
	return errors.Join(target.Flush(ctx), blocks.Flush(ctx))
}

// open connects to an export; what is sent to a target is counted when that is wanted.
func (d *differing) open(ctx context.Context, socket, export string) (*nbd.Client, error) {
	return nbd.Dial(ctx, func(ctx context.Context) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, "unix", d.socket(socket))
		if err != nil || socket != "target" || !d.counting {
			return c, err
		}
		return &counted{c, &d.sent}, nil
	}, nbd.Options{Export: export, Connections: 4, Contexts: []string{nbd.Allocation}})
}

// wire counts what a copy sends to the target, in MiB. It is no part of what is timed: counting splits writes.
func (d *differing) wire(ctx context.Context) (float64, error) {
	d.counting = true
	_, err := d.ours(ctx)
	return float64(d.sent.Load()) / (1 << 20), err
}

// counted counts what is written to a connection. It hides the real one, whose vectored writes would go uncounted.
type counted struct {
	net.Conn
	sent *atomic.Int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.sent.Add(int64(n))
	return n, err
}

func (d *differing) nbdcopy(ctx context.Context) error {
	target, err := serveRaw(ctx, d.socket("target"), true, d.file("old.raw"))
	if err != nil {
		return err
	}
	defer target.stop()
	uri := func(name string) string { return "nbd+unix:///0?socket=" + d.socket(name) }
	return command(ctx, "nbdcopy", "--flush", uri("source"), uri("target"))
}

// restored times f, and gives the old file its differences back afterwards.
func (d *differing) restored(f func(context.Context) error) func(context.Context) (time.Duration, error) {
	return func(ctx context.Context) (time.Duration, error) {
		start := time.Now()
		err := f(ctx)
		took := time.Since(start)
		if err != nil {
			return 0, err
		}
		return took, d.restore(ctx)
	}
}

func (d *differing) restore(ctx context.Context) error {
	if err := command(ctx, "cmp", d.file("old.raw"), d.file("new.raw")); err != nil {
		return err
	}
	f, err := os.OpenFile(d.file("old.raw"), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	for i, block := range d.blocks {
		if _, err := f.WriteAt(d.old[i*snapshot.BlockSize:(i+1)*snapshot.BlockSize], block*snapshot.BlockSize); err != nil {
			return err
		}
	}
	return nil
}
