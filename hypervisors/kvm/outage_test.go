package kvm

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/hypervisors"
	"understudy/snapshot"
	"understudy/snapshot/nbd"
	"understudy/snapshot/powerloss"
)

// bent is a place where QEMU has something between a writable image and its file.
type bent struct {
	place
	between func(file map[string]any) map[string]any
	count   int
}

func (b *bent) Start(ctx context.Context, argv ...string) (*process, error) {
	argv = slices.Clone(argv)
	for i, arg := range argv {
		var dev map[string]any
		if i == 0 || argv[i-1] != "--blockdev" || json.Unmarshal([]byte(arg), &dev) != nil || dev["read-only"] == true {
			continue
		}
		dev["file"] = b.between(dev["file"].(map[string]any))
		text, err := json.Marshal(dev)
		if err != nil {
			return nil, err
		}
		argv[i], b.count = string(text), b.count+1
	}
	return b.place.Start(ctx, argv...)
}

// recorded makes QEMU log everything that it writes to images, each into a file of its own.
type recorded struct {
	t    *testing.T
	bent *bent
	base map[string][]byte // images as they were when QEMU opened them, by path
	logs map[string]string // by path of the image
}

func (w *world) record() *recorded {
	r := &recorded{t: w.t, base: map[string][]byte{}, logs: map[string]string{}}
	dir := w.t.TempDir() // hosts of the lab share /tmp
	r.bent = &bent{place: w.h.place, between: func(file map[string]any) map[string]any {
		name := file["filename"].(string)
		log := filepath.Join(dir, path.Base(name))
		require.NoError(w.t, os.WriteFile(log, nil, 0o600))
		content, err := os.ReadFile(testLab.Target.Outside(name))
		require.NoError(w.t, err)
		r.base[name], r.logs[name] = content, log
		return map[string]any{"driver": "blklogwrites", "discard": "unmap", "file": file,
			"log": map[string]any{"driver": "file", "filename": log}}
	}}
	w.h.place = r.bent
	return r
}

// log reads what was written to an image so far. The format is that of the kernel's dm-log-writes: a head, then for each
// operation a sector that says where and what, and the data.
func (r *recorded) log(image string) (log powerloss.Log) {
	raw, err := os.ReadFile(r.logs[image])
	require.NoError(r.t, err)
	const sector, flush, fua, discard = 512, 1, 2, 4
	for at := sector; at+32 <= len(raw); {
		field := func(i int) int64 { return int64(binary.LittleEndian.Uint64(raw[at+8*i:])) }
		off, length, flags := field(0)*sector, field(1)*sector, field(2)
		if length == 0 && flags == 0 {
			return log
		}
		at += sector
		switch {
		case flags&discard != 0:
			log = append(log, powerloss.Op{Kind: powerloss.Discard, Offset: off, Length: length})
			continue
		case length > 0:
			log = append(log, powerloss.Op{Kind: powerloss.Write, Offset: off, Data: raw[at : at+int(length)]})
			at += int(length)
		}
		if flags&(flush|fua) != 0 {
			log = append(log, powerloss.Op{Kind: powerloss.Sync})
		}
	}
	return log
}

// moment is one at which a draft was flushed: what its images hold, how long their logs are, and which sectors were
// written on the way there, all by the path of the image.
type moment struct {
	want    map[string][]byte
	log     map[string]int
	touched map[string]map[int64]bool
	// used clusters, which are not touched again; nil: all may be. QEMU gives the room of a compressed cluster that is
	// written anew to others before that is durable, so a power failure may take what was flushed. It is of a draft then.
	used map[string]map[int64]bool
}

// again says whether a range was touched at this moment or before, and must not be; else it is from now on.
func (m *moment) again(image string, off, n int64) bool {
	used := m.used[image]
	if used == nil {
		return false
	}
	for at := off / dataClusterBytes; at*dataClusterBytes < off+n; at++ {
		if used[at] {
			return true
		}
	}
	for at := off / dataClusterBytes; at*dataClusterBytes < off+n; at++ {
		used[at] = true
	}
	return false
}

// draftImage is one image of a draft, as the engine sees it and as a file.
type draftImage struct {
	io   snapshot.Disk
	path string
}

func (d *draft) images() (all []draftImage) {
	for i, disk := range d.disks {
		all = append(all, draftImage{disk, path.Join(d.replica.dir, d.planned[i].Data.File)},
			draftImage{disk.Map(), path.Join(d.replica.dir, d.planned[i].Map.File)})
	}
	return all
}

// writeAsCopied writes from what the disk lends, where it lends anything, as copying does: so it takes the lane.
func writeAsCopied(disk snapshot.Disk, p []byte, off int64) error {
	loan, giveBack := disk.(snapshot.Lender).Lend(int64(len(p)))
	defer giveBack()
	if loan != nil {
		copy(loan, p)
		p = loan
	}
	_, err := disk.WriteAt(p, off)
	return err
}

// scrawl changes an image at random places, without flushing it.
func (m *moment) scrawl(t *testing.T, rng *rand.Rand, image draftImage) {
	t.Helper()
	content, size := m.want[image.path], image.io.Size()
	for i := range 6 {
		unit, most := int64(powerloss.Sector), int64(200)
		if size >= mib && (i == 0 || rng.IntN(2) == 0) {
			unit, most = dataClusterBytes, 3 // which may be compressed
		}
		off := rng.Int64N(size/unit+min(1, int64(i))) * unit
		part := content[off:min(size, off+unit*(1+rng.Int64N(most)))]
		if len(part) == 0 || m.again(image.path, off, int64(len(part))) {
			continue
		}
		var err error
		if i > 0 && rng.IntN(4) == 0 {
			clear(part)
			err = image.io.Zero(off, int64(len(part)))
		} else {
			scribbled(rng, part)
			err = writeAsCopied(image.io, part, off)
		}
		require.NoError(t, err)
		for sector := range (int64(len(part)) + powerloss.Sector - 1) / powerloss.Sector {
			m.touched[image.path][off/powerloss.Sector+sector] = true
		}
	}
}

// next writes to all images of a draft and flushes them.
func (r *recorded) next(d *draft, before moment, rng *rand.Rand) moment {
	r.t.Helper()
	m := moment{want: map[string][]byte{}, log: map[string]int{}, touched: map[string]map[int64]bool{}, used: before.used}
	for _, image := range d.images() {
		m.want[image.path], m.touched[image.path] = bytes.Clone(before.want[image.path]), map[int64]bool{}
		m.scrawl(r.t, rng, image)
		require.NoError(r.t, image.io.Flush(context.Background()))
		log := r.log(image.path)
		require.Equal(r.t, len(log), log.Synced(), "the flush did not reach the file")
		m.log[image.path] = len(log)
	}
	return m
}

// TestPowerFailureUnderQCOW2 records all that QEMU writes to a draft's images and loses, tears and reorders what it had
// not synced yet, at many moments. What was flushed before must be readable in what is left, and the image whole.
func TestPowerFailureUnderQCOW2(t *testing.T) {
	t.Parallel()
	for _, compress := range []bool{false, true} {
		t.Run(fmt.Sprintf("compress=%v", compress), func(t *testing.T) { powerFailureUnderQCOW2(t, compress) })
	}
}

func powerFailureUnderQCOW2(t *testing.T, compress bool) {
	w := newWorld(t)
	r := w.create()
	w.mustAdd(r, "p1", "p2")
	points := w.hashes(r)
	rec := w.record()
	req := w.request("p3")
	req.Compress = compress
	opened, err := r.Draft(w.ctx, req)
	require.NoError(t, err)
	d := opened.(*draft)
	require.Equal(t, 4, rec.bent.count, "QEMU must have opened all images through the log")
	first := moment{want: map[string][]byte{}}
	if compress {
		first.used = map[string]map[int64]bool{}
	}
	for i, disk := range d.disks {
		below, images := w.want["p2"][disk.id], d.images()
		if compress {
			first.used[images[2*i].path] = map[int64]bool{}
		}
		first.want[images[2*i].path], first.want[images[2*i+1].path] = below.data, below.blockMap
	}
	moments := []moment{rec.next(d, first, w.rng)}
	for range 3 {
		moments = append(moments, rec.next(d, moments[len(moments)-1], w.rng))
	}
	images := d.images()
	for _, disk := range d.disks {
		require.Positive(t, disk.lane.Writes(), "data must have gone through the lane, and flushes beside it")
	}
	require.NoError(t, d.Commit(w.ctx, describe(req)))
	require.Equal(t, points, w.hashes(r, "p3"), "the points below were written to")

	dir := filepath.Join(t.TempDir(), "copy") // where images can be broken
	require.NoError(t, os.CopyFS(dir, os.DirFS(testLab.Target.Outside(r.dir))))
	for _, image := range images {
		rec.lose(filepath.Join(dir, path.Base(image.path)), image.path, moments)
	}
	last := moments[len(moments)-1].want
	w.want["p3"], w.ids = map[string]content{}, append(w.ids, "p3")
	for i, disk := range d.disks {
		w.want["p3"][disk.id] = content{last[images[2*i].path], last[images[2*i+1].path]}
	}
	w.check(r)
}

// lose makes what power failures may leave of an image, and judges each.
func (r *recorded) lose(file, image string, moments []moment) {
	r.t.Helper()
	log, base := r.log(image), r.base[image]
	written, err := os.ReadFile(testLab.Target.Outside(image))
	require.NoError(r.t, err)
	requireSame(r.t, written, log.Apply(base))
	chance := rand.New(rand.NewPCG(3, uint64(len(log))))
	for k, m := range moments {
		end, touched := len(log), map[int64]bool{}
		if k+1 < len(moments) {
			end, touched = moments[k+1].log[image]-1, moments[k+1].touched[image] // all but the sync
		}
		for range 4 {
			left := log[:m.log[image]+chance.IntN(max(1, end-m.log[image]+1))].Lose(base, chance)
			require.NoError(r.t, os.WriteFile(file, left, 0o600))
			judgeImage(r.t, file, m.want[image], touched)
		}
	}
}

// requireSame expects that a file is what its log says; what was discarded, and room at the end, may be anything.
func requireSame(t *testing.T, file, log []byte) {
	t.Helper()
	discarded := bytes.Repeat([]byte{0xdc}, powerloss.Sector)
	for off := 0; off < min(len(file), len(log)); off += powerloss.Sector {
		end := min(off+powerloss.Sector, len(file), len(log))
		if part := log[off:end]; !bytes.Equal(part, discarded[:len(part)]) && !bytes.Equal(part, file[off:end]) {
			t.Fatalf("the log is not all that was written: it differs at %d", off)
		}
	}
}

// judgeImage expects that an image is whole (it may waste room) and holds want where it was not touched since. What was
// compressed and not flushed may have become unreadable.
func judgeImage(t *testing.T, file string, want []byte, touched map[int64]bool) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "qemu-img", "check", "-f", "qcow2", file).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 3) { // 3: clusters are leaked
		t.Fatalf("%s: %v %s", file, err, out)
	}
	out, err = exec.CommandContext(t.Context(), "qemu-img", "convert", "--salvage", "-f", "qcow2", "-O", "raw", file, file+".raw").CombinedOutput()
	require.NoError(t, err, "%s", out)
	got, err := os.ReadFile(file + ".raw")
	require.NoError(t, err)
	for off := 0; off < len(want); off += powerloss.Sector {
		end := min(off+powerloss.Sector, len(want))
		if !touched[int64(off/powerloss.Sector)] && !bytes.Equal(want[off:end], got[off:end]) {
			t.Fatalf("%s: what was flushed at %d is lost", file, off)
		}
	}
}

// hashes sums up the replica's images, but those of some points.
func (w *world) hashes(r *replica, but ...string) map[string][32]byte {
	w.t.Helper()
	dir := testLab.Target.Outside(r.dir)
	entries, err := os.ReadDir(dir)
	require.NoError(w.t, err)
	sums := map[string][32]byte{}
	for _, e := range entries {
		_, name, _ := strings.Cut(e.Name(), ".")
		if point := strings.TrimSuffix(strings.TrimSuffix(name, ".qcow2"), ".map"); !strings.HasPrefix(point, "p") || slices.Contains(but, point) {
			continue // a stage, the manifest
		}
		content, err := os.ReadFile(filepath.Join(dir, e.Name()))
		require.NoError(w.t, err)
		sums[e.Name()] = sha256.Sum256(content)
	}
	return sums
}

// TestPowerFailureBeforeCommit leaves the files of a draft as a power failure may leave them. A new process finds all
// points whole, removes what is left, and makes the next point.
func TestPowerFailureBeforeCommit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.create()
	w.mustAdd(r, "p1")
	for i, state := range []string{"nothing was written", "some was written", "more was written", "names are lost", "files are empty"} {
		rec := w.record()
		opened, err := r.Draft(w.ctx, w.request(fmt.Sprintf("q%d", i)))
		require.NoError(t, err)
		d := opened.(*draft)
		_, err = w.scribble(d, w.want[w.newest()])
		require.NoError(t, err)
		require.NoError(t, d.export.proc.Stop(w.ctx)) // as its lifeline does
		for n, image := range d.images() {
			left := rec.base[image.path]
			switch chance := rand.New(rand.NewPCG(uint64(i), uint64(n))); state {
			case "some was written", "more was written":
				left = rec.log(image.path).Lose(left, chance)
			case "names are lost":
				if n%2 == 0 {
					require.NoError(t, os.Remove(testLab.Target.Outside(image.path)))
					continue
				}
			case "files are empty":
				left = nil
			}
			require.NoError(t, os.WriteFile(testLab.Target.Outside(image.path), left, 0o600))
		}
		r = w.reopen()
		w.check(r)
		w.mustAdd(r, fmt.Sprintf("p%d", i+2))
		require.Equal(t, pointFiles(w.ids...), w.images(r), "after %s", state)
	}
	w.check(r)
}

// TestCommitIsDurableInOrder follows the commands of a commit: the manifest is written last, and before it everything
// that it tells of, and its name, was brought to the disk.
func TestCommitIsDurableInOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.create()
	w.mustAdd(r, "p1")
	opened, err := r.Draft(w.ctx, w.request("p2"))
	require.NoError(t, err)
	d := opened.(*draft)
	_, err = w.scribble(d, w.want["p1"])
	require.NoError(t, err)
	watched := &watched{place: w.h.place, daemon: d.export.proc}
	w.h.place = watched
	require.NoError(t, d.Commit(w.ctx, describe(w.request("p2"))))

	synced := map[string]bool{}
	for _, argv := range watched.commands {
		if argv[0] == "sync" && argv[len(argv)-1] != stillOpen {
			for _, name := range argv[2:] {
				synced[name] = true
			}
		}
		if slices.Contains(argv, path.Join(r.dir, manifestFile)) && slices.Contains(argv, "write") {
			require.True(t, synced[r.dir], "the names of the images are not on the disk when the manifest tells of them")
			for _, image := range d.images() {
				require.True(t, synced[image.path], "%s is not on the disk when the manifest tells of it", image.path)
			}
			return
		}
	}
	t.Fatal("the manifest was never written")
}

// watched is a place that notes its commands, and whether the draft's daemon still ran.
type watched struct {
	place
	daemon   *process
	commands [][]string
}

// stillOpen is noted behind a command during which QEMU had the images open and could write to them once more.
const stillOpen = "still open"

func (w *watched) Run(ctx context.Context, stdin io.Reader, argv ...string) ([]byte, error) {
	noted := slices.Clone(argv)
	select {
	case <-w.daemon.Done():
	default:
		noted = append(noted, stillOpen)
	}
	w.commands = append(w.commands, noted)
	return w.place.Run(ctx, stdin, argv...)
}

// here is this machine itself as a place, with every command traced.
type here struct {
	place
	t     *testing.T
	calls []powerloss.Call
}

func (h *here) Run(ctx context.Context, stdin io.Reader, argv ...string) ([]byte, error) {
	trace := filepath.Join(h.t.TempDir(), "trace")
	argv = powerloss.Traced(trace, argv...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin = stdin
	out, err := cmd.Output()
	h.calls = append(h.calls, readTrace(h.t, trace)...)
	return out, err
}

// witnessed names the folder in which a test's own process, whose system calls are recorded, changes files.
const witnessed = "UNDERSTUDY_TEST_WITNESSED"

// TestFilesGetTheirNamesWhenTheyAreDurable follows the system calls behind the manifest's commit and behind a rename of
// an image, as commands do them and as this process does them: content to the disk, then the name, then the name to the
// disk.
func TestFilesGetTheirNamesWhenTheyAreDurable(t *testing.T) {
	if dir := os.Getenv(witnessed); dir != "" {
		keepFiles(t, ourselves(t), dir)
		return
	}
	for how, record := range map[string]func(t *testing.T, dir string) []powerloss.Call{
		"by commands": func(t *testing.T, dir string) []powerloss.Call {
			h := &here{t: t}
			keepFiles(t, h, dir)
			return h.calls
		},
		"by ourselves": func(t *testing.T, dir string) []powerloss.Call {
			trace := filepath.Join(t.TempDir(), "trace")
			argv := powerloss.Traced(trace, os.Args[0], "-test.run=^TestFilesGetTheirNamesWhenTheyAreDurable$", "-test.count=1")
			cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
			cmd.Env = append(os.Environ(), witnessed+"="+dir)
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "strace is needed (make deps installs it): %s", out)
			return readTrace(t, trace)
		},
	} {
		t.Run(how, func(t *testing.T) {
			dir := t.TempDir()
			changes := changes(record(t, dir), dir)
			name := filepath.Join(dir, manifestFile)
			commit := []string{"write " + name + ".new", "sync " + name + ".new", "rename " + name + ".new to " + name, "sync " + dir}
			rename := []string{"rename " + name + " to " + name + ".other", "sync " + dir}
			require.Equal(t, slices.Concat(commit, commit, rename, []string{"sync " + name + ".other", "sync " + dir}), changes)
			data, err := os.ReadFile(name + ".other")
			require.NoError(t, err)
			back, err := parseManifest(data)
			require.NoError(t, err)
			require.Equal(t, chain([]string{"vda"}), back)
		})
	}
}

// keepFiles commits a manifest, and another one over it, and renames that.
func keepFiles(t *testing.T, p place, dir string) {
	t.Helper()
	for range 2 {
		require.NoError(t, writeManifest(t.Context(), p, dir, chain([]string{"vda"})))
	}
	name := filepath.Join(dir, manifestFile)
	require.NoError(t, renameFile(t.Context(), p, name, name+".other"))
	require.NoError(t, syncPaths(t.Context(), p, name+".other", dir))
}

func readTrace(t *testing.T, name string) []powerloss.Call {
	t.Helper()
	f, err := os.Open(name)
	require.NoError(t, err, "strace is needed; make deps installs it")
	defer f.Close()
	calls, err := powerloss.ReadTrace(f)
	require.NoError(t, err)
	return calls
}

// throughFolder is how this process reaches a file whose folder it has open.
var throughFolder = regexp.MustCompile(`/proc/self/fd/[0-9]+`)

// changes tells what the calls did to a folder and its files; several writes in a row count for one.
func changes(calls []powerloss.Call, dir string) (changes []string) {
	for _, c := range calls {
		change := ""
		switch {
		case strings.HasPrefix(c.Name, "rename"):
			change = throughFolder.ReplaceAllLiteralString("rename "+strings.Join(c.Names(), " to "), dir)
		case !strings.HasPrefix(c.On(), dir):
			continue
		case strings.Contains(c.Name, "write"):
			change = "write " + c.On()
		case c.Name == "fsync" || c.Name == "fdatasync":
			change = "sync " + c.On()
		}
		if change != "" && (len(changes) == 0 || changes[len(changes)-1] != change) {
			changes = append(changes, change)
		}
	}
	return changes
}

// TestBrokenTarget lets the storage under a draft fail in the ways that storage fails. The draft ends in an error that
// says so, no point comes of it, and all others stay; when the storage works again, so does the replica.
func TestBrokenTarget(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.create()
	w.mustAdd(r, "p1")
	whole := w.h.place
	next := 2
	// The states follow one another on one replica, so their order matters.
	for _, c := range []struct {
		name  string
		rule  map[string]any
		errno syscall.Errno
		want  error
	}{
		{"full", map[string]any{"event": "none", "iotype": "write"}, syscall.ENOSPC, hypervisors.ErrNoSpace},
		{"full for data", map[string]any{"event": "write_aio"}, syscall.ENOSPC, hypervisors.ErrNoSpace},
		{"writes fail", map[string]any{"event": "write_aio"}, syscall.EIO, nil},
		{"metadata fails", map[string]any{"event": "l2_update"}, syscall.EIO, nil},
		{"flushes fail", map[string]any{"event": "none", "iotype": "flush"}, syscall.EIO, nil},
		// The next one succeeds, as with Linux's files, although what the first one should have kept may be gone.
		{"a flush fails once", map[string]any{"event": "none", "iotype": "flush", "once": true}, syscall.EIO, nil},
		{"a cluster is missing", map[string]any{"event": "cluster_alloc"}, syscall.ENOSPC, hypervisors.ErrNoSpace},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.rule["errno"] = int(c.errno)
			broken := &bent{place: whole, between: func(file map[string]any) map[string]any {
				return map[string]any{"driver": "blkdebug", "image": file, "discard": "unmap", "inject-error": []any{c.rule}}
			}}
			w.h.place = broken
			req := w.request(fmt.Sprintf("p%d", next))
			d, err := r.Draft(w.ctx, req)
			require.NoError(t, err)
			require.Equal(t, 4, broken.count)
			_, err = w.scribble(d, w.want[w.newest()])
			for _, disk := range d.Disks() {
				err = cmp.Or(err, disk.Flush(w.ctx), disk.Map().Flush(w.ctx))
			}
			require.Error(t, err)
			var reply *nbd.Error
			require.ErrorAs(t, err, &reply)
			require.ErrorIs(t, err, c.errno)
			if c.want != nil {
				require.ErrorIs(t, err, c.want)
			}
			require.Error(t, d.Commit(w.ctx, describe(req)), "what is not on the disk must not become a point")
			require.NoError(t, d.Discard(w.ctx))
			w.h.place = whole
			require.Equal(t, pointFiles(w.ids...), w.images(r))
			w.check(r)
			require.NoError(t, w.add(r, req))
			next++
		})
	}
	w.check(r)
}
