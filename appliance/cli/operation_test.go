package cli

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
)

// operationCommands are tested here: what they write names temporary files.
var operationCommands = []string{"certificate", "certificate show", "certificate replace", "certificate reset", "secrets", "rotate-key",
	"backup", "restore", "support-bundle"}

// operated is an appliance that is also looked after. It notes what it gets, secrets revealed.
type operated struct {
	*appliance
	broken error
}

var _ api.Operation = operated{}

func (f operated) Certificate(context.Context) (api.Certificate, error) {
	return api.Certificate{Subject: "CN=dr.example.com", Issuer: "CN=authority", Names: []string{"dr.example.com", "192.0.2.1"}, NotBefore: now,
		NotAfter: now.Add(24 * time.Hour), Fingerprint: "AB:CD", Warnings: []string{"It expires on 2026-03-05."}}, nil
}

func (f operated) ReplaceCertificate(ctx context.Context, o api.CertificateOrder) (api.Certificate, error) {
	f.note("certificate %s key %s", o.Certificate, o.Key.Reveal())
	return f.Certificate(ctx)
}

func (f operated) ResetCertificate(context.Context) (api.Certificate, error) {
	f.note("reset certificate")
	return api.Certificate{Subject: "CN=Understudy self-made", SelfMade: true, Names: []string{}}, nil
}

func (f operated) Secrets(context.Context) (api.SecretsStatus, error) {
	return api.SecretsStatus{Secrets: 2, Unreadable: []string{"smtp"}, Problem: "the key file is lost", Hint: "Put it back."}, nil
}

func (f operated) RotateKey(context.Context) (api.SecretsStatus, error) {
	f.note("rotate key")
	return api.SecretsStatus{Secrets: 2, Unreadable: []string{}}, f.broken
}

func (f operated) Ready(context.Context) api.Readiness { return api.Readiness{Ready: true} }

func (f operated) Backup(_ context.Context, o api.BackupOrder, w io.Writer) error {
	f.note("backup %s", o.Passphrase.Reveal())
	if f.broken != nil {
		return f.broken
	}
	_, err := io.WriteString(w, "encrypted")
	return err
}

func (f operated) Restore(_ context.Context, o api.RestoreOrder) (api.Restoration, error) {
	f.note("restore %s %s", o.Passphrase.Reveal(), o.Data)
	return api.Restoration{Made: now, Version: "1.2.3", Appliance: "0a0b0c0d", Hosts: 2, Groups: 3, Users: 4, Secrets: 5, Restart: true,
		Warnings: []string{"All groups come back paused."}}, f.broken
}

func (f operated) SupportBundle(_ context.Context, w io.Writer) error {
	_, err := io.WriteString(w, "PK")
	return err
}

func file(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

func TestCertificateCommands(t *testing.T) {
	svc := operated{appliance: newAppliance()}
	serve(t, svc)
	var term terminal
	require.Zero(t, term.run(t.Context(), "certificate", "replace", file(t, "cert", "CERT"), file(t, "key", "KEY")), term.err.String())
	require.Equal(t, []string{"certificate CERT key KEY"}, svc.orders)
	require.Contains(t, term.out.String(), "dr.example.com, 192.0.2.1")
	require.Contains(t, term.out.String(), "warning: It expires")
	require.NotContains(t, term.out.String()+term.err.String(), "KEY")
	require.Zero(t, term.run(t.Context(), "certificate", "show", "--json"))
	require.Contains(t, term.out.String(), `"fingerprint": "AB:CD"`)
	require.Zero(t, term.run(t.Context(), "certificate", "reset"))
	require.Equal(t, exitUsage, term.run(t.Context(), "certificate", "replace", "/nowhere", "/nowhere"))
}

func TestSecretCommands(t *testing.T) {
	svc := operated{appliance: newAppliance()}
	serve(t, svc)
	var term terminal
	require.Zero(t, term.run(t.Context(), "secrets"))
	require.Contains(t, term.out.String(), "Put it back.")
	require.Zero(t, term.run(t.Context(), "rotate-key"))
	require.Equal(t, []string{"rotate key"}, svc.orders)
}

func TestBackupAndRestoreCommands(t *testing.T) {
	svc := operated{appliance: newAppliance()}
	serve(t, svc)
	words := file(t, "passphrase", "some words, long enough\nand what follows\n")
	target := filepath.Join(t.TempDir(), "understudy.backup")
	var term terminal
	require.Zero(t, term.run(t.Context(), "backup", target, "--passphrase-file", words), term.err.String())
	content, err := os.ReadFile(target)
	require.NoError(t, err)
	require.Equal(t, "encrypted", string(content))
	info, err := os.Stat(target)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	require.Equal(t, exitUsage, term.run(t.Context(), "backup", target, "--passphrase-file", words), "what is there stays")
	require.Equal(t, exits[api.CodeInvalid], term.run(t.Context(), "backup", target+"2", "--passphrase-file", file(t, "short", "short")))
	require.Equal(t, exitUsage, term.run(t.Context(), "backup", target+"2"), "nobody is there to be asked")
	left, err := os.ReadDir(filepath.Dir(target))
	require.NoError(t, err)
	require.Len(t, left, 1)

	term = terminal{in: strings.NewReader("some words, long enough\n")}
	require.Zero(t, term.run(t.Context(), "restore", target, "--passphrase-file", "-", "--yes"), term.err.String())
	require.Contains(t, term.out.String(), "systemctl restart understudy")
	require.Contains(t, term.out.String(), "warning: All groups come back paused.")
	require.Equal(t, []string{"backup some words, long enough", "restore some words, long enough encrypted"}, svc.orders)
	require.Equal(t, exitUsage, term.run(t.Context(), "restore", target, "--passphrase-file", words), "nobody said yes")
	require.Len(t, svc.orders, 2)
}

func TestFailedBackupLeavesNothing(t *testing.T) {
	svc := operated{appliance: newAppliance(), broken: &api.Error{Code: api.CodeNoSpace, Message: "full", Hint: "Free space."}}
	serve(t, svc)
	dir := t.TempDir()
	var term terminal
	require.Equal(t, exits[api.CodeNoSpace], term.run(t.Context(), "backup", filepath.Join(dir, "b"), "--passphrase-file", file(t, "p", "some words, long enough")))
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestRestoreWithoutADaemon(t *testing.T) {
	var got []string
	term := terminal{change: func(a *app) {
		a.offline = func(_ context.Context, dir, key string, o api.RestoreOrder) (api.Restoration, error) {
			got = []string{dir, key, string(o.Data), o.Passphrase.Reveal()}
			return api.Restoration{Groups: 1}, nil
		}
	}}
	require.Zero(t, term.run(t.Context(), "restore", file(t, "b", "data"), "--data-dir", "/d", "--key-file", "/k", "--passphrase-file", file(t, "p", "words"), "--yes"), term.err.String())
	require.Equal(t, []string{"/d", "/k", "data", "words"}, got)
	require.NotContains(t, term.out.String(), "systemctl")
}

func TestSupportBundleCommand(t *testing.T) {
	serve(t, operated{appliance: newAppliance()})
	target := filepath.Join(t.TempDir(), "bundle.zip")
	var term terminal
	require.Zero(t, term.run(t.Context(), "support-bundle", target), term.err.String())
	require.FileExists(t, target)
}
