package kvm

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"strings"

	"understudy/hypervisors"
)

// defaultSocket is where libvirtd listens unless told otherwise.
const defaultSocket = "/run/libvirt/libvirt-sock"

// address is a host's URI, understood.
type address struct {
	socket  string // libvirt's socket at the place
	scratch string // folder for scratch files; empty: beside each disk

	// The rest is for SSH only.
	ssh        bool
	user       string
	host       string // with port
	keyFiles   []string
	knownHosts string
}

const schemeHint = "Use qemu:///system, qemu+unix:///system?socket=PATH or qemu+ssh://USER@HOST/system?keyfile=PATH."

// parseAddress understands
//
//	qemu:///system
//	qemu+unix:///system?socket=PATH
//	qemu+ssh://[USER@]HOST[:PORT]/system[?keyfile=PATH][&known_hosts=PATH][&socket=PATH]
//
// each with an optional scratch=FOLDER. Passwords are refused, as they would end up in logs.
func parseAddress(uri string) (address, error) {
	fail := func(err error, format string, args ...any) (address, error) {
		return address{}, &hypervisors.Error{Op: "connect to", Subject: redact(uri),
			Err: fmt.Errorf("%w: %s", err, fmt.Sprintf(format, args...)), Hint: schemeHint}
	}
	u, err := url.Parse(uri)
	if err != nil {
		return fail(hypervisors.ErrScheme, "not an address")
	}
	switch u.Scheme {
	case "qemu", "qemu+unix", "qemu+ssh":
	default:
		return fail(hypervisors.ErrScheme, "%q", u.Scheme)
	}
	if u.Path != "/system" {
		return fail(hypervisors.ErrScheme, "the path must be /system, not %q", u.Path)
	}
	q := u.Query()
	a := address{socket: q.Get("socket"), scratch: q.Get("scratch"), ssh: u.Scheme == "qemu+ssh"}
	for _, p := range []string{a.socket, a.scratch} {
		if p != "" && !filepath.IsAbs(p) {
			return fail(hypervisors.ErrInvalid, "%q is not an absolute path", p)
		}
	}
	if a.socket == "" {
		a.socket = defaultSocket
	}
	if !a.ssh {
		if u.Host != "" {
			return fail(hypervisors.ErrScheme, "%s reaches this machine only, not %q", u.Scheme, u.Host)
		}
		return a, nil
	}
	if u.Hostname() == "" {
		return fail(hypervisors.ErrInvalid, "no host")
	}
	if _, has := u.User.Password(); has {
		return fail(hypervisors.ErrInvalid, "a password in an address is not safe; use a key")
	}
	port := u.Port()
	if port == "" {
		port = "22"
	}
	a.host, a.user = net.JoinHostPort(u.Hostname(), port), u.User.Username()
	if a.user == "" {
		if me, err := user.Current(); err == nil {
			a.user = me.Username
		}
	}
	a.keyFiles, a.knownHosts = q["keyfile"], q.Get("known_hosts")
	home, err := os.UserHomeDir()
	if err != nil && (len(a.keyFiles) == 0 || a.knownHosts == "") {
		return fail(hypervisors.ErrInvalid, "no home folder to look for keys in; name keyfile and known_hosts")
	}
	if len(a.keyFiles) == 0 {
		for _, kind := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
			a.keyFiles = append(a.keyFiles, filepath.Join(home, ".ssh", kind))
		}
	}
	if a.knownHosts == "" {
		a.knownHosts = filepath.Join(home, ".ssh", "known_hosts")
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
