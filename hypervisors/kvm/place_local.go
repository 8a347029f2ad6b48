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
	"os/exec"
	"path"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"understudy/hypervisors"
)

// localPlace is the libvirtd behind a unix socket of this machine. It may live in other mount and network namespaces
// than ours (a container, a lab); then commands run inside them and sockets are found through its root folder.
type localPlace struct {
	socket string // libvirt's own

	mu     sync.Mutex
	env    *namespaces
	procs  map[*process]bool // those to end with the connection
	closed bool
}

// namespaces are those of one libvirtd process, held open so that they outlive a restart of libvirtd.
type namespaces struct {
	pid   int
	birth string // start time of the process, so that a reused pid is not taken for it
	// foreign says that they differ from ours; the files are open only then.
	foreign        bool
	mnt, net, root *os.File
}

func newLocalPlace(socket string) *localPlace {
	return &localPlace{socket: socket, procs: map[*process]bool{}}
}

func (p *localPlace) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for proc := range p.procs {
		proc.cut()
	}
	if p.env != nil {
		p.env.close()
		p.env = nil
	}
	return nil
}

func (n *namespaces) close() {
	for _, f := range []*os.File{n.mnt, n.net, n.root} {
		if f != nil {
			f.Close()
		}
	}
}

// resolve finds the namespaces of libvirtd. While it is down, those of its last process still serve.
func (p *localPlace) resolve(ctx context.Context) (*namespaces, error) {
	if p.closed {
		return nil, errClosed
	}
	if p.env != nil && birth(p.env.pid) == p.env.birth {
		return p.env, nil
	}
	n, err := findNamespaces(ctx, p.socket)
	if err != nil {
		if p.env != nil {
			return p.env, nil
		}
		return nil, err
	}
	if p.env != nil {
		p.env.close()
	}
	p.env = n
	return n, nil
}

func findNamespaces(ctx context.Context, socket string) (*namespaces, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil, err
	}
	if credErr != nil {
		return nil, credErr
	}
	n := &namespaces{pid: int(cred.Pid), birth: birth(int(cred.Pid))}
	// Pid 0 is a process that we cannot see, pid 1 the init that listens on libvirtd's behalf: then paths are as here.
	if n.pid <= 1 {
		return n, nil
	}
	if n.foreign, err = foreign(n.pid); err == nil && n.foreign {
		err = n.open()
	}
	// A process that is ending takes connections for a moment longer than it has namespaces; what it seemed to have then
	// must never be taken for ours.
	if now := birth(n.pid); err != nil || now != n.birth || now == "" && visible(n.pid) {
		n.close()
		return nil, fmt.Errorf("libvirtd, process %d, is ending: %w", n.pid, errors.Join(hypervisors.ErrUnreachable, err))
	}
	return n, nil
}

func (n *namespaces) open() (err error) {
	proc := fmt.Sprintf("/proc/%d", n.pid)
	for _, o := range []struct {
		file **os.File
		name string
	}{{&n.mnt, proc + "/ns/mnt"}, {&n.net, proc + "/ns/net"}, {&n.root, proc + "/root"}} {
		if *o.file, err = os.Open(o.name); err != nil {
			return err
		}
	}
	return nil
}

// visible says that a process could be looked at if it were there: no rule hides it from an ordinary user.
func visible(pid int) bool { return !errors.Is(unix.Kill(pid, 0), unix.EPERM) }

// foreign says that a process has other namespaces than we. It has not when we may not look, as an ordinary user: then
// we could not enter them either.
func foreign(pid int) (bool, error) {
	for _, kind := range []string{"mnt", "net"} {
		ours, err := os.Readlink("/proc/self/ns/" + kind)
		if err != nil {
			return false, err
		}
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
		if errors.Is(err, fs.ErrPermission) || err != nil && !visible(pid) {
			return false, nil
		}
		if err != nil || ours != theirs {
			return err == nil, err
		}
	}
	return false, nil
}

// birth is a process's start time, or empty when it is gone.
func birth(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	// The name, in parentheses, may hold anything; what follows are numbers, of which the 20th is the start time.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" {
		return ""
	}
	return fields[19]
}

// command prepares argv to run inside the place.
func (p *localPlace) command(ctx context.Context, argv []string) (*exec.Cmd, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n, err := p.resolve(ctx)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	if n.foreign {
		// As extra files they are 3 and 4 in the child, and stay open until it is started even if we find others.
		argv = append([]string{"nsenter", "--mount=/proc/self/fd/3", "--net=/proc/self/fd/4", "--"}, argv...)
		for _, f := range []*os.File{n.mnt, n.net} {
			f, err := dup(f)
			if err != nil {
				return nil, err
			}
			files = append(files, f)
		}
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.ExtraFiles = files
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	// Ctrl-C at our terminal is for us alone.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd, nil
}

func dup(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

func startCommand(cmd *exec.Cmd) error {
	err := cmd.Start()
	for _, f := range cmd.ExtraFiles {
		f.Close()
	}
	return err
}

func (p *localPlace) Run(ctx context.Context, stdin io.Reader, argv ...string) ([]byte, error) {
	var stdout bytes.Buffer
	if stdin == nil {
		proc, err := p.start(ctx, &stdout, argv)
		if err != nil {
			return nil, err
		}
		return finish(ctx, proc, &stdout)
	}
	cmd, err := p.command(ctx, argv)
	if err != nil {
		return nil, err
	}
	var stderr tail
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	if err := startCommand(cmd); err != nil {
		return nil, err
	}
	if err := cmd.Wait(); err != nil {
		return nil, localEnd(ctx, err, argv, stderr.String())
	}
	return stdout.Bytes(), nil
}

func (p *localPlace) Start(ctx context.Context, argv ...string) (*process, error) {
	return p.start(ctx, io.Discard, argv)
}

func (p *localPlace) start(ctx context.Context, stdout io.Writer, argv []string) (*process, error) {
	// The process outlives ctx, which is only for getting there.
	cmd, err := p.command(context.WithoutCancel(ctx), withLifeline(argv))
	if err != nil {
		return nil, err
	}
	hold, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	proc := &process{done: make(chan struct{}), cut: func() { hold.Close() }}
	cmd.Stdout, cmd.Stderr = stdout, &proc.stderr
	if err := startCommand(cmd); err != nil {
		hold.Close()
		return nil, err
	}
	p.mu.Lock()
	p.procs[proc] = true
	if p.closed {
		proc.cut()
	}
	p.mu.Unlock()
	go func() {
		defer func() {
			p.mu.Lock()
			delete(p.procs, proc)
			p.mu.Unlock()
		}()
		if err := cmd.Wait(); err != nil {
			proc.err = localEnd(context.Background(), err, argv, proc.Stderr())
		}
		close(proc.done)
	}()
	return proc, nil
}

// localEnd turns the end of a command into a *runError, or ctx's own error when that was the reason.
func localEnd(ctx context.Context, err error, argv []string, stderr string) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return &runError{Argv: argv, Status: exit.ExitCode(), Stderr: stderr}
	}
	return fmt.Errorf("%s: %w", argv[0], err)
}

// finish waits for a short command, and ends it when ctx ends first.
func finish(ctx context.Context, proc *process, stdout *bytes.Buffer) ([]byte, error) {
	select {
	case <-proc.Done():
	case <-ctx.Done():
		proc.cut()
		<-proc.Done() // bounded: the lifeline kills after ten seconds
		return nil, ctx.Err()
	}
	proc.cut()
	if err := proc.Err(); err != nil {
		return nil, err
	}
	return stdout.Bytes(), nil
}

// Dial goes through descriptors of folders, because a socket's address may have 107 bytes only.
func (p *localPlace) Dial(ctx context.Context, unixPath string) (net.Conn, error) {
	dir, err := p.open(ctx, path.Dir(unixPath), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return new(net.Dialer).DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), path.Base(unixPath)))
}

func (p *localPlace) SharesMemory() bool { return true }
