package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
)

// A person reads what is asked before it is confirmed, and confirms what was read.
func TestConfirmShowsWhatIsAsked(t *testing.T) {
	for answer, done := range map[string]bool{"yes\n": true, "no\n": false} {
		svc := newAppliance()
		svc.job = someJob(api.JobRunning)
		svc.job.Waiting = &api.Waiting{Prompt: "1-before-1", Text: "Switch the router over\x1b", Since: *ago(time.Second), ProductionOff: true}
		serve(t, svc)
		term := terminal{in: strings.NewReader(answer), change: func(a *app) { a.asks = true }}
		exit := term.run(t.Context(), "jobs", "confirm", "j1")
		require.Contains(t, term.err.String(), "(1-before-1): Switch the router over")
		require.Contains(t, term.err.String(), "production is off")
		require.NotContains(t, term.err.String(), "\x1b")
		if done {
			require.Zero(t, exit)
			require.Equal(t, []string{`confirm j1 1-before-1 ""`}, svc.orders)
		} else {
			require.Empty(t, svc.orders)
		}
	}
}

func TestWaitingIsShown(t *testing.T) {
	j := someJob(api.JobRunning)
	j.Waiting = &api.Waiting{Prompt: "1-before-1", Text: "Switch the router over", Since: now}
	require.Equal(t, `cycle running: copy (2/3): waits for a person since 2026-03-04 05:06:07Z (1-before-1): Switch the router over; see "understudy jobs confirm"`, headline(j))
}

func TestReportIsWritten(t *testing.T) {
	serve(t, newAppliance())
	file := filepath.Join(t.TempDir(), "report.html")
	var term terminal
	require.Zero(t, term.run(t.Context(), "reports", "html", "r1", "--lang", "de", "-o", file), term.err.String())
	page, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Contains(t, string(page), `<html lang="de">`)
	require.Contains(t, string(page), "data:image/png;base64,UE5H")
	require.Zero(t, term.run(t.Context(), "reports", "html", "r1"))
	require.Contains(t, term.out.String(), `<html lang="en">`)
}
