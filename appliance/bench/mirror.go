package main

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"understudy/hypervisors"
)

const diskSize = 2 << 30

// mirror is row P1: a full mirror of a 2 GiB disk of which 1 GiB is random, from the export of a libvirt pull backup.
// Ours makes a committed recovery point of it: it opens a draft, copies, hashes every block, flushes, and commits. The
// peers copy and flush, into an empty qcow2 image that is open already, as that draft's is. Two more show where limits are:
// one only reads the export, cat copies the file that the disk lies in.
func mirror(ctx context.Context, b bench) ([]Figure, error) {
	image := filepath.Join(b.dir, "source.qcow2")
	if err := noisy(ctx, image, diskSize, diskSize/2); err != nil {
		return nil, err
	}
	return onStage(ctx, b.dir, func(s *stage) ([]Figure, error) {
		guest, err := s.machine(ctx, "mirrored", image)
		if err != nil {
			return nil, err
		}
		cp, err := s.source.Checkpoint(ctx, hypervisors.CheckpointRequest{Name: "p1", VMs: []hypervisors.CheckpointVM{{ID: guest.id}}})
		if err != nil {
			return nil, err
		}
		defer cp.Close(ctx)
		m := &mirroring{stage: s, dir: b.dir, image: image, guest: guest, frozen: cp}
		if err := m.link(ctx); err != nil {
			return nil, err
		}
		figures, err := compare(ctx, "full mirror, 2 GiB with 1 GiB random", b.runs, []contender{
			{"understudy", 0, m.ours},
			{"nbdcopy", 1.5, m.intoServer("nbdcopy", "--flush", "--destination-is-zero", m.export(), m.uri("target.sock", "0"))},
			{"qemu-img convert -W -m16", 2, m.intoServer("qemu-img", "convert", "-n", "--target-is-zero", "-W", "-m", "16", "-t", "writeback",
				"-f", "raw", "-O", "raw", m.export(), m.uri("target.sock", "0"))},
			readingAlone(m.export()),
			{"cat of the file", 0, m.cat},
		})
		if err != nil {
			return nil, err
		}
		return figures, m.check(ctx)
	})
}

// readingAlone shows what nobody who reads an export can be faster than.
func readingAlone(export string) contender {
	return contender{"nbdcopy to null: (reading alone)", 0, func(ctx context.Context) (time.Duration, error) {
		start := time.Now()
		err := command(ctx, "nbdcopy", export, "null:")
		return time.Since(start), err
	}}
}

type mirroring struct {
	*stage
	dir     string
	image   string // a copy of the disk
	guest   *machine
	frozen  hypervisors.Checkpoint
	n       int
	newest  *protected
	replica hypervisors.Replica // of the newest
}

// link gives the backup's socket a name that is short enough for everybody.
func (m *mirroring) link(ctx context.Context) error {
	text, err := m.Source.Virsh(ctx, "backup-dumpxml", m.guest.name)
	if err != nil {
		return err
	}
	var backup struct {
		Server struct {
			Socket string `xml:"socket,attr"`
		} `xml:"server"`
	}
	if err := xml.Unmarshal([]byte(text), &backup); err != nil {
		return err
	}
	return os.Symlink(m.Source.Outside(backup.Server.Socket), filepath.Join(m.dir, "source.sock"))
}

func (m *mirroring) export() string { return m.uri("source.sock", m.frozen.Disks()[0].ID()) }

func (m *mirroring) uri(socket, export string) string {
	return "nbd+unix:///" + export + "?socket=" + filepath.Join(m.dir, socket)
}

// ours fills and commits the first point of a new replica.
func (m *mirroring) ours(ctx context.Context) (time.Duration, error) {
	if m.replica != nil {
		if err := m.replica.Delete(ctx); err != nil {
			return 0, err
		}
	}
	have, err := m.source.VM(ctx, m.guest.id)
	if err != nil {
		return 0, err
	}
	m.n++
	hw := have.Hardware
	hw.Name = fmt.Sprint("replica", m.n)
	m.replica, err = m.target.CreateReplica(ctx, hypervisors.ReplicaSpec{ID: hw.Name, Hardware: hw})
	if err != nil {
		return 0, err
	}
	m.newest = &protected{stage: m.stage, vm: m.guest.id, replica: hw.Name}
	start := time.Now()
	point := hypervisors.Point{ID: "p1", Taken: m.frozen.Taken(), Consistency: m.frozen.Consistency()}
	_, err = m.newest.copy(ctx, m.frozen, m.replica, &point)
	m.newest.newest = &point
	return time.Since(start), err
}

// intoServer runs a copying program against a new, empty, served image.
func (m *mirroring) intoServer(program string, args ...string) func(context.Context) (time.Duration, error) {
	return func(ctx context.Context) (took time.Duration, err error) {
		image := filepath.Join(m.dir, "target.qcow2")
		if err := command(ctx, "qemu-img", "create", "-q", "-f", "qcow2", image, fmt.Sprint(diskSize)); err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, os.Remove(image)) }()
		target, err := serve(ctx, filepath.Join(m.dir, "target.sock"), true, image)
		if err != nil {
			return 0, err
		}
		defer target.stop()
		start := time.Now()
		err = command(ctx, program, args...)
		return time.Since(start), err
	}
}

func (m *mirroring) cat(ctx context.Context) (took time.Duration, err error) {
	copied := filepath.Join(m.dir, "copied.qcow2")
	start := time.Now()
	err = command(ctx, "sh", "-c", `cat "$1" >"$2" && sync "$2"`, "cat", m.image, copied)
	took = time.Since(start)
	return took, errors.Join(err, os.Remove(copied))
}

// check proves that the newest point is what the disk is, once, outside the measuring.
func (m *mirroring) check(ctx context.Context) error {
	return command(ctx, "qemu-img", "compare", "-U", m.image, m.Target.Outside(m.pointFile(m.newest, m.frozen.Disks()[0].ID())))
}
