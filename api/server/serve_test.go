package server

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/api/client"
)

// serve runs s until the test ends or stop is called, which gives what Serve returned.
func serve(t *testing.T, s *Server, certificates *Certificates) (address string, stop func() error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, ln, s, certificates) }()
	stop = func() error {
		cancel()
		return <-done
	}
	t.Cleanup(cancel)
	return ln.Addr().String(), stop
}

func TestServeTLS(t *testing.T) {
	dir := t.TempDir()
	cert, err := OpenCertificates(dir, []string{"localhost", "127.0.0.1"})
	require.NoError(t, err)
	address, stop := serve(t, New(Parts{Service: &recorder{}}, Options{Token: token, Log: slog.New(slog.DiscardHandler)}), cert)

	trusting, err := client.New("https://"+address, client.Options{Token: token, CAFile: filepath.Join(dir, "cert.pem")})
	require.NoError(t, err)
	_, err = trusting.About(t.Context())
	require.NoError(t, err)

	other, err := client.New("https://"+address, client.Options{Token: token})
	require.NoError(t, err)
	_, err = other.About(t.Context())
	require.ErrorIs(t, err, client.ErrUnreachable)
	var e *api.Error
	require.ErrorAs(t, err, &e)
	require.Contains(t, e.Hint, "cert.pem")

	_, err = tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11})
	require.ErrorContains(t, err, "protocol version")
	require.NoError(t, stop())
}

func TestStopEndsEventStreams(t *testing.T) {
	address, stop := serve(t, New(Parts{Service: &recorder{}}, Options{Token: token, Log: slog.New(slog.DiscardHandler)}), nil)
	lines := listen(t, "http://"+address+"/api/v1/events")
	require.Equal(t, ": connected", next(t, lines))
	start := time.Now()
	require.NoError(t, stop())
	require.Less(t, time.Since(start), grace, "the stream was not ended, it was cut off")
	for range lines { // ends with the stream
	}
}

// listen gives the lines of a stream.
func listen(t *testing.T, url string, header ...string) <-chan string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.Equal(t, "text/event-stream", resp.Header.Get("Content-Type"))
	lines := make(chan string)
	go func() {
		defer close(lines)
		defer resp.Body.Close()
		for scanner := bufio.NewScanner(resp.Body); scanner.Scan(); {
			if scanner.Text() != "" {
				lines <- scanner.Text()
			}
		}
	}()
	return lines
}

func next(t *testing.T, lines <-chan string) string {
	t.Helper()
	select {
	case line, open := <-lines:
		require.True(t, open, "the stream has ended")
		return line
	case <-time.After(time.Minute):
		t.Fatal("the stream says nothing")
		return ""
	}
}

func TestEventsCarryIdsAndResume(t *testing.T) {
	asked := make(chan uint64, 1)
	r := &recorder{events: func(_ context.Context, after uint64) (<-chan api.Event, error) {
		asked <- after
		events := make(chan api.Event, 2)
		events <- api.Event{ID: after + 1, Kind: "job", Action: "progress", Message: "two\nlines"}
		events <- api.Event{ID: after + 2}
		close(events)
		return events, nil
	}}
	url, _ := start(t, r)
	for _, c := range []struct {
		query, header string
		want          uint64
	}{{"", "", 0}, {"?after=7", "", 7}, {"", "8", 8}, {"?after=7", "9", 9}} {
		var header []string
		if c.header != "" {
			header = []string{"Last-Event-ID", c.header}
		}
		lines := listen(t, url+"/api/v1/events"+c.query, header...)
		require.Equal(t, c.want, <-asked)
		var ids []string
		for line := range lines { // the channel was closed, so the stream ends
			if id, ok := strings.CutPrefix(line, "id: "); ok {
				ids = append(ids, id)
			}
		}
		require.Len(t, ids, 2)
	}
}

// flushes counts how often an answer is sent on its way.
type flushes struct {
	*httptest.ResponseRecorder
	n int
}

func (f *flushes) Flush() { f.n++ }

func TestEventsLeaveTogether(t *testing.T) {
	events := make(chan api.Event, 100)
	for i := range cap(events) {
		events <- api.Event{ID: uint64(i + 1), Kind: "job", Action: "updated"}
	}
	close(events)
	s := New(Parts{Service: &recorder{events: func(context.Context, uint64) (<-chan api.Event, error) { return events, nil }}},
		Options{Token: token, Log: slog.New(slog.DiscardHandler)})
	s.linger = time.Hour
	answer := &flushes{ResponseRecorder: httptest.NewRecorder()}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/api/v1/events", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	s.ServeHTTP(answer, r)
	require.Equal(t, 100, strings.Count(answer.Body.String(), "id: "))
	require.Equal(t, 1, answer.n, "the first, so that the reader knows that it listens; the last is the end of the answer")
}

func TestOfUpdatesTheLastIsDelivered(t *testing.T) {
	events := make(chan api.Event, 100)
	for _, e := range []api.Event{
		{ID: 1, Kind: "job", Action: "created", Subject: "j1"},
		{ID: 2, Kind: "job", Action: "updated", Subject: "j1"},
		{ID: 3, Kind: "point", Action: "updated", Subject: "p1", Group: "a"},
		{ID: 4, Kind: "point", Action: "updated", Subject: "p1", Group: "b"},
		{ID: 4, Kind: "job", Action: "progress", Subject: "j1"},
		{ID: 5, Kind: "alert", Action: "deleted", Subject: "x"},
		{ID: 6, Kind: "job", Action: "updated", Subject: "j2"},
		{ID: 7, Kind: "job", Action: "updated", Subject: "j1", Message: "ended"},
	} {
		events <- e
	}
	listenTo := func(query string, n int) (ids []string) {
		url, _ := start(t, &recorder{events: func(context.Context, uint64) (<-chan api.Event, error) { return events, nil }})
		for line := range listen(t, url+"/api/v1/events"+query) {
			if id, ok := strings.CutPrefix(line, "id: "); ok {
				ids = append(ids, id)
			}
			if len(ids) == n {
				break
			}
		}
		return ids
	}
	require.Equal(t, []string{"1", "3", "4", "5", "6", "7"}, listenTo("?intervalMs=20", 6))
	events = make(chan api.Event, 3)
	for range cap(events) {
		events <- api.Event{ID: 8, Kind: "job", Action: "updated", Subject: "j1"}
	}
	require.Equal(t, []string{"8", "8", "8"}, listenTo("", 3), "each, if nothing else is asked for")
}

func TestACrowdOfJobsIsTold(t *testing.T) {
	jobsOf := func(events int, query string) (jobs int) {
		queue := make(chan api.Event, events)
		for i := range events {
			queue <- api.Event{ID: uint64(i + 1), Kind: "job", Action: "created", Subject: fmt.Sprint(i), Job: &api.Job{Kind: "cycle"}}
		}
		url, _ := start(t, &recorder{events: func(context.Context, uint64) (<-chan api.Event, error) { return queue, nil }})
		for line := range listen(t, url+"/api/v1/events"+query) {
			if strings.Contains(line, `"job":{`) {
				jobs++
			}
			if strings.HasPrefix(line, "data: ") {
				if events--; events == 0 {
					break
				}
			}
		}
		return jobs
	}
	require.Equal(t, crowd, jobsOf(crowd, "?intervalMs=100"))
	require.Zero(t, jobsOf(maxBatch, "?intervalMs=10000"), "they would be more than anybody can watch")
	require.Equal(t, maxBatch, jobsOf(maxBatch, ""), "each, if nothing else is asked for")
}

func TestAnEventDoesNotWaitForOthersForever(t *testing.T) {
	events := make(chan api.Event, 1)
	events <- api.Event{ID: 1, Kind: "job", Action: "updated"}
	url, _ := start(t, &recorder{events: func(context.Context, uint64) (<-chan api.Event, error) { return events, nil }})
	lines := listen(t, url+"/api/v1/events")
	require.Equal(t, ": connected", next(t, lines))
	require.Equal(t, "id: 1", next(t, lines))
}

func TestSilentStreamsShowLife(t *testing.T) {
	url, _ := start(t, &recorder{}, func(s *Server) { s.heartbeat = time.Millisecond })
	lines := listen(t, url+"/api/v1/events")
	require.Equal(t, ": connected", next(t, lines))
	require.Equal(t, ": alive", next(t, lines))
}

func TestTheServiceHearsThatTheReaderLeft(t *testing.T) {
	left := make(chan struct{})
	r := &recorder{events: func(ctx context.Context, _ uint64) (<-chan api.Event, error) {
		context.AfterFunc(ctx, func() { close(left) })
		return make(chan api.Event), nil
	}}
	s := New(Parts{Service: r}, Options{Token: token, Log: slog.New(slog.DiscardHandler)})
	ts := httptest.NewServer(s)
	defer ts.Close()
	c, err := client.New(ts.URL, client.Options{Token: token})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	_, err = c.Events(ctx, 0)
	require.NoError(t, err)
	cancel()
	<-left
}

func TestCertificateLivesInItsFiles(t *testing.T) {
	dir := t.TempDir()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	hosts := []string{"appliance", "192.0.2.1", "::1"}
	first, err := certificate(dir, hosts, now)
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(first.Certificate[0])
	require.NoError(t, err)
	for _, host := range hosts {
		require.NoError(t, leaf.VerifyHostname(host))
	}
	requireMode(t, filepath.Join(dir, "cert.pem"), 0o644)
	requireMode(t, filepath.Join(dir, "key.pem"), 0o600)

	same := func(want bool, hosts []string, now time.Time) {
		t.Helper()
		next, err := certificate(dir, hosts, now)
		require.NoError(t, err)
		require.Equal(t, want, string(first.Certificate[0]) == string(next.Certificate[0]))
		first = next
	}
	same(true, hosts[:1], now)
	same(true, hosts, leaf.NotAfter.Add(-certRenew))
	same(false, hosts, leaf.NotAfter.Add(-certRenew+time.Second))
	same(false, append(hosts, "another"), now)
}
