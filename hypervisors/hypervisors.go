// Package hypervisors says what a hypervisor must do for Understudy, in the few small interfaces that every driver
// (kvm, esx, hyperv, fake) implements. It owns these words and their errors and no behaviour; vendor types never
// appear here.
//
// # The parts of a driver
//
//	Host        what is there: machines, networks, storage; cleaning up what we left behind
//	Power       start, shut down, stop a machine
//	Source      freeze machines at one moment and read what changed           (protecting)
//	Target      keep replicas: machines that are off, and their recovery points  (recovering)
//	Isolation   networks without an uplink, for tests
//	Guest       what a running guest tells: agent, TCP
//	Screen      what a running machine shows
//	Prober      which ways to the content of disks work, and how fast they are
//
// A driver returns one Host from its Connect; Host.(Source) and so on are present as [Capabilities] says. A method of
// an interface that is announced never answers "not supported".
//
// # One cycle, seen from here
//
//	cp, _ := source.Checkpoint(ctx, CheckpointRequest{…, Since: last})   // all disks, one moment; the guest runs on
//	draft, _ := replica.Draft(ctx, DraftRequest{…})                      // an uncommitted point on the newest one
//	…read cp.Disks()[i].Changed, write draft.Disks()[i], Flush…
//	draft.Commit(ctx, Point{…, ChangeIDs: cp.ChangeIDs()})               // the commit point, atomic and durable
//	…the store records it…
//	cp.Close(ctx)                                                        // the frozen moment goes, the tracking stays
//	source.Forget(ctx, vm, last)                                         // only now may the source forget
//
// A run of a point may be asked to convert its guest (RunSpec.Convert), when that comes from another hypervisor and has no
// driver for what the target offers: always on the run's own disks, so that the point stays what the source had.
//
// After a failure the same calls undo it: draft.Discard, cp.Close, source.Forget of the new change id.
//
// # Rules for all methods
//
// Every method is safe for concurrent use, may be called again after an unknown outcome (idempotent, with the same
// arguments), gives up when ctx ends and then leaves nothing behind that Host.Clean would not remove. Errors wrap one
// of the sentinels of this package where one fits, inside an [Error] that says what happened to what and what to do.
package hypervisors

import (
	"context"
	"image"
	"io"
	"net"
	"time"

	"understudy/snapshot"
)

// Host is one connected hypervisor endpoint. It outlives losses of the connection and restarts of the host: calls fail
// with ErrUnreachable meanwhile and work again afterwards. Open checkpoints, drafts and readers do not outlive them.
type Host interface {
	Info(ctx context.Context) (Info, error)
	Capabilities() Capabilities
	// VMs lists every machine of the host, ours included (VM.Replica says so), ordered by name.
	VMs(ctx context.Context) ([]VM, error)
	// VM finds one machine by its id, or ErrNotFound.
	VM(ctx context.Context, id string) (VM, error)
	Networks(ctx context.Context) ([]Network, error)
	Storage(ctx context.Context) ([]Storage, error)
	// Clean removes what an earlier run of this owner left behind and nobody claims in keep: checkpoints, backup jobs,
	// scratch files, exports, drafts, test machines and test networks. Nothing foreign is ever touched. It must not run
	// beside other work on the host. The result names each thing removed, for the log.
	Clean(ctx context.Context, keep Keep) ([]string, error)
	// Close ends the connection. Checkpoints and drafts that are still open become leftovers for Clean.
	Close() error
}

// Keep names what Clean must leave in place.
type Keep struct {
	// ChangeIDs of committed recovery points, by VM id. A VM that is not named keeps nothing.
	ChangeIDs map[string][]ChangeID
	// TestRuns that are still wanted, by their run id.
	TestRuns []string
	// Networks of ours that are still wanted, by name, even if nothing is connected to them yet.
	Networks []string
}

// Power turns machines on and off.
type Power interface {
	// Start returns when the hypervisor runs the machine (not: when its guest is up). Running already is success.
	Start(ctx context.Context, vm string) error
	// Shutdown asks the guest to shut down and waits until the machine is off or ctx ends (then ErrTimeout).
	Shutdown(ctx context.Context, vm string) error
	// Stop turns the machine off at once, as if power failed. Off already is success.
	Stop(ctx context.Context, vm string) error
	// SetAutostart says whether the machine starts by itself with its host, as VM.Autostart shows.
	SetAutostart(ctx context.Context, vm string, on bool) error
}

// Source freezes machines and reads what changed since an earlier checkpoint.
type Source interface {
	// Checkpoint freezes all disks of all machines of the request at one moment while the guests run on. Machines that
	// are off work too. It fails as a whole, leaving nothing. ErrBusy: another job works on the machine.
	Checkpoint(ctx context.Context, req CheckpointRequest) (Checkpoint, error)
	// Forget gives up tracking by these change ids of the machine. Unknown ids are ignored, so is a machine that is gone.
	// A forgotten id may still be answered: by ErrTrackingLost, or by the truth where the source keeps it all the same.
	Forget(ctx context.Context, vm string, ids ...ChangeID) error
}

// ChangeID is what the source needs to tell later what changed since a checkpoint. Opaque to everybody but the driver.
type ChangeID string

// CheckpointRequest orders one frozen moment.
type CheckpointRequest struct {
	// Name is unique for the machine; drivers build their own objects' names from it. [a-z0-9.-]{1,40}
	Name string
	VMs  []CheckpointVM
	// Quiesce asks for an application-consistent moment (guest agent freeze, VSS). When the guest cannot, the
	// checkpoint is taken all the same and Checkpoint.Consistency says crash.
	Quiesce bool
	// PauseBudget bounds how long guests may be held still so that several machines share one moment. 0: 2 s.
	PauseBudget time.Duration
}

// CheckpointVM is one machine of a checkpoint.
type CheckpointVM struct {
	ID string
	// Since is the change id of the last committed point; empty when there is none.
	Since ChangeID
	// LeaveOut are ids of disks that are none of ours: they are neither frozen nor tracked, and not among the disks of
	// the checkpoint. Ids that the machine does not have are ignored; when nothing else is left it is ErrInvalid. A disk
	// that is taken back is one without tracking until the checkpoint after.
	LeaveOut []string
}

// Consistency says what a point can promise to applications.
type Consistency string

// The two kinds of consistency.
const (
	CrashConsistent       Consistency = "crash"
	ApplicationConsistent Consistency = "application"
)

// Checkpoint is a frozen moment of all disks of one or several machines, readable until Close.
type Checkpoint interface {
	// Taken is the moment, by the appliance's clock, just before the freeze: no write that the guest finished before it
	// is missing.
	Taken() time.Time
	Consistency() Consistency
	// ChangeIDs has one entry for each machine of the request (absent where the source cannot track, as for raw disks).
	ChangeIDs() map[string]ChangeID
	// Disks are those of all machines but for the ones that were left out, in the order of the request and of the
	// machine's hardware.
	Disks() []FrozenDisk
	// Close ends reading and gives scratch space back; the change ids stay valid. Closing twice is success. After an error
	// something may be left, and Close can be called again, also when the machine was frozen anew since: it removes what is
	// left of this checkpoint, and succeeds only when nothing is. ErrBusy: not while another job works on the machine.
	Close(ctx context.Context) error
}

// FrozenDisk is one disk at the moment of its checkpoint. ReadAt may be called from many goroutines. When the checkpoint
// had to give way to production, every further read fails with ErrGaveWay.
type FrozenDisk interface {
	io.ReaderAt
	VM() string
	// ID names the disk within its machine, as Disk.ID.
	ID() string
	Size() int64
	// Changed yields what may differ from the request's Since, or ErrTrackingLost at once when the source cannot tell
	// for this disk (no Since, bitmap lost, disk new or resized, raw format).
	Changed(ctx context.Context) snapshot.Extents
	// Allocated yields the whole disk as data and zero extents without gaps.
	Allocated(ctx context.Context) snapshot.Extents
}

// Target keeps replicas.
type Target interface {
	// CreateReplica provisions the offline machine and its empty storage; calling again with the same spec.ID returns the
	// one that exists. ErrNameTaken, ErrMACTaken, ErrNoSpace, ErrUnknownNetwork, ErrUnknownStorage are found before
	// anything is made.
	CreateReplica(ctx context.Context, spec ReplicaSpec) (Replica, error)
	// Adopt turns an existing machine that is off into a replica: its own disks become the ground below its first point
	// and are never written until Settle. A replica whose live disks were production before becomes a replica again:
	// its live disks are discarded, its points stay. ErrRunning when the machine is on.
	Adopt(ctx context.Context, spec AdoptSpec) (Replica, error)
	// Replica finds one by id, or ErrNotFound.
	Replica(ctx context.Context, id string) (Replica, error)
}

// ReplicaSpec says what machine to provision.
type ReplicaSpec struct {
	// ID names the replica for us, unique over all hosts. [a-z0-9-]{1,40}
	ID string
	// Hardware is complete: names, CPUs, memory, firmware, disks with sizes, NICs with target networks.
	Hardware Hardware
	// Storage is the name of one of Host.Storage. Empty: the host's default.
	Storage string
	// PreferUUID is taken as the machine's UUID when it is free on the host (guests see it as their serial number).
	PreferUUID string
}

// AdoptSpec names the machine to take over as a replica.
type AdoptSpec struct {
	ID string
	VM string
	// Storage for the points, as in ReplicaSpec.
	Storage string
}

// Replica is an offline machine together with its recovery points. It has at most one open draft and at most one live
// run; test runs stand beside both.
type Replica interface {
	ID() string
	// Status reads everything from the target; it is the truth, whatever the state database says.
	Status(ctx context.Context) (ReplicaStatus, error)
	// Draft opens an uncommitted point on top of the newest one, discarding any draft that was left over. Disks of the
	// request that are new are made (empty), larger ones are extended (zeros), missing ones are not part of the point.
	// ErrNoSpace when the storage has not even room for the expected bytes.
	Draft(ctx context.Context, req DraftRequest) (Draft, error)
	// Open gives read access to a committed point; close every disk's PointReader when done. ErrBusy: not beside an open
	// draft, where the host shows the disks of both under one name.
	Open(ctx context.Context, point string) (PointReader, error)
	// Drop removes a point; other points keep their content (its data is merged where they need it). A point that a run
	// stands on is ErrInUse. Dropping an unknown point is success.
	Drop(ctx context.Context, point string) error
	// Mark keeps with a point why its content may be wrong (Point.Suspect), durable when it returns. The data stays as it
	// is; no run, draft or reader stands in the way. An unknown point is ErrNotFound.
	Mark(ctx context.Context, point, suspect string) error
	// Run starts a machine from a point; see RunSpec. The point itself is never written.
	Run(ctx context.Context, spec RunSpec) (RunStatus, error)
	// End stops a run and discards what it wrote. An unknown run is success.
	End(ctx context.Context, run string) error
	// Settle gives an adopted machine its own disks and definition back, holding exactly the newest point, and ends
	// being a replica: its points are gone and the machine is off. A disk of its own that the point does not have is as
	// it was when the machine was adopted, at its place. Only for adopted replicas (else ErrInvalid).
	Settle(ctx context.Context) error
	// Delete removes the replica with all points and runs. An adopted machine gets its definition back, its own disks
	// untouched. Already gone is success.
	Delete(ctx context.Context) error
}

// LiveRun is the id of the run that is the replica machine itself (failover).
const LiveRun = "live"

// RunSpec says how to start a machine from a point.
type RunSpec struct {
	// ID is LiveRun for a failover: the replica machine itself starts, and keeps what it writes until End. Any other id
	// is a test: a second machine named <replica>-test-<id> beside the replica, its writes apart. [a-z0-9-]{1,20}
	ID string
	// Point is the id of a committed point. For LiveRun that exists already, a different point is ErrInUse.
	Point string
	// Networks replaces the network of each NIC by MAC; NICs not named keep theirs. For tests every NIC must be named.
	Networks map[string]string
	// Convert makes the guest start on this host's own devices before the run starts for the first time, for which the host
	// must be capable of Convert (else ErrIncapable). What changes in the guest goes to the run's own disks, and its machine
	// has the devices that the guest then has drivers for. It takes minutes, during which drafts, readers and other runs go on
	// as ever. A run that exists is not converted again. When a conversion is cut off, the next call begins it anew, and End
	// ends it. ErrUnconvertible: nothing is left of the run.
	Convert bool
	// Prepare, with Convert, makes the run and does not start it: the same call without Prepare does, in the time of a start.
	Prepare bool
}

// RunStatus describes a run.
type RunStatus struct {
	ID    string
	Point string
	// VM is the id of the machine that runs, for Host.VM, Power and Guest.
	VM    string
	State PowerState
}

// ReplicaStatus is what the target holds.
type ReplicaStatus struct {
	// VM is the id of the replica machine.
	VM string
	// Adopted says that the machine was there before us.
	Adopted bool
	// Points are the committed ones, oldest first by commit order.
	Points []Point
	Runs   []RunStatus
	// Stray says that the replica machine is on although no live run was ordered.
	Stray bool
}

// Point is a committed, complete, bootable moment at the target. All of it is stored with the data, at commit, but for
// Suspect, which may come later.
type Point struct {
	// ID is unique within the group and the same for all machines of one cycle. [a-z0-9.-]{1,40}
	ID string
	// Taken is Checkpoint.Taken.
	Taken       time.Time
	Committed   time.Time
	Consistency Consistency
	// ChangeID is what the source gave for this machine; empty where it cannot track.
	ChangeID ChangeID
	Disks    []PointDisk
	// Suspect says, for people, why the content may be wrong; empty: nothing is known against it. See Replica.Mark.
	Suspect string
}

// PointDisk is one disk of a point.
type PointDisk struct {
	ID   string
	Size int64
	// Digest is snapshot.Digest over all block hashes, in hex.
	Digest string
}

// DraftRequest opens an uncommitted point.
type DraftRequest struct {
	Point string
	Disks []DraftDiskSpec
	// ExpectBytes is how much the copy will write at most, as far as known; 0: unknown.
	ExpectBytes int64
	// Compress is the wish that what is written be stored compressed. It only changes how much room a point takes, never
	// what it holds, and may be different for each point of a replica. Where the host is not capable of Compression, or for
	// what cannot be compressed, nothing comes of it.
	Compress bool
}

// DraftDiskSpec is a disk of a new point.
type DraftDiskSpec struct {
	ID   string
	Size int64
	// Boot order, bus and so on follow the replica's hardware; a disk that is not part of it is attached with Bus, and at
	// this place in the boot order, as Disk.Boot, unless another device has that place or the machine was adopted. Empty
	// Bus: both as at the newest point; where that does not have the disk, as the target likes.
	Bus  string
	Boot int
}

// Draft is an uncommitted recovery point. Exactly one of Commit and Discard ends it.
type Draft interface {
	Disks() []DraftDisk
	// Commit makes the draft a recovery point: atomic, and durable when it returns. The caller flushed every disk and
	// every map before; Commit flushes again what it owns. After an error the caller asks Status whether it happened.
	Commit(ctx context.Context, p Point) error
	// Discard removes the draft. After a Commit it does nothing. After an error something may be left, and Discard can be
	// called again, also when the replica has another draft since: it succeeds only when nothing of this one is left.
	Discard(ctx context.Context) error
}

// DraftDisk is one disk of a draft: reads show the newest point below what was written.
type DraftDisk interface {
	snapshot.Disk
	ID() string
	// Map is room of snapshot.MapSize(Size()) bytes that lives and dies with the point: it starts as a copy of the newest point's map.
	Map() snapshot.Disk
	// MapValid says that Map describes the content below this draft. False for a disk that was adopted and has no point
	// yet; true with an all-zero map for a new, empty disk.
	MapValid() bool
}

// PointReader reads a committed point.
type PointReader interface {
	Disks() []PointDiskReader
	Close() error
}

// PointDiskReader is one disk of a committed point.
type PointDiskReader interface {
	io.ReaderAt
	ID() string
	Size() int64
	// Map reads the block map that was kept at commit.
	Map() io.ReaderAt
}

// Isolation makes networks that lead nowhere.
type Isolation interface {
	// IsolatedNetwork makes (or finds) a network without uplink, address or DHCP.
	IsolatedNetwork(ctx context.Context, name string) error
	// AssertIsolated fails with ErrNotIsolated when anything but our own test machines is connected to it.
	AssertIsolated(ctx context.Context, name string) error
	// RemoveNetwork removes an isolated network of ours. Unknown is success, a foreign one is ErrForeign.
	RemoveNetwork(ctx context.Context, name string) error
}

// Guest asks a running machine how it is.
type Guest interface {
	// AgentPing returns nil when the guest agent answers.
	AgentPing(ctx context.Context, vm string) error
	// Dial opens a TCP connection to addr ("ip:port") from within the named network of the host, so that a guest in an
	// isolated network can be asked. from is the address with prefix to use there ("192.0.2.9/24"), for which the host
	// must be capable of Dial; empty: the host's own way, for networks that have one.
	Dial(ctx context.Context, network, from, addr string) (net.Conn, error)
}

// Screen looks at a machine as a person at its monitor would.
type Screen interface {
	// Screenshot gives what the first screen of a running machine shows now, in its own size. ErrInvalid when the machine
	// is off, ErrIncapable when it has no screen.
	Screenshot(ctx context.Context, vm string) (image.Image, error)
}

// Prober tries the ways to the content of disks on the host as it is: what works on one may be refused, missing or slow on
// another.
type Prober interface {
	// ProbePaths makes one small disk of its own in a storage (a name as in Host.Storage; empty: the host's default), writes
	// and reads it by every way that the driver knows, and removes it, whatever happened and also when ctx ended. It takes two
	// minutes at most and moves some hundred MiB at most, and never touches a disk of anybody else. The ways are in the order in
	// which the driver prefers them. That one does not work is no error of the probe.
	//
	// Errors: ErrUnknownStorage, ErrNoSpace, and whatever else kept the disk from being made or removed.
	ProbePaths(ctx context.Context, storage string) ([]DataPath, error)
}

// DataPath is a way to the content of disks, and what became of trying it.
type DataPath struct {
	Name string
	// Read and Write are how many bytes it moves in a second, a write with its flush. 0: it is no way to do that, or failed.
	Read, Write int64
	// UsedToRead and UsedToWrite say that it is the one that the driver takes. Of all ways one at most is used for each.
	UsedToRead, UsedToWrite bool
	// Err says why it cannot be used, or not for all that it is for; nil: it works.
	Err error
}
