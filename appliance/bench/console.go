package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	consoleMachines = 5000
	// consoleRPO, in seconds, makes as many cycles a minute as the 1,000 machines of row P6.
	consoleRPO    = 5 * scaleRPO
	consoleWindow = time.Minute
	consoleWatch  = 30 * time.Second
	// wheelPixels in each frame are a hundred rows a second, as fast as a wheel turns; flingPixels are all rows in ten
	// seconds, for which one drags the bar.
	wheelPixels, flingPixels = 100, 480
	// slowFrame is what a person sees as a jerk, in milliseconds.
	slowFrame = 50
)

// console is row C1: the web console in Debian's Chromium, against the appliance of row P6 with 5,000 machines whose cycles
// run. The browser has the same cores as the appliance; its first views begin with nothing cached.
func console(ctx context.Context, b bench) ([]Figure, error) {
	dir, err := os.MkdirTemp("", "bench-console") // on the disk, as in row P6
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a, err := startAppliance(ctx, dir, consoleMachines)
	if err != nil {
		return nil, err
	}
	defer a.stop()
	groups, err := a.protect(ctx, consoleRPO)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(os.Stderr, "C1: %d machines are protected\n", consoleMachines)
	if err := pause(ctx, consoleWindow); err != nil { // the first mirrors have gone by
		return nil, err
	}
	alone, err := a.spent(ctx, consoleWindow)
	if err != nil {
		return nil, err
	}
	page, err := openBrowser(ctx, a, filepath.Join(dir, "setup.token"))
	if err != nil {
		return nil, err
	}
	defer page.close()
	figures, err := page.views(b.runs)
	if err != nil {
		return nil, err
	}
	more, err := page.use(b.runs)
	if err != nil {
		return nil, err
	}
	figures = append(figures, more...)
	if more, err = page.stay(ctx, a, alone); err != nil {
		return nil, err
	}
	figures = append(figures, more...)
	// A browser does not run on the appliance: the lists are asked for without it, but with a reader of all events.
	if err := page.do(map[string]any{"do": "close"}, &struct{}{}); err != nil {
		return nil, err
	}
	w, err := a.watch(ctx, groups[0].ID, 2*time.Minute, 30*time.Millisecond)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(os.Stderr, "C1: lists, p99 in ms: %v\n", w.p99())
	slowest := scaled{lists: w.p99()}.slowest()
	return append(figures, within("console: slowest list call of the API, p99", "ms", slowest, "limit", 50)), nil
}

// spent is the processor time that the appliance takes in a while, as a share of one core in percent.
func (a *appliance) spent(ctx context.Context, d time.Duration) (float64, error) {
	before, err := a.cpu()
	if err != nil {
		return 0, err
	}
	from := time.Now()
	if err := pause(ctx, d); err != nil {
		return 0, err
	}
	after, err := a.cpu()
	return 100 * (after - before).Seconds() / time.Since(from).Seconds(), err
}

// browser is ui/bench/console.mjs, which does one order after the other in Chromium.
type browser struct {
	cmd     *exec.Cmd
	orders  io.WriteCloser
	answers *json.Decoder
}

func openBrowser(ctx context.Context, a *appliance, setup string) (*browser, error) {
	token, err := os.ReadFile(setup)
	if err != nil {
		return nil, err
	}
	b := &browser{cmd: exec.CommandContext(ctx, "node", "bench/console.mjs")}
	b.cmd.Dir, b.cmd.Stderr = "ui", os.Stderr
	b.cmd.Env = append(os.Environ(), "UNDERSTUDY_URL="+a.url, "UNDERSTUDY_SETUP="+strings.TrimSpace(string(token)))
	// Without its parent it would end as well, for then its orders end, but not before the one at work is done.
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if b.orders, err = b.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := b.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	b.answers = json.NewDecoder(out)
	return b, b.cmd.Start()
}

func (b *browser) close() {
	_ = b.orders.Close()
	_ = b.cmd.Wait()
}

// do has the browser do one thing and reads what came of it into out.
func (b *browser) do(order map[string]any, out any) error {
	line, err := json.Marshal(order)
	if err != nil {
		return err
	}
	if _, err := b.orders.Write(append(line, '\n')); err != nil {
		return errors.Join(fmt.Errorf("browser: %s", line), err)
	}
	if err := b.answers.Decode(out); err != nil {
		return fmt.Errorf("browser: %s: %w", line, err)
	}
	return nil
}

// views opens pages with nothing cached, and again.
func (b *browser) views(runs int) (figures []Figure, err error) {
	for _, v := range []struct{ path, name string }{{"/overview", "overview"}, {"/machines", "all machines"}} {
		var cold, warm []float64
		var seen struct{ Cold, Warm, Requests, Bytes float64 }
		for run := range runs {
			if err := b.do(map[string]any{"do": "view", "path": v.path}, &seen); err != nil {
				return nil, err
			}
			fmt.Fprintf(os.Stderr, "C1: %s, run %d of %d: %.0f ms, again %.0f ms, %.0f requests, %.0f KiB\n",
				v.path, run+1, runs, seen.Cold, seen.Warm, seen.Requests, seen.Bytes/1024)
			cold, warm = append(cold, seen.Cold/1e3), append(warm, seen.Warm/1e3)
		}
		figures = append(figures,
			within("console: first view of "+v.name, "s", median(cold), "limit", 1.5),
			against("console: first view of "+v.name+", files cached", "s", median(warm), "1.5 s, to compare", 1.5, 0))
	}
	return figures, nil
}

// use scrolls and filters the list of all machines.
func (b *browser) use(runs int) ([]Figure, error) {
	if err := b.do(map[string]any{"do": "open", "path": "/machines"}, &struct{}{}); err != nil {
		return nil, err
	}
	var wheel, fling, filtered []float64
	for run := range runs {
		frames, err := b.scroll(wheelPixels)
		if err != nil {
			return nil, err
		}
		wheel = append(wheel, frames...)
		if frames, err = b.scroll(flingPixels); err != nil {
			return nil, err
		}
		fling = append(fling, frames...)
		var filter struct{ MS float64 }
		if err := b.do(map[string]any{"do": "filter", "text": fmt.Sprintf("vm%02d", 10+7*run%40)}, &filter); err != nil {
			return nil, err
		}
		fmt.Fprintf(os.Stderr, "C1: filtered, run %d of %d: %.0f ms\n", run+1, runs, filter.MS)
		filtered = append(filtered, filter.MS)
	}
	return []Figure{
		within("console: frames over 50 ms when scrolling by 100 rows a second", "%", slow(wheel), "limit", 1),
		against("console: longest frame of these", "ms", slices.Max(wheel), "50 ms, to compare", slowFrame, 0),
		against("console: frames over 50 ms when all rows go by in 10 s", "%", slow(fling), "1 %, to compare", 1, 0),
		within("console: last key of a filter until its rows are shown", "ms", median(filtered), "limit", 500),
	}, b.do(map[string]any{"do": "close"}, &struct{}{})
}

// scroll goes through all machines and gives what each frame took, in milliseconds.
func (b *browser) scroll(pixels int) ([]float64, error) {
	var seen struct {
		Frames                         []float64
		Blank, Settled, Rows, Requests float64
	}
	if err := b.do(map[string]any{"do": "scroll", "pixels": pixels}, &seen); err != nil {
		return nil, err
	}
	if seen.Rows != consoleMachines-1 {
		return nil, fmt.Errorf("scrolling ended at row %.0f", seen.Rows)
	}
	fmt.Fprintf(os.Stderr, "C1: scrolled by %d pixels: %d frames, median %.0f ms, longest %.0f ms, %.1f %% over %d ms, %.0f not whole, the rest after %.0f ms, %.0f requests\n",
		pixels, len(seen.Frames), median(seen.Frames), slices.Max(seen.Frames), slow(seen.Frames), slowFrame, seen.Blank, seen.Settled, seen.Requests)
	return seen.Frames, nil
}

// slow is the share of frames that a person sees, in percent.
func slow(frames []float64) float64 {
	n := 0
	for _, ms := range frames {
		if ms > slowFrame {
			n++
		}
	}
	return 100 * float64(n) / float64(len(frames))
}

// stay leaves the overview open while cycles run, and then the list of all machines, which stays open.
func (b *browser) stay(ctx context.Context, a *appliance, alone float64) (figures []Figure, err error) {
	for i, path := range []string{"/overview", "/machines"} {
		if i > 0 {
			if err := b.do(map[string]any{"do": "close"}, &struct{}{}); err != nil {
				return nil, err
			}
		}
		if err := b.do(map[string]any{"do": "open", "path": path}, &struct{}{}); err != nil {
			return nil, err
		}
		var seen struct {
			Requests, Bytes, HeapBefore, HeapAfter, RSS, CPU float64
			Asked                                            map[string]float64
		}
		if err := b.do(map[string]any{"do": "watch", "seconds": consoleWatch.Seconds()}, &seen); err != nil {
			return nil, err
		}
		fmt.Fprintf(os.Stderr, "C1: %s open: %.1f requests a second %v, %.0f KiB/s, heap %.1f MiB and then %.1f MiB, renderer %.0f MiB, %.0f %% of a core\n",
			path, seen.Requests/consoleWatch.Seconds(), seen.Asked, seen.Bytes/1024/consoleWatch.Seconds(),
			seen.HeapBefore/(1<<20), seen.HeapAfter/(1<<20), seen.RSS/(1<<20), 100*seen.CPU)
		if path != "/overview" {
			figures = append(figures, within("console: requests a second of the open list of machines", "", seen.Requests/consoleWatch.Seconds(), "limit", 4))
			break
		}
		with, err := a.spent(ctx, consoleWindow)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(os.Stderr, "C1: the appliance takes %.1f %% of a core alone, %.1f %% with a console open\n", alone, with)
		figures = append(figures,
			within("console: requests a second of the open overview", "", seen.Requests/consoleWatch.Seconds(), "limit", 4),
			within("console: memory of the page's process", "MiB", seen.RSS/(1<<20), "limit", 300),
			within("console: processor time of the page's process", "%", 100*seen.CPU, "of a core", 20),
			within("console: processor time that it costs the appliance to have one open", "%", with-alone, "of a core", 10))
	}
	return figures, nil
}
