package esx

import (
	"bytes"
	"context"
	"crypto/sha1" //nolint:gosec // what VMware's library wants to know a certificate by; ours was checked before
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"understudy/hypervisors"
	"understudy/snapshot/nbd"
)

const (
	// vddkPatience bounds the start of an nbdkit, vddkEnd its end.
	vddkPatience, vddkEnd = 20 * time.Second, 5 * time.Second
	// mostTold bounds what is kept of an nbdkit's complaints, in bytes.
	mostTold = 4 << 10
)

// vddkConnections is one: the library works at many requests at once, and each more would be a session at the host, of
// which it has few.
const vddkConnections = 1

// passwordFile is what nbdkit knows the password by: memory that it has from us. It is opened anew when nbdkit starts itself
// once more to find VMware's library, so a pipe would not do.
const passwordFile = "/proc/self/fd/3"

// nbdkit is a process that reads one disk through VMware's library and shows it on a socket. The library is in that process
// alone, which is not ours: neither its licence nor its crashes are.
type nbdkit struct {
	dir  string // private, with the socket
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	told told
}

// vddkFile is the content of a disk, read by an nbdkit.
type vddkFile struct {
	*nbdkit
	client *nbd.Client
	i      diskFile
}

// vddkFile opens a disk through VMware's library. end may be called twice.
func (h *host) vddkFile(ctx context.Context, f diskFile) (_ *vddkFile, end func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, vddkPatience)
	defer cancel()
	thumbprint, err := h.addr.sha1(ctx)
	if err != nil {
		return nil, nil, err
	}
	k, err := h.startNBDKit(f, thumbprint)
	if err != nil {
		return nil, nil, &hypervisors.Error{Op: "start", Subject: "nbdkit", Err: err}
	}
	v := &vddkFile{nbdkit: k, i: f}
	if err := v.open(ctx); err != nil {
		k.end()
		return nil, nil, v.explain("open", err)
	}
	return v, sync.OnceFunc(func() {
		_ = v.client.Close()
		k.end()
	}), nil
}

// open connects as soon as nbdkit listens. It opens the disk only then.
func (v *vddkFile) open(ctx context.Context) (err error) {
	for !exists(v.socket()) {
		select {
		case <-v.done:
			return errors.New("nbdkit ended")
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(devicePause):
		}
	}
	dial := func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", v.socket())
	}
	if v.client, err = nbd.Dial(ctx, dial, nbd.Options{Connections: vddkConnections}); err != nil {
		return err
	}
	if v.client.Size() < v.i.size {
		return errors.Join(fmt.Errorf("%w: it has %d bytes there, not %d", hypervisors.ErrInvalid, v.client.Size(), v.i.size), v.client.Close())
	}
	return nil
}

// ReadAt implements io.ReaderAt.
func (v *vddkFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := io.NewSectionReader(v.client, 0, v.i.size).ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		err = v.explain("read", err)
	}
	return n, err
}

// explain says what nbdkit and the library complained of.
func (v *vddkFile) explain(op string, err error) error {
	var words []string
	for line := range strings.Lines(v.told.String()) {
		if _, word, complaint := strings.Cut(line, "error: "); complaint {
			words = append(words, strings.TrimSpace(word))
		}
	}
	if len(words) > 0 {
		err = fmt.Errorf("%w: %s", err, strings.Join(words, "; "))
	}
	return &hypervisors.Error{Op: op, Subject: v.i.file, Err: err}
}

// startNBDKit starts one. The password is in memory alone, and in no argument.
func (h *host) startNBDKit(f diskFile, thumbprint string) (_ *nbdkit, err error) {
	server, port, err := net.SplitHostPort(h.addr.server)
	if err != nil {
		return nil, err
	}
	secret, err := inMemory(h.login.Password)
	if err != nil {
		return nil, err
	}
	defer secret.Close()
	dir, err := os.MkdirTemp("", "understudy-vddk-")
	if err != nil {
		return nil, err
	}
	k := &nbdkit{dir: dir, done: make(chan struct{})}
	plugin := "vddk"
	if own := filepath.Join(h.addr.vddk, "nbdkit-vddk-plugin.so"); exists(own) {
		plugin = own // distributions that have nbdkit may lack this plugin of it
	}
	args := []string{"--foreground", "--exit-with-parent", "--readonly", "--newstyle", "--unix", k.socket(), "--filter=blocksize", plugin,
		"libdir=" + h.addr.vddk, "server=" + server, "port=" + port, "user=" + h.login.UserName, "password=+" + passwordFile,
		"thumbprint=" + thumbprint, "vm=moref=" + f.vm.Value, "file=" + f.file}
	if f.snapshot != nil {
		args = append(args, "snapshot="+f.snapshot.Value)
	}
	k.cmd = exec.Command("nbdkit", args...) //nolint:noctx // it outlives every call, and is ended by end
	k.cmd.ExtraFiles = []*os.File{secret}
	k.cmd.Stdout, k.cmd.Stderr = &k.told, &k.told
	k.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // signals that are for us are not for it
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // it ends with the thread that started it
		defer runtime.UnlockOSThread()
		err := k.cmd.Start()
		if started <- err; err != nil {
			return
		}
		_ = k.cmd.Wait() // what it says is more
		close(k.done)
	}()
	if err := <-started; err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", hypervisors.ErrIncapable, err), os.RemoveAll(dir))
	}
	return k, nil
}

// inMemory is a file with a text that is on no disk.
func inMemory(text string) (*os.File, error) {
	fd, err := unix.MemfdCreate("secret", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "secret")
	if _, err := f.WriteString(text); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (k *nbdkit) socket() string { return filepath.Join(k.dir, "socket") }

// end ends the process, and what it left.
func (k *nbdkit) end() {
	_ = k.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-k.done:
	case <-time.After(vddkEnd):
		_ = k.cmd.Process.Kill()
		<-k.done
	}
	_ = os.RemoveAll(k.dir)
}

// told keeps the end of what was written to it.
type told struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (t *told) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, err := t.buf.Write(p)
	t.buf.Next(max(0, t.buf.Len()-mostTold))
	return n, err
}

func (t *told) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// sha1 is the thumbprint of the host's certificate as VMware's library wants it. It has been checked as all connections are.
func (a address) sha1(ctx context.Context) (string, error) {
	config, err := a.tls()
	if err != nil {
		return "", err
	}
	conn, err := (&tls.Dialer{NetDialer: &net.Dialer{Timeout: dialPatience}, Config: config}).DialContext(ctx, "tcp", a.server)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	sum := sha1.Sum(conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Raw) //nolint:gosec // see above
	return colons(sum[:]), nil
}
