package esx

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	faults "github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"understudy/hypervisors"
	"understudy/snapshot"
)

// all asks for what is allocated at all.
const all = "*"

// changeID is what must be known of a machine's disks to ask later what changed, by disk.
type changeID map[string]diskChange

// diskChange is VMware's change id of a disk, and what must still be the same for it to count.
type diskChange struct {
	Change string `json:"change"`
	Key    int32  `json:"key"`
	UUID   string `json:"uuid"`
	Size   int64  `json:"size"`
}

func (c changeID) pack() hypervisors.ChangeID {
	b, err := json.Marshal(c)
	if err != nil {
		panic(err) // it is text and numbers
	}
	return hypervisors.ChangeID(b)
}

// parseChangeID of what pack wrote. From anything else nothing can be told.
func parseChangeID(id hypervisors.ChangeID) changeID {
	var c changeID
	if err := json.Unmarshal([]byte(id), &c); err != nil {
		return nil
	}
	return c
}

// Changed asks the host which areas may differ since the earlier moment.
func (d *frozenDisk) Changed(ctx context.Context) snapshot.Extents {
	since, known := d.machine.since[d.id]
	var why string
	switch {
	case !known || since.Change == "" || since.Change == all:
		why = "there is no earlier moment of it"
	case d.change == "":
		why = "the host does not track it"
	case since.Key != d.key || !sameUUID(since.UUID, d.image.uuid):
		why = "it is another disk"
	case since.Size != d.image.size:
		why = fmt.Sprintf("it was resized from %d to %d bytes", since.Size, d.image.size)
	}
	if why != "" {
		return func(yield func(snapshot.Extent, error) bool) { yield(snapshot.Extent{}, d.lost(errors.New(why))) }
	}
	return snapshot.Coalesce(snapshot.Validate(d.areas(ctx, since.Change), d.image.size))
}

// Allocated asks which areas were ever written; all others are zeros.
func (d *frozenDisk) Allocated(ctx context.Context) snapshot.Extents {
	whole := func(yield func(snapshot.Extent, error) bool) { yield(snapshot.Extent{Length: d.image.size}, nil) }
	if d.change == "" {
		return whole
	}
	return func(yield func(snapshot.Extent, error) bool) {
		at := int64(0)
		for x, err := range snapshot.Coalesce(snapshot.Validate(d.areas(ctx, all), d.image.size)) {
			switch {
			case errors.Is(err, hypervisors.ErrTrackingLost) && at == 0:
				whole(yield) // a disk that never tells this is read in full
				return
			case err != nil:
				yield(snapshot.Extent{}, err)
				return
			case x.Offset > at && !yield(snapshot.Extent{Offset: at, Length: x.Offset - at, Zero: true}, nil), !yield(x, nil):
				return
			}
			at = x.Offset + x.Length
		}
		if at < d.image.size {
			yield(snapshot.Extent{Offset: at, Length: d.image.size - at, Zero: true}, nil)
		}
	}
}

// areas asks page by page. Asking at the end of the disk is a fault, and a page that goes nowhere would be asked for forever.
func (d *frozenDisk) areas(ctx context.Context, since string) snapshot.Extents {
	return func(yield func(snapshot.Extent, error) bool) {
		for off := int64(0); off < d.image.size; {
			d.cp.mu.RLock()
			over := d.cp.over
			d.cp.mu.RUnlock()
			if over != nil {
				yield(snapshot.Extent{}, over)
				return
			}
			res, err := methods.QueryChangedDiskAreas(ctx, d.cp.host.client, &types.QueryChangedDiskAreas{
				This: d.machine.vm.Reference(), Snapshot: d.machine.snapshot, DeviceKey: d.key, StartOffset: off, ChangeId: since})
			switch {
			case faults.Is(err, &types.FileFault{}), faults.Is(err, &types.InvalidArgument{}):
				yield(snapshot.Extent{}, d.lost(err))
				return
			case err != nil:
				yield(snapshot.Extent{}, fault("ask for the changes of", d.subject(), err))
				return
			}
			for _, a := range res.Returnval.ChangedArea {
				if a.Length > 0 && !yield(snapshot.Extent{Offset: a.Start, Length: a.Length}, nil) {
					return
				}
			}
			next := res.Returnval.StartOffset + res.Returnval.Length
			if next <= off {
				yield(snapshot.Extent{}, d.lost(fmt.Errorf("an answer from %d to %d does not go on", off, next)))
				return
			}
			off = next
		}
	}
}

func (d *frozenDisk) subject() string { return "machine " + d.machine.name + ", disk " + d.id }

// lost says that the disk must be compared as a whole.
func (d *frozenDisk) lost(why error) error {
	return &hypervisors.Error{Op: "ask for the changes of", Subject: d.subject(), Err: fmt.Errorf("%w: %s", hypervisors.ErrTrackingLost, words(why))}
}
