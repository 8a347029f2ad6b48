package hypervisortest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"understudy/hypervisors"
	"understudy/snapshot"
)

func replicaChecks() []Check {
	check := func(name string, run func(context.Context, *stage) error) Check {
		return Check{Name: name, Needs: needTarget, Why: whyTarget, Run: onStage(run)}
	}
	return []Check{
		check("a replica is a machine that is off", checkReplica),
		check("creating a replica again finds it", checkReplicaAgain),
		check("a deleted replica is gone", checkDelete),
		check("clashes are found before anything is made", checkClashes),
		check("an unknown replica is not found", checkUnknownReplica),
	}
}

func checkReplica(ctx context.Context, s *stage) error {
	hw, err := s.stock(ctx)
	if err != nil {
		return err
	}
	r, err := s.replicaOf(ctx, hw)
	if err != nil {
		return err
	}
	status, err := r.Status(ctx)
	if err != nil {
		return err
	}
	if status.VM == "" || status.Adopted || status.Stray || len(status.Points)+len(status.Runs) > 0 {
		return fmt.Errorf("status of a new replica: %+v", status)
	}
	vm, err := s.Host.VM(ctx, status.VM)
	if err != nil {
		return err
	}
	got := vm.Hardware
	switch {
	case vm.State != hypervisors.Off || vm.Replica != r.ID():
		return fmt.Errorf("machine is %s, of replica %q", vm.State, vm.Replica)
	case got.Name != hw.Name || got.CPUs != hw.CPUs || got.Memory != hw.Memory || got.Firmware != hw.Firmware:
		return fmt.Errorf("machine is %+v, ordered was %+v", got, hw)
	case len(got.NICs) != len(hw.NICs) || got.NICs[0].MAC != hw.NICs[0].MAC || got.NICs[0].Network != s.Network:
		return fmt.Errorf("NICs are %+v, ordered were %+v", got.NICs, hw.NICs)
	}
	return sameDisks(got.Disks, hw.Disks)
}

// sameDisks compares ids and sizes.
func sameDisks(got, want []hypervisors.Disk) error {
	if !slices.EqualFunc(got, want, func(a, b hypervisors.Disk) bool { return a.ID == b.ID && a.Size == b.Size }) {
		return fmt.Errorf("disks are %+v, want %+v", got, want)
	}
	return nil
}

func checkReplicaAgain(ctx context.Context, s *stage) error {
	hw, err := s.stock(ctx)
	if err != nil {
		return err
	}
	r, err := s.replicaOf(ctx, hw)
	if err != nil {
		return err
	}
	first, err := r.Status(ctx)
	if err != nil {
		return err
	}
	conn, err := s.connect(ctx, s.Owner)
	if err != nil {
		return err
	}
	for _, target := range []hypervisors.Target{s.target, conn.(hypervisors.Target)} {
		again, err := target.CreateReplica(ctx, hypervisors.ReplicaSpec{ID: r.ID(), Hardware: hw, Storage: s.Storage})
		if err != nil {
			return err
		}
		found, err := target.Replica(ctx, r.ID())
		if err != nil {
			return err
		}
		for _, other := range []hypervisors.Replica{again, found} {
			status, err := other.Status(ctx)
			if err != nil {
				return err
			}
			if status.VM != first.VM || other.ID() != r.ID() {
				return fmt.Errorf("another replica: machine %s instead of %s", status.VM, first.VM)
			}
		}
	}
	return nil
}

func checkDelete(ctx context.Context, s *stage) error {
	r, err := s.replica(ctx)
	if err != nil {
		return err
	}
	if err := commit(ctx, r, "p1", pattern(1)); err != nil {
		return err
	}
	status, err := r.Status(ctx)
	if err != nil {
		return err
	}
	for range 2 {
		if err := r.Delete(ctx); err != nil {
			return err
		}
	}
	_, err = s.Host.VM(ctx, status.VM)
	if err := wants("machine of a deleted replica", err, hypervisors.ErrNotFound); err != nil {
		return err
	}
	_, err = s.target.Replica(ctx, r.ID())
	return wants("deleted replica", err, hypervisors.ErrNotFound)
}

func checkClashes(ctx context.Context, s *stage) error {
	before, err := s.Host.VMs(ctx)
	if err != nil {
		return err
	}
	vm, err := s.Host.VM(ctx, s.VM)
	if err != nil {
		return err
	}
	hw, err := s.stock(ctx)
	if err != nil {
		return err
	}
	named, storage, network, mac := hw, s.Storage, s.rename(hw), s.rename(hw)
	named.Name = vm.Hardware.Name
	network.NICs[0].Network = "no-such-network"
	if len(vm.Hardware.NICs) > 0 {
		mac.NICs[0].MAC = vm.Hardware.NICs[0].MAC
	}
	for _, c := range []struct {
		what     string
		hardware hypervisors.Hardware
		storage  string
		want     error
	}{
		{"taken name", named, storage, hypervisors.ErrNameTaken},
		{"taken MAC", mac, storage, hypervisors.ErrMACTaken},
		{"unknown network", network, storage, hypervisors.ErrUnknownNetwork},
		{"unknown storage", hw, "no-such-storage", hypervisors.ErrUnknownStorage},
	} {
		if errors.Is(c.want, hypervisors.ErrMACTaken) && len(vm.Hardware.NICs) == 0 {
			continue // VM has no MAC to clash with
		}
		r, err := s.target.CreateReplica(ctx, hypervisors.ReplicaSpec{ID: s.name("r"), Hardware: c.hardware, Storage: c.storage})
		if err == nil {
			s.later(r.Delete)
		}
		if err := wants(c.what, err, c.want); err != nil {
			return err
		}
	}
	after, err := s.Host.VMs(ctx)
	if err == nil && len(after) != len(before) {
		err = fmt.Errorf("there were %d machines, now there are %d", len(before), len(after))
	}
	return err
}

func checkUnknownReplica(ctx context.Context, s *stage) error {
	_, err := s.target.Replica(ctx, s.name("r"))
	return wants("replica that does not exist", err, hypervisors.ErrNotFound)
}

// pattern fills the stock disks with data that differs for each n, in every second block, and part of the last one.
func pattern(n byte) disks {
	a, b := newDisk("vda", 16*block), newDisk("vdb", 9*block+4096)
	for _, d := range []*disk{a, b} {
		for off := int64(n%2) * block; off < d.size; off += 2 * block {
			d.put(bytes.Repeat([]byte{n, byte(off / block), d.id[2]}, 1000), off)
		}
		d.put([]byte{n}, d.size-1)
	}
	return disks{a, b}
}

// mapOf stands for a block map of a disk; what is in it is nobody's business but the engine's.
func mapOf(point string, d *disk) []byte {
	p := bytes.Repeat([]byte(point+d.id), int(snapshot.MapSize(d.size)))
	return p[:snapshot.MapSize(d.size)]
}

// pointOf describes a point with metadata that is easily mangled.
func pointOf(id string, all disks) hypervisors.Point {
	taken := time.Date(2024, 2, 29, 23, 59, 59, 987654321, time.UTC)
	p := hypervisors.Point{
		ID: id, Taken: taken, Committed: taken.Add(1500 * time.Millisecond),
		Consistency: hypervisors.ApplicationConsistent,
		ChangeID:    hypervisors.ChangeID(`{"id": "<` + id + `> & 'ü'"}`),
	}
	for _, d := range all {
		p.Disks = append(p.Disks, hypervisors.PointDisk{ID: d.id, Size: d.size, Digest: fmt.Sprintf("%064x", len(id)+int(d.size))})
	}
	return p
}

func request(id string, all disks) hypervisors.DraftRequest {
	req := hypervisors.DraftRequest{Point: id, Compress: asksCompression(id)}
	for _, d := range all {
		req.Disks = append(req.Disks, hypervisors.DraftDiskSpec{ID: d.id, Size: d.size, Bus: "virtio"})
	}
	return req
}

// commit makes a point of exactly this content.
func commit(ctx context.Context, r hypervisors.Replica, id string, all disks) error {
	return commitAs(ctx, r, request(id, all), all)
}

// commitAs is commit with a request of one's own.
func commitAs(ctx context.Context, r hypervisors.Replica, req hypervisors.DraftRequest, all disks) error {
	id := req.Point
	d, err := r.Draft(ctx, req)
	if err != nil {
		return fmt.Errorf("draft of %s: %w", id, err)
	}
	err = fill(ctx, d, id, all)
	if err == nil {
		err = d.Commit(ctx, pointOf(id, all))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("point %s: %w", id, err), d.Discard(context.WithoutCancel(ctx)))
	}
	return nil
}

// fill writes content and maps into a draft, zeros where there is no data, and flushes.
func fill(ctx context.Context, d hypervisors.Draft, id string, all disks) error {
	open := d.Disks()
	if len(open) != len(all) {
		return fmt.Errorf("draft has %d disks, ordered were %d", len(open), len(all))
	}
	for i, dd := range open {
		want := all[i]
		if dd.ID() != want.id || dd.Size() != want.size {
			return fmt.Errorf("draft has disk %s of %d bytes, ordered was %s of %d", dd.ID(), dd.Size(), want.id, want.size)
		}
		if err := fillDisk(dd, want); err != nil {
			return err
		}
		if err := dd.Flush(ctx); err != nil {
			return err
		}
		m := dd.Map()
		if m.Size() != snapshot.MapSize(want.size) {
			return fmt.Errorf("map of %s has %d bytes, want %d", want.id, m.Size(), snapshot.MapSize(want.size))
		}
		if _, err := m.WriteAt(mapOf(id, want), 0); err != nil {
			return err
		}
		if err := m.Flush(ctx); err != nil {
			return err
		}
	}
	return nil
}

func fillDisk(dd hypervisors.DraftDisk, want *disk) error {
	for i := range (want.size + block - 1) / block {
		off, n := i*block, min(block, want.size-i*block)
		var err error
		if b := want.blocks[i]; b != nil {
			_, err = dd.WriteAt(b[:n], off)
		} else {
			err = dd.Zero(off, n)
		}
		if err != nil {
			return fmt.Errorf("disk %s, %d bytes at %d: %w", want.id, n, off, err)
		}
	}
	return nil
}

// wantPoint opens a committed point and compares content and maps.
func wantPoint(ctx context.Context, r hypervisors.Replica, id string, want disks) (err error) {
	p, err := r.Open(ctx, id)
	if err != nil {
		return fmt.Errorf("open point %s: %w", id, err)
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	got, err := readAll(ctx, p.Disks())
	if err != nil {
		return fmt.Errorf("point %s: %w", id, err)
	}
	if err := got.same(want); err != nil {
		return fmt.Errorf("point %s: %w", id, err)
	}
	for i, d := range p.Disks() {
		m := make([]byte, snapshot.MapSize(d.Size()))
		if err := readFull(d.Map(), m, 0); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("map of disk %s of point %s: %w", d.ID(), id, err)
		}
		if !bytes.Equal(m, mapOf(id, want[i])) {
			return fmt.Errorf("map of disk %s of point %s is not what was committed", d.ID(), id)
		}
	}
	return nil
}

// wantPoints compares the list of points with ids.
func wantPoints(ctx context.Context, r hypervisors.Replica, ids ...string) error {
	status, err := r.Status(ctx)
	if err != nil {
		return err
	}
	var got []string
	for _, p := range status.Points {
		got = append(got, p.ID)
	}
	if !slices.Equal(got, ids) {
		return fmt.Errorf("points are %q, want %q", got, ids)
	}
	return nil
}
