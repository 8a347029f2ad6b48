package notify

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strconv"

	"understudy/api"
)

// realSender makes what sends for a channel whose secrets are in place.
func (n *Notifier) realSender(c api.ChannelSpec) sender {
	switch c.Kind {
	case api.ChannelEmail:
		return emailSender{*c.Email, n.Hostname}
	case api.ChannelSNMP:
		return snmpSender{*c.SNMP, n.identity, n.Clock}
	case api.ChannelSyslog:
		return syslogSender{*c.Syslog, n.Hostname}
	default:
		return webhookSender{*c.Webhook, n.Version, n.Clock}
	}
}

// tlsConfig trusts the system's certificates, or those given instead, and verifies always.
func tlsConfig(host, ca string) (*tls.Config, error) {
	c := &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
	if ca != "" {
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM([]byte(ca)) {
			return nil, errors.New("there is no certificate in the channel's CA")
		}
	}
	return c, nil
}

// dial connects. The connection ends with ctx, whatever the receiver does and however often a library sets new deadlines.
func dial(ctx context.Context, network, host string, port int) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return nil, unreachable(ctx, err)
	}
	context.AfterFunc(ctx, func() { conn.Close() })
	return conn, nil
}

func dialTLS(ctx context.Context, host string, port int, config *tls.Config) (net.Conn, error) {
	conn, err := dial(ctx, "tcp", host, port)
	if err != nil {
		return nil, err
	}
	secure := tls.Client(conn, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, untrusted(ctx, err)
	}
	return secure, nil
}

func unreachable(ctx context.Context, err error) error {
	return &refusal{err: timedOut(ctx, fmt.Errorf("connect: %w", err)), hint: "Check address, port and firewall."}
}

// untrusted says what to do about certificates.
func untrusted(ctx context.Context, err error) error {
	r := &refusal{err: timedOut(ctx, fmt.Errorf("TLS: %w", err)), hint: "Check that the port speaks TLS."}
	var verify *tls.CertificateVerificationError
	if errors.As(err, &verify) {
		r.hint = "Give the certificate of the receiver's authority as CA, and the name that its certificate has as host."
	}
	return r
}

// timedOut says so when an error is only the end of the time.
func timedOut(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return context.DeadlineExceeded
	}
	return err
}

func isTLS(err error) bool {
	var verify *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var alert tls.AlertError
	return errors.As(err, &verify) || errors.As(err, &record) || errors.As(err, &alert)
}
