package esx

import (
	"context"
	"errors"
	"fmt"
	"io"

	faults "github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"understudy/hypervisors"
	"understudy/snapshot"
)

// pointReader has the disks of a point attached, so that what is written to them would be thrown away.
type pointReader struct {
	host     *host
	disks    []*pointDisk
	attached []*attached // of all disks and maps
}

type pointDisk struct {
	*attached
	id       string
	blockMap *attached
}

func (d *pointDisk) ID() string       { return d.id }
func (d *pointDisk) Map() io.ReaderAt { return d.blockMap }

// frozenAt gives what a snapshot has frozen.
func (s *state) frozenAt(ctx context.Context, t *types.VirtualMachineSnapshotTree) (*types.VirtualMachineConfigInfo, error) {
	var snap mo.VirtualMachineSnapshot
	err := property.DefaultCollector(s.host.client).RetrieveOne(ctx, t.Snapshot, []string{"config"}, &snap)
	return &snap.Config, err
}

// Open attaches the disks of a point.
func (r *replica) Open(ctx context.Context, point string) (hypervisors.PointReader, error) {
	p := &pointReader{host: r.host}
	err := r.work(ctx, "open point "+point+" of", func(s *state) error {
		t := s.point(point)
		if t == nil {
			return fmt.Errorf("point %s %w", point, hypervisors.ErrNotFound)
		}
		if s.draft != nil {
			return fmt.Errorf("%w: a draft is open, and the host shows both under one name", hypervisors.ErrBusy)
		}
		k, err := s.read(ctx, t)
		if err != nil {
			return err
		}
		config, err := s.frozenAt(ctx, t)
		if err != nil {
			return err
		}
		devices := object.VirtualDeviceList(config.Hardware.Device)
		var files []diskFile
		for _, d := range k.Point.Disks {
			at := k.Layout.of(d.ID)
			if at == nil {
				return fmt.Errorf("disk %s %w", d.ID, hypervisors.ErrNotFound)
			}
			data, err := fileAt(devices, at.At, at.Size)
			if err != nil {
				return err
			}
			blockMap, err := fileAt(devices, at.Map, snapshot.MapSize(at.Size))
			if err != nil {
				return err
			}
			files = append(files, data, blockMap)
			p.disks = append(p.disks, &pointDisk{id: d.ID})
		}
		if p.attached, err = s.host.attach(ctx, files, reading); err != nil {
			return err
		}
		for i, d := range p.disks {
			d.attached, d.blockMap = p.attached[2*i], p.attached[2*i+1]
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return p, nil
}

func (p *pointReader) Disks() []hypervisors.PointDiskReader {
	var disks []hypervisors.PointDiskReader
	for _, d := range p.disks {
		disks = append(disks, d)
	}
	return disks
}

// Close detaches the disks.
func (p *pointReader) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), afterwards)
	defer cancel()
	return p.host.detachAll(ctx, p.attached)
}

// Drop removes the snapshot of a point; the host merges what later ones need of it. As long as a test runs nothing is
// merged, for the test may stand on it.
func (r *replica) Drop(ctx context.Context, point string) error {
	return r.work(ctx, "drop point "+point+" of", func(s *state) error {
		t := s.point(point)
		if t == nil {
			return s.erase(ctx, point)
		}
		if s.draft != nil {
			return fmt.Errorf("%w: a draft is open", hypervisors.ErrBusy)
		}
		runs, err := s.runs(ctx)
		if err != nil {
			return err
		}
		live := false
		for _, run := range runs {
			if run.Point == point {
				return fmt.Errorf("%w: run %s stands on it", hypervisors.ErrInUse, run.ID)
			}
			live = live || run.ID == hypervisors.LiveRun
		}
		if err := s.clearAttached(ctx); err != nil {
			return err
		}
		if top := s.top(); top.Snapshot == t.Snapshot && !live { // what is above it must not be merged into it
			if chain := s.chain(); len(chain) > 1 {
				if err := s.revert(ctx, &chain[len(chain)-2]); err != nil {
					return err
				}
			}
		}
		if err := s.removePoint(ctx, t, len(s.tests()) == 0); err != nil {
			return err
		}
		return s.erase(ctx, point)
	})
}

// clearAttached detaches what an earlier run of ours has left attached of this machine's disks.
func (s *state) clearAttached(ctx context.Context) error {
	var ids []string
	for _, d := range object.VirtualDeviceList(s.m.Config.Hardware.Device).SelectByType((*types.VirtualDisk)(nil)) {
		ids = append(ids, diskUUID(d.(*types.VirtualDisk)))
	}
	return s.host.detachLeft(ctx, ids)
}

func (s *state) removePoint(ctx context.Context, t *types.VirtualMachineSnapshotTree, merge bool) error {
	if merge {
		return s.host.removeSnapshot(ctx, s.vm, s.m.Name, t.Snapshot)
	}
	res, err := methods.RemoveSnapshot_Task(ctx, s.host.client, &types.RemoveSnapshot_Task{This: t.Snapshot, Consolidate: types.NewBool(false)})
	if err == nil {
		_, err = s.host.wait(ctx, "remove", t.Name, object.NewTask(s.host.client, res.Returnval))
	}
	if faults.Is(err, &types.FileLocked{}) {
		err = nil // it is merged when the test has ended
	}
	return errors.Join(err, s.reload(ctx))
}

// merge what was left when points were dropped under a test.
func (s *state) merge(ctx context.Context) error {
	if err := s.reload(ctx); err != nil {
		return err
	}
	if !s.m.Runtime.ConsolidationNeeded || len(s.tests()) > 0 {
		return nil
	}
	return s.host.consolidate(ctx, s.vm, s.m.Name)
}

// Mark keeps with a point why it may be wrong: in the words of its snapshot.
func (r *replica) Mark(ctx context.Context, point, suspect string) error {
	return r.work(ctx, "mark point "+point+" of", func(s *state) error {
		t := s.point(point)
		if t == nil {
			return fmt.Errorf("point %s %w", point, hypervisors.ErrNotFound)
		}
		k, err := s.read(ctx, t)
		if err != nil {
			return err
		}
		_, err = methods.RenameSnapshot(ctx, s.host.client, &types.RenameSnapshot{This: t.Snapshot, Name: t.Name, Description: describePoint(k.Point, suspect)})
		return err
	})
}
