package cli

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"understudy/api"
)

var now = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

func ago(d time.Duration) *time.Time {
	t := now.Add(-d)
	return &t
}

// appliance is a service with one of each thing. It notes the orders that it gets; "nobody" is in no list.
type appliance struct {
	mu     sync.Mutex
	orders []string
	job    api.Job     // what GetJob gives
	script []api.Event // what Events gives
	group  api.Group
	err    error
}

var _ api.Service = (*appliance)(nil)

func newAppliance() *appliance {
	return &appliance{group: someGroup(), job: someJob(api.JobSucceeded)}
}

func (f *appliance) note(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.orders = append(f.orders, strings.ReplaceAll(fmt.Sprintf(format, args...), "0x", ""))
}

func (f *appliance) check(id string) error {
	if f.err != nil {
		return f.err
	}
	if id == "nobody" {
		return api.Errorf(api.CodeNotFound, "Look at the list.", "there is no %s", id)
	}
	return nil
}

// order notes and gives a job that has just begun.
func (f *appliance) order(name, group string) (api.Job, error) {
	if err := f.check(group); err != nil {
		return api.Job{}, err
	}
	f.note("%s %s", name, group)
	return someJob(api.JobQueued), nil
}

func someHost(name string) api.Host {
	return api.Host{
		HostSpec: api.HostSpec{Name: name, URI: "qemu+ssh://root@" + name + "/system"}, ID: "h-" + name, Identity: "uuid-" + name,
		Product: "libvirt", Version: "9.0.0", Connected: true,
		Capabilities: api.Capabilities{Source: true, Target: true, ChangeTracking: true, Isolation: true,
			Missing: []string{"group moment: \x1b[31mlibvirt is too old"}},
	}
}

func someGroup() api.Group {
	taken := ago(12 * time.Second)
	return api.Group{
		GroupSpec: api.GroupSpec{
			Name: "web", SourceHost: "kvm1", TargetHost: "kvm2",
			Machines: []api.GroupMachine{{VM: "db1"}, {VM: "web1"}},
			Policy: api.Policy{RPOSeconds: 10, Retention: []api.RetentionTier{{EverySeconds: 300, ForSeconds: 7200}, {EverySeconds: 0, ForSeconds: 86400, Count: 9}},
				BandwidthMbit: 100},
			Networks: []api.NetworkMap{{From: "default", To: "recovery"}},
		},
		ID: "g1", Revision: 7, State: api.StateProtected, Points: 2, Created: *ago(49 * time.Hour),
		Members: []api.GroupMember{{Name: "db1", SourceVM: "u1", TargetVM: "u3"}, {Name: "web1", SourceVM: "u2", Problem: "no replica yet"}},
		RPO:     api.RPOStatus{AgeSeconds: 12, NewestTaken: taken, WorstSeconds: 75},
		Health:  api.HealthMissed, HealthReason: "the newest point is older than 10s", Tested: ago(time.Hour), TestFreshness: api.TestFresh,
		Test: &api.TestReport{ID: "t1", Point: "p2", State: "passed", Started: *ago(time.Hour), Seconds: 41.25, Machines: []api.TestMachine{
			{Name: "db1", Network: "understudy-test", Checks: []api.CheckResult{
				{Kind: "running", Passed: true, Seconds: 1}, {Kind: "http", Passed: false, Message: "connection refused", Seconds: 300}}},
			{Name: "web1"},
		}},
		Verification: &api.Verification{ID: "j0", State: "repaired", Started: *ago(3 * time.Hour), Ended: ago(2 * time.Hour), Points: []string{"p0"},
			BlocksCompared: 163840, BytesCompared: 10 << 30, BlocksDifferent: 1, BytesDifferent: 65536, Suspect: []string{"p1"}, Repaired: "p2",
			Problem: "replica is not identical to the frozen moment",
			Machines: []api.VerifiedMachine{{Machine: "db1", Disks: []api.VerifiedDisk{
				{ID: "vda", Size: 10 << 30, BytesCompared: 10 << 30, BytesDifferent: 65536, BytesDamaged: 65536, Ranges: []api.Range{{Offset: 1 << 20, Length: 65536}}}}}}},
	}
}

// splitGroup runs on both sides, and had other troubles before.
func splitGroup() api.Group {
	g := someGroup()
	g.Name, g.State, g.Problem = "split", api.StateFailedOver, "started, but web1: http: connection refused"
	g.Machines = []api.GroupMachine{{VM: "db1"}, {VM: "web1", Disks: []api.GroupDisk{{ID: "vda", Bus: "sata"}, {ID: "vdb", LeaveOut: true}}}}
	g.Alerts = []api.Alert{
		{Kind: "news", Since: *ago(3 * time.Hour), Message: "an alert of a later version"},
		{Kind: api.AlertMismatch, Since: *ago(time.Hour), Message: "web1 differs from its source", Hint: "The next point repairs it."},
		{Kind: api.AlertSplitBrain, Since: *ago(time.Minute), Message: "split brain: db1 runs on kvm1 although it was failed over to kvm2", Hint: "Order fence."},
	}
	return g
}

func someJob(state api.JobState) api.Job {
	j := api.Job{ID: "j1", Kind: "cycle", Group: "g1", State: state, Steps: []string{"checkpoint", "copy", "commit"}, Created: *ago(5 * time.Second), Timeline: []api.JobStep{}}
	if state != api.JobQueued {
		j.Started, j.Step = ago(4*time.Second), "copy"
		j.Progress = api.Progress{Done: 3 << 20, Total: 1 << 30}
	}
	if state.Ended() {
		j.Ended, j.Step = ago(time.Second), "commit"
		j.Result = map[string]float64{"bytesRead": 3 << 20, "seconds": 3}
	}
	return j
}

func (f *appliance) AddHost(_ context.Context, spec api.HostSpec) (api.Host, error) {
	f.note("add host %+v", spec)
	h := someHost(spec.Name)
	h.HostSpec = spec
	return h, f.err
}

func (f *appliance) ListHosts(context.Context) ([]api.Host, error) {
	lost := someHost("kvm2")
	lost.Connected, lost.Problem, lost.Version = false, "no route to host", ""
	return []api.Host{someHost("kvm1"), lost}, f.err
}

func (f *appliance) GetHost(_ context.Context, id string) (api.Host, error) {
	return someHost(id), f.check(id)
}

func (f *appliance) RemoveHost(_ context.Context, id string) error {
	f.note("remove host %s", id)
	return f.check(id)
}

func (f *appliance) Inventory(_ context.Context, id string) (api.Inventory, error) {
	return api.Inventory{
		Machines: []api.Machine{
			{ID: "u1", Name: "db1", State: "running", CPUs: 2, Memory: 2 << 30, Protected: "web",
				Disks: []api.Disk{{ID: "vda", Size: 10 << 30}, {ID: "vdb", Size: 1 << 30, Excluded: "shared with another machine"}}},
			{ID: "u9", Name: "old", State: "off", CPUs: 1, Memory: 512 << 20, Replica: true, Warnings: []string{"no guest agent"}},
		},
		Networks: []api.Network{{Name: "default", Kind: "nat"}, {Name: "test", Kind: "isolated", Isolated: true}},
		Storage:  []api.Storage{{Name: "images", Path: "/var/lib/libvirt/images", Free: 3 << 40, Total: 4 << 40, Default: true}},
	}, f.check(id)
}

func (f *appliance) ProbePaths(_ context.Context, id string, o api.ProbeOrder) (api.DataPathReport, error) {
	f.note("probe %s %+v", id, o)
	report := api.DataPathReport{Host: id, Paths: []api.DataPath{{Name: "socket", ReadPerSecond: 900 << 20, WritePerSecond: 700 << 20, UsedToRead: true, UsedToWrite: true}}}
	switch id {
	case "esx1":
		report.Paths = []api.DataPath{{Name: "hotadd", ReadPerSecond: 400 << 20, WritePerSecond: 300 << 20, UsedToRead: true, UsedToWrite: true},
			{Name: "https", Problem: "use https: in use: the host says that the file is in use"}}
	case "sick":
		report.Paths = []api.DataPath{{Name: "hotadd", Problem: "use hotadd: host lacks a capability: the appliance is no machine of this host", Hint: "Run the appliance as a machine of this host."},
			{Name: "https", ReadPerSecond: 30 << 20, UsedToRead: true}}
	}
	return report, f.check(id)
}

func (f *appliance) Doctor(_ context.Context, id string) (api.DoctorReport, error) {
	report := api.DoctorReport{Host: id, Checks: []api.DoctorCheck{{Name: "inventory", Result: "passed"}, {Name: "quiesce", Result: "skipped", Message: "no agent"}}}
	if id == "sick" {
		report.Checks = append(report.Checks, api.DoctorCheck{Name: "checkpoint", Result: "failed", Message: "permission denied"})
	}
	return report, f.check(id)
}

func (f *appliance) CreateGroup(_ context.Context, spec api.GroupSpec) (api.Group, error) {
	f.note("create %+v", spec)
	g := someGroup()
	g.GroupSpec, g.Job = spec, "j1"
	return g, f.err
}

func (f *appliance) ListGroups(_ context.Context, q api.GroupQuery) (api.Page[api.Group], error) {
	fresh := someGroup()
	fresh.Name, fresh.State, fresh.RPO, fresh.Points = "mail", api.StateMirroring, api.RPOStatus{}, 0
	fresh.Health, fresh.HealthReason, fresh.Tested, fresh.TestFreshness = api.HealthOff, "it is paused", nil, api.TestNever
	fresh.Reversed, fresh.Paused, fresh.Problem = true, true, "host kvm2 cannot be reached"
	split := splitGroup()
	return api.PageOf([]api.Group{f.group, fresh, split}, q.Paging), f.err
}

func (f *appliance) GetGroup(_ context.Context, id string) (api.Group, error) {
	g := f.group
	if id == "split" {
		g = splitGroup()
	}
	if id == "untested" {
		g.Test, g.Verification = nil, nil
	}
	return g, f.check(id)
}

func (f *appliance) UpdatePolicy(_ context.Context, id string, revision int64, p api.Policy) (api.Group, error) {
	f.note("policy %s %d %+v", id, revision, p)
	g := someGroup()
	g.Policy = p
	return g, f.check(id)
}

func (f *appliance) ListPoints(_ context.Context, group string) ([]api.Point, error) {
	if group == "empty" {
		return nil, nil
	}
	return []api.Point{
		{ID: "p2", Taken: *ago(12 * time.Second), Consistency: "crash", Kind: "incremental", BytesRead: 5 << 20, BytesWritten: 4500, Seconds: 1.26, Verified: true},
		{ID: "p1", Suspect: "disk vda of db1: 65536 bytes changed at the target after they were written", Taken: *ago(26 * time.Hour), Consistency: "application", Kind: "full", BytesRead: 10 << 30, BytesWritten: 2 << 30, Seconds: 90},
	}, f.check(group)
}

func (f *appliance) DropPoint(_ context.Context, group, point string) (api.Job, error) {
	return f.order("drop "+point, group)
}

func (f *appliance) RemoveGroup(_ context.Context, id string, deleteReplicas bool) (api.Job, error) {
	return f.order(fmt.Sprint("remove ", deleteReplicas), id)
}

func (f *appliance) SyncNow(_ context.Context, group string) (api.Job, error) {
	return f.order("sync", group)
}

func (f *appliance) Verify(_ context.Context, group string) (api.Job, error) {
	return f.order("verify", group)
}

func (f *appliance) Fence(_ context.Context, group string) (api.Job, error) {
	return f.order("fence", group)
}

func (f *appliance) Pause(_ context.Context, group string) (api.Group, error) {
	f.note("pause %s", group)
	g := someGroup()
	g.Paused = true
	return g, f.check(group)
}

func (f *appliance) Resume(_ context.Context, group string) (api.Group, error) {
	f.note("resume %s", group)
	return someGroup(), f.check(group)
}

func (f *appliance) Test(_ context.Context, group string, o api.TestOrder) (api.Job, error) {
	return f.order(fmt.Sprintf("test %+v", o), group)
}

func (f *appliance) EndTest(_ context.Context, group string) (api.Job, error) {
	return f.order("end-test", group)
}

func (f *appliance) Failover(_ context.Context, group string, o api.FailoverOrder) (api.Job, error) {
	return f.order(fmt.Sprintf("failover %+v", o), group)
}

func (f *appliance) Commit(_ context.Context, group string) (api.Job, error) {
	return f.order("commit", group)
}

func (f *appliance) Rollback(_ context.Context, group string) (api.Job, error) {
	return f.order("rollback", group)
}

func (f *appliance) Reprotect(_ context.Context, group string) (api.Job, error) {
	return f.order("reprotect", group)
}

func (f *appliance) Failback(_ context.Context, group string) (api.Job, error) {
	return f.order("failback", group)
}

func (f *appliance) ListJobs(_ context.Context, q api.JobQuery) (api.Page[api.Job], error) {
	f.note("list jobs %q %d", q.Group, q.Limit)
	failed := someJob(api.JobFailed)
	failed.Error = "no space left"
	return api.PageOf([]api.Job{someJob(api.JobRunning), failed, someJob(api.JobQueued)}, q.Paging), f.err
}

func (f *appliance) Overview(context.Context, api.Scope) (api.Overview, error) {
	return api.Overview{Groups: 3, Machines: 6, Health: api.HealthCount{Met: 2, AtRisk: 1, Missed: 1, Off: 2}, Tests: api.TestCount{Fresh: 1, Never: 2},
		Jobs: []api.Job{someJob(api.JobRunning)}, ActiveJobs: 1, Alerts: someAlerts(), AlertCount: 2, Hosts: api.HostCount{Connected: 1, Disconnected: 1},
		Storage: []api.StorageUse{{Host: "h2", HostName: "kvm2", Storage: "default", Path: "/images", Free: 5 << 30, Total: 100 << 30, Replicas: 6, Seen: *ago(time.Second)}}}, f.err
}

func someAlerts() []api.ActiveAlert {
	return []api.ActiveAlert{
		{ID: "g1.rpo-missed", Kind: api.AlertRPOMissed, Severity: api.SeverityCritical, Since: *ago(time.Minute), Group: "g1", GroupName: "web",
			Message: "the newest recovery point of group web is older than its target of 10s", Hint: "Look at the jobs of the group."},
		{ID: "h2.storage-low", Kind: api.AlertStorageLow, Severity: api.SeverityWarning, Since: *ago(time.Hour), Host: "h2", HostName: "kvm2",
			Message: "storage default of host kvm2 has less than 10 % free", Hint: "Free space there."},
	}
}

func (f *appliance) ListMachines(_ context.Context, q api.MachineQuery) (api.Page[api.ProtectedMachine], error) {
	f.note("list machines %q %q %q %q", q.Q, q.Health, q.Group, q.Host)
	m := api.ProtectedMachine{Name: "db1", Group: "g1", GroupName: "web", GroupState: api.StateProtected, SourceHost: "kvm1", TargetHost: "kvm2",
		SourceVM: "u1", ReplicaVM: "u3", Health: api.HealthMissed, RPO: api.RPOStatus{AgeSeconds: 12, NewestTaken: ago(12 * time.Second)}, NewestPoint: "p2"}
	fresh := api.ProtectedMachine{Name: "mail1", Group: "g2", GroupName: "mail", GroupState: api.StateMirroring, SourceHost: "kvm1", TargetHost: "kvm2",
		SourceVM: "u5", Health: api.HealthOff, Problem: "host kvm2 cannot be reached"}
	return api.PageOf([]api.ProtectedMachine{m, fresh}, q.Paging), f.err
}

func (f *appliance) History(_ context.Context, q api.HistoryQuery) (api.History, error) {
	f.note("history %q %d", q.Group, q.Hours)
	return api.History{Samples: []api.Sample{
		{Time: *ago(time.Hour), Seconds: 300, WorstAge: 9, BytesRead: 5 << 20, BytesWritten: 4 << 20, Cycles: 60},
		{Time: *ago(30 * time.Minute), Seconds: 300, WorstAge: 75, BytesRead: 1 << 20, BytesWritten: 1 << 20, Cycles: 4, Failed: 3},
	}}, f.check(q.Group)
}

func (f *appliance) ListAlerts(context.Context, api.Scope) ([]api.ActiveAlert, error) {
	return someAlerts(), f.err
}

func (f *appliance) GetJob(_ context.Context, id string) (api.Job, error) {
	return f.job, f.check(id)
}

func someReport() api.Report {
	ended := *ago(time.Minute)
	return api.Report{ID: "r1", Kind: "failover", Group: "g1", GroupName: "web", Job: "r1", From: "kvm1", To: "kvm2", Point: "p2", PointTaken: ago(3 * time.Minute), LossSeconds: 20,
		Started: *ago(2 * time.Minute), Ended: &ended, Seconds: 42, Outcome: "warning", Problem: "started, but db1: tcp: refused", Hint: "Look at it.",
		Steps: []api.JobStep{{Step: "source-off", Started: *ago(2 * time.Minute), Ended: &ended}, {Step: "start", Started: ended},
			{Step: "start", Part: "stage 1: DNS", Started: ended}},
		Machines: []api.ReportMachine{{Name: "db1", Host: "kvm2", Stage: 1, Started: &ended, Screen: true, Checks: []api.CheckResult{{Kind: "running", Passed: true, Seconds: .1},
			{Kind: "tcp", Message: "refused", Seconds: 300}}}, {Name: "web1", Host: "kvm2", Stage: 2}},
		Actions: []api.ReportAction{{Name: "DNS", Kind: "script", Stage: 1, When: "before", Started: ended, Ended: *ago(50 * time.Second), Outcome: "passed", Output: "ok\x1b\nreally\n"}}}
}

func (f *appliance) ListReports(_ context.Context, q api.ReportQuery) (api.Page[api.Report], error) {
	f.note("reports group %q kind %q", q.Group, q.Kind)
	return api.Page[api.Report]{Items: []api.Report{someReport()}, Total: 1}, f.err
}

func (f *appliance) GetReport(_ context.Context, id string) (api.Report, error) {
	return someReport(), f.check(id)
}

func (f *appliance) ReportScreen(_ context.Context, id, machine string) ([]byte, error) {
	f.note("screen %s %s", id, machine)
	return []byte("PNG"), f.check(id)
}

func (f *appliance) ListScripts(context.Context) ([]api.Script, error) {
	return []api.Script{{Name: "dns.sh", Size: 1234}}, f.err
}

func (f *appliance) ConfirmJob(_ context.Context, id string, c api.Confirmation) (api.Job, error) {
	if err := f.check(id); err != nil {
		return api.Job{}, err
	}
	f.note("confirm %s %s %q", id, c.Prompt, c.Note)
	j := someJob(api.JobRunning)
	j.Waiting = nil
	return j, nil
}

func (f *appliance) CancelJob(_ context.Context, id string) (api.Job, error) {
	f.note("cancel %s", id)
	return someJob(api.JobUndoing), f.check(id)
}

func (f *appliance) Events(ctx context.Context, _ uint64) (<-chan api.Event, error) {
	events := make(chan api.Event)
	go func() {
		defer close(events)
		for _, event := range f.script {
			select {
			case events <- event:
			case <-ctx.Done():
				return
			}
		}
		<-ctx.Done()
	}()
	return events, f.err
}

func (f *appliance) About(context.Context) (api.About, error) {
	return api.About{Appliance: "a1", Version: "1.2.3", Started: *ago(90 * time.Minute)}, f.err
}
