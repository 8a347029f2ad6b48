package api

import (
	"slices"
	"time"
)

// HostSpec connects a hypervisor.
type HostSpec struct {
	Name string `json:"name" minLength:"1" maxLength:"63" pattern:"^[a-zA-Z0-9][a-zA-Z0-9._-]*$" doc:"Name by which groups refer to the host"`
	// URI never holds a secret: keys are named by file (keyfile=, known_hosts=), a password is given apart.
	URI string `json:"uri" minLength:"1" maxLength:"1024" doc:"Where the host is" example:"qemu+ssh://root@kvm1/system?keyfile=/etc/understudy/id_ed25519&known_hosts=/etc/understudy/known_hosts"`
	// User and Password are for hosts that are signed in to, as ESX and vCenter are; others take neither. A host that is
	// shown has no password; an edit without one keeps it as long as URI and User stay.
	User     string `json:"user,omitempty" maxLength:"256" doc:"Who signs in, at hosts that want it; libvirt hosts take no user here"`
	Password Secret `json:"password,omitzero" writeOnly:"true" format:"password" maxLength:"1024" doc:"Kept sealed, never shown. An edit without one keeps it, unless address or user change"`
	// MaxJobs bounds how many copies run on this host at once.
	MaxJobs int `json:"maxJobs,omitempty" minimum:"0" maximum:"64" doc:"Copies at once on this host; 0 means 4"`
}

// Host is a connected hypervisor endpoint.
type Host struct {
	HostSpec
	ID           string       `json:"id"`
	Revision     int64        `json:"revision" doc:"For If-Match"`
	Identity     string       `json:"identity" doc:"The same however the host is reached"`
	Product      string       `json:"product"`
	Version      string       `json:"version"`
	Connected    bool         `json:"connected"`
	Problem      string       `json:"problem,omitempty" doc:"Why it is not connected"`
	Capabilities Capabilities `json:"capabilities"`
}

// Capabilities of a host, as its driver found them.
type Capabilities struct {
	Source         bool     `json:"source"`
	Target         bool     `json:"target"`
	ChangeTracking bool     `json:"changeTracking"`
	Quiesce        bool     `json:"quiesce"`
	GroupMoment    bool     `json:"groupMoment"`
	Compression    bool     `json:"compression" doc:"Points can be stored compressed"`
	Convert        bool     `json:"convert" doc:"Guests from other hypervisors can be converted when they start"`
	Isolation      bool     `json:"isolation"`
	Guest          bool     `json:"guest"`
	Screen         bool     `json:"screen" doc:"What machines show can be photographed, as a proof that they started"`
	Missing        []string `json:"missing,omitempty" doc:"Why something is missing"`
}

// Inventory is what a host shows now.
type Inventory struct {
	Machines []Machine `json:"machines"`
	Networks []Network `json:"networks"`
	Storage  []Storage `json:"storage"`
}

// Machine is a VM of a host.
type Machine struct {
	ID         string   `json:"id"`
	Name       string   `json:"name"`
	State      string   `json:"state" enum:"off,running,paused"`
	CPUs       int      `json:"cpus"`
	Memory     int64    `json:"memory"`
	Firmware   string   `json:"firmware"`
	Disks      []Disk   `json:"disks"`
	NICs       []NIC    `json:"nics"`
	Protected  string   `json:"protected,omitempty" doc:"Group that protects it"`
	Replica    bool     `json:"replica,omitempty" doc:"Made by an appliance as a replica"`
	GuestAgent bool     `json:"guestAgent,omitempty"`
	Warnings   []string `json:"warnings,omitempty"`
}

// Disk of a machine.
type Disk struct {
	ID       string `json:"id"`
	Size     int64  `json:"size"`
	Bus      string `json:"bus"`
	Format   string `json:"format"`
	Path     string `json:"path,omitempty"`
	Boot     int    `json:"boot,omitempty" doc:"Place in the boot order, from 1; 0 means none"`
	Excluded string `json:"excluded,omitempty" doc:"Why it cannot be protected"`
}

// NIC of a machine.
type NIC struct {
	MAC     string `json:"mac"`
	Model   string `json:"model"`
	Network string `json:"network"`
}

// Network of a host.
type Network struct {
	Name     string `json:"name"`
	Kind     string `json:"kind"`
	Isolated bool   `json:"isolated"`
}

// Storage of a host.
type Storage struct {
	Name    string `json:"name"`
	Path    string `json:"path"`
	Free    int64  `json:"free"`
	Total   int64  `json:"total"`
	Default bool   `json:"default,omitempty"`
}

// DoctorReport says what works on a host.
type DoctorReport struct {
	Host   string        `json:"host"`
	Checks []DoctorCheck `json:"checks"`
}

// DoctorCheck is one check of the conformance suite.
type DoctorCheck struct {
	Name    string `json:"name"`
	Result  string `json:"result" enum:"passed,failed,skipped"`
	Message string `json:"message,omitempty"`
}

// ProbeOrder says where the disk of a probe is made.
type ProbeOrder struct {
	Storage string `json:"storage,omitempty" maxLength:"256" doc:"Storage of the host; empty means its default"`
}

// DataPathReport says which ways to the content of disks work on a host, in the order in which they are preferred.
type DataPathReport struct {
	Host  string     `json:"host"`
	Paths []DataPath `json:"paths"`
}

// DataPath is a way to the content of disks.
type DataPath struct {
	Name           string `json:"name" doc:"Such as hotadd, https, socket or ssh"`
	ReadPerSecond  int64  `json:"readPerSecond" doc:"Bytes; 0 means that nothing is read this way"`
	WritePerSecond int64  `json:"writePerSecond" doc:"Bytes, made durable; 0 means that nothing is written this way"`
	UsedToRead     bool   `json:"usedToRead" doc:"Replication reads disks of this host this way"`
	UsedToWrite    bool   `json:"usedToWrite" doc:"Replication writes replicas on this host this way"`
	Problem        string `json:"problem,omitempty" doc:"Why it does not work"`
	Hint           string `json:"hint,omitempty" doc:"What to do about it"`
}

// GroupSpec orders protection.
type GroupSpec struct {
	Name       string         `json:"name" minLength:"1" maxLength:"40" pattern:"^[a-zA-Z0-9][a-zA-Z0-9._-]*$"`
	SourceHost string         `json:"sourceHost" doc:"Host name or id"`
	TargetHost string         `json:"targetHost" doc:"Host name or id; another host than the source"`
	Storage    string         `json:"storage,omitempty" doc:"Storage of the target for the replicas; empty means its default"`
	Machines   []GroupMachine `json:"machines" minItems:"1" maxItems:"100"`
	Policy     Policy         `json:"policy"`
	Networks   []NetworkMap   `json:"networks,omitempty" doc:"Source network to target network; unmapped ones keep their name"`
	Runbook    *Runbook       `json:"runbook,omitempty" doc:"What is done around the start of the machines"`
}

// GroupMachine is a member and the wishes for its replica. Members start stage by stage; those of a stage in the order of
// the list, several at once.
type GroupMachine struct {
	VM string `json:"vm" minLength:"1" doc:"Machine id or name at the source"`
	// Stage of the start: production is shut down in the reverse order.
	Stage int `json:"stage,omitempty" minimum:"0" maximum:"20" doc:"Start group, from 1; the next stage starts when this one has. 0 means 1"`
	// ReplicaName defaults to the machine's name.
	ReplicaName string `json:"replicaName,omitempty" maxLength:"63"`
	CPUs        int    `json:"cpus,omitempty" minimum:"0" maximum:"1024" doc:"0 means as the source"`
	Memory      int64  `json:"memory,omitempty" minimum:"0" doc:"Bytes; 0 means as the source"`
	NICModel    string `json:"nicModel,omitempty" enum:"virtio,e1000,e1000e,rtl8139,vmxnet3" doc:"Empty means as the source"`
	// Convert is for guests that have no driver for what the target offers. It happens on what a test or a failover throws
	// away or keeps, never on a recovery point, and never at home.
	Convert bool `json:"convert,omitempty" doc:"Make the guest start on the target's own devices, by virt-v2v, when its replica is started there; takes minutes"`
	// Disks that are not named are protected, and attached as at the source.
	Disks  []GroupDisk `json:"disks,omitempty" maxItems:"64" doc:"Wishes for single disks"`
	Checks []Check     `json:"checks,omitempty" doc:"What must answer before a start counts as passed"`
}

// GroupDisk is a wish for one disk of a machine.
type GroupDisk struct {
	ID string `json:"id" minLength:"1" maxLength:"64" doc:"As the source host names it"`
	// LeaveOut: it is neither frozen nor copied, and no recovery point has it. A failback leaves the one at home as it is.
	LeaveOut bool   `json:"leaveOut,omitempty" doc:"Not protected, such as swap, scratch or backups; the replica does not have it"`
	Bus      string `json:"bus,omitempty" enum:"virtio,scsi,sata" doc:"What the replica's disk is attached to; empty means as at the source"`
}

// LeftOut are the ids of the disks that are left out.
func (m GroupMachine) LeftOut() (ids []string) {
	for _, d := range m.Disks {
		if d.LeaveOut {
			ids = append(ids, d.ID)
		}
	}
	return ids
}

// LeavingOut gives the machine's wishes with exactly these disks left out.
func (m GroupMachine) LeavingOut(ids []string) (wishes []GroupDisk) {
	for _, d := range m.Disks {
		d.LeaveOut = slices.Contains(ids, d.ID)
		if d.LeaveOut || d.Bus != "" {
			wishes = append(wishes, d)
		}
	}
	for _, id := range ids {
		if !slices.ContainsFunc(wishes, func(d GroupDisk) bool { return d.ID == id }) {
			wishes = append(wishes, GroupDisk{ID: id, LeaveOut: true})
		}
	}
	return wishes
}

// Check is a boot check. "running" is always made.
type Check struct {
	Kind string `json:"kind" enum:"agent,tcp,http"`
	// Address is "ip:port" for tcp, a URL with an IP address for http.
	Address string `json:"address,omitempty"`
	// From is the address that a test asks from inside the isolated network; default: the last-but-one of the guest's /24.
	From           string `json:"from,omitempty" example:"192.0.2.253/24"`
	Contains       string `json:"contains,omitempty" doc:"Text that the HTTP answer must contain"`
	TimeoutSeconds int    `json:"timeoutSeconds,omitempty" minimum:"0" maximum:"3600" doc:"0 means 300"`
}

// NetworkMap maps a source network to a target network.
type NetworkMap struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// Policy says how a group is protected.
type Policy struct {
	RPOSeconds  int             `json:"rpoSeconds" minimum:"5" maximum:"604800" doc:"How old the newest point may become"`
	Retention   []RetentionTier `json:"retention,omitempty" doc:"Empty means the newest 24 points"`
	Consistency string          `json:"consistency,omitempty" enum:"crash,application" doc:"application asks the guest to quiesce"`
	// GroupMoment asks for one moment over all machines, at the price of holding them still for an instant.
	GroupMoment bool `json:"groupMoment,omitempty"`
	// VerifyCycles reads both sides in full in every cycle and compares before the commit.
	VerifyCycles bool `json:"verifyCycles,omitempty" doc:"Read both sides in full in every cycle and compare before the commit"`
	// VerifyEverySeconds is how often a verification compares all of the replicas with their sources, beside the cycles.
	VerifyEverySeconds int `json:"verifyEverySeconds,omitempty" minimum:"0" maximum:"31536000" doc:"How often a verification compares the whole replicas with their sources; 0 means only when it is ordered"`
	// BandwidthMbit bounds the copies of this group; 0 means no bound.
	BandwidthMbit int `json:"bandwidthMbit,omitempty" minimum:"0" maximum:"1000000"`
	// Compression is how points are stored at the target, from the next one on. It changes only how much room they take.
	Compression string `json:"compression,omitempty" enum:"none,zstd" doc:"How points are stored at the target, from the next one on; empty means none"`
	// Windows are when the schedule may start cycles; one that runs goes on. What a person orders starts at once.
	Windows  []Window `json:"windows,omitempty" maxItems:"32" doc:"When the schedule starts cycles; empty means always"`
	TimeZone string   `json:"timeZone,omitempty" maxLength:"64" example:"Europe/Berlin" doc:"Of the windows; empty means UTC"`
}

// Kinds of Policy.Compression.
const (
	CompressionNone = "none"
	CompressionZstd = "zstd"
)

// RetentionTier keeps one point for each interval, for a time. The newest point is always kept.
type RetentionTier struct {
	EverySeconds int `json:"everySeconds" minimum:"0" doc:"0 keeps every point"`
	ForSeconds   int `json:"forSeconds" minimum:"0" doc:"0 bounds by count only"`
	Count        int `json:"count,omitempty" minimum:"0" doc:"0 bounds by time only"`
}

// GroupState is where a group stands.
type GroupState string

// The states of a group. Transitions: appliance/protection.
const (
	StateMirroring   GroupState = "mirroring"    // no complete point in this direction yet
	StateProtected   GroupState = "protected"    // cycles run
	StateFailingOver GroupState = "failing-over" // an order works on it
	StateFailedOver  GroupState = "failed-over"  // replicas run; commit or roll back
	StateCommitted   GroupState = "committed"    // replicas are production; reprotect or fail back
	StateRollingBack GroupState = "rolling-back"
	StateReversing   GroupState = "reversing" // reprotect is at work: roles are being swapped
	StateFailingBack GroupState = "failing-back"
	StateRemoving    GroupState = "removing"
)

// Group is a protection group.
type Group struct {
	GroupSpec
	ID       string     `json:"id"`
	Revision int64      `json:"revision" doc:"For If-Match"`
	State    GroupState `json:"state"`
	// Reversed: the roles are swapped; production runs on the target host.
	Reversed bool          `json:"reversed"`
	Paused   bool          `json:"paused"`
	Members  []GroupMember `json:"members"`
	RPO      RPOStatus     `json:"rpo"`
	Health   Health        `json:"health" enum:"met,at-risk,missed,off"`
	// HealthCode and HealthReason say why it is not met.
	HealthCode   string      `json:"healthCode,omitempty" enum:"paused,first-mirror,no-point,point-too-old,point-old,cycle-failed,failing-over,failed-over,committed,rolling-back,reversing,failing-back,removing"`
	HealthReason string      `json:"healthReason,omitempty"`
	Points       int         `json:"points"`
	Test         *TestReport `json:"test,omitempty" doc:"The running test, or the last one"`
	// Tested is when the last test that passed ended.
	Tested        *time.Time `json:"tested,omitempty" doc:"End of the last test that passed"`
	TestFreshness Freshness  `json:"testFreshness" enum:"fresh,stale,never,failed" doc:"fresh: one passed in the last 90 days"`
	// Verification compares replicas and sources on order or by schedule (Policy.VerifyEverySeconds).
	Verification *Verification `json:"verification,omitempty" doc:"The running verification, or the last one"`
	Alerts       []Alert       `json:"alerts,omitempty" doc:"What is wrong now and needs a person"`
	Job          string        `json:"job,omitempty" doc:"Job that works on the group now"`
	Problem      string        `json:"problem,omitempty" doc:"Why the last cycle or order failed"`
	Hint         string        `json:"hint,omitempty" doc:"What to do about it"`
	Created      time.Time     `json:"created"`
}

// Verification is the record of comparing the replicas of a group with their sources, block by block and in full.
type Verification struct {
	ID string `json:"id" doc:"Its job"`
	// State: passed, nothing differed; mismatch, something did; repaired, something did, and a new point was made by
	// comparing everything; failed, it did not come to its end.
	State   string     `json:"state" enum:"running,passed,mismatch,repaired,failed"`
	Started time.Time  `json:"started"`
	Ended   *time.Time `json:"ended,omitempty"`
	// Points that were compared with the source at their own moment, in the order of their making.
	Points          []string          `json:"points"`
	BlocksCompared  int64             `json:"blocksCompared" doc:"Blocks of 64 KiB"`
	BytesCompared   int64             `json:"bytesCompared"`
	BlocksDifferent int64             `json:"blocksDifferent"`
	BytesDifferent  int64             `json:"bytesDifferent"`
	Machines        []VerifiedMachine `json:"machines"`
	Suspect         []string          `json:"suspect,omitempty" doc:"Points that may be wrong for what differed"`
	Repaired        string            `json:"repaired,omitempty" doc:"The good point that was made then"`
	Problem         string            `json:"problem,omitempty"`
}

// VerifiedMachine is one machine of a verification.
type VerifiedMachine struct {
	Machine string         `json:"machine"`
	Disks   []VerifiedDisk `json:"disks"`
}

// VerifiedDisk is one disk of a verification.
type VerifiedDisk struct {
	ID             string  `json:"id"`
	Size           int64   `json:"size"`
	BytesCompared  int64   `json:"bytesCompared"`
	BytesDifferent int64   `json:"bytesDifferent"`
	BytesDamaged   int64   `json:"bytesDamaged" doc:"Of those that differ: changed at the target after they were written. The others changed at the source without being reported"`
	Ranges         []Range `json:"ranges,omitempty" doc:"What differed; with very many ranges, some"`
}

// Range of a disk in bytes.
type Range struct {
	Offset int64 `json:"offset"`
	Length int64 `json:"length"`
}

// GroupMember is a machine of the group with both its sides.
type GroupMember struct {
	Name      string `json:"name"`
	SourceVM  string `json:"sourceVM" doc:"Machine id on the source host"`
	TargetVM  string `json:"targetVM,omitempty" doc:"Machine id on the target host"`
	ReplicaID string `json:"replicaId"`
	Problem   string `json:"problem,omitempty"`
}

// RPOStatus is the age of the newest point, counted from the start of its cycle.
type RPOStatus struct {
	AgeSeconds  float64    `json:"ageSeconds"`
	NewestTaken *time.Time `json:"newestTaken,omitempty"`
	Met         bool       `json:"met"`
	// WorstSeconds is the largest age seen since the first point.
	WorstSeconds float64 `json:"worstSeconds"`
}

// Point is a recovery point of a group: the same moment, or the same cycle, of all its machines.
type Point struct {
	ID          string         `json:"id"`
	Taken       time.Time      `json:"taken" doc:"Start of its cycle"`
	Committed   time.Time      `json:"committed"`
	Consistency string         `json:"consistency" enum:"crash,application"`
	Machines    []PointMachine `json:"machines"`
	// Kind of the cycle that made it.
	Kind string `json:"kind" enum:"full,incremental,difference"`
	// BytesRead from the source, BytesWritten to the target.
	BytesRead    int64   `json:"bytesRead"`
	BytesWritten int64   `json:"bytesWritten"`
	Seconds      float64 `json:"seconds" doc:"From the checkpoint to the commit"`
	Verified     bool    `json:"verified" doc:"Compared in full with the source before the commit"`
	Suspect      string  `json:"suspect,omitempty" doc:"Why the content may be wrong. A point that is suspect is started only when it is named"`
}

// PointMachine has the digests of a machine's disks at a point.
type PointMachine struct {
	Machine string      `json:"machine"`
	Disks   []PointDisk `json:"disks"`
}

// PointDisk is one disk of a point.
type PointDisk struct {
	ID     string `json:"id"`
	Size   int64  `json:"size"`
	Digest string `json:"digest" doc:"Over the hashes of all blocks, kept at commit"`
}

// TestOrder orders a test failover.
type TestOrder struct {
	Point string `json:"point,omitempty" doc:"Empty means the newest that is not suspect"`
}

// FailoverOrder orders a failover.
type FailoverOrder struct {
	// Planned shuts the source down and makes a last cycle: nothing is lost.
	Planned bool   `json:"planned,omitempty"`
	Point   string `json:"point,omitempty" doc:"For an unplanned failover; empty means the newest that is not suspect"`
	// Force turns source machines off that still run when an unplanned failover is ordered. Without it such an order is refused.
	Force bool `json:"force,omitempty" doc:"Turn the source off hard when it still runs"`
}

// TestReport is the record of a test failover.
type TestReport struct {
	ID       string        `json:"id"`
	Point    string        `json:"point"`
	State    string        `json:"state" enum:"starting,running,passed,failed"`
	Started  time.Time     `json:"started"`
	Ended    *time.Time    `json:"ended,omitempty"`
	Seconds  float64       `json:"seconds" doc:"From the order to checks passed"`
	Machines []TestMachine `json:"machines"`
	Problem  string        `json:"problem,omitempty"`
}

// TestMachine is one machine of a test.
type TestMachine struct {
	Name    string        `json:"name"`
	VM      string        `json:"vm,omitempty"`
	Network string        `json:"network,omitempty"`
	Checks  []CheckResult `json:"checks"`
}

// CheckResult is the outcome of a boot check.
type CheckResult struct {
	Kind    string  `json:"kind"`
	Passed  bool    `json:"passed"`
	Message string  `json:"message,omitempty"`
	Seconds float64 `json:"seconds"`
}

// JobState of a job.
type JobState string

// States of a job.
const (
	JobQueued    JobState = "queued"
	JobRunning   JobState = "running"
	JobUndoing   JobState = "undoing"
	JobSucceeded JobState = "succeeded"
	JobFailed    JobState = "failed"
	JobCancelled JobState = "cancelled"
)

// Ended says that nothing will change any more.
func (s JobState) Ended() bool { return s == JobSucceeded || s == JobFailed || s == JobCancelled }

// Job is work that takes time.
type Job struct {
	ID       string     `json:"id"`
	Kind     string     `json:"kind" doc:"mirror, cycle, verify, test, end-test, failover, commit, rollback, reprotect, failback, fence, drop-point, remove"`
	Group    string     `json:"group,omitempty"`
	State    JobState   `json:"state"`
	Step     string     `json:"step,omitempty" doc:"What it is doing"`
	Steps    []string   `json:"steps" doc:"All steps in order"`
	Progress Progress   `json:"progress"`
	Error    string     `json:"error,omitempty"`
	Hint     string     `json:"hint,omitempty"`
	Created  time.Time  `json:"created"`
	Started  *time.Time `json:"started,omitempty"`
	Ended    *time.Time `json:"ended,omitempty"`
	// Timeline says when each step began and ended, in order, and afterwards each kind of undo.
	Timeline []JobStep `json:"timeline" doc:"What was done when, undos included"`
	Waiting  *Waiting  `json:"waiting,omitempty" doc:"The job waits for a person; see confirm-job"`
	// Result holds figures of a job that ended, by name.
	Result map[string]float64 `json:"result,omitempty"`
}

// Progress of the step at work.
type Progress struct {
	Done  int64 `json:"done" doc:"Bytes"`
	Total int64 `json:"total" doc:"Bytes; 0 means unknown"`
}

// Event is one thing that happened. Ids ascend without gaps.
type Event struct {
	ID   uint64    `json:"id"`
	Time time.Time `json:"time"`
	// Kind is what changed: host, group, point, job, alert, settings.
	Kind    string `json:"kind"`
	Action  string `json:"action" enum:"created,updated,deleted,progress"`
	Subject string `json:"subject" doc:"Id of what changed"`
	Group   string `json:"group,omitempty"`
	Host    string `json:"host,omitempty" doc:"Id of the host that an alert is about"`
	Message string `json:"message,omitempty"`
	Job     *Job   `json:"job,omitempty"`
	// Alert is the one that begins, changes or ends, in events of kind alert.
	Alert *ActiveAlert `json:"alert,omitempty"`
}
