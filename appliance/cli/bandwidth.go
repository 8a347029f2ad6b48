package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"understudy/api"
	"understudy/api/client"
)

func (a *app) bandwidth() *cobra.Command {
	return family("bandwidth", "Bound all copies together, by the time of day",
		a.command("show", "Show the bandwidth calendar", 0, func(ctx context.Context, c *client.Client, _ []string) error {
			calendar, err := c.Bandwidth(ctx)
			if err != nil {
				return err
			}
			return a.showCalendar(calendar)
		}),
		a.bandwidthSet())
}

func (a *app) bandwidthSet() *cobra.Command {
	var mbit int
	var zone string
	var rules []string
	var none bool
	var cmd *cobra.Command
	cmd = a.command("set", "Change what is given of the bandwidth calendar", 0,
		func(ctx context.Context, c *client.Client, _ []string) error {
			calendar, err := c.Bandwidth(ctx)
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("mbit") {
				calendar.Mbit = mbit
			}
			if cmd.Flags().Changed("time-zone") {
				calendar.TimeZone = zone
			}
			if none || len(rules) > 0 {
				calendar.Rules = []api.BandwidthRule{}
			}
			for _, text := range rules {
				rule, err := parseRule(text)
				if err != nil {
					return err
				}
				calendar.Rules = append(calendar.Rules, rule)
			}
			if err := calendar.Validate(); err != nil {
				return err
			}
			if calendar, err = c.SetBandwidth(ctx, calendar.Revision, calendar); err != nil {
				return err
			}
			return a.showCalendar(calendar)
		})
	cmd.Example = "  understudy bandwidth set --time-zone Europe/Berlin --mbit 0 --rule mon-fri@08:00-18:00=50 --rule 22:00-04:00=0"
	flags := cmd.Flags()
	flags.IntVar(&mbit, "mbit", 0, "bound where no rule says otherwise, in Mbit/s; 0 means none")
	flags.StringVar(&zone, "time-zone", "", "of the rules, such as Europe/Berlin; empty means UTC")
	flags.StringArrayVar(&rules, "rule", nil, "rule as [DAYS@]FROM-TO=MBIT, such as mon-fri@08:00-18:00=50; repeat it, the first that is open holds; replaces the rules there are")
	flags.BoolVar(&none, "no-rules", false, "drop the rules there are")
	return cmd
}

func (a *app) showCalendar(c api.BandwidthCalendar) error {
	return a.show(c, func(w io.Writer) {
		facts(w, "time zone", zoneText(c.TimeZone), "otherwise", mbitText(c.Mbit), "revision", strconv.FormatInt(c.Revision, 10))
		if len(c.Rules) == 0 {
			return
		}
		fmt.Fprintln(w)
		t := newTable(w, "DAYS", "FROM", "TO", "BOUND")
		for _, r := range c.Rules {
			t.row(daysText(r.Days), r.From, r.To, mbitText(r.Mbit))
		}
		t.flush()
	})
}

func mbitText(mbit int) string {
	if mbit == 0 {
		return "unbounded"
	}
	return fmt.Sprintf("%d Mbit/s", mbit)
}

func zoneText(zone string) string {
	if zone == "" {
		return "UTC"
	}
	return zone
}

func daysText(days []string) string {
	if len(days) == 0 {
		return "every day"
	}
	return strings.Join(days, ",")
}

func parseRule(s string) (api.BandwidthRule, error) {
	window, rate, ok := strings.Cut(s, "=")
	mbit, err := strconv.Atoi(rate)
	if !ok || err != nil {
		return api.BandwidthRule{}, wrong(fmt.Sprintf("--rule %q is not [DAYS@]FROM-TO=MBIT", s))
	}
	w, err := parseWindow("--rule", window)
	return api.BandwidthRule{Window: w, Mbit: mbit}, err
}

// parseWindow reads [DAYS@]FROM-TO, where DAYS are names of days and ranges of them: mon-thu,sat.
func parseWindow(flag, s string) (api.Window, error) {
	days, clock, ok := strings.Cut(s, "@")
	if !ok {
		days, clock = "", s
	}
	from, to, ok := strings.Cut(clock, "-")
	if !ok {
		return api.Window{}, wrong(fmt.Sprintf("%s %q is not [DAYS@]FROM-TO, such as mon-fri@18:00-08:00", flag, s))
	}
	w := api.Window{From: from, To: to}
	if days == "" {
		return w, nil
	}
	for part := range strings.SplitSeq(days, ",") {
		first, last, several := strings.Cut(part, "-")
		if !several {
			last = first
		}
		at, end := slices.Index(api.Weekdays, first), slices.Index(api.Weekdays, last)
		if at < 0 || end < 0 {
			return w, wrong(fmt.Sprintf("%s %q: days are %s, or from-to", flag, s, strings.Join(api.Weekdays, ", ")))
		}
		for w.Days = append(w.Days, first); at != end; {
			at = (at + 1) % len(api.Weekdays)
			w.Days = append(w.Days, api.Weekdays[at])
		}
	}
	return w, nil
}

// windowTexts shows windows the way they are written.
func windowTexts(windows []api.Window) string {
	var all []string
	for _, w := range windows {
		text := w.From + "-" + w.To
		if len(w.Days) > 0 {
			text = strings.Join(w.Days, ",") + "@" + text
		}
		all = append(all, text)
	}
	return strings.Join(all, " ")
}

// windowsText is empty for a policy that is always open.
func windowsText(p api.Policy) string {
	if len(p.Windows) == 0 {
		return ""
	}
	return windowTexts(p.Windows) + " " + zoneText(p.TimeZone)
}
