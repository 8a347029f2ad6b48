package server

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
)

// someone is who comes in the matrix: a column.
type someone struct {
	name   string
	header func() []string
}

// everybody gives all kinds of people and programs; the recorder's groups are all called "some". Each request of a column
// has a session of its own, for one of them signs out.
func everybody(t *testing.T, p *people) []someone {
	t.Helper()
	in := func(name string, role api.Role, groups ...string) someone {
		p.add(t, name, role, groups...)
		return someone{name, func() []string {
			opened, err := p.SignIn(t.Context(), api.Credentials{Name: name, Password: api.NewSecret(password)}, "192.0.2.1")
			require.NoError(t, err)
			return []string{"Cookie", cookieName + "=" + opened.Cookie.Reveal(), csrfHeader, csrfOf(opened.Cookie.Reveal())}
		}}
	}
	administrator := in("administrator", api.RoleAdministrator)
	who, err := p.GetUser(t.Context(), "administrator")
	require.NoError(t, err)
	expired, err := p.CreateToken(t.Context(), api.TokenSpec{Name: "x", Expires: p.clock().Add(time.Second),
		By: api.Principal{User: who.ID, Role: api.RoleAdministrator, Method: api.MethodSession}})
	require.NoError(t, err)
	p.pass(time.Minute)
	return []someone{
		{"nobody", func() []string { return nil }},
		{"wrong-token", func() []string { return []string{"Authorization", "Bearer wrong"} }},
		{"expired-token", func() []string { return []string{"Authorization", "Bearer " + expired.Shown.Reveal()} }},
		{"cookie-alone", func() []string { return administrator.header()[:2] }},
		in("viewer-elsewhere", api.RoleViewer, "other"),
		in("operator-elsewhere", api.RoleOperator, "other"),
		in("viewer", api.RoleViewer),
		in("operator-here", api.RoleOperator, "some"),
		in("operator", api.RoleOperator),
		administrator,
	}
}

// TestMatrix tries every operation of the document, and the routes beside it, as everybody. What is let in is kept in
// testdata/matrix.txt for people to read: a route that is new, or open to somebody else, changes it. The rules below hold
// whatever stands there.
func TestMatrix(t *testing.T) {
	p, r := newPeople(t), &recorder{}
	r.events = func(context.Context, uint64) (<-chan api.Event, error) {
		none := make(chan api.Event)
		close(none)
		return none, nil
	}
	s := New(allParts(r, p),
		Options{Token: token, Log: slog.New(slog.DiscardHandler), Metrics: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})})
	t.Cleanup(s.endStreams)
	columns := everybody(t, p)

	for _, route := range s.engine.Routes() {
		if !slices.Contains([]string{"/healthz", "/readyz", "/openapi.json"}, route.Path) {
			require.Contains(t, s.needs, route.Method+" "+route.Path, "a route without a need")
		}
	}

	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "\t")
	for _, c := range columns {
		fmt.Fprint(w, c.name, "\t")
	}
	fmt.Fprintln(w)
	for _, route := range slices.Sorted(maps.Keys(s.needs)) {
		method, path, _ := strings.Cut(route, " ")
		fmt.Fprint(w, route, "\t")
		for _, c := range columns {
			got := s.knock(t, method, path, c.header())
			fmt.Fprint(w, got, "\t")
			checkRules(t, route, method, path, c.name, got)
		}
		fmt.Fprintln(w)
	}
	require.NoError(t, w.Flush())
	lines := strings.Split(table.String(), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	const file = "testdata/matrix.txt"
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), strings.Join(lines, "\n"), "somebody else is let in: look whether that is right, then go test ./api/server -update")
}

// knock gives what a route says: in, or the status of the refusal.
func (s *Server) knock(t *testing.T, method, path string, header []string) string {
	t.Helper()
	for _, parameter := range []string{":id", ":point", ":machine"} {
		path = strings.Replace(path, parameter, "some", 1)
	}
	require.NotContains(t, path, ":", "give the parameter a value")
	req := httptest.NewRequest(method, path, strings.NewReader("{}"))
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("If-Match", `"17"`)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, req)
	switch w.Code {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
		return fmt.Sprint(w.Code)
	}
	require.Less(t, w.Code, 500, "%s %s: %s", method, path, w.Body)
	return "in"
}

// Routes that are let in without being signed in, and those that change nothing although they are no GET. There are no more.
var (
	openRoutes = []string{"GET /api/v1/setup", "POST /api/v1/setup", "GET /api/v1/sign-in", "POST /api/v1/session",
		"GET /api/v1/oidc/login", "GET /api/v1/oidc/callback"}
	looking = []string{"POST /api/v1/groups/:id/plan"}
)

func checkRules(t *testing.T, route, method, path, who, got string) {
	t.Helper()
	if slices.Contains(openRoutes, route) {
		return
	}
	own := strings.HasPrefix(path, prefix+"/session") || strings.HasPrefix(path, prefix+"/tokens")
	changes := method != http.MethodGet && !slices.Contains(looking, route)
	switch who {
	case "nobody", "wrong-token", "expired-token":
		require.Equal(t, "401", got, "%s: %s", route, who)
	case "cookie-alone":
		require.Equal(t, method != http.MethodGet, got == "403", "%s: %s", route, who)
	case "viewer", "viewer-elsewhere":
		require.False(t, changes && !own && got == "in", "%s: %s", route, who)
	case "administrator":
		require.False(t, got == "401" || got == "403", "%s: %s", route, who)
	}
	if strings.HasSuffix(who, "-elsewhere") && (strings.HasPrefix(path, prefix+"/groups/") || strings.HasPrefix(path, prefix+"/jobs/")) {
		require.Contains(t, []string{"403", "404"}, got, "%s: %s", route, who)
	}
	if strings.HasSuffix(who, "-elsewhere") || who == "operator-here" {
		for _, whole := range []string{"/hosts", "/settings", "/users", "/audit", "/notifications", "/metrics", "/backup", "/restore", "/scripts"} {
			require.False(t, strings.HasPrefix(strings.TrimPrefix(path, prefix), whole) && got == "in", "%s: %s", route, who)
		}
	}
}

// However a path is written, it leads nobody where they may not go.
func TestPathTricks(t *testing.T) {
	p, r := newPeople(t), &recorder{}
	s := New(allParts(r, p), Options{Token: token, Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(s.endStreams)
	_, cookie := p.add(t, "eve", api.RoleOperator, "other")
	for _, path := range []string{
		"/api/v1/users/", "/api/v1//users", "/api/v1/./users", "/api/v1/groups/../users", "/api/v1/groups/..%2fusers", "/api/v1/groups/%2e%2e/users",
		"/api/v1/groups/other/../some/sync", "/api/v1/groups/some%2fsync", "/api/v1/groups/some/sync/", "/api/v1/groups//sync", "/api/v1/groups/some%00/sync",
		"/api/v1/groups/some;x=/sync", "/api/v1/groups/%73ome/sync", "/API/V1/users", "/api/v1/groups/some/sync?id=other", "/api/v1/groups/other%0a/sync",
		"//api/v1/users", "/api/v1/users%20", "/api/v1/groups/some/%73ync", "/../api/v1/users", "/api\\v1\\users",
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodHead, http.MethodPatch, "SYNC"} {
			req := httptest.NewRequest(method, "http://appliance/", strings.NewReader("{}"))
			u, err := req.URL.Parse("http://appliance" + path)
			if err != nil {
				continue // no server takes it
			}
			req.URL = u
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("X-HTTP-Method-Override", "POST")
			req.Header.Set("Cookie", cookieName+"="+cookie)
			req.Header.Set(csrfHeader, csrfOf(cookie))
			w := httptest.NewRecorder()
			s.ServeHTTP(w, req)
			page := method == http.MethodGet && strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") // the console, which is for everybody
			require.True(t, w.Code >= 400 || page, "%s %s: %d %s", method, path, w.Code, w.Body)
			require.Less(t, w.Code, 500, "%s %s", method, path)
		}
	}
	require.Empty(t, r.changes())
}
