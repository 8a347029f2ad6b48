package directory_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/appliance/access"
	"understudy/appliance/directory"
	"understudy/appliance/vault"
)

func someLDAP() *api.LDAPSettings {
	return &api.LDAPSettings{Enabled: true, URL: "ldaps://dc.example.com", BindDN: reader, BindPassword: api.NewSecret(readerPassword), BaseDN: people,
		UserFilter: "(uid={name})", GroupAttribute: "memberOf", Roles: []api.RoleMapping{{Value: "x", Role: api.RoleViewer}}}
}

func someOIDC() *api.OIDCSettings {
	return &api.OIDCSettings{Enabled: true, Name: "Example", Issuer: "https://id.example.com", ClientID: "understudy", ClientSecret: api.NewSecret(clientSecret),
		ConsoleURL: "https://dr.example.com:8443/", RoleClaim: "groups", Roles: []api.RoleMapping{{Value: "x", Role: api.RoleViewer}}}
}

func TestSettings(t *testing.T) {
	w := newWorld(t)
	s, err := w.signIn.SignInSettings(t.Context())
	require.NoError(t, err)
	require.Equal(t, api.SignInSettings{Revision: 1, SessionMinutes: 30}, s)

	s = w.mustSet(func(s *api.SignInSettings) { s.SessionMinutes, s.LDAP, s.OIDC = 5, someLDAP(), someOIDC() })
	require.Equal(t, int64(2), s.Revision)
	require.True(t, s.LDAP.BindPasswordSet && s.OIDC.ClientSecretSet)
	require.True(t, s.LDAP.BindPassword.IsZero() && s.OIDC.ClientSecret.IsZero())
	require.Equal(t, "https://dr.example.com:8443/api/v1/oidc/callback", s.OIDC.RedirectURL)
	_, err = w.signIn.SetSignInSettings(t.Context(), 1, s)
	require.Equal(t, api.CodeStale, api.CodeOf(err))
	ada := w.mustSignIn("ada", right)
	w.pass(5 * time.Minute)
	require.False(t, w.alive(ada), "how long a session lasts holds at once")

	w.start()
	again, err := w.signIn.SignInSettings(t.Context())
	require.NoError(t, err)
	require.Equal(t, s, again)
	require.Equal(t, api.SignInWays{Local: true, LDAP: true, OIDC: &api.Provider{Name: "Example"}}, w.people.Ways())
	state, err := os.ReadFile(filepath.Join(w.dir, "state.db"))
	require.NoError(t, err)
	require.NotContains(t, string(state), readerPassword)
	require.NotContains(t, string(state), clientSecret)

	w.mustSet(func(s *api.SignInSettings) { s.LDAP, s.OIDC = nil, nil })
	for _, name := range []string{"sign-in/ldap/bindPassword", "sign-in/oidc/clientSecret"} {
		_, err = w.options.Secrets.Get(name)
		require.ErrorIs(t, err, vault.ErrNotFound)
	}
	require.Equal(t, api.SignInWays{Local: true}, w.people.Ways())
}

// Whoever may change an address does not learn the password that was given for another.
func TestSecretsDoNotGoElsewhere(t *testing.T) {
	w := newWorld(t)
	w.mustSet(func(s *api.SignInSettings) { s.LDAP, s.OIDC = someLDAP(), someOIDC() })
	for name, c := range map[string]struct {
		field  string
		change func(s *api.SignInSettings)
	}{
		"URL":      {"ldap.bindPassword", func(s *api.SignInSettings) { s.LDAP.URL = "ldaps://evil.example.com" }},
		"account":  {"ldap.bindPassword", func(s *api.SignInSettings) { s.LDAP.BindDN = "cn=other,dc=example,dc=com" }},
		"StartTLS": {"ldap.bindPassword", func(s *api.SignInSettings) { s.LDAP.URL, s.LDAP.StartTLS = "ldap://dc.example.com", true }},
		"issuer":   {"oidc.clientSecret", func(s *api.SignInSettings) { s.OIDC.Issuer = "https://evil.example.com" }},
		"client":   {"oidc.clientSecret", func(s *api.SignInSettings) { s.OIDC.ClientID = "other" }},
	} {
		_, err := w.set(c.change)
		var e *api.Error
		require.ErrorAs(t, err, &e, name)
		require.Equal(t, c.field, e.Field, name)
		s, err := w.signIn.SignInSettings(t.Context())
		require.NoError(t, err)
		c.change(&s)
		_, err = w.signIn.TestSignIn(t.Context(), api.SignInTrial{Settings: s})
		require.ErrorAs(t, err, &e, "nor by a trial")
		require.Equal(t, c.field, e.Field, name)
	}
	_, err := newWorld(t).set(func(s *api.SignInSettings) { s.LDAP = someLDAP(); s.LDAP.BindPassword = api.Secret{} })
	require.ErrorContains(t, err, "has no password")
	w.mustSet(func(s *api.SignInSettings) { s.LDAP.UserFilter = "(mail={name})"; s.OIDC.Name = "Other" })
}

func TestSettingsThatCannotBe(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct {
		field  string
		change func(s *api.SignInSettings)
	}{
		"minutes":         {"sessionMinutes", func(s *api.SignInSettings) { s.SessionMinutes = 4 }},
		"too many":        {"sessionMinutes", func(s *api.SignInSettings) { s.SessionMinutes = 721 }},
		"clear text":      {"ldap.startTLS", func(s *api.SignInSettings) { s.LDAP.URL = "ldap://dc.example.com" }},
		"both":            {"ldap.startTLS", func(s *api.SignInSettings) { s.LDAP.StartTLS = true }},
		"scheme":          {"ldap.url", func(s *api.SignInSettings) { s.LDAP.URL = "https://dc.example.com" }},
		"password in URL": {"ldap.url", func(s *api.SignInSettings) { s.LDAP.URL = "ldaps://a:b@dc.example.com" }},
		"port":            {"ldap.url", func(s *api.SignInSettings) { s.LDAP.URL = "ldaps://dc.example.com:99999" }},
		"issuer's port":   {"oidc.issuer", func(s *api.SignInSettings) { s.OIDC.Issuer = "https://id.example.com:0" }},
		"base":            {"ldap.baseDN", func(s *api.SignInSettings) { s.LDAP.BaseDN = "people" }},
		"groups' base":    {"ldap.groupBaseDN", func(s *api.SignInSettings) { s.LDAP.GroupBaseDN = "groups" }},
		"anybody":         {"ldap.userFilter", func(s *api.SignInSettings) { s.LDAP.UserFilter = "(uid=*)" }},
		"filter":          {"ldap.userFilter", func(s *api.SignInSettings) { s.LDAP.UserFilter = "(uid={name}" }},
		"groups' filter":  {"ldap.groupFilter", func(s *api.SignInSettings) { s.LDAP.GroupFilter = "(member={dn}))(" }},
		"all groups":      {"ldap.groupFilter", func(s *api.SignInSettings) { s.LDAP.GroupFilter = "(cn=*)" }},
		"no groups":       {"ldap.groupAttribute", func(s *api.SignInSettings) { s.LDAP.GroupAttribute = "" }},
		"attribute":       {"ldap.groupAttribute", func(s *api.SignInSettings) { s.LDAP.GroupAttribute = "member of" }},
		"CA":              {"ldap.ca", func(s *api.SignInSettings) { s.LDAP.CA = "none" }},
		"nobody":          {"ldap.roles", func(s *api.SignInSettings) { s.LDAP.Roles = nil }},
		"twice": {"ldap.roles[1].value", func(s *api.SignInSettings) {
			s.LDAP.Roles = append(s.LDAP.Roles, api.RoleMapping{Value: "X", Role: api.RoleViewer})
		}},
		"role": {"ldap.roles[0].role", func(s *api.SignInSettings) { s.LDAP.Roles[0].Role = "root" }},
		"scope": {"oidc.roles[0].groups", func(s *api.SignInSettings) {
			s.OIDC.Roles[0] = api.RoleMapping{Value: "x", Role: api.RoleAdministrator, Groups: []string{"g"}}
		}},
		"issuer":         {"oidc.issuer", func(s *api.SignInSettings) { s.OIDC.Issuer = "http://id.example.com" }},
		"issuer's query": {"oidc.issuer", func(s *api.SignInSettings) { s.OIDC.Issuer = "https://id.example.com?a" }},
		"console":        {"oidc.consoleUrl", func(s *api.SignInSettings) { s.OIDC.ConsoleURL = "https://dr.example.com/console" }},
		"client":         {"oidc.clientId", func(s *api.SignInSettings) { s.OIDC.ClientID = "" }},
		"scopes":         {"oidc.scopes[1]", func(s *api.SignInSettings) { s.OIDC.Scopes = []string{"profile", "a b"} }},
		"claim":          {"oidc.roleClaim", func(s *api.SignInSettings) { s.OIDC.RoleClaim = "" }},
		"name":           {"oidc.name", func(s *api.SignInSettings) { s.OIDC.Name = " " }},
	} {
		_, err := w.set(func(s *api.SignInSettings) {
			s.LDAP, s.OIDC = someLDAP(), someOIDC()
			c.change(s)
		})
		var e *api.Error
		require.ErrorAs(t, err, &e, name)
		require.Equal(t, c.field, e.Field, name)
		require.NotContains(t, err.Error(), readerPassword)
	}
}

// full is a store whose disk takes no settings.
type full struct{ directory.Store }

func (full) Put(string, string, any) error { return errors.New("disk full") }

func TestSettingsThatCannotBeKeptChangeNoSecret(t *testing.T) {
	w := newWorld(t)
	w.mustSet(func(s *api.SignInSettings) { s.LDAP = someLDAP() })
	w.options.Store = full{w.options.Store}
	w.start()
	_, err := w.set(func(s *api.SignInSettings) { s.LDAP.BindPassword, s.OIDC = api.NewSecret("another"), someOIDC() })
	require.ErrorContains(t, err, "disk full")
	kept, err := w.options.Secrets.Get("sign-in/ldap/bindPassword")
	require.NoError(t, err)
	require.Equal(t, readerPassword, kept.Reveal())
	_, err = w.options.Secrets.Get("sign-in/oidc/clientSecret")
	require.ErrorIs(t, err, vault.ErrNotFound)
	require.Nil(t, w.people.Ways().OIDC)
}

// A key file that is lost keeps no local user out.
func TestSecretsThatCannotBeRead(t *testing.T) {
	w := newWorld(t)
	w.mustSet(func(s *api.SignInSettings) { s.LDAP = someLDAP() })
	w.options.Secrets = lost{}
	w.start()
	_, err := w.try("carl", "x")
	require.Equal(t, api.CodeHost, api.CodeOf(err))
	w.mustSignIn("ada", right)
}

type lost struct{}

func (lost) Put(string, api.Secret) error { return vault.ErrUnreadable }
func (lost) Get(string) (api.Secret, error) {
	return api.Secret{}, fmt.Errorf("read: %w", vault.ErrUnreadable)
}
func (lost) Delete(string) error { return nil }

var _ directory.People = (*access.Access)(nil)
