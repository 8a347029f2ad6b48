package api

import (
	"fmt"
	"slices"
	"sync"
	"time"
	// So that a time zone means the same on machines that have no data of their own about them.
	_ "time/tzdata"
)

// Weekdays as windows name them.
var Weekdays = []string{"mon", "tue", "wed", "thu", "fri", "sat", "sun"}

const (
	maxWindows = 32
	maxRules   = 64
	maxMbit    = 1_000_000
)

// Window is a time of day on some days of the week, by the clock on the wall of a time zone. Where that clock jumps, so
// does the window: an hour that is skipped is in none, one that comes twice is in it twice.
type Window struct {
	Days []string `json:"days,omitempty" maxItems:"7" doc:"mon, tue, wed, thu, fri, sat, sun: when it begins; empty means every day"`
	From string   `json:"from" minLength:"4" maxLength:"5" example:"18:00"`
	// To on the next day when it is not after From; the same as From is a whole day.
	To string `json:"to" minLength:"4" maxLength:"5" example:"08:00" doc:"Excluded. Not after from means on the next day"`
}

// BandwidthCalendar bounds all copies of the appliance together, by time of day. Policies bound single groups; of the two
// the tighter one holds.
type BandwidthCalendar struct {
	Revision int64           `json:"revision" doc:"For If-Match"`
	TimeZone string          `json:"timeZone,omitempty" maxLength:"64" example:"Europe/Berlin" doc:"Of the rules; empty means UTC"`
	Mbit     int             `json:"mbit" minimum:"0" maximum:"1000000" doc:"Where no rule says otherwise; 0 means no bound"`
	Rules    []BandwidthRule `json:"rules" maxItems:"64" nullable:"false" doc:"The first that is open holds"`
}

// BandwidthRule is a bound for a window.
type BandwidthRule struct {
	Window
	Mbit int `json:"mbit" minimum:"0" maximum:"1000000" doc:"0 means no bound"`
}

// Validate checks a calendar; see GroupSpec.Validate.
func (c BandwidthCalendar) Validate() error {
	if err := validateZone("timeZone", c.TimeZone); err != nil {
		return err
	}
	if err := validateMbit("mbit", c.Mbit); err != nil {
		return err
	}
	if len(c.Rules) > maxRules {
		return invalid("rules", "Use fewer rules.", "%d rules are more than %d", len(c.Rules), maxRules)
	}
	for i, r := range c.Rules {
		field := fmt.Sprintf("rules[%d]", i)
		if err := r.validate(field); err != nil {
			return err
		}
		if err := validateMbit(field+".mbit", r.Mbit); err != nil {
			return err
		}
	}
	return nil
}

func validateMbit(field string, mbit int) error {
	if mbit < 0 || mbit > maxMbit {
		return invalid(field, "Use 1 to 1000000, or 0 for no bound.", "a bandwidth of %d Mbit/s is not possible", mbit)
	}
	return nil
}

// Zone is the time zone of a name; empty means UTC.
func Zone(name string) (*time.Location, error) {
	if name == "Local" || len(name) > 64 { // what is local differs between the appliance and who writes it
		return nil, fmt.Errorf("unknown time zone %.64q", name)
	}
	if z, known := zones.Load(name); known {
		return z.(*time.Location), nil
	}
	z, err := time.LoadLocation(name)
	if err == nil {
		zones.Store(name, z)
	}
	return z, err
}

// zones that were asked for, by name. To load one is to read a file, and the schedule asks for thousands of groups.
var zones sync.Map

func validateZone(field, name string) error {
	if _, err := Zone(name); err != nil {
		return invalid(field, "Use a name such as Europe/Berlin, or leave it out for UTC.", "there is no time zone %q", name)
	}
	return nil
}

func (w Window) validate(field string) error {
	for i, day := range w.Days {
		at := fmt.Sprintf("%s.days[%d]", field, i)
		if !slices.Contains(Weekdays, day) {
			return invalid(at, "Use mon, tue, wed, thu, fri, sat and sun.", "there is no day %q", day)
		}
		if slices.Contains(w.Days[:i], day) {
			return invalid(at, "Name each day once.", "day %s is named twice", day)
		}
	}
	if _, err := ParseClock(w.From); err != nil {
		return invalid(field+".from", "Write it as 18:00.", "%q is no time of day", w.From)
	}
	if _, err := ParseClock(w.To); err != nil {
		return invalid(field+".to", "Write it as 08:00.", "%q is no time of day", w.To)
	}
	return nil
}

// ParseClock reads "18:00" as minutes since midnight.
func ParseClock(s string) (minutes int, err error) {
	digits := func(i int) int { // by hand: the schedule asks often, and time.Parse takes its time
		if tens, ones := s[i]-'0', s[i+1]-'0'; tens <= 9 && ones <= 9 {
			return int(tens)*10 + int(ones)
		}
		return 60
	}
	if len(s) == len("18:00") && s[2] == ':' {
		if hour, minute := digits(0), digits(3); hour < 24 && minute < 60 {
			return hour*60 + minute, nil
		}
	}
	return 0, fmt.Errorf("%q is no time of day", s)
}

// validateWindows checks when cycles may start.
func (p Policy) validateWindows() error {
	if len(p.Windows) > maxWindows {
		return invalid("policy.windows", "Use fewer windows.", "%d windows are more than %d", len(p.Windows), maxWindows)
	}
	for i, w := range p.Windows {
		if err := w.validate(fmt.Sprintf("policy.windows[%d]", i)); err != nil {
			return err
		}
	}
	return validateZone("policy.timeZone", p.TimeZone)
}
