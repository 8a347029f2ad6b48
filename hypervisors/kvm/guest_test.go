package kvm

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/hypervisors"
	"understudy/hypervisors/kvm/lab"
)

// ask sends one HTTP request through the host and returns the answer's body.
func ask(ctx context.Context, h *host, network, from, addr string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	conn, err := h.Dial(ctx, network, from, addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\nHost: guest\r\n\r\n"); err != nil {
		return "", err
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return string(body), err
}

func TestAskingAGuest(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	n := int(guestNumber.Add(1))
	name := fmt.Sprintf("asked%d", n)
	h := openHost(t, testLab.Target.URI)
	require.NoError(t, h.IsolatedNetwork(ctx, "cell"))
	t.Cleanup(func() { require.NoError(t, h.RemoveNetwork(testContext(t), "cell")) })
	t.Cleanup(func() { removeGuest(t, testLab.Target, name) })
	g, err := testLab.StartGuest(ctx, testLab.Target, lab.GuestOptions{Name: name, Number: n, DiskA: 84 << 20, DiskB: 8 << 20})
	require.NoError(t, err)
	id := virshLine(t, testLab.Target, "domuuid", name)

	for transport, uri := range map[string]string{"local": testLab.Target.URI, "ssh": testLab.Target.SSHURI()} {
		h := openHost(t, uri)
		require.Eventually(t, func() bool { return h.AgentPing(ctx, id) == nil }, 2*time.Minute, 200*time.Millisecond, transport)
		body, err := ask(ctx, h, "production", "", g.Addr+":80")
		require.NoError(t, err, transport)
		require.Contains(t, body, name)
		_, err = h.Dial(ctx, "production", "", g.Addr+":9")
		require.ErrorContains(t, err, "refused", transport)
		_, err = h.Dial(ctx, "nosuch", "", g.Addr+":80")
		require.ErrorIs(t, err, hypervisors.ErrUnknownNetwork, transport)
	}

	// The same guest where nobody but a probe can reach it.
	virsh(t, testLab.Target, "destroy", name)
	require.ErrorIs(t, h.AgentPing(ctx, "00000000-0000-0000-0000-000000000001"), hypervisors.ErrNotFound)
	require.Error(t, h.AgentPing(ctx, id))
	text := strings.ReplaceAll(virsh(t, testLab.Target, "dumpxml", "--inactive", name), "network='production'", "network='cell'")
	file := filepath.Join(t.TempDir(), "cell.xml")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	virsh(t, testLab.Target, "define", file)
	require.ErrorIs(t, h.RemoveNetwork(ctx, "cell"), hypervisors.ErrInUse, "the machine would not start any more")
	virsh(t, testLab.Target, "start", name)
	t.Cleanup(func() { testLab.Target.Virsh(testContext(t), "destroy", name) })
	for _, uri := range []string{testLab.Target.URI, testLab.Target.SSHURI()} {
		h := openHost(t, uri)
		var body string
		require.Eventually(t, func() bool {
			body, err = ask(ctx, h, "cell", "192.168.77.250/24", g.Addr+":80")
			return err == nil
		}, 2*time.Minute, 200*time.Millisecond, "%s: %v", uri, err)
		require.Contains(t, body, name)
	}
	short, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	_, err = testLab.Target.Get(short, g.Addr, "/")
	require.Error(t, err, "the host itself must not reach it")
	require.ErrorIs(t, h.AssertIsolated(ctx, "cell"), hypervisors.ErrNotIsolated, "this machine is no test of ours")

	require.Eventually(t, func() bool {
		removed, err := h.cleanProbes(ctx)
		return err == nil && len(removed) == 0
	}, time.Minute, 100*time.Millisecond, "probes go with their connections")
}
