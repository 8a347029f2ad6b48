package esx

import (
	"encoding/hex"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strings"

	"understudy/hypervisors"
)

// address is a host's URI, understood.
type address struct {
	server     string // host and port
	thumbprint []byte // SHA-256 of the certificate; nil: any that is trusted
	ca         string // file
	host       string // of a vCenter
	path       string // to the content of disks; empty: the best
}

const addressHint = "Use esx://HOST/?thumbprint=SHA-256 or esx://HOST/?ca=FILE."

// parseAddress understands what [Connect] takes. Names and passwords are refused, as they would end up in logs.
func parseAddress(uri string) (address, error) {
	fail := func(err error, format string, args ...any) (address, error) {
		return address{}, &hypervisors.Error{Op: "connect to", Subject: redact(uri),
			Err: fmt.Errorf("%w: %s", err, fmt.Sprintf(format, args...)), Hint: addressHint}
	}
	u, err := url.Parse(uri)
	if err != nil {
		return fail(hypervisors.ErrScheme, "not an address")
	}
	q := u.Query()
	switch {
	case u.Scheme != "esx":
		return fail(hypervisors.ErrScheme, "%q", u.Scheme)
	case u.Hostname() == "":
		return fail(hypervisors.ErrInvalid, "no host")
	case u.User != nil:
		return fail(hypervisors.ErrInvalid, "a name and a password are not part of the address; give them apart")
	case u.Path != "" && u.Path != "/":
		return fail(hypervisors.ErrInvalid, "the path must be empty, not %q", u.Path)
	}
	for name := range q {
		if name != "thumbprint" && name != "ca" && name != "host" && name != "path" {
			return fail(hypervisors.ErrInvalid, "nobody knows %q", name)
		}
	}
	a := address{ca: q.Get("ca"), host: q.Get("host"), path: q.Get("path")}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	a.server = net.JoinHostPort(u.Hostname(), port)
	if pin := q.Get("thumbprint"); pin != "" {
		a.thumbprint, err = hex.DecodeString(strings.NewReplacer(":", "", "-", "").Replace(strings.TrimPrefix(strings.ToLower(pin), "sha256:")))
		if err != nil || len(a.thumbprint) != 32 {
			return fail(hypervisors.ErrInvalid, "the thumbprint is no SHA-256 in 64 hexadecimal digits")
		}
	}
	switch {
	case a.path != "" && a.path != byHotAdd && a.path != byHTTPS:
		return fail(hypervisors.ErrInvalid, "path=%q is neither %s nor %s", a.path, byHotAdd, byHTTPS)
	case a.thumbprint != nil && a.ca != "":
		return fail(hypervisors.ErrInvalid, "give a thumbprint or a ca, not both")
	case a.ca != "" && !filepath.IsAbs(a.ca):
		return fail(hypervisors.ErrInvalid, "ca=%q is not an absolute path", a.ca)
	}
	return a, nil
}

// redact removes a password that somebody wrote into an address.
func redact(uri string) string {
	u, err := url.Parse(uri)
	if err != nil {
		scheme, _, _ := strings.Cut(uri, ":")
		return scheme + ":…"
	}
	return u.Redacted()
}
