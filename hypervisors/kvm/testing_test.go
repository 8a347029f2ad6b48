package kvm

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/hypervisors/kvm/lab"
)

// testLog writes the driver's log into the test's.
func testLog(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// virsh runs virsh on a host, as an administrator would.
func virsh(t *testing.T, on *lab.Host, args ...string) string {
	t.Helper()
	out, err := on.Virsh(testContext(t), args...)
	require.NoError(t, err, "virsh %v: %s", args, out)
	return out
}

func virshLine(t *testing.T, on *lab.Host, args ...string) string {
	t.Helper()
	return strings.TrimSpace(virsh(t, on, args...))
}

// pollEvery is how often tests look at a host.
const pollEvery = 20 * time.Millisecond

// waitFor waits for a condition of the hosts, which are real and tell no clock.
func waitFor(t *testing.T, what string, is func() bool) {
	t.Helper()
	waitForIn(t, testContext(t), what, is)
}

// waitForIn is waitFor with a time limit of its own.
func waitForIn(t *testing.T, ctx context.Context, what string, is func() bool) {
	t.Helper()
	for !is() {
		if !pause(ctx, pollEvery) {
			t.Fatal("waited too long until " + what)
		}
	}
}
