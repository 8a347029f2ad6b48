package kvm

import (
	"io"
	"net"
)

// sshConn is a connection through SSH that can be closed. A channel of SSH cannot: Close only asks the other side, which
// first delivers what it has already got, and does not answer while the process there hangs. Until then whoever reads
// or writes would wait, and a time limit that ended in Close would end nothing. So two goroutines wait for the channel
// in their place, until it ends with its process or with the SSH connection.
type sshConn struct {
	net.Conn // the channel
	in       *io.PipeReader
	out      *io.PipeWriter
}

func newSSHConn(channel net.Conn) *sshConn {
	in, received := io.Pipe()
	sent, out := io.Pipe()
	go func() {
		_, err := io.Copy(received, channel)
		received.CloseWithError(err) // nil: the end
	}()
	go func() {
		_, err := io.Copy(channel, sent)
		sent.CloseWithError(err)
		_ = channel.Close()
	}()
	return &sshConn{channel, in, out}
}

func (c *sshConn) Read(p []byte) (int, error)  { return c.in.Read(p) }
func (c *sshConn) Write(p []byte) (int, error) { return c.out.Write(p) }

// Close ends reading and writing at once. What was written is still sent as far as the other side takes it.
func (c *sshConn) Close() error {
	_ = c.in.CloseWithError(net.ErrClosed)
	return c.out.Close()
}
