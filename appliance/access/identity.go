package access

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"understudy/api"
)

// Directory proves passwords that the appliance does not know: LDAP. It is asked for names that no local user has.
type Directory interface {
	// Check gives who has name and password; ErrWrong when nobody does, ErrGone when nobody has the name, ErrNoRole with who
	// it is when that one may not come in. Other errors say that it could not be asked.
	Check(ctx context.Context, name string, password api.Secret) (Identity, error)
}

// Why somebody is not let in. ErrGone and ErrNoRole are what the directory itself says, and no guess of a password brings
// them about: what such a user has open here ends.
var (
	ErrWrong  = errors.New("the name or the password is wrong")
	ErrGone   = errors.New("the directory knows nobody of this name")
	ErrNoRole = errors.New("no group of theirs has a role here")
	// ErrDisabled is of users that an administrator disabled.
	ErrDisabled = fmt.Errorf("%w, or the user is disabled", ErrWrong)
)

// trust is how long the API tokens of somebody last who does not sign in any more: only then it is seen that a directory
// does not know them any longer.
const trust = 7 * 24 * time.Hour

// Identity is somebody that a directory or a provider vouches for, with the role that it maps to.
type Identity struct {
	Source   string // "ldap", "oidc"
	Subject  string // never changes and belongs to nobody else there
	Name     string
	FullName string
	Role     api.Role
	Groups   []string // ids; empty means all
}

// SetDirectory says who proves the passwords of users that are not local; nil: nobody.
func (a *Access) SetDirectory(d Directory) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.directory = d
}

// SetProvider gives the name of the OIDC provider for the sign-in page; empty: there is none. While there is none, and no
// directory, nothing lets in the users that came from there.
func (a *Access) SetProvider(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.provider = name
}

// Ways tells how one can sign in.
func (a *Access) Ways() api.SignInWays {
	a.mu.RLock()
	defer a.mu.RUnlock()
	ways := api.SignInWays{Local: true, LDAP: a.directory != nil}
	if a.provider != "" {
		ways.OIDC = &api.Provider{Name: a.provider}
	}
	return ways
}

// errWrongSignIn is one for all reasons: it does not tell names that exist from others.
func errWrongSignIn() error {
	return api.Errorf(api.CodeUnauthorized, "Check the keyboard layout and caps lock. An administrator can set a new password.", "%w", ErrWrong)
}

// SignIn opens a session for whoever has the name and the password; from is the address it comes from.
func (a *Access) SignIn(ctx context.Context, in api.Credentials, from string) (api.Opened, error) {
	name := strings.ToLower(strings.TrimSpace(in.Name))
	u, known := a.byName(name)
	tries := a.tries(name, u, from)
	if err := a.throttle.take(tries...); err != nil {
		return api.Opened{}, err
	}
	opened, err := a.signIn(ctx, name, u, known, in.Password, from)
	if err == nil || api.CodeOf(err) != api.CodeUnauthorized {
		a.throttle.forgive(tries...)
	}
	return opened, err
}

func (a *Access) tries(name string, u user, from string) []try {
	from = place(from)
	if u.knows(from, a.Clock()) {
		return []try{{"place " + from + " " + name, perPlace}}
	}
	return []try{{"address " + from, perAddress}, {"name " + name, perName}}
}

func (a *Access) signIn(ctx context.Context, name string, u user, known bool, password api.Secret, from string) (api.Opened, error) {
	a.mu.RLock()
	directory := a.directory
	a.mu.RUnlock()
	if directory != nil && (!known || u.Source == sourceLDAP) && !password.IsZero() { // an empty one binds as nobody at many servers
		identity, err := directory.Check(ctx, name, password)
		switch {
		case errors.Is(err, ErrWrong):
			return api.Opened{}, errWrongSignIn()
		case errors.Is(err, ErrGone):
			a.withdraw(u.Subject)
			return api.Opened{}, errWrongSignIn()
		case errors.Is(err, ErrNoRole):
			a.withdraw(identity.Subject)
			return api.Opened{}, errNoRole(identity.Name)
		case err != nil:
			return api.Opened{}, err
		}
		return a.SignInIdentity(ctx, identity, from)
	}
	match, err := a.passwords.match(ctx, password, u.Hash)
	if err != nil {
		return api.Opened{}, err
	}
	if !match {
		return api.Opened{}, errWrongSignIn()
	}
	a.writing.Lock()
	defer a.writing.Unlock()
	now, err := a.userByID(u.ID) // as it is by now
	if err != nil || now.Disabled || now.Hash != u.Hash {
		return api.Opened{}, errWrongSignIn()
	}
	return a.open(now, from)
}

// SignInIdentity opens a session for somebody who was proved elsewhere. At the first time a user is made; later, role and
// groups follow the identity.
func (a *Access) SignInIdentity(_ context.Context, i Identity, from string) (api.Opened, error) {
	i.Name = strings.ToLower(strings.TrimSpace(i.Name))
	if i.Subject == "" || i.Source == "" || i.Source == sourceLocal {
		return api.Opened{}, fmt.Errorf("identity %q of %q has no subject", i.Name, i.Source)
	}
	if err := checkRights(i.Role, i.Groups); err != nil {
		return api.Opened{}, err
	}
	if !a.offers(i.Source) {
		return api.Opened{}, errWrongSignIn() // it was taken away meanwhile
	}
	a.writing.Lock()
	defer a.writing.Unlock()
	u, known := a.bySubject(i.Source, i.Subject)
	switch {
	case !known:
		if err := a.checkName(i.Name, ""); err != nil {
			return api.Opened{}, err
		}
		if len(a.users) >= maxUsers { // only who holds writing changes it
			return api.Opened{}, api.Errorf(api.CodeConflict, "Remove some.", "there are %d users already", maxUsers)
		}
		u = user{Subject: i.Subject, User: api.User{ID: newID(), Name: i.Name, Source: i.Source, Created: a.Clock().UTC()}}
	case u.Disabled:
		return api.Opened{}, api.Errorf(api.CodeUnauthorized, "Ask an administrator of the appliance.", "%w", ErrDisabled)
	case u.Name != i.Name && a.checkName(i.Name, u.ID) == nil: // renamed there; if the name is somebody's here, the old one stays
		u.Revision++
		u.Name = i.Name
	}
	u.Proved = a.Clock().UTC()
	if u.Role != i.Role || u.FullName != i.FullName || !sameGroups(u.Groups, i.Groups) || !known {
		u.Revision++
		u.Role, u.FullName, u.Groups = i.Role, i.FullName, noNil(i.Groups)
	}
	opened, err := a.open(u, from)
	if err == nil {
		a.setupDone()
	}
	return opened, err
}

func errNoRole(name string) error {
	return api.Errorf(api.CodeForbidden, "Ask an administrator of the appliance for a role.", "%s may not sign in: %w", name, ErrNoRole)
}

func (a *Access) withdraw(subject string) {
	if err := a.Withdraw(sourceLDAP, subject); err != nil {
		a.Log.Error("what a user has open who is gone does not end", "error", err)
	}
}

// Withdraw ends what somebody has open who was found to be gone, or without a role. Nobody at all is no fault.
func (a *Access) Withdraw(source, subject string) error {
	a.writing.Lock()
	defer a.writing.Unlock()
	u, known := a.bySubject(source, subject)
	if !known || source == sourceLocal || subject == "" {
		return nil
	}
	u.Proved = time.Time{}
	if err := a.keepUser(u); err != nil {
		return err
	}
	return a.endSessions(a.sessionsOf(u.ID, ""))
}

// EndSource ends the sessions of all users of a source: they sign in again, with what they may do by now.
func (a *Access) EndSource(source string) error {
	a.writing.Lock()
	defer a.writing.Unlock()
	var keys []string
	a.mu.RLock()
	for key, s := range a.sessions {
		if a.users[s.User].Source == source {
			keys = append(keys, key)
		}
	}
	a.mu.RUnlock()
	return a.endSessions(keys)
}

// offers tells whether users of a source can get in.
func (a *Access) offers(source string) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.offered(source)
}

// offered is offers while the lock is held.
func (a *Access) offered(source string) bool {
	switch source {
	case sourceLDAP:
		return a.directory != nil
	case sourceOIDC:
		return a.provider != ""
	}
	return source == sourceLocal
}
