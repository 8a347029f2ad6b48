package main_test

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// browse lets a walk of the console run in Chromium and tells where its pictures are.
func browse(t *testing.T, spec, address string, told any) (shots string) {
	t.Helper()
	console, err := filepath.Abs("../ui")
	require.NoError(t, err)
	program := filepath.Join(console, "node_modules", ".bin", "playwright")
	require.FileExists(t, program, "the console is not built: make ui")
	shots, err = filepath.Abs("../bin/console")
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(shots, 0o755))
	given, err := json.Marshal(told)
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), program, "test", spec, "--output", filepath.Join(shots, "failed", spec))
	cmd.Dir = console
	cmd.Env = append(os.Environ(), "UNDERSTUDY_URL="+address, "UNDERSTUDY_SHOTS="+shots, "UNDERSTUDY_WALK="+string(given))
	said, err := apart(t, address, cmd)
	require.NoError(t, err, "%s", said)
	return shots
}

// apart runs a command in a network of its own, from which nothing but the server at the address can be reached, at the
// same address. Chromium breaks off what it asks for when a network of its machine comes or goes, and labs beside it make
// and remove some.
func apart(t *testing.T, address string, cmd *exec.Cmd) (said []byte, err error) {
	t.Helper()
	at, err := url.Parse(address)
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Never unlocked: the thread has left our network for good and ends with this goroutine. What it opens and starts
		// stays where it was made.
		runtime.LockOSThread()
		if err = os.NewSyscallError("unshare", unix.Unshare(unix.CLONE_NEWNET)); err != nil {
			return
		}
		// A browser whose machine has no network at all takes itself for offline.
		for _, args := range [][]string{{"link", "set", "lo", "up"}, {"link", "add", "net", "type", "veth", "peer", "name", "far"},
			{"address", "add", "192.0.2.1/24", "dev", "net"}, {"link", "set", "far", "up"}, {"link", "set", "net", "up"}} {
			if said, err = exec.CommandContext(t.Context(), "ip", args...).CombinedOutput(); err != nil {
				return
			}
		}
		var door net.Listener
		if door, err = net.Listen("tcp", at.Host); err != nil {
			return
		}
		defer door.Close()
		go forward(door, at.Host)
		said, err = cmd.CombinedOutput()
	}()
	<-done
	return said, err
}

// forward carries connections to the address until the listener is closed. It runs on a thread that has not left.
func forward(from net.Listener, to string) {
	for {
		near, err := from.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		go func() {
			defer near.Close()
			far, err := net.Dial("tcp", to)
			if err != nil {
				return // the browser finds out
			}
			defer far.Close()
			go func() {
				_, _ = io.Copy(far, near)
				_ = far.(*net.TCPConn).CloseWrite()
			}()
			_, _ = io.Copy(near, far)
		}()
	}
}
