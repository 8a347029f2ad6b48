// Package client is the Go client of an appliance's API: the mirror image of api.Service over HTTP. It owns the
// connection (TLS, token, reconnecting event streams) and never decides anything; the command line, the tests and other
// appliances build on it.
package client

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"understudy/api"
)

// ErrUnreachable is in the chain of every error that says that no appliance answered.
var ErrUnreachable = errors.New("the appliance cannot be reached")

// maxAnswer bounds what is read of one answer: far more than any list of the API.
const maxAnswer = 64 << 20

// Options say how to get in.
type Options struct {
	// Token signs every request; TokenFile is read when Token is empty.
	Token     string
	TokenFile string
	// CA is a PEM certificate to trust instead of the system's roots, usually the appliance's own; CAFile is read when CA
	// is empty.
	CA     []byte
	CAFile string
	// Timeout bounds each request but not event streams; 0 means 2 minutes, because hosts are asked on the way.
	Timeout time.Duration
}

// Client speaks to one appliance. It is safe for concurrent use.
type Client struct {
	base    string
	token   string
	timeout time.Duration
	http    *http.Client
	pace    pace
}

var _ api.Service = (*Client)(nil)

// New makes a client for the appliance at baseURL, for instance "https://appliance:8443". It does not connect yet. Plain
// http is accepted for loopback addresses only, since the token would travel in the clear.
func New(baseURL string, o Options) (*Client, error) {
	base, err := parseBase(baseURL)
	if err != nil {
		return nil, err
	}
	token, err := o.token()
	if err != nil {
		return nil, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if transport.TLSClientConfig, err = o.tls(); err != nil {
		return nil, err
	}
	return &Client{
		base:    base,
		token:   token,
		timeout: cmp.Or(o.Timeout, 2*time.Minute),
		pace:    defaultPace,
		http: &http.Client{
			Transport: transport,
			// A redirect would carry the token to a place that nobody named.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

func parseBase(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
		return "", api.Errorf(api.CodeInvalid, "Give it as https://host:port.", "%q is not the address of an appliance", s)
	}
	if u.Scheme == "http" && !loopback(u.Hostname()) {
		return "", api.Errorf(api.CodeInvalid, "Use https://.", "refusing to send the token in the clear to %s", u.Host)
	}
	return u.Scheme + "://" + u.Host + strings.TrimRight(u.EscapedPath(), "/"), nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (o Options) token() (string, error) {
	if o.Token != "" || o.TokenFile == "" {
		return o.Token, nil
	}
	b, err := os.ReadFile(o.TokenFile)
	if err != nil {
		return "", api.Errorf(api.CodeUnauthorized, "The appliance makes its token at its first start; run as a user who may read it.",
			"read token: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

func (o Options) tls() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	ca := o.CA
	if len(ca) == 0 && o.CAFile != "" {
		var err error
		if ca, err = os.ReadFile(o.CAFile); err != nil {
			return nil, api.Errorf(api.CodeInvalid, "Name the appliance's certificate (cert.pem in its data directory).",
				"read certificate: %w", err)
		}
	}
	if len(ca) > 0 {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(ca) {
			return nil, api.Errorf(api.CodeInvalid, "A PEM file with a CERTIFICATE block is expected.", "no certificate in %s",
				cmp.Or(o.CAFile, "the given PEM"))
		}
	}
	return config, nil
}

// request is one call, before it is sent.
type request struct {
	method string
	path   string // below /api/v1, escaped
	query  url.Values
	header http.Header
	body   any // nil: none
}

// path joins escaped segments; an empty one is refused when the request is built.
func path(segments ...string) string {
	var b strings.Builder
	for _, s := range segments {
		b.WriteString("/" + url.PathEscape(s))
	}
	return b.String()
}

// call sends r and decodes the answer into T; a T of struct{} expects no content.
func call[T any](ctx context.Context, c *Client, r request) (T, error) {
	var answer T
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	resp, err := c.send(ctx, r)
	if err != nil {
		return answer, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNoContent {
		return answer, nil
	}
	if !isType(resp, "application/json") {
		return answer, notAnAppliance(c.base, resp)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&answer); err != nil {
		return answer, c.transportError(ctx, fmt.Errorf("read answer: %w", err))
	}
	return answer, nil
}

// send gives a response with a 2xx status, or an *api.Error.
func (c *Client) send(ctx context.Context, r request) (*http.Response, error) {
	if strings.Contains(r.path, "//") || strings.HasSuffix(r.path, "/") {
		return nil, api.Errorf(api.CodeInvalid, "", "an id or name is empty")
	}
	var body io.Reader
	if r.body != nil {
		b, err := json.Marshal(r.body)
		if err != nil {
			return nil, api.Errorf(api.CodeInvalid, "", "encode request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	address := c.base + "/api/v1" + r.path
	if len(r.query) > 0 {
		address += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, address, body)
	if err != nil {
		return nil, api.Errorf(api.CodeInvalid, "", "make request: %w", err)
	}
	for k, v := range r.header {
		req.Header[k] = v
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.transportError(ctx, err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		defer resp.Body.Close()
		return nil, problem(c.base, resp)
	}
	return resp, nil
}

// transportError tells an appliance that does not answer from a caller that no longer wants an answer.
func (c *Client) transportError(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), context.Canceled) {
		return api.Errorf(api.CodeInternal, "", "%w", err)
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err // its text repeats method and address
	}
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var name x509.HostnameError
	hint := "Is it running, and is the address right?"
	switch {
	case errors.As(err, &unknown):
		hint = "Trust the appliance's own certificate: cert.pem in its data directory (--ca, UNDERSTUDY_CA)."
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		hint = "Check the clocks here and there. The appliance renews its own certificate when it is started."
	case errors.As(err, &name):
		hint = "Use a name or an address that the appliance's certificate has."
	}
	return &api.Error{
		Code: api.CodeInternal, Hint: hint,
		Message: fmt.Sprintf("%v at %s: %v", ErrUnreachable, c.base, err),
		Err:     errors.Join(ErrUnreachable, err),
	}
}

func isType(resp *http.Response, want string) bool {
	got, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	return err == nil && got == want
}

// problem reads the problem+json of an answer that is not 2xx.
func problem(base string, resp *http.Response) error {
	if !isType(resp, "application/problem+json") {
		return notAnAppliance(base, resp)
	}
	var p struct {
		Detail string   `json:"detail"`
		Code   api.Code `json:"code"`
		Hint   string   `json:"hint"`
		Field  string   `json:"field"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&p); err != nil {
		return api.Errorf(api.CodeInternal, "", "read answer %s: %w", resp.Status, err)
	}
	return &api.Error{Code: cmp.Or(p.Code, api.CodeInternal), Message: p.Detail, Hint: p.Hint, Field: p.Field}
}

// notAnAppliance reports an answer in a foreign shape. Gateways answer so while the appliance behind them restarts.
func notAnAppliance(base string, resp *http.Response) error {
	message := fmt.Sprintf("%s answered %s, but not as an appliance does", base, resp.Status)
	e := &api.Error{Code: api.CodeInternal, Message: message, Hint: "Check the address, and proxies on the way."}
	switch resp.StatusCode {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		e.Err = ErrUnreachable
	}
	return e
}
