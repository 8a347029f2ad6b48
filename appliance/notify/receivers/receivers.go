// Package receivers runs real receivers of notifications for tests: Debian's snmptrapd, rsyslogd and aiosmtpd, and a
// server for webhooks in Python that checks signatures on its own; and slapd, a directory that people sign in by. Each is a
// child with a directory of its own, listens on loopback at a free port, is ended by its process id when the test ends, and
// touches no configuration of the machine.
// "make receivers" installs what they need. It knows nothing of the code that sends.
package receivers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// patience bounds every wait: for a machine that is busy, not for one that is well.
const patience = 3 * time.Minute

// child is a receiver at work.
type child struct {
	t    testing.TB
	dir  string
	mu   sync.Mutex
	said bytes.Buffer
}

func (c *child) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.said.Write(p)
}

// Said is everything that the receiver printed.
func (c *child) Said() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.said.String()
}

// newChild makes the directory of a receiver.
func newChild(t testing.TB) *child { return &child{t: t, dir: t.TempDir()} }

// run starts the program, and ends it with the test.
func (c *child) run(env []string, name string, args ...string) {
	c.t.Helper()
	path, err := exec.LookPath(name)
	require.NoError(c.t, err, "run \"make receivers\" to install it")
	cmd := exec.Command(path, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = c.dir, c, c
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8", "HOME=" + c.dir}, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // nothing outlives a test that dies
	started, ended := make(chan error, 1), make(chan error, 1)
	go func() {
		runtime.LockOSThread() // Pdeathsig strikes when the thread that started the child ends
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			ended <- cmd.Wait()
		}
	}()
	require.NoError(c.t, <-started)
	c.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
		}
		if c.t.Failed() {
			c.t.Logf("%s said:\n%s", name, c.Said())
		}
	})
}

// write makes a file in the receiver's directory.
func (c *child) write(name, text string) string {
	c.t.Helper()
	path := filepath.Join(c.dir, name)
	require.NoError(c.t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// Until waits for a condition.
func Until(t testing.TB, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			require.FailNow(t, "waited in vain", what)
		case <-tick.C:
		}
	}
}

// freePort gives a port of the network (tcp or udp) that nobody listens on.
func freePort(t testing.TB, network string) int {
	t.Helper()
	if network == "udp" {
		conn, err := net.ListenPacket("udp", "127.0.0.1:0")
		require.NoError(t, err)
		defer conn.Close()
		return conn.LocalAddr().(*net.UDPAddr).Port
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

// untilBound waits until somebody has the port.
func (c *child) untilBound(network string, port int) {
	c.t.Helper()
	address := fmt.Sprintf("127.0.0.1:%d", port)
	Until(c.t, "a receiver at "+address+", which said: "+c.Said(), func() bool {
		if network == "tcp" {
			conn, err := net.Dial("tcp", address)
			if err == nil {
				conn.Close()
			}
			return err == nil
		}
		conn, err := net.ListenPacket("udp", address)
		if err == nil {
			conn.Close()
		}
		return errors.Is(err, syscall.EADDRINUSE)
	})
}

// lines decodes what the receiver printed, each line into a T; lines that are no JSON are left out.
func lines[T any](c *child) []T {
	var all []T
	for line := range strings.Lines(c.Said()) {
		var v T
		if json.Unmarshal([]byte(line), &v) == nil {
			all = append(all, v)
		}
	}
	return all
}
