package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"understudy/api/client"
	"understudy/hypervisors/kvm/lab"
)

// stopBudget is a little more than the daemon gives its own jobs to let go.
const stopBudget = 75 * time.Second

// daemon is the appliance as a process of its own.
type daemon struct {
	dir    string
	url    string
	cmd    *exec.Cmd
	done   chan struct{}
	client *client.Client
}

func startDaemon(ctx context.Context, o options, l *lab.Lab) (*daemon, error) {
	d := &daemon{dir: filepath.Join(l.Dir, "appliance"), done: make(chan struct{})}
	if err := os.MkdirAll(d.tmp(), 0o700); err != nil {
		return nil, err
	}
	listen, err := freeAddress()
	if err != nil {
		return nil, err
	}
	d.url = "https://" + listen
	log, err := os.Create(d.logFile())
	if err != nil {
		return nil, err
	}
	defer log.Close()
	// Not bound to ctx: stop gives it time to let go.
	d.cmd = exec.Command(o.understudy, "serve", "--data-dir", d.dir, "--listen", listen)
	d.cmd.Env = append(os.Environ(), "TMPDIR="+d.tmp())
	d.cmd.Stdout, d.cmd.Stderr = log, log
	// Its own session, so that a Ctrl-C reaches us alone and things end in order.
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGTERM}
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { _ = d.cmd.Wait(); close(d.done) }()
	if err := d.connect(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start the appliance: %w\n%s", err, d.lastWords()), d.stop(ctx))
	}
	return d, nil
}

func freeAddress() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}

// connect waits for the first start to make token and certificate, and for an answer.
func (d *daemon) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		c, err := client.New(d.url, client.Options{TokenFile: d.token(), CAFile: d.certificate()})
		if err == nil {
			_, err = c.About(ctx)
		}
		if err == nil {
			d.client = c
			return nil
		}
		select {
		case <-d.done:
			return errors.New("it ended")
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (d *daemon) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopBudget)
	defer cancel()
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.done:
		if code := d.cmd.ProcessState.ExitCode(); code != 0 {
			return fmt.Errorf("the appliance ended with status %d", code)
		}
		return nil
	case <-ctx.Done():
	}
	_ = d.cmd.Process.Kill()
	<-d.done
	return fmt.Errorf("the appliance did not end in %v and was killed", stopBudget)
}

// leftovers names files that the daemon left outside its data directory.
func (d *daemon) leftovers() []string {
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

func (d *daemon) lastWords() string {
	b, err := os.ReadFile(d.logFile())
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	const enough = 30
	return strings.Join(lines[max(0, len(lines)-enough):], "\n")
}

// tellHow says how to go on by hand.
func (d *daemon) tellHow(o options) {
	program, err := filepath.Abs(o.understudy)
	if err != nil {
		program = o.understudy
	}
	fmt.Printf(`
Everything stays up until Ctrl-C. In another terminal:

  export UNDERSTUDY_URL=%s UNDERSTUDY_TOKEN_FILE=%s UNDERSTUDY_CA=%s
  %s groups list
  %s --help

The appliance's log is %s.
`, d.url, d.token(), d.certificate(), program, program, d.logFile())
}

func (d *daemon) tmp() string         { return filepath.Join(d.dir, "tmp") }
func (d *daemon) logFile() string     { return filepath.Join(d.dir, "log") }
func (d *daemon) token() string       { return filepath.Join(d.dir, "admin.token") }
func (d *daemon) certificate() string { return filepath.Join(d.dir, "tls", "cert.pem") }
