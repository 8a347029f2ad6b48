// Package fake is a hypervisor in memory, complete and honest, so that the engine can be tested in milliseconds:
// machines whose guests write, disks of any size that cost what was written to them, dirty tracking, recovery points,
// runs, networks, storage that fills up, and the disasters that befall real hosts.
//
// A [Hypervisor] lives on when connections to it close, as a real one does. It has no goroutines, no clock of its own
// and no randomness but for what a seed decides: the same calls give the same result. (A connection that Guest.Dial
// returns is served by one goroutine until it is closed.) One lock covers everything in a Hypervisor.
//
// It never judges: what a driver must do is said in package hypervisors and checked in hypervisortest.
package fake

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"understudy/hypervisors"
)

// Hypervisor is one host with its machines, as an administrator who stands before it sees it.
type Hypervisor struct {
	name  string
	clock func() time.Time
	caps  hypervisors.Capabilities

	mu          sync.Mutex
	unreachable bool
	epoch       int // connections of an earlier one are broken
	seed        uint64
	outages     uint64 // power failures so far
	serial      int    // for names that never repeat
	freeze      time.Duration
	machines    map[string]*machine
	networks    []*network
	pools       []*pool
	replicas    map[string]*replica
	readers     []*pointReader
}

type network struct {
	hypervisors.Network
	owner string // of an isolated network that an appliance made
}

// Option changes what New makes.
type Option func(*Hypervisor)

// WithCapabilities lets change switch capabilities off; a part that is off answers ErrIncapable.
func WithCapabilities(change func(*hypervisors.Capabilities)) Option {
	return func(hv *Hypervisor) { change(&hv.caps) }
}

// WithStorage adds a storage of capacity bytes. The first one is the default. Without this option there is one, named
// "default", of 16 TiB.
func WithStorage(name string, capacity int64) Option {
	return func(hv *Hypervisor) { hv.pools = append(hv.pools, &pool{name: name, capacity: capacity}) }
}

// WithNetwork adds a network. Without this option there is one, named "lan".
func WithNetwork(name string) Option {
	return func(hv *Hypervisor) {
		hv.networks = append(hv.networks, &network{Network: hypervisors.Network{Name: name, Kind: "bridge"}})
	}
}

// WithSeed decides what power failures leave of writes that were not flushed.
func WithSeed(seed uint64) Option { return func(hv *Hypervisor) { hv.seed = seed } }

// New makes a hypervisor that can do everything.
func New(name string, clock func() time.Time, opts ...Option) *Hypervisor {
	hv := &Hypervisor{
		name:  name,
		clock: clock,
		caps: hypervisors.Capabilities{Source: true, Target: true, Power: true, Isolation: true, Guest: true, Screen: true, Probe: true, Dial: true,
			ChangeTracking: true, Quiesce: true, GroupMoment: true, Compression: true, Convert: true,
			Devices: hypervisors.Devices{Disks: []string{"virtio", "scsi/virtio-scsi", "scsi/pvscsi", "scsi/lsisas1068", "scsi/lsilogic", "sata", "nvme", "ide", "usb"},
				NICs: []string{"virtio", "vmxnet3", "e1000e", "e1000", "rtl8139"}}},
		machines: map[string]*machine{},
		replicas: map[string]*replica{},
	}
	for _, o := range opts {
		o(hv)
	}
	hv.caps = coherent(hv.caps)
	if len(hv.pools) == 0 {
		WithStorage("default", 16<<40)(hv)
	}
	if len(hv.networks) == 0 {
		WithNetwork("lan")(hv)
	}
	return hv
}

// coherent switches off what has lost its ground, and says what is missing.
func coherent(c hypervisors.Capabilities) hypervisors.Capabilities {
	c.ChangeTracking = c.ChangeTracking && c.Source
	c.Quiesce = c.Quiesce && c.Source
	c.GroupMoment = c.GroupMoment && c.Source
	c.Dial = c.Dial && c.Guest
	c.Compression = c.Compression && c.Target
	c.Convert = c.Convert && c.Target
	for _, part := range []struct {
		name  string
		there bool
	}{
		{"checkpoints", c.Source}, {"keeping replicas", c.Target}, {"turning machines on and off", c.Power},
		{"isolated networks", c.Isolation}, {"asking guests", c.Guest}, {"connections into isolated networks", c.Dial}, {"change tracking", c.ChangeTracking},
		{"quiescing", c.Quiesce}, {"screenshots", c.Screen}, {"trying data paths", c.Probe}, {"one moment for several machines", c.GroupMoment},
		{"compressing points", c.Compression}, {"converting guests", c.Convert},
	} {
		if !part.there {
			c.Missing = append(c.Missing, part.name+" was switched off")
		}
	}
	return c
}

// Connect opens a connection in the name of an appliance. What it leaves behind is that owner's to clean.
func (hv *Hypervisor) Connect(owner string) hypervisors.Host {
	hv.mu.Lock()
	defer hv.mu.Unlock()
	return &conn{hv: hv, owner: owner, epoch: hv.epoch}
}

// AddVM defines a machine that is off, with empty disks on the default storage, and returns its id. Missing details
// (disk ids, bus, format, MACs, firmware) are filled in. A disk of format raw is not tracked. It panics when the name
// or a MAC is taken, or a network unknown.
func (hv *Hypervisor) AddVM(hw hypervisors.Hardware) string {
	hv.mu.Lock()
	defer hv.mu.Unlock()
	hw = hv.complete(hw)
	if err := hv.clash(hw, nil); err != nil {
		panic("fake.AddVM: " + err.Error())
	}
	m := &machine{id: hv.newUUID(), hw: hw, state: hypervisors.Off}
	for _, d := range hw.Disks {
		m.disks = append(m.disks, hv.newDisk(d))
	}
	hv.machines[m.id] = m
	return m.id
}

func (hv *Hypervisor) newDisk(d hypervisors.Disk) *disk {
	return &disk{id: d.ID, raw: d.Format == "raw", excluded: d.Excluded, image: newImage(d.Size, hv.pools[0])}
}

func (hv *Hypervisor) complete(hw hypervisors.Hardware) hypervisors.Hardware {
	hw = cloneHardware(hw)
	hw.CPUs, hw.Memory = max(hw.CPUs, 1), max(hw.Memory, 64<<20)
	if hw.Firmware == "" {
		hw.Firmware = hypervisors.BIOS
	}
	if hw.Arch == "" {
		hw.Arch = "x86_64"
	}
	for i := range hw.Disks {
		d := &hw.Disks[i]
		if d.ID == "" {
			d.ID = "vd" + string(rune('a'+i))
		}
		if d.Bus == "" {
			d.Bus = "virtio"
		}
		if d.Format == "" {
			d.Format = "qcow2"
		}
		if d.Path == "" {
			d.Path = "/" + hv.name + "/" + hw.Name + "/" + d.ID
		}
	}
	for i := range hw.NICs {
		n := &hw.NICs[i]
		if n.MAC == "" {
			hv.serial++
			n.MAC = fmt.Sprintf("52:54:00:%02x:%02x:%02x", hv.serial>>16&255, hv.serial>>8&255, hv.serial&255)
		}
		n.MAC = strings.ToLower(n.MAC)
		if n.Network == "" {
			n.Network = hv.networks[0].Name
		}
	}
	return hw
}

// clash tells what keeps a machine from being defined; except is not looked at.
func (hv *Hypervisor) clash(hw hypervisors.Hardware, except *machine) error {
	macs := map[string]bool{}
	for _, n := range hw.NICs {
		if hv.network(n.Network) == nil {
			return fmt.Errorf("%q: %w", n.Network, hypervisors.ErrUnknownNetwork)
		}
		mac := strings.ToLower(n.MAC)
		if macs[mac] {
			return fmt.Errorf("%s, twice in one machine: %w", mac, hypervisors.ErrMACTaken)
		}
		macs[mac] = true
	}
	for _, m := range hv.machines {
		if m == except {
			continue
		}
		if m.hw.Name == hw.Name {
			return fmt.Errorf("%q, by machine %s: %w", hw.Name, m.id, hypervisors.ErrNameTaken)
		}
		for _, n := range m.hw.NICs {
			if macs[n.MAC] {
				return fmt.Errorf("%s, by machine %s: %w", n.MAC, m.hw.Name, hypervisors.ErrMACTaken)
			}
		}
	}
	return nil
}

func (hv *Hypervisor) network(name string) *network {
	if i := slices.IndexFunc(hv.networks, func(n *network) bool { return n.Name == name }); i >= 0 {
		return hv.networks[i]
	}
	return nil
}

func (hv *Hypervisor) pool(name string) (*pool, error) {
	for _, p := range hv.pools {
		if name == "" || p.name == name {
			return p, nil
		}
	}
	return nil, fmt.Errorf("%q: %w", name, hypervisors.ErrUnknownStorage)
}

func (hv *Hypervisor) newUUID() string {
	hv.serial++
	return uuid.NewSHA1(uuid.NameSpaceOID, fmt.Appendf(nil, "%s/%d", hv.name, hv.serial)).String()
}

// conn is one connection.
type conn struct {
	hv     *Hypervisor
	owner  string
	epoch  int
	closed bool
}

// lock begins a call: on success the caller holds the Hypervisor's lock.
func (c *conn) lock(ctx context.Context, op, subject string) error {
	if err := ctx.Err(); err != nil {
		return fail(op, subject, err, "")
	}
	c.hv.mu.Lock()
	if err := c.alive(); err != nil {
		c.hv.mu.Unlock()
		return fail(op, subject, err, "connect to the host again")
	}
	return nil
}

func (c *conn) alive() error {
	switch {
	case c.closed:
		return fmt.Errorf("connection was closed: %w", hypervisors.ErrUnreachable)
	case c.hv.unreachable:
		return fmt.Errorf("host %s does not answer: %w", c.hv.name, hypervisors.ErrUnreachable)
	case c.epoch != c.hv.epoch:
		return fmt.Errorf("connection to host %s broke: %w", c.hv.name, hypervisors.ErrUnreachable)
	}
	return nil
}

func (c *conn) capable(announced bool, part string) error {
	if announced {
		return nil
	}
	return fmt.Errorf("%s: %w", part, hypervisors.ErrIncapable)
}

// machine finds one by id.
func (c *conn) machine(id string) (*machine, error) {
	if m := c.hv.machines[id]; m != nil {
		return m, nil
	}
	return nil, fmt.Errorf("machine: %w", hypervisors.ErrNotFound)
}

func fail(op, subject string, err error, hint string) error {
	return &hypervisors.Error{Op: op, Subject: subject, Err: err, Hint: hint}
}
