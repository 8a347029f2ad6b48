package cli

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// An export of the command line can be checked by it, and a change in it is found.
func TestExportedAuditCanBeVerified(t *testing.T) {
	serve(t, newAppliance())
	var export terminal
	require.Zero(t, export.run(t.Context(), "audit", "export"))
	verify := func(text string) (int, string) {
		file := t.TempDir() + "/audit.ndjson"
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		var term terminal
		exit := term.run(t.Context(), "audit", "verify", "--file", file)
		return exit, term.err.String()
	}
	exit, _ := verify(export.out.String())
	require.Zero(t, exit)
	for _, change := range [][2]string{{"192.0.2.1", "192.0.2.2"}, {`"planned":true`, `"planned":false`}, {"failover", "test"}} {
		exit, text := verify(strings.Replace(export.out.String(), change[0], change[1], 1))
		require.Equal(t, 6, exit)
		require.Contains(t, text, "entry 1")
	}
	lines := bytes.SplitAfter([]byte(export.out.String()), []byte("\n"))
	exit, text := verify(string(lines[0]) + `{"id":3}`)
	require.Equal(t, 6, exit)
	require.Contains(t, text, "what was between is gone")
	exit, _ = verify(export.out.String()[:100])
	require.Equal(t, 6, exit, "half an export")
}

func TestPasswordFromStandardInput(t *testing.T) {
	svc := newAppliance()
	serve(t, svc)
	term := terminal{in: strings.NewReader("typed by a program\n")}
	require.Zero(t, term.run(t.Context(), "users", "add", "bob", "--password-file", "-"), term.err.String())
	require.Contains(t, svc.orders[0], `"typed by a program"`)
	require.NotContains(t, term.out.String()+term.err.String(), "typed by a program")
}
