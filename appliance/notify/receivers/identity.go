package receivers

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Identity is a certificate for 127.0.0.1 and localhost, with the authority that issued it.
type Identity struct {
	CA                        string // PEM
	CAFile, CertFile, KeyFile string
}

// NewIdentity makes an authority and a certificate.
func NewIdentity(t testing.TB) Identity {
	t.Helper()
	return newIdentity(t, time.Now().Add(24*time.Hour))
}

// NewExpiredIdentity makes a certificate that was good until a minute ago.
func NewExpiredIdentity(t testing.TB) Identity {
	t.Helper()
	return newIdentity(t, time.Now().Add(-time.Minute))
}

func newIdentity(t testing.TB, until time.Time) Identity {
	t.Helper()
	authority := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Authority of a test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "receiver"},
		NotBefore: authority.NotBefore, NotAfter: until, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"}}
	authorityKey, key := newKey(t), newKey(t)
	ca := issue(t, authority, authority, authorityKey, authorityKey)
	cert := issue(t, leaf, authority, key, authorityKey)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	dir := t.TempDir()
	file := func(name, kind string, der []byte) (string, string) {
		text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, text, 0o600))
		return path, string(text)
	}
	var id Identity
	id.CAFile, id.CA = file("ca.pem", "CERTIFICATE", ca)
	id.CertFile, _ = file("cert.pem", "CERTIFICATE", cert)
	id.KeyFile, _ = file("key.pem", "PRIVATE KEY", der)
	return id
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return key
}

func issue(t testing.TB, c, by *x509.Certificate, key, byKey *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, c, by, key.Public(), byKey)
	require.NoError(t, err)
	return der
}
