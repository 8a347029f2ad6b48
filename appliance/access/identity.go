package access

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"understudy/api"
)

// Directory proves passwords that the appliance does not know: LDAP. It is asked for names that no local user has.
type Directory interface {
	// Check gives who has name and password; ErrWrong when nobody does. Other errors say that it could not be asked.
	Check(ctx context.Context, name string, password api.Secret) (Identity, error)
}

// ErrWrong says that nobody has this name and password.
var ErrWrong = errors.New("the name or the password is wrong")

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

// SetProvider gives the name of the OIDC provider for the sign-in page; empty: there is none.
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
	a.writing.Lock()
	defer a.writing.Unlock()
	u, known := a.bySubject(i.Source, i.Subject)
	switch {
	case !known:
		if err := a.checkName(i.Name, ""); err != nil {
			return api.Opened{}, err
		}
		u = user{Subject: i.Subject, User: api.User{ID: newID(), Name: i.Name, Source: i.Source, Created: a.Clock().UTC()}}
	case u.Disabled:
		return api.Opened{}, errWrongSignIn()
	}
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
