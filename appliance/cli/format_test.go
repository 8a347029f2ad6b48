package cli

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
)

func TestSizes(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1 KiB", 1536: "1.5 KiB", 1<<20 - 1: "1 MiB", 1 << 20: "1 MiB", 10 << 30: "10 GiB",
		5 << 40: "5 TiB", 1 << 62: "4096 PiB",
	} {
		require.Equal(t, want, size(n))
	}
}

func TestSpans(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 400 * time.Millisecond: "0s", 59600 * time.Millisecond: "1m", 61 * time.Second: "1m1s", time.Hour: "1h",
		2*time.Hour + 5*time.Minute + 9*time.Second: "2h5m", 24 * time.Hour: "1d", 49 * time.Hour: "2d1h", -time.Minute: "-1m",
	} {
		require.Equal(t, want, span(d))
	}
}

func TestDurations(t *testing.T) {
	for s, want := range map[string]int{"0": 0, "0s": 0, "10s": 10, "5m": 300, "1h30m": 5400, "1d": 86400, "1d12h": 129600, "1.5h": 5400, "7d": 604800} {
		got, err := parseDuration(s)
		require.NoError(t, err, s)
		require.Equal(t, want, got, s)
	}
	for _, s := range []string{"", "10", "d", "1w", "-5s", "1.5d", "100ms", "0.5s", "1h1d", "5 m", "999999d", "99999999999h", "1d1"} {
		_, err := parseDuration(s)
		require.Error(t, err, s)
	}
}

func TestRetention(t *testing.T) {
	got, err := parseRetention("5m:2h, 1h:1d,0:0:24")
	require.NoError(t, err)
	require.Equal(t, []api.RetentionTier{{EverySeconds: 300, ForSeconds: 7200}, {EverySeconds: 3600, ForSeconds: 86400}, {Count: 24}}, got)
	require.Equal(t, "one per 5m for 2h; one per 1h for 1d; every point, at most 24", retentionText(got))
	require.Equal(t, "the newest 24 points", retentionText(nil))
	for _, s := range []string{"", "5m", "5m:", ":", "5m:2h:x", "5m:2h:-1", "5m:2h:1:1", "5m:2h,"} {
		_, err := parseRetention(s)
		require.Error(t, err, s)
	}
}
