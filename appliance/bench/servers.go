package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// server is a running qemu-storage-daemon.
type server struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

// serve exports qcow2 images as "0", "1" and so on, serveRaw a raw one.
func serve(ctx context.Context, socket string, writable bool, images ...string) (*server, error) {
	_ = os.Remove(socket)
	return started(ctx, exec.Command("qemu-storage-daemon", storage(socket, "qcow2", writable, images...)...), socket)
}

func serveRaw(ctx context.Context, socket string, writable bool, image string) (*server, error) {
	_ = os.Remove(socket)
	return started(ctx, exec.Command("qemu-storage-daemon", storage(socket, "raw", writable, image)...), socket)
}

// storage are the arguments of a qemu-storage-daemon that does it.
func storage(socket, format string, writable bool, images ...string) []string {
	args := []string{"--nbd-server", "addr.type=unix,addr.path=" + socket + ",max-connections=100"}
	on := map[bool]string{true: "on", false: "off"}
	for i, image := range images {
		args = append(args,
			"--blockdev", fmt.Sprintf("driver=%s,node-name=n%d,discard=unmap,read-only=%s,file.driver=file,file.filename=%s", format, i, on[!writable], image),
			"--export", fmt.Sprintf("type=nbd,id=e%d,node-name=n%d,name=%d,writable=%s", i, i, i, on[writable]))
	}
	return args
}

// started starts a server and waits until it listens.
func started(ctx context.Context, cmd *exec.Cmd, socket string) (*server, error) {
	s := &server{cmd: cmd, ended: make(chan struct{})}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // what enters a host does so in a child of its own
	var said bytes.Buffer
	s.cmd.Stderr = &said
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { _ = s.cmd.Wait(); close(s.ended) }()
	for {
		if c, err := net.Dial("unix", socket); err == nil {
			return s, c.Close()
		}
		select {
		case <-s.ended:
			return nil, fmt.Errorf("qemu-storage-daemon ended: %s", said.String())
		case <-ctx.Done():
			s.stop()
			return nil, ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
}

// stop ends the daemon in good order, or by force when it takes too long.
func (s *server) stop() {
	_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGTERM)
	select {
	case <-s.ended:
	case <-time.After(30 * time.Second):
		_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
		<-s.ended
	}
}

func command(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}
