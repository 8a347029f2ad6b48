package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
)

// readme turns saved figures into the README's table, the machine named.
func readme(w io.Writer, path string) error {
	report, err := load(path)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "On %s:\n\n| row | work | ours | beside | theirs | ratio | goal | |\n|---|---|---|---|---|---|---|---|\n", report.Machine)
	for _, f := range report.Figures {
		goal, verdict := "", ""
		if f.Goal != 0 {
			goal, verdict = fmt.Sprintf("%.1f×", f.Goal), "missed"
			if f.Met {
				verdict = "met"
			}
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %.2f× | %s | %s |\n",
			f.Row, f.What, amount(f.Ours, f.Unit), f.Peer, amount(f.Theirs, f.Unit), f.Ratio, goal, verdict)
	}
	return nil
}

// amount shows three digits that mean something.
func amount(v float64, unit string) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f %s", v, unit)
	case v >= 10:
		return fmt.Sprintf("%.1f %s", v, unit)
	}
	return fmt.Sprintf("%.2f %s", v, unit)
}

// machineName is the number of cores and what the processor calls itself.
func machineName() string {
	model := runtime.GOARCH
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%d cores of %s", runtime.NumCPU(), model)
}
