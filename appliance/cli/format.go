package cli

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

// table aligns rows below a header.
type table struct {
	w     io.Writer
	rows  bytes.Buffer
	align *tabwriter.Writer
}

func newTable(w io.Writer, columns ...any) *table {
	t := &table{w: w}
	t.align = tabwriter.NewWriter(&t.rows, 0, 0, 2, ' ', 0)
	if len(columns) > 0 {
		t.row(columns...)
	}
	return t
}

// row adds one line. Names come from hosts: control characters in them must not reach the terminal.
func (t *table) row(cells ...any) {
	for _, cell := range cells {
		fmt.Fprint(t.align, plain(fmt.Sprint(cell)), "\t")
	}
	fmt.Fprintln(t.align)
}

// flush writes the table, without the spaces that fill its last column.
func (t *table) flush() {
	t.align.Flush()
	for line := range strings.Lines(t.rows.String()) {
		fmt.Fprintln(t.w, strings.TrimRight(line, " \n"))
	}
}

func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
}

// plainLines is plain for texts of several lines.
func plainLines(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = plain(lines[i])
	}
	return strings.Join(lines, "\n")
}

// facts aligns names and values; empty values are left out.
func facts(w io.Writer, pairs ...string) {
	t := newTable(w)
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			t.row(pairs[i], pairs[i+1])
		}
	}
	t.flush()
}

// size writes bytes with a unit of 1024: 1.5 GiB.
func size(n int64) string {
	if n < 1024 && n > -1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n)/1024, 0
	for v >= 1023.95 && unit < 4 {
		v, unit = v/1024, unit+1
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0") + " " + []string{"KiB", "MiB", "GiB", "TiB", "PiB"}[unit]
}

// span writes a duration with its two largest units: 2h5m.
func span(d time.Duration) string {
	sign := ""
	if d < 0 {
		sign, d = "-", -d
	}
	d = d.Round(time.Second)
	const day = 24 * time.Hour
	switch {
	case d >= day:
		return sign + pair(d/day, "d", d%day/time.Hour, "h")
	case d >= time.Hour:
		return sign + pair(d/time.Hour, "h", d%time.Hour/time.Minute, "m")
	case d >= time.Minute:
		return sign + pair(d/time.Minute, "m", d%time.Minute/time.Second, "s")
	}
	return sign + pair(d/time.Second, "s", 0, "")
}

func pair(large time.Duration, unit string, small time.Duration, smallUnit string) string {
	if small == 0 {
		return fmt.Sprintf("%d%s", large, unit)
	}
	return fmt.Sprintf("%d%s%d%s", large, unit, small, smallUnit)
}

func seconds(s float64) string { return span(time.Duration(s * float64(time.Second))) }

func (a *app) age(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return span(a.now().Sub(t))
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") }

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
