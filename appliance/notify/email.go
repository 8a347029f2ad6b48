package notify

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/textproto"
	"strings"

	"github.com/wneessen/go-mail"

	"understudy/api"
)

// emailSender sends mail. Beginning and end of an alert are one thread: both refer to a message that stands for the alert.
type emailSender struct {
	api.EmailChannel
	hostname string
}

func (s emailSender) send(ctx context.Context, m message) (string, error) {
	msg, err := s.compose(m)
	if err != nil {
		return "", err
	}
	config, err := tlsConfig(s.Host, s.CA)
	if err != nil {
		return "", err
	}
	options := []mail.Option{mail.WithPort(s.Port), mail.WithTimeout(sendTimeout), mail.WithTLSConfig(config), mail.WithHELO(s.helo())}
	connect := func(ctx context.Context) (net.Conn, error) { return dial(ctx, "tcp", s.Host, s.Port) }
	switch s.Security {
	case "starttls":
		options = append(options, mail.WithTLSPolicy(mail.TLSMandatory))
	case "tls":
		// The library finds TLS on the connection, and asks for no second one but where the server offers it.
		options = append(options, mail.WithTLSPolicy(mail.TLSOpportunistic))
		connect = func(ctx context.Context) (net.Conn, error) { return dialTLS(ctx, s.Host, s.Port, config) }
	default:
		options = append(options, mail.WithTLSPolicy(mail.NoTLS))
	}
	if s.User != "" {
		options = append(options, mail.WithSMTPAuth(mail.SMTPAuthAutoDiscover), mail.WithUsername(s.User), mail.WithPassword(s.Password.Reveal()))
	}
	options = append(options, mail.WithDialContextFunc(func(context.Context, string, string) (net.Conn, error) { return connect(ctx) }))
	client, err := mail.NewClient(s.Host, options...)
	if err != nil {
		return "", err
	}
	if err := client.DialAndSendWithContext(ctx, msg); err != nil && !msg.IsDelivered() {
		return "", s.explain(ctx, err)
	}
	return strings.TrimSpace(msg.ServerResponse()), nil
}

// helo is how the appliance introduces itself; an address that cannot be a name is "localhost".
func (s emailSender) helo() string {
	if s.hostname == "" || strings.ContainsAny(s.hostname, " \t\r\n") {
		return "localhost"
	}
	return s.hostname
}

func (s emailSender) compose(m message) (*mail.Msg, error) {
	msg := mail.NewMsg()
	if err := errors.Join(msg.FromFormat("Understudy", s.From), msg.To(s.To...)); err != nil {
		return nil, &refusal{err: err, permanent: true}
	}
	_, domain, _ := strings.Cut(s.From, "@")
	msg.SetMessageIDWithValue(m.ID + "@" + domain)
	if len(m.Notices) == 1 && m.Notices[0].State != stateEnded {
		n := m.Notices[0]
		thread := "<alert." + n.ID + "@" + domain + ">"
		msg.SetGenHeader(mail.HeaderReferences, thread)
		msg.SetGenHeader(mail.HeaderInReplyTo, thread)
		msg.SetGenHeader("X-Understudy-Alert", n.ID)
		msg.SetGenHeader("X-Understudy-State", n.State)
	}
	msg.SetUserAgent("Understudy")
	msg.SetDateWithValue(m.Time)
	msg.SetGenHeader("Auto-Submitted", "auto-generated") // RFC 3834: no answers from holiday robots
	if m.severity() == api.SeverityCritical {
		msg.SetGenHeader("X-Priority", "1")
	}
	msg.Subject("[Understudy] " + clean(m.subject(), nil))
	msg.SetBodyString(mail.TypeTextPlain, m.text())
	return msg, nil
}

// explain tells what is refused for good, such as an address that is not known, from what a person can repair.
func (s emailSender) explain(ctx context.Context, err error) error {
	var known *refusal
	if errors.As(err, &known) {
		return known
	}
	r := &refusal{err: timedOut(ctx, err)}
	var code *textproto.Error
	var sending *mail.SendError
	var verify *tls.CertificateVerificationError
	switch {
	case errors.As(err, &verify):
		return untrusted(ctx, err)
	case errors.As(err, &sending):
		r.permanent = sending.ErrorCode() >= 500
		r.hint = "Check sender and addresses: the mail server answered so."
	case errors.As(err, &code) && (code.Code == 535 || code.Code == 534 || code.Code == 530):
		r.hint = "Check user and password."
	}
	return r
}
