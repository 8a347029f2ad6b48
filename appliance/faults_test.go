package main_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/appliance/rig"
	"understudy/hypervisors/kvm/lab"
	"understudy/hypervisors/kvm/lab/record"
)

// fault is one thing that goes wrong in the middle of a cycle, and what is promised about it. What is promised about
// all of them is in [stage.meet].
type fault struct {
	name string
	// ready prepares the hosts before the cycle. May be nil.
	ready func(*stage)
	// strike does the damage; the first bytes of the cycle have moved.
	strike func(*stage)
	// told is what the job's error says to the user, a regular expression. Empty: the cycle must succeed all the same.
	told string
	// hint is what the user is told to do.
	hint string
	// mend does what an administrator does. The appliance is told nothing of it. May be nil.
	mend func(*stage)
	// next is the kind of the point that the appliance makes by itself afterwards.
	next string
	// undo takes away what ready made, when all is over. May be nil.
	undo func(*stage)
	// stops says that the fault itself stops the guest.
	stops bool
	// whole replaces all of the above where a fault is not one moment in one cycle. It ends with a good cycle.
	whole func(*stage)
	// long faults are left to FAULTS=all: a time limit has to pass, or a short one shows nearly the same.
	long bool
}

// TestFaults lets everything of R3, R4 and R5 happen to two real hosts, reached over SSH, a guest that writes, and the
// real daemon, one after the other, each in the middle of a cycle. FAULTS=all adds the long ones (make faults), and
// FAULTS=NAME,NAME chooses.
func TestFaults(t *testing.T) {
	t.Parallel()
	all := slices.Concat(hostFaults, storageFaults, connectionFaults)
	chosen := os.Getenv("FAULTS")
	wanted := slices.DeleteFunc(slices.Clone(all), func(f fault) bool {
		return chosen == "" && f.long || chosen != "" && chosen != "all" && !slices.Contains(strings.Split(chosen, ","), f.name)
	})
	require.NotEmpty(t, wanted, "no fault is named %q", chosen)
	s := newStage(t)
	for _, f := range wanted {
		if !t.Run(f.name, func(t *testing.T) { s.on(t).meet(f) }) && s.broken(t) {
			t.Fatal("the stage is broken; what follows would tell nothing")
		}
	}
	s.on(t).finish()
}

const (
	faultGroup = "web"
	faultGuest = "web1"
	scratchDir = "/var/lib/libvirt/scratch"
	replicaDir = "/var/lib/libvirt/replicas"
	stateSize  = "32m"
)

// stage is where all faults happen.
type stage struct {
	t     *testing.T
	ctx   context.Context
	lab   *lab.Lab
	guest *lab.Guest
	d     *daemon
}

func newStage(t *testing.T) *stage {
	ctx := t.Context()
	l := startLab(t)
	guest, err := l.StartGuest(ctx, l.Source, lab.GuestOptions{Name: faultGuest, Number: 1, DiskA: 84 << 20, DiskB: 32 << 20, Fill: 8 << 20, Delay: calm})
	require.NoError(t, err)
	s := &stage{t: t, ctx: ctx, lab: l, guest: guest}
	// Small file systems of their own: they can be filled without the machine noticing.
	s.sh(l.Source, `mkdir "$1" && mount -t tmpfs -o size=256m scratch "$1"`, scratchDir)
	s.sh(l.Target, `mkdir "$1" && mount -t tmpfs -o size=512m replicas "$1"`, replicaDir)
	for _, order := range []string{"pool-define-as replicas dir --target " + replicaDir, "pool-autostart replicas", "pool-start replicas"} {
		s.virsh(l.Target, strings.Fields(order)...)
	}
	s.d = newDaemonIn(t, small(t))
	for name, uri := range map[string]string{"source": l.Source.SSHURI() + "&scratch=" + scratchDir, "target": l.Target.SSHURI()} {
		_, err := s.d.AddHost(ctx, api.HostSpec{Name: name, URI: uri})
		require.NoError(t, err)
	}
	_, err = s.d.CreateGroup(ctx, api.GroupSpec{Name: faultGroup, SourceHost: "source", TargetHost: "target", Storage: "replicas",
		Policy: faultPolicy(0), Machines: []api.GroupMachine{{VM: faultGuest}}})
	require.NoError(t, err)
	s.d.succeeded(s.newest(), nil)
	return s
}

// small is a directory with little room.
func small(t *testing.T) string {
	dir := t.TempDir()
	mount := exec.Command("mount", "-t", "tmpfs", "-o", "size="+stateSize, "state", dir)
	out, err := mount.CombinedOutput()
	require.NoError(t, err, "%s", out)
	t.Cleanup(func() { require.NoError(t, exec.Command("umount", dir).Run()) })
	return dir
}

// faultPolicy makes no cycle by itself, unless one has failed.
func faultPolicy(mbit int) api.Policy {
	return api.Policy{RPOSeconds: 7 * 24 * 3600, Retention: []api.RetentionTier{{Count: 2}}, VerifyCycles: true, BandwidthMbit: mbit}
}

// on lets a subtest use the stage.
func (s *stage) on(t *testing.T) *stage {
	ctx, cancel := context.WithTimeout(t.Context(), waitFor)
	t.Cleanup(cancel)
	sub, d := *s, *s.d
	sub.t, sub.ctx, sub.d = t, ctx, &d
	t.Cleanup(func() { s.d.cmd, s.d.log, s.d.Client = d.cmd, d.log, d.Client })
	d.t = t
	return &sub
}

// meet lets a fault happen and checks what must be true after every one: the points from before and after are byte for
// byte what their cycles froze, the guest was not stopped, and nothing of ours is left on the hosts.
func (s *stage) meet(f fault) {
	if f.ready != nil {
		f.ready(s)
	}
	before := s.status()
	events := s.watchGuest()
	s.dirty()
	if f.whole != nil {
		f.whole(s)
	} else {
		s.suffer(f)
	}
	points := s.points()
	require.Equal(s.t, f.next, points[len(points)-1].Kind)
	s.intact(points)
	s.nothingLeft()
	if !f.stops {
		after := s.status()
		require.Equal(s.t, before.Boots, after.Boots, "the guest was stopped")
		require.Zero(s.t, after.WriteErrors)
		require.NotContains(s.t, events(), "Suspended", "the guest was paused")
	}
	require.NoError(s.t, s.guest.WaitSeq(s.ctx, 1))
	if f.undo != nil {
		f.undo(s)
	}
}

// suffer strikes in the middle of a cycle, and checks what the user is told and what the appliance then does by itself.
func (s *stage) suffer(f fault) {
	s.bandwidth(8)
	job, err := s.d.SyncNow(s.ctx, faultGroup)
	require.NoError(s.t, err)
	s.reaches(job, copying("copy"))
	f.strike(s)
	s.bandwidth(0)
	job, err = s.d.WaitJob(s.ctx, job.ID, nil)
	require.NoError(s.t, err)
	if f.told == "" {
		require.Equal(s.t, api.JobSucceeded, job.State, "%s\n%s", job.Error, job.Hint)
	} else {
		s.isTold(job, f)
	}
	if f.mend != nil {
		f.mend(s)
	}
	if f.told != "" {
		s.recovers(job)
	}
}

// isTold checks a failed job, and that the group shows the same.
func (s *stage) isTold(job api.Job, f fault) {
	require.Equal(s.t, api.JobFailed, job.State)
	require.Regexp(s.t, f.told, job.Error)
	require.Contains(s.t, job.Hint, f.hint)
	g, err := s.d.GetGroup(s.ctx, faultGroup)
	require.NoError(s.t, err)
	require.Equal(s.t, api.StateProtected, g.State)
	require.NotEmpty(s.t, g.Problem, "the group shows no problem")
	s.t.Logf("told: %s | %s", job.Error, job.Hint)
}

// recovers waits until the schedule has made a point by itself after a job, and the group's problem is gone.
func (s *stage) recovers(after api.Job) {
	s.until("a cycle succeeds", func() bool {
		job := s.newest()
		if job.ID == after.ID {
			return false
		}
		var err error
		after, err = s.d.WaitJob(s.ctx, job.ID, nil)
		require.NoError(s.t, err)
		s.t.Logf("then: %s %s | %s", after.State, after.Error, after.Hint)
		return after.State == api.JobSucceeded
	})
	g, err := s.d.GetGroup(s.ctx, faultGroup)
	require.NoError(s.t, err)
	require.Empty(s.t, g.Problem)
}

// newest is the group's newest job.
func (s *stage) newest() api.Job {
	list, err := s.d.ListJobs(s.ctx, api.JobQuery{Group: faultGroup, Paging: api.Paging{Limit: 1}})
	require.NoError(s.t, err)
	require.Len(s.t, list.Items, 1)
	return list.Items[0]
}

// reaches waits for a moment of a job that must come before its end.
func (s *stage) reaches(job api.Job, moment func(api.Job) bool) {
	s.until("job "+job.Kind+" comes to the moment", func() bool {
		now, err := s.d.GetJob(s.ctx, job.ID)
		require.NoError(s.t, err)
		require.False(s.t, now.State.Ended(), "the job ended too early: %s", now.Error)
		return moment(now)
	})
}

func (s *stage) bandwidth(mbit int) {
	s.until("the policy is taken", func() bool {
		g, err := s.d.GetGroup(s.ctx, faultGroup)
		require.NoError(s.t, err)
		_, err = s.d.UpdatePolicy(s.ctx, faultGroup, g.Revision, faultPolicy(mbit))
		if api.CodeOf(err) == api.CodeStale {
			return false
		}
		require.NoError(s.t, err)
		return true
	})
}

// dirty changes six megabytes of the second disk behind the guest's records, through the device that the guest itself
// writes to, if the guest is on.
func (s *stage) dirty() {
	s.virsh(s.lab.Source, "qemu-monitor-command", faultGuest, "--hmp",
		fmt.Sprintf(`qemu-io -d /machine/peripheral/virtio-disk1/virtio-backend "write -P %d 16M 6M"`, 1+time.Now().UnixNano()%250))
}

func (s *stage) points() []api.Point {
	points, err := s.d.ListPoints(s.ctx, faultGroup)
	require.NoError(s.t, err)
	require.NotEmpty(s.t, points)
	return points
}

// intact reads all points from the target's files and compares them with the digests that their cycles took at the
// source.
func (s *stage) intact(points []api.Point) {
	require.Len(s.t, points, 2, "one from before the fault, one from after")
	for _, p := range points {
		require.True(s.t, p.Verified)
		for _, disk := range p.Machines[0].Disks {
			file := strings.TrimSpace(s.sh(s.lab.Target, `find "$1" -name "$2"`, replicaDir, disk.ID+"."+p.ID+".qcow2"))
			require.NotEmpty(s.t, file, "point %s has no disk %s", p.ID, disk.ID)
			image, err := s.lab.Target.ReadImage(s.ctx, file)
			require.NoError(s.t, err)
			digest, err := rig.Digest(s.ctx, image)
			require.NoError(s.t, err)
			require.Equal(s.t, disk.Digest, digest.String(), "disk %s of point %s is not what it was", disk.ID, p.ID)
			require.NoError(s.t, image.Close())
		}
	}
}

// nothingLeft looks for what a cycle makes on the hosts and must take away again.
func (s *stage) nothingLeft() {
	points := s.points()
	var left []string
	ok := s.poll(time.Minute, func() bool {
		left = s.left(points)
		return len(left) == 0
	})
	require.True(s.t, ok, "left behind: %s", strings.Join(left, "\n"))
}

func (s *stage) left(points []api.Point) (left []string) {
	add := func(where, what string) {
		for line := range strings.Lines(what) {
			if line = strings.TrimSpace(line); line != "" {
				left = append(left, where+": "+line)
			}
		}
	}
	for _, h := range []*lab.Host{s.lab.Source, s.lab.Target} {
		add(h.Name, s.sh(h, `find /run/understudy -type s 2>/dev/null; find /var/lib/libvirt -name 'understudy.*' ! -path '*/qemu/checkpoint/*'`))
	}
	newest := "understudy." + s.owner() + "." + points[len(points)-1].ID
	if tracks := s.virsh(s.lab.Source, "checkpoint-list", "--name", faultGuest); strings.TrimSpace(tracks) != newest {
		add("checkpoints", tracks)
	}
	if job := s.virsh(s.lab.Source, "domjobinfo", faultGuest); !strings.Contains(job, "None") {
		add("job", job)
	}
	for line := range strings.Lines(s.sh(s.lab.Target, `find "$1" -name '*.qcow2' -o -name '*.map' -o -name '*.new'`, replicaDir)) {
		name := path.Base(strings.TrimSpace(line))
		if !strings.Contains(name, "_stage.") && !slices.ContainsFunc(points, func(p api.Point) bool { return strings.Contains(name, "."+p.ID+".") }) {
			add("target", name)
		}
	}
	for _, p := range s.lab.Strangers() {
		if !strings.Contains(p, "nbdkit") && !strings.Contains(p, "nbdfuse") { // the bad disk
			add("process", p)
		}
	}
	return left
}

// owner is the appliance's id, which all that it makes carries.
func (s *stage) owner() string {
	about, err := s.d.About(s.ctx)
	require.NoError(s.t, err)
	return about.Appliance
}

// watchGuest records what libvirt reports about the guest until the result is asked for.
func (s *stage) watchGuest() func() string {
	var out bytes.Buffer
	ctx, cancel := context.WithCancel(s.ctx)
	cmd := exec.CommandContext(ctx, "virsh", "--connect", s.lab.Source.URI, "event", "--domain", faultGuest, "--event", "lifecycle", "--loop")
	cmd.Stdout = &out
	require.NoError(s.t, cmd.Start())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // it is killed, or libvirtd is
	}()
	stop := func() string {
		cancel()
		<-ended
		return out.String()
	}
	s.t.Cleanup(func() { stop() })
	return stop
}

func (s *stage) status() record.Status {
	status, err := s.lab.Source.WaitStatus(s.ctx, s.guest.Addr)
	require.NoError(s.t, err)
	return status
}

// until waits for a condition of the hosts, which are real and tell no clock.
func (s *stage) until(what string, is func() bool) {
	s.t.Helper()
	require.True(s.t, s.poll(waitFor, is), "waited too long until %s", what)
}

// poll is require.Eventually, but asks in this goroutine, which alone may fail the test.
func (s *stage) poll(most time.Duration, is func() bool) bool {
	for deadline := time.Now().Add(most); !is(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// sh runs a script on a host; $1 and so on are the args.
func (s *stage) sh(h *lab.Host, script string, args ...string) string {
	s.t.Helper()
	out, err := h.Exec(s.ctx, append([]string{"sh", "-c", script, "fault"}, args...)...)
	require.NoError(s.t, err)
	return string(out)
}

func (s *stage) virsh(h *lab.Host, args ...string) string {
	s.t.Helper()
	out, err := h.Virsh(s.ctx, args...)
	require.NoError(s.t, err)
	return out
}

// broken says that the stage cannot serve another fault: the guest is gone, or cycles fail.
func (s *stage) broken(t *testing.T) bool {
	job, err := s.d.SyncNow(t.Context(), faultGroup)
	if err == nil {
		job, err = s.d.WaitJob(t.Context(), job.ID, nil)
	}
	return err != nil || job.State != api.JobSucceeded
}

// finish checks that after all of it the replica boots and finds every record, and that the daemon ends in good order.
func (s *stage) finish() {
	s.d.succeeded(s.d.Test(s.ctx, faultGroup, api.TestOrder{}))
	s.d.succeeded(s.d.EndTest(s.ctx, faultGroup))
	g, err := s.d.GetGroup(s.ctx, faultGroup)
	require.NoError(s.t, err)
	require.Equal(s.t, "passed", g.Test.State, g.Test.Problem)
	require.Empty(s.t, s.status().Problems)
}
