package replication

import (
	"context"
	"errors"
	"maps"
	"time"

	"understudy/hypervisors"
)

// separately freezes the machines of a request one after the other: each is consistent in itself, none is held still
// for the others.
func separately(ctx context.Context, source hypervisors.Source, req hypervisors.CheckpointRequest) (hypervisors.Checkpoint, error) {
	if len(req.VMs) == 1 {
		return source.Checkpoint(ctx, req)
	}
	var all moments
	for _, vm := range req.VMs {
		one := req
		one.VMs = []hypervisors.CheckpointVM{vm}
		cp, err := source.Checkpoint(ctx, one)
		if err != nil {
			return nil, errors.Join(err, all.undo(ctx, source))
		}
		all = append(all, cp)
	}
	return all, nil
}

// moments are several checkpoints that are read as one. Never empty.
type moments []hypervisors.Checkpoint

// Taken is the earliest: RPO is counted from there.
func (m moments) Taken() time.Time {
	taken := m[0].Taken()
	for _, cp := range m {
		if cp.Taken().Before(taken) {
			taken = cp.Taken()
		}
	}
	return taken
}

func (m moments) Consistency() hypervisors.Consistency {
	for _, cp := range m {
		if cp.Consistency() != hypervisors.ApplicationConsistent {
			return hypervisors.CrashConsistent
		}
	}
	return hypervisors.ApplicationConsistent
}

func (m moments) ChangeIDs() map[string]hypervisors.ChangeID {
	ids := map[string]hypervisors.ChangeID{}
	for _, cp := range m {
		maps.Copy(ids, cp.ChangeIDs())
	}
	return ids
}

func (m moments) Disks() []hypervisors.FrozenDisk {
	var disks []hypervisors.FrozenDisk
	for _, cp := range m {
		disks = append(disks, cp.Disks()...)
	}
	return disks
}

func (m moments) Close(ctx context.Context) error {
	var err error
	for _, cp := range m {
		err = errors.Join(err, cp.Close(ctx))
	}
	return err
}

// undo gives up checkpoints that nobody will use, change ids included.
func (m moments) undo(ctx context.Context, source hypervisors.Source) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	err := m.Close(ctx)
	for vm, id := range m.ChangeIDs() {
		err = errors.Join(err, source.Forget(ctx, vm, id))
	}
	return err
}
