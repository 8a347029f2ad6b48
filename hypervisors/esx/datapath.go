package esx

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"understudy/hypervisors"
)

// Ways to the content of a disk.
const (
	// byHotAdd attaches the disk to the appliance's own machine, which must be on the same host or cluster. It is the
	// quickest, and the only one that writes.
	byHotAdd = "hotadd"
	// byVDDK reads through VMware's own library, where the user has supplied it.
	byVDDK = "vddk"
	// byHTTPS asks the host's web server for ranges of the disk's file. It needs nothing, and is slow.
	byHTTPS = "https"
)

// diskFile is a disk's file in a datastore.
type diskFile struct {
	file string // "[datastore] folder/disk.vmdk"
	uuid string
	size int64
	dc   *object.Datacenter
	flat bool // its content is one file of its own, with nothing below
	// vm that has the disk, and the snapshot by which it is frozen, nil: none.
	vm       types.ManagedObjectReference
	snapshot *types.ManagedObjectReference
}

// ways to read, the best first.
func (h *host) ways() []string {
	if h.addr.path != "" {
		return []string{h.addr.path}
	}
	if h.addr.vddk != "" {
		return []string{byHotAdd, byVDDK, byHTTPS}
	}
	return []string{byHotAdd, byHTTPS}
}

// readers are the contents of some disks, open.
type readers struct {
	host     *host
	each     []io.ReaderAt
	attached []*attached
	ends     []func() // of those that are not attached
}

// close gives back what was taken for reading. It can be called again after an error.
func (r *readers) close(ctx context.Context) error {
	for _, end := range r.ends {
		end()
	}
	return r.host.detachAll(ctx, r.attached)
}

// read opens disks that do not change while they are open, by the best way that works for all of them.
func (h *host) read(ctx context.Context, files []diskFile) (*readers, error) {
	var failed []error
	for _, way := range h.ways() {
		r, err := h.readBy(ctx, way, files)
		if err == nil {
			h.log.Debug("disks opened", "first", files[0].file, "disks", len(files), "way", way)
			return r, nil
		}
		if ctx.Err() != nil {
			return nil, err
		}
		failed = append(failed, fmt.Errorf("%s: %w", way, err))
	}
	return nil, &hypervisors.Error{Op: "read", Subject: files[0].file, Err: errors.Join(failed...), Hint: hintWays}
}

// readBy opens disks by one way.
func (h *host) readBy(ctx context.Context, way string, files []diskFile) (_ *readers, err error) {
	r := &readers{host: h}
	if way == byHotAdd {
		r.attached, err = h.attach(ctx, files, reading)
		for _, a := range r.attached {
			r.each = append(r.each, a)
		}
		return r, err
	}
	for _, f := range files {
		var one io.ReaderAt
		var end func()
		if way == byVDDK {
			one, end, err = h.vddkFile(ctx, f)
		} else {
			one, end, err = h.webFile(ctx, f)
		}
		if err != nil {
			return nil, errors.Join(err, r.close(ctx))
		}
		r.each, r.ends = append(r.each, one), append(r.ends, end)
	}
	return r, nil
}

const (
	hintHotAdd = "Run the appliance as a machine of this host or cluster, with a free place on a paravirtual SCSI controller."
	hintWays   = hintHotAdd + " understudy doctor HOST --data-paths says what works."
)
