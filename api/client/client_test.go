package client

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/api/server"
)

const token = "a-token-for-tests"

// journal is a service with nothing but events and jobs, as a daemon keeps them over its restarts.
type journal struct {
	api.Service
	mu      sync.Mutex
	events  []api.Event
	jobs    map[string]api.Job
	changed chan struct{} // closed at each change
	cut     chan struct{} // closing it ends all streams
}

func newJournal() *journal {
	return &journal{jobs: map[string]api.Job{}, changed: make(chan struct{}), cut: make(chan struct{})}
}

func (j *journal) add(job *api.Job) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if job != nil {
		j.jobs[job.ID] = *job
	}
	j.events = append(j.events, api.Event{ID: uint64(len(j.events) + 1), Kind: "job", Job: job})
	close(j.changed)
	j.changed = make(chan struct{})
}

func (j *journal) setQuietly(job api.Job) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.jobs[job.ID] = job
}

func (j *journal) cutStreams() {
	j.mu.Lock()
	defer j.mu.Unlock()
	close(j.cut)
	j.cut = make(chan struct{})
}

func (j *journal) GetJob(_ context.Context, id string) (api.Job, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if job, ok := j.jobs[id]; ok {
		return job, nil
	}
	return api.Job{}, api.Errorf(api.CodeNotFound, "", "no job %s", id)
}

func (j *journal) Events(ctx context.Context, after uint64) (<-chan api.Event, error) {
	out := make(chan api.Event)
	j.mu.Lock()
	if after == 0 {
		after = uint64(len(j.events))
	}
	cut := j.cut
	j.mu.Unlock()
	go func() {
		defer close(out)
		for {
			j.mu.Lock()
			fresh, changed := j.events[after:], j.changed
			j.mu.Unlock()
			for _, event := range fresh {
				select {
				case out <- event:
					after = event.ID
				case <-ctx.Done():
					return
				case <-cut:
					return
				}
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			case <-cut:
				return
			}
		}
	}()
	return out, nil
}

// daemon can be stopped and started again at the same address.
type daemon struct {
	t       *testing.T
	svc     api.Service
	token   string
	address string
	stop    func()
}

func startDaemon(t *testing.T, svc api.Service) *daemon {
	d := &daemon{t: t, svc: svc, token: token, address: "127.0.0.1:0"}
	d.start()
	t.Cleanup(func() { d.stop() })
	return d
}

func (d *daemon) start() {
	d.t.Helper()
	ln, err := net.Listen("tcp", d.address)
	require.NoError(d.t, err)
	d.address = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	s := server.New(server.Parts{Service: d.svc}, server.Options{Token: d.token, Log: slog.New(slog.DiscardHandler)})
	go func() { done <- server.Serve(ctx, ln, s, nil) }()
	d.stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(d.t, <-done)
	})
}

func (d *daemon) client() *Client {
	c, err := New("http://"+d.address, Options{Token: token})
	require.NoError(d.t, err)
	c.pace = pace{retryFirst: time.Millisecond, retryMost: 10 * time.Millisecond, silence: time.Minute, poll: time.Hour}
	return c
}

func take(t *testing.T, events <-chan api.Event) api.Event {
	t.Helper()
	select {
	case event, open := <-events:
		require.True(t, open, "the channel is closed")
		return event
	case <-time.After(time.Minute):
		t.Fatal("no event")
		return api.Event{}
	}
}

func TestEventsSurviveRestarts(t *testing.T) {
	j := newJournal()
	d := startDaemon(t, j)
	events, err := d.client().Events(t.Context(), 0)
	require.NoError(t, err)
	j.add(nil)
	require.EqualValues(t, 1, take(t, events).ID)

	d.stop()
	j.add(nil) // while nobody listens
	j.add(nil)
	d.start()
	require.EqualValues(t, 2, take(t, events).ID)
	j.cutStreams()
	require.EqualValues(t, 3, take(t, events).ID)
	j.add(nil)
	require.EqualValues(t, 4, take(t, events).ID)
}

func TestEventsEndWithTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	events, err := startDaemon(t, newJournal()).client().Events(ctx, 0)
	require.NoError(t, err)
	cancel()
	for range events {
	}
}

func TestEventsEndWhenTheApplianceRefuses(t *testing.T) {
	d := startDaemon(t, newJournal())
	events, err := d.client().Events(t.Context(), 0)
	require.NoError(t, err)
	d.stop()
	d.token = "another"
	d.start()
	for range events {
	}
	_, err = d.client().Events(t.Context(), 0)
	require.Equal(t, api.CodeUnauthorized, api.CodeOf(err))
}

func TestSilentStreamIsGivenUp(t *testing.T) {
	connections := make(chan struct{}, 100)
	ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		connections <- struct{}{}
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = w.Write([]byte(": hello\n\n"))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	defer ts.Close()
	c, err := New(ts.URL, Options{})
	require.NoError(t, err)
	c.pace = pace{retryFirst: time.Millisecond, retryMost: time.Millisecond, silence: 50 * time.Millisecond}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err = c.Events(ctx, 0)
	require.NoError(t, err)
	for range 3 {
		<-connections
	}
}

func TestStreamThatNeverStartsIsGivenUp(t *testing.T) {
	ts := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer ts.Close()
	c, err := New(ts.URL, Options{})
	require.NoError(t, err)
	c.pace.silence = 10 * time.Millisecond
	_, err = c.Events(t.Context(), 0)
	require.ErrorIs(t, err, ErrUnreachable)
}

func TestWaitJobSurvivesRestart(t *testing.T) {
	j := newJournal()
	d := startDaemon(t, j)
	job := api.Job{ID: "j1", State: api.JobRunning, Progress: api.Progress{Done: 1, Total: 3}}
	j.add(&job)
	c := d.client()
	c.pace.poll = 10 * time.Millisecond
	seen := make(chan api.Job, 100)
	result := make(chan api.Job, 1)
	go func() {
		last, err := c.WaitJob(t.Context(), "j1", func(job api.Job) { seen <- job })
		if err != nil {
			t.Error(err)
		}
		result <- last
	}()
	require.EqualValues(t, 1, (<-seen).Progress.Done)
	d.stop()
	job.Progress.Done, job.State = 3, api.JobFailed
	j.setQuietly(job) // the event of it is lost
	d.start()
	require.Equal(t, job, <-result)
	require.Equal(t, job, <-seen)
}

func TestWaitJobListens(t *testing.T) {
	j := newJournal()
	c := startDaemon(t, j).client() // which polls once an hour
	job := api.Job{ID: "j1", State: api.JobQueued}
	j.add(&job)
	got, err := c.WaitJob(t.Context(), "j1", func(seen api.Job) {
		require.Equal(t, job, seen)
		switch job.State {
		case api.JobQueued:
			job.State = api.JobRunning
		case api.JobRunning:
			job.State = api.JobSucceeded
		default:
			return
		}
		change := job
		j.add(&api.Job{ID: "other", State: api.JobFailed})
		j.add(&change)
	})
	require.NoError(t, err)
	require.Equal(t, api.JobSucceeded, got.State)
}

func TestWaitJobForNothing(t *testing.T) {
	_, err := startDaemon(t, newJournal()).client().WaitJob(t.Context(), "j1", nil)
	require.Equal(t, api.CodeNotFound, api.CodeOf(err))
}

func TestBadAddresses(t *testing.T) {
	for _, address := range []string{"", "appliance", "ftp://appliance", "https://", "http://192.0.2.1:8443", "http://appliance", "://"} {
		_, err := New(address, Options{})
		require.Equal(t, api.CodeInvalid, api.CodeOf(err), address)
	}
	for _, address := range []string{"https://appliance:8443/", "https://[2001:db8::1]/understudy/", "http://127.0.0.1:1", "http://localhost", "http://[::1]:80"} {
		_, err := New(address, Options{})
		require.NoError(t, err, address)
	}
}

func TestTokenAndCertificateFiles(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "token")
	_, err := New("https://a", Options{TokenFile: file})
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NoError(t, os.WriteFile(file, []byte("secret\n"), 0o600))
	c, err := New("https://a", Options{TokenFile: file})
	require.NoError(t, err)
	require.Equal(t, "secret", c.token)
	_, err = New("https://a", Options{CAFile: file})
	require.ErrorContains(t, err, "no certificate")
	_, err = New("https://a", Options{CAFile: file + "2"})
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestUnreachable(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := ln.Addr().String()
	require.NoError(t, ln.Close())
	c, err := New("http://"+address, Options{Token: token})
	require.NoError(t, err)
	_, err = c.About(t.Context())
	require.ErrorIs(t, err, ErrUnreachable)
	require.NotContains(t, err.Error(), token)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.About(ctx)
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, ErrUnreachable)
}

func TestTimeoutIsUnreachable(t *testing.T) {
	release := make(chan struct{})
	ts := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer ts.Close()
	defer close(release)
	c, err := New(ts.URL, Options{Timeout: time.Millisecond})
	require.NoError(t, err)
	_, err = c.About(t.Context())
	require.ErrorIs(t, err, ErrUnreachable)
}

func TestForeignAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		status      int
		contentType string
		body        string
		unreachable bool
	}{
		"page":         {200, "text/html", "<html>", false},
		"gateway":      {502, "text/html", "<html>", true},
		"redirect":     {302, "", "", false},
		"broken JSON":  {200, "application/json", "{", true},
		"broken error": {500, "application/problem+json", "{", false},
		"bare error":   {500, "application/problem+json", "{}", false},
	} {
		t.Run(name, func(t *testing.T) {
			ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", c.contentType)
				w.Header().Set("Location", "http://192.0.2.1/")
				w.WriteHeader(c.status)
				_, _ = w.Write([]byte(c.body))
			}))
			defer ts.Close()
			cl, err := New(ts.URL, Options{Token: token})
			require.NoError(t, err)
			_, err = cl.About(t.Context())
			var e *api.Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, api.CodeInternal, e.Code)
			require.Equal(t, c.unreachable, errors.Is(err, ErrUnreachable))
		})
	}
}

func TestIdsAreEscapedAndNotEmpty(t *testing.T) {
	var asked string
	ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.RequestURI
		w.WriteHeader(http.StatusNoContent)
	}))
	defer ts.Close()
	c, err := New(ts.URL+"/behind/", Options{})
	require.NoError(t, err)
	require.NoError(t, c.RemoveHost(t.Context(), "a/b?c d"))
	require.Equal(t, "/behind/api/v1/hosts/a%2Fb%3Fc%20d", asked)
	for _, err := range []error{
		c.RemoveHost(t.Context(), ""),
		second(c.DropPoint(t.Context(), "", "p")),
		second(c.DropPoint(t.Context(), "g", "")),
		second(c.RemoveGroup(t.Context(), "", true)),
	} {
		require.Equal(t, api.CodeInvalid, api.CodeOf(err))
	}
	require.False(t, strings.Contains(asked, "points"))
}

func second[T any](_ T, err error) error { return err }

// script is a service that says given events.
type script struct {
	api.Service
	events []api.Event
}

func (s script) Events(ctx context.Context, _ uint64) (<-chan api.Event, error) {
	out := make(chan api.Event, len(s.events))
	for _, event := range s.events {
		out <- event
	}
	return out, nil
}

// Progress carries the id of the kept event before it, and must not be taken for a repetition of that.
func TestProgressIsDelivered(t *testing.T) {
	said := []api.Event{{ID: 7, Action: "updated"}, {ID: 7, Action: "progress"}, {ID: 7, Action: "progress"}, {ID: 8, Action: "updated"}}
	events, err := startDaemon(t, script{events: said}).client().Events(t.Context(), 0)
	require.NoError(t, err)
	for _, want := range said {
		got := take(t, events)
		require.Equal(t, want.ID, got.ID)
		require.Equal(t, want.Action, got.Action)
	}
}
