// Package esx protects and recovers machines of VMware ESX hosts, alone or behind a vCenter, through govmomi: it
// implements hypervisors.Host and its parts.
//
// It owns what carries its name on a host: machines, snapshots and networks with the marks of tags.go. It never touches a
// machine, a snapshot or a network of anybody else, and never writes to the disk of a machine that it protects. Types of
// VMware stay inside.
//
// # How it hangs together
//
//	address.go      where a host is, and how it proves who it is
//	session.go      signing in, and again when the session is lost
//	errors.go       faults in our words; tasks.go waits for what takes time
//	inventory.go    what is there; hardware.go says what it is made of, os.go what is in it
//	networks.go     networks that lead nowhere
//	power.go, guest.go, screen.go
//	source.go       freezing machines by snapshots; checkpoint.go is one frozen moment, changed.go what changed
//	datapath.go     to the content of disks: hotadd.go by our own machine, vddk.go by
//	                VMware's library, https.go by the web server; paths.go tries them
//	target.go       replicas; layout.go says which disk is which, draft.go, point.go, run.go and settle.go what happens to them
//	privileges.go   what the role of the appliance must have
//	clean.go        our leftovers
//
// A machine's id is its instance UUID, which survives what changes managed object ids: unregistering, moving to another
// host, a new vCenter.
package esx

import (
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"time"

	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"understudy/hypervisors"
)

// Options of a connection.
type Options struct {
	// Owner is the id of the appliance, [a-z0-9]{8}. What carries another owner's mark is foreign to us.
	Owner string
	// Log takes what is worth knowing but no error to anybody. Nil: nowhere.
	Log *slog.Logger
	// Clock tells the time. Nil: time.Now.
	Clock func() time.Time
	// User and Password to sign in with. The password is in no address, log, error or argument of a program.
	User, Password string
}

// host is one connected ESX host or vCenter.
type host struct {
	addr   address
	owner  string
	log    *slog.Logger
	clock  func() time.Time
	login  types.Login // for what signs in by itself
	client *vim25.Client
	caps   hypervisors.Capabilities
	end    func() // of the session

	own      appliance
	locks    locks
	frozen   frozen
	replicas replicas
}

var ownerPattern = regexp.MustCompile(`^[a-z0-9]{8}$`)

// Connect opens the host at the address
//
//	esx://HOST[:PORT]/[?thumbprint=SHA-256 | ?ca=FILE][&host=NAME][&path=hotadd|vddk|https][&vddk=FOLDER][&appliance=UUID][&devices=FOLDER]
//
// where the thumbprint pins the certificate, ca=FILE names who must have issued it, and without both the issuers count
// that this machine trusts. Behind a vCenter, host names the ESX host that replicas and their networks are made on; it
// may be left out where there is one only. path forces the way to the content of disks. vddk is where the user
// has put VMware's library for it, which is not ours to give. appliance is the UUID of the
// machine that the appliance runs in, where its firmware does not say it, and devices the folder in which disks of that
// machine appear, where that is not udev's /dev/disk/by-id.
//
// Errors are hypervisors.ErrScheme, ErrInvalid, ErrUnreachable, ErrUnauthorized and ErrHostKey, for a certificate. The
// connection survives the loss of its session and restarts of the host.
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
	h := &host{addr: addr, owner: o.Owner, log: o.Log, clock: o.Clock, login: types.Login{UserName: o.User, Password: o.Password}}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	if h.clock == nil {
		h.clock = time.Now
	}
	if h.client, h.end, err = signIn(ctx, addr, o.User, o.Password); err != nil {
		return nil, fault("connect to", addr.server, err)
	}
	if err := h.probe(ctx); err != nil {
		return nil, fault("connect to", addr.server, fmt.Errorf("%w%w", err, h.close()))
	}
	return h, nil
}

// probe finds out what the host can do.
func (h *host) probe(ctx context.Context) error {
	h.caps = hypervisors.Capabilities{Source: true, Target: true, ChangeTracking: true, Quiesce: true, Power: true, Isolation: true, Guest: true, Screen: true, Probe: true, Devices: devices}
	h.caps.Missing = append(h.caps.Missing, "no one moment for several machines: ESX freezes each by itself, if at nearly the same time",
		"no connections into isolated networks: ESX lends nobody a place in them; boot checks there look at VMware Tools only",
		"guests from other hypervisors are not converted: no program does that on the disks of an ESX host")
	return h.checkRole(ctx)
}

func (h *host) Capabilities() hypervisors.Capabilities { return h.caps }

// Close signs out.
func (h *host) Close() error { return h.close() }

func (h *host) close() error {
	h.end()
	return nil
}

// Info says who the host is.
func (h *host) Info(ctx context.Context) (hypervisors.Info, error) {
	about := h.client.ServiceContent.About
	info := hypervisors.Info{Product: about.Name, Version: about.Version + " build " + about.Build, Identity: about.InstanceUuid}
	hosts, err := h.hosts(ctx, "name", "summary.hardware")
	if err != nil {
		return info, fault("look at", h.addr.server, err)
	}
	for _, esx := range hosts {
		hw := esx.Summary.Hardware
		if hw == nil {
			continue // disconnected
		}
		if !h.client.IsVC() {
			info.Identity, info.Hostname = hw.Uuid, esx.Name
		}
		info.CPUs += int(hw.NumCpuThreads)
		info.Memory += hw.MemorySize
	}
	if info.Hostname == "" {
		info.Hostname = h.addr.server
	}
	return info, nil
}

// hosts are the ESX hosts there are, with the properties.
func (h *host) hosts(ctx context.Context, properties ...string) ([]mo.HostSystem, error) {
	var all []mo.HostSystem
	err := h.collect(ctx, "HostSystem", properties, &all)
	return all, err
}
