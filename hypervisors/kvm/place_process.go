package kvm

import (
	"context"
	"sync"
)

// lifeline is the wrapper around every command of a place. Its standard input is a pipe that this process holds: when
// that closes – by Stop, by the death of this process, by the loss of the SSH connection – the command is ended. It
// ends with the command's own status. It is asked more than once: a qemu-storage-daemon (7.2) that hears of it just before
// it begins to wait goes on waiting for whatever comes next.
const lifeline = `exec 3<&0
"$@" </dev/null 3<&- &
pid=$!
{
	read -r _
	trap 'kill "$nap"; exit' TERM
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		kill "$pid"
		sleep 1 & nap=$!
		wait "$nap"
	done
	kill -9 "$pid"
} <&3 >/dev/null 2>&1 &
watch=$!
exec 3<&- </dev/null
wait "$pid"; status=$?
kill "$watch" 2>/dev/null
exit "$status"`

func withLifeline(argv []string) []string {
	return append([]string{"sh", "-c", lifeline, "lifeline"}, argv...)
}

// process is a command at a place that lives until it is stopped.
type process struct {
	cut    func() // closes the lifeline
	done   chan struct{}
	err    error // how it ended; valid once done is closed
	stderr tail
}

// Done is closed when the command has ended, for whatever reason.
func (p *process) Done() <-chan struct{} { return p.done }

// Err says how the command ended: nil for status zero. Only valid after Done.
func (p *process) Err() error { return p.err }

// Stderr is the end of what the command complained about so far.
func (p *process) Stderr() string { return p.stderr.String() }

// Stop ends the command and waits until it is gone. Stopping twice is fine.
func (p *process) Stop(ctx context.Context) error {
	p.cut()
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// tail keeps the last bytes written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailSize = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - tailSize; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}
