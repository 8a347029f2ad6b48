package kvm

import (
	"context"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"libvirt.org/go/libvirtxml"

	"understudy/hypervisors"
)

// converter makes the guest on some disks start on QEMU's devices: drivers in its initial RAM disk, names of disks where it
// keeps them, no tools of another hypervisor. It writes these disks and copies none.
const converter = "virt-v2v-in-place"

// conversion is one of a run whose overlays are made and not ready yet. While it is at work it does not have the replica's
// turn, so that drafts, readers and other runs go on: the manifest names the run, so nobody drops its point or touches its
// overlays, and whoever ends it interrupts this first.
type conversion struct {
	replica *replica
	run     string
	disks   []fittedDisk
	hw      hypervisors.Hardware
	stop    context.CancelFunc
	ctx     context.Context
	done    chan struct{}
}

var errEnded = fmt.Errorf("%w: it was ended while its guest was converted", hypervisors.ErrNotFound)

// mayConvert refuses a conversion that this host, this replica or this moment does not allow.
func (r *replica) mayConvert(m *manifest, spec hypervisors.RunSpec) error {
	r.mu.Lock()
	busy := r.conversions[spec.ID] != nil
	r.mu.Unlock()
	switch {
	case busy:
		return fmt.Errorf("%w: its guest is being converted", hypervisors.ErrBusy)
	case !spec.Convert:
		return nil
	case !r.host.caps.Convert:
		return &hypervisors.Error{Op: "convert", Subject: "machine " + m.Hardware.Name, Err: fmt.Errorf("%w: %s is not there", hypervisors.ErrIncapable, converter),
			Hint: "Install the package virt-v2v on the host."}
	case m.Adopted != nil:
		return fmt.Errorf("%w: the machine is at home here and needs no conversion", hypervisors.ErrInvalid)
	}
	return nil
}

// newConversion begins one, for who has the turn. It is at work when the turn is given back.
func (r *replica) newConversion(m *manifest, run string, disks []fittedDisk) *conversion {
	ctx, stop := context.WithCancel(context.Background())
	c := &conversion{replica: r, run: run, disks: disks, hw: m.Hardware, ctx: ctx, stop: stop, done: make(chan struct{})}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conversions == nil {
		r.conversions = map[string]*conversion{}
	}
	r.conversions[run] = c
	return c
}

// interrupt stops the conversion of a run that is about to go, and waits until nothing of it is at work.
func (r *replica) interrupt(ctx context.Context, run string) error {
	r.mu.Lock()
	c := r.conversions[run]
	r.mu.Unlock()
	if c == nil {
		return nil
	}
	c.stop()
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// work converts the guest, and says which devices it has drivers for now.
func (c *conversion) work(ctx context.Context) (*devices, error) {
	defer func() {
		c.replica.mu.Lock()
		delete(c.replica.conversions, c.run)
		c.replica.mu.Unlock()
		c.stop()
		close(c.done)
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	h := c.replica.host
	select {
	case h.converting <- struct{}{}:
		defer func() { <-h.converting }()
	case <-ctx.Done():
		if c.ctx.Err() != nil {
			return nil, errEnded
		}
		return nil, ctx.Err()
	}
	room, err := freeSpace(ctx, h.place, c.replica.dir)
	if err != nil {
		return nil, err
	}
	if room.Free < convertRoom {
		return nil, &hypervisors.Error{Op: "convert", Subject: "machine " + c.hw.Name, Err: fmt.Errorf("%w: %d MiB are free, a conversion needs %d", hypervisors.ErrNoSpace, room.Free>>20, convertRoom>>20),
			Hint: "Make room in the storage of the replica, or start it without a conversion."}
	}
	domain, err := c.domain()
	if err != nil {
		return nil, err
	}
	argv := []string{"sh", "-c", convertScript, "convert", converter, path.Join(c.replica.dir, scratchDir(c.run)), h.converterSockets(), domain}
	for _, d := range c.disks {
		argv = append(argv, d.file)
	}
	out, err := h.place.Run(ctx, nil, argv...)
	var failed *runError
	switch {
	case c.ctx.Err() != nil:
		return nil, errEnded
	case errors.As(err, &failed) && failed.Status == convertRefused:
		return nil, &hypervisors.Error{Op: "convert", Subject: "machine " + c.hw.Name, Err: fmt.Errorf("%w: %s", hypervisors.ErrUnconvertible, bounded(failed.Stderr)),
			Hint: "These are virt-v2v's words. Start it without a conversion, or repair at the source what they name."}
	case failed != nil: // it is not the guest
		return nil, &hypervisors.Error{Op: "convert", Subject: "machine " + c.hw.Name, Err: noSpace(err),
			Hint: "libguestfs-test-tool says on the host what is missing there: often a kernel that can be read, or a KVM that works."}
	case err != nil:
		return nil, err
	}
	made, err := converted(string(out), c.hw)
	if err == nil {
		h.log.Info("guest was converted", "replica", c.replica.id, "run", c.run, "disks", made.Bus, "nics", made.NIC)
	}
	return made, err
}

// convertAtOnce bounds how many guests a host converts at once: each takes some 2.5 GiB of its memory.
const convertAtOnce = 2

// convertRoom is what virt-v2v wants for its scratch files at least, and what a conversion writes of the guest.
const convertRoom = 3 << 29

// bounded is what a program said, on one line that is not too long.
func bounded(text string) string {
	const most = 400
	text = strings.Join(strings.Fields(strings.ToValidUTF8(text, "?")), " ")
	if runes := []rune(text); len(runes) > most {
		text = string(runes[:most]) + "…"
	}
	return text
}

// domain is a machine of the run's disks, as much of it as virt-v2v looks at.
func (c *conversion) domain() (string, error) {
	def := &libvirtxml.Domain{Type: "kvm", Name: "guest", Memory: &libvirtxml.DomainMemory{Value: uint(c.hw.Memory >> 10), Unit: "KiB"},
		OS: &libvirtxml.DomainOS{Type: &libvirtxml.DomainOSType{Arch: archOf(c.hw.Arch), Type: "hvm"}}, Devices: &libvirtxml.DomainDeviceList{}}
	for _, d := range c.disks {
		if err := addDisk(def, fittedDisk{id: d.id, bus: "sata", file: d.file}); err != nil {
			return "", err
		}
	}
	return def.Marshal()
}

// convertRefused is the status of the script when virt-v2v refused the guest.
const convertRefused = 65

// convertScript runs the program $1 with scratch files below $2, which it makes, and sockets in a folder whose name begins
// with $3, on the machine $4 with the images that follow. It prints which devices the guest has drivers for. Nothing
// is left of it, however it ends, but for a kill -9 of itself: then the scratch files, for Clean.
//
// virt-v2v starts servers for the images that outlive it: when it is killed they never end, and when it has ended well they
// still write what they have in memory. So all of them are one session, which is killed with it; and it is done only when
// the images can be opened, and are whole.
//
// Sockets have names of 107 bytes at most, so they cannot be where the replica is.
const convertScript = `program=$1 scratch=$2 sockets=$3 domain=$4 pid=
shift 4
tidy() {
	# Where libguestfs has its own socket, root cannot say; that stays when it is killed.
	other=$(grep -aom 1 '/tmp/libguestfs[[:alnum:]]*/guestfsd.sock' "$scratch/log" 2>/dev/null)
	rm -rf -- "$scratch" ${tmp:+"$tmp"} ${other:+"${other%/*}"}
}
# A moment at most, since those that nobody reaps are never gone. By -s, as some shells take no -- after a number.
gone() {
	for _ in 1 2 3 4 5; do
		kill -s 0 -- "-$pid" || return
		sleep 0.2
	done
}
end() {
	kill -s KILL -- "-$pid" && gone
} 2>/dev/null
stop() {
	trap '' TERM HUP INT
	if [ -n "$pid" ]; then
		kill -- "-$pid" || kill "$pid"
		gone
		end
	fi 2>/dev/null
	exit 143
}
run() {
	[ -e /proc/self/fd ] && exec setsid "$@"
	# Where libvirtd has processes of its own, /proc shows those and not ours, and libguestfs finds none of its own files.
	exec setsid unshare --mount sh -c 'mount -t proc proc /proc && exec "$@"' run "$@"
}
trap tidy EXIT
trap stop TERM HUP INT
rm -rf -- "$scratch" && mkdir -m 700 -- "$scratch" && mkdir -p -m 700 -- "${sockets%/*}" && tmp=$(mktemp -d "$sockets.XXXXXX") && printf %s "$domain" >"$scratch/domain.xml" || exit 1
export PATH="$PATH:/usr/libexec" LIBGUESTFS_BACKEND=direct TMPDIR="$tmp" VIRT_V2V_TMPDIR="$scratch" LIBGUESTFS_TMPDIR="$scratch" LIBGUESTFS_CACHEDIR="$scratch"
run "$program" -v -i libvirtxml "$scratch/domain.xml" >"$scratch/log" 2>&1 </dev/null &
pid=$!
wait "$pid"
status=$?
if [ "$status" -ne 0 ]; then
	end
	awk '/^virt-v2v[a-z-]*: error: / { sub(/^[^:]*: error: /, ""); text = ""; on = 1 } /^[[:space:]]*$/ { on = 0 } on { text = text " " $0 } { last = $0 } END { print text != "" ? text : last }' "$scratch/log" >&2
	# Before that it had not come to look at the guest.
	[ "$status" -lt 128 ] && grep -aq '^guestfsd: ' "$scratch/log" && exit 65
	exit 1
fi
tries=0
for image; do
	until qemu-img check -q -f qcow2 "$image" 2>"$scratch/check"; do
		[ $? -eq 1 ] && tries=$((tries + 1)) || tries=301 # more than 1: it was not closed in good order
		if [ "$tries" -gt 300 ]; then
			end
			echo "image $image after the conversion: $(cat "$scratch/check")" >&2
			exit 1
		fi
		sleep 0.2
	done
done
sync -- "$@"
grep -a '^gcaps_' "$scratch/log"
exit 0`

// Of what virt-v2v tells with -v, the kinds of devices that the guest has drivers for now, in its words.
var gcapsLine = regexp.MustCompile(`(?m)^gcaps_(block|net)_bus = (\S+)$`)

// converted understands what virt-v2v said of a guest.
func converted(said string, hw hypervisors.Hardware) (*devices, error) {
	caps := map[string]string{}
	for _, m := range gcapsLine.FindAllStringSubmatch(said, -1) {
		caps[m[1]] = m[2]
	}
	made := &devices{}
	switch caps["block"] {
	case "virtio-blk":
		made.Bus = "virtio"
	case "virtio-scsi":
		made.Bus, made.Controller = "scsi", "virtio-scsi"
	case "ide": // what every system has drivers for; newer boards have it as SATA
		if made.Bus = "sata"; board(hw) == "pc" {
			made.Bus = "ide"
		}
	}
	made.NIC = map[string]string{"virtio-net": "virtio", "e1000": "e1000", "rtl8139": "rtl8139"}[caps["net"]]
	if made.Bus == "" || made.NIC == "" {
		return nil, fmt.Errorf("%w: %s does not say which devices the guest has drivers for now (disks %q, NICs %q)", hypervisors.ErrUnconvertible, converter, caps["block"], caps["net"])
	}
	return made, nil
}

// fit gives a machine the devices, and its disks, which it does not have yet, their bus. Nil: it keeps what it has.
func (made *devices) fit(def *libvirtxml.Domain, disks []fittedDisk) {
	if made == nil {
		return
	}
	for i := range disks {
		disks[i].bus, disks[i].controller = made.Bus, made.Controller
	}
	def.Devices.Disks = slices.DeleteFunc(def.Devices.Disks, func(d libvirtxml.DomainDisk) bool {
		i := slices.IndexFunc(disks, func(f fittedDisk) bool { return f.id == idOf(&d) })
		if i >= 0 && d.Boot != nil {
			disks[i].boot = int(d.Boot.Order)
		}
		return i >= 0
	})
	for i := range def.Devices.Interfaces {
		// What belongs to the old card, and its place, do not fit the new one.
		nic := &def.Devices.Interfaces[i]
		nic.Model, nic.Driver, nic.Address = &libvirtxml.DomainInterfaceModel{Type: made.NIC}, nil, nil
	}
}

// converterSockets is where conversions of ours have their sockets, but for what tells them apart.
func (h *host) converterSockets() string { return path.Join(exportDir, "convert."+h.owner) }

// cleanConversions removes the folders of conversions that were killed with all that would have removed them.
func (h *host) cleanConversions(ctx context.Context) ([]string, error) {
	names, err := list(ctx, h.place, exportDir)
	var removed []string
	for _, name := range names {
		if folder := path.Join(exportDir, name); strings.HasPrefix(folder, h.converterSockets()+".") {
			removed = append(removed, folder)
		}
	}
	return removed, errors.Join(err, removeAll(ctx, h.place, removed...))
}
