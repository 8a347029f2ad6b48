package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Figure is one line of the table: something of ours beside a peer's, or beside a limit; less is better. Values are medians
// unless What says otherwise.
type Figure struct {
	Row    string  `json:"row"`
	What   string  `json:"what"`
	Unit   string  `json:"unit"`
	Ours   float64 `json:"ours"`
	Peer   string  `json:"peer"`
	Theirs float64 `json:"theirs"`
	Ratio  float64 `json:"ratio"` // theirs by ours: how much better we are
	Goal   float64 `json:"goal"`  // the ratio to reach; 0: shown to compare, without a goal
	Met    bool    `json:"met"`
}

// against compares a value of ours with one of theirs.
func against(what, unit string, ours float64, peer string, theirs, goal float64) Figure {
	ratio := theirs / max(ours, 1e-9)
	return Figure{What: what, Unit: unit, Ours: ours, Peer: peer, Theirs: theirs, Ratio: ratio, Goal: goal, Met: ratio >= goal}
}

// within compares a value of ours with the most it may be.
func within(what, unit string, ours float64, name string, limit float64) Figure {
	return against(what, unit, ours, name, limit, 1)
}

// contender is one way to do a row's work; it is called once per run.
type contender struct {
	name string
	goal float64 // how much faster than it we want to be; 0 for us
	run  func(ctx context.Context) (time.Duration, error)
}

// compare lets the contenders take turns, the first being us, and compares medians.
func compare(ctx context.Context, what string, runs int, all []contender) ([]Figure, error) {
	times := make([][]float64, len(all))
	for run := range runs {
		for i, c := range all {
			took, err := c.run(ctx)
			if err != nil {
				return nil, fmt.Errorf("%s: %s: %w", what, c.name, err)
			}
			fmt.Fprintf(os.Stderr, "%s: run %d of %d: %-26s %7.3f s\n", what, run+1, runs, c.name, took.Seconds())
			times[i] = append(times[i], took.Seconds())
		}
	}
	var figures []Figure
	for i, c := range all[1:] {
		figures = append(figures, against(what, "s", median(times[0]), c.name, median(times[i+1]), c.goal))
	}
	return figures, nil
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

func print(figures []Figure) {
	fmt.Printf("%-4s %-50s %11s      %-26s %11s      %7s %7s\n", "row", "work", "ours", "peer or limit", "theirs", "ratio", "goal")
	for _, f := range figures {
		goal := "-"
		if f.Goal != 0 {
			goal = fmt.Sprintf("%.2fx", f.Goal)
		}
		verdict := ""
		if !f.Met {
			verdict = "  missed"
		}
		fmt.Printf("%-4s %-50s %11.3f %-4s %-26s %11.3f %-4s %6.2fx %7s%s\n",
			f.Row, f.What, f.Ours, f.Unit, f.Peer, f.Theirs, f.Unit, f.Ratio, goal, verdict)
	}
}

// Report is what is saved: the figures of each row's newest run, and the machine that they were taken on.
type Report struct {
	Machine string   `json:"machine"`
	Figures []Figure `json:"figures"`
}

// save writes the figures for programs. Those of rows that were not run stay, if they are this machine's.
func save(path string, ran []row, figures []Figure) error {
	if path == "" {
		return nil
	}
	report := Report{Machine: machineName()}
	before, err := load(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, r := range rows {
		from := figures
		if before.Machine == report.Machine && !slices.ContainsFunc(ran, func(done row) bool { return done.name == r.name }) {
			from = before.Figures
		}
		for _, f := range from {
			if f.Row == r.name {
				report.Figures = append(report.Figures, f)
			}
		}
	}
	text, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

func load(path string) (r Report, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return r, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}
