package server

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	certLife  = 5 * 365 * 24 * time.Hour
	certRenew = 30 * 24 * time.Hour
	// maker marks certificates that the appliance made and may replace.
	maker = "Understudy self-made"
)

// Token gives the token in the file at path, which is made when it is missing: 32 random bytes in base64, mode 0600. A
// file that everybody can read is refused, since the token in it is no secret any more.
func Token(path string) (string, error) {
	b, err := readPrivate(path)
	if errors.Is(err, fs.ErrNotExist) {
		var random [32]byte
		rand.Read(random[:])
		token := base64.RawURLEncoding.EncodeToString(random[:])
		return token, writeFile(path, []byte(token+"\n"), 0o600)
	}
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(b))
	if len(token) < 20 {
		return "", fmt.Errorf("token in %s is too short to be safe: delete the file to get a new one", path)
	}
	return token, nil
}

// Certificate gives the certificate in dir (cert.pem, key.pem) for the host names and addresses. It is made when it is
// missing, and made again when it expires within 30 days or lacks a host. One that somebody else issued is used as it is
// and never replaced.
func Certificate(dir string, hosts []string) (tls.Certificate, error) {
	return certificate(dir, hosts, time.Now())
}

func certificate(dir string, hosts []string, now time.Time) (tls.Certificate, error) {
	certPath, keyPath := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	certPEM, err := os.ReadFile(certPath)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return tls.Certificate{}, fmt.Errorf("read certificate: %w", err)
	}
	keyPEM, err := readPrivate(keyPath)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return tls.Certificate{}, err
	}
	if certPEM != nil {
		cert, err := tls.X509KeyPair(certPEM, keyPEM)
		leaf, ownErr := parseCertificate(certPEM)
		own := ownErr == nil && leaf.Issuer.CommonName == maker
		if err == nil && (!own || !stale(leaf, hosts, now)) {
			return cert, nil
		}
		if !own {
			return tls.Certificate{}, fmt.Errorf("%s and %s cannot be used: %w; repair them, or remove both to get new ones",
				certPath, keyPath, cmp.Or(err, ownErr))
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return tls.Certificate{}, fmt.Errorf("make directory for the certificate: %w", err)
	}
	if keyPEM == nil {
		if keyPEM, err = makeKey(); err != nil {
			return tls.Certificate{}, err
		}
		if err := writeFile(keyPath, keyPEM, 0o600); err != nil {
			return tls.Certificate{}, err
		}
	}
	if certPEM, err = makeCertificate(keyPEM, hosts, now); err != nil {
		return tls.Certificate{}, fmt.Errorf("make certificate for %s: %w", keyPath, err)
	}
	if err := writeFile(certPath, certPEM, 0o644); err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(certPEM, keyPEM)
}

func parseCertificate(certPEM []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(certPEM)
	if block == nil {
		return nil, errors.New("no PEM block")
	}
	return x509.ParseCertificate(block.Bytes)
}

func stale(leaf *x509.Certificate, hosts []string, now time.Time) bool {
	for _, host := range hosts {
		if leaf.VerifyHostname(host) != nil {
			return true
		}
	}
	return now.Add(certRenew).After(leaf.NotAfter)
}

func makeKey() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func makeCertificate(keyPEM []byte, hosts []string, now time.Time) ([]byte, error) {
	block, _ := pem.Decode(keyPEM)
	if block == nil {
		return nil, errors.New("the key has no PEM block")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, errors.New("the key cannot sign")
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: maker},
		NotBefore: now.Add(-time.Hour), // clients' clocks may be behind
		NotAfter:  now.Add(certLife),
		KeyUsage:  x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// readPrivate reads a file that must not be readable for everybody, nor writable for a group.
func readPrivate(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o027 != 0 {
		return nil, fmt.Errorf("%s is open to others (mode %04o): it must be replaced, delete it to get a new one; "+
			"or run chmod 600 on it when nobody else can have read it", path, mode)
	}
	return os.ReadFile(path)
}

// writeFile makes the file whole or not at all, even when the power fails.
func writeFile(path string, data []byte, mode fs.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(f.Name()))
		}
	}()
	_, err = bytes.NewReader(data).WriteTo(f)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
