package access

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"understudy/api"
)

// Sources of users.
const (
	sourceLocal = "local"
	sourceLDAP  = "ldap"
	sourceOIDC  = "oidc"
)

// What is remembered of a user.
const (
	maxUsers  = 10_000
	maxPlaces = 16
	knownFor  = 90 * 24 * time.Hour
)

// user as it is kept.
type user struct {
	api.User
	Hash    string               `json:"hash,omitempty"`    // of a local user's password
	Subject string               `json:"subject,omitempty"` // of a directory's user
	Proved  time.Time            `json:"proved,omitzero"`   // when the directory knew this user last; zero: it did not
	Places  map[string]time.Time `json:"places,omitempty"`  // where the user signed in, and when last
}

func (u user) principal(method string) api.Principal {
	p := api.Principal{User: u.ID, Name: u.Name, Role: u.Role, Method: method}
	if len(u.Groups) > 0 {
		p.Scope = slices.Clone(u.Groups)
	}
	return p
}

func (u user) knows(place string, now time.Time) bool {
	at, ok := u.Places[place]
	return ok && now.Sub(at) < knownFor
}

// remember a place, and forget the one that was not used for longest.
func (u *user) remember(place string, now time.Time) {
	u.Places = maps.Clone(u.Places)
	if u.Places == nil {
		u.Places = map[string]time.Time{}
	}
	u.Places[place] = now
	for len(u.Places) > maxPlaces {
		oldest := place
		for p, at := range u.Places {
			if at.Before(u.Places[oldest]) {
				oldest = p
			}
		}
		delete(u.Places, oldest)
	}
}

// keepUser writes a user down. The lock writing is held.
func (a *Access) keepUser(u user) error {
	if err := a.Store.Put(bucketUsers, u.ID, u); err != nil {
		return fmt.Errorf("keep user %s: %w", u.Name, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.users[u.ID] = u
	return nil
}

func (a *Access) byName(name string) (user, bool) {
	return a.find(func(u user) bool { return u.Name == name })
}

func (a *Access) bySubject(source, subject string) (user, bool) {
	return a.find(func(u user) bool { return u.Source == source && u.Subject == subject })
}

func (a *Access) find(is func(user) bool) (user, bool) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	for _, u := range a.users {
		if is(u) {
			return u, true
		}
	}
	return user{}, false
}

// userByID gives a user by id or name.
func (a *Access) userByID(ref string) (user, error) {
	a.mu.RLock()
	u, ok := a.users[ref]
	a.mu.RUnlock()
	if !ok {
		u, ok = a.byName(strings.ToLower(ref))
	}
	if !ok {
		return user{}, api.Errorf(api.CodeNotFound, "List the users to see which there are.", "there is no user %q", ref)
	}
	return u, nil
}

// ListUsers gives all users by name.
func (a *Access) ListUsers(context.Context) ([]api.User, error) {
	a.mu.RLock()
	all := make([]api.User, 0, len(a.users))
	for _, u := range a.users {
		all = append(all, u.User)
	}
	a.mu.RUnlock()
	slices.SortFunc(all, func(x, y api.User) int { return cmp.Compare(x.Name, y.Name) })
	return all, nil
}

// GetUser gives a user by id or name.
func (a *Access) GetUser(_ context.Context, ref string) (api.User, error) {
	u, err := a.userByID(ref)
	return u.User, err
}

var namePattern = regexp.MustCompile(`^[\p{L}\p{N}][\p{L}\p{N}._@+-]*$`)

// checkName refuses names that cannot be told apart from others; except is the id of the user that may have it already.
func (a *Access) checkName(name, except string) error {
	wrong := func(hint, format string, args ...any) error {
		e := api.Errorf(api.CodeInvalid, hint, format, args...)
		e.Field = "name"
		return e
	}
	switch u, taken := a.byName(name); {
	case !namePattern.MatchString(name) || len(name) > 64:
		return wrong("Use letters, digits, dot, dash, underscore, plus and @; at most 64 of them.", "%q is no name for a user", name)
	case name == "local":
		return wrong("Choose another name.", "the name local stands for the appliance's own token")
	case taken && u.ID != except:
		e := api.Errorf(api.CodeConflict, "Choose another name.", "there is a user %s already, of source %s", name, u.Source)
		e.Field = "name"
		return e
	}
	return nil
}

func checkRights(role api.Role, groups []string) error {
	wrong := func(field, hint, format string, args ...any) error {
		e := api.Errorf(api.CodeInvalid, hint, format, args...)
		e.Field = field
		return e
	}
	switch {
	case !role.Includes(api.RoleViewer):
		return wrong("role", "Use viewer, operator or administrator.", "there is no role %q", role)
	case role == api.RoleAdministrator && len(groups) > 0:
		return wrong("groups", "Leave the groups out, or choose another role.", "an administrator sees everything")
	}
	for i, g := range groups {
		if g == "" || len(g) > 128 || slices.Contains(groups[:i], g) {
			return wrong(fmt.Sprintf("groups[%d]", i), "Give each group once.", "%q is no group, or was named before", g)
		}
	}
	return nil
}

func sameGroups(x, y []string) bool { return slices.Equal(noNil(x), noNil(y)) }

func noNil(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

// CreateUser makes a local user.
func (a *Access) CreateUser(ctx context.Context, spec api.UserSpec) (api.User, error) {
	u, err := a.newUser(ctx, spec)
	if err != nil {
		return api.User{}, err
	}
	a.writing.Lock()
	defer a.writing.Unlock()
	return a.addUser(u)
}

// newUser checks everything that takes no lock.
func (a *Access) newUser(ctx context.Context, spec api.UserSpec) (user, error) {
	name := strings.ToLower(strings.TrimSpace(spec.Name))
	if err := a.checkName(name, ""); err != nil {
		return user{}, err
	}
	if err := checkRights(spec.Role, spec.Groups); err != nil {
		return user{}, err
	}
	if err := checkPassword("password", name, spec.Password); err != nil {
		return user{}, err
	}
	hash, err := a.passwords.hash(ctx, spec.Password)
	if err != nil {
		return user{}, err
	}
	return user{Hash: hash, User: api.User{ID: newID(), Revision: 1, Name: name, FullName: strings.TrimSpace(spec.FullName), Role: spec.Role,
		Groups: noNil(spec.Groups), Source: sourceLocal, Created: a.Clock().UTC()}}, nil
}

// addUser keeps a new user. The lock writing is held.
func (a *Access) addUser(u user) (api.User, error) {
	if err := a.checkName(u.Name, ""); err != nil {
		return api.User{}, err
	}
	if len(a.users) >= maxUsers { // only who holds writing changes it
		return api.User{}, api.Errorf(api.CodeConflict, "Remove some.", "there are %d users already", maxUsers)
	}
	if err := a.keepUser(u); err != nil {
		return api.User{}, err
	}
	a.setupDone()
	return u.User, nil
}

// UpdateUser changes a user. A new password, and being disabled, end the sessions.
func (a *Access) UpdateUser(ctx context.Context, ref string, revision int64, edit api.UserEdit) (api.User, error) {
	if err := checkRights(edit.Role, edit.Groups); err != nil {
		return api.User{}, err
	}
	u, err := a.userByID(ref)
	if err != nil {
		return api.User{}, err
	}
	var hash string
	if !edit.Password.IsZero() {
		if u.Source != sourceLocal {
			e := api.Errorf(api.CodeInvalid, "Change it there.", "the password of %s is kept by %s", u.Name, u.Source)
			e.Field = "password"
			return api.User{}, e
		}
		if err := checkPassword("password", u.Name, edit.Password); err != nil {
			return api.User{}, err
		}
		if hash, err = a.passwords.hash(ctx, edit.Password); err != nil {
			return api.User{}, err
		}
	}
	a.writing.Lock()
	defer a.writing.Unlock()
	if u, err = a.userByID(u.ID); err != nil {
		return api.User{}, err
	}
	if u.Revision != revision {
		return api.User{}, api.Errorf(api.CodeStale, "Look at it again and repeat the change.", "user %s was changed meanwhile", u.Name)
	}
	if (edit.Disabled || edit.Role != api.RoleAdministrator) && a.isLast(u) {
		return api.User{}, errLast(u.Name)
	}
	u.Revision++
	u.FullName, u.Role, u.Groups, u.Disabled = strings.TrimSpace(edit.FullName), edit.Role, noNil(edit.Groups), edit.Disabled
	if hash != "" {
		u.Hash = hash
	}
	if err := a.keepUser(u); err != nil {
		return api.User{}, err
	}
	if hash != "" || u.Disabled {
		if err := a.endSessions(a.sessionsOf(u.ID, "")); err != nil {
			return api.User{}, err
		}
	}
	return u.User, nil
}

// DeleteUser removes a user with its sessions and tokens. These go first: what is left of them must not outlive it.
func (a *Access) DeleteUser(_ context.Context, ref string) error {
	a.writing.Lock()
	defer a.writing.Unlock()
	u, err := a.userByID(ref)
	if err != nil {
		return err
	}
	if a.isLast(u) {
		return errLast(u.Name)
	}
	if err := a.endSessions(a.sessionsOf(u.ID, "")); err != nil {
		return err
	}
	if err := a.endTokens(a.tokensOf(u.ID)); err != nil {
		return err
	}
	if err := a.Store.Delete(bucketUsers, u.ID); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.users, u.ID)
	return nil
}

// isLast tells whether u is the only administrator who can sign in, or the only one who can while no directory answers.
func (a *Access) isLast(u user) bool {
	active := func(u user) bool { return u.Role == api.RoleAdministrator && !u.Disabled }
	_, others := a.find(func(other user) bool { return other.ID != u.ID && active(other) })
	_, locals := a.find(func(other user) bool { return other.ID != u.ID && active(other) && other.Source == sourceLocal })
	return active(u) && (!others || u.Source == sourceLocal && !locals)
}

func errLast(name string) error {
	return api.Errorf(api.CodeConflict, "Make another user with a password of the appliance's own an administrator first.",
		"%s is the last administrator, or the last who can sign in while no directory answers", name)
}

// ChangePassword changes the password of p itself, and ends its other sessions.
func (a *Access) ChangePassword(ctx context.Context, p api.Principal, in api.PasswordChange) error {
	u, err := a.userByID(p.User)
	if err != nil || p.Method != api.MethodSession {
		return api.Errorf(api.CodeForbidden, "Sign in with the old password.", "only a person who is signed in can change a password")
	}
	if u.Source != sourceLocal {
		return api.Errorf(api.CodeConflict, "Change it there.", "the password of %s is kept by %s", u.Name, u.Source)
	}
	if err := checkPassword("new", u.Name, in.New); err != nil {
		return err
	}
	guess := try{"password " + u.ID, perPlace} // whoever found an open session must not find the password
	if err := a.throttle.take(guess); err != nil {
		return err
	}
	match, err := a.passwords.match(ctx, in.Old, u.Hash)
	if err != nil {
		return err
	}
	if !match {
		e := api.Errorf(api.CodeInvalid, "Type the password that you signed in with.", "the old password is wrong")
		e.Field = "old"
		return e
	}
	a.throttle.forgive(guess)
	hash, err := a.passwords.hash(ctx, in.New)
	if err != nil {
		return err
	}
	a.writing.Lock()
	defer a.writing.Unlock()
	now, err := a.userByID(u.ID)
	if err != nil || now.Hash != u.Hash {
		return api.Errorf(api.CodeConflict, "Sign in again.", "the password was changed meanwhile")
	}
	now.Hash = hash
	if err := a.keepUser(now); err != nil {
		return err
	}
	return a.endSessions(a.sessionsOf(now.ID, p.Credential))
}
