package notify

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"understudy/api"
)

// webhookSender posts JSON, signed as the Standard Webhooks specification says.
type webhookSender struct {
	api.WebhookChannel
	version string
	clock   func() time.Time
}

// payload is the body. Type is alert (one), job, digest (several) or test.
type payload struct {
	Type      string    `json:"type"`
	Timestamp time.Time `json:"timestamp"`
	Data      data      `json:"data"`
}

type data struct {
	Appliance string       `json:"appliance"`
	Subject   string       `json:"subject"`
	Severity  api.Severity `json:"severity"`
	Link      string       `json:"link,omitempty"`
	Alert     *Notice      `json:"alert,omitempty"`
	// Alerts are those of a digest, 100 at most; total counts all.
	Alerts []Notice `json:"alerts,omitempty"`
	Total  int      `json:"total,omitempty"`
}

func payloadOf(m message) payload {
	p := payload{Type: "test", Timestamp: m.Time.UTC(), Data: data{Appliance: m.From, Subject: clean(m.subject(), nil),
		Severity: m.severity(), Link: m.link()}}
	switch {
	case m.digest():
		p.Type, p.Data.Alerts, p.Data.Total = "digest", m.Notices, m.Total
	case len(m.Notices) == 1:
		p.Type, p.Data.Alert = "alert", &m.Notices[0]
		if m.Notices[0].State == stateEnded {
			p.Type = "job"
		}
	}
	return p
}

func (s webhookSender) send(ctx context.Context, m message) (string, error) {
	body, err := json.Marshal(payloadOf(m))
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL, bytes.NewReader(body))
	if err != nil {
		return "", errors.New("the address of the webhook is no URL")
	}
	if err := s.sign(req.Header, m.ID, body); err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "Understudy/"+token(s.version, 64))
	config, err := tlsConfig("", s.CA)
	if err != nil {
		return "", err
	}
	client := http.Client{
		// No proxy from the environment, no other place by a redirect, no connection that outlives the call.
		Transport:     &http.Transport{TLSClientConfig: config, DisableKeepAlives: true, ForceAttemptHTTP2: true, MaxResponseHeaderBytes: 16 << 10},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	answer, err := client.Do(req)
	if err != nil {
		var where *url.Error
		if errors.As(err, &where) {
			err = where.Err // without the URL: it may hold a key
		}
		return "", untrustedOr(ctx, err)
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(answer.Body, maxAnswer)) // what the status says counts
	said := answer.Status
	if len(text) > 0 {
		said += ": " + string(text)
	}
	return s.judge(answer, said)
}

// sign sets the headers of the specification.
func (s webhookSender) sign(h http.Header, id string, body []byte) error {
	key, err := api.WebhookKey(s.Secret)
	if err != nil {
		return err
	}
	id, at := "msg_"+id, strconv.FormatInt(s.clock().Unix(), 10)
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%s.%s", id, at, body)
	h.Set("Webhook-Id", id)
	h.Set("Webhook-Timestamp", at)
	h.Set("Webhook-Signature", "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	return nil
}

// judge reads the status: any 2xx is success; a receiver that is busy or broken is tried again; one that says that the
// request is wrong will say so again.
func (s webhookSender) judge(answer *http.Response, said string) (string, error) {
	code := answer.StatusCode
	switch {
	case code >= 200 && code < 300:
		return said, nil
	case code >= 300 && code < 400:
		return "", &refusal{err: fmt.Errorf("the receiver answered %s", answer.Status), permanent: true,
			hint: "Redirects are not followed: give the address that answers itself."}
	}
	again := code >= 500 || slices.Contains([]int{http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests}, code)
	return "", &refusal{err: fmt.Errorf("the receiver answered %s", said), permanent: !again, after: s.retryAfter(answer.Header.Get("Retry-After")),
		hint: "Look at the log of the receiver."}
}

// retryAfter reads seconds or a date (RFC 9110, 10.2.3); 0 when it is neither.
func (s webhookSender) retryAfter(value string) time.Duration {
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(at.Sub(s.clock()), 0)
	}
	return 0
}

// untrustedOr tells faults of certificates from a receiver that is not there.
func untrustedOr(ctx context.Context, err error) error {
	if isTLS(err) {
		return untrusted(ctx, err)
	}
	return unreachable(ctx, err)
}
