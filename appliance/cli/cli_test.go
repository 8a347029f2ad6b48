package cli

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/api/client"
	"understudy/api/server"
)

var update = flag.Bool("update", false, "write testdata anew")

const token = "a-token-for-tests"

// terminal is what a run of the command line writes and reads.
type terminal struct {
	out, err syncBuffer
	in       io.Reader
	change   func(*app)
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// serve publishes svc and points the environment there.
func serve(t *testing.T, svc api.Service) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() {
		parts := server.Parts{Service: svc}
		parts.Notifications, _ = svc.(api.Notifications)
		parts.Access, _ = svc.(server.Access)
		parts.Operation, _ = svc.(api.Operation)
		parts.SignIn, _ = svc.(server.SignIn)
		done <- server.Serve(ctx, ln, server.New(parts, server.Options{Token: token, Log: slog.New(slog.DiscardHandler)}), nil)
	}()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	file := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, []byte(token), 0o600))
	url := "http://" + ln.Addr().String()
	t.Setenv("UNDERSTUDY_URL", url)
	t.Setenv("UNDERSTUDY_TOKEN_FILE", file)
	t.Setenv("UNDERSTUDY_CA", "")
	return url
}

// run executes one command line and gives its exit status.
func (term *terminal) run(ctx context.Context, args ...string) int {
	if term.in == nil {
		term.in = strings.NewReader("")
	}
	a := newApp(&term.out, &term.err, term.in)
	a.now = func() time.Time { return now }
	if term.change != nil {
		term.change(a)
	}
	root := a.root()
	root.SetArgs(args)
	return ExitCode(root.ExecuteContext(ctx))
}

// commands are the command lines whose whole output is kept in testdata, by file.
var commands = map[string][]string{
	"hosts-add-esx":         {"hosts", "add", "esx1", "esx://esx1/?ca=/etc/understudy/ca.pem", "--user", "root", "--password-file", "testdata/password"},
	"hosts-add-nobody":      {"hosts", "add", "kvm1", "qemu:///system", "--password-file", "testdata/password"},
	"hosts-add":             {"hosts", "add", "kvm3", "qemu:///system", "--max-jobs", "2"},
	"hosts-list":            {"hosts", "list"},
	"hosts-show":            {"hosts", "show", "kvm1"},
	"hosts-show-nobody":     {"hosts", "show", "nobody"},
	"hosts-inventory":       {"hosts", "inventory", "kvm1"},
	"hosts-doctor":          {"hosts", "doctor", "kvm1"},
	"hosts-remove":          {"hosts", "remove", "kvm1"},
	"machines-list":         {"machines", "list", "kvm1"},
	"machines-list-all":     {"machines", "list"},
	"machines-list-json":    {"machines", "list", "--health", "missed", "--group", "web", "--at", "kvm1", "--text", "db", "--json"},
	"machines-list-wrong":   {"machines", "list", "kvm1", "--health", "missed"},
	"status":                {"status"},
	"status-json":           {"status", "--json"},
	"alerts":                {"alerts"},
	"alerts-json":           {"alerts", "--json"},
	"groups-history":        {"groups", "history", "web"},
	"groups-history-json":   {"groups", "history", "web", "--hours", "48", "--json"},
	"groups-history-nobody": {"groups", "history", "nobody"},
	"doctor":                {"doctor", "sick"},
	"doctor-paths":          {"doctor", "esx1", "--data-paths", "--storage", "datastore2"},
	"doctor-paths-json":     {"doctor", "kvm1", "--data-paths", "--json"},
	"doctor-paths-none":     {"hosts", "doctor", "sick", "--data-paths"},
	"doctor-storage-alone":  {"doctor", "kvm1", "--storage", "fast"},
	"about":                 {"about"},
	"groups-list":           {"groups", "list"},
	"groups-show":           {"groups", "show", "web"},
	"groups-show-split":     {"groups", "show", "split"},
	"verify":                {"verify", "web"},
	"verify-json":           {"verify", "web", "--json"},
	"verify-no-wait":        {"verify", "web", "--no-wait"},
	"verify-show":           {"verify", "web", "--show"},
	"verify-show-never":     {"verify", "untested", "--show"},
	"fence":                 {"fence", "web", "--yes"},
	"groups-policy-verify":  {"groups", "policy", "web", "--verify-every", "30d"},
	"groups-policy-wrong":   {"groups", "policy", "web", "--verify-every", "5s"},
	"groups-points":         {"groups", "points", "web"},
	"groups-pause":          {"groups", "pause", "web"},
	"groups-resume":         {"groups", "resume", "web"},
	"groups-sync":           {"groups", "sync", "web"},
	"groups-sync-no-wait":   {"groups", "sync", "web", "--no-wait"},
	"groups-sync-json":      {"groups", "sync", "web", "--json"},
	"groups-policy":         {"groups", "policy", "web"},
	"groups-policy-change":  {"groups", "policy", "web", "--rpo", "1d12h", "--retention", "0:0:24", "--verify", "--bandwidth", "0"},
	"groups-create-missing": {"groups", "create", "web", "--source", "kvm1"},
	"groups-create-invalid": {"groups", "create", "web", "--source", "kvm1", "--target", "kvm2", "--machine", "a", "--rpo", "2s"},
	"groups-create": {"groups", "create", "web", "--source", "kvm1", "--target", "kvm2", "--machine", "db1", "--machine", "web1=spare",
		"--rpo", "10s", "--retention", "5m:2h,1h:1d", "--network", "default=recovery", "--storage", "fast", "--check", "agent",
		"--check", "web1=http://192.0.2.10/health?a=b", "--consistency", "application", "--group-moment", "--verify", "--compression", "zstd"},
	"groups-create-file":     {"groups", "create", "mail", "-f", "testdata/group.json", "--target", "kvm4", "--no-wait", "--json"},
	"groups-remove":          {"groups", "remove", "web", "--yes"},
	"groups-remove-all":      {"groups", "remove", "web", "--yes", "--delete-replicas", "--wait=false"},
	"points-list":            {"points", "list", "web"},
	"points-drop":            {"points", "drop", "web", "p1", "-y"},
	"points-drop-nothing":    {"points", "drop", "web", "p7", "-y"},
	"jobs-list":              {"jobs", "list", "--group", "web", "--limit", "3"},
	"jobs-show":              {"jobs", "show", "j1"},
	"jobs-show-json":         {"jobs", "show", "j1", "--json"},
	"jobs-watch":             {"jobs", "watch", "j1"},
	"jobs-cancel":            {"jobs", "cancel", "j1"},
	"reports-list":           {"reports", "list", "--group", "web", "--kind", "failover"},
	"reports-show":           {"reports", "show", "r1"},
	"reports-show-nobody":    {"reports", "show", "nobody"},
	"reports-html-wrong":     {"reports", "html", "r1", "--lang", "tlh"},
	"scripts-list":           {"scripts", "list"},
	"wrong-stage":            {"groups", "create", "w", "--source", "a", "--target", "b", "--machine", "c", "--stage", "c=second"},
	"wrong-stage-machine":    {"groups", "create", "w", "--source", "a", "--target", "b", "--machine", "c", "--stage", "d=2"},
	"groups-create-disks":    {"groups", "create", "w", "--source", "a", "--target", "b", "--machine", "c", "--leave-out", "c=vdb", "--disk-bus", "c=vda=sata", "--no-wait"},
	"wrong-disk":             {"groups", "create", "w", "--source", "a", "--target", "b", "--machine", "c", "--leave-out", "d=vdb"},
	"groups-create-convert":  {"groups", "create", "w", "--source", "a", "--target", "b", "--machine", "c", "--machine", "d", "--convert", "d", "--no-wait"},
	"wrong-convert":          {"groups", "create", "w", "--source", "a", "--target", "b", "--machine", "c", "--convert", "d"},
	"wrong-bus":              {"groups", "create", "w", "--source", "a", "--target", "b", "--machine", "c", "--disk-bus", "c=vda"},
	"wrong-bus-name":         {"groups", "create", "w", "--source", "a", "--target", "b", "--machine", "c", "--disk-bus", "c=vda=floppy"},
	"groups-create-stages":   {"groups", "create", "w", "--source", "a", "--target", "b", "--machine", "c", "--machine", "d", "--stage", "d=2", "--no-wait"},
	"jobs-confirm":           {"jobs", "confirm", "j1", "--prompt", "1-before-1", "--note", "done by Ada"},
	"jobs-confirm-nothing":   {"jobs", "confirm", "j1"},
	"test-start":             {"test", "start", "web", "--point", "p2"},
	"test-start-no-wait":     {"test", "start", "web", "--no-wait"},
	"test-end":               {"test", "end", "web"},
	"test-show":              {"test", "show", "web", "--json"},
	"test-show-untested":     {"test", "show", "untested"},
	"failover":               {"failover", "web", "--yes"},
	"failover-planned":       {"failover", "web", "--planned", "--yes"},
	"failover-point":         {"failover", "web", "--point", "p1", "--force", "--yes"},
	"failover-no-point":      {"failover", "empty", "--yes"},
	"failover-nobody-asked":  {"failover", "web"},
	"failover-contradiction": {"failover", "web", "--planned", "--point", "p1", "--yes"},
	"failover-json":          {"failover", "web", "--yes", "--json"},
	"commit":                 {"commit", "web"},
	"rollback":               {"rollback", "web", "--yes"},
	"reprotect":              {"reprotect", "web"},
	"failback":               {"failback", "web", "--yes"},
	"wrong-command":          {"groups", "lits"},
	"wrong-first-command":    {"gruops"},
	"wrong-flag":             {"hosts", "list", "--colour"},
	"wrong-arguments":        {"hosts", "show"},
	"wrong-duration":         {"groups", "policy", "web", "--rpo", "10"},
	"wrong-retention":        {"groups", "policy", "web", "--retention", "5m"},
	"wrong-check":            {"groups", "create", "w", "--source", "a", "--target", "b", "--machine", "c", "--check", "ping"},
	"wrong-check-of-several": {"groups", "create", "w", "--source", "a", "--target", "b", "--machine", "c", "--machine", "d", "--check", "tcp://192.0.2.1:22"},
	"wrong-check-machine":    {"groups", "create", "w", "--source", "a", "--target", "b", "--machine", "c", "--check", "x=agent"},
	"wrong-network":          {"groups", "create", "w", "--source", "a", "--target", "b", "--machine", "c", "--network", "x"},
	"help":                   {"--help"},

	"whoami":              {"whoami"},
	"users-list":          {"users", "list"},
	"users-add":           {"users", "add", "bob", "--role", "operator", "--group", "web", "--full-name", "Bob B", "--password-file", "testdata/password"},
	"users-add-nobody":    {"users", "add", "bob"},
	"users-set":           {"users", "set", "ada", "--role", "viewer", "--disabled"},
	"users-set-password":  {"users", "set", "ada", "--all-groups", "--password-file", "testdata/password"},
	"users-set-wrong":     {"users", "set", "ada", "--all-groups", "--group", "web"},
	"users-remove":        {"users", "remove", "ada"},
	"users-remove-nobody": {"users", "remove", "nobody"},
	"tokens-list":         {"tokens", "list", "--all"},
	"tokens-add":          {"tokens", "add", "backup", "--user", "ada", "--role", "viewer", "--expires", "30d"},
	"tokens-add-json":     {"tokens", "add", "backup", "--json"},
	"tokens-remove":       {"tokens", "remove", "t1"},
	"audit-list":          {"audit", "list", "--user", "ada", "--limit", "5"},
	"audit-export":        {"audit", "export"},
	"audit-verify":        {"audit", "verify"},
	"audit-verify-file":   {"audit", "verify", "--file", "testdata/audit-changed.ndjson"},
}

func TestCommands(t *testing.T) {
	for name, args := range commands {
		t.Run(name, func(t *testing.T) {
			svc := newAppliance()
			url := serve(t, svc)
			var term terminal
			exit := term.run(t.Context(), args...)
			got := fmt.Sprintf("$ understudy %s\n%s", strings.Join(args, " "), term.out.String())
			got += block("stderr", term.err.String()) + block("orders", strings.Join(svc.orders, "\n"))
			got = strings.ReplaceAll(got+fmt.Sprintf("--- exit %d\n", exit), url, "URL")
			got = strings.ReplaceAll(got, os.Getenv("UNDERSTUDY_TOKEN_FILE"), "TOKEN-FILE")
			golden(t, filepath.Join("testdata", name+".txt"), got)
		})
	}
}

func block(name, text string) string {
	if text == "" {
		return ""
	}
	return "--- " + name + "\n" + strings.TrimSuffix(text, "\n") + "\n"
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

func TestEveryCommandIsTested(t *testing.T) {
	tested := map[string]bool{"understudy events": true} // TestEvents
	for _, args := range commands {
		for n := range min(len(args), 3) {
			tested["understudy "+strings.Join(args[:n+1], " ")] = true
		}
	}
	for _, name := range operationCommands {
		tested["understudy "+name] = true
	}
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		for _, sub := range cmd.Commands() {
			require.True(t, tested[sub.CommandPath()], "%s has no test", sub.CommandPath())
			require.NotEmpty(t, sub.Short)
			walk(sub)
		}
	}
	walk(New(io.Discard, io.Discard, strings.NewReader(""), nil))
}

func TestEvents(t *testing.T) {
	svc := newAppliance()
	job := someJob(api.JobRunning)
	svc.script = []api.Event{
		{ID: 7, Time: now, Kind: "job", Action: "progress", Subject: "j1", Job: &job},
		{ID: 8, Time: now, Kind: "host", Action: "updated", Subject: "h1", Message: "lost\x1b"},
	}
	serve(t, svc)
	for name, args := range map[string][]string{"events": {"events", "--after", "6"}, "events-json": {"events", "--json"}} {
		var term terminal
		ctx, cancel := context.WithCancel(t.Context())
		exit := make(chan int, 1)
		go func() { exit <- term.run(ctx, args...) }()
		require.Eventually(t, func() bool { return strings.Count(term.out.String(), "\n") == 2 }, time.Minute, time.Millisecond)
		cancel()
		require.Zero(t, <-exit, "to interrupt the stream is the way to end it")
		golden(t, filepath.Join("testdata", name+".txt"), term.out.String())
	}
}

func TestDangerIsAskedAbout(t *testing.T) {
	for answer, done := range map[string]bool{"yes\n": true, "Y\n": true, "no\n": false, "\n": false, "": false, "yes please\n": false} {
		for _, args := range [][]string{{"failover", "web"}, {"rollback", "web"}, {"failback", "web"}, {"groups", "remove", "web"}, {"points", "drop", "web", "p1"}} {
			svc := newAppliance()
			serve(t, svc)
			term := terminal{in: strings.NewReader(answer), change: func(a *app) { a.asks = true }}
			exit := term.run(t.Context(), args...)
			require.Contains(t, term.err.String(), "Type yes")
			if done {
				require.Zero(t, exit, term.err.String())
				require.Len(t, svc.orders, 1)
			} else {
				require.Equal(t, exitInterrupted, exit)
				require.Empty(t, svc.orders)
			}
		}
	}
}

func TestAQuestionCanBeInterrupted(t *testing.T) {
	svc := newAppliance()
	serve(t, svc)
	in, keyboard := io.Pipe()
	defer keyboard.Close()
	term := terminal{in: in, change: func(a *app) { a.asks = true }}
	ctx, cancel := context.WithCancel(t.Context())
	exit := make(chan int, 1)
	go func() { exit <- term.run(ctx, "failover", "web") }()
	require.Eventually(t, func() bool { return strings.Contains(term.err.String(), "Type yes") }, time.Minute, time.Millisecond)
	cancel()
	require.Equal(t, exitInterrupted, <-exit)
	require.Empty(t, svc.orders)
}

// working gives a job that runs, and the events that bring it to its end.
func working(end api.JobState) *appliance {
	svc := newAppliance()
	svc.job = someJob(api.JobRunning)
	svc.job.Step = "checkpoint"
	svc.job.Progress = api.Progress{}
	for i, state := range []api.JobState{api.JobRunning, api.JobRunning, end} {
		job := someJob(state)
		job.Progress.Done += int64(i) << 20
		job.Error, job.Hint = "", ""
		if end == api.JobFailed {
			job.Error, job.Hint = "no space left", "Make room."
		}
		svc.script = append(svc.script, api.Event{ID: uint64(i + 1), Kind: "job", Job: &job})
	}
	return svc
}

func TestProgressInLines(t *testing.T) {
	serve(t, working(api.JobSucceeded))
	var term terminal
	require.Zero(t, term.run(t.Context(), "groups", "sync", "web"))
	require.Equal(t, "cycle running: checkpoint (1/3)\ncycle running: copy (2/3)\ncycle done in 3.0s, bytesRead 3145728, seconds 3\n", term.err.String())
}

func TestProgressOnATerminal(t *testing.T) {
	serve(t, working(api.JobSucceeded))
	term := terminal{change: func(a *app) { a.draws = true }}
	require.Zero(t, term.run(t.Context(), "groups", "sync", "web"))
	require.True(t, strings.HasSuffix(term.err.String(), "cycle done in 3.0s, bytesRead 3145728, seconds 3\n"), term.err.String())
}

func TestBarShowsTheJob(t *testing.T) {
	var screen syncBuffer
	b := newBar(&screen, func(api.Job) string { return "4.0s" })
	half := someJob(api.JobRunning)
	half.Progress = api.Progress{Done: 512 << 20, Total: 1 << 30}
	b.update(half)
	require.Eventually(t, func() bool {
		return strings.Contains(screen.String(), "cycle running: copy (2/3)") && strings.Contains(screen.String(), "[==========>-----------]  512 MiB of 1 GiB  4.0s")
	}, time.Minute, time.Millisecond)
	unknown := someJob(api.JobRunning)
	unknown.Progress = api.Progress{}
	b.update(unknown)
	b.end()
}

func TestBadOutcomes(t *testing.T) {
	for state, text := range map[api.JobState]string{
		api.JobFailed: "Error: cycle failed: no space left\nMake room.\n", api.JobCancelled: "Error: cycle was cancelled\n",
	} {
		serve(t, working(state))
		var term terminal
		require.Equal(t, exitFailed, term.run(t.Context(), "groups", "sync", "web"))
		require.True(t, strings.HasSuffix(term.err.String(), text), term.err.String())
	}
}

// What differed is shown, and the command fails all the same.
func TestVerifyThatFindsADifference(t *testing.T) {
	serve(t, working(api.JobFailed))
	var term terminal
	exit := term.run(t.Context(), "verify", "web")
	require.NotZero(t, exit)
	golden(t, filepath.Join("testdata", "verify-failed.txt"),
		fmt.Sprintf("$ understudy verify web\n%s%s--- exit %d\n", term.out.String(), block("stderr", term.err.String()), exit))
}

func TestInterruptedWaitTellsThatTheJobGoesOn(t *testing.T) {
	svc := newAppliance()
	svc.job = someJob(api.JobRunning)
	serve(t, svc)
	var term terminal
	ctx, cancel := context.WithCancel(t.Context())
	exit := make(chan int, 1)
	go func() { exit <- term.run(ctx, "groups", "sync", "web") }()
	require.Eventually(t, func() bool { return strings.Contains(term.err.String(), "copy") }, time.Minute, time.Millisecond)
	cancel()
	require.Equal(t, exitInterrupted, <-exit)
	require.Contains(t, term.err.String(), "Job j1 goes on")
}

func TestExitCodes(t *testing.T) {
	seen := map[api.Code]bool{}
	for code, want := range exits {
		seen[code] = true
		svc := newAppliance()
		svc.err = &api.Error{Code: code, Message: "no luck", Hint: "Try it."}
		serve(t, svc)
		var term terminal
		require.Equal(t, want, term.run(t.Context(), "hosts", "list"), code)
		require.Equal(t, "Error: no luck\nTry it.\n", term.err.String())
		require.Contains(t, exitHelp, fmt.Sprintf("\n  %-3d  ", want))
	}
	require.Len(t, seen, 11, "every code of package api has a status")
	require.Equal(t, exitInternal, ExitCode(errors.New("some")))
	require.Equal(t, exitUnreachable, ExitCode(fmt.Errorf("some: %w", client.ErrUnreachable)))
}

func TestNoAppliance(t *testing.T) {
	ts := httptest.NewServer(nil)
	ts.Close()
	serve(t, newAppliance())
	var term terminal
	require.Equal(t, exitUnreachable, term.run(t.Context(), "--url", ts.URL, "about"))
	require.Equal(t, exits[api.CodeUnauthorized], term.run(t.Context(), "--token-file", "/nonexistent", "about"))
	require.Equal(t, exits[api.CodeInvalid], term.run(t.Context(), "--ca", "/nonexistent", "about"))
	require.NotContains(t, term.err.String(), token)
}

func TestDefaultsAreTheLocalDaemon(t *testing.T) {
	for _, name := range []string{"UNDERSTUDY_URL", "UNDERSTUDY_TOKEN_FILE", "UNDERSTUDY_CA"} {
		t.Setenv(name, "")
	}
	a := newApp(io.Discard, io.Discard, strings.NewReader(""))
	a.root()
	require.Equal(t, []string{"https://localhost:8443", "/var/lib/understudy/admin.token", "/var/lib/understudy/tls/cert.pem"},
		[]string{a.url, a.tokenFile, a.ca})
}
