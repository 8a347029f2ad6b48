package kvm

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"understudy/hypervisors"
	"understudy/snapshot"
)

// Ways to the content of disks. Sources are read, and points checked, by NBD alone.
const (
	// byMemory lends qemu-storage-daemon our memory; it only writes, and only where the host is this machine.
	byMemory = "shared memory"
	// bySocket is NBD over a unix socket of this machine, bySSH over one of the host at the other end of SSH.
	bySocket = "socket"
	bySSH    = "ssh"
)

const (
	probeBytes = 64 << 20 // of a disk; there is one for each way
	// probeTime bounds each direction.
	probeTime = 8 * time.Second
)

// ProbePaths tries each way on an image of its own, served as the images of a draft are.
func (h *host) ProbePaths(ctx context.Context, storage string) ([]hypervisors.DataPath, error) {
	paths, err := h.probePaths(ctx, storage)
	if err != nil {
		return nil, &hypervisors.Error{Op: "try", Subject: "the ways to the content of disks", Err: err}
	}
	return paths, nil
}

func (h *host) probePaths(ctx context.Context, storage string) (paths []hypervisors.DataPath, err error) {
	if !h.caps.Probe {
		return nil, fmt.Errorf("%w: replicas cannot be kept here", hypervisors.ErrIncapable)
	}
	store, err := h.chooseStorage(ctx, storage)
	if err != nil {
		return nil, err
	}
	ways := []string{bySocket}
	switch {
	case h.addr.ssh:
		ways = []string{bySSH}
	case h.lanes:
		ways = []string{byMemory, bySocket}
	}
	if need := int64(len(ways))*probeBytes + draftMargin; store.Free < need {
		return nil, &hypervisors.Error{Op: "use", Subject: "storage " + store.Path, Hint: "Free space there, or name another storage.",
			Err: fmt.Errorf("%w: %d bytes are free, the disks of the probe may need %d", hypervisors.ErrNoSpace, store.Free, need)}
	}
	var nonce [4]byte
	rand.Read(nonce[:])
	var images []exported
	var overlays []overlay
	var files []string
	for i, way := range ways {
		file := path.Join(store.Path, h.name("probe", hex.EncodeToString(nonce[:]), fmt.Sprint(i)))
		images = append(images, exported{name: fmt.Sprint(i), file: file, writable: true, lane: way == byMemory})
		overlays = append(overlays, overlay{file: file, size: probeBytes, cluster: dataCluster})
		files = append(files, file)
	}
	defer func() {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), exportPatience)
		defer cancel()
		err = errors.Join(err, removeAll(undo, h.place, files...))
	}()
	if err := makeImages(ctx, h.place, overlays); err != nil {
		return nil, err
	}
	e, err := h.startExport(ctx, exportPrefix(h.owner)+"probe.", images)
	if err != nil {
		return nil, err
	}
	for i, way := range ways {
		p := hypervisors.DataPath{Name: way}
		p.Read, p.Write, p.Err = tryExport(ctx, e, images[i])
		paths = append(paths, p)
	}
	if err := errors.Join(context.Cause(ctx), e.stop(ctx)); err != nil {
		return nil, err
	}
	markUsed(paths)
	return paths, nil
}

// tryExport writes an image, by its lane where it has one, and reads it by NBD. Where there is a lane, it is the lane that is
// tried: reading only shows that it has written what it was given.
func tryExport(ctx context.Context, e *export, img exported) (read, write int64, err error) {
	trial := snapshot.Trial{Bytes: probeBytes, Time: probeTime, Clock: time.Now}
	client, err := e.open(ctx, img.name, dataConnections)
	if err != nil {
		return 0, 0, err
	}
	s := &served{client: client, size: probeBytes, export: e, subject: "disk of a probe"}
	defer s.close()
	defer context.AfterFunc(ctx, func() { _ = client.Close() })()
	var target snapshot.Writer = s
	if img.lane {
		if s.lane, err = openLane(ctx, e.place, e.lanes[img.name]); err != nil {
			return 0, 0, &hypervisors.Error{Op: "write through", Subject: byMemory, Err: err, Hint: "Nothing depends on it: disks are written by NBD instead, which is slower."}
		}
		target = laneAlone{s}
	}
	written, write, err := trial.Write(ctx, target)
	if err != nil {
		return 0, 0, err
	}
	if read, err = trial.Read(ctx, s, written); err != nil {
		return 0, 0, err
	}
	if img.lane {
		read = 0
	}
	return read, write, nil
}

// laneAlone writes by the lane or not at all; a draft goes on by NBD where the lane fails.
type laneAlone struct{ *served }

func (l laneAlone) WriteAt(p []byte, off int64) (int, error) { return l.lane.WriteAt(p, off) }

// markUsed says which ways drafts and readers take: the first that works.
func markUsed(paths []hypervisors.DataPath) {
	if i := slices.IndexFunc(paths, func(p hypervisors.DataPath) bool { return p.Read > 0 }); i >= 0 {
		paths[i].UsedToRead = true
	}
	if i := slices.IndexFunc(paths, func(p hypervisors.DataPath) bool { return p.Write > 0 }); i >= 0 {
		paths[i].UsedToWrite = true
	}
}

// cleanProbeDisks removes the disks of probes that were cut off. Their exports have ended.
func (h *host) cleanProbeDisks(ctx context.Context) (removed []string, err error) {
	stores, err := h.Storage(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range stores {
		names, err := list(ctx, h.place, s.Path)
		if err != nil {
			return removed, err
		}
		for _, name := range names {
			if !strings.HasPrefix(name, h.name("probe", "")) {
				continue
			}
			if err := removeAll(ctx, h.place, path.Join(s.Path, name)); err != nil {
				return removed, err
			}
			removed = append(removed, "disk of a probe "+path.Join(s.Path, name))
		}
	}
	return removed, nil
}
