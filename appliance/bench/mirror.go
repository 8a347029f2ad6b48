package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"understudy/snapshot"
	"understudy/snapshot/nbd"
)

const (
	diskSize = 2 << 30
	stripe   = 16 << 20 // every second one is random
)

// mirror is row P1: a full mirror of a 2 GiB disk of which 1 GiB is random, from one qemu-storage-daemon, as a pull
// backup would be, into a new qcow2 overlay behind another one. Everybody flushes at the end; we hash every block and keep
// the map besides.
func mirror(ctx context.Context, dir string, runs int) (Row, error) {
	m := &mirroring{dir: dir, source: filepath.Join(dir, "source.sock"), target: filepath.Join(dir, "target.sock")}
	if err := m.prepare(ctx); err != nil {
		return Row{}, err
	}
	source, err := serve(ctx, m.source, false, filepath.Join(dir, "source.qcow2"))
	if err != nil {
		return Row{}, err
	}
	defer source.stop()
	uri := func(socket string) string { return "nbd+unix:///0?socket=" + socket }
	row, err := measure(ctx, "P1", "full mirror, 2 GiB with 1 GiB random", runs, []contender{
		{"understudy", 0, m.timed(m.ours)},
		{"nbdcopy", 1.5, m.timed(func(ctx context.Context) error {
			return command(ctx, "nbdcopy", "--flush", "--destination-is-zero", uri(m.source), uri(m.target))
		})},
		{"qemu-img convert -W -m16", 2, m.timed(func(ctx context.Context) error {
			return command(ctx, "qemu-img", "convert", "-n", "--target-is-zero", "-W", "-m", "16", "-t", "writeback",
				"-f", "raw", "-O", "raw", uri(m.source), uri(m.target))
		})},
	})
	if err != nil {
		return row, err
	}
	return row, m.check(ctx)
}

type mirroring struct {
	dir            string
	source, target string // sockets
}

func (m *mirroring) image(name string) string { return filepath.Join(m.dir, name+".qcow2") }

// prepare makes the source disk and the empty ground that targets lie on.
func (m *mirroring) prepare(ctx context.Context) error {
	raw := filepath.Join(m.dir, "source.raw")
	f, err := os.Create(raw)
	if err != nil {
		return err
	}
	defer f.Close()
	defer os.Remove(raw)
	buf := make([]byte, stripe)
	for off := int64(0); off < diskSize; off += 2 * stripe {
		_, _ = rand.Read(buf)
		if _, err := f.WriteAt(buf, off); err != nil {
			return err
		}
	}
	if err := f.Truncate(diskSize); err != nil {
		return err
	}
	return errors.Join(
		command(ctx, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, m.image("source")),
		command(ctx, "qemu-img", "create", "-q", "-f", "qcow2", m.image("ground"), fmt.Sprint(int64(diskSize))),
		command(ctx, "qemu-img", "create", "-q", "-f", "qcow2", m.image("groundmap"), fmt.Sprint(snapshot.MapSize(diskSize))),
	)
}

// timed gives f a new target each time and measures f alone, process start included where there is one.
func (m *mirroring) timed(f func(context.Context) error) func(context.Context) (time.Duration, error) {
	return func(ctx context.Context) (took time.Duration, err error) {
		for _, name := range []string{"point", "pointmap"} {
			if err := os.RemoveAll(m.image(name)); err != nil {
				return 0, err
			}
			if err := command(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2",
				"-b", m.image("ground"+name[len("point"):]), m.image(name)); err != nil {
				return 0, err
			}
		}
		target, err := serve(ctx, m.target, true, m.image("point"), m.image("pointmap"))
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
func (m *mirroring) ours(ctx context.Context) error {
	open := func(socket, export string) (*nbd.Client, error) {
		return nbd.Dial(ctx, func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}, nbd.Options{Export: export, Contexts: []string{nbd.Allocation}})
	}
	source, err := open(m.source, "0")
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := open(m.target, "0")
	if err != nil {
		return err
	}
	defer target.Close()
	area, err := open(m.target, "1")
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

// check proves that our way of copying is right, once, outside the measuring.
func (m *mirroring) check(ctx context.Context) error {
	if _, err := m.timed(m.ours)(ctx); err != nil {
		return err
	}
	return command(ctx, "qemu-img", "compare", "-U", m.image("source"), m.image("point"))
}

// server is a running qemu-storage-daemon.
type server struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

// serve exports qcow2 images as "0", "1" and so on.
func serve(ctx context.Context, socket string, writable bool, images ...string) (*server, error) {
	_ = os.Remove(socket)
	args := []string{"--nbd-server", "addr.type=unix,addr.path=" + socket + ",max-connections=100"}
	on := map[bool]string{true: "on", false: "off"}
	for i, image := range images {
		args = append(args,
			"--blockdev", fmt.Sprintf("driver=qcow2,node-name=n%d,discard=unmap,read-only=%s,file.driver=file,file.filename=%s", i, on[!writable], image),
			"--export", fmt.Sprintf("type=nbd,id=e%d,node-name=n%d,name=%d,writable=%s", i, i, i, on[writable]))
	}
	s := &server{cmd: exec.Command("qemu-storage-daemon", args...), ended: make(chan struct{})}
	var said bytes.Buffer
	s.cmd.Stderr = &said
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { _ = s.cmd.Wait(); close(s.ended) }()
	for {
		if c, err := net.Dial("unix", socket); err == nil {
			return s, c.Close()
		}
		select {
		case <-s.ended:
			return nil, fmt.Errorf("qemu-storage-daemon ended: %s", said.String())
		case <-ctx.Done():
			s.stop()
			return nil, ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// stop ends the daemon in good order, or by force when it takes too long.
func (s *server) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.ended:
	case <-time.After(30 * time.Second):
		_ = s.cmd.Process.Kill()
		<-s.ended
	}
}

func command(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}
