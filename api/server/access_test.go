package server

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/api/client"
)

// visit sends a request as a browser does, without a token.
func visit(t *testing.T, method, url, body string, header ...string) (*http.Response, Problem) {
	t.Helper()
	return send(t, method, url, body, append([]string{"Authorization", "", "Content-Type", "application/json"}, header...)...)
}

func jsonOf(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	require.NoError(t, err)
	return string(b)
}

// cookieIn gives the value of the session cookie in an answer, after looking at how it is kept.
func cookieIn(t *testing.T, resp *http.Response) string {
	t.Helper()
	cookies := resp.Cookies()
	require.Len(t, cookies, 1)
	c := cookies[0]
	require.Equal(t, "__Host-understudy", c.Name)
	require.True(t, c.HttpOnly && c.Secure && c.SameSite == http.SameSiteStrictMode && c.Path == "/" && c.Domain == "")
	return c.Value
}

func TestFirstAdministratorSetsUpAndSignsIn(t *testing.T) {
	p := newPeople(t)
	url, _ := startParts(t, Parts{Service: &recorder{}, Access: p})
	setup, err := os.ReadFile(p.setupFile)
	require.NoError(t, err)
	body := func(token string) string {
		return jsonOf(t, map[string]string{"token": token, "name": "Ada", "password": password})
	}
	resp, problem := visit(t, http.MethodPost, url+"/api/v1/setup", body("a-wrong-setup-token"))
	require.Equal(t, http.StatusUnauthorized, resp.StatusCode)
	require.Equal(t, "token", problem.Field)
	resp, problem = visit(t, http.MethodPost, url+"/api/v1/setup", body(strings.TrimSpace(string(setup))))
	require.Equal(t, http.StatusCreated, resp.StatusCode, problem)
	first := cookieIn(t, resp)
	require.NoFileExists(t, p.setupFile)
	resp, _ = visit(t, http.MethodPost, url+"/api/v1/setup", body(strings.TrimSpace(string(setup))))
	require.Equal(t, http.StatusConflict, resp.StatusCode, "the token works once")

	resp, _ = visit(t, http.MethodPost, url+"/api/v1/session", jsonOf(t, map[string]string{"name": "ada", "password": password}),
		"Cookie", cookieName+"="+first)
	require.Equal(t, http.StatusOK, resp.StatusCode)
	second := cookieIn(t, resp)
	resp, _ = visit(t, http.MethodGet, url+"/api/v1/session", "", "Cookie", cookieName+"="+first)
	require.Equal(t, http.StatusUnauthorized, resp.StatusCode, "signing in again ends what was there")
	resp, _ = visit(t, http.MethodGet, url+"/api/v1/users", "", "Cookie", cookieName+"="+second)
	require.Equal(t, http.StatusOK, resp.StatusCode)

	resp, _ = visit(t, http.MethodDelete, url+"/api/v1/session", "", "Cookie", cookieName+"="+second, csrfHeader, csrfOf(second))
	require.Equal(t, http.StatusNoContent, resp.StatusCode)
	resp, _ = visit(t, http.MethodGet, url+"/api/v1/users", "", "Cookie", cookieName+"="+second)
	require.Equal(t, http.StatusUnauthorized, resp.StatusCode)
}

func TestCookieAloneChangesNothing(t *testing.T) {
	p := newPeople(t)
	r := &recorder{}
	url, _ := startParts(t, Parts{Service: r, Access: p})
	_, cookie := p.add(t, "ada", api.RoleAdministrator)
	host := strings.TrimPrefix(url, "http://")
	for name, c := range map[string]struct {
		header []string
		status int
	}{
		"nothing else":     {nil, 403},
		"wrong":            {[]string{csrfHeader, csrfOf("another")}, 403},
		"right":            {[]string{csrfHeader, csrfOf(cookie)}, 202},
		"own origin":       {[]string{csrfHeader, csrfOf(cookie), "Origin", "https://" + host, "Sec-Fetch-Site", "same-origin"}, 202},
		"foreign origin":   {[]string{csrfHeader, csrfOf(cookie), "Origin", "https://evil.example"}, 403},
		"no origin":        {[]string{csrfHeader, csrfOf(cookie), "Origin", "null"}, 403},
		"sibling":          {[]string{csrfHeader, csrfOf(cookie), "Sec-Fetch-Site", "same-site"}, 403},
		"foreign site":     {[]string{csrfHeader, csrfOf(cookie), "Sec-Fetch-Site", "cross-site"}, 403},
		"and a bad bearer": {[]string{csrfHeader, csrfOf(cookie), "Authorization", "Bearer ust_x"}, 401},
	} {
		r.calls = nil
		resp, problem := visit(t, http.MethodPost, url+"/api/v1/groups/web/sync", "", append([]string{"Cookie", cookieName + "=" + cookie}, c.header...)...)
		require.Equal(t, c.status, resp.StatusCode, "%s: %v", name, problem)
		require.Equal(t, c.status == 202, len(r.calls) > 0, name)
	}
	// Nor may a foreign page sign people in as somebody else.
	resp, _ := visit(t, http.MethodPost, url+"/api/v1/session", jsonOf(t, map[string]string{"name": "ada", "password": password}), "Origin", "https://evil.example")
	require.Equal(t, http.StatusForbidden, resp.StatusCode)
}

func TestBruteForceIsThrottled(t *testing.T) {
	p := newPeople(t)
	url, _ := startParts(t, Parts{Service: &recorder{}, Access: p})
	p.add(t, "ada", api.RoleAdministrator)
	for i := range 11 {
		resp, problem := visit(t, http.MethodPost, url+"/api/v1/session", jsonOf(t, map[string]string{"name": "ada", "password": "a wrong password"}))
		if i < 10 {
			require.Equal(t, http.StatusUnauthorized, resp.StatusCode)
			continue
		}
		require.Equal(t, http.StatusTooManyRequests, resp.StatusCode)
		require.Equal(t, "60", resp.Header.Get("Retry-After"))
		require.Equal(t, api.CodeThrottled, problem.Code)
	}
}

func TestTokensOverHTTP(t *testing.T) {
	p := newPeople(t)
	url, _ := startParts(t, Parts{Service: &recorder{}, Access: p})
	_, cookie := p.add(t, "ada", api.RoleAdministrator)
	session := []string{"Cookie", cookieName + "=" + cookie, csrfHeader, csrfOf(cookie), "Authorization", ""}
	spec := jsonOf(t, map[string]any{"name": "backup", "role": "viewer", "expires": p.clock().Add(time.Hour)})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/api/v1/tokens", strings.NewReader(spec))
	require.NoError(t, err)
	for i := 0; i < len(session); i += 2 {
		req.Header.Set(session[i], session[i+1])
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusCreated, resp.StatusCode)
	var made struct {
		ID, Token string
	}
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&made))
	require.True(t, strings.HasPrefix(made.Token, "ust_"))

	c, err := client.New(url, client.Options{Token: made.Token})
	require.NoError(t, err)
	me, err := c.WhoAmI(t.Context())
	require.NoError(t, err)
	require.Equal(t, api.RoleViewer, me.User.Role)
	_, err = c.SyncNow(t.Context(), "web")
	require.Equal(t, api.CodeForbidden, api.CodeOf(err))
	_, err = c.CreateToken(t.Context(), api.TokenSpec{Name: "another", Expires: p.clock().Add(time.Hour)})
	require.Equal(t, api.CodeForbidden, api.CodeOf(err), "a token that leaked must not make itself another")
	p.pass(time.Hour)
	_, err = c.WhoAmI(t.Context())
	require.Equal(t, api.CodeUnauthorized, api.CodeOf(err))
}

func TestUsersOverHTTP(t *testing.T) {
	p := newPeople(t)
	_, c := startParts(t, Parts{Service: &recorder{}, Access: p})
	u, err := c.CreateUser(t.Context(), api.UserSpec{Name: "Bob", Role: api.RoleViewer, Groups: []string{"web"}, Password: api.NewSecret(password)})
	require.NoError(t, err)
	require.Equal(t, "bob", u.Name)
	require.Equal(t, []string{"some"}, u.Groups, "names of groups became ids")
	_, err = c.UpdateUser(t.Context(), "bob", 7, api.UserEdit{Role: api.RoleOperator})
	require.Equal(t, api.CodeStale, api.CodeOf(err))
	u, err = c.UpdateUser(t.Context(), "bob", u.Revision, api.UserEdit{Role: api.RoleOperator, Password: api.NewSecret("another long password")})
	require.NoError(t, err)
	require.Equal(t, api.RoleOperator, u.Role)
	_, err = p.SignIn(t.Context(), api.Credentials{Name: "bob", Password: api.NewSecret("another long password")}, "")
	require.NoError(t, err, "the client sends passwords as they are")
	require.NoError(t, c.DeleteUser(t.Context(), u.ID))
	_, err = c.GetUser(t.Context(), "bob")
	require.Equal(t, api.CodeNotFound, api.CodeOf(err))
}

// A stream must not outlive the right to it.
func TestStreamEndsWithTheSession(t *testing.T) {
	p := newPeople(t)
	closed := make(chan struct{})
	r := &recorder{events: func(ctx context.Context, _ uint64) (<-chan api.Event, error) {
		events := make(chan api.Event)
		context.AfterFunc(ctx, func() { close(closed) })
		return events, nil
	}}
	url, _ := startParts(t, Parts{Service: r, Access: p}, func(s *Server) { s.heartbeat = time.Millisecond })
	u, cookie := p.add(t, "bob", api.RoleViewer)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/api/v1/events", nil)
	require.NoError(t, err)
	req.Header.Set("Cookie", cookieName+"="+cookie)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	_, err = p.UpdateUser(t.Context(), u.ID, u.Revision, api.UserEdit{Role: api.RoleViewer, Groups: []string{"g1"}})
	require.NoError(t, err)
	<-closed
}
