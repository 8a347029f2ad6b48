package lab

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// SSH says how to sign in to a host.
type SSH struct {
	User       string
	Addr       string // IP address, reachable from the machine's own network
	Port       int
	KeyFile    string // OpenSSH private key without passphrase
	KnownHosts string // OpenSSH known_hosts file that holds the host's key
}

// URI is the libvirt URI over SSH. It works on changed copies too.
func (s SSH) URI() string {
	q := url.Values{"keyfile": {s.KeyFile}, "known_hosts": {s.KnownHosts}}
	u := url.URL{Scheme: "qemu+ssh", User: url.User(s.User), Host: net.JoinHostPort(s.Addr, strconv.Itoa(s.Port)), Path: "/system", RawQuery: q.Encode()}
	return u.String()
}

// SSHURI is the libvirt URI of the host over SSH.
func (h *Host) SSHURI() string { return h.SSH.URI() }

type clientKey struct {
	file   string
	public []byte // one line of an authorized_keys file
}

func newClientKey(dir string) (clientKey, error) {
	file := filepath.Join(dir, "id_ed25519")
	public, err := newKey(file)
	if err != nil {
		return clientKey{}, err
	}
	return clientKey{file, ssh.MarshalAuthorizedKey(public)}, nil
}

// newKey writes a new private key to file.
func newKey(file string) (ssh.PublicKey, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, "understudy lab")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		return nil, err
	}
	return ssh.NewPublicKey(public)
}

func (h *Host) writeKeys(subnet netip.Prefix, key clientKey) (SSH, error) {
	s := SSH{User: "root", Addr: hostAddr(subnet).String(), Port: 22, KeyFile: key.file, KnownHosts: filepath.Join(h.Dir, "known_hosts")}
	public, err := newKey(filepath.Join(h.Dir, "ssh/host_key"))
	if err != nil {
		return SSH{}, err
	}
	if err := os.WriteFile(filepath.Join(h.Dir, "ssh/authorized_keys"), key.public, 0o600); err != nil {
		return SSH{}, err
	}
	line := knownhosts.Line([]string{net.JoinHostPort(s.Addr, strconv.Itoa(s.Port))}, public)
	return s, os.WriteFile(s.KnownHosts, []byte(line+"\n"), 0o600)
}

// plug connects the host to the machine's own network by a pair of virtual Ethernet devices. Both go with the host's
// network namespace.
func (h *Host) plug(ctx context.Context, subnet netip.Prefix) error {
	near := deviceName(h.lab.ID, h.Name)
	outside := func(args ...string) error {
		_, err := run(exec.CommandContext(ctx, "ip", args...), fmt.Sprint("ip ", args))
		return err
	}
	if err := outside("link", "add", near, "type", "veth", "peer", "name", "eth0", "netns", strconv.Itoa(h.PID)); err != nil {
		return err
	}
	h.lab.onClose(func(ctx context.Context) error { return removeDevice(ctx, near) })
	bits := "/" + strconv.Itoa(subnet.Bits())
	for _, args := range [][]string{
		{"address", "add", machineAddr(subnet).String() + bits, "dev", near},
		{"link", "set", near, "up"},
	} {
		if err := outside(args...); err != nil {
			return err
		}
	}
	for _, args := range [][]string{
		{"ip", "address", "add", hostAddr(subnet).String() + bits, "dev", "eth0"},
		{"ip", "link", "set", "eth0", "up"},
	} {
		if _, err := h.Exec(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// deviceName is the machine's end of a host's wire, at most 15 bytes.
func deviceName(id, host string) string { return "us" + id + "-" + host[:1] }

func removeDevice(ctx context.Context, name string) error {
	if _, err := net.InterfaceByName(name); err != nil {
		return nil // gone, with its namespace
	}
	_, err := run(exec.CommandContext(ctx, "ip", "link", "delete", name), "ip link delete "+name)
	if _, again := net.InterfaceByName(name); again != nil {
		return nil // it went meanwhile
	}
	return err
}

func machineAddr(subnet netip.Prefix) netip.Addr { return subnet.Addr().Next() }
func hostAddr(subnet netip.Prefix) netip.Addr    { return subnet.Addr().Next().Next() }

// freeSubnets draws n /30 networks that no device of the machine uses, from the range that RFC 2544 keeps for tests.
func freeSubnets(n int) ([]netip.Prefix, error) {
	taken, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	free := func(p netip.Prefix) bool {
		for _, a := range taken {
			if t, err := netip.ParsePrefix(a.String()); err == nil && t.Overlaps(p) {
				return false
			}
		}
		return true
	}
	var out []netip.Prefix
	for range 1000 {
		const slots = 1 << 15 // /30 networks in 198.18.0.0/15
		k, err := rand.Int(rand.Reader, big.NewInt(slots))
		if err != nil {
			return nil, err
		}
		at := uint32(198<<24|18<<16) + uint32(k.Int64())*4
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(at >> 24), byte(at >> 16), byte(at >> 8), byte(at)}), 30)
		if !free(p) || len(out) > 0 && out[0] == p {
			continue
		}
		if out = append(out, p); len(out) == n {
			return out, nil
		}
	}
	return nil, errors.New("no free network in 198.18.0.0/15")
}
