package lab

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ImagesDir is where a host's disk images are, as its own processes see it. It is the path of the storage pool "default".
const ImagesDir = "/var/lib/libvirt/images"

// Production is the name of the network that both hosts have. Guests answer there.
const Production = "production"

// maxSocketPath is the longest path that a Unix socket address holds, without its final zero.
const maxSocketPath = 107

//go:embed host.sh
var initScript string

// Host is one libvirt host of a lab.
type Host struct {
	Name string
	// URI reaches libvirtd from the machine's own namespaces.
	URI string
	// Dir holds the host's files, as the machine sees them.
	Dir string
	// Images is [ImagesDir] as the host's processes see it, Dir/lib/images as the machine does.
	Images string
	// PID is the host's first process. /proc/PID/root and /proc/PID/ns lead into the host.
	PID int
	// SSH says how to sign in.
	SSH SSH

	lab  *Lab
	mu   sync.Mutex // guards starting and ending libvirtd
	done chan struct{}
}

func (h *Host) start(ctx context.Context, net netip.Prefix, key clientKey) error {
	h.Dir = filepath.Join(h.lab.Dir, h.Name)
	h.Images = ImagesDir
	socket := filepath.Join(h.Dir, "run/libvirt/libvirt-sock")
	if len(socket) > maxSocketPath {
		return fmt.Errorf("socket path %s is longer than %d bytes; choose a shorter directory", socket, maxSocketPath)
	}
	h.URI = "qemu+unix:///system?socket=" + socket
	if err := h.writeConfig(net, key); err != nil {
		return err
	}
	if err := h.boot(ctx); err != nil {
		return fmt.Errorf("namespaces: %w", err)
	}
	if err := h.plug(ctx, net); err != nil {
		return fmt.Errorf("network: %w", err)
	}
	if err := h.startSSHD(ctx); err != nil {
		return err
	}
	if err := h.startLibvirtd(ctx); err != nil {
		return err
	}
	return h.furnish(ctx)
}

// boot starts the host's first process. It holds the namespaces, adopts and reaps orphans, and ends when its standard
// input does, that is with us.
func (h *Host) boot(ctx context.Context) error {
	logFile, err := os.Create(filepath.Join(h.Dir, "log/init.log"))
	if err != nil {
		return err
	}
	defer logFile.Close()
	cmd := exec.Command("/bin/bash", "-c", initScript, "understudy-lab-"+h.lab.ID, h.Dir, h.Name, strconv.FormatBool(h.lab.emulated))
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true, // a Ctrl-C at our terminal is ours to handle
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
		// Unshared, not cloned: only then does the runtime make the mounts private before the program starts.
		Unshareflags: unix.CLONE_NEWNS,
	}
	cmd.Stderr = logFile
	alive, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	h.PID, h.done = cmd.Process.Pid, make(chan struct{})
	ready := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(out).ReadString('\n')
		ready <- strings.TrimSpace(line)
		_ = cmd.Wait()
		close(h.done)
	}()
	h.lab.onClose(func(ctx context.Context) error {
		_ = alive.Close()
		return errors.Join(h.waitEnd(ctx), killAll(ctx, h.lab.Dir, h.Name))
	})
	select {
	case <-ctx.Done():
		return ctx.Err()
	case line := <-ready:
		if line != "ready" {
			text, _ := os.ReadFile(logFile.Name())
			return fmt.Errorf("first process ended: %s", bytes.TrimSpace(text))
		}
		return nil
	}
}

// waitEnd waits for the first process to end by itself and kills it when it does not.
func (h *Host) waitEnd(ctx context.Context) error {
	const patience = 10 * time.Second
	select {
	case <-h.done:
		return nil
	case <-time.After(patience):
	case <-ctx.Done():
	}
	if err := unix.Kill(h.PID, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill first process of %s: %w", h.Name, err)
	}
	select {
	case <-h.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("first process of %s does not end: %w", h.Name, ctx.Err())
	}
}

// Command makes a command that will run inside all of the host's namespaces and end with them.
func (h *Host) Command(ctx context.Context, argv ...string) *exec.Cmd {
	enter := []string{"--target", strconv.Itoa(h.PID), "--mount", "--net", "--pid", "--uts", "--ipc", "--root", "--"}
	cmd := exec.CommandContext(ctx, "nsenter", append(enter, argv...)...)
	// A daemon keeps the pipes of the command that started it; do not wait for those.
	cmd.WaitDelay = 2 * time.Second
	return cmd
}

// Exec runs a command inside the host and returns its standard output. The error holds what it said on standard error.
func (h *Host) Exec(ctx context.Context, argv ...string) ([]byte, error) {
	return run(h.Command(ctx, argv...), strings.Join(argv, " "))
}

// Virsh runs one virsh command against this host and returns what it printed, trimmed.
func (h *Host) Virsh(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "virsh", append([]string{"--quiet", "--connect", h.URI}, args...)...)
	out, err := run(cmd, "virsh "+strings.Join(args, " "))
	return string(bytes.TrimSpace(out)), err
}

// Programs is a folder of the machine; who signs in finds programs there before the machine's own.
func (h *Host) Programs() string { return filepath.Join(h.Dir, "programs") }

// Dial opens a connection to "ip:port" from inside the host's network.
func (h *Host) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	got := make(chan result, 1)
	go func() {
		// Never unlocked: the thread has left our network for good and ends with this goroutine. The socket stays where
		// it was made.
		runtime.LockOSThread()
		if err := setns(h.PID, "net", unix.CLONE_NEWNET); err != nil {
			got <- result{nil, err}
			return
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		got <- result{conn, err}
	}()
	r := <-got
	return r.conn, r.err
}

func setns(pid int, kind string, flag int) error {
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
	if err != nil {
		return err
	}
	defer f.Close()
	return os.NewSyscallError("setns", unix.Setns(int(f.Fd()), flag))
}

// Libvirtd returns the process id of libvirtd as the machine sees it, 0 when it does not run.
func (h *Host) Libvirtd() int {
	for _, p := range processes(h.lab.Dir, h.Name) {
		if p.name == "libvirtd" {
			return p.pid
		}
	}
	return 0
}

// Kill ends libvirtd at once, as kill -9 does. Guests run on.
func (h *Host) Kill() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.endLibvirtd(context.Background(), unix.SIGKILL)
}

// Restart ends libvirtd in good order where it runs, and starts it. Guests run on.
func (h *Host) Restart(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.endLibvirtd(ctx, unix.SIGTERM); err != nil {
		return err
	}
	return h.startLibvirtd(ctx)
}

// startLibvirtd gives a libvirtd that never answers another try: seen once, when libvirt missed what a QEMU told of its
// abilities and waited for it for an hour.
func (h *Host) startLibvirtd(ctx context.Context) error {
	const tries = 3
	for try := 1; ; try++ {
		err := h.tryLibvirtd(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if try == tries {
			return fmt.Errorf("libvirtd of %s does not answer: %w\n%s", h.Name, err, h.LastWords())
		}
		if err := h.endLibvirtd(ctx, unix.SIGKILL); err != nil {
			return err
		}
	}
}

// startBudget is many times what a start takes.
const startBudget = 3 * time.Minute

func (h *Host) tryLibvirtd(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startBudget)
	defer cancel()
	// With --daemon the command returns when libvirtd is ready to listen.
	if _, err := h.Exec(ctx, "libvirtd", "--daemon", "--pid-file", "/run/libvirt/libvirtd.pid"); err != nil {
		return err
	}
	return poll(ctx, func() (bool, error) {
		_, err := h.Virsh(ctx, "version")
		return err == nil, nil
	})
}

func (h *Host) endLibvirtd(ctx context.Context, sig unix.Signal) error {
	pid := h.Libvirtd()
	if pid == 0 {
		return nil
	}
	if err := unix.Kill(pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal libvirtd: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, closeBudget)
	defer cancel()
	return poll(ctx, func() (bool, error) { return !exists(pid), nil })
}

// LastWords are the last lines that libvirtd logged, warnings and worse.
func (h *Host) LastWords() string {
	b, err := os.ReadFile(filepath.Join(h.Dir, "log/libvirt/libvirtd.log"))
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	const enough = 10
	return strings.Join(lines[max(0, len(lines)-enough):], "\n")
}

// poll asks until the answer is yes, an error, or ctx ends.
func poll(ctx context.Context, ask func() (bool, error)) error {
	for {
		if ok, err := ask(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func run(cmd *exec.Cmd, what string) ([]byte, error) {
	var out, text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &text
	err := cmd.Run()
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return out.Bytes(), fmt.Errorf("%s: %w: %s", what, err, bytes.TrimSpace(text.Bytes()))
	}
	return out.Bytes(), nil
}
