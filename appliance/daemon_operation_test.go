package main_test

import (
	"archive/zip"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/api"
)

// ask sends a request as whoever has the token, and gives the answer.
func (d *daemon) ask(method, path, token, body string) (*http.Response, string) {
	d.t.Helper()
	ca, err := os.ReadFile(filepath.Join(d.dir, "tls", "cert.pem"))
	require.NoError(d.t, err)
	roots := x509.NewCertPool()
	require.True(d.t, roots.AppendCertsFromPEM(ca))
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(d.t.Context(), method, "https://"+d.listen+path, strings.NewReader(body))
	require.NoError(d.t, err)
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := client.Do(req)
	require.NoError(d.t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(d.t, err)
	return resp, string(text)
}

func (d *daemon) secret(name string) string {
	d.t.Helper()
	b, err := os.ReadFile(filepath.Join(d.dir, name))
	require.NoError(d.t, err)
	return strings.TrimSpace(string(b))
}

const (
	userPassword = "planted-user-Passw0rd"
	mailPassword = "planted-mail-Passw0rd"
	ldapPassword = "planted-ldap-Passw0rd"
	words        = "planted words of the backup"
)

func mail(name string) api.ChannelSpec {
	return api.ChannelSpec{Name: name, Enabled: true, Kind: "email", Email: &api.EmailChannel{Host: "127.0.0.1", Port: 1, Security: "starttls", User: "me",
		Password: api.NewSecret(mailPassword).InClear(), From: "understudy@example.com", To: []string{"admin@example.com"}}}
}

// An appliance is set up, backed up, changed, and restored by its own API; what it shows of itself holds no secret.
func TestOperation(t *testing.T) {
	d := newDaemon(t)
	ctx := t.Context()
	admin, setup := d.secret("admin.token"), d.secret("setup.token")
	resp, text := d.ask(http.MethodPost, "/api/v1/setup", "", `{"token":"`+setup+`","name":"ann","password":"`+userPassword+`"}`)
	require.Less(t, resp.StatusCode, 300, text)
	require.NotEmpty(t, resp.Cookies())
	session := resp.Cookies()[0].Value
	kept, err := d.CreateChannel(ctx, mail("kept"))
	require.NoError(t, err)

	signIn, err := d.SetSignInSettings(ctx, 1, api.SignInSettings{SessionMinutes: 45, LDAP: &api.LDAPSettings{Enabled: true, URL: "ldaps://127.0.0.1:1",
		BindDN: "cn=understudy", BindPassword: api.NewSecret(ldapPassword), BaseDN: "dc=example", UserFilter: "(uid={name})", GroupAttribute: "memberOf",
		Roles: []api.RoleMapping{{Value: "x", Role: api.RoleViewer}}}})
	require.NoError(t, err)
	resp, _ = d.ask(http.MethodPost, "/api/v1/session", "", `{"name":"carl","password":"`+userPassword+`"}`)
	require.Equal(t, http.StatusBadGateway, resp.StatusCode, "the directory is down")

	var backup bytes.Buffer
	require.NoError(t, d.Backup(ctx, api.BackupOrder{Passphrase: api.NewSecret(words)}, &backup))
	require.NoError(t, d.DeleteChannel(ctx, kept.ID))
	_, err = d.CreateChannel(ctx, mail("later"))
	require.NoError(t, err)
	_, err = d.SetSignInSettings(ctx, signIn.Revision, api.SignInSettings{SessionMinutes: 5})
	require.NoError(t, err)
	status, err := d.RotateKey(ctx)
	require.NoError(t, err)
	require.Equal(t, 1, status.Secrets)

	_, err = d.Restore(ctx, api.RestoreOrder{Passphrase: api.NewSecret("not these words"), Data: backup.Bytes()})
	require.Equal(t, api.CodeInvalid, api.CodeOf(err))
	r, err := d.Restore(ctx, api.RestoreOrder{Passphrase: api.NewSecret(words), Data: backup.Bytes()})
	require.NoError(t, err)
	require.True(t, r.Restart)
	channels, err := d.ListChannels(ctx)
	require.NoError(t, err)
	require.Equal(t, "later", channels[0].Name, "not before the next start")
	log := d.log
	d.signal(syscall.SIGTERM)
	d.start()
	channels, err = d.ListChannels(ctx)
	require.NoError(t, err)
	require.Len(t, channels, 1)
	require.Equal(t, "kept", channels[0].Name)
	require.True(t, channels[0].Email.PasswordSet)
	status, err = d.Secrets(ctx)
	require.NoError(t, err)
	require.Equal(t, api.SecretsStatus{Secrets: 2, Unreadable: []string{}}, status)
	restored, err := d.SignInSettings(ctx)
	require.NoError(t, err)
	require.Equal(t, signIn, restored)
	require.True(t, restored.LDAP.BindPasswordSet)
	resp, _ = d.ask(http.MethodPost, "/api/v1/session", "", `{"name":"ann","password":"`+userPassword+`"}`)
	require.Less(t, resp.StatusCode, 300, "the user is back")

	require.True(t, d.Ready(ctx).Ready)
	resp, _ = d.ask(http.MethodGet, "/metrics", "", "")
	require.Equal(t, http.StatusUnauthorized, resp.StatusCode)
	resp, text = d.ask(http.MethodGet, "/metrics", admin, "")
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Contains(t, text, "understudy_build_info")

	// Whatever it tells of itself: its log, its metrics, and all that a support bundle has.
	d.ask(http.MethodGet, "/api/v1/about?token="+url.QueryEscape(admin), "wrong-"+admin, "")
	var bundle bytes.Buffer
	require.NoError(t, d.SupportBundle(ctx, &bundle))
	z, err := zip.NewReader(bytes.NewReader(bundle.Bytes()), int64(bundle.Len()))
	require.NoError(t, err)
	require.Greater(t, len(z.File), 12)
	shown := map[string]string{"log": log.String() + d.log.String(), "metrics": text}
	for _, f := range z.File {
		in, err := f.Open()
		require.NoError(t, err)
		b, err := io.ReadAll(in)
		require.NoError(t, err)
		shown[f.Name] = string(b)
	}
	keys := strings.Fields(d.secret("keys/secret.key"))
	for name, text := range shown {
		for _, planted := range []string{admin, setup, session, userPassword, mailPassword, ldapPassword, words, keys[len(keys)-1],
			base64.StdEncoding.EncodeToString([]byte(mailPassword))} {
			require.False(t, strings.Contains(text, planted), "%s has %s", name, planted)
		}
	}
	require.NotContains(t, shown, "understudy-support/errors.txt", "%s", shown["understudy-support/errors.txt"])
}

// A lost key file costs the passwords and nothing else, until it is back.
func TestLostKeyFile(t *testing.T) {
	d := newDaemon(t)
	ctx := t.Context()
	_, err := d.CreateChannel(ctx, mail("kept"))
	require.NoError(t, err)
	d.signal(syscall.SIGKILL)
	key := filepath.Join(d.dir, "keys", "secret.key")
	require.NoError(t, os.Rename(key, key+".away"))
	d.start()
	require.Contains(t, d.log.String(), "secrets cannot be read")
	require.True(t, d.Ready(ctx).Ready)
	status, err := d.Secrets(ctx)
	require.NoError(t, err)
	require.Len(t, status.Unreadable, 1)
	require.Contains(t, status.Hint, "key file back")
	require.NoError(t, os.Rename(key+".away", key))
	status, err = d.Secrets(ctx)
	require.NoError(t, err)
	require.Empty(t, status.Unreadable)
	b, err := json.Marshal(status)
	require.NoError(t, err)
	require.NotContains(t, string(b), mailPassword)
}
