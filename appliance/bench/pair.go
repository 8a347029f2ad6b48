package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"time"

	"understudy/snapshot"
	"understudy/snapshot/nbd"
)

// pair is a source and a target behind servers of their own, for copies without a hypervisor.
type pair struct {
	dir            string
	source, target string // sockets
}

func newPair(dir string) *pair {
	return &pair{dir: dir, source: filepath.Join(dir, "source.sock"), target: filepath.Join(dir, "target.sock")}
}

func (p *pair) image(name string) string { return filepath.Join(p.dir, name+".qcow2") }

// timed gives f a new target each time and measures f alone, process start included where there is one.
func (p *pair) timed(f func(context.Context) error) func(context.Context) (time.Duration, error) {
	return func(ctx context.Context) (took time.Duration, err error) {
		for _, name := range []string{"point", "pointmap"} {
			if err := os.RemoveAll(p.image(name)); err != nil {
				return 0, err
			}
			if err := command(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2",
				"-b", p.image("ground"+name[len("point"):]), p.image(name)); err != nil {
				return 0, err
			}
		}
		target, err := serve(ctx, p.target, true, p.image("point"), p.image("pointmap"))
		if err != nil {
			return 0, err
		}
		defer target.stop()
		start := time.Now()
		err = f(ctx)
		return time.Since(start), err
	}
}

// ours is what a first cycle does between checkpoint and commit.
func (p *pair) ours(ctx context.Context) error {
	open := func(socket, export string) (*nbd.Client, error) {
		return nbd.Dial(ctx, func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}, nbd.Options{Export: export, Contexts: []string{nbd.Allocation}})
	}
	source, err := open(p.source, "0")
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := open(p.target, "0")
	if err != nil {
		return err
	}
	defer target.Close()
	area, err := open(p.target, "1")
	if err != nil {
		return err
	}
	defer area.Close()
	blocks, err := snapshot.OpenMap(ctx, area, source.Size())
	if err != nil {
		return err
	}
	var digest snapshot.Digest
	_, err = snapshot.Copy(ctx, snapshot.Job{
		Source: source, Size: source.Size(), Extents: source.Allocated(ctx), Target: target, Map: blocks, Digest: &digest,
	})
	if err != nil {
		return err
	}
	if err := target.Flush(ctx); err != nil {
		return err
	}
	return blocks.Flush(ctx)
}
