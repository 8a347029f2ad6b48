// Package hypervisortest holds what every driver is judged by: one conformance suite, whose checks are plain functions
// so that they can also be run against a user's host, and a wrapper that puts faults into any driver.
//
// It owns no hypervisor and knows no driver; it sees the interfaces of package hypervisors only, and checks are skipped
// by capability alone.
package hypervisortest

import (
	"context"

	"understudy/hypervisors"
)

// Env is the place a driver is judged in: one hypervisor that is source and target at once. Run asks for one Env per
// check; a lab that is costly to build may stand behind all of them, as checks run one after another and remove what
// they made. Read-only checks need Host alone. All other fields are needed by the others as far as the host has the
// capability.
type Env struct {
	// Host is connected as Owner, which has the form [a-z0-9]{8}, as the foreign one that the suite makes up. The suite
	// never closes Host, but cleans it before and after every check with nothing to keep.
	Host  hypervisors.Host
	Owner string
	// Connect opens one more connection to the same hypervisor, as any owner. The suite closes it.
	Connect func(ctx context.Context, owner string) (hypervisors.Host, error)

	// VM is the id of a running machine whose guest keeps writing to its disks and is not disturbed by others. It has two
	// disks at least, and all of them can be tracked. Small disks make the suite quick: it copies them in full.
	VM string
	// Dirty returns after the guest of a running machine has written something, somewhere, that it had not written when
	// Dirty was called. The machine is VM, or one that the suite started from a copy of VM's disks.
	Dirty func(ctx context.Context, vm string) error
	// NewVM makes one more machine that is off, has at least two disks that can be tracked with some data that is not
	// zero, and belongs to nobody. It need not boot. Who built the Env removes it when the check has ended, however it
	// ended and in whatever state it is.
	NewVM func(ctx context.Context) (id string, err error)
	// Grow makes a disk of a machine larger, running or off, as an administrator would.
	Grow func(ctx context.Context, vm, disk string, size int64) error
	// LoseTracking makes the source forget what changed on all disks of VM since any checkpoint, as a crash of the
	// hypervisor's process does. It returns when VM runs and its guest writes again.
	LoseTracking func(ctx context.Context) error

	// Conversions, for hosts capable of Convert, says how often the guest of a machine was converted, as its disks say.
	Conversions func(ctx context.Context, vm string) (int, error)

	// Storage and Network are names of the host that replicas may use.
	Storage string
	Network string
	// Answer, for hosts capable of Dial, is where the guest of VM, and of any machine started from a copy of its disks, accepts TCP connections.
	Answer Answer
}

// Answer says how a guest is reached: the arguments of hypervisors.Guest.Dial without the network, which is that of
// the machine's first NIC.
type Answer struct {
	From string // "192.0.2.253/24"
	Addr string // "192.0.2.10:80"
}
