package main_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/hypervisors/kvm/lab"
)

// walk is what the browser is told.
type walk struct {
	SetupToken string `json:"setupToken"`
	Source     string `json:"source"` // addresses
	Target     string `json:"target"`
	Machine    string `json:"machine"`
	Check      string `json:"check"` // what the guest answers by HTTP
	From       string `json:"from"`  // an address beside it
}

// TestConsoleLab lets a real browser do by clicking what an administrator does in the first hour and in the worst night,
// on real hosts with a guest that writes (ui/e2e/walk.spec.ts). What it changed stands in the audit log.
func TestConsoleLab(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	l := startLab(t)
	guest, err := l.StartGuest(ctx, l.Source, lab.GuestOptions{Name: "web1", Number: 1, Fill: 16 << 20, Delay: calm})
	require.NoError(t, err)
	require.NoError(t, guest.WaitSeq(ctx, 50))
	d := newDaemon(t)
	shots := browse(t, "walk.spec.ts", "https://"+d.listen, walk{SetupToken: setupToken(d.dir), Source: l.Source.URI, Target: l.Target.URI,
		Machine: guest.Name, Check: "http://" + guest.Addr + "/", From: "192.168.77.253/24"})

	status, err := l.Source.WaitStatus(ctx, guest.Addr)
	require.NoError(t, err)
	require.Empty(t, status.Problems, "what the guest finds of its own records after it came home")
	requireAudited(t, d, filepath.Join(shots, "changes.json"))
}

// requireAudited compares what the browser asked to be changed with the audit log: both know the same, and whoever did it
// has a name there. Looking at what an order would do is no change.
func requireAudited(t *testing.T, d *daemon, path string) {
	t.Helper()
	var changes []struct {
		Method string `json:"method"`
		Path   string `json:"path"`
		Status int    `json:"status"`
	}
	readJSON(t, path, &changes)
	name := operations(t)
	asked := map[string]int{}
	for _, c := range changes {
		if operation := name(c.Method, c.Path); operation != "plan" {
			asked[fmt.Sprint(operation, " ", c.Status)]++
		}
	}
	written := map[string]int{}
	entries, err := d.ListAudit(t.Context(), api.AuditQuery{Limit: 1000})
	require.NoError(t, err)
	for _, e := range entries.Items {
		require.True(t, e.User == "jo" || e.Action == "set-up" || e.Status == http.StatusUnauthorized, "%+v", e)
		written[fmt.Sprint(e.Action, " ", e.Status)]++
	}
	require.Equal(t, asked, written)
	for _, order := range []string{"add-host 201", "create-group 201", "test 202", "end-test 202", "failover 202", "commit 202", "failback 202"} {
		require.Positive(t, written[order], "%s is not in %v", order, written)
	}
}

// operations finds the id of an operation by method and path, as the contract has it.
func operations(t *testing.T) func(method, path string) string {
	t.Helper()
	var contract struct {
		Paths map[string]map[string]struct {
			OperationID string `json:"operationId"`
		} `json:"paths"`
	}
	readJSON(t, "../api/openapi.json", &contract)
	return func(method, path string) string {
		for template, methods := range contract.Paths {
			here := regexp.MustCompile(`\{[^}]*}`).ReplaceAllString(template, "[^/]+")
			if operation, ok := methods[strings.ToLower(method)]; ok && regexp.MustCompile("^"+here+"$").MatchString(path) {
				return operation.OperationID
			}
		}
		require.Fail(t, "not in the contract", "%s %s", method, path)
		return ""
	}
}

func readJSON(t *testing.T, path string, v any) {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, v))
}
