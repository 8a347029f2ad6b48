package esx

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"strings"
	"sync"
	"time"

	faults "github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/session/keepalive"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"understudy/hypervisors"
)

const (
	dialPatience = 10 * time.Second
	// idle is how long a session may be silent before it is shown that somebody is there; hosts end it after half an hour.
	idle = 10 * time.Minute
)

// busyWaits are how long to wait before asking anew a server that answers 503, as one does that is just starting.
var busyWaits = []time.Duration{100 * time.Millisecond, 400 * time.Millisecond, 1600 * time.Millisecond}

// signIn opens a session, which end closes.
func signIn(ctx context.Context, a address, user, password string) (c *vim25.Client, end func(), err error) {
	config, err := a.tls()
	if err != nil {
		return nil, nil, err
	}
	s := soap.NewClient(&url.URL{Scheme: "https", Host: a.server, Path: "/sdk"}, true)
	s.UserAgent, s.Namespace, s.Version = "understudy", "urn:"+vim25.Namespace, vim25.Version
	transport := s.DefaultTransport()
	// govmomi's own dialling knows no time limit, and no check but its own.
	transport.DialTLSContext, transport.DialTLS = nil, nil //nolint:staticcheck // it is set
	transport.DialContext = (&net.Dialer{Timeout: dialPatience}).DialContext
	transport.TLSHandshakeTimeout, transport.TLSClientConfig = dialPatience, config
	s.Transport = reusing{transport}
	if c, err = vim25.NewClient(ctx, &patient{s}); err != nil {
		return nil, nil, err
	}
	c.Client = s
	who := &signer{inner: &patient{s}, manager: *c.ServiceContent.SessionManager, login: types.Login{UserName: user, Password: password, Locale: "en_US"}}
	if err := who.signIn(ctx); err != nil {
		s.CloseIdleConnections()
		return nil, nil, err
	}
	alive := keepalive.NewHandlerSOAP(who, idle, nil)
	c.RoundTripper = alive
	alive.Start()
	return c, func() {
		alive.Stop()
		ctx, cancel := context.WithTimeout(context.Background(), dialPatience)
		defer cancel()
		_, _ = methods.Logout(ctx, s, &types.Logout{This: who.manager}) // the session ends by itself otherwise
		s.CloseIdleConnections()
	}, nil
}

// reusing keeps connections: govmomi reads an answer up to its last element, and what is left of it would cost the next
// request a handshake.
type reusing struct{ http.RoundTripper }

func (r reusing) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := r.RoundTripper.RoundTrip(req)
	if err == nil {
		res.Body = drained{res.Body}
	}
	return res, err
}

type drained struct{ io.ReadCloser }

// mostLeft bounds what is read for nothing, in bytes.
const mostLeft = 4 << 10

func (d drained) Close() error {
	_, _ = io.CopyN(io.Discard, d.ReadCloser, mostLeft)
	return d.ReadCloser.Close()
}

// tls says how the server proves who it is.
func (a address) tls() (*tls.Config, error) {
	name, _, err := net.SplitHostPort(a.server)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: name}
	switch {
	case a.thumbprint != nil:
		// A pinned certificate is the right one, whoever issued it, whatever it is called and however old it is.
		config.InsecureSkipVerify = true
		config.VerifyConnection = func(s tls.ConnectionState) error {
			if sum := sha256.Sum256(s.PeerCertificates[0].Raw); !bytes.Equal(sum[:], a.thumbprint) {
				return &hypervisors.Error{Op: "check", Subject: "certificate of " + a.server,
					Err:  fmt.Errorf("%w: its thumbprint is %s", hypervisors.ErrHostKey, colons(sum[:])),
					Hint: "Compare that with what the host's own console shows. If it is the host, its certificate was changed: give the new thumbprint. If not, somebody is in between."}
			}
			return nil
		}
		return config, nil
	case a.ca != "":
		pem, err := os.ReadFile(a.ca)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", hypervisors.ErrInvalid, err)
		}
		if config.RootCAs = x509.NewCertPool(); !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%w: %s holds no certificate in PEM", hypervisors.ErrInvalid, a.ca)
		}
	}
	return config, nil
}

// untrusted says why a certificate was refused, and what a person can do; nil: that was not it.
func untrusted(server string, err error) error {
	var bad *tls.CertificateVerificationError
	if !errors.As(err, &bad) || len(bad.UnverifiedCertificates) == 0 {
		return nil
	}
	leaf := bad.UnverifiedCertificates[0]
	sum := sha256.Sum256(leaf.Raw)
	e := &hypervisors.Error{Op: "check", Subject: "certificate of " + server,
		Err:  fmt.Errorf("%w: %w; its thumbprint is %s", hypervisors.ErrHostKey, bad.Err, colons(sum[:])),
		Hint: "Compare the thumbprint with what the host's own console shows, and put thumbprint=… into the address; or name the issuer with ca=FILE."}
	if invalid := (x509.CertificateInvalidError{}); errors.As(bad.Err, &invalid) && invalid.Reason == x509.Expired {
		e.Err = fmt.Errorf("%w: it is valid from %s to %s; its thumbprint is %s", hypervisors.ErrHostKey,
			leaf.NotBefore.Format(time.DateOnly), leaf.NotAfter.Format(time.DateOnly), colons(sum[:]))
		e.Hint = "Renew the host's certificate, and look at both clocks. Or pin it as it is: put thumbprint=… into the address."
	}
	return e
}

// colons writes a thumbprint as VMware's consoles do.
func colons(sum []byte) string { return strings.ReplaceAll(fmt.Sprintf("% X", sum), " ", ":") }

// signer signs in again, once, when the session is lost: a host that restarts its services forgets all of them.
type signer struct {
	inner   soap.RoundTripper
	manager types.ManagedObjectReference
	login   types.Login

	mu    sync.Mutex
	times int // how often it has signed in
}

func (s *signer) signIn(ctx context.Context) error {
	req := s.login
	req.This = s.manager
	_, err := methods.Login(ctx, s.inner, &req)
	s.times++
	return err
}

func (s *signer) RoundTrip(ctx context.Context, req, res soap.HasFault) error {
	s.mu.Lock()
	seen := s.times
	s.mu.Unlock()
	err := s.inner.RoundTrip(ctx, req, res)
	if !faults.Is(err, &types.NotAuthenticated{}) && !unread(res) {
		return err
	}
	s.mu.Lock()
	if s.times == seen { // else somebody else has signed in meanwhile
		if err := s.signIn(ctx); err != nil {
			s.mu.Unlock()
			return err
		}
	}
	s.mu.Unlock()
	reflect.ValueOf(res).Elem().SetZero() // the fault of the first time would stay in it
	return s.inner.RoundTrip(ctx, req, res)
}

// unread says that properties were not told for want of a session; the call itself succeeds then.
func unread(res soap.HasFault) bool {
	var objects []types.ObjectContent
	switch body := res.(type) {
	case *methods.RetrievePropertiesBody:
		if body.Res != nil {
			objects = body.Res.Returnval
		}
	case *methods.RetrievePropertiesExBody:
		if body.Res != nil && body.Res.Returnval != nil {
			objects = body.Res.Returnval.Objects
		}
	}
	for _, o := range objects {
		for _, m := range o.MissingSet {
			if _, ok := m.Fault.Fault.(*types.NotAuthenticated); ok {
				return true
			}
		}
	}
	return false
}

// patient asks again when the server says that it is busy; it has done nothing then.
type patient struct{ soap.RoundTripper }

func (p *patient) RoundTrip(ctx context.Context, req, res soap.HasFault) error {
	for _, wait := range busyWaits {
		err := p.RoundTripper.RoundTrip(ctx, req, res)
		if !isBusy(err) {
			return err
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
	return p.RoundTripper.RoundTrip(ctx, req, res)
}

func isBusy(err error) bool {
	var answer *url.Error
	return errors.As(err, &answer) && strings.HasPrefix(answer.Err.Error(), "503 ") // govmomi keeps the number to itself
}

// pause waits, or gives up when ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// who is the key of the session.
func (h *host) who(ctx context.Context) (string, error) {
	var m mo.SessionManager
	err := property.DefaultCollector(h.client).RetrieveOne(ctx, *h.client.ServiceContent.SessionManager, []string{"currentSession"}, &m)
	if err != nil || m.CurrentSession == nil {
		return "", err
	}
	return m.CurrentSession.Key, nil
}
