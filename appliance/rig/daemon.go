// Package rig drives the appliance as a process of its own beside a lab: it starts, kills and starts it again over one
// data directory, and reads what it made without asking it. The demonstration, the soak and the crash tests stand on it.
package rig

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"understudy/api/client"
)

const (
	// startBudget is many times what the first start takes, which makes a token and a certificate.
	startBudget = 2 * time.Minute
	// stopBudget is a little more than the daemon gives its own jobs to let go.
	stopBudget = 75 * time.Second
)

// Daemon is `understudy serve` over one data directory. It may be started again when it has ended, however it did; it
// keeps its address. It cannot outlive us.
type Daemon struct {
	*client.Client
	dir    string
	listen string
	argv   []string
	env    []string

	mu    sync.Mutex
	cmd   *exec.Cmd
	ended chan struct{}
}

// New prepares a daemon: program is what takes the command serve, env are further variables. It is not started yet.
func New(dir, program string, env ...string) (*Daemon, error) {
	d := &Daemon{dir: dir, env: env}
	if err := os.MkdirAll(d.tmp(), 0o700); err != nil {
		return nil, err
	}
	var err error
	if d.listen, err = FreeAddress(); err != nil {
		return nil, err
	}
	d.argv = []string{program, "serve", "--data-dir", d.dir, "--listen", d.listen}
	d.Client, err = client.New(d.URL(), client.Options{Token: "not made yet"})
	return d, err
}

// FreeAddress is one of the loopback network that nobody listens at. It is none of those that Linux gives to outgoing
// connections (32768 and up), for one of them could take it while a daemon that keeps it is down.
func FreeAddress() (string, error) {
	const lowest, highest = 16 << 10, 32 << 10
	var last error
	for range 100 {
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", lowest+rand.N(highest-lowest)))
		if err == nil {
			return ln.Addr().String(), ln.Close()
		}
		last = err
	}
	return "", fmt.Errorf("find a free address: %w", last)
}

// Start starts the daemon and waits until it answers. When it ends before that, the error has its last words.
func (d *Daemon) Start(ctx context.Context) error {
	ended, err := d.launch()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startBudget)
	defer cancel()
	for {
		c, err := client.New(d.URL(), client.Options{TokenFile: d.Token(), CAFile: d.Certificate()})
		if err == nil {
			_, err = c.About(ctx)
		}
		if err == nil {
			d.Client = c
			return nil
		}
		select {
		case <-ended:
			return fmt.Errorf("the appliance ended before it answered\n%s", d.LastWords())
		case <-ctx.Done():
			return fmt.Errorf("start the appliance: %w\n%s", err, d.LastWords())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (d *Daemon) launch() (<-chan struct{}, error) {
	log, err := os.OpenFile(d.LogFile(), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(d.argv[0], d.argv[1:]...)
	cmd.Env = append(append(os.Environ(), "TMPDIR="+d.tmp()), d.env...)
	cmd.Stdout, cmd.Stderr = log, log
	// Its own session, so that a Ctrl-C reaches us alone and things end in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	ended := make(chan struct{})
	d.mu.Lock() // who kills meanwhile means this life
	err = start(cmd)
	if err == nil {
		d.cmd, d.ended = cmd, ended
	}
	d.mu.Unlock()
	if err != nil {
		return nil, err
	}
	go func() { _ = cmd.Wait(); close(ended) }()
	return ended, nil
}

// Ended is closed when the life at hand is over.
func (d *Daemon) Ended() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ended
}

// Kill is SIGKILL. It returns when the process is gone.
func (d *Daemon) Kill() {
	d.mu.Lock()
	cmd, ended := d.cmd, d.ended
	d.mu.Unlock()
	if cmd == nil {
		return
	}
	_ = cmd.Process.Kill() // it may be gone already
	<-ended
}

// Signal sends a signal to the life at hand.
func (d *Daemon) Signal(sig os.Signal) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cmd.Process.Signal(sig)
}

// Stop asks the daemon to end, as a service manager does, and waits for it. A daemon that has ended is success.
func (d *Daemon) Stop(ctx context.Context) error {
	d.mu.Lock()
	cmd, ended := d.cmd, d.ended
	d.mu.Unlock()
	if cmd == nil {
		return nil
	}
	select {
	case <-ended:
		return nil
	default:
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopBudget)
	defer cancel()
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-ended:
		if code := cmd.ProcessState.ExitCode(); code != 0 {
			return fmt.Errorf("the appliance ended with status %d", code)
		}
		return nil
	case <-ctx.Done():
	}
	d.Kill()
	return fmt.Errorf("the appliance did not end in %v and was killed", stopBudget)
}

// RSS is the memory that the daemon holds now, in bytes.
func (d *Daemon) RSS() (int64, error) {
	d.mu.Lock()
	pid := d.cmd.Process.Pid
	d.mu.Unlock()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for lines := bufio.NewScanner(bytes.NewReader(status)); lines.Scan(); {
		if f := strings.Fields(lines.Text()); len(f) == 3 && f[0] == "VmRSS:" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("the kernel does not say what memory the appliance holds")
}

// Leftovers names files that the daemon left outside its data directory.
func (d *Daemon) Leftovers() []string {
	entries, err := os.ReadDir(d.tmp())
	if err != nil {
		return []string{err.Error()}
	}
	var out []string
	for _, e := range entries {
		out = append(out, "temporary file "+e.Name())
	}
	return out
}

// LastWords are the last lines of the daemon's log.
func (d *Daemon) LastWords() string {
	b, err := os.ReadFile(d.LogFile())
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	const enough = 30
	return strings.Join(lines[max(0, len(lines)-enough):], "\n")
}

// URL of the API.
func (d *Daemon) URL() string { return "https://" + d.listen }

// LogFile of all lives.
func (d *Daemon) LogFile() string { return filepath.Join(d.dir, "log") }

// Token is the file that lets an administrator in.
func (d *Daemon) Token() string { return filepath.Join(d.dir, "admin.token") }

// SetupToken is what makes the first administrator of the console, once.
func (d *Daemon) SetupToken() (string, error) {
	b, err := os.ReadFile(filepath.Join(d.dir, "setup.token"))
	return strings.TrimSpace(string(b)), err
}

// Certificate of the API, to be trusted.
func (d *Daemon) Certificate() string { return filepath.Join(d.dir, "tls", "cert.pem") }

func (d *Daemon) tmp() string { return filepath.Join(d.dir, "tmp") }
