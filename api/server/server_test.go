package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/api/client"
)

var update = flag.Bool("update", false, "write ../openapi.json anew")

const token = "a-token-for-tests"

func start(t *testing.T, svc api.Service, change ...func(*Server)) (string, *client.Client) {
	t.Helper()
	parts := Parts{Service: svc, Access: newPeople(t)}
	parts.Operation, _ = svc.(api.Operation)
	return startParts(t, parts, change...)
}

func startParts(t *testing.T, parts Parts, change ...func(*Server)) (string, *client.Client) {
	t.Helper()
	s := New(parts, Options{Token: token, Log: slog.New(slog.DiscardHandler), Version: "1.2.3"})
	for _, f := range change {
		f(s)
	}
	ts := httptest.NewServer(s)
	t.Cleanup(ts.Close)
	t.Cleanup(s.endStreams) // before Close, which waits for them
	c, err := client.New(ts.URL, client.Options{Token: token})
	require.NoError(t, err)
	return ts.URL, c
}

// send gives the status, header and body of a request with the right token.
func send(t *testing.T, method, url, body string, header ...string) (*http.Response, Problem) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	var p Problem
	if resp.Header.Get("Content-Type") == "application/problem+json" {
		require.NoError(t, json.Unmarshal(b, &p))
		require.Equal(t, resp.StatusCode, p.Status)
	}
	return resp, p
}

func TestDocumentIsCheckedIn(t *testing.T) {
	var pretty bytes.Buffer
	require.NoError(t, json.Indent(&pretty, New(Parts{Service: &recorder{}}, Options{}).Document(), "", "  "))
	pretty.WriteByte('\n')
	const path = "../openapi.json"
	if *update {
		require.NoError(t, os.WriteFile(path, pretty.Bytes(), 0o644))
	}
	have, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, pretty.String(), string(have), "the document has changed: go test ./api/server -update")
}

func TestRoutesAndDocumentAgree(t *testing.T) {
	s := New(Parts{Service: &recorder{}}, Options{})
	routes := map[string]bool{}
	parameter := regexp.MustCompile(`:(\w+)`)
	for _, r := range s.engine.Routes() {
		if strings.HasPrefix(r.Path, prefix) {
			routes[r.Method+" "+parameter.ReplaceAllString(r.Path, "{$1}")] = true
		}
	}
	var document struct {
		Paths map[string]map[string]any
	}
	require.NoError(t, json.Unmarshal(s.Document(), &document))
	operations := map[string]bool{}
	for path, methods := range document.Paths {
		for method := range methods {
			operations[strings.ToUpper(method)+" "+path] = true
		}
	}
	require.Equal(t, routes, operations)
	require.NotEmpty(t, routes)
}

// Every method of the service is called through the client, and both what arrives and what comes back is compared.
func TestClientMirrorsService(t *testing.T) {
	r := &recorder{}
	_, c := start(t, r)
	service := reflect.TypeFor[api.Service]()
	for i := range service.NumMethod() {
		method := service.Method(i)
		t.Run(method.Name, func(t *testing.T) {
			in := []reflect.Value{reflect.ValueOf(t.Context())}
			var args []any
			for j := 1; j < method.Type.NumIn(); j++ {
				arg := reflect.New(method.Type.In(j)).Elem()
				fill(arg)
				in, args = append(in, arg), append(args, arg.Interface())
			}
			out := reflect.ValueOf(c).MethodByName(method.Name).Call(in)
			require.Nil(t, out[len(out)-1].Interface())
			last := r.last(t)
			require.Equal(t, method.Name, last.method)
			require.Equal(t, args, last.args)
			if len(out) == 2 && method.Name != "Events" {
				shown := reflect.New(reflect.TypeOf(last.result)).Elem()
				shown.Set(reflect.ValueOf(last.result))
				conceal(shown)
				require.Equal(t, shown.Interface(), out[0].Interface())
			}
		})
	}
}

func TestErrorsKeepTheirCode(t *testing.T) {
	r := &recorder{}
	_, c := start(t, r)
	for code := range statuses {
		r.err = &api.Error{Code: code, Message: "no luck", Hint: "try it", Field: "name", Err: errors.New("secret cause")}
		_, err := c.GetHost(t.Context(), "kvm1")
		var got *api.Error
		require.ErrorAs(t, err, &got)
		require.Equal(t, &api.Error{Code: code, Message: "no luck", Hint: "try it", Field: "name"}, got)
	}
	_, err := c.Events(t.Context(), 0)
	require.NotErrorIs(t, err, client.ErrUnreachable)
	require.Equal(t, "no luck", err.Error(), "an event stream that is refused is no stream")
	require.Len(t, statuses, 11, "every code of package api has a status")
}

func TestUnknownErrorsAreInternal(t *testing.T) {
	url, _ := start(t, &recorder{err: errors.New("disk full of bees")})
	resp, p := send(t, http.MethodGet, url+"/api/v1/hosts", "")
	require.Equal(t, http.StatusInternalServerError, resp.StatusCode)
	p.Request = ""
	require.Equal(t, Problem{Title: "Internal Server Error", Status: 500, Detail: "disk full of bees", Code: api.CodeInternal}, p)
}

func TestPanicsAreAnswered(t *testing.T) {
	url, _ := start(t, struct{ api.Service }{}) // every method is a nil dereference
	resp, p := send(t, http.MethodGet, url+"/api/v1/about", "")
	require.Equal(t, http.StatusInternalServerError, resp.StatusCode)
	require.Equal(t, "the appliance failed to answer", p.Detail)
}

func TestOnlyTheTokenLetsIn(t *testing.T) {
	url, _ := start(t, &recorder{})
	for _, header := range []string{"", "Bearer", "Bearer ", "Bearer wrong", "Basic " + token, token} {
		for _, path := range []string{"/api/v1/hosts", "/api/v1/events", "/api/v1/nothing", "/nothing"} {
			resp, p := send(t, http.MethodGet, url+path, "", "Authorization", header)
			require.Equal(t, http.StatusUnauthorized, resp.StatusCode, header+path)
			require.Equal(t, `Bearer realm="understudy"`, resp.Header.Get("WWW-Authenticate"))
			require.Equal(t, api.CodeUnauthorized, p.Code)
			require.Empty(t, resp.Header.Get("Understudy-Version"))
		}
	}
	for _, path := range []string{"/", "/healthz", "/openapi.json"} {
		resp, _ := send(t, http.MethodGet, url+path, "", "Authorization", "")
		require.Equal(t, http.StatusOK, resp.StatusCode, path)
	}
	resp, _ := send(t, http.MethodGet, url+"/api/v1/about", "")
	require.Equal(t, "1.2.3", resp.Header.Get("Understudy-Version"))
}

func TestWithoutTokenNobodyGetsIn(t *testing.T) {
	s := New(Parts{Service: &recorder{}}, Options{Log: slog.New(slog.DiscardHandler)})
	for _, header := range []string{"", "Bearer "} {
		req := httptest.NewRequest(http.MethodGet, "/api/v1/about", nil)
		req.Header.Set("Authorization", header)
		w := httptest.NewRecorder()
		s.ServeHTTP(w, req)
		require.Equal(t, http.StatusUnauthorized, w.Code)
	}
}

func TestPolicyNeedsTheRevision(t *testing.T) {
	r := &recorder{}
	url, _ := start(t, r)
	const policy = `{"rpoSeconds":10}`
	resp, p := send(t, http.MethodPut, url+"/api/v1/groups/web/policy", policy)
	require.Equal(t, http.StatusPreconditionRequired, resp.StatusCode)
	require.Equal(t, "If-Match", p.Field)
	require.Empty(t, r.changes())

	resp, _ = send(t, http.MethodPut, url+"/api/v1/groups/web/policy", policy, "If-Match", "yesterday")
	require.Equal(t, http.StatusUnprocessableEntity, resp.StatusCode)

	resp, _ = send(t, http.MethodPut, url+"/api/v1/groups/web/policy", policy, "If-Match", `"3"`)
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Equal(t, []any{"web", int64(3), api.Policy{RPOSeconds: 10}}, r.last(t).args)
	require.Equal(t, `"17"`, resp.Header.Get("ETag"))

	r.err = &api.Error{Code: api.CodeStale, Message: "changed meanwhile"}
	resp, _ = send(t, http.MethodPut, url+"/api/v1/groups/web/policy", policy, "If-Match", `"3"`)
	require.Equal(t, http.StatusPreconditionFailed, resp.StatusCode)
}

func TestOrdersAreAccepted(t *testing.T) {
	url, _ := start(t, &recorder{})
	for _, c := range [][3]string{
		{"POST", "/groups/web/sync"}, {"POST", "/groups/web/end-test"}, {"POST", "/groups/web/commit"},
		{"POST", "/groups/web/rollback"}, {"POST", "/groups/web/reprotect"}, {"POST", "/groups/web/failback"},
		{"POST", "/groups/web/test", "{}"}, {"POST", "/groups/web/failover", "{}"},
		{"DELETE", "/groups/web"}, {"DELETE", "/groups/web/points/p1"}, {"POST", "/jobs/j1/cancel"},
	} {
		resp, _ := send(t, c[0], url+"/api/v1"+c[1], c[2])
		require.Equal(t, http.StatusAccepted, resp.StatusCode, c[1])
		require.Equal(t, "/api/v1/jobs/some", resp.Header.Get("Location"), c[1])
	}
}

func TestBadRequestsNameTheField(t *testing.T) {
	r := &recorder{}
	url, _ := start(t, r)
	const group = `{"name":"web","sourceHost":"a","targetHost":"b","machines":[{"vm":"x"}],"policy":{"rpoSeconds":10}}`
	change := func(from, to string) string { return strings.Replace(group, from, to, 1) }
	for name, c := range map[string]struct {
		method, path, body, field, text string
		status                          int
	}{
		"too small":       {"POST", "/groups", change("10", "0"), "policy.rpoSeconds", "expected number >= 5", 422},
		"missing":         {"POST", "/groups", change(`"rpoSeconds":10`, ""), "policy.rpoSeconds", "to be present", 422},
		"missing on top":  {"POST", "/groups", change(`"name":"web",`, ""), "name", "to be present", 422},
		"unknown":         {"POST", "/groups", change(`"vm"`, `"vn":1,"vm"`), "machines[0].vn", "unexpected property", 422},
		"bad name":        {"POST", "/groups", change("web", "../web"), "name", "pattern", 422},
		"no machine":      {"POST", "/groups", change(`{"vm":"x"}`, ""), "machines", "length >= 1", 422},
		"wrong type":      {"POST", "/groups", change(`"web"`, "7"), "name", "expected string", 422},
		"no JSON":         {"POST", "/groups", "{", "", "unexpected end", 400},
		"no body":         {"POST", "/groups/web/failover", "", "", "body is required", 400},
		"limit":           {"GET", "/jobs?limit=0", "", "limit", "expected number >= 1", 422},
		"unknown query":   {"GET", "/jobs?grop=x", "", "grop", "unknown query parameter", 422},
		"half a number":   {"GET", "/events?after=x", "", "after", "invalid", 422},
		"not a boolean":   {"DELETE", "/groups/web?deleteReplicas=perhaps", "", "deleteReplicas", "invalid", 422},
		"nothing there":   {"GET", "/nothing", "", "", "nothing at /api/v1/nothing", 404},
		"trailing slash":  {"DELETE", "/groups/", "", "", "nothing at", 404},
		"method":          {"PATCH", "/groups", "", "", "PATCH is not possible", 405},
		"media type":      {"POST", "/groups", "<xml>", "", "", 415},
		"too large":       {"POST", "/groups", `{"name":"` + strings.Repeat("x", maxBody) + `"}`, "", "larger than 1 MiB", 413},
		"many violations": {"POST", "/hosts", `{}`, "name", "uri", 422},
	} {
		t.Run(name, func(t *testing.T) {
			contentType := "application/json"
			if name == "media type" {
				contentType = "application/xml"
			}
			resp, p := send(t, c.method, url+"/api/v1"+c.path, c.body, "Content-Type", contentType)
			require.Equal(t, c.status, resp.StatusCode, p)
			require.Equal(t, c.field, p.Field)
			require.Contains(t, p.Detail, c.text)
			require.NotEmpty(t, p.Code)
		})
	}
	require.Empty(t, r.changes(), "nothing of this may reach the service")
}

// The bound is for the question, not for the answer.
func TestSlowAnswersOutliveTheBodyTimeout(t *testing.T) {
	const timeout = 50 * time.Millisecond
	svc := &slow{wait: 4 * timeout}
	url, c := start(t, svc, func(s *Server) { s.bodyTimeout = timeout })
	_, err := c.AddHost(t.Context(), api.HostSpec{Name: "kvm1", URI: "test:///"})
	require.NoError(t, err)
	resp, _ := send(t, http.MethodPost, url+"/api/v1/groups/web/sync", "a body that nobody wants")
	require.Equal(t, http.StatusAccepted, resp.StatusCode)
}

type slow struct {
	recorder
	wait time.Duration
}

func (s *slow) AddHost(ctx context.Context, spec api.HostSpec) (api.Host, error) {
	if err := s.work(ctx); err != nil {
		return api.Host{}, err
	}
	return s.recorder.AddHost(ctx, spec)
}

func (s *slow) SyncNow(ctx context.Context, group string) (api.Job, error) {
	if err := s.work(ctx); err != nil {
		return api.Job{}, err
	}
	return s.recorder.SyncNow(ctx, group)
}

func (s *slow) work(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(s.wait):
		return nil
	}
}

func TestTokenIsNeverLogged(t *testing.T) {
	var log bytes.Buffer
	s := New(Parts{Service: &recorder{}}, Options{Token: token, Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	for _, given := range []string{token, "wrong-" + token} {
		req := httptest.NewRequest(http.MethodPost, "/api/v1/groups/web/pause", nil)
		req.Header.Set("Authorization", "Bearer "+given)
		s.ServeHTTP(httptest.NewRecorder(), req)
	}
	require.Contains(t, log.String(), "/api/v1/groups/web/pause")
	require.NotContains(t, log.String(), token)
}
