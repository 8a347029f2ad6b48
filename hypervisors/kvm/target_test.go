package kvm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/hypervisors"
	"understudy/snapshot"
)

var replicaNumber atomic.Int32

// world is a replica on the lab's target host, and what every point of it must hold.
type world struct {
	t    *testing.T
	ctx  context.Context
	h    *host
	spec hypervisors.ReplicaSpec
	rng  *rand.Rand
	want map[string]map[string]content // by point and disk
	ids  []string                      // points in order, never fewer
}

// content is a disk's data and its block map.
type content struct{ data, blockMap []byte }

const mib = 1 << 20

func newWorld(t *testing.T) *world {
	t.Helper()
	n := replicaNumber.Add(1)
	w := &world{t: t, ctx: testContext(t), h: openHost(t, testLab.Target.URI), want: map[string]map[string]content{},
		rng: rand.New(rand.NewPCG(1, uint64(n)))}
	w.spec = hypervisors.ReplicaSpec{ID: fmt.Sprintf("r%d", n), Hardware: hypervisors.Hardware{
		Name: fmt.Sprintf("replica%d", n), CPUs: 1, Memory: 64 << 20, Firmware: hypervisors.BIOS, Arch: "x86_64", Chipset: "q35",
		Disks: []hypervisors.Disk{{ID: "vda", Size: 2 * mib, Bus: "virtio", Boot: 1}, {ID: "vdb", Size: 3 * mib, Bus: "virtio"}},
		NICs:  []hypervisors.NIC{{MAC: fmt.Sprintf("52:54:00:78:00:%02x", n), Model: "virtio", Network: "production"}},
	}}
	return w
}

// create makes the replica, to be removed with the test.
func (w *world) create() *replica {
	w.t.Helper()
	made, err := w.h.CreateReplica(w.ctx, w.spec)
	require.NoError(w.t, err)
	w.cleanup()
	return made.(*replica)
}

func (w *world) cleanup() {
	w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		h, err := connect(ctx, testLab.Target.URI, Options{Owner: testOwner})
		require.NoError(w.t, err)
		defer h.Close()
		r, err := h.findReplica(ctx, w.spec.ID)
		if err != nil {
			require.ErrorIs(w.t, err, hypervisors.ErrNotFound)
			return
		}
		require.NoError(w.t, r.Delete(ctx))
		_, err = testLab.Target.Exec(ctx, "test", "!", "-e", r.dir)
		require.NoError(w.t, err, "Delete leaves the folder behind")
	})
}

// reopen is the replica as a new process of the appliance finds it; nil: not at all.
func (w *world) reopen() *replica {
	w.t.Helper()
	w.h = openHost(w.t, testLab.Target.URI)
	r, err := w.h.findReplica(w.ctx, w.spec.ID)
	if errors.Is(err, hypervisors.ErrNotFound) {
		return nil
	}
	require.NoError(w.t, err)
	return r
}

// request is for a point with the hardware's disks. Every second one is compressed: p2, p4 and so on.
func (w *world) request(id string) hypervisors.DraftRequest {
	req := hypervisors.DraftRequest{Point: id, Compress: id[len(id)-1]%2 == 0}
	for _, d := range w.spec.Hardware.Disks {
		req.Disks = append(req.Disks, hypervisors.DraftDiskSpec{ID: d.ID, Size: d.Size, Bus: d.Bus})
	}
	return req
}

// describe is what is committed for a request.
func describe(req hypervisors.DraftRequest) hypervisors.Point {
	p := hypervisors.Point{ID: req.Point, Taken: time.Unix(1700000000, 0).UTC(), Committed: time.Unix(1700000001, 0).UTC(),
		Consistency: hypervisors.CrashConsistent, ChangeID: hypervisors.ChangeID("c-" + req.Point)}
	for _, d := range req.Disks {
		p.Disks = append(p.Disks, hypervisors.PointDisk{ID: d.ID, Size: d.Size, Digest: "digest " + req.Point})
	}
	return p
}

// scribble changes a draft at random places and notes what must be there now. below is what must have been there.
func (w *world) scribble(d hypervisors.Draft, below map[string]content) (map[string]content, error) {
	now := map[string]content{}
	for _, disk := range d.Disks() {
		c := content{data: make([]byte, disk.Size()), blockMap: make([]byte, snapshot.MapSize(disk.Size()))}
		copy(c.data, below[disk.ID()].data)
		copy(c.blockMap, below[disk.ID()].blockMap)
		for range 8 {
			unit, most := int64(512), int64(300)
			if w.rng.IntN(2) == 0 {
				unit, most = dataClusterBytes, 3
			}
			off := w.rng.Int64N(disk.Size()/unit) * unit
			n := min(disk.Size()-off, unit*(1+w.rng.Int64N(most)))
			part := c.data[off : off+n]
			if w.rng.IntN(4) == 0 {
				clear(part)
				if err := disk.Zero(off, n); err != nil {
					return nil, err
				}
				continue
			}
			scribbled(w.rng, part)
			if _, err := disk.WriteAt(part, off); err != nil {
				return nil, err
			}
		}
		part := c.blockMap[w.rng.IntN(len(c.blockMap)):]
		fill(w.rng, part)
		if _, err := disk.Map().WriteAt(part, int64(len(c.blockMap)-len(part))); err != nil {
			return nil, err
		}
		now[disk.ID()] = c
	}
	return now, nil
}

func fill(rng *rand.Rand, p []byte) {
	for i := range p {
		p[i] = byte(rng.Uint32())
	}
}

// newest is the last point that was added.
func (w *world) newest() string {
	if len(w.ids) == 0 {
		return ""
	}
	return w.ids[len(w.ids)-1]
}

// add makes one more point. An error leaves the world as it was.
func (w *world) add(r *replica, req hypervisors.DraftRequest) error {
	d, err := r.Draft(w.ctx, req)
	if err != nil {
		return err
	}
	now, err := w.scribble(d, w.want[w.newest()])
	if err == nil {
		err = d.Commit(w.ctx, describe(req))
	}
	if err != nil {
		_ = d.Discard(w.ctx)
		return err
	}
	w.want[req.Point], w.ids = now, append(w.ids, req.Point)
	return nil
}

func (w *world) mustAdd(r *replica, ids ...string) {
	w.t.Helper()
	for _, id := range ids {
		require.NoError(w.t, w.add(r, w.request(id)))
	}
}

func (w *world) drop(r *replica, id string) {
	w.t.Helper()
	require.NoError(w.t, r.Drop(w.ctx, id))
	w.forget(id)
}

func (w *world) forget(id string) {
	w.ids = slices.DeleteFunc(w.ids, func(have string) bool { return have == id })
}

// check compares every byte of every point.
func (w *world) check(r *replica) {
	w.t.Helper()
	s, err := r.Status(w.ctx)
	require.NoError(w.t, err)
	var have []string
	for _, p := range s.Points {
		have = append(have, p.ID)
	}
	require.Equal(w.t, slices.Concat([]string{}, w.ids), slices.Concat([]string{}, have))
	if len(have) == 0 {
		return
	}
	m, err := r.load(w.ctx)
	require.NoError(w.t, err)
	// One daemon for all: starting one for each point is what would take the time.
	var images []exported
	for _, id := range w.ids {
		p, _ := m.visible(id)
		require.Len(w.t, p.Disks, len(w.want[id]), "disks of point %s", id)
		for _, d := range p.Disks {
			images = append(images,
				exported{name: id + "_" + d.ID, file: path.Join(r.dir, d.Data.File)},
				exported{name: id + "_" + d.ID + "_map", file: path.Join(r.dir, d.Map.File)})
		}
	}
	e, err := w.h.startExport(w.ctx, w.h.readerExports(), images)
	require.NoError(w.t, err)
	var clients []io.Closer
	defer func() {
		for _, c := range clients {
			_ = c.Close()
		}
		require.NoError(w.t, e.stop(w.ctx))
	}()
	serve := func(name string, size int64) *served {
		c, err := e.open(w.ctx, name, 1)
		require.NoError(w.t, err)
		clients = append(clients, c)
		return &served{client: c, size: size}
	}
	for _, id := range w.ids {
		p, _ := m.visible(id)
		for _, d := range p.Disks {
			name := id + "_" + d.ID
			w.checkDisk(id, &pointDiskReader{id: d.ID, served: serve(name, d.Size), blockMap: serve(name+"_map", snapshot.MapSize(d.Size))})
		}
	}
}

// checkPoint is check for one point, through the door that others use.
func (w *world) checkPoint(r *replica, id string) {
	w.t.Helper()
	pr, err := r.Open(w.ctx, id)
	require.NoError(w.t, err, "point %s", id)
	defer func() { require.NoError(w.t, pr.Close()) }()
	require.Len(w.t, pr.Disks(), len(w.want[id]))
	for _, d := range pr.Disks() {
		w.checkDisk(id, d)
	}
}

func (w *world) checkDisk(point string, d hypervisors.PointDiskReader) {
	w.t.Helper()
	want := w.want[point][d.ID()]
	require.EqualValues(w.t, len(want.data), d.Size())
	require.True(w.t, bytes.Equal(want.data, readBytes(w.t, d, len(want.data))), "point %s disk %s differs", point, d.ID())
	checkAllocated(w.t, w.ctx, d.(snapshot.Allocator), want.data)
	checkAllocated(w.t, w.ctx, d.Map().(snapshot.Allocator), want.blockMap)
	require.True(w.t, bytes.Equal(want.blockMap, readBytes(w.t, d.Map(), len(want.blockMap))), "point %s map of %s differs", point, d.ID())
}

// checkAllocated compares what is said to be zeros with what is.
func checkAllocated(t *testing.T, ctx context.Context, a snapshot.Allocator, want []byte) {
	t.Helper()
	end := int64(0)
	for e, err := range a.Allocated(ctx) {
		require.NoError(t, err)
		require.Equal(t, end, e.Offset)
		end = e.End()
		if e.Zero {
			require.Zero(t, len(bytes.Trim(want[e.Offset:end], "\x00")))
		}
	}
	require.EqualValues(t, len(want), end)
}

func readBytes(t *testing.T, r io.ReaderAt, n int) []byte {
	t.Helper()
	data := make([]byte, n)
	got, err := r.ReadAt(data, 0)
	if err != io.EOF {
		require.NoError(t, err)
	}
	require.Equal(t, n, got)
	return data
}

// images are the files of the replica's folder that hold data.
func (w *world) images(r *replica) []string {
	w.t.Helper()
	names, err := list(w.ctx, w.h.place, r.dir)
	require.NoError(w.t, err)
	return slices.DeleteFunc(names, func(n string) bool { return path.Ext(n) != ".qcow2" && path.Ext(n) != ".map" })
}

func pointFiles(points ...string) []string {
	var names []string
	for _, p := range points {
		for _, d := range []string{"vda", "vdb"} {
			names = append(names, dataFile(d, p), mapFile(d, p))
		}
	}
	names = append(names, stageFile("vda"), stageFile("vdb"))
	slices.Sort(names)
	return names
}
