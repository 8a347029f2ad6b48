package receivers

import (
	_ "embed" // the servers
	"strconv"
	"testing"
)

//go:embed smtpd.py
var smtpd string

//go:embed hookd.py
var hookd string

// Mail is one that a mail server took.
type Mail struct {
	From          string
	To            []string
	Data          string
	TLS           bool
	Authenticated bool
}

// Smtpd is a mail server.
type Smtpd struct {
	*child
	Port int
	fail string
}

// StartSmtpd runs a mail server in mode starttls, tls or plain; but for plain it wants user and password.
func StartSmtpd(t testing.TB, id Identity, mode, user, password string) *Smtpd {
	t.Helper()
	s := &Smtpd{child: newChild(t), Port: freePort(t, "tcp")}
	s.fail = s.write("fail", "")
	s.run(nil, "/usr/bin/python3", s.write("smtpd.py", smtpd), mode, strconv.Itoa(s.Port), id.CertFile, id.KeyFile, user, password, s.fail)
	s.untilBound("tcp", s.Port)
	return s
}

// Fail makes the server answer every mail with this; empty: it takes them again.
func (s *Smtpd) Fail(answer string) { s.write("fail", answer) }

// Refused counts the mails that got such an answer.
func (s *Smtpd) Refused() int {
	n := 0
	for _, line := range lines[struct{ Refused string }](s.child) {
		if line.Refused != "" {
			n++
		}
	}
	return n
}

// Mails are those that it took.
func (s *Smtpd) Mails() []Mail {
	var mails []Mail
	for _, m := range lines[Mail](s.child) {
		if m.Data != "" {
			mails = append(mails, m)
		}
	}
	return mails
}

// Hook is one request that a receiver of webhooks got.
type Hook struct {
	Path     string
	ID       string
	Problem  string // of the signature
	Answered string
	Body     struct {
		Type string
		Data struct {
			Appliance, Subject, Severity, Link string
			Total                              int
			Alert                              map[string]any
			Alerts                             []map[string]any
		}
	}
}

// Hookd is a receiver of webhooks.
type Hookd struct {
	*child
	Port int
}

// StartHookd runs a receiver that knows the secret.
func StartHookd(t testing.TB, id Identity, secret string) *Hookd {
	t.Helper()
	h := &Hookd{newChild(t), freePort(t, "tcp")}
	h.run(nil, "/usr/bin/python3", h.write("hookd.py", hookd), strconv.Itoa(h.Port), id.CertFile, id.KeyFile, secret, h.write("answers", ""))
	h.untilBound("tcp", h.Port)
	return h
}

// Answer sets what the next requests are answered, a line each; see hookd.py.
func (h *Hookd) Answer(text string) { h.write("answers", text) }

// Hooks are the requests that came.
func (h *Hookd) Hooks() []Hook {
	var hooks []Hook
	for _, one := range lines[Hook](h.child) {
		if one.Path != "" {
			hooks = append(hooks, one)
		}
	}
	return hooks
}
