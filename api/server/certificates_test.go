package server

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/api/client"
)

// authority issues certificates as a company does.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func ecKey(t testing.TB) crypto.Signer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return key
}

func issue(t testing.TB, by *authority, key crypto.Signer, change func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "dr.example.com"}, DNSNames: []string{"dr.example.com"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(100 * 24 * time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	change(template)
	parent, signer := template, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return cert
}

func newAuthority(t testing.TB, by *authority, name string) *authority {
	key := ecKey(t)
	return &authority{issue(t, by, key, func(c *x509.Certificate) {
		c.Subject.CommonName, c.DNSNames, c.ExtKeyUsage, c.IsCA = name, nil, nil, true
		c.KeyUsage = x509.KeyUsageCertSign
	}), key}
}

func inPEM(certs ...*x509.Certificate) string {
	var b bytes.Buffer
	for _, c := range certs {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return b.String()
}

func keyInPEM(t testing.TB, key crypto.Signer) api.Secret {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	return api.NewSecret(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
}

func same(*x509.Certificate) {}

// A certificate that is uploaded is what the next connection sees, and after a restart; the appliance's own stays for the
// command line on it.
func TestCertificateIsReplacedAtOnce(t *testing.T) {
	dir := t.TempDir()
	hosts := []string{"localhost", "127.0.0.1", "dr"}
	certs, err := OpenCertificates(dir, hosts)
	require.NoError(t, err)
	address, _ := serve(t, New(Parts{Service: &recorder{}}, Options{Token: token, Log: slog.New(slog.DiscardHandler)}), certs)
	seen := func(name string) *x509.Certificate {
		conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, ServerName: name})
		require.NoError(t, err)
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0]
	}
	before, err := certs.Show()
	require.NoError(t, err)
	require.True(t, before.SelfMade)
	require.Empty(t, before.Warnings)
	require.Equal(t, maker, seen("dr.example.com").Issuer.CommonName)

	root := newAuthority(t, nil, "root")
	middle := newAuthority(t, root, "middle")
	key := ecKey(t)
	leaf := issue(t, middle, key, same)
	view, err := certs.Replace(api.CertificateOrder{Certificate: inPEM(leaf, middle.cert), Key: keyInPEM(t, key)})
	require.NoError(t, err)
	require.False(t, view.SelfMade)
	require.Equal(t, []string{"dr.example.com"}, view.Names)
	require.Equal(t, 2, view.Chain)
	require.Equal(t, "CN=middle", view.Issuer)
	require.Len(t, view.Fingerprint, 32*3-1)
	require.Len(t, view.Warnings, 1)
	require.Contains(t, view.Warnings[0], `"dr"`)
	require.Equal(t, leaf.Raw, seen("dr.example.com").Raw)
	requireMode(t, filepath.Join(dir, uploadedFile), 0o600)

	local, err := client.New("https://"+address, client.Options{Token: token, CAFile: filepath.Join(dir, "cert.pem")})
	require.NoError(t, err)
	_, err = local.About(t.Context())
	require.NoError(t, err)

	reopened, err := OpenCertificates(dir, hosts)
	require.NoError(t, err)
	again, err := reopened.Show()
	require.NoError(t, err)
	require.Equal(t, view, again)

	after, err := certs.Reset()
	require.NoError(t, err)
	require.Equal(t, before, after)
	require.Equal(t, maker, seen("dr.example.com").Issuer.CommonName)
	_, err = certs.Reset()
	require.NoError(t, err)
	require.NoFileExists(t, filepath.Join(dir, uploadedFile))
}

func TestBadCertificatesChangeNothing(t *testing.T) {
	dir := t.TempDir()
	certs, err := OpenCertificates(dir, []string{"localhost"})
	require.NoError(t, err)
	root := newAuthority(t, nil, "root")
	middle := newAuthority(t, root, "middle")
	key, other := ecKey(t), ecKey(t)
	leaf := issue(t, middle, key, same)
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	require.NoError(t, err)
	good, goodKey := inPEM(leaf, middle.cert), keyInPEM(t, key)
	with := func(change func(*x509.Certificate)) string { return inPEM(issue(t, middle, key, change), middle.cert) }
	for name, c := range map[string]struct {
		cert  string
		key   api.Secret
		field string
		says  string
	}{
		"no certificate":  {"hello", goodKey, "certificate", "no certificate"},
		"damaged":         {"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", goodKey, "certificate", "cannot be read"},
		"key among them":  {good + goodKey.Reveal(), goodKey, "certificate", "something else"},
		"no key":          {good, api.NewSecret("hello"), "key", "no private key"},
		"damaged key":     {good, api.NewSecret("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), "key", "cannot be read"},
		"encrypted key":   {good, api.NewSecret("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"), "key", "encrypted"},
		"other key":       {good, keyInPEM(t, other), "key", "does not belong"},
		"wrong order":     {inPEM(middle.cert, leaf), goodKey, "certificate", "wrong order"},
		"gap":             {inPEM(leaf, root.cert), goodKey, "certificate", "not signed by"},
		"foreign":         {inPEM(leaf, middle.cert, newAuthority(t, nil, "other").cert), goodKey, "certificate", "certificate 2 is not signed"},
		"expired":         {with(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), goodKey, "certificate", "expired"},
		"not yet":         {with(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }), goodKey, "certificate", "not valid before"},
		"for clients":     {with(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), goodKey, "certificate", "not for servers"},
		"short key":       {inPEM(issue(t, middle, short, same)), keyInPEM(t, short), "key", "2048"},
		"too many of all": {strings.Repeat(good, maxChain), goodKey, "certificate", "too many"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := certs.Replace(api.CertificateOrder{Certificate: c.cert, Key: c.key})
			var e *api.Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, api.CodeInvalid, e.Code)
			require.Equal(t, c.field, e.Field)
			require.Contains(t, e.Message, c.says)
			require.NotEmpty(t, e.Hint)
			require.NoFileExists(t, filepath.Join(dir, uploadedFile))
		})
	}
	view, err := certs.Show()
	require.NoError(t, err)
	require.True(t, view.SelfMade)
}

func TestCertificateWarnings(t *testing.T) {
	certs, err := OpenCertificates(t.TempDir(), []string{"localhost", "127.0.0.1"})
	require.NoError(t, err)
	key := ecKey(t)
	view, err := certs.Replace(api.CertificateOrder{Key: keyInPEM(t, key), Certificate: inPEM(issue(t, nil, key, func(c *x509.Certificate) {
		c.NotAfter, c.DNSNames = time.Now().Add(time.Hour), nil
	}))})
	require.NoError(t, err)
	require.Len(t, view.Warnings, 3, "expires, signed by itself, names nobody: %v", view.Warnings)
}

func TestDamagedUploadIsTold(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, uploadedFile), []byte("x"), 0o600))
	_, err := OpenCertificates(dir, []string{"localhost"})
	require.ErrorContains(t, err, "self-made")
}

// FuzzCertificate: whatever is given is refused in words or can be served, and no key comes out in an error.
func FuzzCertificate(f *testing.F) {
	root := newAuthority(f, nil, "root")
	key := ecKey(f)
	leaf := issue(f, root, key, same)
	f.Add(inPEM(leaf, root.cert), keyInPEM(f, key).Reveal())
	f.Add(inPEM(leaf), "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"+keyInPEM(f, key).Reveal())
	f.Add("-----BEGIN CERTIFICATE-----\n", "")
	dir := f.TempDir()
	certs, err := OpenCertificates(dir, []string{"localhost"})
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, cert, key string) {
		view, err := certs.Replace(api.CertificateOrder{Certificate: cert, Key: api.NewSecret(key)})
		if err != nil {
			require.Equal(t, api.CodeInvalid, api.CodeOf(err), "%v", err)
			require.Less(t, len(err.Error()), 300)
			return
		}
		require.NotEmpty(t, view.Fingerprint)
		_, err = OpenCertificates(dir, []string{"localhost"})
		require.NoError(t, err)
	})
}
