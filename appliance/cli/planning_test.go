package cli

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func init() {
	maps.Copy(commands, map[string][]string{
		"bandwidth-show":          {"bandwidth", "show"},
		"bandwidth-show-json":     {"bandwidth", "show", "--json"},
		"bandwidth-set":           {"bandwidth", "set", "--mbit", "200", "--rule", "sat-mon,wed@08:00-18:00=50", "--rule", "22:00-04:00=0"},
		"bandwidth-set-none":      {"bandwidth", "set", "--no-rules", "--time-zone", ""},
		"bandwidth-set-wrong":     {"bandwidth", "set", "--rule", "weekend@08:00-18:00=5"},
		"bandwidth-set-no-rate":   {"bandwidth", "set", "--rule", "08:00-18:00"},
		"bandwidth-set-invalid":   {"bandwidth", "set", "--rule", "8-18=5"},
		"groups-policy-windows":   {"groups", "policy", "web", "--window", "mon-fri@18:00-08:00", "--window", "sat,sun@00:00-00:00", "--time-zone", "Europe/Berlin"},
		"groups-policy-always":    {"groups", "policy", "web", "--window", "always"},
		"groups-plan":             {"groups", "plan", "web", "failover"},
		"groups-plan-planned":     {"groups", "plan", "web", "failover", "--planned"},
		"groups-plan-refused":     {"groups", "plan", "empty", "failover"},
		"groups-plan-json":        {"groups", "plan", "web", "commit", "--json"},
		"groups-preflight":        {"groups", "preflight", "web", "--source", "kvm1", "--target", "kvm2", "--machine", "db1"},
		"groups-preflight-bad":    {"groups", "preflight", "bad", "--source", "kvm1", "--target", "kvm2", "--machine", "db1"},
		"groups-edit":             {"groups", "edit", "web", "--rpo", "5m", "--check", "db1=tcp://192.0.2.1:22", "--no-checks", "web1"},
		"groups-edit-stages":      {"groups", "edit", "web", "--stage", "web1=2", "--runbook", "testdata/runbook.json"},
		"groups-edit-disks":       {"groups", "edit", "split", "--leave-out", "db1=vdc", "--take-back", "web1=vdb", "--stage", "db1=2"},
		"groups-edit-disks-twice": {"groups", "edit", "split", "--leave-out", "web1=vdb", "--no-checks", "web1"},
		"groups-edit-disks-wrong": {"groups", "edit", "split", "--take-back", "web1=vdc"},
		"groups-edit-disks-half":  {"groups", "edit", "split", "--leave-out", "web1"},
		"groups-edit-convert":     {"groups", "edit", "split", "--convert", "web1", "--no-convert", "db1", "--leave-out", "web1=vdc"},
		"groups-edit-convert-two": {"groups", "edit", "split", "--convert", "web1", "--no-convert", "web1"},
		"groups-edit-nothing":     {"groups", "edit", "web"},
		"groups-edit-both":        {"groups", "edit", "web", "--check", "db1=agent", "--no-checks", "db1"},
		"hosts-test":              {"hosts", "test", "kvm3", "qemu:///system"},
		"hosts-test-dead":         {"hosts", "test", "kvm3", "qemu:///dead"},
		"hosts-edit":              {"hosts", "edit", "kvm1", "--name", "london", "--max-jobs", "8"},
		"hosts-edit-nothing":      {"hosts", "edit", "kvm1"},
	})
}

// Commit and reprotect tell what they do and ask where a person sits. Scripts go on as they did.
func TestPoliteOrders(t *testing.T) {
	for _, order := range []string{"commit", "reprotect"} {
		for answer, ordered := range map[string]bool{"yes\n": true, "no\n": false} {
			svc := newAppliance()
			serve(t, svc)
			term := terminal{in: strings.NewReader(answer), change: func(a *app) { a.asks = true }}
			exit := term.run(t.Context(), order, "web")
			require.Contains(t, term.err.String(), "Go ahead?")
			require.Equal(t, ordered, exit == 0)
			require.Equal(t, ordered, slices.Contains(svc.orders, order+" web"))
		}
		svc := newAppliance()
		serve(t, svc)
		var term terminal
		require.Zero(t, term.run(t.Context(), order, "web"))
		require.NotContains(t, term.err.String(), "Go ahead?")
		require.Contains(t, svc.orders, order+" web")
	}
}
