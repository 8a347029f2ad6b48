package access

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"understudy/api"
)

// TokenPrefix begins every API token, so that people and scanners of leaked secrets know one when they see it.
const TokenPrefix = "ust_"

const (
	maxTokenLife = 366 * 24 * time.Hour
	maxTokens    = 100 // of one user
	// usedEvery is how exactly the disk knows when a token was used.
	usedEvery = 5 * time.Minute
	// forgetAfter is how long expired tokens are still listed.
	forgetAfter = 30 * 24 * time.Hour
)

// token as it is kept, by its id.
type token struct {
	api.Token
	Digest string `json:"digest"`
}

// Bearer finds whose API token it is.
func (a *Access) Bearer(text string) (api.Principal, error) {
	unknown := api.Errorf(api.CodeUnauthorized, "Send a token as Authorization: Bearer, or sign in.", "the token is wrong, or was deleted")
	if !strings.HasPrefix(text, TokenPrefix) {
		return api.Principal{}, unknown
	}
	now := a.Clock().UTC()
	a.mu.Lock()
	t, known := a.tokens[a.byDigest[digest(text)]]
	u, there := a.users[t.User]
	known = known && there && !u.Disabled && a.offered(u.Source)
	doubtful := u.Source != sourceLocal && now.Sub(u.Proved) > trust
	alive := known && !doubtful && now.Before(t.Expires)
	late := alive && (t.LastUsed == nil || now.Sub(*t.LastUsed) >= usedEvery)
	if late {
		t.LastUsed = &now
		a.tokens[t.ID] = t
	}
	a.mu.Unlock()
	switch {
	case !known:
		return api.Principal{}, unknown
	case doubtful:
		return api.Principal{}, api.Errorf(api.CodeUnauthorized, "Let "+u.Name+" sign in again. For programs, make a token of a user with a password of the appliance's own.",
			"nobody knows whether %s still belongs to the directory", u.Name)
	case !alive:
		return api.Principal{}, api.Errorf(api.CodeUnauthorized, "Make a new one.", "the token %q has expired", t.Name)
	case late:
		a.keepUsed(t.ID)
	}
	p := u.principal(api.MethodToken)
	p.Credential = t.ID
	if p.Role.Includes(t.Role) {
		p.Role = t.Role // never more than the user has by now
	}
	return p, nil
}

func (a *Access) keepUsed(id string) {
	a.writing.Lock()
	defer a.writing.Unlock()
	a.mu.RLock()
	t, known := a.tokens[id]
	a.mu.RUnlock()
	if !known {
		return
	}
	if err := a.Store.Put(bucketTokens, id, t); err != nil {
		a.Log.Warn("use of a token is not kept", "token", id, "error", err)
	}
}

// ListTokens gives the caller's tokens, or all.
func (a *Access) ListTokens(_ context.Context, q api.TokenQuery) ([]api.Token, error) {
	if q.All && !q.By.Role.Includes(api.RoleAdministrator) {
		return nil, errOthersTokens()
	}
	q.All = q.All || q.By.Method == api.MethodLocal // it has none of its own
	all := []api.Token{}
	a.mu.RLock()
	for _, t := range a.tokens {
		if q.All || t.User == q.By.User {
			t.UserName = a.users[t.User].Name
			all = append(all, t.Token)
		}
	}
	a.mu.RUnlock()
	slices.SortFunc(all, func(x, y api.Token) int {
		return cmp.Or(cmp.Compare(x.UserName, y.UserName), cmp.Compare(x.Name, y.Name), cmp.Compare(x.ID, y.ID))
	})
	return all, nil
}

func errOthersTokens() error {
	return api.Errorf(api.CodeForbidden, "Ask an administrator of the appliance.", "only administrators see the tokens of others")
}

// CreateToken makes a token for the caller. Programs cannot make themselves more tokens: one that leaked would never end.
func (a *Access) CreateToken(_ context.Context, spec api.TokenSpec) (api.NewToken, error) {
	if spec.By.Method == api.MethodToken {
		return api.NewToken{}, api.Errorf(api.CodeForbidden, "Sign in in the console, or use the command line on the appliance.", "a token cannot make another")
	}
	if spec.User != "" && !spec.By.Role.Includes(api.RoleAdministrator) {
		return api.NewToken{}, errOthersTokens()
	}
	if spec.User == "" && spec.By.User == "" {
		e := api.Errorf(api.CodeInvalid, "Name a user.", "the appliance's own token is no user")
		e.Field = "user"
		return api.NewToken{}, e
	}
	u, err := a.userByID(cmp.Or(spec.User, spec.By.User))
	if err != nil {
		return api.NewToken{}, err
	}
	return a.createToken(u, spec)
}

func (a *Access) createToken(u user, spec api.TokenSpec) (api.NewToken, error) {
	wrong := func(field, hint, format string, args ...any) error {
		e := api.Errorf(api.CodeInvalid, hint, format, args...)
		e.Field = field
		return e
	}
	now := a.Clock().UTC()
	role := cmp.Or(spec.Role, u.Role)
	switch name := strings.TrimSpace(spec.Name); {
	case name == "" || len(name) > 64:
		return api.NewToken{}, wrong("name", "Say what it is for, in at most 64 characters.", "%q is no name for a token", spec.Name)
	case !u.Role.Includes(role):
		return api.NewToken{}, wrong("role", "Choose a lesser role.", "%s is no %s", u.Name, role)
	case !spec.Expires.After(now) || spec.Expires.After(now.Add(maxTokenLife)):
		return api.NewToken{}, wrong("expires", "Choose a time within a year from now.", "a token cannot end at %s", spec.Expires.Format(time.RFC3339))
	}
	text := TokenPrefix + chance()
	t := token{Digest: digest(text), Token: api.Token{ID: newID(), Name: strings.TrimSpace(spec.Name), User: u.ID, UserName: u.Name, Role: role,
		Created: now, Expires: spec.Expires.UTC()}}
	a.writing.Lock()
	defer a.writing.Unlock()
	if _, err := a.userByID(u.ID); err != nil {
		return api.NewToken{}, err
	}
	a.sweepTokens(now)
	if len(a.tokensOf(u.ID)) >= maxTokens {
		return api.NewToken{}, api.Errorf(api.CodeConflict, "Remove some.", "%s has %d tokens already", u.Name, maxTokens)
	}
	if err := a.Store.Put(bucketTokens, t.ID, t); err != nil {
		return api.NewToken{}, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tokens[t.ID], a.byDigest[t.Digest] = t, t.ID
	return api.NewToken{Token: t.Token, Shown: api.NewSecret(text).InClear()}, nil
}

// DeleteToken ends a token of the caller, or, for administrators, of anybody.
func (a *Access) DeleteToken(_ context.Context, id string, q api.TokenQuery) error {
	a.writing.Lock()
	defer a.writing.Unlock()
	a.mu.RLock()
	t, known := a.tokens[id]
	a.mu.RUnlock()
	if q.All && !q.By.Role.Includes(api.RoleAdministrator) {
		return errOthersTokens()
	}
	if !known || t.User != q.By.User && !q.All && q.By.Method != api.MethodLocal {
		return api.Errorf(api.CodeNotFound, "List the tokens to see which there are.", "there is no token %q", id)
	}
	return a.endTokens([]string{id})
}

func (a *Access) tokensOf(user string) []string {
	a.mu.RLock()
	defer a.mu.RUnlock()
	var ids []string
	for id, t := range a.tokens {
		if t.User == user {
			ids = append(ids, id)
		}
	}
	return ids
}

func (a *Access) sweepTokens(now time.Time) {
	var ids []string
	a.mu.RLock()
	for id, t := range a.tokens {
		if now.Sub(t.Expires) > forgetAfter {
			ids = append(ids, id)
		}
	}
	a.mu.RUnlock()
	if err := a.endTokens(ids); err != nil {
		a.Log.Warn("old tokens stay on the disk", "error", err)
	}
}

func (a *Access) endTokens(ids []string) error {
	a.mu.Lock()
	for _, id := range ids {
		delete(a.byDigest, a.tokens[id].Digest)
		delete(a.tokens, id)
	}
	a.mu.Unlock()
	for _, id := range ids {
		if err := a.Store.Delete(bucketTokens, id); err != nil {
			return err
		}
	}
	return nil
}
