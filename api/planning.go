package api

import (
	"context"
	"fmt"
	"slices"
)

// Planning tells what would happen before it does, and edits what stands.
type Planning interface {
	// Plan says what an order would do if it was given now, and changes nothing. A host that does not answer within seconds
	// is named in the warnings.
	Plan(ctx context.Context, group string, o PlanOrder) (Plan, error)
	// Preflight tells everything that CreateGroup would refuse, and what is doubtful, at once.
	Preflight(ctx context.Context, spec GroupSpec) (Preflight, error)
	// UpdateGroup changes what can be changed of a group that stands, all of it or nothing; revision must be the one that
	// was read (CodeStale).
	UpdateGroup(ctx context.Context, id string, revision int64, edit GroupEdit) (Group, error)
	// TestHost connects to a host that is not added yet, runs the doctor's checks, which only read, and keeps nothing.
	TestHost(ctx context.Context, spec HostSpec) (HostTest, error)
	// UpdateHost changes name, address (of the same host) and bounds; revision must be the one that was read (CodeStale).
	UpdateHost(ctx context.Context, id string, revision int64, spec HostSpec) (Host, error)
	// Bandwidth gives the calendar of all copies together.
	Bandwidth(ctx context.Context) (BandwidthCalendar, error)
	// SetBandwidth replaces it, for the copies that run too; revision must be the one that was read (CodeStale).
	SetBandwidth(ctx context.Context, revision int64, c BandwidthCalendar) (BandwidthCalendar, error)
}

// PlanOrder is an order that is looked at before it is given.
type PlanOrder struct {
	Order string `json:"order" enum:"test,end-test,failover,commit,rollback,reprotect,failback,fence,drop-point,remove"`
	// Planned and Force are those of a FailoverOrder.
	Planned bool   `json:"planned,omitempty"`
	Force   bool   `json:"force,omitempty"`
	Point   string `json:"point,omitempty" maxLength:"128" doc:"For test, failover and drop-point; empty means the newest that is not suspect"`
	// DeleteReplicas is for remove.
	DeleteReplicas bool `json:"deleteReplicas,omitempty"`
}

// Plan says what an order would do if it was given now. Making it changes nothing.
type Plan struct {
	Order string     `json:"order"`
	State GroupState `json:"state" doc:"Of the group when the plan was made"`
	// Allowed is what the order itself would be answered.
	Allowed     bool     `json:"allowed"`
	Code        Code     `json:"code,omitempty" doc:"Kind of the refusal"`
	Refusal     string   `json:"refusal,omitempty" doc:"Why it is not allowed"`
	Hint        string   `json:"hint,omitempty" doc:"What to do about that"`
	From        string   `json:"from" doc:"Name of the host that the machines serve on before"`
	To          string   `json:"to" doc:"Name of the host that they run on after"`
	Point       *Point   `json:"point,omitempty" doc:"The recovery point that machines start from, or that is dropped"`
	LossSeconds *float64 `json:"lossSeconds,omitempty" doc:"What the machines wrote in so many seconds before now is missing; 0 means that nothing is"`
	// Irreversible: afterwards something is gone that nothing brings back.
	Irreversible bool          `json:"irreversible"`
	Undo         string        `json:"undo,omitempty" doc:"How it can be undone"`
	Machines     []PlanMachine `json:"machines"`
	Changes      []PlanChange  `json:"changes" doc:"What will be changed, in the order in which it happens"`
	Warnings     []PlanWarning `json:"warnings"`
	Steps        []string      `json:"steps" doc:"Of the job, in order; see Job.steps"`
}

// PlanMachine is one machine of a plan.
type PlanMachine struct {
	Name string `json:"name"`
	From string `json:"from" doc:"Name of the host that it serves on before"`
	To   string `json:"to" doc:"Name of the host that it runs on after"`
	// Source and Replica are its two machines, by the direction in force.
	Source   string       `json:"source" enum:"off,running,paused,gone,unknown" doc:"State of the machine at the source; unknown where the host did not answer"`
	Replica  string       `json:"replica" enum:"off,running,paused,gone,unknown" doc:"State of the machine at the target"`
	Networks []NetworkMap `json:"networks" doc:"Where its network cards are connected before and after, as far as the hosts answered"`
	Stage    int          `json:"stage" doc:"Start group, from 1"`
	Checks   int          `json:"checks" doc:"Boot checks that will be made, beside that it runs"`
}

// PlanChange is something that an order changes.
type PlanChange struct {
	Code    string `json:"code" enum:"last-copy,source-off,source-on,source-autostart-off,source-autostart-on,source-writes-given-up,replica-starts,script-runs,manual-step,delay,replica-off,replica-autostart-on,replica-writes-discarded,test-network-made,test-network-removed,test-starts,test-ends,guest-converted,no-way-back,roles-swap,copy-back,home-starts,points-dropped,stray-off,protection-ends,replicas-kept,replicas-deleted"`
	Machine string `json:"machine,omitempty"`
	Host    string `json:"host,omitempty" doc:"Name of the host on which it happens"`
	Text    string `json:"text"`
}

// PlanWarning is something that a person should know before the order is given.
type PlanWarning struct {
	Code    string `json:"code" enum:"point-suspect,point-old,point-not-newest,newest-point,source-runs,source-gone,machine-off,source-unreachable,target-unreachable,checks-missing,network-missing,never-tested,test-failed,test-old,test-running,cycle-interrupted,started-badly,ran-on-both,replica-runs,isolation-missing,compression-missing,convert-missing,converted,driver-missing,disk-missing,disk-left-out,nothing-to-do"`
	Machine string `json:"machine,omitempty"`
	Host    string `json:"host,omitempty" doc:"Name of the host"`
	Text    string `json:"text"`
	Hint    string `json:"hint,omitempty" doc:"What to do about it"`
	// Stops: the order would be accepted, but its job would fail.
	Stops bool `json:"stops,omitempty" doc:"As things stand the job would fail"`
}

// Preflight is everything that can be known about a group before it is made.
type Preflight struct {
	Checks []PreflightCheck `json:"checks"`
	Ready  bool             `json:"ready" doc:"No check is an error"`
	Bytes  int64            `json:"bytes" doc:"Size of all disks that will be copied at first"`
}

// Levels of a PreflightCheck.
const (
	LevelOK      = "ok"
	LevelWarning = "warning"
	LevelError   = "error" // making the group would be refused
)

// PreflightCheck is one thing that was looked at.
type PreflightCheck struct {
	Code    string `json:"code" doc:"What was looked at: spec, name, source-host, target-host, machine, protected, disks, disk-excluded, disk-left-out, disk-unknown, boot-disk, driver, convert, checks, tracking, agent, consistency, group-moment, networks, network-unmapped, replica-name, mac, storage, storage-room, cpus, memory, power, rpo, windows, bandwidth, compression"`
	Level   string `json:"level" enum:"ok,warning,error"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
	Field   string `json:"field,omitempty" doc:"Of the specification, such as machines[0].vm"`
	Machine string `json:"machine,omitempty"`
}

// GroupEdit is what can be changed about a group that stands.
type GroupEdit struct {
	Policy Policy `json:"policy"`
	// Machines that are left out stay as they are.
	Machines []MachineEdit `json:"machines,omitempty" maxItems:"100"`
	// Runbook is for the next order; one that is at work keeps the one that it began with.
	Runbook *Runbook `json:"runbook,omitempty" doc:"Left out: as it was; without stages: none"`
}

// MachineEdit replaces what can be changed of one machine.
type MachineEdit struct {
	VM      string  `json:"vm" minLength:"1" doc:"As in the group's specification, or the machine's name or id"`
	Stage   int     `json:"stage,omitempty" minimum:"0" maximum:"20" doc:"Start group; 0 means 1"`
	Checks  []Check `json:"checks,omitempty"`
	Convert *bool   `json:"convert,omitempty" doc:"As in the specification, for the next start; left out: as it was"`
	// LeaveOut replaces the list of the disks that are left out, while production is at home. A disk that is taken back is
	// copied whole by the next cycle; points that there are stay as they are.
	LeaveOut []string `json:"leaveOut,omitzero" maxItems:"64" doc:"Ids of all disks that are left out of protection from now on; left out: as it was"`
}

// Validate checks an edit; see GroupSpec.Validate.
func (e GroupEdit) Validate() error {
	if err := e.Policy.Validate(); err != nil {
		return err
	}
	for i, m := range e.Machines {
		field := fmt.Sprintf("machines[%d]", i)
		if slices.ContainsFunc(e.Machines[:i], func(other MachineEdit) bool { return other.VM == m.VM }) {
			return invalid(field+".vm", "Name each machine once.", "machine %s is named twice", m.VM)
		}
		if err := (GroupMachine{VM: m.VM, Stage: m.Stage, Checks: m.Checks}).validate(field); err != nil {
			return err
		}
		for n, id := range m.LeaveOut {
			if err := namedOnce(fmt.Sprintf("%s.leaveOut[%d]", field, n), id, m.LeaveOut[:n]); err != nil {
				return err
			}
		}
	}
	return e.Runbook.Validate()
}

// HostTest says whether a host could be added. Nothing of it is kept.
type HostTest struct {
	Reachable    bool          `json:"reachable"`
	Identity     string        `json:"identity,omitempty"`
	Known        string        `json:"known,omitempty" doc:"Name of the host that this is already"`
	Product      string        `json:"product,omitempty"`
	Version      string        `json:"version,omitempty"`
	Capabilities Capabilities  `json:"capabilities"`
	Checks       []DoctorCheck `json:"checks"`
	Problem      string        `json:"problem,omitempty" doc:"Why it cannot be added"`
	Hint         string        `json:"hint,omitempty" doc:"What to do about it"`
}
