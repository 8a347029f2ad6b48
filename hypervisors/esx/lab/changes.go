package lab

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// Grain is the unit of change tracking, in bytes.
const Grain = 64 << 10

// history is one epoch of change tracking of one disk. A change id is "<epoch>/<n>".
type history struct {
	epoch  string
	now    int                    // the newest change id that was given
	marked map[int]map[int64]bool // change id → grains written after it and before the next
}

// begin an epoch. l.mu is held.
func (l *Lab) begin() *history {
	h := &history{epoch: uuid.NewString(), marked: map[int]map[int64]bool{}}
	l.histories[h.epoch] = h
	return h
}

// mark what was written.
func (h *history) mark(off, n int64) {
	if h == nil || n == 0 {
		return
	}
	set := h.marked[h.now]
	if set == nil {
		set = map[int64]bool{}
		h.marked[h.now] = set
	}
	for g := off / Grain; g <= (off+n-1)/Grain; g++ {
		set[g] = true
	}
}

// next change id.
func (h *history) next() string {
	if h == nil {
		return ""
	}
	h.now++
	return h.id()
}

func (h *history) id() string {
	if h == nil {
		return ""
	}
	return fmt.Sprintf("%s/%d", h.epoch, h.now)
}

// untrack gives up the history of a disk that may be written by another machine. l.mu is held.
func (l *Lab) untrack(i *image) {
	for _, m := range l.machines {
		for _, d := range m.disks {
			if d.image == i && d.history != nil && m.id != l.appliance {
				d.history = l.begin()
			}
		}
	}
}

// track begins or ends tracking, as the machine's configuration says; it takes effect when the machine is stunned or
// started, as on ESX. l.mu is held.
func (l *Lab) track(m *machine, enabled *bool) {
	for _, d := range m.disks {
		switch {
		case enabled == nil || !*enabled || independent(d.mode):
			d.history = nil
		case d.history == nil:
			d.history = l.begin()
		}
	}
}

// QueryChangedDiskAreas as ESX answers it: of a snapshot, or of a machine that is off; in pages.
func (v *vm) QueryChangedDiskAreas(_ *simulator.Context, req *types.QueryChangedDiskAreas) soap.HasFault {
	body := &methods.QueryChangedDiskAreasBody{}
	v.l.mu.Lock()
	defer v.l.mu.Unlock()
	info, fault := v.l.changed(v.Self, v.Runtime.PowerState, req)
	if fault != nil {
		body.Fault_ = refused(fault)
		return body
	}
	body.Res = &types.QueryChangedDiskAreasResponse{Returnval: *info}
	return body
}

func (l *Lab) changed(
	ref types.ManagedObjectReference, state types.VirtualMachinePowerState, req *types.QueryChangedDiskAreas,
) (*types.DiskChangeInfo, types.BaseMethodFault) {
	m := l.machines[ref]
	var at frozen
	switch {
	case m == nil:
		return nil, &types.ManagedObjectNotFound{Obj: ref}
	case req.Snapshot != nil:
		snap, ok := m.snaps[*req.Snapshot]
		if !ok {
			return nil, &types.ManagedObjectNotFound{Obj: *req.Snapshot}
		}
		at = snap[req.DeviceKey]
	case state != types.VirtualMachinePowerStatePoweredOff:
		return nil, &types.InvalidArgument{InvalidProperty: "snapshot"}
	default:
		if d := m.disks[req.DeviceKey]; d != nil {
			at = frozen{d.image, d.history.id()}
		}
	}
	if at.image == nil {
		return nil, &types.InvalidArgument{InvalidProperty: "deviceKey"}
	}
	if req.StartOffset < 0 || req.StartOffset >= at.image.size {
		return nil, &types.InvalidArgument{InvalidProperty: "startOffset"}
	}
	grains, key := l.grains(at, req.ChangeId)
	if key != "" {
		return nil, lost(at.image.path, key)
	}
	return page(grains, req.StartOffset, at.image.size, l.o.PageSize), nil
}

// lost is the fault of a query that cannot be answered.
func lost(p, key string) types.BaseMethodFault {
	f := &types.FileFault{File: p}
	f.FaultMessage = []types.LocalizableMessage{{Key: "vim.hostd.vmsvc.cbt." + key, Message: "Cannot compute changes for disk " + p}}
	return f
}

// grains that differ, in order; or the key of why that is not known.
func (l *Lab) grains(at frozen, since string) ([]int64, string) {
	epoch, now, ok := cut(at.change)
	if !ok {
		return nil, "noTrack"
	}
	set := map[int64]bool{}
	if since == "*" {
		if err := allocated(at.image.content, set); err != nil {
			return nil, "cannotGetChanges"
		}
	} else {
		from, n, ok := cut(since)
		h := l.histories[from]
		switch {
		case !ok || h == nil || from != epoch:
			return nil, "noEpoch"
		case n > now:
			return nil, "cannotGetChanges"
		}
		for ; n < now; n++ {
			for g := range h.marked[n] {
				set[g] = true
			}
		}
	}
	grains := make([]int64, 0, len(set))
	for g := range set {
		grains = append(grains, g)
	}
	slices.Sort(grains)
	return grains, ""
}

func cut(id string) (epoch string, n int, ok bool) {
	epoch, s, ok := strings.Cut(id, "/")
	n, err := strconv.Atoi(s)
	return epoch, n, ok && err == nil
}

// allocated grains of a file.
func allocated(name string, set map[int64]bool) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	return pieces(f, st.Size(), func(off, n int64) error {
		for g := off / Grain; g <= (off+n-1)/Grain; g++ {
			set[g] = true
		}
		return nil
	})
}

// page answers from an offset on, with at most most areas; Length says how far the answer reaches.
func page(grains []int64, start, size int64, most int) *types.DiskChangeInfo {
	info := &types.DiskChangeInfo{StartOffset: start, Length: size - start}
	for _, g := range grains {
		from, to := max(g*Grain, start), min((g+1)*Grain, size)
		if to <= from {
			continue
		}
		if n := len(info.ChangedArea); n > 0 && info.ChangedArea[n-1].Start+info.ChangedArea[n-1].Length == from {
			info.ChangedArea[n-1].Length += to - from
			continue
		}
		if len(info.ChangedArea) == most {
			info.Length = from - start
			break
		}
		info.ChangedArea = append(info.ChangedArea, types.DiskChangeExtent{Start: from, Length: to - from})
	}
	return info
}
