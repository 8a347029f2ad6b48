// Package api holds the words of the product: the resources that users see, their limits and validation, errors with
// codes, and the [Service] that the appliance implements. api/server publishes it over HTTP, api/client speaks it, the
// command line and the console know nothing else. It knows no engine and no driver.
//
// Times are RFC 3339 in UTC, sizes are bytes, durations are whole seconds, and their fields say so.
package api

import (
	"context"
	"time"
)

// Service is everything a user can do. The engine implements it, the client is its mirror image. Orders that take time
// return the Job that does them.
type Service interface {
	Hosts
	Groups
	Orders
	Jobs
	Records
	Recovery
	Planning
	System
}

// Hosts connects hypervisors.
type Hosts interface {
	AddHost(ctx context.Context, spec HostSpec) (Host, error)
	ListHosts(ctx context.Context) ([]Host, error)
	GetHost(ctx context.Context, id string) (Host, error)
	// RemoveHost refuses while a group uses the host (CodeInUse).
	RemoveHost(ctx context.Context, id string) error
	// Inventory asks the host itself, now.
	Inventory(ctx context.Context, id string) (Inventory, error)
	// Doctor runs the drivers' conformance checks that only read.
	Doctor(ctx context.Context, id string) (DoctorReport, error)
	// ProbePaths tries each way to the content of disks on a small disk that is made for that and removed again. It takes
	// two minutes at most.
	ProbePaths(ctx context.Context, id string, o ProbeOrder) (DataPathReport, error)
}

// Groups are what is protected.
type Groups interface {
	// CreateGroup validates against both hosts and starts the first mirror, or leaves that to the schedule while the
	// policy's windows are closed.
	CreateGroup(ctx context.Context, spec GroupSpec) (Group, error)
	ListGroups(ctx context.Context, q GroupQuery) (Page[Group], error)
	GetGroup(ctx context.Context, id string) (Group, error)
	// UpdatePolicy changes the policy; revision must be the one that was read (CodeStale).
	UpdatePolicy(ctx context.Context, id string, revision int64, p Policy) (Group, error)
	ListPoints(ctx context.Context, group string) ([]Point, error)
	// DropPoint removes one point by hand.
	DropPoint(ctx context.Context, group, point string) (Job, error)
	// RemoveGroup ends protection; with deleteReplicas the replicas and their points go too.
	RemoveGroup(ctx context.Context, id string, deleteReplicas bool) (Job, error)
}

// Orders act on a group as a whole.
type Orders interface {
	// SyncNow runs a cycle now instead of waiting for the schedule.
	SyncNow(ctx context.Context, group string) (Job, error)
	// Verify compares the replicas with their sources now, in full, while cycles go on; see Group.Verification. A mismatch
	// is an alert, marks the points that are built on it, and is repaired by a cycle that compares everything.
	Verify(ctx context.Context, group string) (Job, error)
	// Pause stops the schedule, Resume starts it again.
	Pause(ctx context.Context, group string) (Group, error)
	Resume(ctx context.Context, group string) (Group, error)
	// Test starts the replicas from a point in an isolated network, beside running replication.
	Test(ctx context.Context, group string, o TestOrder) (Job, error)
	// EndTest cleans a test up. Only then has it passed.
	EndTest(ctx context.Context, group string) (Job, error)
	Failover(ctx context.Context, group string, o FailoverOrder) (Job, error)
	// Commit accepts a failover: rolling back is no longer possible.
	Commit(ctx context.Context, group string) (Job, error)
	// Rollback undoes a failover that was not committed: what the replicas wrote is discarded, protection goes on.
	Rollback(ctx context.Context, group string) (Job, error)
	// Reprotect swaps the roles after a committed failover and replicates the differences back.
	Reprotect(ctx context.Context, group string) (Job, error)
	// Failback brings the machines home: reprotect, planned failover, and protection in the first direction again.
	Failback(ctx context.Context, group string) (Job, error)
	// Fence turns machines off, hard, that run although they must not: those that were failed over, and replicas that
	// nobody ordered to run. What they wrote is given up.
	Fence(ctx context.Context, group string) (Job, error)
}

// Jobs are everything that takes time, and the events of everything that happens.
type Jobs interface {
	// ListJobs gives the newest first.
	ListJobs(ctx context.Context, q JobQuery) (Page[Job], error)
	GetJob(ctx context.Context, id string) (Job, error)
	// CancelJob asks a job to stop and undo; it returns at once.
	CancelJob(ctx context.Context, id string) (Job, error)
	// Events streams everything after the event with id after (0: from now on) until ctx ends. The channel is closed
	// when the reader is too slow; it then reads on from the last id it saw.
	Events(ctx context.Context, after uint64) (<-chan Event, error)
}

// System is the appliance itself.
type System interface {
	About(ctx context.Context) (About, error)
}

// About tells who answers.
type About struct {
	Appliance string    `json:"appliance" doc:"Identity of this appliance"`
	Version   string    `json:"version"`
	Started   time.Time `json:"started"`
}
