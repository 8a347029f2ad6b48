package server

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
)

// Who reports a problem can say which request it was, whoever refused it, and the log has the same.
func TestProblemsNameTheRequest(t *testing.T) {
	var log bytes.Buffer
	s := New(Parts{Service: &recorder{err: errors.New("disk full of bees")}}, Options{Token: token, Log: slog.New(slog.NewJSONHandler(&log, nil))})
	ts := httptest.NewServer(s)
	defer ts.Close()
	for path, body := range map[string]string{"/api/v1/groups/a/sync": "", "/nowhere": "", "/api/v1/hosts": `{"name":1}`,
		"/api/v1/groups": string(make([]byte, maxBody+1))} {
		resp, p := send(t, http.MethodPost, ts.URL+path, body)
		require.NotEmpty(t, p.Request, path)
		require.Equal(t, resp.Header.Get("Understudy-Request"), p.Request)
		require.Contains(t, log.String(), `"request":"`+p.Request+`"`)
	}
}

func TestMetricsNeedAToken(t *testing.T) {
	var seen []string
	s := New(Parts{Service: &recorder{}}, Options{Token: token, Log: slog.New(slog.DiscardHandler),
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "up 1") }),
		Observe: func(method, route string, status int, _ time.Duration) { seen = append(seen, method+" "+route) }})
	ts := httptest.NewServer(s)
	defer ts.Close()
	resp, err := http.Get(ts.URL + "/metrics")
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusUnauthorized, resp.StatusCode)
	resp, _ = send(t, http.MethodGet, ts.URL+"/metrics", "")
	require.Equal(t, http.StatusOK, resp.StatusCode)
	send(t, http.MethodGet, ts.URL+"/api/v1/groups/secret-name", "")
	send(t, "MADEUP", ts.URL+"/made/up", "")
	require.Equal(t, []string{"GET /metrics", "GET /metrics", "GET /api/v1/groups/:id", "other none"}, seen)
	require.Error(t, s.allowed(t.Context(), s.needs["GET /metrics"].need, api.Principal{Role: api.RoleViewer, Scope: api.Scope{"g"}}, ""))
}
