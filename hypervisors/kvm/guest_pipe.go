package kvm

import (
	"context"
	"io"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

// pipeGrace is how long a command may take to end after its input was closed.
const pipeGrace = 2 * time.Second

// pipe is a running command's standard input and output.
type pipe struct {
	io.Reader
	io.Writer
	hangUp func() error
}

func (p *pipe) Close() error { return p.hangUp() }

// newPipe closes in good order: nobody listens any more, the input ends, and after a grace by force.
func newPipe(in io.WriteCloser, out *io.PipeReader, ended <-chan struct{}, force func()) *pipe {
	return &pipe{Reader: out, Writer: in, hangUp: sync.OnceValue(func() error {
		_ = out.Close()
		err := in.Close()
		select {
		case <-ended:
		case <-time.After(pipeGrace):
			force()
			<-ended
		}
		return err
	})}
}

func (p *localPlace) Pipe(ctx context.Context, argv ...string) (io.ReadWriteCloser, error) {
	cmd, err := p.command(context.WithoutCancel(ctx), argv)
	if err != nil {
		return nil, err
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, writer := io.Pipe()
	cmd.Stdout = writer
	// Whatever the command leaves behind may hold its output open; that is nothing to wait for.
	cmd.WaitDelay = pipeGrace
	if err := startCommand(cmd); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		err := cmd.Wait()
		_ = writer.CloseWithError(endOfPipe(err))
		close(ended)
	}()
	return newPipe(in, out, ended, func() {
		// The command leads a session, and so a process group, of its own.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}), nil
}

// endOfPipe makes an ordinary end of the command's end of its output.
func endOfPipe(err error) error {
	switch err.(type) {
	case nil, *exec.ExitError, *ssh.ExitError:
		return io.EOF
	}
	return err
}

func (p *sshPlace) Pipe(ctx context.Context, argv ...string) (io.ReadWriteCloser, error) {
	s, err := overConnection(ctx, p, (*ssh.Client).NewSession)
	if err != nil {
		return nil, err
	}
	in, err := s.StdinPipe()
	if err != nil {
		s.Close()
		return nil, err
	}
	out, writer := io.Pipe()
	s.Stdout = writer
	if err := s.Start(shellCommand(argv)); err != nil {
		s.Close()
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		err := s.Wait()
		_ = writer.CloseWithError(endOfPipe(err))
		s.Close()
		close(ended)
	}()
	return newPipe(in, out, ended, func() { s.Close() }), nil
}
