package protection

import (
	"slices"
	"time"

	"understudy/api"
)

// Open says whether the schedule may start cycles now: always, or within a window of the policy. A policy that cannot be
// read (a time zone that is gone) closes nothing: protection comes first.
func Open(p api.Policy, now time.Time) bool {
	if len(p.Windows) == 0 {
		return true
	}
	zone, err := api.Zone(p.TimeZone)
	if err != nil {
		return true
	}
	local := now.In(zone)
	return slices.ContainsFunc(p.Windows, func(w api.Window) bool { return within(w, local) })
}

// Turned is when the windows of a policy were opened or closed last, whichever came later, and whether they are open. A
// zero time: they always were.
func Turned(p api.Policy, now time.Time) (at time.Time, open bool) {
	open = Open(p, now)
	zone, err := api.Zone(p.TimeZone)
	if len(p.Windows) == 0 || err != nil {
		return time.Time{}, open
	}
	year, month, today := now.In(zone).Date()
	for back := range 9 { // a window of a week ago may be the only one
		for _, w := range p.Windows {
			for _, edge := range []string{w.From, w.To} {
				minutes, err := api.ParseClock(edge)
				if err != nil {
					continue
				}
				t := time.Date(year, month, today-back, 0, minutes, 0, 0, zone)
				if t.After(at) && !t.After(now) && Open(p, t) != Open(p, t.Add(-time.Minute)) {
					at = t
				}
			}
		}
		if !at.IsZero() {
			break
		}
	}
	return at, open
}

// Mbit is the bound for all copies together now, in Mbit/s; 0: none.
func Mbit(c api.BandwidthCalendar, now time.Time) int {
	zone, err := api.Zone(c.TimeZone)
	if err != nil {
		return c.Mbit
	}
	local := now.In(zone)
	for _, r := range c.Rules {
		if within(r.Window, local) {
			return r.Mbit
		}
	}
	return c.Mbit
}

const day = 24 * 60 // minutes

// LongestClosed is the longest time in a week in which the schedule starts nothing; 0: it always may. Weeks in which the
// clock is put forward or back are an hour off.
func LongestClosed(p api.Policy) time.Duration {
	if len(p.Windows) == 0 {
		return 0
	}
	monday := time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC)
	closed, longest := 0, 0
	for minute := range 2 * 7 * day { // twice, for what reaches over the end of the week
		local := monday.Add(time.Duration(minute) * time.Minute)
		if slices.ContainsFunc(p.Windows, func(w api.Window) bool { return within(w, local) }) {
			closed = 0
			continue
		}
		closed++
		longest = max(longest, closed)
	}
	return time.Duration(min(longest, 7*day)) * time.Minute
}

// within looks at a clock on the wall: what it shows decides, not how long ago something was. A window that reaches over
// midnight belongs to the day on which it begins.
func within(w api.Window, local time.Time) bool {
	from, err := api.ParseClock(w.From)
	if err != nil {
		return false
	}
	to, err := api.ParseClock(w.To)
	if err != nil {
		return false
	}
	clock := local.Hour()*60 + local.Minute()
	today, yesterday := on(w, local.Weekday()), on(w, (local.Weekday()+6)%7)
	if from < to {
		return today && from <= clock && clock < to
	}
	return today && from <= clock || yesterday && clock < to
}

func on(w api.Window, d time.Weekday) bool {
	return len(w.Days) == 0 || slices.Contains(w.Days, api.Weekdays[(int(d)+6)%7]) // Go's week begins on Sunday
}
