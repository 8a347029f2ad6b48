package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/appliance/cli"
)

func TestSystemdIsTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	listener, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	require.NoError(t, err)
	defer listener.Close()
	read := func() string {
		b := make([]byte, 100)
		n, err := listener.Read(b)
		require.NoError(t, err)
		return string(b[:n])
	}
	systemd{path}.tell("READY=1")
	require.Equal(t, "READY=1", read())
	systemd{}.tell("READY=1")
	systemd{path + "gone"}.tell("READY=1")

	// A sign of life as long as it works.
	t.Setenv("WATCHDOG_USEC", "2000")
	ctx, cancel := context.WithCancel(t.Context())
	looks := 0
	systemd{path}.watchdog(ctx, func(context.Context) error {
		if looks++; looks > 2 {
			cancel()
			return errors.New("stands still")
		}
		return nil
	})
	require.Equal(t, "WATCHDOG=1", read())
	require.Equal(t, "WATCHDOG=1", read())
	systemd{path}.tell("nothing between")
	require.Equal(t, "nothing between", read())
}

func TestManualHasEveryCommand(t *testing.T) {
	var out bytes.Buffer
	root := cli.New(&out, &out, &out, offline)
	root.AddCommand(serveCommand(serveOptions{}))
	require.NoError(t, writeManual(&out, root))
	for _, text := range []string{".SS understudy serve", ".SS understudy restore FILE", `\-\-data\-dir`, ".SS understudy groups create", ".SH FILES"} {
		require.Contains(t, out.String(), text)
	}
}
