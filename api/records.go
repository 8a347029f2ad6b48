package api

import (
	"cmp"
	"context"
	"time"
)

// Records are what a person sees of the state: sums, lists, history, and what is wrong now. Nothing of them asks a host.
type Records interface {
	// Overview is the state in short, of the groups in scope. Who has a scope is told nothing about hosts and storage.
	Overview(ctx context.Context, scope Scope) (Overview, error)
	// ListMachines gives the machines of all groups.
	ListMachines(ctx context.Context, q MachineQuery) (Page[ProtectedMachine], error)
	// ListAlerts gives what is wrong now, the worst and then the oldest first.
	ListAlerts(ctx context.Context, scope Scope) ([]ActiveAlert, error)
	// History gives what happened, slot by slot, oldest first; of one group, or of all in scope together.
	History(ctx context.Context, q HistoryQuery) (History, error)
}

// Health says whether a group keeps its RPO target.
type Health string

// The healths.
const (
	HealthMet    Health = "met"     // the newest point is younger than the target
	HealthAtRisk Health = "at-risk" // it soon will not be, or the last cycle failed
	HealthMissed Health = "missed"  // it is older
	HealthOff    Health = "off"     // nothing is promised now; the reason says why
)

// Freshness of test failovers.
type Freshness string

// The freshnesses.
const (
	TestFresh  Freshness = "fresh"  // one passed in the last 90 days
	TestStale  Freshness = "stale"  // the last one that passed is older
	TestNever  Freshness = "never"  // none has passed
	TestFailed Freshness = "failed" // the last one failed
)

// GroupQuery chooses groups.
type GroupQuery struct {
	Paging
	Q      string     `query:"q" maxLength:"200" doc:"Text in the name of the group, of a machine or of a host"`
	State  GroupState `query:"state" enum:"mirroring,protected,failing-over,failed-over,committed,rolling-back,reversing,failing-back,removing"`
	Health Health     `query:"health" enum:"met,at-risk,missed,off"`
	Host   string     `query:"host" maxLength:"128" doc:"Id or name of a host on either side"`
	Sort   string     `query:"sort" enum:"name,-name,state,-state,health,-health,age,-age,points,-points,tested,-tested" doc:"Field to sort by, - for descending; default: name"`
	Scope  Scope
}

// MachineQuery chooses protected machines.
type MachineQuery struct {
	Paging
	Q      string `query:"q" maxLength:"200" doc:"Text in the name of the machine, of its group or of a host"`
	Health Health `query:"health" enum:"met,at-risk,missed,off"`
	Group  string `query:"group" maxLength:"128" doc:"Id or name of a group"`
	Host   string `query:"host" maxLength:"128" doc:"Id or name of a host on either side"`
	Sort   string `query:"sort" enum:"name,-name,group,-group,health,-health,age,-age" doc:"Field to sort by, - for descending; default: name"`
	Scope  Scope
}

// JobQuery chooses jobs.
type JobQuery struct {
	Paging
	Group string `query:"group" maxLength:"128" doc:"Id or name of a group; empty means all"`
	State string `query:"state" enum:"active,ended" doc:"active: those that have not ended"`
	Kind  string `query:"kind" maxLength:"40"`
	Scope Scope
}

// HistoryQuery chooses a part of the history.
type HistoryQuery struct {
	Group string // id or name; empty means all together
	Hours int    `query:"hours" minimum:"1" maximum:"744" default:"24" doc:"How far back"`
	Scope Scope
}

// How far back history goes, and when nobody says, in hours.
const (
	maxHistory     = 31 * 24
	defaultHistory = 24
)

// Validate checks the bounds; 0 hours stand for 24.
func (q HistoryQuery) Validate() error {
	if q.Hours < 0 || q.Hours > maxHistory {
		return invalid("hours", "Use 1 to 744.", "a history of %d hours is not kept", q.Hours)
	}
	return nil
}

// Span is how far back.
func (q HistoryQuery) Span() time.Duration {
	return time.Duration(cmp.Or(q.Hours, defaultHistory)) * time.Hour
}

// ProtectedMachine is a machine of a group.
type ProtectedMachine struct {
	Name        string     `json:"name"`
	Group       string     `json:"group" doc:"Id of the group"`
	GroupName   string     `json:"groupName"`
	GroupState  GroupState `json:"groupState"`
	SourceHost  string     `json:"sourceHost" doc:"Name of the host that it runs on in the direction in force"`
	TargetHost  string     `json:"targetHost" doc:"Name of the host of its replica in the direction in force"`
	SourceVM    string     `json:"sourceVM" doc:"Machine id there"`
	ReplicaVM   string     `json:"replicaVM,omitempty" doc:"Machine id of the replica"`
	Health      Health     `json:"health" enum:"met,at-risk,missed,off"`
	RPO         RPOStatus  `json:"rpo"`
	NewestPoint string     `json:"newestPoint,omitempty" doc:"Id of the newest point"`
	Problem     string     `json:"problem,omitempty"`
}

// Overview is the state in short.
type Overview struct {
	Groups     int           `json:"groups"`
	Machines   int           `json:"machines"`
	Health     HealthCount   `json:"health" doc:"Machines by health"`
	Tests      TestCount     `json:"tests" doc:"Groups by freshness of their test failovers"`
	Jobs       []Job         `json:"jobs" nullable:"false" doc:"The newest jobs that have not ended, at most 20"`
	ActiveJobs int           `json:"activeJobs"`
	Alerts     []ActiveAlert `json:"alerts" nullable:"false" doc:"The worst, at most 50"`
	AlertCount int           `json:"alertCount"`
	Hosts      HostCount     `json:"hosts"`
	Storage    []StorageUse  `json:"storage" nullable:"false" doc:"Where replicas are"`
}

// HealthCount counts by health.
type HealthCount struct {
	Met    int `json:"met"`
	AtRisk int `json:"atRisk"`
	Missed int `json:"missed"`
	Off    int `json:"off"`
}

// TestCount counts by freshness.
type TestCount struct {
	Fresh  int `json:"fresh"`
	Stale  int `json:"stale"`
	Never  int `json:"never"`
	Failed int `json:"failed"`
}

// HostCount counts hosts.
type HostCount struct {
	Connected    int `json:"connected"`
	Disconnected int `json:"disconnected"`
}

// StorageUse is a storage in which replicas are, as it was seen last.
type StorageUse struct {
	Host     string    `json:"host" doc:"Id of the host"`
	HostName string    `json:"hostName"`
	Storage  string    `json:"storage"`
	Path     string    `json:"path"`
	Free     int64     `json:"free"`
	Total    int64     `json:"total"`
	Replicas int       `json:"replicas"`
	Seen     time.Time `json:"seen" doc:"When the host said so"`
}

// History is what happened, slot by slot, oldest first.
type History struct {
	Samples []Sample `json:"samples" nullable:"false"`
}

// Sample is what happened in one slot of time. Slots in which nothing was promised are left out.
type Sample struct {
	Time         time.Time `json:"time" doc:"Start of the slot"`
	Seconds      int       `json:"seconds" doc:"Length of the slot: 300 in the last 48 hours, 3600 before"`
	WorstAge     float64   `json:"worstAge" doc:"Largest age of the newest point, seconds"`
	BytesRead    int64     `json:"bytesRead"`
	BytesWritten int64     `json:"bytesWritten"`
	Cycles       int       `json:"cycles" doc:"Points that were made"`
	Failed       int       `json:"failed" doc:"Cycles that failed"`
}
