package directory_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"understudy/api"
	"understudy/api/server"
	"understudy/appliance/notify/receivers"
)

const clientSecret = "planted-client-Passw0rd"

// accounts are who has a password at the provider, by name; groups are the claim of that name.
type accounts struct {
	mu     sync.Mutex
	all    map[string]*storage.User
	groups map[string]any
}

func (a *accounts) GetUserByUsername(name string) *storage.User {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.all[name]
}

func (a *accounts) GetUserByID(id string) *storage.User {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, u := range a.all {
		if u.ID == id {
			return u
		}
	}
	return nil
}

func (a *accounts) ExampleClientID() string { return "none" }

// groupsOf gives the claim of a user's id.
func (a *accounts) groupsOf(id string) any {
	u := a.GetUserByID(id)
	a.mu.Lock()
	defer a.mu.Unlock()
	if u == nil {
		return nil
	}
	return a.groups[u.Username]
}

// claimsStorage is that of the library's example, which tells groups too: at the user's endpoint, or in the token.
type claimsStorage struct {
	*storage.Storage
	people  *accounts
	inToken bool
}

func (s *claimsStorage) SetUserinfoFromToken(ctx context.Context, info *oidc.UserInfo, token, subject, origin string) error {
	if err := s.Storage.SetUserinfoFromToken(ctx, info, token, subject, origin); err != nil {
		return err
	}
	info.AppendClaims("groups", s.people.groupsOf(subject))
	return nil
}

func (s *claimsStorage) SetUserinfoFromRequest(ctx context.Context, info *oidc.UserInfo, request op.IDTokenRequest, scopes []string) error {
	if err := s.Storage.SetUserinfoFromRequest(ctx, info, request, scopes); err != nil {
		return err
	}
	if s.inToken {
		info.AppendClaims("realm", map[string]any{"roles": s.people.groupsOf(request.GetSubject())})
		info.AppendClaims("login", s.people.GetUserByID(request.GetSubject()).Username)
	}
	return nil
}

// providerWorld is an appliance and a provider, both behind TLS, and a browser between.
type providerWorld struct {
	*world
	accounts  *accounts
	storage   *claimsStorage
	issuer    string
	appliance *httptest.Server
	provider  *httptest.Server
	id        receivers.Identity
	roots     *x509.CertPool
	// instead answers in place of the provider, if it wants to.
	instead func(w http.ResponseWriter, r *http.Request) bool
}

func newProviderWorld(t *testing.T) *providerWorld {
	t.Helper()
	w := &providerWorld{world: newWorld(t), id: receivers.NewIdentity(t), roots: x509.NewCertPool(), accounts: &accounts{all: map[string]*storage.User{}, groups: map[string]any{}}}
	for name, groups := range map[string]any{"carl": []string{"staff", "operators"}, "olga": []string{"admins"}, "nobody": []string{"staff"}, "ada": []string{"admins"}, "odd": 7} {
		w.accounts.all[name] = &storage.User{ID: "id-" + name, Username: name, Password: name + "s", FirstName: "Mx", LastName: name, Email: name + "@example.com", EmailVerified: true}
		w.accounts.groups[name] = groups
	}
	w.roots.AppendCertsFromPEM([]byte(w.id.CA))
	pair, err := tls.LoadX509KeyPair(w.id.CertFile, w.id.KeyFile)
	require.NoError(t, err)
	serve := func(h http.Handler) *httptest.Server {
		s := httptest.NewUnstartedServer(h)
		s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
		s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
		s.StartTLS()
		t.Cleanup(s.Close)
		return s
	}
	w.appliance = serve(server.New(server.Parts{Service: struct{ api.Service }{}, Access: w.people, SignIn: w.signIn}, server.Options{Log: w.options.Log}))
	var provider http.Handler
	w.provider = serve(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if w.instead == nil || !w.instead(rw, r) {
			provider.ServeHTTP(rw, r)
		}
	}))
	w.issuer = w.provider.URL
	client := storage.WebClient("understudy", clientSecret, w.appliance.URL+api.CallbackPath)
	w.storage = &claimsStorage{Storage: storage.NewStorageWithClients(w.accounts, map[string]*storage.Client{"understudy": client}), people: w.accounts}
	provider = exampleop.SetupServer(w.issuer, w.storage, slog.New(slog.DiscardHandler), false) // it logs to the default, and replaces that
	w.mustSet(func(s *api.SignInSettings) { s.OIDC = w.settings() })
	return w
}

func (w *providerWorld) settings() *api.OIDCSettings {
	return &api.OIDCSettings{Enabled: true, Name: "Example", Issuer: w.issuer, CA: w.id.CA, ClientID: "understudy", ClientSecret: api.NewSecret(clientSecret),
		ConsoleURL: w.appliance.URL, RoleClaim: "groups", Roles: []api.RoleMapping{
			{Value: "operators", Role: api.RoleOperator, Groups: []string{"g1"}}, {Value: "admins", Role: api.RoleAdministrator}}}
}

// browser keeps cookies and follows.
type browser struct {
	*http.Client
	w *providerWorld
}

func (w *providerWorld) browser() *browser {
	jar, err := cookiejar.New(nil)
	require.NoError(w.t, err)
	return &browser{&http.Client{Jar: jar, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: w.roots}, DisableKeepAlives: true}}, w}
}

func (b *browser) open(address string) *url.URL {
	b.w.t.Helper()
	resp, err := b.Get(address)
	require.NoError(b.w.t, err)
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(b.w.t, err)
	resp.Body.Close()
	return resp.Request.URL
}

// leave goes to the provider and gives the page on which to sign in.
func (b *browser) leave() *url.URL { return b.open(b.w.appliance.URL + "/api/v1/oidc/login") }

// depart is leave without going there: the address of the provider.
func (b *browser) depart() *url.URL {
	b.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	defer func() { b.CheckRedirect = nil }()
	resp, err := b.Get(b.w.appliance.URL + "/api/v1/oidc/login")
	require.NoError(b.w.t, err)
	resp.Body.Close()
	to, err := resp.Location()
	require.NoError(b.w.t, err)
	return to
}

// fill signs in at the provider's page, and gives where that leads.
func (b *browser) fill(page *url.URL, name, password string) *url.URL {
	b.w.t.Helper()
	require.Equal(b.w.t, "/login/username", page.Path, page)
	resp, err := b.PostForm(b.w.issuer+page.Path, url.Values{"id": {page.Query().Get("authRequestID")}, "username": {name}, "password": {password}})
	require.NoError(b.w.t, err)
	resp.Body.Close()
	return resp.Request.URL
}

// bring is fill up to the way back, which is given and not gone.
func (b *browser) bring(page *url.URL, name, password string) *url.URL {
	b.w.t.Helper()
	var back *url.URL
	b.CheckRedirect = func(r *http.Request, _ []*http.Request) error {
		if r.URL.Path == api.CallbackPath {
			back = r.URL
			return http.ErrUseLastResponse
		}
		return nil
	}
	defer func() { b.CheckRedirect = nil }()
	b.fill(page, name, password)
	require.NotNil(b.w.t, back)
	return back
}

// me is who is signed in; empty: nobody.
func (b *browser) me() string {
	b.w.t.Helper()
	resp, err := b.Get(b.w.appliance.URL + "/api/v1/session")
	require.NoError(b.w.t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(b.w.t, err)
	_, name, _ := strings.Cut(string(text), `"name":"`)
	name, _, _ = strings.Cut(name, `"`)
	if resp.StatusCode != http.StatusOK {
		return ""
	}
	return name
}

// refused is why the sign-in page was opened.
func refused(u *url.URL) string { return u.Query().Get("sign-in") }
