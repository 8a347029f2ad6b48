package directory_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/api/server"
	"understudy/appliance/notify/receivers"
)

func TestSignInAtAProvider(t *testing.T) {
	w := newProviderWorld(t)
	require.Equal(t, "Example", w.people.Ways().OIDC.Name)

	b := w.browser()
	page := b.leave()
	require.Equal(t, "/login/username", b.fill(page, "carl", "wrong").Path, "the provider itself refuses")
	end := b.fill(page, "carl", "carls")
	require.Equal(t, w.appliance.URL+"/", end.String(), "w.log: %s", w.logged())
	require.Equal(t, "carl", b.me())
	u, err := w.people.GetUser(t.Context(), "carl")
	require.NoError(t, err)
	require.Equal(t, "oidc", u.Source)
	require.Equal(t, "Mx carl", u.FullName)
	require.Equal(t, api.RoleOperator, u.Role)
	require.Equal(t, []string{"g1"}, u.Groups)

	for name, want := range map[string]string{"nobody": api.SignInNoRole, "odd": api.SignInNoRole, "ada": api.SignInNameTaken} {
		other := w.browser()
		require.Equal(t, want, refused(other.fill(other.leave(), name, name+"s")), name)
		require.Empty(t, other.me())
	}
	ada, err := w.people.GetUser(t.Context(), "ada")
	require.NoError(t, err)
	require.Equal(t, "local", ada.Source)

	_, err = w.people.UpdateUser(t.Context(), "carl", u.Revision, api.UserEdit{Role: u.Role, Disabled: true})
	require.NoError(t, err)
	require.Empty(t, b.me())
	require.Equal(t, api.SignInDisabled, refused(b.fill(b.leave(), "carl", "carls")))

	page1, err := w.people.ListAudit(t.Context(), api.AuditQuery{Action: "end-login"})
	require.NoError(t, err)
	require.Len(t, page1.Items, 5)
	require.Equal(t, "carl", page1.Items[4].User)
	require.Equal(t, "done", page1.Items[4].Outcome)
	require.NotContains(t, w.logged(), clientSecret)
}

// What is in the token is not asked for again; a claim may be inside of another.
func TestClaimsInTheToken(t *testing.T) {
	w := newProviderWorld(t)
	w.storage.inToken = true
	w.mustSet(func(s *api.SignInSettings) { s.OIDC.RoleClaim, s.OIDC.NameClaim = "realm.roles", "login" })
	w.instead = func(rw http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/userinfo" {
			t.Error("the provider was asked again")
		}
		return false
	}
	b := w.browser()
	b.fill(b.leave(), "olga", "olgas")
	require.Equal(t, "olga", b.me(), w.logged())
}

func TestProviderTakesAccessAway(t *testing.T) {
	w := newProviderWorld(t)
	b := w.browser()
	b.fill(b.leave(), "carl", "carls")
	require.Equal(t, "carl", b.me())
	w.accounts.mu.Lock()
	w.accounts.groups["carl"] = []string{"staff"}
	w.accounts.mu.Unlock()
	other := w.browser()
	require.Equal(t, api.SignInNoRole, refused(other.fill(other.leave(), "carl", "carls")))
	require.Empty(t, b.me(), "his other session has ended too")
	w.mustSet(func(s *api.SignInSettings) { s.OIDC.Enabled = false })
	require.Equal(t, api.SignInNotOffered, refused(b.leave()))
	require.Nil(t, w.people.Ways().OIDC)
}

// Nobody is let in by what was meant for another sign-in.
func TestLoginsAreNotMixedUp(t *testing.T) {
	w := newProviderWorld(t)
	b := w.browser()
	to := b.depart()
	q := to.Query()
	require.Equal(t, "S256", q.Get("code_challenge_method"))
	require.NotEmpty(t, q.Get("nonce"))
	require.Equal(t, w.appliance.URL+api.CallbackPath, q.Get("redirect_uri"))

	back := b.bring(b.leave(), "carl", "carls")
	for name, c := range map[string]struct {
		browser *browser
		change  func(q url.Values)
		want    string
	}{
		"no cookie":       {w.browser(), func(url.Values) {}, api.SignInExpired},
		"somebody else's": {func() *browser { o := w.browser(); o.leave(); return o }(), func(url.Values) {}, api.SignInExpired},
		"another state":   {b, func(q url.Values) { q.Set("state", "x"+q.Get("state")[1:]) }, api.SignInExpired},
		"no state":        {b, func(q url.Values) { q.Del("state") }, api.SignInExpired},
	} {
		changed := *back
		q := changed.Query()
		c.change(q)
		changed.RawQuery = q.Encode()
		if c.browser == b { // which loses its cookie by that
			b = w.browser()
			back = b.bring(b.leave(), "carl", "carls")
			c.browser = b
			changed = *back
			q = changed.Query()
			c.change(q)
			changed.RawQuery = q.Encode()
		}
		require.Equal(t, c.want, refused(c.browser.open(changed.String())), name)
		require.Empty(t, c.browser.me(), name)
	}

	victim := w.browser()
	first := victim.bring(victim.leave(), "carl", "carls")
	attacker := w.browser()
	theirs := attacker.bring(attacker.leave(), "olga", "olgas")
	mixed := first.Query()
	mixed.Set("code", theirs.Query().Get("code"))
	require.Equal(t, api.SignInFailed, refused(victim.open(first.Scheme+"://"+first.Host+first.Path+"?"+mixed.Encode())), "PKCE")
	require.Contains(t, w.logged(), "refuses the code")

	wrong := w.browser()
	to = wrong.depart()
	q = to.Query()
	q.Set("nonce", "another")
	to.RawQuery = q.Encode()
	require.Equal(t, api.SignInFailed, refused(wrong.fill(wrong.open(to.String()), "carl", "carls")), "nonce")
	require.Contains(t, w.logged(), "nonce is wrong")
}

// The same way back is good once, also for whoever has copied all of it.
func TestReplays(t *testing.T) {
	w := newProviderWorld(t)
	d, err := w.signIn.BeginLogin(t.Context())
	require.NoError(t, err)
	to, err := url.Parse(d.Address)
	require.NoError(t, err)
	b := w.browser()
	q := b.bring(b.open(d.Address), "carl", "carls").Query()
	back := server.Return{Cookie: d.Cookie, State: q.Get("state"), Code: q.Get("code")}
	require.Equal(t, to.Query().Get("state"), back.State)
	opened, err := w.signIn.EndLogin(t.Context(), back, home)
	require.NoError(t, err)
	require.Equal(t, "carl", opened.User.Name)
	_, err = w.signIn.EndLogin(t.Context(), back, home)
	require.Equal(t, api.SignInExpired, reason(t, err))
	require.ErrorContains(t, err, "twice")

	late, err := w.signIn.BeginLogin(t.Context())
	require.NoError(t, err)
	to, err = url.Parse(late.Address)
	require.NoError(t, err)
	w.pass(server.LoginTime + time.Second)
	back = server.Return{Cookie: late.Cookie, State: to.Query().Get("state"), Code: "any"}
	_, err = w.signIn.EndLogin(t.Context(), back, home)
	require.Equal(t, api.SignInExpired, reason(t, err))
	require.ErrorContains(t, err, "too long")

	early, err := w.signIn.BeginLogin(t.Context())
	require.NoError(t, err)
	w.start() // again, with another key
	_, err = w.signIn.EndLogin(t.Context(), server.Return{Cookie: early.Cookie, State: "any"}, home)
	require.Equal(t, api.SignInExpired, reason(t, err))
	for _, cookie := range []string{"", "x", strings.Repeat("A", 3000), early.Cookie.Reveal()[1:]} {
		_, err = w.signIn.EndLogin(t.Context(), server.Return{Cookie: api.NewSecret(cookie), State: "any"}, home)
		require.Equal(t, api.SignInExpired, reason(t, err))
	}
}

func TestProviderThatIsNotTrusted(t *testing.T) {
	w := newProviderWorld(t)
	document := func(change func(m map[string]any)) func(http.ResponseWriter, *http.Request) bool {
		return func(rw http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != "/.well-known/openid-configuration" {
				return false
			}
			m := map[string]any{"issuer": w.issuer, "authorization_endpoint": w.issuer + "/auth", "token_endpoint": w.issuer + "/oauth/token",
				"jwks_uri": w.issuer + "/keys", "userinfo_endpoint": w.issuer + "/userinfo", "id_token_signing_alg_values_supported": []string{"RS256"}}
			change(m)
			rw.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(rw).Encode(m)
			return true
		}
	}
	foreign := receivers.NewIdentity(t)
	for name, c := range map[string]struct {
		instead func(http.ResponseWriter, *http.Request) bool
		change  func(o *api.OIDCSettings)
		want    string
		why     string
	}{
		"foreign certificate": {nil, func(o *api.OIDCSettings) { o.CA = foreign.CA }, api.SignInUnreachable, "certificate"},
		"another issuer":      {document(func(m map[string]any) { m["issuer"] = "https://evil.example.com" }), nil, api.SignInUnreachable, "issuer"},
		"clear text":          {document(func(m map[string]any) { m["token_endpoint"] = "http://127.0.0.1/token" }), nil, api.SignInUnreachable, "not sealed"},
		"no PKCE":             {document(func(m map[string]any) { m["code_challenge_methods_supported"] = []string{"plain"} }), nil, api.SignInUnreachable, "PKCE"},
		"redirects": {func(rw http.ResponseWriter, r *http.Request) bool {
			if strings.HasPrefix(r.URL.Path, "/.well-known/") {
				http.Redirect(rw, r, w.issuer+"/elsewhere", http.StatusFound)
				return true
			}
			return false
		}, nil, api.SignInUnreachable, "302"},
		"endless": {func(rw http.ResponseWriter, r *http.Request) bool {
			for strings.HasPrefix(r.URL.Path, "/.well-known/") {
				if _, err := rw.Write(make([]byte, 1<<16)); err != nil {
					return true
				}
			}
			return false
		}, nil, api.SignInUnreachable, ""},
		"other keys": {func(rw http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/keys" {
				rw.Header().Set("Content-Type", "application/json")
				_, _ = rw.Write([]byte(`{"keys":[]}`))
				return true
			}
			return false
		}, nil, api.SignInFailed, "signature"},
		"unknown issuer of the answer": {document(func(m map[string]any) { m["authorization_response_iss_parameter_supported"] = true }), nil, api.SignInFailed, "issuer"},
		"wrong secret":                 {nil, func(o *api.OIDCSettings) { o.ClientSecret = api.NewSecret("wrong") }, api.SignInFailed, "refuses"},
	} {
		t.Run(name, func(t *testing.T) {
			w.instead = c.instead
			w.mustSet(func(s *api.SignInSettings) {
				s.OIDC = w.settings()
				if c.change != nil {
					c.change(s.OIDC)
				}
			})
			b := w.browser()
			page := b.leave()
			if c.want == api.SignInFailed {
				page = b.fill(page, "carl", "carls")
			}
			require.Equal(t, c.want, refused(page))
			require.Contains(t, w.logged(), c.why)
			require.Empty(t, b.me())
		})
	}
	require.NotContains(t, w.logged(), clientSecret)
}

// The provider says that it did not let somebody in, in its own words, which lead nowhere.
func TestProviderRefuses(t *testing.T) {
	w := newProviderWorld(t)
	b := w.browser()
	to := b.depart()
	q := url.Values{"error": {"access_denied"}, "error_description": {"<script>"}, "state": {to.Query().Get("state")}}
	end := b.open(w.appliance.URL + api.CallbackPath + "?" + q.Encode())
	require.Equal(t, w.appliance.URL+"/?sign-in=cancelled", end.String())
}

func TestProviderThatHangsKeepsNoLocalUserOut(t *testing.T) {
	w := newProviderWorld(t)
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	w.instead = func(_ http.ResponseWriter, r *http.Request) bool {
		select {
		case <-release:
		case <-r.Context().Done():
		}
		return true
	}
	w.options.Patience = 200 * time.Millisecond
	w.start()
	_, err := w.signIn.BeginLogin(t.Context())
	require.Equal(t, api.SignInUnreachable, reason(t, err))
	w.mustSignIn("ada", right)
}

func TestTrialOfAProvider(t *testing.T) {
	w := newProviderWorld(t)
	try := func(change func(o *api.OIDCSettings)) api.SignInTest {
		o := w.settings()
		change(o)
		found, err := w.signIn.TestSignIn(t.Context(), api.SignInTrial{Settings: api.SignInSettings{SessionMinutes: 30, OIDC: o}})
		require.NoError(t, err)
		return found
	}
	found := try(func(*api.OIDCSettings) {})
	require.True(t, found.Passed, found)
	require.Contains(t, found.Checks[1].Message, w.appliance.URL+api.CallbackPath)
	require.True(t, try(func(o *api.OIDCSettings) { o.ClientSecret = api.Secret{} }).Passed, "with the secret that is kept")
	for name, change := range map[string]func(o *api.OIDCSettings){
		"client": func(*api.OIDCSettings) {
			w.instead = func(rw http.ResponseWriter, r *http.Request) bool { // this one looks at the code first
				if r.URL.Path == "/oauth/token" {
					rw.Header().Set("Content-Type", "application/json")
					rw.WriteHeader(http.StatusUnauthorized)
					_, _ = rw.Write([]byte(`{"error":"invalid_client"}`))
				}
				return r.URL.Path == "/oauth/token"
			}
		},
		"issuer": func(o *api.OIDCSettings) { o.Issuer += "/" },
		"CA":     func(o *api.OIDCSettings) { o.CA = receivers.NewIdentity(t).CA },
	} {
		found := try(change)
		require.False(t, found.Passed, name)
		require.NotEmpty(t, found.Checks[len(found.Checks)-1].Hint)
	}
}
