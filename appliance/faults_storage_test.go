package main_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/hypervisors/kvm/lab"
)

// storageFaults are row R4: storage that is full, broken or slow.
var storageFaults = []fault{
	{
		name: "ScratchFull",
		// Somebody else takes the room; QEMU would stop the guest when none is left.
		strike: func(s *stage) {
			s.bandwidth(1) // it is looked for now and then: the cycle must not be over before
			gaveWay := func() int { return strings.Count(s.d.log.String(), "checkpoint gave way") }
			before := gaveWay()
			s.fill(s.lab.Source, scratchDir, 8<<20)
			s.until("it is seen", func() bool { return gaveWay() > before })
		},
		told: "replication gave way to production: scratch space in " + scratchDir + " runs out: [0-9]+ MiB are free",
		hint: "Free space where the scratch files are, or name a roomier folder with scratch=FOLDER in the host's address.",
		mend: func(s *stage) {
			s.isToldNext("no space left: "+scratchDir+" has [0-9]+ MiB free for scratch files, 64 are needed", "Free some space there")
			s.empty(s.lab.Source, scratchDir)
		},
		next: "incremental",
	},
	{
		name:   "TargetFull",
		strike: func(s *stage) { s.fill(s.lab.Target, replicaDir, 0) },
		told:   "no space left",
		hint:   "Free space",
		mend: func(s *stage) {
			s.isToldNext("no space left: [0-9]+ bytes are free, the copy may need [0-9]+", "Free space there, keep fewer points, or move the replica to a larger storage.")
			s.empty(s.lab.Target, replicaDir)
		},
		next: "incremental",
	},
	{name: "StateFull", whole: (*stage).stateFull, next: "incremental"},
	{
		name:  "SourceReadErrors",
		ready: func(s *stage) { s.attachBad("0ms") },
		// Only the disk behind nbdkit has them, which the guest does not use.
		strike: func(s *stage) { s.sh(s.lab.Source, `touch "$1"/errors`, badDir) },
		told:   "copy disk vdc of " + faultGuest + ": read .*read machine " + faultGuest + ", disk vdc: ", // QEMU ends the connection, without the reason
		hint:   "at the disk's storage there",
		mend:   func(s *stage) { s.sh(s.lab.Source, `rm "$1"/errors`, badDir) },
		next:   "difference", // a raw disk tells no changes
		undo:   (*stage).detachBad,
	},
	{
		name:   "SourceSlow",
		ready:  func(s *stage) { s.attachBad("20ms") },
		strike: func(*stage) {}, // it is slow all along
		next:   "difference",
		undo:   (*stage).detachBad,
		long:   true,
	},
}

// fill leaves that many bytes free in a folder with a file system of its own.
func (s *stage) fill(h *lab.Host, dir string, free int64) {
	s.sh(h, `cat /dev/zero >"$1"/others 2>/dev/null; truncate -s "-$2" "$1"/others`, dir, strconv.FormatInt(free, 10))
}

func (s *stage) empty(h *lab.Host, dir string) { s.sh(h, `rm "$1"/others`, dir) }

// stateFull takes the room where the appliance keeps its state. Its file has free pages of its own for a while. Then
// nothing new can be kept: an order is refused with the reason, or its cycle waits until it can be written down; what was
// kept is still there, and the API answers.
func (s *stage) stateFull() {
	others := filepath.Join(s.d.dir, "others")
	_ = exec.Command("sh", "-c", `cat /dev/zero >"$1" 2>/dev/null`, "sh", others).Run() // it fails when all is full
	full := func() bool { return strings.Contains(s.d.log.String(), "no space left on device") }
	s.until("the appliance meets it", func() bool {
		s.bandwidth(0) // which is an event more to keep
		return full()
	})
	points := s.points()
	job, err := s.d.SyncNow(s.ctx, faultGroup)
	if err != nil {
		s.isNoSpace(err)
	} else {
		s.until("the cycle ends, or cannot be written down", func() bool {
			job, err = s.d.GetJob(s.ctx, job.ID)
			require.NoError(s.t, err)
			return job.State.Ended() || strings.Contains(s.d.log.String(), "job cannot be written down")
		})
		s.t.Logf("meanwhile the cycle is %s", job.State)
	}
	require.Subset(s.t, s.points(), points[len(points)-1:])
	require.NoError(s.t, os.Remove(others))
	if job.ID != "" {
		job, err = s.d.WaitJob(s.ctx, job.ID, nil)
		require.NoError(s.t, err)
		s.t.Logf("the cycle %s: %s | %s", job.State, job.Error, job.Hint)
		if job.State == api.JobFailed {
			require.Contains(s.t, job.Error, "no space left on device")
			require.Contains(s.t, job.Hint, hintStateFull)
		}
	}
	for range 2 { // one that was committed and not recorded is learned of, but nobody knows that it was verified
		s.d.succeeded(s.d.SyncNow(s.ctx, faultGroup))
	}
}

const hintStateFull = "Free space where the appliance keeps its state"

func (s *stage) isNoSpace(err error) {
	require.Equal(s.t, api.CodeNoSpace, api.CodeOf(err), "%v", err)
	var e *api.Error
	require.ErrorAs(s.t, err, &e)
	require.Contains(s.t, e.Hint, hintStateFull)
	s.t.Logf("told: %s | %s", e.Message, e.Hint)
}

// isToldNext waits for the next failing cycle that the schedule starts, and checks what it says.
func (s *stage) isToldNext(told, hint string) {
	last := s.newest()
	s.until("the next cycle has failed", func() bool {
		job := s.newest()
		if job.ID == last.ID || !job.State.Ended() {
			return false
		}
		require.Equal(s.t, api.JobFailed, job.State)
		require.Regexp(s.t, told, job.Error)
		require.Contains(s.t, job.Hint, hint)
		return true
	})
}

const badDir = "/var/lib/libvirt/bad"

// attachBad gives the guest a third, raw disk whose reads take a while and, as long as there is a file "errors", fail.
// FUSE makes it a file, which is what the driver protects.
func (s *stage) attachBad(delay string) {
	s.sh(s.lab.Source, `mkdir -p "$1"/mnt && cd "$1" && dd if=/dev/urandom of=disk bs=1M count=8 status=none
nbdkit -U "$1"/nbd.sock -P "$1"/nbdkit.pid --filter=error --filter=delay file "$1"/disk \
	error-pread=EIO error-pread-rate=100% error-file="$1"/errors rdelay="$2"
setsid nbdfuse -P "$1"/nbdfuse.pid mnt/disk --unix nbd.sock </dev/null >/dev/null 2>&1 &
until [ -s nbdfuse.pid ]; do sleep 0.05; done`, badDir, delay)
	s.virsh(s.lab.Source, "attach-disk", faultGuest, badDir+"/mnt/disk", "vdc", "--driver", "qemu", "--subdriver", "raw", "--targetbus", "virtio")
}

func (s *stage) detachBad() {
	s.detachExtra()
	s.sh(s.lab.Source, `umount "$1"/mnt && kill "$(cat "$1"/nbdkit.pid)" && rm -r "$1"`, badDir)
}
