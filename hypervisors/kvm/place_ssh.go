package kvm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"understudy/hypervisors"
)

const (
	sshTimeout   = 15 * time.Second
	sshKeepalive = 10 * time.Second
)

// sshPlace is a libvirtd behind SSH: one connection carries commands, sockets and libvirt itself. A lost connection is
// made anew by the next call; what ran over the old one is gone, with its processes.
type sshPlace struct {
	addr address

	mu     sync.Mutex
	client *ssh.Client
	closed bool
	// forward is the local socket that leads to libvirt's socket over there, made on first use.
	forward net.Listener
	dir     string
}

func newSSHPlace(addr address) *sshPlace { return &sshPlace{addr: addr} }

// connection returns the live SSH connection, making it when there is none.
func (p *sshPlace) connection(ctx context.Context) (*ssh.Client, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errClosed
	}
	if p.client != nil {
		return p.client, nil
	}
	c, err := dialSSH(ctx, p.addr)
	if err != nil {
		return nil, err
	}
	p.client = c
	go p.watch(c)
	return c, nil
}

// watch notices a connection that is dead or silent, and forgets it.
func (p *sshPlace) watch(c *ssh.Client) {
	ended := make(chan struct{})
	go func() { _ = c.Wait(); close(ended) }()
	tick := time.NewTicker(sshKeepalive)
	defer tick.Stop()
	for alive := true; alive; {
		select {
		case <-ended:
			alive = false
		case <-tick.C:
			alive = answers(c, sshKeepalive)
		}
	}
	c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.client == c {
		p.client = nil
	}
}

func answers(c *ssh.Client, within time.Duration) bool {
	answer := make(chan error, 1)
	go func() {
		_, _, err := c.SendRequest("keepalive@openssh.com", true, nil)
		answer <- err
	}()
	select {
	case err := <-answer:
		return err == nil
	case <-time.After(within):
		return false
	}
}

// overConnection does one thing over SSH, and once more when the connection turned out to be lost.
func overConnection[T any](ctx context.Context, p *sshPlace, do func(*ssh.Client) (T, error)) (T, error) {
	for again := true; ; again = false {
		c, err := p.connection(ctx)
		if err != nil {
			var zero T
			return zero, err
		}
		v, err := do(c)
		if err == nil || !again || answers(c, sshKeepalive) {
			return v, err
		}
		c.Close()
		p.mu.Lock()
		if p.client == c {
			p.client = nil
		}
		p.mu.Unlock()
	}
}

func (p *sshPlace) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.forward != nil {
		p.forward.Close()
		os.RemoveAll(p.dir)
		p.forward = nil
	}
	if p.client != nil {
		p.client.Close()
		p.client = nil
	}
	return nil
}

func (p *sshPlace) SharesMemory() bool { return false }

func (p *sshPlace) Dial(ctx context.Context, unixPath string) (net.Conn, error) {
	return overConnection(ctx, p, func(c *ssh.Client) (net.Conn, error) {
		conn, err := c.DialContext(ctx, "unix", unixPath)
		if err != nil {
			return nil, fmt.Errorf("socket %s: %w", unixPath, err)
		}
		return newSSHConn(conn), nil
	})
}

func (p *sshPlace) Run(ctx context.Context, stdin io.Reader, argv ...string) ([]byte, error) {
	var stdout bytes.Buffer
	if stdin == nil {
		proc, err := p.start(ctx, &stdout, argv)
		if err != nil {
			return nil, err
		}
		return finish(ctx, proc, &stdout)
	}
	s, err := overConnection(ctx, p, (*ssh.Client).NewSession)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	var stderr tail
	s.Stdin, s.Stdout, s.Stderr = stdin, &stdout, &stderr
	if err := s.Run(shellCommand(argv)); err != nil {
		return nil, sshEnd(ctx, err, argv, stderr.String())
	}
	return stdout.Bytes(), nil
}

func (p *sshPlace) Start(ctx context.Context, argv ...string) (*process, error) {
	return p.start(ctx, io.Discard, argv)
}

func (p *sshPlace) start(ctx context.Context, stdout io.Writer, argv []string) (*process, error) {
	s, err := overConnection(ctx, p, (*ssh.Client).NewSession)
	if err != nil {
		return nil, err
	}
	hold, err := s.StdinPipe()
	if err != nil {
		s.Close()
		return nil, err
	}
	proc := &process{done: make(chan struct{}), cut: func() { hold.Close() }}
	s.Stdout, s.Stderr = stdout, &proc.stderr
	if err := s.Start(shellCommand(withLifeline(argv))); err != nil {
		s.Close()
		return nil, err
	}
	go func() {
		if err := s.Wait(); err != nil {
			proc.err = sshEnd(context.Background(), err, argv, proc.Stderr())
		}
		s.Close()
		close(proc.done)
	}()
	return proc, nil
}

func sshEnd(ctx context.Context, err error, argv []string, stderr string) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var exit *ssh.ExitError
	if errors.As(err, &exit) {
		return &runError{Argv: argv, Status: exit.ExitStatus(), Stderr: stderr}
	}
	return fmt.Errorf("%s: %w: connection lost: %w", argv[0], hypervisors.ErrUnreachable, err)
}

// shellCommand is argv as one line for the login shell over there, whatever its words hold.
func shellCommand(argv []string) string {
	words := make([]string, 0, len(argv)+2)
	words = append(words, "exec", "env", "LC_ALL=C")
	for _, a := range argv {
		words = append(words, shellQuote(a))
	}
	return strings.Join(words, " ")
}

func shellQuote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// libvirtSocket returns a local socket, in a folder that only we can enter, that leads to libvirt over there. Signing in
// first gives errors that say what is wrong, which libvirt at the end of a tunnel cannot.
func (p *sshPlace) libvirtSocket(ctx context.Context) (string, error) {
	if _, err := p.connection(ctx); err != nil {
		return "", err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return "", errClosed
	}
	if p.forward != nil {
		return filepath.Join(p.dir, forwardName), nil
	}
	removeDeadForwards()
	dir, err := os.MkdirTemp("", forwardPrefix) // mode 0700
	if err != nil {
		return "", err
	}
	l, err := net.Listen("unix", filepath.Join(dir, "new"))
	if err == nil {
		// Only what answers has the name: nobody takes a socket in the making for a dead one.
		err = os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, forwardName))
	}
	if err != nil {
		if l != nil {
			l.Close()
		}
		os.RemoveAll(dir)
		return "", err
	}
	p.forward, p.dir = l, dir
	go p.serveForward(l)
	return filepath.Join(dir, forwardName), nil
}

// Sockets of libvirtSocket, below the folder for temporary files.
const (
	forwardPrefix = "understudy-ssh-"
	forwardName   = "libvirt"
)

// removeDeadForwards removes the sockets of appliances that were killed: nobody listens there.
func removeDeadForwards() {
	found, _ := filepath.Glob(filepath.Join(os.TempDir(), forwardPrefix+"*", forwardName))
	for _, name := range found {
		nc, err := net.Dial("unix", name)
		if err == nil {
			nc.Close()
		} else if errors.Is(err, syscall.ECONNREFUSED) {
			os.RemoveAll(filepath.Dir(name))
		}
	}
}

func (p *sshPlace) serveForward(l net.Listener) {
	for {
		near, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer near.Close()
			ctx, cancel := context.WithTimeout(context.Background(), sshTimeout)
			defer cancel()
			far, err := p.Dial(ctx, p.addr.socket)
			if err != nil {
				return // libvirt sees a closed connection and says so
			}
			defer far.Close()
			go func() {
				_, _ = io.Copy(far, near)
				far.Close()
			}()
			_, _ = io.Copy(near, far)
		}()
	}
}

// dialSSH connects, checks the host's key and signs in. Its errors say which of the three failed.
func dialSSH(ctx context.Context, a address) (*ssh.Client, error) {
	fail := func(kind, err error, hint string) (*ssh.Client, error) {
		return nil, &hypervisors.Error{Op: "connect to", Subject: a.user + "@" + a.host, Err: fmt.Errorf("%w: %w", kind, err), Hint: hint}
	}
	signers, err := loadKeys(a.keyFiles)
	if err != nil {
		return fail(hypervisors.ErrUnauthorized, err, "Name a readable private key without passphrase with keyfile=PATH.")
	}
	trust, err := knownhosts.New(a.knownHosts)
	if err != nil {
		return fail(hypervisors.ErrHostKey, err, "Put the host's key into "+a.knownHosts+", as ssh does at the first sign-in.")
	}
	ctx, cancel := context.WithTimeout(ctx, sshTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", a.host)
	if err != nil {
		return fail(hypervisors.ErrUnreachable, err, "Check the host name, the port and that sshd runs there.")
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	sc, chans, reqs, err := ssh.NewClientConn(conn, a.host, &ssh.ClientConfig{
		User: a.user, Auth: []ssh.AuthMethod{ssh.PublicKeys(signers...)},
		HostKeyCallback: trust, HostKeyAlgorithms: knownAlgorithms(trust, a.host, conn.RemoteAddr()),
	})
	if err == nil && !stop() {
		err = ctx.Err()
		sc.Close()
	}
	if err == nil {
		return ssh.NewClient(sc, chans, reqs), nil
	}
	conn.Close()
	var key *knownhosts.KeyError
	var revoked *knownhosts.RevokedError
	switch {
	case errors.As(err, &key) && len(key.Want) == 0:
		return fail(hypervisors.ErrHostKey, err, "The host is not in "+a.knownHosts+": add its key there after checking it (ssh-keyscan shows it).")
	case errors.As(err, &key), errors.As(err, &revoked):
		return fail(hypervisors.ErrHostKey, err, "The host's key is not the one in "+a.knownHosts+". If the host was not set up anew, somebody may be in between.")
	case strings.Contains(err.Error(), "unable to authenticate"):
		return fail(hypervisors.ErrUnauthorized, err, "Put the public key into "+a.user+"'s authorized_keys on the host.")
	}
	return fail(hypervisors.ErrUnreachable, err, "Check that sshd answers there.")
}

// knownAlgorithms are those of the keys that we know for the host. Without this a host with keys of several kinds would
// offer one that we do not know, and look like a changed host.
func knownAlgorithms(trust ssh.HostKeyCallback, host string, remote net.Addr) []string {
	var want *knownhosts.KeyError
	if !errors.As(trust(host, remote, noKey{}), &want) {
		return nil
	}
	var algs []string
	for _, k := range want.Want {
		switch t := k.Key.Type(); t {
		case ssh.KeyAlgoRSA:
			algs = append(algs, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
		default:
			algs = append(algs, t)
		}
	}
	return algs
}

// noKey is a public key that no host has, to ask what keys are known for one.
type noKey struct{}

func (noKey) Type() string                        { return "none" }
func (noKey) Marshal() []byte                     { return nil }
func (noKey) Verify([]byte, *ssh.Signature) error { return errors.New("no key") }

// loadKeys reads the private keys that are there; one at least must be.
func loadKeys(files []string) ([]ssh.Signer, error) {
	var signers []ssh.Signer
	var missing error
	for _, f := range files {
		pem, err := os.ReadFile(f)
		if errors.Is(err, fs.ErrNotExist) {
			missing = err
			continue
		}
		if err != nil {
			return nil, err
		}
		s, err := ssh.ParsePrivateKey(pem)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f, err)
		}
		signers = append(signers, s)
	}
	if len(signers) == 0 {
		return nil, missing
	}
	return signers, nil
}
