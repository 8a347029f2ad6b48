// Package directory proves people who have no password of the appliance's own: by an LDAP directory, and by a provider of
// OpenID Connect. It owns the settings of both and what travels to them, and gives [access] who somebody is with the role
// that their groups map to. Who gets in with that, users and sessions are the business of package access. Local users are
// unknown here, so that nothing that fails here keeps them out.
package directory

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-ldap/ldap/v3"
	"golang.org/x/crypto/chacha20poly1305"

	"understudy/api"
	"understudy/api/server"
	"understudy/appliance/access"
)

const (
	bucket = "sign-in"
	key    = "settings"
	// defaultPatience bounds everything that is asked of a directory or a provider for one sign-in.
	defaultPatience = 10 * time.Second
	// maxAtOnce bounds how many wait for a directory or a provider at once: one that hangs must not gather requests.
	maxAtOnce = 16
)

// Names of the secrets in the vault.
const (
	secretLDAP = "sign-in/ldap/bindPassword"
	secretOIDC = "sign-in/oidc/clientSecret"
)

// Store keeps JSON values by bucket and key; a Put is durable when it returns. *store.DB is one.
type Store interface {
	Put(bucket, key string, v any) error
	Each(bucket string, fn func(key string, decode func(v any) error) error) error
}

// Secrets keep what must not be in the store. *vault.Vault is one.
type Secrets interface {
	Put(name string, v api.Secret) error
	Get(name string) (api.Secret, error)
	Delete(name string) error
}

// People are who may come in. *access.Access is one.
type People interface {
	SetIdle(d time.Duration)
	SetDirectory(d access.Directory)
	SetProvider(name string)
	SignInIdentity(ctx context.Context, i access.Identity, from string) (api.Opened, error)
	Withdraw(source, subject string) error
	EndSource(source string) error
}

// Options of a Directory.
type Options struct {
	Store    Store
	Secrets  Secrets
	People   People
	Clock    func() time.Time // nil: time.Now
	Log      *slog.Logger     // nil: slog.Default
	Patience time.Duration    // 0: 10 seconds
}

// Directory implements api.SignIn, the sign-in by a provider for the server, and access.Directory. All methods are safe for
// concurrent use.
type Directory struct {
	Options
	key      []byte // seals what a browser keeps while it is at the provider; a restart makes it worthless
	spent    spent
	atOnce   chan struct{}
	provider atomic.Pointer[provider]

	mu       sync.Mutex // held over a change and its way to the disk
	settings atomic.Pointer[api.SignInSettings]
}

var (
	_ server.SignIn    = (*Directory)(nil)
	_ access.Directory = (*Directory)(nil)
)

// New loads the settings and tells them to the people.
func New(o Options) (*Directory, error) {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Patience == 0 {
		o.Patience = defaultPatience
	}
	d := &Directory{Options: o, key: make([]byte, chacha20poly1305.KeySize), atOnce: make(chan struct{}, maxAtOnce)}
	rand.Read(d.key)
	s := api.SignInSettings{Revision: 1, SessionMinutes: int(access.DefaultIdle / time.Minute)}
	err := o.Store.Each(bucket, func(_ string, decode func(any) error) error { return decode(&s) })
	if err != nil {
		return nil, fmt.Errorf("load settings of sign-in: %w", err)
	}
	d.apply(s)
	return d, nil
}

// apply makes settings those that hold.
func (d *Directory) apply(s api.SignInSettings) {
	d.settings.Store(&s)
	d.provider.Store(nil)
	d.People.SetIdle(time.Duration(s.SessionMinutes) * time.Minute)
	d.People.SetDirectory(nil)
	if s.LDAP != nil && s.LDAP.Enabled {
		d.People.SetDirectory(d)
	}
	d.People.SetProvider("")
	if s.OIDC != nil && s.OIDC.Enabled {
		d.People.SetProvider(s.OIDC.Name)
	}
}

// SignInSettings implements api.SignIn.
func (d *Directory) SignInSettings(context.Context) (api.SignInSettings, error) {
	return shown(*d.settings.Load()), nil
}

// shown adds what is not kept.
func shown(s api.SignInSettings) api.SignInSettings {
	s = cloned(s)
	if s.OIDC != nil {
		s.OIDC.RedirectURL = s.OIDC.Redirect()
	}
	return s
}

// cloned copies settings with both parts, and lists that are not null.
func cloned(s api.SignInSettings) api.SignInSettings {
	if s.LDAP != nil {
		part := *s.LDAP
		part.Roles = append([]api.RoleMapping{}, part.Roles...)
		s.LDAP = &part
	}
	if s.OIDC != nil {
		part := *s.OIDC
		part.Roles = append([]api.RoleMapping{}, part.Roles...)
		s.OIDC = &part
	}
	return s
}

// SetSignInSettings implements api.SignIn.
func (d *Directory) SetSignInSettings(_ context.Context, revision int64, s api.SignInSettings) (api.SignInSettings, error) {
	if err := validate(s); err != nil {
		return api.SignInSettings{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	before := *d.settings.Load()
	if before.Revision != revision {
		return api.SignInSettings{}, api.Errorf(api.CodeStale, "Look at them again and repeat the change.", "the settings of sign-in were changed meanwhile")
	}
	s = cloned(s)
	s.Revision = before.Revision + 1
	given := map[string]api.Secret{secretLDAP: takeLDAP(&s), secretOIDC: takeOIDC(&s)}
	if err := keepOrAsk(before, &s, given); err != nil {
		return api.SignInSettings{}, err
	}
	undo, err := d.putSecrets(given)
	if err == nil {
		err = d.Store.Put(bucket, key, s)
	}
	if err != nil {
		return api.SignInSettings{}, errors.Join(err, undo())
	}
	d.apply(s)
	d.forget(s)
	d.endChanged(before, s, given)
	return shown(s), nil
}

func validate(s api.SignInSettings) error {
	if err := s.Validate(); err != nil {
		return err
	}
	if s.LDAP == nil {
		return nil
	}
	wrong := func(field, hint, text string) error {
		return &api.Error{Code: api.CodeInvalid, Field: field, Message: text, Hint: hint}
	}
	if _, err := ldap.ParseDN(s.LDAP.BaseDN); err != nil {
		return wrong("ldap.baseDN", "Write it as ou=people,dc=example,dc=com.", "this is no distinguished name")
	}
	if _, err := ldap.ParseDN(s.LDAP.GroupBaseDN); err != nil {
		return wrong("ldap.groupBaseDN", "Write it as ou=groups,dc=example,dc=com.", "this is no distinguished name")
	}
	if _, err := ldap.CompileFilter(filled(s.LDAP.UserFilter, "x", "x")); err != nil {
		return wrong("ldap.userFilter", "Write it as (uid={name}), with as many brackets closed as opened.", "this is no filter")
	}
	if s.LDAP.GroupFilter != "" {
		if _, err := ldap.CompileFilter(filled(s.LDAP.GroupFilter, "x", "x")); err != nil {
			return wrong("ldap.groupFilter", "Write it as (member={dn}), with as many brackets closed as opened.", "this is no filter")
		}
	}
	return nil
}

// endChanged ends the sessions of those who signed in by a part that says something else now. The settings hold by then: a
// session that is over and stays on the disk is for the log.
func (d *Directory) endChanged(before, now api.SignInSettings, given map[string]api.Secret) {
	for source, changed := range map[string]bool{
		sourceLDAP: !reflect.DeepEqual(before.LDAP, now.LDAP) || !given[secretLDAP].IsZero(),
		sourceOIDC: !reflect.DeepEqual(before.OIDC, now.OIDC) || !given[secretOIDC].IsZero(),
	} {
		if !changed {
			continue
		}
		if err := d.People.EndSource(source); err != nil {
			d.Log.Error("sessions would be open again after a restart", "source", source, "error", err)
		}
	}
}

// turn lets in as many as may ask at once, each for a time.
func (d *Directory) turn(ctx context.Context) (context.Context, func(), error) {
	select {
	case d.atOnce <- struct{}{}:
	default:
		return nil, nil, api.Errorf(api.CodeThrottled, "Try again in a moment.", "too many people sign in at once")
	}
	ctx, cancel := context.WithTimeout(ctx, d.Patience)
	return ctx, func() { cancel(); <-d.atOnce }, nil
}
