package fake

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"understudy/hypervisors"
	"understudy/snapshot"
)

// machine is a VM of the hypervisor. Everything in it is covered by the Hypervisor's lock.
type machine struct {
	id    string
	hw    hypervisors.Hardware
	state hypervisors.PowerState
	// autostart: it starts with its host.
	autostart bool
	// disks are those the machine runs on; a replica at rest has none.
	disks    []*disk
	trackers []*tracker
	open     *checkpoint // at most one
	replica  *replica    // whose machine, or whose test run, this is
	run      *run
	boot     *bootBlock // what the guest read from its disk when it started; nil: no guest that we know
	written  uint64     // number of the guest's newest record; 0: not looked up since the start

	refusesQuiesce bool
	mute           bool
	onShutdown     func(context.Context) error
}

type disk struct {
	id       string
	excluded string
	raw      bool
	image    *image
}

// tracker is what is kept for one change id: which blocks of which disks were written since. A disk that is absent is
// not tracked (any more).
type tracker struct {
	id    hypervisors.ChangeID
	owner string
	name  string
	dirty map[string]map[int64]struct{}
}

func (m *machine) disk(id string) (*disk, error) {
	if i := slices.IndexFunc(m.disks, func(d *disk) bool { return d.id == id }); i >= 0 {
		return m.disks[i], nil
	}
	return nil, fmt.Errorf("disk %s of %s: %w", id, m.hw.Name, hypervisors.ErrNotFound)
}

// write is a write of the guest: it is remembered by every tracker.
func (m *machine) write(d *disk, p []byte, off int64) error {
	if err := d.image.check(off, int64(len(p))); err != nil {
		return err
	}
	for _, t := range m.trackers {
		if dirty, tracked := t.dirty[d.id]; tracked && len(p) > 0 {
			for i := off / blockSize; i <= (off+int64(len(p))-1)/blockSize; i++ {
				dirty[i] = struct{}{}
			}
		}
	}
	return d.image.writeAt(p, off)
}

// wanted says that a disk can be protected and is not left out.
func (d *disk) wanted(leaveOut []string) bool {
	return d.excluded == "" && !slices.Contains(leaveOut, d.id)
}

// track begins a change id on every disk that can be tracked and is not left out, or returns nil when none is.
func (m *machine) track(id hypervisors.ChangeID, owner, name string, leaveOut []string) *tracker {
	t := &tracker{id: id, owner: owner, name: name, dirty: map[string]map[int64]struct{}{}}
	for _, d := range m.disks {
		if !d.raw && d.wanted(leaveOut) {
			t.dirty[d.id] = map[int64]struct{}{}
		}
	}
	if len(t.dirty) == 0 {
		return nil
	}
	m.trackers = append(m.trackers, t)
	return t
}

// changed gives what differs on a disk since a change id, as it is now; false when that is not known.
func (m *machine) changed(owner string, since hypervisors.ChangeID, d *disk) ([]snapshot.Extent, bool) {
	i := slices.IndexFunc(m.trackers, func(t *tracker) bool { return t.id == since && t.owner == owner })
	if since == "" || i < 0 {
		return nil, false
	}
	dirty, tracked := m.trackers[i].dirty[d.id]
	if !tracked {
		return nil, false
	}
	var out []snapshot.Extent
	for _, i := range slices.Sorted(maps.Keys(dirty)) {
		off := i * blockSize
		out = appendExtent(out, snapshot.Extent{
			Offset: off,
			Length: min(blockSize, d.image.size-off),
			Zero:   d.image.block(i) == nil,
		})
	}
	return out, true
}

// forget drops the trackers that gone picks and names them.
func (m *machine) forget(gone func(*tracker) bool) (removed []string) {
	m.trackers = slices.DeleteFunc(m.trackers, func(t *tracker) bool {
		if gone(t) {
			removed = append(removed, "change id "+string(t.id)+" of machine "+m.hw.Name)
			return true
		}
		return false
	})
	return removed
}

// loseTracking makes every tracker unable to answer for a disk, or for all when disk is empty.
func (m *machine) loseTracking(disk string) {
	for _, t := range m.trackers {
		maps.DeleteFunc(t.dirty, func(id string, _ map[int64]struct{}) bool { return disk == "" || id == disk })
	}
}

// started is what happens when the machine is turned on: the guest boots from its first disk.
func (m *machine) started() {
	m.state = hypervisors.Running
	m.boot, m.written = nil, 0
	if len(m.disks) > 0 {
		m.boot = readBoot(m.disks[0].image)
	}
}

// stopped is what happens when it is off, however that came about.
func (m *machine) stopped() {
	m.state = hypervisors.Off
	m.boot, m.written = nil, 0
	if m.replica != nil && m.run == nil {
		m.releaseDisks() // started by hand: what it wrote is nobody's
		m.replica.rest()
	}
}

func (m *machine) releaseDisks() {
	for _, d := range m.disks {
		d.image.release()
	}
	m.disks, m.trackers = nil, nil
}

// show describes the machine for Host.
func (m *machine) show() hypervisors.VM {
	vm := hypervisors.VM{ID: m.id, State: m.state, Autostart: m.autostart, Hardware: cloneHardware(m.hw)}
	if m.replica != nil {
		vm.Replica = m.replica.id
	}
	for _, d := range vm.Hardware.Disks {
		if d.Format == "raw" {
			vm.Warnings = append(vm.Warnings, "disk "+d.ID+" is raw: its changes cannot be tracked, every cycle reads it in full")
		}
		if d.Excluded != "" {
			vm.Warnings = append(vm.Warnings, "disk "+d.ID+" cannot be protected: "+d.Excluded)
		}
	}
	return vm
}

func cloneHardware(hw hypervisors.Hardware) hypervisors.Hardware {
	hw.Disks = slices.Clone(hw.Disks)
	hw.NICs = slices.Clone(hw.NICs)
	return hw
}

func byName(a, b *machine) int {
	return cmp.Or(cmp.Compare(a.hw.Name, b.hw.Name), cmp.Compare(a.id, b.id))
}
