package kvm

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"path"
	"slices"
	"strings"
	"time"

	"understudy/hypervisors"
	"understudy/snapshot"
	"understudy/snapshot/nbd"
	"understudy/snapshot/vhost"
)

// exportDir holds the sockets of our exports on a host. Its path is short because a socket's address is bounded, and it
// is gone after a restart of the host, as the sockets should be.
const exportDir = "/run/understudy"

// exportPatience bounds the start and the end of a qemu-storage-daemon. Ending writes out what it still holds.
const exportPatience = time.Minute

// export is a qemu-storage-daemon that serves images over NBD for as long as this process lives.
type export struct {
	place  place
	log    *slog.Logger
	proc   *process
	socket string
	qmp    string
	lanes  map[string]string // sockets, by the name of the image
}

// exported is one image of an export, by the name it has there.
type exported struct {
	name     string
	file     string
	writable bool
	// lane asks for a second way to write to the image, through shared memory where the host has that.
	lane bool
	// compress asks for one more export of the image, its name with packedSuffix, on which all that is written is
	// compressed: whole clusters only. The lane leads there.
	compress bool
}

const packedSuffix = ".packed"

// blockdev is QEMU's description of an open image.
type blockdev struct {
	Driver   string         `json:"driver"`
	Node     string         `json:"node-name"`
	ReadOnly bool           `json:"read-only"`
	Discard  string         `json:"discard"`
	File     map[string]any `json:"file"`
}

// startExport serves the images through sockets whose names start with prefix. It returns when they can be opened.
func (h *host) startExport(ctx context.Context, prefix string, images []exported) (*export, error) {
	if there, err := exists(ctx, h.place, exportDir); err != nil {
		return nil, err
	} else if !there {
		if _, err := h.place.Run(ctx, nil, "mkdir", "-p", "-m", "0700", "--", exportDir); err != nil {
			return nil, err
		}
	}
	var id [6]byte
	rand.Read(id[:])
	stem := path.Join(exportDir, prefix+hex.EncodeToString(id[:]))
	e := &export{place: h.place, log: h.log, socket: stem + ".nbd", qmp: stem + ".qmp", lanes: map[string]string{}}
	argv := []string{"qemu-storage-daemon",
		"--chardev", "socket,id=qmp,server=on,wait=off,path=" + e.qmp, "--monitor", "chardev=qmp",
		"--nbd-server", "addr.type=unix,max-connections=0,addr.path=" + e.socket}
	for i, img := range images {
		node := fmt.Sprintf("image%d", i)
		dev, err := json.Marshal(blockdev{Driver: "qcow2", Node: node, ReadOnly: !img.writable, Discard: "unmap",
			File: map[string]any{"driver": "file", "filename": img.file, "discard": "unmap", "aio": "threads", "read-only": !img.writable}})
		if err != nil {
			return nil, err
		}
		writable := "off"
		if img.writable {
			writable = "on"
		}
		argv = append(argv, "--blockdev", string(dev),
			"--export", fmt.Sprintf("type=nbd,id=export%d,node-name=%s,name=%s,writable=%s", i, node, img.name, writable))
		if img.compress {
			packed := fmt.Sprintf("packed%d", i)
			argv = append(argv, "--blockdev", fmt.Sprintf("driver=compress,node-name=%s,file=%s", packed, node),
				"--export", fmt.Sprintf("type=nbd,id=export-%s,node-name=%s,name=%s,writable=on", packed, packed, img.name+packedSuffix))
			node = packed
		}
		if img.lane && h.lanes {
			e.lanes[img.name] = fmt.Sprintf("%s.%d.lane", stem, i)
			argv = append(argv, "--export", fmt.Sprintf("type=vhost-user-blk,id=lane%d,node-name=%s,writable=%s,addr.type=unix,addr.path=%s",
				i, node, writable, e.lanes[img.name]))
		}
	}
	var err error
	if e.proc, err = h.place.Start(ctx, argv...); err != nil {
		return nil, err
	}
	if err := e.ready(ctx); err != nil {
		_ = e.stop(ctx) // err says already what is wrong with it
		return nil, err
	}
	return e, nil
}

// ready waits until the daemon takes connections. It answers them only once every export stands.
func (e *export) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, exportPatience)
	defer cancel()
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		conn, err := e.place.Dial(ctx, e.socket)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-e.proc.Done():
			return e.died(err)
		case <-ctx.Done():
			return fmt.Errorf("qemu-storage-daemon does not start: %w", ctx.Err())
		case <-time.After(wait):
		}
	}
}

// died says why the daemon ended, when it did; else it returns err. Of a lost connection we hear somewhat earlier than
// of the end of what was started through it.
func (e *export) died(err error) error {
	select {
	case <-e.proc.Done():
	case <-time.After(time.Second):
		return err
	}
	ended := e.proc.Err()
	if why := strings.TrimSpace(e.proc.Stderr()); why != "" && !errors.Is(ended, hypervisors.ErrUnreachable) {
		return fmt.Errorf("qemu-storage-daemon: %s", why)
	}
	return cmp.Or(ended, err)
}

// open connects to one of the images.
func (e *export) open(ctx context.Context, name string, connections int) (*nbd.Client, error) {
	dial := func(ctx context.Context) (net.Conn, error) { return e.place.Dial(ctx, e.socket) }
	c, err := nbd.Dial(ctx, dial, nbd.Options{Export: name, Connections: connections, Contexts: []string{nbd.Allocation}})
	if err != nil {
		return nil, e.died(err) // about an image that it cannot open, say
	}
	return c, nil
}

// openLane connects to the lane of an image, nil where it has none. Nothing depends on a lane: where there should be one
// and it cannot be used, NBD does it all, only slower.
func (e *export) openLane(ctx context.Context, name string) (*vhost.Lane, error) {
	socket, ok := e.lanes[name]
	if !ok {
		return nil, nil
	}
	lane, err := openLane(ctx, e.place, socket)
	if err == nil {
		return lane, nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	e.log.Warn("disk cannot be written through shared memory", "disk", name, "reason", err.Error())
	return nil, nil
}

// lanePatience bounds the handshake: behind it there is a process of this machine that serves the image already.
const lanePatience = 10 * time.Second

func openLane(ctx context.Context, p place, socket string) (*vhost.Lane, error) {
	ctx, cancel := context.WithTimeout(ctx, lanePatience)
	defer cancel()
	conn, err := p.Dial(ctx, socket)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	lane, err := vhost.Open(conn.(*net.UnixConn), vhost.Options{Memory: snapshot.CopyMemory})
	if !stop() && err == nil {
		_ = lane.Close() // its connection is being closed
		return nil, ctx.Err()
	}
	return lane, err
}

// stop ends the daemon in good order: what was written is in the images when it returns. An error says that this is
// not sure.
func (e *export) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), exportPatience)
	defer cancel()
	if err := e.proc.Stop(ctx); err != nil {
		return fmt.Errorf("end qemu-storage-daemon: %w", err)
	}
	if err := removeAll(ctx, e.place, append(slices.Collect(maps.Values(e.lanes)), e.socket, e.qmp)...); err != nil {
		return err
	}
	if err := e.proc.Err(); err != nil {
		return fmt.Errorf("qemu-storage-daemon ended badly: %w", err)
	}
	return nil
}

// exportPrefix starts the names of all sockets of an owner.
func exportPrefix(owner string) string { return "export." + owner + "." }

// readerExports starts the names of the sockets through which points are read.
func (h *host) readerExports() string { return exportPrefix(h.owner) + "read." }

// draftExports starts the names of the sockets of this replica's drafts, so that the next draft finds what an earlier
// one left. Ids are too long for a socket's address.
func (r *replica) draftExports() string {
	sum := sha256.Sum256([]byte(r.id))
	return exportPrefix(r.host.owner) + "draft." + hex.EncodeToString(sum[:8]) + "."
}

// cleanExports ends the daemons with this prefix that have outlived us, and removes what they left. Mostly that is their
// sockets only: the lifeline ends the daemons, unless it was killed itself.
func (h *host) cleanExports(ctx context.Context, prefix string) ([]string, error) {
	names, err := list(ctx, h.place, exportDir)
	if err != nil {
		return nil, err
	}
	var removed []string
	for _, name := range names {
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		file := path.Join(exportDir, name)
		if strings.HasSuffix(name, ".qmp") {
			quitDaemon(ctx, h.place, file)
		}
		if err := removeAll(ctx, h.place, file); err != nil {
			return removed, err
		}
		removed = append(removed, "export "+file)
	}
	return removed, nil
}

// quitDaemon asks the daemon behind a QMP socket to end and waits until it did. Where nobody listens there is nothing
// to end, so nothing here is an error.
func quitDaemon(ctx context.Context, p place, socket string) {
	ctx, cancel := context.WithTimeout(ctx, exportPatience)
	defer cancel()
	conn, err := p.Dial(ctx, socket)
	if err != nil {
		return
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if _, err := io.WriteString(conn, `{"execute":"qmp_capabilities"}{"execute":"quit"}`); err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, conn)
}
