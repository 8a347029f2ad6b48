package cli

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"understudy/api"
)

// duration is a flag in whole seconds, with units up to days: 90s, 5m, 1h30m, 1d, 1d12h.
type duration struct {
	seconds int
	set     bool
}

func (d *duration) Type() string { return "duration" }

func (d *duration) String() string {
	if !d.set {
		return ""
	}
	return span(time.Duration(d.seconds) * time.Second)
}

func (d *duration) Set(s string) (err error) {
	d.seconds, err = parseDuration(s)
	d.set = err == nil
	return err
}

var durationForm = regexp.MustCompile(`^(?:(\d{1,5})d)?((?:\d+(?:\.\d+)?[hms])*)$`)

// parseDuration gives whole seconds.
func parseDuration(s string) (int, error) {
	if s == "0" {
		return 0, nil
	}
	form := durationForm.FindStringSubmatch(s)
	if form == nil || s == "" {
		return 0, fmt.Errorf("%q is no duration; write it as 90s, 5m, 1h30m or 1d", s)
	}
	var d time.Duration
	if form[1] != "" {
		days, err := strconv.Atoi(form[1])
		if err != nil {
			return 0, err // at most five digits: never
		}
		d = time.Duration(days) * 24 * time.Hour
	}
	if form[2] != "" {
		rest, err := time.ParseDuration(form[2])
		if err != nil || d+rest < d {
			return 0, fmt.Errorf("%q is too long a duration", s)
		}
		d += rest
	}
	if d%time.Second != 0 {
		return 0, fmt.Errorf("%q is not in whole seconds", s)
	}
	return int(d / time.Second), nil
}

// parseRetention reads tiers as EVERY:FOR[:COUNT] with commas between them, such as 5m:2h,1h:1d or 0:0:24.
func parseRetention(s string) ([]api.RetentionTier, error) {
	var tiers []api.RetentionTier
	for _, text := range strings.Split(s, ",") {
		parts := strings.Split(strings.TrimSpace(text), ":")
		if len(parts) != 2 && len(parts) != 3 {
			return nil, fmt.Errorf("%q is no retention; write it as EVERY:FOR[:COUNT], such as 5m:2h,1h:1d", text)
		}
		var tier api.RetentionTier
		var err error
		if tier.EverySeconds, err = parseDuration(parts[0]); err != nil {
			return nil, err
		}
		if tier.ForSeconds, err = parseDuration(parts[1]); err != nil {
			return nil, err
		}
		if len(parts) == 3 {
			if tier.Count, err = strconv.Atoi(parts[2]); err != nil || tier.Count < 0 {
				return nil, fmt.Errorf("%q is no number of points", parts[2])
			}
		}
		tiers = append(tiers, tier)
	}
	return tiers, nil
}

func retentionText(tiers []api.RetentionTier) string {
	if len(tiers) == 0 {
		return "the newest 24 points"
	}
	var texts []string
	for _, tier := range tiers {
		text := "every point"
		if tier.EverySeconds > 0 {
			text = "one per " + seconds(float64(tier.EverySeconds))
		}
		if tier.ForSeconds > 0 {
			text += " for " + seconds(float64(tier.ForSeconds))
		}
		if tier.Count > 0 {
			text += fmt.Sprintf(", at most %d", tier.Count)
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, "; ")
}
