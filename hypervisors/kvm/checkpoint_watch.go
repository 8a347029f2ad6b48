package kvm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"time"

	"libvirt.org/go/libvirt"

	"understudy/hypervisors"
)

// A guest that writes to a frozen disk makes QEMU save the old content in the scratch file first. When there is no room
// for it, QEMU stops the guest. So the room is watched, and the checkpoint gives way in time.

// scratchSpace is a file system that scratch files of a checkpoint are on.
type scratchSpace struct {
	dir string
	// reserve is the free space below which the checkpoint gives way.
	reserve int64
	// asked is where the answer comes to a question that was asked already; nil: none was. Only the watch uses it.
	asked chan measured
}

type measured struct {
	space
	err error
}

// free measures the room, for lookPatience at most. Storage that hangs is not asked again until it has answered, as each
// question that it holds costs a thread.
func (s *scratchSpace) free(ctx context.Context, p place) (space, error) {
	if s.asked == nil {
		asked := make(chan measured, 1)
		go func() {
			room, err := freeSpace(ctx, p, s.dir)
			asked <- measured{room, err}
		}()
		s.asked = asked
	}
	patience := time.NewTimer(lookPatience)
	defer patience.Stop()
	select {
	case m := <-s.asked:
		s.asked = nil
		return m.space, m.err
	case <-patience.C:
		return space{}, fmt.Errorf("%w: the storage does not answer", hypervisors.ErrTimeout)
	}
}

const (
	// lookPatience is how long one look waits for storage before it goes on to what else there is to see.
	lookPatience = time.Second
	// leastScratch free bytes are needed to begin at all.
	leastScratch = 64 << 20
	// largestReserve is what a fast guest writes between two looks.
	largestReserve = 512 << 20
)

func reserveOf(free int64) int64 { return min(largestReserve, free/4) }

// measureScratch looks at the room for scratch files before there are any. Old ones, which would be in the way, go first.
func (cp *checkpoint) measureScratch(ctx context.Context) error {
	if err := cp.host.removeOld(ctx, cp.plans); err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, p := range cp.plans {
		for _, k := range p.disks {
			dir := path.Dir(k.scratch)
			if p.reader || seen[dir] {
				continue // nobody writes to the disks of a machine that is off
			}
			seen[dir] = true
			room, err := freeSpace(ctx, cp.host.place, dir)
			if err != nil {
				return takeError(p.vm, fmt.Errorf("scratch folder %s: %w", dir, err))
			}
			if room.Free < leastScratch {
				return &hypervisors.Error{Op: "take checkpoint of", Subject: "machine " + p.name,
					Err:  fmt.Errorf("%w: %s has %d MiB free for scratch files, %d are needed", hypervisors.ErrNoSpace, dir, room.Free>>20, leastScratch>>20),
					Hint: "Free some space there, or name another folder with scratch=FOLDER in the host's address."}
			}
			cp.scratch = append(cp.scratch, &scratchSpace{dir: dir, reserve: reserveOf(room.Free)})
		}
	}
	return nil
}

// watch looks at the guests and the room until reading ends.
func (cp *checkpoint) watch() {
	if len(cp.scratch) == 0 {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	cp.unwatch = cancel
	cp.watching.Go(func() {
		for wait := time.Duration(0); pause(ctx, wait); {
			short, why := cp.look(ctx)
			if why != "" {
				cp.giveWay(why, "Free space where the scratch files are, or name a roomier folder with scratch=FOLDER in the host's address.")
				return
			}
			if wait = time.Second; short {
				wait = 100 * time.Millisecond
			}
		}
	})
}

// look says whether the room gets short, and why the checkpoint must give way, if it must. What it cannot find out, as
// while libvirtd restarts, is no reason.
func (cp *checkpoint) look(ctx context.Context) (short bool, why string) {
	for _, s := range cp.scratch {
		room, err := s.free(ctx, cp.host.place)
		if err != nil {
			cp.host.log.Debug("scratch space cannot be measured", "folder", s.dir, "reason", err.Error())
			short = true
			continue
		}
		if room.Free < s.reserve {
			return true, fmt.Sprintf("scratch space in %s runs out: %d MiB are free", s.dir, room.Free>>20)
		}
		short = short || room.Free < 3*s.reserve
	}
	for _, p := range cp.plans {
		if p.reader {
			continue
		}
		err := cp.host.onDomain(ctx, p.vm, func(d *libvirt.Domain) error {
			if stoppedByIO(d) {
				why = fmt.Sprintf("machine %s was stopped by an I/O error", p.name)
			}
			return nil
		})
		if err != nil || why != "" {
			return short, why
		}
	}
	return short, ""
}

func stoppedByIO(d *libvirt.Domain) bool {
	state, reason, err := d.GetState()
	return err == nil && state == libvirt.DOMAIN_PAUSED && libvirt.DomainPausedReason(reason) == libvirt.DOMAIN_PAUSED_IOERROR
}

// giveWay ends the frozen moment for the good of the guests: first their scratch space, then everything else. The
// checkpoint stays to be closed.
func (cp *checkpoint) giveWay(why, hint string) {
	cp.closing.Lock()
	defer cp.closing.Unlock()
	err := &hypervisors.Error{Op: "read", Subject: "checkpoint", Err: fmt.Errorf("%w: %s", hypervisors.ErrGaveWay, why), Hint: hint}
	cp.mu.Lock()
	first := cp.gone == nil
	if first {
		cp.gone = err
	}
	cp.mu.Unlock()
	if !first {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), cleanupPatience)
	defer cancel()
	fail := together(cp.plans, func(p *plan) error {
		return cp.host.insist(ctx, p.vm, func(d *libvirt.Domain) error {
			if err := cp.host.endOwnJob(ctx, d, p); err != nil {
				return err
			}
			var files []string
			for _, k := range p.disks {
				files = append(files, k.scratch)
			}
			if err := removeAll(ctx, cp.host.place, files...); err != nil {
				return err
			}
			if stoppedByIO(d) {
				return d.Resume()
			}
			return nil
		})
	})
	cp.end(err)
	cp.host.log.Warn("checkpoint gave way", "reason", why)
	if fail != nil {
		cp.host.log.Error("checkpoint could not give way in full", "reason", fail.Error())
	}
}

func isEnd(err error) bool { return errors.Is(err, io.EOF) }
