package cli

import (
	"fmt"
	"io"
	"sync"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"understudy/api"
)

// progress shows a job at work. All its methods are called by one goroutine; end is the last.
type progress interface {
	update(api.Job)
	end()
}

func (a *app) progress(job api.Job) progress {
	switch {
	case a.json:
		return silence{}
	case a.draws:
		return newBar(a.err, a.took)
	}
	return &lines{app: a, last: api.Job{Kind: job.Kind}}
}

// silence is for programs: they get the job at its end.
type silence struct{}

func (silence) update(api.Job) {}
func (silence) end()           {}

// lines writes a line for each new step, for logs and pipes.
type lines struct {
	app  *app
	last api.Job
}

func (l *lines) update(j api.Job) {
	if j.State == l.last.State && j.Step == l.last.Step && waitingText(j) == waitingText(l.last) {
		return
	}
	l.last = j
	if !j.State.Ended() {
		l.app.say("%s", plain(headline(j)))
	}
}

func (l *lines) end() {}

func headline(j api.Job) string {
	text := fmt.Sprintf("%s %s", j.Kind, j.State)
	for i, step := range j.Steps {
		if step == j.Step {
			text = fmt.Sprintf("%s: %s (%d/%d)", text, step, i+1, len(j.Steps))
			if j.Waiting != nil {
				text += ": waits " + waitingText(j) + "; see \"understudy jobs confirm\""
			}
			return text
		}
	}
	if j.Step != "" {
		text += ": " + j.Step
	}
	return text
}

func progressText(p api.Progress) string {
	switch {
	case p.Total > 0:
		return size(p.Done) + " of " + size(p.Total)
	case p.Done > 0:
		return size(p.Done)
	}
	return ""
}

// bar draws on a terminal.
type bar struct {
	paint *mpb.Progress
	bar   *mpb.Bar

	mu  sync.Mutex // the painter reads on its own goroutine
	job api.Job
}

func newBar(out io.Writer, took func(api.Job) string) *bar {
	b := &bar{}
	b.paint = mpb.New(mpb.WithOutput(out), mpb.WithAutoRefresh())
	text := func(f func(api.Job) string) decor.Decorator {
		return decor.Any(func(decor.Statistics) string {
			b.mu.Lock()
			defer b.mu.Unlock()
			return f(b.job)
		})
	}
	b.bar = b.paint.New(0, mpb.BarStyle(), mpb.BarWidth(24),
		mpb.PrependDecorators(text(func(j api.Job) string { return plain(headline(j)) + " " })),
		mpb.AppendDecorators(text(func(j api.Job) string { return " " + progressText(j.Progress) + "  " + took(j) })))
	return b
}

func (b *bar) update(j api.Job) {
	b.mu.Lock()
	b.job = j
	b.mu.Unlock()
	// Without a known total the bar stays empty, and the text tells.
	b.bar.SetTotal(max(j.Progress.Total, 1), false)
	b.bar.SetCurrent(min(j.Progress.Done, j.Progress.Total))
}

func (b *bar) end() {
	b.bar.Abort(true) // makes room for the last line
	b.paint.Wait()
}
