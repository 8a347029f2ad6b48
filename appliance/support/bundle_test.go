package support

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"understudy/api"
)

const hostPassword = "esx-Passw0rd!"

// talkative is a service whose answers hold secrets where none belong.
type talkative struct {
	api.Service
	say   string
	hangs bool
}

func (s talkative) About(context.Context) (api.About, error) {
	return api.About{Appliance: "0a0b0c0d", Version: "1.2.3"}, nil
}

func (s talkative) ListHosts(context.Context) ([]api.Host, error) {
	return []api.Host{{ID: "0", HostSpec: api.HostSpec{Name: "esx1", URI: "esx://esx1/", User: "root", Password: api.NewSecret(hostPassword)},
		Problem: "signing in with " + hostPassword + " failed"}, {ID: "1", HostSpec: api.HostSpec{Name: "kvm1", URI: "qemu+ssh://root:" + url.QueryEscape(s.say) + "@kvm1/system"}, Connected: true,
		Problem: "login with " + s.say + " failed"}, {ID: "2", HostSpec: api.HostSpec{Name: "kvm2"}, Problem: "not there"}}, nil
}

func (s talkative) ListGroups(_ context.Context, q api.GroupQuery) (api.Page[api.Group], error) {
	if q.Offset > 0 {
		return api.Page[api.Group]{}, nil
	}
	return api.Page[api.Group]{Items: []api.Group{{ID: "g", GroupSpec: api.GroupSpec{Name: "shop"}, Problem: "said " + s.say}}}, nil
}

func (s talkative) ListJobs(context.Context, api.JobQuery) (api.Page[api.Job], error) {
	return api.Page[api.Job]{Items: []api.Job{{ID: "j", Kind: "cycle", Error: `{"password":"` + s.say + `"}`}}}, nil
}

func (s talkative) Doctor(ctx context.Context, id string) (api.DoctorReport, error) {
	if s.hangs {
		<-ctx.Done()
		return api.DoctorReport{}, ctx.Err()
	}
	return api.DoctorReport{Checks: []api.DoctorCheck{{Name: "info", Result: "passed", Message: s.say}}}, errors.New("Basic " + base64.StdEncoding.EncodeToString([]byte("admin:"+s.say)))
}

func unzip(t *testing.T, data []byte) map[string]string {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	require.NoError(t, err)
	files := map[string]string{}
	for _, f := range z.File {
		r, err := f.Open()
		require.NoError(t, err)
		b, err := io.ReadAll(r)
		require.NoError(t, err)
		files[strings.TrimPrefix(f.Name, "understudy-support/")] = string(b)
	}
	return files
}

const certificateKey = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIPlantedKeyMaterialPlantedKeyMaterialPlantedKeyMa\n-----END EC PRIVATE KEY-----\n"

// Secrets are put wherever somebody may have put one by mistake, in every form; none may be in the bundle.
func TestBundleHoldsNoSecret(t *testing.T) {
	dir := t.TempDir()
	a := newAppliance(t, dir)
	const kept, odd = "hunter2-Passw0rd!", `qu"ote\and/slash & more`
	require.NoError(t, a.v.Put("smtp", api.NewSecret(kept)))
	require.NoError(t, a.v.Put("odd", api.NewSecret(odd)))
	require.NoError(t, a.v.Put("host/0/password-1", api.NewSecret(hostPassword)))
	planted := map[string]string{"admin.token": "adminTokenadminTokenadminTokenadminTokenadm", "setup.token": "setup-token-setup-token-setup"}
	for name, secret := range planted {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(secret+"\n"), 0o600))
		a.SecretFiles = append(a.SecretFiles, filepath.Join(dir, name))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "key.pem"), []byte(certificateKey), 0o600))
	a.SecretFiles = append(a.SecretFiles, filepath.Join(dir, "key.pem"), filepath.Join(dir, "keys", "secret.key"), filepath.Join(dir, "never"))
	keyFile, err := os.ReadFile(filepath.Join(dir, "keys", "secret.key"))
	require.NoError(t, err)
	fields := strings.Fields(string(keyFile))
	sealingKey := fields[len(fields)-1]

	a.Logs = NewRing(1 << 20)
	log := slog.New(slog.NewJSONHandler(a.Logs, nil))
	// Those that the appliance knows, and then those that only their shape gives away.
	for _, secret := range []string{kept, odd, planted["admin.token"], planted["setup.token"], sealingKey, hostPassword} {
		log.Info("said "+secret, "url", "https://x/?q="+url.QueryEscape(secret), "quoted", fmt.Sprintf("%q", secret), "secret", secret)
	}
	log.Warn("request", "header", "Authorization: Bearer unknownTokenUnknownToken", "cookie", "__Host-understudy=sessionsessionsession; Path=/")
	log.Warn("hash $argon2id$v=19$m=65536,t=3,p=4$saltsalt$hashhash", "community", "public-but-secret", "uri", "smtp://user:shapeOnly1@mail/")
	log.Warn(`body {"passphrase":"shapeOnly2","apiKey":"shapeOnly3"} password=shapeOnly4 client_secret: shapeOnly5`)
	log.Warn("key " + certificateKey)
	log.Info("typed", "as", api.NewSecret("shapeOnly6"))
	a.Service = talkative{say: kept}
	a.Certificates = certificates{}
	a.Sections = []Section{
		{"users.json", asJSON(func(context.Context) (any, error) {
			return map[string]any{"name": "ann", "passwordHash": "x", "password": api.NewSecret("shapeOnly7")}, nil
		})},
		{"panics.txt", func(context.Context, io.Writer) error { panic("with " + kept) }},
		{"fails.txt", func(_ context.Context, w io.Writer) error {
			fmt.Fprintln(w, "half of it")
			return errors.New("dial ldap://cn=x:" + kept + "@dc: no")
		}},
		{"large.txt", func(_ context.Context, w io.Writer) error {
			_, err := w.Write(bytes.Repeat([]byte("large "), maxSection))
			return err
		}},
	}
	var bundle bytes.Buffer
	require.NoError(t, a.SupportBundle(t.Context(), &bundle))
	files := unzip(t, bundle.Bytes())
	for _, name := range []string{"README.txt", "about.json", "environment.txt", "ready.json", "secrets.json", "certificate.json", "state.json", "hosts.json",
		"groups.json", "jobs.json", "doctor.json", "goroutines.txt", "users.json", "log.jsonl", "errors.txt"} {
		require.NotEmpty(t, files[name], name)
	}
	require.Contains(t, files["environment.txt"], "MemTotal")
	require.Contains(t, files["environment.txt"], "os-release")
	require.Contains(t, files["goroutines.txt"], "SupportBundle")
	require.Contains(t, files["hosts.json"], "kvm1/system", "what is no secret stays")
	require.Contains(t, files["state.json"], `"secrets": 3`)
	require.Contains(t, files["fails.txt"], "half of it")
	require.Contains(t, files["errors.txt"], "panics.txt")
	require.Contains(t, files["errors.txt"], "large.txt: it was cut off")
	require.Len(t, files["large.txt"], maxSection)
	for name, text := range files {
		for _, secret := range []string{hostPassword, kept, url.QueryEscape(kept), base64.StdEncoding.EncodeToString([]byte("admin:" + kept)), odd, `qu\"ote`, url.QueryEscape(odd), sealingKey,
			planted["admin.token"], planted["setup.token"], "unknownToken", "sessionsession", "hashhash", "public-but-secret", "shapeOnly", "PlantedKey"} {
			require.False(t, strings.Contains(text, secret), "%s has %s", name, secret)
		}
	}
	require.Contains(t, files["log.jsonl"], "smtp://"+api.Redacted+"@mail/")
}

type certificates struct{}

func (certificates) Show() (api.Certificate, error) {
	return api.Certificate{Subject: "CN=dr"}, nil
}
func (certificates) Replace(api.CertificateOrder) (api.Certificate, error) {
	return api.Certificate{}, nil
}
func (certificates) Reset() (api.Certificate, error) { return api.Certificate{}, nil }

// A host that hangs, or a part that does, is told of and keeps nobody waiting for long.
func TestBundleOfAHangingAppliance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAppliance(t, t.TempDir())
		a.Service, a.Certificates = talkative{hangs: true}, certificates{}
		a.Sections = []Section{{"hangs.txt", func(ctx context.Context, w io.Writer) error {
			fmt.Fprint(w, "began")
			<-ctx.Done()
			return ctx.Err()
		}}}
		var bundle bytes.Buffer
		require.NoError(t, a.SupportBundle(t.Context(), &bundle))
		files := unzip(t, bundle.Bytes())
		require.Contains(t, files["doctor.json"], "kvm1")
		require.Equal(t, "began", files["hangs.txt"])
		require.Contains(t, files["errors.txt"], "hangs.txt")
		require.NoError(t, a.db.Close())
	})
}

func TestBundleEndsWithItsReader(t *testing.T) {
	a := newAppliance(t, t.TempDir())
	a.Service, a.Certificates = talkative{}, certificates{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, a.SupportBundle(ctx, io.Discard), context.Canceled)
}

func TestRingKeepsTheNewest(t *testing.T) {
	r := NewRing(10)
	for _, line := range []string{"aaa\n", "bbb\n", "cc\n", strings.Repeat("x", 11), "d\n"} {
		n, err := r.Write([]byte(line))
		require.NoError(t, err)
		require.Equal(t, len(line), n)
	}
	var b bytes.Buffer
	_, err := r.WriteTo(&b)
	require.NoError(t, err)
	require.Equal(t, "bbb\ncc\nd\n", b.String())
	require.Equal(t, 2, r.Lost())
}

// FuzzScrub: a secret that is known does not come through, whatever is around it.
func FuzzScrub(f *testing.F) {
	f.Add("before ", "hunter2-Passw0rd!", " after")
	f.Add(`{"password":"`, `a"b\c`, `"}`)
	f.Add("-----BEGIN PRIVATE KEY-----\n", "abcd", "")
	f.Fuzz(func(t *testing.T, before, secret, after string) {
		if len(secret) < 4 || strings.Contains(api.Redacted, secret) || strings.Contains(secret, "[secret]") {
			return
		}
		got := string(newScrubber([]string{secret}).scrub([]byte(before + secret + after)))
		if strings.Contains(before+after, "[") || strings.Contains(before+after, "]") || strings.Contains(secret, "[") || strings.Contains(secret, "]") {
			return // what remains may spell it anew together with the mark
		}
		require.NotContains(t, got, secret)
	})
}
