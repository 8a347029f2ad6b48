package esx

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/vmware/govmomi/object"

	"understudy/hypervisors"
)

// Ways to the content of a disk.
const (
	// byHotAdd attaches the disk to the appliance's own machine, which must be on the same host or cluster. It is the
	// quickest, and the only one that writes.
	byHotAdd = "hotadd"
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
}

// reader is the content of an image.
type reader interface {
	io.ReaderAt
	// close gives back what was taken for reading.
	close(ctx context.Context) error
}

// ways to read, the best first.
func (h *host) ways() []string {
	if h.addr.path != "" {
		return []string{h.addr.path}
	}
	return []string{byHotAdd, byHTTPS}
}

// read opens an image that does not change while it is open, by the best way that works.
func (h *host) read(ctx context.Context, i diskFile) (reader, error) {
	var failed []error
	for _, way := range h.ways() {
		var r reader
		var err error
		switch way {
		case byHotAdd:
			r, err = h.attach(ctx, i, reading)
		default:
			r, err = h.overHTTPS(ctx, i)
		}
		if err == nil {
			h.log.Debug("disk opened", "file", i.file, "way", way)
			return r, nil
		}
		if ctx.Err() != nil {
			return nil, err
		}
		failed = append(failed, fmt.Errorf("%s: %w", way, err))
	}
	return nil, &hypervisors.Error{Op: "read", Subject: i.file, Err: errors.Join(failed...), Hint: hintWays}
}

const hintWays = "Run the appliance as a machine of this host or cluster, with a free place on a paravirtual SCSI controller; understudy doctor says what works."
