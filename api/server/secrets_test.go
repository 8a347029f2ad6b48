package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func requireMode(t *testing.T, path string, mode fs.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, mode, info.Mode().Perm())
}

func TestTokenIsMadeOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	first, err := Token(path)
	require.NoError(t, err)
	require.Len(t, first, 43, "32 bytes in base64")
	requireMode(t, path, 0o600)
	again, err := Token(path)
	require.NoError(t, err)
	require.Equal(t, first, again)
	other, err := Token(path + "2")
	require.NoError(t, err)
	require.NotEqual(t, first, other)
}

func TestOpenSecretsAreRefused(t *testing.T) {
	for mode, refused := range map[fs.FileMode]bool{0o600: false, 0o400: false, 0o640: false, 0o644: true, 0o660: true, 0o602: true} {
		dir := t.TempDir()
		path := filepath.Join(dir, "token")
		_, err := Token(path)
		require.NoError(t, err)
		_, err = certificate(dir, nil, time.Now())
		require.NoError(t, err)
		require.NoError(t, os.Chmod(path, mode))
		require.NoError(t, os.Chmod(filepath.Join(dir, "key.pem"), mode))
		_, tokenErr := Token(path)
		_, keyErr := certificate(dir, nil, time.Now())
		if refused {
			require.ErrorContains(t, tokenErr, "open to others")
			require.ErrorContains(t, keyErr, "open to others")
		} else {
			require.NoError(t, tokenErr)
			require.NoError(t, keyErr)
		}
	}
}

func TestShortTokenIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(path, []byte("\n"), 0o600))
	_, err := Token(path)
	require.ErrorContains(t, err, "too short")
}

// A crash between the two files, or a lost one, heals by itself.
func TestHalfACertificateIsCompleted(t *testing.T) {
	for _, lost := range []string{"cert.pem", "key.pem"} {
		dir := t.TempDir()
		first, err := certificate(dir, []string{"a"}, time.Now())
		require.NoError(t, err)
		require.NoError(t, os.Remove(filepath.Join(dir, lost)))
		second, err := certificate(dir, []string{"a"}, time.Now())
		require.NoError(t, err)
		require.NotEqual(t, first.Certificate, second.Certificate)
		_, err = certificate(dir, []string{"a"}, time.Now())
		require.NoError(t, err)
	}
}

func TestForeignCertificatesAreNotReplaced(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "cert.pem")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "their own"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	keyDER, err := x509.MarshalECPrivateKey(key)
	require.NoError(t, err)
	foreign := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	require.NoError(t, os.WriteFile(path, foreign, 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}), 0o600))

	got, err := certificate(dir, []string{"not-in-it"}, time.Now())
	require.NoError(t, err)
	require.Equal(t, der, got.Certificate[0])

	require.NoError(t, os.Remove(filepath.Join(dir, "key.pem")))
	_, err = certificate(dir, nil, time.Now())
	require.ErrorContains(t, err, "cannot be used")
	have, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, foreign, have)
}
