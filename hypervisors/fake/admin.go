package fake

import (
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"understudy/hypervisors"
)

// LiveDisk reads a disk of a machine as it is now, past all drivers: for comparing.
type LiveDisk struct {
	hv *Hypervisor
	d  *disk
}

// ID of the disk within its machine.
func (d *LiveDisk) ID() string { return d.d.id }

// Size in bytes.
func (d *LiveDisk) Size() int64 {
	d.hv.mu.Lock()
	defer d.hv.mu.Unlock()
	return d.d.image.size
}

// ReadAt reads what the guest would.
func (d *LiveDisk) ReadAt(p []byte, off int64) (int, error) {
	d.hv.mu.Lock()
	defer d.hv.mu.Unlock()
	return readImage(d.d.image, p, off)
}

var _ io.ReaderAt = (*LiveDisk)(nil)

// Disks shows what a machine runs on; a replica at rest has nothing to show.
func (hv *Hypervisor) Disks(vm string) (out []*LiveDisk) {
	hv.mu.Lock()
	defer hv.mu.Unlock()
	if m := hv.machines[vm]; m != nil {
		for _, d := range m.disks {
			out = append(out, &LiveDisk{hv: hv, d: d})
		}
	}
	return out
}

// Start turns a machine on, as an administrator would.
func (hv *Hypervisor) Start(vm string) error {
	return hv.Guest(vm).do(func(m *machine) error {
		m.turnOn()
		return nil
	})
}

func (m *machine) turnOn() {
	if m.state == hypervisors.Off {
		if m.replica != nil && m.run == nil {
			m.replica.lend() // by hand: it starts on a copy of the newest point
		}
		m.started()
	}
	m.state = hypervisors.Running
}

// Stop turns a machine off at once, as an administrator would: its tracking stays.
func (hv *Hypervisor) Stop(vm string) error {
	return hv.Guest(vm).do(func(m *machine) error {
		if m.state != hypervisors.Off {
			m.stopped()
		}
		return nil
	})
}

// SetAutostart says whether a machine starts when its host does, as an administrator would.
func (hv *Hypervisor) SetAutostart(vm string, on bool) error {
	return hv.Guest(vm).do(func(m *machine) error {
		m.autostart = on
		return nil
	})
}

// Crash kills the hypervisor's process of a machine: it is off, its tracking is lost, an open checkpoint cannot be read.
func (hv *Hypervisor) Crash(vm string) error {
	return hv.Guest(vm).do(func(m *machine) error {
		m.crash()
		return nil
	})
}

func (m *machine) crash() {
	if m.open != nil {
		m.open.end(fmt.Errorf("the process of machine %s has died: %w", m.hw.Name, hypervisors.ErrNotFound))
	}
	if m.state != hypervisors.Off {
		m.loseTracking("")
		m.stopped()
	}
}

// PowerFail turns the whole host off and on: all machines are off but those that start with their host, and drafts,
// readers and checkpoints are gone. Of what was written to committed points and not flushed some is lost, some is there
// and some is torn, see WithSeed. Connections find the host again, as those of real drivers do.
func (hv *Hypervisor) PowerFail() {
	hv.mu.Lock()
	defer hv.mu.Unlock()
	hv.outages++
	chance := rand.New(rand.NewPCG(hv.seed, hv.outages))
	for _, m := range hv.machines {
		m.crash()
	}
	for _, id := range slices.Sorted(maps.Keys(hv.replicas)) {
		r := hv.replicas[id]
		if r.draft != nil {
			r.draft.release()
		}
		r.powerFail(chance)
	}
	for _, r := range slices.Clone(hv.readers) {
		r.release()
	}
	for _, m := range slices.SortedFunc(maps.Values(hv.machines), byName) {
		if m.autostart {
			m.turnOn()
		}
	}
}

// BreakConnections drops every connection; new ones work.
func (hv *Hypervisor) BreakConnections() {
	hv.mu.Lock()
	defer hv.mu.Unlock()
	hv.epoch++
}

// SetReachable says whether the network between the appliance and the host works.
func (hv *Hypervisor) SetReachable(reachable bool) {
	hv.mu.Lock()
	defer hv.mu.Unlock()
	hv.unreachable = !reachable
}

// SetFreeze says for how long guests must be held still so that several share one moment.
func (hv *Hypervisor) SetFreeze(d time.Duration) {
	hv.mu.Lock()
	defer hv.mu.Unlock()
	hv.freeze = d
}

// SetFree makes a storage have so many bytes free.
func (hv *Hypervisor) SetFree(storage string, bytes int64) error {
	hv.mu.Lock()
	defer hv.mu.Unlock()
	p, err := hv.pool(storage)
	if err != nil {
		return err
	}
	p.capacity = p.used + bytes
	return nil
}

// GiveWay ends the open checkpoint of a machine as if its scratch space had run out.
func (hv *Hypervisor) GiveWay(vm string) error {
	return hv.Guest(vm).do(func(m *machine) error {
		if m.open == nil {
			return fmt.Errorf("checkpoint of %s: %w", m.hw.Name, hypervisors.ErrNotFound)
		}
		m.open.giveWay()
		return nil
	})
}

// LoseTracking makes the source unable to tell what changed on a disk since any checkpoint; empty: on all disks.
func (hv *Hypervisor) LoseTracking(vm, disk string) error {
	return hv.Guest(vm).do(func(m *machine) error {
		m.loseTracking(disk)
		return nil
	})
}

// Corrupt changes a disk behind the back of all change tracking, as a bug in the tracking or a rotting disk does.
func (hv *Hypervisor) Corrupt(vm, disk string, off int64, p []byte) error {
	return hv.Guest(vm).do(func(m *machine) error {
		d, err := m.disk(disk)
		if err != nil {
			return err
		}
		return d.image.writeAt(p, off)
	})
}

// Rot changes what a committed point holds of a disk, behind the back of its block map and of everything else, as a
// failing disk of the target does. Points that share the block share the damage, as on real storage.
func (hv *Hypervisor) Rot(replica, pointID, disk string, off int64, p []byte) error {
	hv.mu.Lock()
	defer hv.mu.Unlock()
	r := hv.replicas[replica]
	if r == nil {
		return fmt.Errorf("replica %s: %w", replica, hypervisors.ErrNotFound)
	}
	at, err := r.point(pointID)
	if err != nil {
		return err
	}
	d := at.disk(disk)
	if d == nil || off < 0 || off+int64(len(p)) > d.content.now.size {
		return fmt.Errorf("disk %s of point %s: %w", disk, pointID, hypervisors.ErrNotFound)
	}
	for len(p) > 0 {
		part := p[:min(int64(len(p)), blockSize-off%blockSize)]
		if err := r.rot(disk, d.content.now.block(off/blockSize), off, part); err != nil {
			return err
		}
		p, off = p[len(part):], off+int64(len(part))
	}
	return nil
}

// rot changes a part of one block, nil being one that was never written, in all points that have it.
func (r *replica) rot(disk string, b *block, off int64, part []byte) error {
	for _, at := range r.points {
		if d := at.disk(disk); d != nil && d.content.now.block(off/blockSize) == b && off+int64(len(part)) <= d.content.now.size {
			if err := d.content.now.writeAt(part, off); err != nil {
				return err
			}
		}
	}
	return nil
}

// ResizeDisk makes a disk larger. ErrBusy while a checkpoint is open.
func (hv *Hypervisor) ResizeDisk(vm, disk string, size int64) error {
	return hv.Guest(vm).do(func(m *machine) error {
		d, err := m.disk(disk)
		if err != nil {
			return err
		}
		if m.open != nil {
			return fmt.Errorf("checkpoint %s is open: %w", m.open.name, hypervisors.ErrBusy)
		}
		if size < d.image.size {
			return fmt.Errorf("disk %s cannot shrink: %w", disk, hypervisors.ErrInvalid)
		}
		m.loseTracking(disk)
		for i := range m.hw.Disks {
			if m.hw.Disks[i].ID == disk {
				m.hw.Disks[i].Size = size
			}
		}
		return d.image.resize(size)
	})
}

// AddDisk attaches an empty disk to a machine that is no replica.
func (hv *Hypervisor) AddDisk(vm string, d hypervisors.Disk) error {
	return hv.Guest(vm).do(func(m *machine) error {
		if _, err := m.disk(d.ID); err == nil || m.replica != nil {
			return fmt.Errorf("disk %s of %s: %w", d.ID, m.hw.Name, hypervisors.ErrInUse)
		}
		m.hw.Disks = append(m.hw.Disks, d)
		m.hw = hv.complete(m.hw)
		m.disks = append(m.disks, hv.newDisk(m.hw.Disks[len(m.hw.Disks)-1]))
		return nil
	})
}

// RemoveDisk detaches a disk and deletes it.
func (hv *Hypervisor) RemoveDisk(vm, id string) error {
	return hv.Guest(vm).do(func(m *machine) error {
		d, err := m.disk(id)
		if err != nil {
			return err
		}
		m.loseTracking(id)
		d.image.release()
		m.disks = slices.DeleteFunc(m.disks, func(other *disk) bool { return other == d })
		m.hw.Disks = slices.DeleteFunc(m.hw.Disks, func(other hypervisors.Disk) bool { return other.ID == id })
		return nil
	})
}

// RemoveVM deletes a machine that is no replica, whatever it does.
func (hv *Hypervisor) RemoveVM(vm string) error {
	return hv.Guest(vm).do(func(m *machine) error {
		if m.replica != nil {
			return fmt.Errorf("machine %s is of replica %s: %w", m.hw.Name, m.replica.id, hypervisors.ErrInUse)
		}
		hv.remove(m)
		return nil
	})
}
