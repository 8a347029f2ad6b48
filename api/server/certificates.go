package server

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"understudy/api"
)

// uploadedFile holds a certificate that a person gave, with its key: one file, so that no death leaves half of it.
const uploadedFile = "uploaded.pem"

// maxChain bounds the certificates that are sent in each handshake.
const maxChain = 10

// Certificates are what the API proves itself with: the one that a person gave, and the one of the appliance's own
// (cert.pem, key.pem), which remains for those who reach it as localhost. So the command line on the appliance works
// whatever is uploaded. A change holds for the connections that are made from then on.
type Certificates struct {
	dir   string
	hosts []string
	now   func() time.Time

	mu       sync.Mutex // held while files change
	own      atomic.Pointer[tls.Certificate]
	uploaded atomic.Pointer[tls.Certificate] // nil: there is none
}

// OpenCertificates reads the certificates in dir, or makes one for the host names and addresses.
func OpenCertificates(dir string, hosts []string) (*Certificates, error) {
	return openCertificates(dir, hosts, time.Now)
}

func openCertificates(dir string, hosts []string, now func() time.Time) (*Certificates, error) {
	c := &Certificates{dir: dir, hosts: hosts, now: now}
	own, err := certificate(dir, hosts, now())
	if err != nil {
		return nil, err
	}
	c.own.Store(&own)
	both, err := readPrivate(c.uploadedPath())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return c, nil
	case err != nil:
		return nil, err
	}
	uploaded, err := tls.X509KeyPair(both, both)
	if err != nil {
		return nil, fmt.Errorf("%s cannot be used: %w; remove it to go back to the self-made certificate", c.uploadedPath(), err)
	}
	c.uploaded.Store(&uploaded)
	return c, nil
}

func (c *Certificates) uploadedPath() string { return filepath.Join(c.dir, uploadedFile) }

// config is for a server.
func (c *Certificates) config() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if uploaded := c.uploaded.Load(); uploaded != nil && !fromHere(hello) {
			return uploaded, nil
		}
		return c.own.Load(), nil
	}}
}

// fromHere tells clients on the appliance itself, which nobody issues a certificate for.
func fromHere(hello *tls.ClientHelloInfo) bool {
	if hello.ServerName != "" {
		return hello.ServerName == "localhost"
	}
	address, ok := hello.Conn.LocalAddr().(*net.TCPAddr)
	return ok && address.IP.IsLoopback()
}

// Show tells what others see.
func (c *Certificates) Show() (api.Certificate, error) {
	current, uploaded := c.own.Load(), c.uploaded.Load()
	if uploaded != nil {
		current = uploaded
	}
	leaf := current.Leaf
	sum := sha256.Sum256(leaf.Raw)
	view := api.Certificate{
		Subject: leaf.Subject.String(), Issuer: leaf.Issuer.String(), Names: append([]string{}, leaf.DNSNames...),
		NotBefore: leaf.NotBefore.UTC(), NotAfter: leaf.NotAfter.UTC(), SelfMade: leaf.Issuer.CommonName == maker,
		Fingerprint: strings.ReplaceAll(fmt.Sprintf("% X", sum), " ", ":"), Chain: len(current.Certificate),
		Warnings: c.warnings(leaf),
	}
	for _, ip := range leaf.IPAddresses {
		view.Names = append(view.Names, ip.String())
	}
	return view, nil
}

// warnings are about what may be meant.
func (c *Certificates) warnings(leaf *x509.Certificate) (out []string) {
	if left := leaf.NotAfter.Sub(c.now()); left < certRenew {
		out = append(out, fmt.Sprintf("It expires on %s.", leaf.NotAfter.UTC().Format(time.DateOnly)))
	}
	if leaf.Issuer.CommonName == maker {
		return out
	}
	if bytes.Equal(leaf.RawIssuer, leaf.RawSubject) {
		out = append(out, "It is signed by itself: everybody who connects must be told to trust it.")
	}
	if len(leaf.DNSNames)+len(leaf.IPAddresses) == 0 {
		return append(out, "It names no host: no client will accept it.")
	}
	for _, host := range c.hosts {
		if ip := net.ParseIP(host); host == "localhost" || ip.IsLoopback() || leaf.VerifyHostname(host) == nil {
			continue
		}
		out = append(out, fmt.Sprintf("It is not for %q, the name of this machine: those who use that name will be warned.", host))
	}
	return out
}

// Replace checks what a person gives and takes it at once. The key never leaves again.
func (c *Certificates) Replace(o api.CertificateOrder) (api.Certificate, error) {
	chain, err := parseChain([]byte(o.Certificate))
	if err != nil {
		return api.Certificate{}, refused("certificate", err)
	}
	key, keyPEM, err := parseKey([]byte(o.Key.Reveal()))
	if err != nil {
		return api.Certificate{}, refused("key", err)
	}
	if err := fits(chain, key, c.now()); err != nil {
		return api.Certificate{}, err
	}
	var both bytes.Buffer
	for _, cert := range chain {
		both.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
	}
	both.Write(keyPEM)
	usable, err := tls.X509KeyPair(both.Bytes(), both.Bytes())
	if err != nil {
		return api.Certificate{}, refused("certificate", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := writeFile(c.uploadedPath(), both.Bytes(), 0o600); err != nil {
		return api.Certificate{}, err
	}
	c.uploaded.Store(&usable)
	return c.Show()
}

// Reset goes back to the appliance's own.
func (c *Certificates) Reset() (api.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := os.Remove(c.uploadedPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return api.Certificate{}, fmt.Errorf("remove the certificate: %w", err)
	}
	c.uploaded.Store(nil)
	view, err := c.Show()
	if err == nil && !view.SelfMade {
		return view, api.Errorf(api.CodeConflict, "Remove cert.pem and key.pem there and start the appliance again.",
			"the certificate in %s was put there by hand", c.dir)
	}
	return view, err
}

type reason struct{ what, hint string }

func (r reason) Error() string { return r.what }

func refused(field string, err error) error {
	e := &api.Error{Code: api.CodeInvalid, Field: field, Message: err.Error(), Err: err}
	var r reason
	if errors.As(err, &r) {
		e.Hint = r.hint
	}
	return e
}

// parseChain reads certificates in PEM and nothing else.
func parseChain(data []byte) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	for rest := data; ; {
		block, after := pem.Decode(rest)
		if block == nil {
			break
		}
		if rest = after; block.Type != "CERTIFICATE" {
			return nil, reason{"among the certificates there is something else (" + blockName(block) + ")",
				"Give certificates here, and the private key apart."}
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, reason{fmt.Sprintf("certificate %d cannot be read", len(chain)+1), "Give it as its issuer gave it, in PEM."}
		}
		if chain = append(chain, cert); len(chain) > maxChain {
			return nil, reason{"there are too many certificates", "Give the certificate and those between it and the root."}
		}
	}
	if len(chain) == 0 {
		return nil, reason{"there is no certificate in it", "Give it in PEM: it begins with -----BEGIN CERTIFICATE-----."}
	}
	return chain, nil
}

// blockName is the kind of a block, unless somebody put something else there.
func blockName(block *pem.Block) string {
	for _, known := range []string{"PRIVATE KEY", "CERTIFICATE REQUEST", "PUBLIC KEY", "PARAMETERS", "X509 CRL", "PKCS7"} {
		if strings.HasSuffix(block.Type, known) {
			return strings.ToLower(known)
		}
	}
	return "an unknown block"
}

// parseKey reads a private key in PEM, in any of the usual forms, and gives it in PKCS #8.
func parseKey(data []byte) (crypto.Signer, []byte, error) {
	for {
		block, rest := pem.Decode(data)
		if data = rest; block == nil {
			return nil, nil, reason{"there is no private key in it", "Give it in PEM: it begins with -----BEGIN PRIVATE KEY-----."}
		}
		if !strings.HasSuffix(block.Type, "PRIVATE KEY") {
			continue // openssl puts parameters before the key
		}
		if strings.HasPrefix(block.Type, "ENCRYPTED") || block.Headers["DEK-Info"] != "" {
			return nil, nil, reason{"the private key is encrypted", "Decrypt it first: openssl pkey -in FILE -out FILE."}
		}
		key := anyKey(block.Bytes)
		if key == nil {
			return nil, nil, reason{"the private key cannot be read", "Give an RSA, ECDSA or Ed25519 key in PEM."}
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, nil, reason{"the private key is of a kind that is not known here", "Give an RSA, ECDSA or Ed25519 key in PEM."}
		}
		return key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
	}
}

func anyKey(der []byte) crypto.Signer {
	if key, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		signer, _ := key.(crypto.Signer)
		return signer
	}
	if key, err := x509.ParseECPrivateKey(der); err == nil {
		return key
	}
	if key, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return key
	}
	return nil
}

// fits checks that a server can use the chain with the key now.
func fits(chain []*x509.Certificate, key crypto.Signer, now time.Time) error {
	matches := func(c *x509.Certificate) bool {
		public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
		return ok && public.Equal(c.PublicKey)
	}
	leaf := chain[0]
	switch {
	case matches(leaf):
	case slices.ContainsFunc(chain, matches):
		return refused("certificate", reason{"the certificates are in the wrong order", "Put the one of the key first, then its issuer, and so on."})
	default:
		return refused("key", reason{"the key does not belong to the certificate", "Give the key that the certificate was requested with."})
	}
	if now.After(leaf.NotAfter) {
		return refused("certificate", reason{"the certificate expired on " + leaf.NotAfter.UTC().Format(time.DateOnly), "Have it renewed."})
	}
	if now.Before(leaf.NotBefore) {
		return refused("certificate", reason{"the certificate is not valid before " + leaf.NotBefore.UTC().Format(time.DateTime) + " UTC", "Wait, or look at the clock of this machine."})
	}
	if public, ok := leaf.PublicKey.(*rsa.PublicKey); ok && public.N.BitLen() < 2048 {
		return refused("key", reason{"an RSA key of less than 2048 bits protects nothing", "Make a longer one, or an ECDSA key."})
	}
	if len(leaf.ExtKeyUsage) > 0 && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth) && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny) {
		return refused("certificate", reason{"the certificate is not for servers", "Request one with the extended key usage serverAuth."})
	}
	for i, issuer := range chain[1:] {
		if err := chain[i].CheckSignatureFrom(issuer); err != nil {
			return refused("certificate", reason{fmt.Sprintf("certificate %d is not signed by certificate %d", i+1, i+2),
				"Put the certificate first, then its issuer, then that one's issuer, and leave out what does not belong to it."})
		}
	}
	return nil
}
