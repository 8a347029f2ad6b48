package notify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
	"unicode/utf8"

	"understudy/api"
)

// syslogSender sends RFC 5424 messages. The formatter is our own: the library that has one (leodido/go-syslog) builds
// messages through variables of its package, which channels that send at once would share.
type syslogSender struct {
	api.SyslogChannel
	hostname string
}

// maxDatagram is what every receiver of RFC 5426 should take whole.
const maxDatagram = 2048

// closeWait is how long a receiver may take to close a connection on which everything was said. One that keeps it open
// has taken the message as far as anybody can know.
const closeWait = 3 * time.Second

func (s syslogSender) send(ctx context.Context, m message) (string, error) {
	line := s.format(m)
	if s.Transport == "udp" {
		return s.sendDatagram(ctx, line)
	}
	conn, err := s.connect(ctx)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if _, err := conn.Write(frame(line)); err != nil {
		return "", timedOut(ctx, fmt.Errorf("send: %w", err))
	}
	// No answer is foreseen. But a receiver that is gone answers the end of the connection with an error.
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		if err := half.CloseWrite(); err != nil {
			return "", timedOut(ctx, fmt.Errorf("end: %w", err))
		}
	}
	_ = conn.SetReadDeadline(time.Now().Add(closeWait))
	if _, err := io.Copy(io.Discard, io.LimitReader(conn, 4096)); err != nil {
		var slow net.Error
		if !errors.As(err, &slow) || !slow.Timeout() {
			return "", timedOut(ctx, fmt.Errorf("the receiver ended the connection: %w", err))
		}
	}
	return "sent; syslog has no acknowledgement", nil
}

func (s syslogSender) sendDatagram(ctx context.Context, line []byte) (string, error) {
	conn, err := dial(ctx, "udp", s.Host, s.Port)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if _, err := conn.Write(cutUTF8(line, maxDatagram)); err != nil {
		return "", timedOut(ctx, fmt.Errorf("send: %w", err))
	}
	// A machine without a receiver says so with an ICMP message, which the next call on the socket tells.
	_ = conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		var slow net.Error
		if !errors.As(err, &slow) || !slow.Timeout() {
			return "", &refusal{err: timedOut(ctx, fmt.Errorf("send: %w", err)), hint: "Nobody listens there."}
		}
	}
	return "sent; UDP has no acknowledgement", nil
}

func (s syslogSender) connect(ctx context.Context) (net.Conn, error) {
	if s.Transport == "tcp" {
		return dial(ctx, "tcp", s.Host, s.Port)
	}
	config, err := tlsConfig(s.Host, s.CA)
	if err != nil {
		return nil, err
	}
	return dialTLS(ctx, s.Host, s.Port, config)
}

// frame counts the octets (RFC 6587, 3.4.1; RFC 5425, 4.3).
func frame(line []byte) []byte { return append(fmt.Appendf(nil, "%d ", len(line)), line...) }

// format makes a message of RFC 5424, without frame.
func (s syslogSender) format(m message) []byte {
	facility, _ := api.SyslogFacility(s.Facility)
	kind, sd := "test", []string{"state", "test"}
	switch {
	case m.digest():
		kind, sd = "digest", []string{"state", "digest", "total", fmt.Sprint(m.Total)}
	case len(m.Notices) == 1:
		n := m.Notices[0]
		kind = n.Kind
		sd = []string{"state", n.State, "id", n.ID, "severity", string(n.Severity), "group", n.GroupName, "groupId", n.Group,
			"host", n.HostName, "hostId", n.Host, "job", n.Job}
	}
	sd = append([]string{"message", m.ID, "kind", kind}, sd...)
	var b bytes.Buffer
	fmt.Fprintf(&b, "<%d>1 %s %s understudy - %s [understudy@%d", int(facility)*8+m.syslogSeverity(),
		m.Time.UTC().Format("2006-01-02T15:04:05.000000Z"), token(s.hostname, 255), token(kind, 32), enterprise)
	for i := 0; i < len(sd); i += 2 {
		if sd[i+1] != "" {
			fmt.Fprintf(&b, ` %s="%s"`, sd[i], paramValue(sd[i+1]))
		}
	}
	b.WriteString("] ")
	b.WriteString("\ufeff") // says that UTF-8 follows
	b.WriteString(oneLine(m.subject()))
	if m.digest() {
		for _, n := range m.Notices {
			b.WriteString("; " + oneLine(n.subject()) + " (" + oneLine(n.ID) + ")")
		}
	}
	return b.Bytes()
}

// syslogSeverity is that of RFC 5424, table 2.
func (m message) syslogSeverity() int {
	switch {
	case m.Test, len(m.Notices) > 0 && m.severity() == api.SeverityInfo:
		return 6 // informational; 5, notice, for what is over is not told apart by most receivers
	case m.severity() == api.SeverityWarning:
		return 4
	}
	return 2
}

// token is a field of the header: printable ASCII without spaces, or - for none.
func token(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return -1
		}
		return r
	}, s)
	if s == "" {
		return "-"
	}
	return s[:min(len(s), limit)]
}

// paramValue escapes what RFC 5424, 6.3.3 says, and nothing else.
func paramValue(s string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, `]`, `\]`).Replace(oneLine(s))
}

// cutUTF8 shortens without cutting a character.
func cutUTF8(b []byte, limit int) []byte {
	if len(b) <= limit {
		return b
	}
	for limit > 0 && !utf8.RuneStart(b[limit]) {
		limit--
	}
	return b[:limit]
}
