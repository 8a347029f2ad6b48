package protection

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
)

func at(t *testing.T, zone, s string) time.Time {
	t.Helper()
	loc, err := time.LoadLocation(zone)
	require.NoError(t, err)
	v, err := time.ParseInLocation("2006-01-02 15:04:05", s, loc)
	require.NoError(t, err)
	return v
}

func TestOpen(t *testing.T) {
	night := api.Window{Days: []string{"mon", "fri"}, From: "18:00", To: "08:00"}
	noon := api.Window{From: "12:00", To: "13:00"}
	weekend := api.Window{Days: []string{"sat", "sun"}, From: "00:00", To: "00:00"}
	early := api.Window{From: "02:30", To: "03:30"}
	cases := []struct {
		window api.Window
		when   string // in Berlin; 2026-01-05 is a Monday
		open   bool
	}{
		{night, "2026-01-05 17:59:59", false},
		{night, "2026-01-05 18:00:00", true},
		{night, "2026-01-05 23:59:59", true},
		{night, "2026-01-06 00:00:00", true},
		{night, "2026-01-06 07:59:59", true},
		{night, "2026-01-06 08:00:00", false},
		{night, "2026-01-06 18:00:00", false},
		{night, "2026-01-05 07:00:00", false}, // Sunday's night is not in it
		{night, "2026-01-10 07:00:00", true},
		{noon, "2026-01-07 12:00:00", true},
		{noon, "2026-01-07 13:00:00", false},
		{weekend, "2026-01-09 23:59:59", false},
		{weekend, "2026-01-10 00:00:00", true},
		{weekend, "2026-01-11 23:59:59", true},
		{weekend, "2026-01-12 00:00:00", false},
		// The clock is put forward from 2:00 to 3:00.
		{early, "2026-03-29 01:59:59", false},
		{early, "2026-03-29 03:00:00", true},
		{early, "2026-03-29 03:30:00", false},
		{night, "2026-07-06 18:00:00", true}, // by summer time
	}
	for _, c := range cases {
		p := api.Policy{Windows: []api.Window{c.window}, TimeZone: "Europe/Berlin"}
		require.Equal(t, c.open, Open(p, at(t, "Europe/Berlin", c.when).UTC()), "%s in %+v", c.when, c.window)
	}
	// The hour that comes twice is in the window both times: from 0:30 UTC to 2:30 UTC without the pause between.
	p := api.Policy{Windows: []api.Window{{From: "02:00", To: "03:00"}}, TimeZone: "Europe/Berlin"}
	for minute := range 120 {
		now := time.Date(2026, 10, 25, 0, 0, 0, 0, time.UTC).Add(time.Duration(minute) * time.Minute)
		require.True(t, Open(p, now), "%s", now)
	}
	require.False(t, Open(p, time.Date(2026, 10, 25, 2, 0, 0, 0, time.UTC)))
	require.False(t, Open(p, time.Date(2026, 10, 24, 23, 59, 0, 0, time.UTC)))

	require.True(t, Open(api.Policy{}, noonOf(t)), "no window closes nothing")
	require.True(t, Open(api.Policy{Windows: []api.Window{early}, TimeZone: "Gone/Away"}, noonOf(t)), "nor does one that nobody understands")
	require.False(t, Open(api.Policy{Windows: []api.Window{early}}, noonOf(t)), "UTC without a zone")
}

func noonOf(t *testing.T) time.Time { return at(t, "UTC", "2026-01-07 12:00:00") }

func TestMbit(t *testing.T) {
	c := api.BandwidthCalendar{TimeZone: "America/New_York", Mbit: 50, Rules: []api.BandwidthRule{
		{Window: api.Window{Days: []string{"mon", "tue", "wed", "thu", "fri"}, From: "08:00", To: "18:00"}, Mbit: 10},
		{Window: api.Window{From: "12:00", To: "22:00"}, Mbit: 0},
	}}
	for when, mbit := range map[string]int{
		"2026-01-05 07:59:59": 50, "2026-01-05 08:00:00": 10, "2026-01-05 17:59:59": 10, "2026-01-05 18:00:00": 0,
		"2026-01-05 22:00:00": 50, "2026-01-10 08:00:00": 50, "2026-01-10 12:00:00": 0,
	} {
		require.Equal(t, mbit, Mbit(c, at(t, "America/New_York", when).UTC()), when)
	}
	require.Zero(t, Mbit(api.BandwidthCalendar{}, noonOf(t)))
}

func TestLongestClosed(t *testing.T) {
	cases := map[string]struct {
		windows []api.Window
		want    time.Duration
	}{
		"always":         {nil, 0},
		"all day":        {[]api.Window{{From: "05:00", To: "05:00"}}, 0},
		"each night":     {[]api.Window{{From: "20:00", To: "06:00"}}, 14 * time.Hour},
		"two windows":    {[]api.Window{{From: "20:00", To: "06:00"}, {From: "12:00", To: "13:00"}}, 7 * time.Hour},
		"over the week":  {[]api.Window{{Days: []string{"wed"}, From: "00:00", To: "00:00"}}, 6 * 24 * time.Hour},
		"at its corners": {[]api.Window{{Days: []string{"mon"}, From: "00:00", To: "01:00"}, {Days: []string{"sun"}, From: "23:00", To: "00:00"}}, 6*24*time.Hour + 22*time.Hour},
	}
	for name, c := range cases {
		require.Equal(t, c.want, LongestClosed(api.Policy{Windows: c.windows}), name)
	}
}

func TestTurned(t *testing.T) {
	policy := api.Policy{TimeZone: "Europe/Berlin", Windows: []api.Window{{Days: []string{"mon", "tue"}, From: "22:00", To: "06:00"}}}
	zone, err := api.Zone(policy.TimeZone)
	require.NoError(t, err)
	at := func(day, hour, minute int) time.Time { return time.Date(2026, 1, day, hour, minute, 0, 0, zone) } // the 5th is a Monday
	for now, want := range map[time.Time]struct {
		at   time.Time
		open bool
	}{
		at(5, 21, 59): {at(0, 6, 0), false}, // of the week before
		at(5, 22, 0):  {at(5, 22, 0), true},
		at(6, 3, 0):   {at(5, 22, 0), true},
		at(6, 6, 0):   {at(6, 6, 0), false},
		at(7, 5, 0):   {at(6, 22, 0), true},
		at(11, 12, 0): {at(7, 6, 0), false},
	} {
		got, open := Turned(policy, now)
		require.True(t, want.at.Equal(got), "%s: %s", now, got)
		require.Equal(t, want.open, open, now)
	}
	got, open := Turned(api.Policy{}, at(5, 12, 0))
	require.True(t, open)
	require.Zero(t, got)
}
