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
func (c *cycle) separately(ctx context.Context, req hypervisors.CheckpointRequest) (hypervisors.Checkpoint, error) {
	if len(req.VMs) == 1 {
		return c.source.Checkpoint(ctx, req)
	}
	var all moments
	for _, vm := range req.VMs {
		one := req
		one.VMs = []hypervisors.CheckpointVM{vm}
		cp, err := c.source.Checkpoint(ctx, one)
		if err != nil {
			c.giveUp(ctx, all)
			return nil, err
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

// giveUp is for checkpoints that nobody will use, change ids included.
func (c *cycle) giveUp(ctx context.Context, all moments) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	for _, cp := range all {
		c.e.settle(ctx, c.g.ID, "close checkpoint", cp.Close)
		for vm, id := range cp.ChangeIDs() {
			c.e.settle(ctx, c.g.ID, "forget change id", func(ctx context.Context) error { return c.source.Forget(ctx, vm, id) })
		}
	}
}
