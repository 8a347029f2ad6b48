// Package support runs the appliance as a machine that somebody must look after: its certificate, its secrets, whether it
// works. It implements [api.Operation] over the parts that it is given, and knows neither hosts nor groups beyond what
// package api says of them.
package support

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"understudy/api"
	"understudy/appliance/vault"
)

// readyWithin bounds how long a look at one part may take: who asks is waiting to send work elsewhere.
const readyWithin = 5 * time.Second

// Certificates are those of the API. *server.Certificates is one.
type Certificates interface {
	Show() (api.Certificate, error)
	Replace(api.CertificateOrder) (api.Certificate, error)
	Reset() (api.Certificate, error)
}

// Check looks at a part of the appliance. It ends with ctx, and its error says what is wrong, without secrets.
type Check struct {
	Name string
	Look func(ctx context.Context) error
}

// Options of a Support.
type Options struct {
	Certificates Certificates
	Vault        *vault.Vault
	// Checks must all pass for the appliance to be ready.
	Checks []Check
	// Service is what hosts, groups and jobs are read from, for support bundles.
	Service api.Service
	// Sections are further files of a support bundle. Logs is the newest of the log; nil: there is none.
	Sections []Section
	Logs     *Ring
	// SecretFiles are looked through for what must not be in a support bundle.
	SecretFiles []string
	// State is the state database, and DataDir the directory that it is in.
	State   State
	DataDir string
	// Configuration says what of the state a backup has.
	Configuration Configuration
	Version       string
	Clock         func() time.Time // nil: time.Now
	Log           *slog.Logger     // nil: slog.Default
}

// State reads the state database. *store.DB is one.
type State interface {
	Each(bucket string, fn func(key string, decode func(v any) error) error) error
	Buckets() ([]string, error)
}

// Support implements api.Operation.
type Support struct {
	Options
	workFactor int // of scrypt
}

var _ api.Operation = (*Support)(nil)

// New makes one from its parts.
func New(o Options) *Support {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return &Support{Options: o, workFactor: workFactor}
}

// Certificate shows what the API proves itself with.
func (s *Support) Certificate(context.Context) (api.Certificate, error) { return s.Certificates.Show() }

// ReplaceCertificate takes another one at once.
func (s *Support) ReplaceCertificate(_ context.Context, o api.CertificateOrder) (api.Certificate, error) {
	return s.Certificates.Replace(o)
}

// ResetCertificate goes back to a self-made one.
func (s *Support) ResetCertificate(context.Context) (api.Certificate, error) {
	return s.Certificates.Reset()
}

// Secrets tells whether the secrets can be read.
func (s *Support) Secrets(context.Context) (api.SecretsStatus, error) {
	status := s.Vault.Status()
	view := api.SecretsStatus{Secrets: status.Secrets, Unreadable: append([]string{}, status.Unreadable...)}
	var problem *api.Error
	if errors.As(status.Problem, &problem) {
		view.Problem, view.Hint = problem.Message, problem.Hint
	}
	return view, nil
}

// RotateKey seals all secrets with a new key.
func (s *Support) RotateKey(ctx context.Context) (api.SecretsStatus, error) {
	if err := s.Vault.Rotate(); err != nil {
		return api.SecretsStatus{}, err
	}
	return s.Secrets(ctx)
}

// Ready looks at every part at once. One that does not answer in time is not ready.
func (s *Support) Ready(ctx context.Context) api.Readiness {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	found := make([]chan error, len(s.Checks))
	for i, c := range s.Checks {
		found[i] = make(chan error, 1) // the look may outlive us
		go func() { found[i] <- c.Look(ctx) }()
	}
	r := api.Readiness{Ready: true, Reasons: []string{}}
	for i, c := range s.Checks {
		err := context.DeadlineExceeded
		select {
		case err = <-found[i]:
		case <-ctx.Done():
		}
		if errors.Is(err, context.DeadlineExceeded) {
			err = errors.New("it does not answer")
		}
		if err != nil {
			r.Ready = false
			r.Reasons = append(r.Reasons, c.Name+": "+err.Error())
		}
	}
	return r
}
