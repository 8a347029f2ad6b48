package kvm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"understudy/hypervisors"
	"understudy/snapshot"
)

// TestCompressedDrafts writes, in many ways at once, points that are compressed and points that are not, drops and merges
// them, and compares every byte and what qemu-img says of every image. COMPRESSION_SEEDS=n tries n histories.
func TestCompressedDrafts(t *testing.T) {
	t.Parallel()
	seeds, _ := strconv.Atoi(os.Getenv("COMPRESSION_SEEDS"))
	compressed := 0
	for seed := range max(2, seeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(t)
			h := &packedHistory{world: w, dir: t.TempDir(), rng: rand.New(rand.NewPCG(7, uint64(seed)))}
			w.spec.Hardware.Disks = []hypervisors.Disk{{ID: "vda", Size: 32 * mib * int64(1+seed%8), Bus: "virtio", Boot: 1}}
			h.replica = w.create()
			for k := range 6 {
				h.point(fmt.Sprintf("p%d", k+1))
			}
			compressed += h.compressed
		})
	}
	require.Greater(t, compressed, 1000, "hardly a cluster was ever compressed")
}

// packedHistory is a replica whose points are kept beside it as raw files.
type packedHistory struct {
	*world
	replica    *replica
	dir        string
	rng        *rand.Rand
	now        []byte // what the newest point holds
	points     []string
	compressed int // clusters, over all images that were looked at
}

func (h *packedHistory) raw(point string) string { return filepath.Join(h.dir, point) }

// point makes one more point, perhaps at the second try, on a disk that may have grown, and may drop one.
func (h *packedHistory) point(id string) {
	h.t.Helper()
	disk := &h.spec.Hardware.Disks[0]
	if h.rng.IntN(3) == 0 {
		disk.Size = (disk.Size/dataClusterBytes + 1 + h.rng.Int64N(30)) * dataClusterBytes
	}
	if h.rng.IntN(6) == 0 {
		disk.Size += 512 // ends within a cluster, until it grows again
	}
	below := append(bytes.Clone(h.now), make([]byte, disk.Size-int64(len(h.now)))...)
	req := h.request(id)
	for {
		req.Compress = h.rng.IntN(4) > 0
		h.now = bytes.Clone(below)
		d, err := h.replica.Draft(h.ctx, req)
		require.NoError(h.t, err)
		h.write(d.Disks()[0])
		if h.rng.IntN(5) == 0 {
			require.NoError(h.t, d.Discard(h.ctx))
			continue
		}
		require.NoError(h.t, d.Commit(h.ctx, describe(req)))
		break
	}
	h.points = append(h.points, id)
	require.NoError(h.t, os.WriteFile(h.raw(id), h.now, 0o600))
	h.judge()
	if len(h.points) > 2 && h.rng.IntN(2) == 0 {
		i := h.rng.IntN(len(h.points) - 1)
		require.NoError(h.t, h.replica.Drop(h.ctx, h.points[i]))
		h.points = slices.Delete(h.points, i, i+1)
		h.judge()
	}
}

// write touches most clusters once, some of them in part, by several writers at once. In most drafts, that goes over
// into writing what was written before.
func (h *packedHistory) write(disk hypervisors.DraftDisk) {
	h.t.Helper()
	ops := h.once(disk.Size())
	if h.rng.IntN(3) > 0 {
		from := h.rng.IntN(len(ops))
		ops = slices.Insert(ops, from, h.again(disk.Size(), len(ops)/2)...)
		h.rng.Shuffle(len(ops)-from, func(i, k int) { ops[from+i], ops[from+k] = ops[from+k], ops[from+i] })
	}
	loan, giveBack := disk.(snapshot.Lender).Lend(snapshot.CopyMemory)
	defer giveBack()
	var ranges rangeLocks
	var writers errgroup.Group
	next := make(chan op, len(ops))
	for _, o := range ops {
		next <- o
	}
	close(next)
	for range 8 {
		memory := make([]byte, maxOp)
		if loan != nil && h.rng.IntN(3) > 0 {
			memory, loan = loan[:maxOp], loan[maxOp:]
		}
		rng := rand.New(rand.NewPCG(h.rng.Uint64(), 0))
		writers.Go(func() error {
			for o := range next {
				ranges.lock(o)
				err := o.do(rng, disk, memory[:o.n], h.now[o.off:o.off+o.n])
				ranges.unlock(o)
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(h.t, writers.Wait())
}

// op changes a range of a disk.
type op struct {
	off, n int64
	zero   bool
}

const maxOp = 8 * dataClusterBytes

// once is a first pass over most of the disk.
func (h *packedHistory) once(size int64) (ops []op) {
	for at := int64(0); at < size; {
		o := op{off: at, n: min(dataClusterBytes*(1+h.rng.Int64N(7)), size-at), zero: h.rng.IntN(8) == 0}
		at += o.n
		switch h.rng.IntN(8) {
		case 0:
			continue
		case 1:
			o.off += 512 * h.rng.Int64N(min(100, o.n/512))
			o.n = min(at-o.off, 512*(1+h.rng.Int64N(200)))
		}
		ops = append(ops, o)
	}
	h.rng.Shuffle(len(ops), func(i, k int) { ops[i], ops[k] = ops[k], ops[i] })
	return ops
}

// again is anywhere.
func (h *packedHistory) again(size int64, n int) (ops []op) {
	for range n {
		unit := []int64{512, dataClusterBytes}[h.rng.IntN(2)]
		off := unit * h.rng.Int64N(size/unit)
		ops = append(ops, op{off: off, n: min(unit*(1+h.rng.Int64N(7)), size-off), zero: h.rng.IntN(6) == 0})
	}
	return ops
}

// do changes the disk and what it should hold, and reads back.
func (o op) do(rng *rand.Rand, disk snapshot.Disk, memory, want []byte) error {
	var err error
	if o.zero {
		clear(want)
		err = disk.Zero(o.off, o.n)
	} else {
		scribbled(rng, memory)
		copy(want, memory)
		_, err = disk.WriteAt(memory, o.off)
	}
	if err != nil || rng.IntN(4) > 0 {
		return err
	}
	got := make([]byte, o.n)
	if _, err := disk.ReadAt(got, o.off); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("what was written at %d is not read back", o.off)
	}
	return nil
}

// scribbled fills p with what compresses very well, somewhat, or not at all.
func scribbled(rng *rand.Rand, p []byte) {
	word := make([]byte, []int{4, 900, 40_000, len(p)}[rng.IntN(4)])
	fill(rng, word)
	for at := 0; at < len(p); at += len(word) {
		copy(p[at:], word)
	}
}

// judge compares all points with what they should hold, and lets QEMU check every image.
func (h *packedHistory) judge() {
	h.t.Helper()
	for _, id := range h.points {
		file := path.Join(testLab.Target.Outside(h.replica.dir), dataFile("vda", id))
		out, err := exec.CommandContext(h.ctx, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", h.raw(id), file).CombinedOutput()
		require.NoError(h.t, err, "point %s of %v: %s", id, h.points, out)
		out, err = exec.CommandContext(h.ctx, "qemu-img", "check", "-f", "qcow2", "--output=json", file).Output()
		require.NoError(h.t, err, "point %s of %v: %s", id, h.points, out)
		var found struct {
			Compressed int `json:"compressed-clusters"`
		}
		require.NoError(h.t, json.Unmarshal(out, &found))
		h.compressed += found.Compressed
	}
}

// rangeLocks keep writers from overlapping, as their caller must.
type rangeLocks struct {
	mu   sync.Mutex
	cond *sync.Cond
	held []op
}

func (l *rangeLocks) lock(o op) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cond == nil {
		l.cond = sync.NewCond(&l.mu)
	}
	for slices.ContainsFunc(l.held, func(x op) bool { return x.off < o.off+o.n && o.off < x.off+x.n }) {
		l.cond.Wait()
	}
	l.held = append(l.held, o)
}

func (l *rangeLocks) unlock(o op) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = slices.Delete(l.held, slices.Index(l.held, o), slices.Index(l.held, o)+1)
	l.cond.Broadcast()
}

// TestPackingIsWaitedFor: whoever ends packing cannot, as long as the daemon has not answered what is being packed.
func TestPackingIsWaitedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	opened, err := w.create().Draft(w.ctx, w.request("p2"))
	require.NoError(t, err)
	defer func() { require.NoError(t, opened.Discard(w.ctx)) }()
	d := opened.(*draft)
	disk, pid := d.disks[0], daemonOf(t, d.export)
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	defer func() { _ = syscall.Kill(pid, syscall.SIGCONT) }()
	var writers errgroup.Group
	write := func() error {
		_, err := disk.WriteAt(make([]byte, dataClusterBytes), 0)
		return err
	}
	writers.Go(write)
	waitFor(t, "a write is on its way", func() bool {
		free := disk.packer.mu.TryLock()
		if free {
			disk.packer.mu.Unlock()
		}
		return !free
	})
	writers.Go(write) // once more
	require.NoError(t, syscall.Kill(pid, syscall.SIGCONT))
	require.NoError(t, writers.Wait())
	require.Nil(t, disk.packer.touched, "packing goes on")
}

// daemonOf finds the process of an export, which is one of this machine.
func daemonOf(t *testing.T, e *export) int {
	t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, name := range names {
		line, _ := os.ReadFile(name) // it may have ended
		if bytes.HasPrefix(line, []byte("qemu-storage-daemon\x00")) && bytes.Contains(line, []byte(e.socket)) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
			require.NoError(t, err)
			return pid
		}
	}
	t.Fatal("the daemon is not found")
	return 0
}
