package api

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func goodGroup() GroupSpec {
	return GroupSpec{
		Name: "shop", SourceHost: "kvm1", TargetHost: "kvm2",
		Machines: []GroupMachine{
			{VM: "db", Disks: []GroupDisk{{ID: "vdb", LeaveOut: true}, {ID: "vda", Bus: "sata"}}, Checks: []Check{{Kind: "agent"}, {Kind: "tcp", Address: "192.0.2.10:5432", From: "192.0.2.200/24"}}},
			{VM: "web", ReplicaName: "web-replica", Checks: []Check{
				{Kind: "http", Address: "http://192.0.2.11/health", Contains: "ok"},
				{Kind: "http", Address: "https://[2001:db8::11]:8443/", TimeoutSeconds: 60}}},
		},
		Policy: Policy{RPOSeconds: 900, Consistency: "application", Retention: []RetentionTier{
			{EverySeconds: 0, ForSeconds: 3600},
			{EverySeconds: 3600, ForSeconds: 86400},
			{EverySeconds: 86400, Count: 7},
		}},
		Networks: []NetworkMap{{From: "prod", To: "dr"}, {From: "backup", To: "dr"}},
	}
}

func TestGoodGroup(t *testing.T) { require.NoError(t, goodGroup().Validate()) }

func TestBadGroups(t *testing.T) {
	check := func(c Check) func(*GroupSpec) { return func(s *GroupSpec) { s.Machines[0].Checks[1] = c } }
	tiers := func(t ...RetentionTier) func(*GroupSpec) { return func(s *GroupSpec) { s.Policy.Retention = t } }
	const address, tier0 = "machines[0].checks[1].address", "policy.retention[0]"
	cases := map[string]struct {
		field string
		spoil func(*GroupSpec)
	}{
		"no source":              {"sourceHost", func(s *GroupSpec) { s.SourceHost = "" }},
		"no target":              {"targetHost", func(s *GroupSpec) { s.TargetHost = "" }},
		"same host":              {"targetHost", func(s *GroupSpec) { s.TargetHost = s.SourceHost }},
		"no machines":            {"machines", func(s *GroupSpec) { s.Machines = nil }},
		"blank machine":          {"machines[1].vm", func(s *GroupSpec) { s.Machines[1].VM = " " }},
		"machine twice":          {"machines[1].vm", func(s *GroupSpec) { s.Machines[1].VM = "db" }},
		"replica name twice":     {"machines[1].replicaName", func(s *GroupSpec) { s.Machines[1].ReplicaName = "db" }},
		"replica name as a path": {"machines[1].replicaName", func(s *GroupSpec) { s.Machines[1].ReplicaName = "../db" }},
		"negative CPUs":          {"machines[0].cpus", func(s *GroupSpec) { s.Machines[0].CPUs = -1 }},
		"memory in MB":           {"machines[0].memory", func(s *GroupSpec) { s.Machines[0].Memory = 2048 }},
		"disk without name":      {"machines[0].disks[0].id", func(s *GroupSpec) { s.Machines[0].Disks[0].ID = " " }},
		"disk with a long name":  {"machines[0].disks[0].id", func(s *GroupSpec) { s.Machines[0].Disks[0].ID = strings.Repeat("v", maxDiskID+1) }},
		"disk twice":             {"machines[0].disks[1].id", func(s *GroupSpec) { s.Machines[0].Disks[1].ID = "vdb" }},
		"disk on a floppy bus":   {"machines[0].disks[1].bus", func(s *GroupSpec) { s.Machines[0].Disks[1].Bus = "fdc" }},
		"network twice":          {"networks[1].from", func(s *GroupSpec) { s.Networks[1].From = "prod" }},
		"network to nothing":     {"networks[0].to", func(s *GroupSpec) { s.Networks[0].To = "" }},
		"network from nothing":   {"networks[0].from", func(s *GroupSpec) { s.Networks[0].From = "" }},

		"check kind":       {"machines[0].checks[1].kind", check(Check{Kind: "ping"})},
		"agent address":    {address, check(Check{Kind: "agent", Address: "192.0.2.1:1"})},
		"tcp no port":      {address, check(Check{Kind: "tcp", Address: "192.0.2.1"})},
		"tcp name":         {address, check(Check{Kind: "tcp", Address: "db:5432"})},
		"tcp port 0":       {address, check(Check{Kind: "tcp", Address: "192.0.2.1:0"})},
		"tcp port 65536":   {address, check(Check{Kind: "tcp", Address: "192.0.2.1:65536"})},
		"tcp loopback":     {address, check(Check{Kind: "tcp", Address: "127.0.0.1:22"})},
		"http name":        {address, check(Check{Kind: "http", Address: "http://web/"})},
		"http no scheme":   {address, check(Check{Kind: "http", Address: "192.0.2.1/health"})},
		"http no URL":      {address, check(Check{Kind: "http", Address: "http://[::1"})},
		"http secret":      {address, check(Check{Kind: "http", Address: "http://me:pw@192.0.2.1/"})},
		"contains on tcp":  {"machines[0].checks[1].contains", check(Check{Kind: "tcp", Address: "192.0.2.1:1", Contains: "x"})},
		"from no prefix":   {"machines[0].checks[1].from", check(Check{Kind: "tcp", Address: "192.0.2.1:1", From: "192.0.2.9"})},
		"from elsewhere":   {"machines[0].checks[1].from", check(Check{Kind: "tcp", Address: "192.0.2.1:1", From: "192.0.3.9/24"})},
		"from itself":      {"machines[0].checks[1].from", check(Check{Kind: "tcp", Address: "192.0.2.1:1", From: "192.0.2.1/24"})},
		"timeout too long": {"machines[0].checks[1].timeoutSeconds", check(Check{Kind: "agent", TimeoutSeconds: 3601})},

		"RPO 4 s":            {"policy.rpoSeconds", func(s *GroupSpec) { s.Policy.RPOSeconds = 4 }},
		"RPO over 7 days":    {"policy.rpoSeconds", func(s *GroupSpec) { s.Policy.RPOSeconds = 604801 }},
		"verify each second": {"policy.verifyEverySeconds", func(s *GroupSpec) { s.Policy.VerifyEverySeconds = 1 }},
		"verify never ever":  {"policy.verifyEverySeconds", func(s *GroupSpec) { s.Policy.VerifyEverySeconds = maxVerifySeconds + 1 }},
		"compression":        {"policy.compression", func(s *GroupSpec) { s.Policy.Compression = "zip" }},
		"consistency":        {"policy.consistency", func(s *GroupSpec) { s.Policy.Consistency = "total" }},
		"bandwidth":          {"policy.bandwidthMbit", func(s *GroupSpec) { s.Policy.BandwidthMbit = -1 }},

		"tier without end":    {tier0, tiers(RetentionTier{EverySeconds: 60})},
		"tier keeps nothing":  {tier0 + ".forSeconds", tiers(RetentionTier{EverySeconds: 3600, ForSeconds: 1800})},
		"tier negative":       {tier0 + ".count", tiers(RetentionTier{Count: -1})},
		"tier negative every": {tier0 + ".everySeconds", tiers(RetentionTier{EverySeconds: -1, Count: 1})},
		"tier negative for":   {tier0 + ".forSeconds", tiers(RetentionTier{ForSeconds: -1, Count: 1})},
		"tier twice": {"policy.retention[1].everySeconds",
			tiers(RetentionTier{EverySeconds: 60, Count: 1}, RetentionTier{EverySeconds: 60, Count: 2})},
		"tier adds nothing": {"policy.retention[1].forSeconds",
			tiers(RetentionTier{EverySeconds: 3600, ForSeconds: 7200}, RetentionTier{ForSeconds: 7200})},
		"too many tiers": {"policy.retention", tiers(make([]RetentionTier, maxTiers+1)...)},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := goodGroup()
			c.spoil(&s)
			requireInvalid(t, s.Validate(), c.field)
		})
	}
}

func requireInvalid(t *testing.T, err error, field string) {
	t.Helper()
	var e *Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, CodeInvalid, e.Code)
	require.Equal(t, field, e.Field)
	require.NotEmpty(t, e.Message)
	require.NotContains(t, e.Message, "%!")
	require.NotEmpty(t, e.Hint)
}

func TestLimitsOfTheRPO(t *testing.T) {
	for _, seconds := range []int{minRPOSeconds, maxRPOSeconds} {
		require.NoError(t, Policy{RPOSeconds: seconds}.Validate())
	}
}

func TestHostsMustDiffer(t *testing.T) {
	host := func(id, name, identity string) Host {
		return Host{ID: id, Identity: identity, HostSpec: HostSpec{Name: name}}
	}
	require.NoError(t, ValidateHosts(host("1", "a", "x"), host("2", "b", "y")))
	require.NoError(t, ValidateHosts(host("1", "a", ""), host("2", "b", "")), "not connected yet")
	requireInvalid(t, ValidateHosts(host("1", "a", "x"), host("1", "a", "x")), "targetHost")
	requireInvalid(t, ValidateHosts(host("1", "a", "x"), host("2", "b", "x")), "targetHost")
}
