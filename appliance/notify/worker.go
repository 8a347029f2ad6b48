package notify

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"understudy/api"
)

// sendTimeout bounds one attempt, whatever the receiver does.
const sendTimeout = 30 * time.Second

// sender brings one message to one receiver and says what that answered.
type sender interface {
	send(ctx context.Context, m message) (answer string, err error)
}

// refusal is an error of a receiver with what follows from it.
type refusal struct {
	err       error
	permanent bool          // trying again is of no use
	after     time.Duration // the receiver wants to be left alone for so long
	hint      string
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

var (
	errTooOld = &refusal{err: errors.New("given up after a day"), permanent: true}
	errFull   = &refusal{err: fmt.Errorf("given up: more than %d notifications waited", maxWaiting), permanent: true}
)

// attempt is how it went.
type attempt struct {
	id     string
	answer string
	err    error
}

func (a attempt) permanent() bool {
	var r *refusal
	return errors.As(a.err, &r) && r.permanent
}

func (a attempt) retryAfter() time.Duration {
	var r *refusal
	if errors.As(a.err, &r) {
		return r.after
	}
	return 0
}

func (a attempt) hint() string {
	var r *refusal
	if errors.As(a.err, &r) {
		return r.hint
	}
	return ""
}

// start lets a worker of its own serve the channel: one that hangs delays no other.
func (n *Notifier) start(l *line) {
	if n.ctx == nil || n.ctx.Err() != nil {
		return
	}
	ctx, stop := context.WithCancel(n.ctx)
	l.stop = stop
	n.done.Go(func() { n.serve(ctx, l) })
}

func (n *Notifier) serve(ctx context.Context, l *line) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		n.mu.Lock()
		head, wait := n.next(l, n.Clock().UTC())
		var m message
		var spec api.ChannelSpec
		if head != nil {
			m, spec = n.message(*head), l.ChannelSpec
		}
		n.mu.Unlock()
		if head != nil {
			a := n.try(ctx, l.ID, spec, m)
			if ctx.Err() == nil || a.err == nil {
				n.settle(l, a)
			}
			continue
		}
		var due <-chan time.Time
		if wait > 0 {
			timer.Reset(wait)
			due = timer.C
		}
		select {
		case <-ctx.Done():
		case <-l.wake:
		case <-due:
		}
	}
}

func (n *Notifier) message(e entry) message {
	return message{ID: e.ID, Time: e.Created, Notices: e.Notices, Total: e.Total, Console: n.ConsoleURL, From: n.Hostname}
}

// try sends a message once.
func (n *Notifier) try(ctx context.Context, channel string, spec api.ChannelSpec, m message) attempt {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	a := attempt{id: m.ID}
	spec, secrets, err := n.unseal(channel, spec)
	if err != nil {
		a.err = &refusal{err: err, hint: "Enter the channel's passwords again."}
		return a
	}
	a.answer, a.err = n.sender(spec).send(ctx, m)
	if errors.Is(a.err, context.DeadlineExceeded) && ctx.Err() != nil {
		a.err = &refusal{err: fmt.Errorf("no answer within %s", sendTimeout), hint: "Look whether the receiver is overloaded."}
	}
	// Libraries and receivers repeat what they were sent; the answer is kept and shown.
	a.answer = clean(a.answer, secrets)
	if a.err != nil {
		r := &refusal{}
		if !errors.As(a.err, &r) {
			r = &refusal{}
		}
		a.err = &refusal{err: errors.New(clean(a.err.Error(), secrets)), permanent: r.permanent, after: r.after, hint: r.hint}
	}
	return a
}

// maxAnswer bounds what is kept of an answer, in bytes.
const maxAnswer = 500

// clean takes secrets and control characters out of a text and shortens it.
func clean(text string, secrets []api.Secret) string {
	for _, s := range secrets {
		if !s.IsZero() {
			text = strings.ReplaceAll(text, s.Reveal(), api.Redacted)
		}
	}
	text = strings.Join(strings.Fields(oneLine(text)), " ")
	if len(text) > maxAnswer {
		text = strings.ToValidUTF8(text[:maxAnswer], "") + "…"
	}
	return text
}

// oneLine makes control characters spaces and repairs UTF-8.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}
