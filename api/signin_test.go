package api_test

import (
	"encoding/json"
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/api"
)

// FuzzSignInSettings validates what somebody may send. What is accepted sends no password in the clear, lets in nobody
// without a role, and sends people back to the console alone.
func FuzzSignInSettings(f *testing.F) {
	for _, s := range []string{
		`{"sessionMinutes":30,"ldap":{"enabled":true,"url":"ldaps://dc.example.com","baseDN":"dc=a","userFilter":"(uid={name})","groupAttribute":"memberOf","roles":[{"value":"x","role":"viewer","groups":["g"]}]}}`,
		`{"sessionMinutes":30,"ldap":{"url":"ldap://[2001:db8::1]:389","startTLS":true,"baseDN":"dc=a","userFilter":"{name}","groupFilter":"(member={dn})"}}`,
		`{"sessionMinutes":5,"oidc":{"enabled":true,"name":"a","issuer":"http://localhost:1","consoleUrl":"https://dr:8443/","clientId":"c","roleClaim":"groups","roles":[{"value":"x","role":"administrator"}]}}`,
		`{"sessionMinutes":720,"oidc":{"name":"a","issuer":"https://a@b","consoleUrl":"https://dr/x?y#z","clientId":"c","roleClaim":"g","scopes":["a b"]}}`,
		`{}`, `null`, `{"sessionMinutes":30,"ldap":{},"oidc":{}}`, `{"sessionMinutes":30,"ldap":{"url":"ldaps://%zz"}}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var s api.SignInSettings
		if json.Unmarshal([]byte(text), &s) != nil {
			return
		}
		if err := s.Validate(); err != nil {
			var e *api.Error
			require.True(t, errors.As(err, &e), "%v", err)
			require.Equal(t, api.CodeInvalid, e.Code)
			require.True(t, e.Hint != "" && e.Field != "" && e.Message != "", "%+v", e)
			return
		}
		if l := s.LDAP; l != nil {
			require.True(t, strings.HasPrefix(strings.ToLower(l.URL), "ldaps://") || l.StartTLS, l.URL)
			require.Contains(t, l.UserFilter, "{name}")
			require.True(t, !l.Enabled || len(l.Roles) > 0)
		}
		if o := s.OIDC; o != nil {
			to, err := url.Parse(o.Redirect())
			require.NoError(t, err)
			console, err := url.Parse(o.ConsoleURL)
			require.NoError(t, err)
			require.Equal(t, console.Host, to.Host)
			require.Equal(t, api.CallbackPath, to.Path)
			require.True(t, to.Scheme == "https" || to.Hostname() == "localhost" || strings.Contains(to.Host, ":") || strings.HasPrefix(to.Host, "127."), to.Host)
		}
	})
}
