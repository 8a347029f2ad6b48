package main_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/api/client"
	appliance "understudy/appliance"
	"understudy/appliance/rig"
	"understudy/hypervisors"
	"understudy/hypervisors/fake/remote"
)

// victimVariable makes the test program the appliance itself; it holds the directory of the sockets at which the
// harness, its parent, is asked: "moments" whether this is the moment to die, "fake" for hypervisors in memory.
const victimVariable = "UNDERSTUDY_VICTIM"

// moment is where an appliance can be killed. Kind, Step and Phase are those of a kill point (see replication.Options);
// a call to a host is a moment before and after it, too, and has no Kind.
type moment struct{ Kind, Step, Phase string }

func (m moment) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s %s (%s)", m.Kind, m.Step, m.Phase))
}

// serveVictim is the appliance in a process of its own. At every kill point it says where it is and waits for an answer,
// which does not come when it is to die there.
func serveVictim(dir string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	killPoint := func(kind, step, phase string) {
		nc, err := net.Dial("unix", filepath.Join(dir, "moments"))
		if err != nil {
			return // the harness is stopping us
		}
		defer nc.Close()
		if json.NewEncoder(nc).Encode(moment{kind, step, phase}) == nil {
			_, _ = nc.Read(make([]byte, 1))
		}
	}
	fake := func(ctx context.Context, uri, owner string) (hypervisors.Host, error) {
		return remote.Dial(ctx, filepath.Join(dir, "fake"), strings.TrimPrefix(uri, "fake:"), owner)
	}
	if err := appliance.ServeVictim(ctx, os.Args[2:], killPoint, fake); err != nil {
		return 1
	}
	return 0
}

// victim is an appliance that is killed at chosen moments, by SIGKILL, and started again.
type victim struct {
	*rig.Daemon
	t     testing.TB
	world world

	mu      sync.Mutex
	pick    func(moment) bool // nil: nobody dies
	dying   bool              // since a moment was picked, until it is started again
	deaths  []moment
	kept    map[string]int  // what the appliance promised, see acknowledged, and in which play
	plays   int             // orders given
	points  map[string]bool // that it has shown: whether of the reversed direction
	order   order           // at work, or the last one
	dropped map[string]bool // points that a person gave up
}

func newVictim(t testing.TB, w world) *victim {
	t.Helper()
	dir := memory(t)
	program, err := os.Executable()
	require.NoError(t, err)
	v := &victim{t: t, world: w, kept: map[string]int{}, points: map[string]bool{}, dropped: map[string]bool{}}
	v.Daemon, err = rig.New(filepath.Join(dir, "data"), program, victimVariable+"="+dir)
	require.NoError(t, err)
	served := listen(t, filepath.Join(dir, "moments"), v.answer)
	w.serve(t, dir, v)
	t.Cleanup(func() {
		v.Kill()
		served()
	})
	require.NoError(t, v.Start(t.Context()))
	for name, uri := range w.hosts() {
		_, err := v.AddHost(t.Context(), api.HostSpec{Name: name, URI: uri})
		require.NoError(t, err)
		v.acknowledged("host " + name)
	}
	return v
}

// memory is a directory that needs no disk: what fsync is good for is proved where the store is tested.
func memory(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "understudy-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

// listen serves connections at a socket until what it returns is called, which waits for the last of them.
func listen(t testing.TB, socket string, serve func(net.Conn)) (end func()) {
	l, err := net.Listen("unix", socket)
	require.NoError(t, err)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { serve(nc) })
		}
	})
	return func() { _ = l.Close(); all.Wait() }
}

// answer lets the appliance go on, or kills it where it stands.
func (v *victim) answer(nc net.Conn) {
	defer nc.Close()
	var m moment
	if json.NewDecoder(nc).Decode(&m) == nil && !v.strikes(m) {
		_, _ = nc.Write([]byte{1})
	}
}

// strikes tells whether the appliance dies at a moment. It is dead then.
func (v *victim) strikes(m moment) bool {
	v.mu.Lock()
	if v.dying {
		v.mu.Unlock()
		return false // what was under way when it died goes on by itself
	}
	struck := v.pick != nil && v.pick(m)
	if struck {
		v.dying = true
		v.deaths = append(v.deaths, m)
	}
	v.mu.Unlock()
	if struck {
		kills.add(v.world.name(), v.order, m)
		v.Kill()
	}
	return struck
}

// died says that a call failed because the appliance was killed, and starts it again then.
func (v *victim) died() bool {
	v.mu.Lock()
	dying := v.dying
	v.mu.Unlock()
	if dying {
		v.revive()
	}
	return dying
}

// revive starts the appliance again, though it may be killed while it starts, and looks whether it kept its promises.
func (v *victim) revive() {
	v.t.Helper()
	for again := true; again; {
		<-v.Ended()
		v.world.calm()
		v.mu.Lock()
		require.True(v.t, v.dying, "the appliance ended by itself:\n%s", v.LastWords())
		v.dying = false
		v.mu.Unlock()
		err := v.Start(v.t.Context())
		v.mu.Lock()
		again = v.dying
		v.mu.Unlock()
		if !again {
			require.NoError(v.t, err, v.LastWords())
		}
	}
	v.promised()
}

// call repeats what only asks until the appliance lives long enough to answer.
func call[T any](v *victim, ask func(ctx context.Context) (T, error)) T {
	v.t.Helper()
	for {
		answer, err := ask(v.t.Context())
		if err == nil {
			return answer
		}
		if !v.died() {
			require.NoError(v.t, err, v.LastWords())
		}
	}
}

// play gives an order and kills the appliance at every moment that is picked, until its job has ended.
func (v *victim) play(o order, pick func(moment) bool) (api.Job, []moment) {
	v.t.Helper()
	var last string
	for _, j := range call(v, func(ctx context.Context) (api.Page[api.Job], error) {
		return v.ListJobs(ctx, api.JobQuery{Paging: api.Paging{Limit: 1}})
	}).Items {
		last = j.ID
	}
	v.world.begin(o)
	v.mu.Lock()
	v.order, v.pick, v.deaths = o, v.judge(o, pick), nil
	v.plays++
	v.mu.Unlock()
	job := v.finished(v.ordered(o, last))
	v.mu.Lock()
	v.pick = nil
	v.mu.Unlock()
	v.died() // in the very last moment
	return job, v.deaths
}

// judge is pick, and cancels the job where the order says so.
func (v *victim) judge(o order, pick func(moment) bool) func(moment) bool {
	return func(m moment) bool {
		v.world.tick()
		if pick != nil && pick(m) {
			return true
		}
		if o.cancelAt != "" && m == (moment{o.kind, o.cancelAt, "before do"}) {
			v.mu.Unlock() // the cancel passes kill points of its own
			defer v.mu.Lock()
			v.cancel(o)
		}
		return false
	}
}

func (v *victim) cancel(o order) {
	list, err := v.AllJobs(v.t.Context(), api.JobQuery{})
	for _, j := range list {
		if j.Kind == o.kind && !j.State.Ended() {
			_, err = v.CancelJob(v.t.Context(), j.ID)
		}
	}
	if err != nil && !errors.Is(err, client.ErrUnreachable) { // killed meanwhile
		v.t.Errorf("cancel %s: %v", o.name, err)
	}
}

// ordered gives an order until the appliance has accepted it, or turns out to have. An order whose answer was lost may
// be forgotten, but not half.
func (v *victim) ordered(o order, last string) string {
	v.t.Helper()
	for {
		job, err := o.give(v)
		if err == nil {
			v.acknowledged("job " + job.ID)
			return job.ID
		}
		if !v.died() {
			require.NoError(v.t, err, "%s\n%s", o.name, v.LastWords())
		}
		if id := v.accepted(o, last); id != "" {
			return id
		}
	}
}

// accepted finds the job of an order that was not answered.
func (v *victim) accepted(o order, last string) string {
	for {
		for _, j := range call(v, func(ctx context.Context) ([]api.Job, error) { return v.AllJobs(ctx, api.JobQuery{}) }) {
			if j.Kind == o.kind && j.ID > last {
				return j.ID
			}
		}
		groups := call(v, func(ctx context.Context) ([]api.Group, error) { return v.AllGroups(ctx, api.GroupQuery{}) })
		if o.kind != "mirror" || len(groups) == 0 {
			return ""
		}
		time.Sleep(tick) // the schedule mirrors a group that it finds without a point
	}
}

const tick = 10 * time.Millisecond

// finished waits for a job's end through all deaths.
func (v *victim) finished(id string) api.Job {
	v.t.Helper()
	deadline := time.After(waitFor)
	for {
		job := call(v, func(ctx context.Context) (api.Job, error) { return v.GetJob(ctx, id) })
		if job.State.Ended() {
			return job
		}
		select {
		case <-v.Ended():
			v.died()
		case <-deadline:
			require.Fail(v.t, "a job does not end", "%s: %s in step %s\n%s", job.Kind, job.State, job.Step, v.LastWords())
		case <-time.After(tick):
		}
	}
}

// acknowledged notes what the appliance has answered, and must not forget from here on.
func (v *victim) acknowledged(what string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.kept[what] = v.plays
}
