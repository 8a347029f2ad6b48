package cli

import (
	"context"
	"maps"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/api/server"
)

func init() {
	maps.Copy(commands, map[string][]string{
		"sign-in-show":         {"sign-in", "show"},
		"sign-in-set":          {"sign-in", "set", "-f", "testdata/signin.json", "--session-minutes", "15"},
		"sign-in-set-minutes":  {"sign-in", "set", "--session-minutes", "15"},
		"sign-in-set-nothing":  {"sign-in", "set"},
		"sign-in-set-wrong":    {"sign-in", "set", "-f", "testdata/group.json"},
		"sign-in-set-too-long": {"sign-in", "set", "--session-minutes", "1000"},
		"sign-in-test":         {"sign-in", "test", "--name", "carl"},
		"sign-in-test-failed":  {"sign-in", "test", "-f", "testdata/signin.json"},
	})
}

var _ server.SignIn = (*appliance)(nil)

func (f *appliance) SignInSettings(context.Context) (api.SignInSettings, error) {
	return api.SignInSettings{Revision: 4, SessionMinutes: 30,
		LDAP: &api.LDAPSettings{Enabled: true, URL: "ldaps://dc.example.com", BindDN: "cn=understudy,dc=example,dc=com", BindPasswordSet: true,
			BaseDN: "ou=people,dc=example,dc=com", UserFilter: "(uid={name})", GroupAttribute: "memberOf",
			Roles: []api.RoleMapping{{Value: "cn=admins,dc=example,dc=com", Role: api.RoleAdministrator}, {Value: "cn=web,dc=example,dc=com", Role: api.RoleOperator, Groups: []string{"g1"}}}},
		OIDC: &api.OIDCSettings{Name: "Example \x1b[31m", Issuer: "https://id.example.com", ClientID: "understudy", ConsoleURL: "https://dr.example.com:8443",
			RedirectURL: "https://dr.example.com:8443/api/v1/oidc/callback", RoleClaim: "groups", Roles: []api.RoleMapping{{Value: "staff", Role: api.RoleViewer}}},
	}, f.err
}

func (f *appliance) SetSignInSettings(_ context.Context, revision int64, s api.SignInSettings) (api.SignInSettings, error) {
	password := ""
	if s.LDAP != nil {
		password = s.LDAP.BindPassword.Reveal()
		s.LDAP.BindPassword, s.LDAP.BindPasswordSet = api.Secret{}, true
	}
	f.note("set sign-in %d, %d minutes, ldap %t, oidc %t, password %d", revision, s.SessionMinutes, s.LDAP != nil, s.OIDC != nil, len(password))
	s.Revision = revision + 1
	return s, f.err
}

func (f *appliance) TestSignIn(_ context.Context, trial api.SignInTrial) (api.SignInTest, error) {
	if trial.Name == "" {
		return api.SignInTest{Checks: []api.SignInCheck{{Part: "ldap", Name: "connect", Message: "connection refused", Hint: "Look at the address."}}}, f.err
	}
	return api.SignInTest{Passed: true, Checks: []api.SignInCheck{{Part: "ldap", Name: "groups", Passed: true, Message: trial.Name + " would be operator"}}}, f.err
}

func (f *appliance) BeginLogin(context.Context) (server.Departure, error) {
	return server.Departure{}, &server.LoginError{Reason: api.SignInNotOffered, Err: f.err}
}

func (f *appliance) EndLogin(context.Context, server.Return, string) (api.Opened, error) {
	return api.Opened{}, &server.LoginError{Reason: api.SignInNotOffered, Err: f.err}
}

// A password goes from the file to the appliance, and is shown nowhere.
func TestPasswordsOfDirectoriesAreNotShown(t *testing.T) {
	f := newAppliance()
	serve(t, f)
	term := &terminal{in: strings.NewReader(`{"ldap":{"enabled":true,"url":"ldaps://dc","bindDN":"cn=a","bindPassword":"correct-horse","baseDN":"dc=a","userFilter":"(uid={name})",
		"groupAttribute":"memberOf","roles":[{"value":"x","role":"viewer"}]}}`)}
	require.Zero(t, term.run(t.Context(), "sign-in", "set", "-f", "-", "--json"), term.err.String())
	require.Equal(t, []string{"set sign-in 4, 30 minutes, ldap true, oidc false, password 13"}, f.orders)
	require.NotContains(t, term.out.String()+term.err.String(), "correct-horse")
}
