package api

import "time"

// Alert is something that is wrong now and needs a person. It is there while it is true; its beginning and its end are
// events of kind alert.
type Alert struct {
	Kind    string    `json:"kind" enum:"mismatch,split-brain,diverged,stray,restored,rpo-missed,cycle-failing,host-down,storage-low,certificate,driver-missing"`
	Since   time.Time `json:"since"`
	Message string    `json:"message"`
	Hint    string    `json:"hint,omitempty" doc:"What to do about it"`
}

// Kinds of alerts.
const (
	// AlertMismatch: a replica was found to differ from its source, and the next point, which compares everything, is
	// not there yet.
	AlertMismatch = "mismatch"
	// AlertSplitBrain: a machine that was failed over runs at its source too.
	AlertSplitBrain = "split-brain"
	// AlertDiverged: a machine ran at its source after it was failed over; what it wrote there is nowhere else.
	AlertDiverged = "diverged"
	// AlertRestored: the group came back from a backup, and waits for a person to resume it.
	AlertRestored = "restored"
	// AlertStray: a replica runs that nobody ordered to, beside production.
	AlertStray = "stray"
	// AlertRPOMissed: the newest point is older than the policy's target.
	AlertRPOMissed = "rpo-missed"
	// AlertCycleFailing: several cycles failed in a row.
	AlertCycleFailing = "cycle-failing"
	// AlertDriverMissing: a guest has no driver for what its replica has.
	AlertDriverMissing = "driver-missing"
	// AlertHostDown: a host does not answer.
	AlertHostDown = "host-down"
	// AlertStorageLow: a storage in which replicas are is nearly full.
	AlertStorageLow = "storage-low"
	// AlertCertificate: the certificate of the appliance itself expires within 30 days, or has expired.
	AlertCertificate = "certificate"
)

// Severity of an alert.
type Severity string

// The severities.
const (
	SeverityCritical Severity = "critical" // data or recovery is in danger now
	SeverityWarning  Severity = "warning"  // it will be, when nothing is done
)

// SeverityOf gives what a kind of alert means.
func SeverityOf(kind string) Severity {
	switch kind {
	case AlertDriverMissing, AlertCycleFailing, AlertStorageLow, AlertCertificate:
		return SeverityWarning
	}
	return SeverityCritical
}

// ActiveAlert is an alert with what it is about: a group, a host, or with neither the appliance itself.
type ActiveAlert struct {
	ID        string    `json:"id" doc:"The same from its beginning to its end"`
	Kind      string    `json:"kind" doc:"mismatch, split-brain, diverged, stray, rpo-missed, cycle-failing, host-down, storage-low, certificate, driver-missing"`
	Severity  Severity  `json:"severity" enum:"critical,warning"`
	Since     time.Time `json:"since"`
	Message   string    `json:"message"`
	Hint      string    `json:"hint" doc:"What to do about it"`
	Group     string    `json:"group,omitempty" doc:"Id of the group"`
	GroupName string    `json:"groupName,omitempty"`
	Host      string    `json:"host,omitempty" doc:"Id of the host"`
	HostName  string    `json:"hostName,omitempty"`
}
