package notify

import (
	"context"
	"errors"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"understudy/api"
)

var noon = time.Date(2026, 3, 4, 12, 0, 0, 123456000, time.UTC)

func oneNotice(n Notice) message {
	return message{ID: "01ID", Time: noon, Notices: []Notice{n}, Total: 1, From: "appliance"}
}

// What RFC 5424 wants, octet for octet: 6.5 has messages of the same shape.
func TestSyslogFormat(t *testing.T) {
	s := syslogSender{api.SyslogChannel{Facility: "local4"}, "mymachine.example.com"}
	n := Notice{ID: "a.1", Kind: "rpo-missed", State: stateFiring, Severity: api.SeverityCritical, GroupName: `a"b]c\d`, Message: "late\nby far"}
	require.Equal(t, `<162>1 2026-03-04T12:00:00.123456Z mymachine.example.com understudy - rpo-missed `+
		`[understudy@32473 message="01ID" kind="rpo-missed" state="firing" id="a.1" severity="critical" group="a\"b\]c\\d"] `+
		"\ufeffcritical: a\"b]c\\d: late by far", string(s.format(oneNotice(n))))
	n.State = stateResolved
	require.Contains(t, string(s.format(oneNotice(n))), "<166>1 ", "what is over is information")
	require.Equal(t, "5 hello", string(frame([]byte("hello"))))
	require.Equal(t, "6 größ", string(frame([]byte("größ"))), "octets, not characters")
	require.Equal(t, "gr", string(cutUTF8([]byte("größ"), 3)))
	require.Contains(t, string(syslogSender{hostname: "no name\x00ä"}.format(oneNotice(n))), "Z noname understudy ")
	require.Contains(t, string(syslogSender{}.format(oneNotice(n))), "Z - understudy ")
}

// header is that of RFC 5424, 6, with structured data as the appliance uses it.
var header = regexp.MustCompile(`^<\d{1,3}>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z [!-~]{1,255} understudy - [!-~]{1,32} ` +
	`\[understudy@32473( [a-zA-Z]{1,32}="([^"\\\]]|\\["\\\]])*")*\] \x{feff}`)

func FuzzSyslog(f *testing.F) {
	f.Add("host", "rpo-missed", "id", "group", "message")
	f.Add("", "", `\`, `]"`, "\xff\n")
	f.Fuzz(func(t *testing.T, host, kind, id, group, text string) {
		n := Notice{ID: id, Kind: kind, State: stateFiring, Severity: api.SeverityWarning, GroupName: group, Message: text}
		line := syslogSender{hostname: host}.format(oneNotice(n))
		require.True(t, utf8.Valid(line), "%q", line)
		require.Regexp(t, header, string(line))
		require.NotContains(t, string(line), "\n")
	})
}

// The example of the specification of Standard Webhooks, and of its libraries.
func TestWebhookSignature(t *testing.T) {
	s := webhookSender{api.WebhookChannel{Secret: api.NewSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")}, "1", func() time.Time { return time.Unix(1614265330, 0) }}
	h := http.Header{}
	require.NoError(t, s.sign(h, "p5jXN8AQM9LWM0D4loKWxJek", []byte(`{"test": 2432232314}`)))
	require.Equal(t, "msg_p5jXN8AQM9LWM0D4loKWxJek", h.Get("webhook-id"))
	require.Equal(t, "1614265330", h.Get("webhook-timestamp"))
	require.Equal(t, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", h.Get("webhook-signature"))
}

func TestWebhookAnswers(t *testing.T) {
	s := webhookSender{clock: func() time.Time { return noon }}
	for _, c := range []struct {
		code      int
		after     string
		permanent bool
		wait      time.Duration
	}{
		{500, "", false, 0}, {503, "120", false, 2 * time.Minute}, {429, noon.Add(time.Hour).Format(http.TimeFormat), false, time.Hour - 123456*time.Microsecond},
		{408, "soon", false, 0}, {425, "-1", false, 0}, {503, noon.Add(-time.Hour).Format(http.TimeFormat), false, 0},
		{400, "", true, 0}, {401, "", true, 0}, {404, "", true, 0}, {301, "", true, 0}, {307, "", true, 0},
	} {
		_, err := s.judge(&http.Response{StatusCode: c.code, Status: "so", Header: http.Header{"Retry-After": {c.after}}}, "so")
		var r *refusal
		require.ErrorAs(t, err, &r)
		require.Equal(t, []any{c.permanent, c.wait}, []any{r.permanent, r.after}, c)
	}
	for _, code := range []int{200, 202, 204} {
		said, err := s.judge(&http.Response{StatusCode: code}, "so")
		require.NoError(t, err)
		require.Equal(t, "so", said)
	}
}

func TestMailOfAnAlertIsAThread(t *testing.T) {
	s := emailSender{api.EmailChannel{From: "understudy@example.com", To: []string{"night@example.com"}}, "appliance"}
	var texts []string
	for _, state := range []string{stateFiring, stateResolved} {
		m := oneNotice(Notice{ID: "a.1", Kind: "stray", State: state, Severity: api.SeverityCritical, GroupName: "shop", Message: "x\r\nBcc: everybody@example.com", Time: noon})
		m.ID += state
		msg, err := s.compose(m)
		require.NoError(t, err)
		var b strings.Builder
		_, err = msg.WriteTo(&b)
		require.NoError(t, err)
		require.Contains(t, b.String(), "References: <alert.a.1@example.com>\r\n")
		require.Contains(t, b.String(), "Message-ID: <01ID"+state+"@example.com>\r\n")
		head, _, _ := strings.Cut(b.String(), "\r\n\r\n")
		require.NotContains(t, head, "\r\nBcc:", "a message brings no header of its own")
		texts = append(texts, b.String())
	}
	require.Contains(t, texts[0], "Subject: [Understudy] critical: shop: x Bcc: everybody@example.com")
	require.Contains(t, texts[1], "Subject: [Understudy] over: shop: x Bcc: everybody@example.com")
	require.NotContains(t, texts[0], "Console:", "there is no link without an address")
}

func TestSecretsLeaveAnswers(t *testing.T) {
	secret := api.NewSecret("correct-horse")
	require.Equal(t, "login [secret] refused twice", clean("login  correct-horse\r\nrefused\ttwice", []api.Secret{secret, {}}))
	require.LessOrEqual(t, len(clean(strings.Repeat("ä", 1000), nil)), maxAnswer+len("…"))
}

// A receiver that takes the connection and says nothing is left when the time is over.
func TestSilentReceivers(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	host, port := "127.0.0.1", ln.Addr().(*net.TCPAddr).Port
	mail := api.EmailChannel{Host: host, Port: port, From: "a@example.com", To: []string{"b@example.com"}}
	for _, security := range []string{"none", "starttls", "tls"} {
		mail.Security = security
		leaves(t, emailSender{mail, "appliance"})
	}
	leaves(t, syslogSender{api.SyslogChannel{Host: host, Port: port, Transport: "tls"}, "appliance"})
	leaves(t, webhookSender{api.WebhookChannel{URL: "http://" + ln.Addr().String(), Secret: api.NewSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")}, "1", time.Now})
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	defer udp.Close()
	leaves(t, snmpSender{api.SNMPChannel{Host: host, Port: udp.LocalAddr().(*net.UDPAddr).Port, Version: "v2c", Inform: true, Community: api.NewSecret("public")}, identity{}, time.Now})
}

func leaves(t *testing.T, s sender) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := s.send(ctx, message{ID: "1", Time: noon, Test: true})
		done <- err
	}()
	select {
	case err := <-done:
		require.Error(t, err)
		require.True(t, errors.Is(err, context.DeadlineExceeded), "%T: %v", s, err)
	case <-time.After(time.Minute):
		require.FailNow(t, "it waits on")
	}
}
