// Package kvm protects and recovers machines of QEMU/KVM hosts through libvirt: it implements hypervisors.Host and all
// its parts.
//
// It owns what carries its name on a host: checkpoints "understudy.<owner>.…", scratch files and sockets of the same
// names, replica folders, and machines and networks with the mark of metadata.go. It never touches a checkpoint, a job,
// a machine or a file of anybody else, never writes to the disk of a machine that it protects, and never reaches into
// QEMU behind libvirt's back. libvirt's types stay inside.
//
// # How it hangs together
//
//	place*.go       the machine where libvirtd lives: files, programs, sockets; here, in a container, behind SSH
//	virt.go         the libvirt connection that survives a restart of libvirtd, and libvirt's errors in our words
//	inventory*.go   what is there
//	source*.go      freezing machines: pull backup jobs with checkpoints; forgetting and healing them
//	checkpoint*.go  one frozen moment, read over NBD, watched so that it gives way before the guest suffers
//	clean.go        our leftovers on the source's side
//	target*.go …    replicas
//	convert.go      making the guest of a run start on QEMU's own devices, by virt-v2v
//	paths.go        trying the ways to the content of disks
//
// Everything about a moment's tracking is in QEMU's persistent dirty bitmaps, which libvirt manages as checkpoints. The
// change id of a machine is the name of such a checkpoint.
package kvm

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync"

	"libvirt.org/go/libvirt"

	"understudy/hypervisors"
)

// Options of a connection.
type Options struct {
	// Owner is the id of the appliance, [a-z0-9]{8}. What carries another owner's name is foreign to us.
	Owner string
	// Log takes what is worth knowing but no error to anybody. Nil: nowhere.
	Log *slog.Logger
}

// host is one connected libvirt host.
type host struct {
	addr  address
	owner string
	log   *slog.Logger
	place place
	virt  *virt
	caps  hypervisors.Capabilities
	lanes bool // drafts can be written through shared memory

	converting chan struct{} // a slot is taken by each conversion

	locks   vmLocks
	open    openCheckpoints
	owed    owed
	targets targets
	probes  probes
}

var ownerPattern = regexp.MustCompile(`^[a-z0-9]{8}$`)

// Connect opens the host at the address, one of
//
//	qemu:///system
//	qemu+unix:///system?socket=PATH
//	qemu+ssh://[USER@]HOST[:PORT]/system[?keyfile=PATH][&known_hosts=PATH][&socket=PATH]
//
// where scratch=FOLDER may be added to say where scratch files go. Errors are hypervisors.ErrScheme, ErrUnreachable,
// ErrUnauthorized and ErrHostKey. The connection survives restarts of libvirtd and losses of the SSH connection.
func Connect(ctx context.Context, uri string, o Options) (hypervisors.Host, error) {
	h, err := connect(ctx, uri, o)
	if err != nil {
		return nil, err
	}
	return h, nil
}

func connect(ctx context.Context, uri string, o Options) (*host, error) {
	if !ownerPattern.MatchString(o.Owner) {
		return nil, &hypervisors.Error{Op: "connect to", Subject: redact(uri), Err: fmt.Errorf("%w owner %q", hypervisors.ErrInvalid, o.Owner)}
	}
	addr, err := parseAddress(uri)
	if err != nil {
		return nil, err
	}
	h := &host{addr: addr, owner: o.Owner, log: o.Log, converting: make(chan struct{}, convertAtOnce)}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	socket := func(context.Context) (string, error) { return addr.socket, nil }
	if addr.ssh {
		p := newSSHPlace(addr)
		if _, err := p.connection(ctx); err != nil {
			p.Close()
			return nil, err // it says what is wrong, and what to do
		}
		h.place, socket = p, p.libvirtSocket
	} else {
		h.place = newLocalPlace(addr.socket)
	}
	h.virt = newVirt(socket)
	if err := h.probe(ctx); err != nil {
		h.Close()
		return nil, &hypervisors.Error{Op: "connect to", Subject: redact(uri), Err: err,
			Hint: "Check that libvirtd (or virtqemud) runs there and that this user may use its socket " + addr.socket + "."}
	}
	return h, nil
}

// conn returns a live libvirt connection, made anew after a restart of libvirtd. It stays usable, if only to fail,
// until the host is closed. Callers do not close it.
func (h *host) conn(ctx context.Context) (*libvirt.Connect, error) { return h.virt.conn(ctx) }

// domain finds a machine by its id. The caller frees it.
func (h *host) domain(ctx context.Context, id string) (*libvirt.Domain, error) {
	c, err := h.conn(ctx)
	if err != nil {
		return nil, err
	}
	if !uuidPattern.MatchString(id) {
		return nil, &hypervisors.Error{Op: "find", Subject: "machine " + id, Err: hypervisors.ErrNotFound}
	}
	d, err := c.LookupDomainByUUIDString(id)
	if err != nil {
		return nil, &hypervisors.Error{Op: "find", Subject: "machine " + id, Err: virtError(err)}
	}
	return d, nil
}

var uuidPattern = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

func (h *host) Capabilities() hypervisors.Capabilities { return h.caps }

// Close ends the connection and everything that was started through it.
func (h *host) Close() error {
	h.open.abandon()
	h.virt.close()
	return h.place.Close()
}

// Versions that bring what we need: incremental pull backups came with libvirt 6.0, were dependable for disks with
// different histories (per-disk incremental) from 6.6, and need QEMU 4.2's persistent bitmaps over blockdev.
const (
	needLibvirt = 6_006_000
	needQEMU    = 4_002_000
	// zstdQEMU is the first that compresses clusters by zstd.
	zstdQEMU = 5_001_000
)

// probe makes the first connection and finds out what the host can do.
func (h *host) probe(ctx context.Context) error {
	c, err := h.conn(ctx)
	if err != nil {
		return err
	}
	lib, err := c.GetLibVersion()
	if err != nil {
		return virtError(err)
	}
	qemu, err := c.GetVersion()
	if err != nil {
		return virtError(err)
	}
	h.caps = capabilities(lib, qemu)
	for _, tool := range []string{"qemu-img", "qemu-storage-daemon"} {
		there, err := installed(ctx, h.place, tool)
		if err != nil {
			return err
		}
		if !there {
			h.caps.Missing = append(h.caps.Missing, fmt.Sprintf("%s is not installed on the host; replicas cannot be kept there", tool))
			h.caps.Target = false
		}
	}
	if h.caps.Convert, err = installed(ctx, h.place, converter); err != nil {
		return err
	}
	if !h.caps.Convert {
		h.caps.Missing = append(h.caps.Missing, fmt.Sprintf("guests from other hypervisors are not converted: %s (package virt-v2v) is not installed on the host", converter))
	}
	h.caps.Convert = h.caps.Convert && h.caps.Target
	if h.caps.Compression && h.caps.Target {
		if h.caps.Compression, err = compresses(ctx, h.place); err != nil {
			return err
		}
	}
	if !h.caps.Compression && h.caps.Target {
		h.caps.Missing = append(h.caps.Missing, fmt.Sprintf("points are not compressed: QEMU %s or later, built with zstd, is needed", versionText(zstdQEMU)))
	}
	if h.caps.Devices, err = h.devices(ctx); err != nil {
		return err
	}
	h.caps.Probe = h.caps.Target // what serves the disk of a probe serves drafts
	if h.place.SharesMemory() {
		help, err := h.place.Run(ctx, nil, "qemu-storage-daemon", "--help")
		h.lanes = err == nil && bytes.Contains(help, []byte("vhost-user-blk")) // a choice of who built QEMU
	}
	return nil
}

// installed says whether the place has a program; some systems keep those that people do not call apart.
func installed(ctx context.Context, p place, program string) (bool, error) {
	_, err := p.Run(ctx, nil, "sh", "-c", `PATH=$PATH:/usr/libexec; command -v "$1"`, "installed", program)
	if _, refused := err.(*runError); refused {
		return false, nil
	}
	return err == nil, err
}

// compresses tries what who built QEMU may have left out: compression by zstd, and the filter that writes compressed.
func compresses(ctx context.Context, p place) (bool, error) {
	const try = `dir=$(mktemp -d)
trap 'rm -rf -- "$dir"' EXIT
qemu-img create -q -f qcow2 -o compression_type=zstd "$dir/image" 64k
qemu-img info --image-opts "driver=compress,file.driver=qcow2,file.file.driver=file,file.file.filename=$dir/image" >/dev/null`
	_, err := p.Run(ctx, nil, "sh", "-ec", try)
	if _, refused := err.(*runError); refused {
		return false, nil
	}
	return err == nil, err
}

func capabilities(lib, qemu uint32) hypervisors.Capabilities {
	c := hypervisors.Capabilities{Source: true, Target: true, Power: true, Isolation: true, Guest: true, Screen: true, Dial: true,
		ChangeTracking: true, Quiesce: true, GroupMoment: true, Compression: qemu >= zstdQEMU}
	var missing []string
	if lib < needLibvirt {
		missing = append(missing, fmt.Sprintf("libvirt %s has no dependable checkpoints; %s or later is needed", versionText(lib), versionText(needLibvirt)))
	}
	if qemu < needQEMU {
		missing = append(missing, fmt.Sprintf("QEMU %s has no dependable change tracking; %s or later is needed", versionText(qemu), versionText(needQEMU)))
	}
	if missing != nil {
		c.Source, c.ChangeTracking, c.Quiesce, c.GroupMoment = false, false, false, false
		c.Missing = missing
	}
	return c
}

// versionText spells libvirt's version numbers: 9000000 is 9.0.0.
func versionText(v uint32) string {
	return fmt.Sprintf("%d.%d.%d", v/1_000_000, v/1_000%1_000, v%1_000)
}

// name is the name of one of our own objects on the host; its parts are joined by dots.
func (h *host) name(parts ...string) string {
	return "understudy." + h.owner + "." + strings.Join(parts, ".")
}

// vmLocks let one piece of work at a time at each machine.
type vmLocks struct {
	mu   sync.Mutex
	held map[string]bool
}

// try takes the lock of a machine unless it is taken.
func (l *vmLocks) try(vm string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[vm] {
		return false
	}
	if l.held == nil {
		l.held = map[string]bool{}
	}
	l.held[vm] = true
	return true
}

func (l *vmLocks) release(vm string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.held, vm)
}

// taken says whether somebody works at a machine.
func (l *vmLocks) taken(vm string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held[vm]
}
