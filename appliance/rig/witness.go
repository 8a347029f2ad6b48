package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"understudy/api"
	"understudy/hypervisors/kvm/lab"
	"understudy/hypervisors/kvm/lab/record"
	"understudy/snapshot"
)

// Witness judges recovery points of a lab's guest without the appliance. Safe for concurrent use.
type Witness struct {
	addr string // of the guest

	mu     sync.Mutex
	floors []floor
	proven map[string]string // what points held, by host and id
}

// floor is a record that was durable at a moment: no point taken later may lack it.
type floor struct {
	at  time.Time
	seq uint64
}

// NewWitness knows nothing yet.
func NewWitness(guest *lab.Guest) *Witness {
	return &Witness{addr: guest.Addr, proven: map[string]string{}}
}

// Ask asks the guest on a host how it is, and remembers which record every later point must have. What the guest itself
// found wrong is an error.
func (w *Witness) Ask(ctx context.Context, h *lab.Host) (record.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	s, err := h.Status(ctx, w.addr)
	if err != nil {
		return s, err
	}
	w.mu.Lock()
	w.floors = append(w.floors, floor{time.Now(), s.Seq})
	if len(w.floors) > 1000 { // those of points that were proven long ago
		w.floors = w.floors[500:]
	}
	w.mu.Unlock()
	return s, Wrong(s)
}

// TurnBack tells that production goes back to an earlier moment, on purpose: what was durable does not bind any more.
func (w *Witness) TurnBack() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.floors = nil
}

// ErrGuest says that the guest found something wrong with its disks.
var ErrGuest = errors.New("the guest")

// Wrong is what a guest found wrong.
func Wrong(s record.Status) error {
	if len(s.Problems) > 0 || s.WriteErrors > 0 {
		return fmt.Errorf("%w had %d write errors and found: %s", ErrGuest, s.WriteErrors, strings.Join(s.Problems, "; "))
	}
	return nil
}

// Prove reads a point on a host and proves that it is what the appliance recorded, that its records are whole and of one
// moment, and that none is missing that was durable before it was taken.
func (w *Witness) Prove(ctx context.Context, h *lab.Host, p api.Point) error {
	disks, err := PointDisks(ctx, h, p.ID)
	if err != nil {
		return err
	}
	defer disks.Close()
	newest, err := disks.Check()
	if err != nil {
		return err
	}
	if least := w.least(p.Taken); newest < least {
		return fmt.Errorf("it ends with record %d, but %d was durable before it was taken", newest, least)
	}
	var held []api.PointDisk
	for i, d := range disks {
		digest, err := Digest(ctx, d)
		if err != nil {
			return err
		}
		held = append(held, api.PointDisk{ID: "vd" + string(rune('a'+i)), Size: d.Size, Digest: digest.String()})
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.proven[h.Name+" "+p.ID] = fmt.Sprint(held)
	return same(held, p)
}

// Digest reads a disk and computes what a cycle records of it.
func Digest(ctx context.Context, d *lab.Image) (snapshot.Digest, error) {
	blocks, err := snapshot.OpenMap(ctx, make(area, snapshot.MapSize(d.Size)), d.Size)
	if err != nil {
		return snapshot.Digest{}, err
	}
	return snapshot.Scan(ctx, d, d.Size, blocks, nil)
}

// area holds the block map of a small disk in memory.
type area []byte

func (a area) Size() int64                              { return int64(len(a)) }
func (a area) ReadAt(p []byte, off int64) (int, error)  { return bytes.NewReader(a).ReadAt(p, off) }
func (a area) WriteAt(p []byte, off int64) (int, error) { return copy(a[off:], p), nil }
func (a area) Zero(off, n int64) error                  { clear(a[off : off+n]); return nil }
func (a area) Flush(context.Context) error              { return nil }

func same(held any, p api.Point) error {
	if recorded := fmt.Sprint(p.Machines[0].Disks); fmt.Sprint(held) != recorded {
		return fmt.Errorf("it holds %v, recorded was %s", held, recorded)
	}
	return nil
}

func (w *Witness) least(taken time.Time) (seq uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.floors {
		if f.at.Before(taken) {
			seq = max(seq, f.seq)
		}
	}
	return seq
}

// Doubt lets Holds prove every point once more.
func (w *Witness) Doubt() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.proven)
}

// Holds is Prove for points that were not proven before; of the others it only looks whether they are still there.
func (w *Witness) Holds(ctx context.Context, h *lab.Host, p api.Point) error {
	w.mu.Lock()
	known := w.proven[h.Name+" "+p.ID]
	w.mu.Unlock()
	if known == "" {
		return w.Prove(ctx, h, p)
	}
	found, err := filepath.Glob(filepath.Join(h.Outside(h.Images), "*", "*", "vd[ab]."+p.ID+".qcow2"))
	if err == nil && len(found) != 2 {
		err = fmt.Errorf("%d files of 2", len(found))
	}
	if err != nil {
		return err
	}
	return same(known, p)
}
