package replication

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"understudy/api"
	"understudy/hypervisors"
)

// Login says where a host is, and who we are there. User and Password are empty at hosts that are not signed in to.
type Login struct {
	URI, User string
	Password  api.Secret
}

// Secrets keeps what must not stand in the state: each is durable when Put returns. *vault.Vault does.
type Secrets interface {
	Put(name string, secret api.Secret) error
	// Get fails when there is none of that name, or nothing that opens it.
	Get(name string) (api.Secret, error)
	Delete(name string) error
	Names() []string
}

// hostSecrets starts the names of all passwords of hosts.
const hostSecrets = "host/"

// passwordName is where the password of a host is sealed. Each password has a name of its own, which the record tells by
// the revision: so a death between the two leaves the record with the password that belongs to its address.
func passwordName(id string, revision int64) string {
	return fmt.Sprintf("%s%s/password-%d", hostSecrets, id, revision)
}

// reachedAs says whether a specification reaches a host by the same address and user.
func (r *hostRecord) reachedAs(spec api.HostSpec) bool {
	return r.URI == spec.URI && r.User == spec.User
}

// loginAs gives what a specification says, with the password that is kept where it has none. A password is kept for one
// address and one user: whoever changes either must know it, or it could be sent to a server of theirs. known is nil for
// a host that is not there yet.
func (e *Engine) loginAs(spec api.HostSpec, known *hostRecord) (Login, error) {
	login := Login{URI: spec.URI, User: spec.User, Password: spec.Password}
	ask := func(field, hint, format string, args ...any) (Login, error) {
		err := api.Errorf(api.CodeInvalid, hint, format, args...)
		err.Field = field
		return Login{}, err
	}
	switch {
	case spec.User == "" && !spec.Password.IsZero():
		return ask("user", "Give both, or neither where the host takes none.", "a password without a user")
	case spec.User == "" || !spec.Password.IsZero():
		return login, nil
	case known == nil || known.PasswordSince == 0:
		return ask("password", "Give it; it is kept sealed and never shown.", "the password of %s is missing", spec.User)
	case !known.reachedAs(spec):
		return ask("password", "Enter the password again; the one that is kept goes nowhere else.",
			"the password that is kept is for another address or user")
	}
	return e.loginOf(known)
}

// loginOf gives what a host is reached by.
func (e *Engine) loginOf(rec *hostRecord) (Login, error) {
	login := Login{URI: rec.URI, User: rec.User}
	if rec.PasswordSince == 0 {
		return login, nil
	}
	err := errNoSecrets
	if e.Secrets != nil {
		login.Password, err = e.Secrets.Get(passwordName(rec.ID, rec.PasswordSince))
	}
	if err != nil {
		return login, &api.Error{Code: api.CodeConflict, Field: "password", Err: err,
			Message: fmt.Sprintf("the password of host %s is missing: enter it again, or put the key file of the secrets back (%v)", rec.Name, err),
			Hint:    "Enter the password again (hosts edit --password-file), or put the key file of the secrets back."}
	}
	return login, nil
}

var errNoSecrets = errors.New("nothing keeps secrets here")

// keepPassword takes the password out of a record that is about to be written, and seals it first. undo forgets it again.
func (e *Engine) keepPassword(rec *hostRecord) (undo func(), err error) {
	password := rec.Password
	rec.Password = api.Secret{}
	if rec.User == "" {
		rec.PasswordSince = 0
	}
	if password.IsZero() {
		return func() {}, nil
	}
	if e.Secrets == nil {
		return nil, errNoSecrets
	}
	rec.PasswordSince = rec.Revision
	if err := e.Secrets.Put(passwordName(rec.ID, rec.Revision), password); err != nil {
		return nil, fmt.Errorf("keep the password of host %s: %w", rec.Name, err)
	}
	return func() { e.forgetPassword(rec) }, nil
}

// forgetPassword deletes what a record names. What stays behind is sealed, and goes at the next start.
func (e *Engine) forgetPassword(rec *hostRecord) {
	if rec.PasswordSince == 0 || e.Secrets == nil {
		return
	}
	if err := e.Secrets.Delete(passwordName(rec.ID, rec.PasswordSince)); err != nil {
		e.Log.Warn("a password that nothing needs any more stays until the next start", "host", rec.Name, "error", err)
	}
}

// forgetStrayPasswords deletes what a death left between a password and its record.
func (e *Engine) forgetStrayPasswords() {
	if e.Secrets == nil {
		return
	}
	var wanted []string
	for _, p := range e.hosts {
		wanted = append(wanted, passwordName(p.ID, p.PasswordSince))
	}
	for _, name := range e.Secrets.Names() {
		if !strings.HasPrefix(name, hostSecrets) || slices.Contains(wanted, name) {
			continue
		}
		if err := e.Secrets.Delete(name); err != nil {
			e.Log.Warn("a password that nothing needs any more stays", "secret", name, "error", err)
		}
	}
}

// refused says at which field of a specification it was that a host could not be connected.
func refused(err error, login Login) error {
	why := *asPublic(err)
	field := "uri"
	if login.User != "" && errors.Is(err, hypervisors.ErrUnauthorized) {
		field = "user"
	}
	why.Field = cmp.Or(why.Field, field)
	return &why
}
