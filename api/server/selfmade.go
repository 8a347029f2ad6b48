package server

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

const (
	certLife  = 5 * 365 * 24 * time.Hour
	certRenew = 30 * 24 * time.Hour
	// maker marks certificates that the appliance made and may replace.
	maker = "Understudy self-made"
)

// certificate gives the certificate in dir (cert.pem, key.pem) for the host names and addresses. It is made when it is
// missing, and made again when it expires within 30 days or lacks a host. One that somebody else issued is used as it is
// and never replaced.
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
