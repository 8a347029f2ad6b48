package api_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/api"
)

func fieldOf(t *testing.T, err error) string {
	t.Helper()
	var e *api.Error
	require.True(t, errors.As(err, &e), "%v", err)
	require.Equal(t, api.CodeInvalid, e.Code)
	require.NotEmpty(t, e.Hint)
	require.NotEmpty(t, e.Message)
	return e.Field
}

func TestCalendarLimits(t *testing.T) {
	good := func() api.BandwidthCalendar {
		return api.BandwidthCalendar{TimeZone: "Europe/Berlin", Mbit: 100, Rules: []api.BandwidthRule{
			{Window: api.Window{Days: []string{"mon"}, From: "08:00", To: "18:00"}, Mbit: 10}}}
	}
	require.NoError(t, good().Validate())
	require.NoError(t, api.BandwidthCalendar{}.Validate())
	for field, spoil := range map[string]func(*api.BandwidthCalendar){
		"mbit":             func(c *api.BandwidthCalendar) { c.Mbit = -1 },
		"timeZone":         func(c *api.BandwidthCalendar) { c.TimeZone = "../../etc/passwd" },
		"rules":            func(c *api.BandwidthCalendar) { c.Rules = make([]api.BandwidthRule, 65) },
		"rules[0].mbit":    func(c *api.BandwidthCalendar) { c.Rules[0].Mbit = 1_000_001 },
		"rules[0].from":    func(c *api.BandwidthCalendar) { c.Rules[0].From = "8:00" },
		"rules[0].to":      func(c *api.BandwidthCalendar) { c.Rules[0].To = "24:00" },
		"rules[0].days[0]": func(c *api.BandwidthCalendar) { c.Rules[0].Days[0] = "Monday" },
		"rules[0].days[1]": func(c *api.BandwidthCalendar) { c.Rules[0].Days = []string{"sun", "sun"} },
	} {
		c := good()
		spoil(&c)
		require.Equal(t, field, fieldOf(t, c.Validate()), field)
	}
	local := good()
	local.TimeZone = "Local"
	require.Equal(t, "timeZone", fieldOf(t, local.Validate()), "what is local depends on who reads it")
}

func TestWindowsOfPolicies(t *testing.T) {
	p := api.Policy{RPOSeconds: 60, TimeZone: "Asia/Tokyo", Windows: []api.Window{{From: "22:00", To: "06:00"}}}
	require.NoError(t, p.Validate())
	p.Windows = append(p.Windows, api.Window{From: "25:00", To: "06:00"})
	require.Equal(t, "policy.windows[1].from", fieldOf(t, p.Validate()))
	p.Windows = make([]api.Window, 33)
	require.Equal(t, "policy.windows", fieldOf(t, p.Validate()))
	require.Equal(t, "policy.timeZone", fieldOf(t, api.Policy{RPOSeconds: 60, TimeZone: "Moon"}.Validate()))
}

// FuzzCalendar validates what somebody may send, and what was accepted is accepted again after a trip through JSON.
func FuzzCalendar(f *testing.F) {
	for _, s := range []string{
		`{"timeZone":"Europe/Berlin","mbit":5,"rules":[{"days":["mon","sun"],"from":"18:00","to":"08:00","mbit":0}]}`,
		`{"rules":[{"from":"24:00","to":"08:00"}]}`, `{"timeZone":"/etc/localtime"}`, `{"timeZone":"UTC\u0000"}`, `{"rules":[{"days":["mon","mon"]}]}`,
		`{"mbit":-1}`, `{"rules":[{"from":"00:00","to":"00:00","mbit":1000001}]}`, `null`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var c api.BandwidthCalendar
		if json.Unmarshal([]byte(text), &c) != nil {
			return
		}
		if err := c.Validate(); err != nil {
			require.NotEmpty(t, fieldOf(t, err))
			return
		}
		_, err := api.Zone(c.TimeZone)
		require.NoError(t, err)
		for _, r := range c.Rules {
			for _, clock := range []string{r.From, r.To} {
				minutes, err := api.ParseClock(clock)
				require.NoError(t, err)
				require.True(t, 0 <= minutes && minutes < 24*60, "%q", clock)
			}
			require.False(t, strings.Contains(strings.Join(r.Days, " "), "T"))
		}
		again, err := json.Marshal(c)
		require.NoError(t, err)
		var back api.BandwidthCalendar
		require.NoError(t, json.Unmarshal(again, &back))
		require.NoError(t, back.Validate())
	})
}

// FuzzGroupEdit validates what somebody may send: what is refused says of which field, what is accepted names each machine
// once and would be accepted in a group.
func FuzzGroupEdit(f *testing.F) {
	for _, s := range []string{
		`{"policy":{"rpoSeconds":60},"machines":[{"vm":"web","checks":[{"kind":"agent"}]},{"vm":"db"}]}`,
		`{"policy":{"rpoSeconds":60,"windows":[{"days":["fri"],"from":"22:00","to":"04:00"}],"timeZone":"Europe/Paris"},"machines":[{"vm":"a"},{"vm":"a"}]}`,
		`{"policy":{"rpoSeconds":60},"machines":[{"vm":"a","leaveOut":["vdb"," ","vdb"]}]}`,
		`{"policy":{"rpoSeconds":60},"machines":[{"vm":"a","leaveOut":["vdb","vdc"]},{"vm":"b","leaveOut":[]}]}`,
		`{"machines":[{}]}`, `null`, `{"policy":{"rpoSeconds":60},"machines":[{"vm":" "}]}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var e api.GroupEdit
		if json.Unmarshal([]byte(text), &e) != nil {
			return
		}
		if err := e.Validate(); err != nil {
			require.NotEmpty(t, fieldOf(t, err))
			return
		}
		spec := api.GroupSpec{Name: "x", SourceHost: "a", TargetHost: "b", Policy: e.Policy, Machines: []api.GroupMachine{{VM: "other\x00"}}}
		for _, m := range e.Machines {
			spec.Machines = append(spec.Machines, api.GroupMachine{VM: m.VM, Checks: m.Checks, Disks: api.GroupMachine{}.LeavingOut(m.LeaveOut)})
		}
		require.NoError(t, spec.Validate())
	})
}

// An edit that takes all disks back is another one than an edit that is silent about them.
func TestLeaveOutTravels(t *testing.T) {
	for text, list := range map[string][]string{`{"vm":"a"}`: nil, `{"vm":"a","leaveOut":[]}`: {}, `{"vm":"a","leaveOut":["vdb"]}`: {"vdb"}} {
		data, err := json.Marshal(api.MachineEdit{VM: "a", LeaveOut: list})
		require.NoError(t, err)
		require.Equal(t, text, string(data))
		var back api.MachineEdit
		require.NoError(t, json.Unmarshal(data, &back))
		require.Equal(t, list, back.LeaveOut)
	}
}

func TestLeavingOut(t *testing.T) {
	m := api.GroupMachine{Disks: []api.GroupDisk{{ID: "a", LeaveOut: true}, {ID: "b", Bus: "sata"}, {ID: "c", Bus: "scsi", LeaveOut: true}}}
	require.Equal(t, []string{"a", "c"}, m.LeftOut())
	require.Equal(t, []api.GroupDisk{{ID: "b", Bus: "sata", LeaveOut: true}, {ID: "c", Bus: "scsi"}, {ID: "d", LeaveOut: true}}, m.LeavingOut([]string{"b", "d"}))
	require.Empty(t, m.Disks[1].LeaveOut, "others read the ones that are there")
	require.Empty(t, api.GroupMachine{Disks: m.Disks[:1]}.LeavingOut(nil))
}

// All that is wrong with a group is told at once, and Validate says the first of it.
func TestFaults(t *testing.T) {
	s := api.GroupSpec{Machines: []api.GroupMachine{{VM: "a", CPUs: -1}, {VM: "a"}, {VM: "b", Checks: []api.Check{{Kind: "ping"}}}},
		Networks: []api.NetworkMap{{}}, Policy: api.Policy{RPOSeconds: 1}}
	var fields []string
	for _, err := range s.Faults() {
		fields = append(fields, fieldOf(t, err))
	}
	require.Equal(t, []string{"sourceHost", "targetHost", "machines[0].cpus", "machines[1].vm", "machines[2].checks[0].kind", "networks[0].from", "policy.rpoSeconds"}, fields)
	require.Equal(t, "sourceHost", fieldOf(t, s.Validate()))
}
