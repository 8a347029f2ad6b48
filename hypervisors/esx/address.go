package esx

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/uuid"

	"understudy/hypervisors"
)

// address is a host's URI, understood.
type address struct {
	server     string // host and port
	thumbprint []byte // SHA-256 of the certificate; nil: any that is trusted
	ca         string // file
	host       string // of a vCenter
	path       string // to the content of disks; empty: the best
	appliance  string // UUID of the machine that we run in; empty: what its firmware says
	vddk       string // folder of VMware's library; empty: it is not there
	devices    string // folder in which disks of that machine appear, as udev names them
}

var parameters = []string{"thumbprint", "ca", "host", "path", "vddk", "appliance", "devices"}

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
	for name, given := range q {
		if !slices.Contains(parameters, name) {
			return fail(hypervisors.ErrInvalid, "nobody knows %q", name)
		}
		if len(given) > 1 {
			return fail(hypervisors.ErrInvalid, "%q is there twice", name)
		}
	}
	a := address{ca: q.Get("ca"), host: q.Get("host"), path: q.Get("path"), vddk: q.Get("vddk"), appliance: q.Get("appliance"),
		devices: cmp.Or(q.Get("devices"), defaultDevices)}
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
	case a.path != "" && a.path != byHotAdd && a.path != byVDDK && a.path != byHTTPS:
		return fail(hypervisors.ErrInvalid, "path=%q is none of %s, %s and %s", a.path, byHotAdd, byVDDK, byHTTPS)
	case a.path == byVDDK && a.vddk == "":
		return fail(hypervisors.ErrInvalid, "path=%s needs vddk=FOLDER, the folder of VMware's library", byVDDK)
	case a.vddk != "" && !filepath.IsAbs(a.vddk):
		return fail(hypervisors.ErrInvalid, "vddk=%q is not an absolute path", a.vddk)
	case a.thumbprint != nil && a.ca != "":
		return fail(hypervisors.ErrInvalid, "give a thumbprint or a ca, not both")
	case a.ca != "" && !filepath.IsAbs(a.ca):
		return fail(hypervisors.ErrInvalid, "ca=%q is not an absolute path", a.ca)
	case a.appliance != "" && uuid.Validate(a.appliance) != nil:
		return fail(hypervisors.ErrInvalid, "appliance=%q is no UUID", a.appliance)
	case !filepath.IsAbs(a.devices):
		return fail(hypervisors.ErrInvalid, "devices=%q is not an absolute path", a.devices)
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
