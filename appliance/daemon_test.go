package main_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/api/client"
	appliance "understudy/appliance"
	"understudy/appliance/rig"
	"understudy/hypervisors/kvm/lab"
	"understudy/provisioning/linux"
)

// waitFor bounds waiting for what takes seconds here and may take minutes on a slow machine.
const waitFor = 10 * time.Minute

// binary is the program under test, built once.
var binary string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if slices.Contains(os.Args, appliance.InsideCommand) { // the victim looks inside a guest
		if err := linux.Child(os.Stdin, os.Stdout); err != nil {
			return 1
		}
		return 0
	}
	if dir := os.Getenv(victimVariable); dir != "" {
		return serveVictim(dir)
	}
	dir, err := os.MkdirTemp("", "understudy-test-")
	if err == nil {
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "understudy")
		build := exec.Command("go", "build", "-o", binary, ".")
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		err = build.Run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "build understudy:", err)
		return 1
	}
	code := m.Run()
	if crashAll() {
		kills.print(code != 0)
	}
	return code
}

// calm is the delay between two records of a guest that runs for minutes: an emulated one that writes at its usual pace
// takes half a core.
const calm = 250 * time.Millisecond

// startLab starts two real hosts. They go with the test, which fails when something of them is left.
func startLab(t testing.TB) *lab.Lab {
	t.Helper()
	l, err := lab.Start(t.Context(), lab.Options{Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), waitFor)
		defer cancel()
		require.NoError(t, l.Close(ctx))
		require.Empty(t, l.Leftovers())
	})
	return l
}

// daemon is `understudy serve` over one data directory; it can be killed and started again.
type daemon struct {
	t      *testing.T
	dir    string
	listen string
	cmd    *exec.Cmd
	log    *journal
	*client.Client
}

// journal is what a life of the daemon has logged so far. It can be read while the daemon writes.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

func newDaemon(t *testing.T) *daemon {
	t.Helper()
	return newDaemonIn(t, t.TempDir())
}

// newDaemonIn starts a daemon on a data directory.
func newDaemonIn(t *testing.T, dir string) *daemon {
	t.Helper()
	runtime.LockOSThread() // Pdeathsig strikes when the thread that started the daemon ends
	address, err := rig.FreeAddress()
	require.NoError(t, err)
	d := &daemon{t: t, dir: dir, listen: address}
	t.Cleanup(func() {
		d.signal(syscall.SIGTERM)
		if t.Failed() {
			t.Log(d.log)
		}
	})
	d.start()
	return d
}

func (d *daemon) start() {
	d.t.Helper()
	d.log = new(journal)
	d.cmd = exec.Command(binary, "serve", "--data-dir", d.dir, "--listen", d.listen)
	d.cmd.Stderr = d.log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(d.t, d.cmd.Start())
	require.Eventually(d.t, func() bool {
		c, err := client.New("https://"+d.listen, client.Options{TokenFile: filepath.Join(d.dir, "admin.token"), CAFile: filepath.Join(d.dir, "tls", "cert.pem")})
		if err == nil {
			_, err = c.About(d.t.Context())
		}
		d.Client = c
		return err == nil
	}, waitFor, 50*time.Millisecond, "the daemon does not answer")
}

func (d *daemon) signal(s os.Signal) {
	if d.cmd == nil {
		return
	}
	_ = d.cmd.Process.Signal(s) // it may be dead already
	_ = d.cmd.Wait()
	d.cmd = nil
}

// killAt starts an order, kills the daemon when its job shows the moment, starts it again, and waits for the job.
func (d *daemon) killAt(order func() (api.Job, error), moment func(api.Job) bool) api.Job {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), waitFor)
	defer cancel()
	events, err := d.Events(ctx, 0)
	require.NoError(d.t, err)
	job, err := order()
	require.NoError(d.t, err)
	seen := false
	for e := range events {
		if e.Job == nil || e.Job.ID != job.ID {
			continue
		}
		require.False(d.t, e.Job.State.Ended(), "job %s ended (%s: %s) before the moment to kill came", e.Job.Kind, e.Job.State, e.Job.Error)
		if seen = moment(*e.Job); seen {
			break
		}
	}
	require.True(d.t, seen, "the event stream ended")
	cancel()
	d.signal(syscall.SIGKILL)
	d.start()
	return d.succeeded(job, nil)
}

// succeeded waits for a job and expects it to succeed.
func (d *daemon) succeeded(job api.Job, err error) api.Job {
	d.t.Helper()
	require.NoError(d.t, err)
	ctx, cancel := context.WithTimeout(d.t.Context(), waitFor)
	defer cancel()
	job, err = d.WaitJob(ctx, job.ID, nil)
	require.NoError(d.t, err)
	require.Equal(d.t, api.JobSucceeded, job.State, "%s: step %s: %s\n%s", job.Kind, job.Step, job.Error, job.Hint)
	return job
}

// copying is the moment in which the first bytes of a step have moved.
func copying(step string) func(api.Job) bool {
	return func(j api.Job) bool { return j.Step == step && j.Progress.Done > 0 }
}

// at is the moment in which a step has begun.
func at(step string) func(api.Job) bool {
	return func(j api.Job) bool { return j.Step == step }
}

func TestSecondDaemonIsRefused(t *testing.T) {
	d := newDaemon(t)
	out, err := exec.Command(binary, "serve", "--data-dir", d.dir, "--listen", "127.0.0.1:0").CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "another")
	require.Contains(t, string(out), d.dir)
	_, err = d.About(t.Context())
	require.NoError(t, err, "the first one is not disturbed")
}

func TestDamagedStateIsRefused(t *testing.T) {
	d := newDaemon(t)
	d.signal(syscall.SIGTERM)
	state := filepath.Join(d.dir, "state.db")
	info, err := os.Stat(state)
	require.NoError(t, err)
	require.NoError(t, os.Truncate(state, info.Size()/2))
	before, err := os.ReadFile(state)
	require.NoError(t, err)
	out, err := exec.Command(binary, "serve", "--data-dir", d.dir, "--listen", d.listen).CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "state.db")
	require.NotContains(t, string(out), "goroutine", "a message for people, no stack")
	after, err := os.ReadFile(state)
	require.NoError(t, err)
	require.Equal(t, before, after, "nothing is written to a damaged file")
}

func TestFirstStartMakesSecrets(t *testing.T) {
	d := newDaemon(t)
	token, err := os.ReadFile(filepath.Join(d.dir, "admin.token"))
	require.NoError(t, err)
	for _, name := range []string{"admin.token", "tls/key.pem", "state.db"} {
		info, err := os.Stat(filepath.Join(d.dir, name))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), name)
	}
	require.NotContains(t, d.log.String(), string(bytes.TrimSpace(token)))
}

func TestWrongHostsAreRefused(t *testing.T) {
	d := newDaemon(t)
	for name, c := range map[string]struct {
		uri  string
		code api.Code
		hint string
	}{
		"scheme":  {"hyperv://host/", api.CodeInvalid, "qemu+ssh"},
		"no user": {"esx://host/", api.CodeInvalid, "password"},
		"nowhere": {"qemu+unix:///system?socket=/nowhere/libvirt-sock", api.CodeHost, ""},
		"refused": {"qemu+ssh://root@127.0.0.1:1/system?keyfile=/nowhere/id&known_hosts=/dev/null", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := d.AddHost(t.Context(), api.HostSpec{Name: "x", URI: c.uri})
			require.Error(t, err)
			if c.code != "" {
				require.Equal(t, c.code, api.CodeOf(err), "%v", err)
			}
			var e *api.Error
			require.ErrorAs(t, err, &e)
			require.NotEmpty(t, e.Hint, "%v", err)
			require.Contains(t, e.Hint, c.hint)
		})
	}
}
