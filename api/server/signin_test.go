package server

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/api/client"
)

var _ SignIn = (*recorder)(nil)

func (r *recorder) SignInSettings(context.Context) (api.SignInSettings, error) {
	return answerTo[api.SignInSettings](r, "SignInSettings")
}

func (r *recorder) SetSignInSettings(_ context.Context, revision int64, s api.SignInSettings) (api.SignInSettings, error) {
	return answerTo[api.SignInSettings](r, "SetSignInSettings", revision, s)
}

func (r *recorder) TestSignIn(_ context.Context, trial api.SignInTrial) (api.SignInTest, error) {
	return answerTo[api.SignInTest](r, "TestSignIn", trial)
}

func (r *recorder) BeginLogin(context.Context) (Departure, error) {
	return Departure{Address: "https://id.example.com/authorize?state=some", Cookie: api.NewSecret("sealed")}, r.err
}

func (r *recorder) EndLogin(_ context.Context, back Return, address string) (api.Opened, error) {
	o, err := answerTo[api.Opened](r, "EndLogin", back, address)
	o.Cookie = api.NewSecret("fresh")
	return o, err
}

func TestClientMirrorsSignIn(t *testing.T) {
	r := &recorder{}
	ts := httptest.NewServer(New(Parts{Service: r, SignIn: r}, Options{Token: token, Log: slog.New(slog.DiscardHandler)}))
	t.Cleanup(ts.Close)
	c, err := client.New(ts.URL, client.Options{Token: token})
	require.NoError(t, err)
	service := reflect.TypeFor[api.SignIn]()
	for i := range service.NumMethod() {
		method := service.Method(i)
		in := []reflect.Value{reflect.ValueOf(t.Context())}
		var args []any
		for j := 1; j < method.Type.NumIn(); j++ {
			arg := reflect.New(method.Type.In(j)).Elem()
			fill(arg)
			if s, ok := arg.Addr().Interface().(*api.SignInSettings); ok { // groups are looked up
				for _, roles := range [][]api.RoleMapping{s.LDAP.Roles, s.OIDC.Roles} {
					for k := range roles {
						roles[k].Groups = []string{"some"}
					}
				}
			}
			in, args = append(in, arg), append(args, arg.Interface())
		}
		out := reflect.ValueOf(c).MethodByName(method.Name).Call(in)
		require.Nil(t, out[len(out)-1].Interface())
		last := r.last(t)
		require.Equal(t, method.Name, last.method)
		require.Equal(t, args, last.args)
		want := reflect.New(reflect.TypeOf(last.result)).Elem()
		want.Set(reflect.ValueOf(last.result))
		forgetSecrets(want)
		require.Equal(t, want.Interface(), out[0].Interface())
	}
}

// login asks for an address of the sign-in by a provider, as a browser that has the cookies.
func login(t *testing.T, s *Server, path string, cookies ...string) *http.Response {
	t.Helper()
	req := httptest.NewRequest(http.MethodGet, prefix+path, nil)
	req.Header.Set("Cookie", strings.Join(cookies, "; "))
	req.Header.Set("Sec-Fetch-Site", "cross-site") // the provider sent it
	w := httptest.NewRecorder()
	s.ServeHTTP(w, req)
	return w.Result()
}

func cookiesOf(r *http.Response) map[string]*http.Cookie {
	all := map[string]*http.Cookie{}
	for _, c := range r.Cookies() {
		all[c.Name] = c
	}
	return all
}

func TestLoginAtAProvider(t *testing.T) {
	p, r := newPeople(t), &recorder{}
	s := New(allParts(r, p), Options{Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(s.endStreams)

	resp := login(t, s, "/oidc/login")
	require.Equal(t, http.StatusSeeOther, resp.StatusCode)
	require.Equal(t, "https://id.example.com/authorize?state=some", resp.Header.Get("Location"))
	c := cookiesOf(resp)[loginCookie]
	require.Equal(t, "sealed", c.Value)
	require.True(t, c.Secure && c.HttpOnly && c.SameSite == http.SameSiteLaxMode && c.MaxAge == 600, c)

	_, old := p.add(t, "ann", api.RoleViewer)
	resp = login(t, s, "/oidc/callback?state=st&code=co&session_state=unknown&iss=https%3A%2F%2Fid", loginCookie+"=sealed", cookieName+"="+old)
	require.Equal(t, http.StatusSeeOther, resp.StatusCode)
	require.Equal(t, "/", resp.Header.Get("Location"))
	require.Equal(t, []any{Return{Cookie: api.NewSecret("sealed"), State: "st", Code: "co", Issuer: "https://id"}, "192.0.2.1"}, r.last(t).args)
	require.Equal(t, "fresh", cookiesOf(resp)[cookieName].Value)
	require.Equal(t, http.SameSiteStrictMode, cookiesOf(resp)[cookieName].SameSite)
	require.Equal(t, -1, cookiesOf(resp)[loginCookie].MaxAge)
	_, err := p.Session(old, true)
	require.Error(t, err, "the session before has ended")

	r.err = &LoginError{api.SignInNoRole, context.Canceled}
	for _, path := range []string{"/oidc/login", "/oidc/callback?state=st&code=co", "/oidc/callback?redirect=https://evil.example.com"} {
		resp = login(t, s, path, loginCookie+"=sealed")
		require.Equal(t, "/?sign-in=no-role", resp.Header.Get("Location"), path)
		require.NotContains(t, cookiesOf(resp), cookieName)
		require.Equal(t, -1, cookiesOf(resp)[loginCookie].MaxAge)
	}
	before := len(r.calls)
	resp = login(t, s, "/oidc/callback?state="+strings.Repeat("x", maxReturn+1), loginCookie+"=sealed")
	require.Equal(t, "/?sign-in=failed", resp.Header.Get("Location"))
	require.Len(t, r.calls, before, "nobody was asked")

	page, err := p.ListAudit(t.Context(), api.AuditQuery{Action: "end-login"})
	require.NoError(t, err)
	require.Equal(t, []string{"refused", "refused", "done"}, []string{page.Items[0].Outcome, page.Items[1].Outcome, page.Items[2].Outcome})
	require.Equal(t, "some", page.Items[2].User)
	require.Equal(t, "no-role", page.Items[0].Message)
}
