package cli

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"understudy/api"
	"understudy/api/server"
)

var _ server.Access = (*appliance)(nil)

func someUser(name string) api.User {
	return api.User{ID: "u1", Revision: 4, Name: name, FullName: "Ada A", Role: api.RoleOperator, Groups: []string{"g1"}, Source: "local", LastSignIn: ago(time.Hour)}
}

func (f *appliance) ListUsers(context.Context) ([]api.User, error) {
	never := someUser("eve")
	never.LastSignIn, never.Groups, never.Disabled = nil, nil, true
	return []api.User{someUser("ada"), never}, f.err
}

func (f *appliance) GetUser(_ context.Context, id string) (api.User, error) {
	return someUser(id), f.check(id)
}

func (f *appliance) CreateUser(_ context.Context, spec api.UserSpec) (api.User, error) {
	f.note("create user %s %s %v %q %q", spec.Name, spec.Role, spec.Groups, spec.FullName, spec.Password.Reveal())
	u := someUser(spec.Name)
	u.Role, u.Groups = spec.Role, spec.Groups
	return u, f.err
}

func (f *appliance) UpdateUser(_ context.Context, id string, revision int64, edit api.UserEdit) (api.User, error) {
	f.note("update user %s %d %s %v %q %v %q", id, revision, edit.Role, edit.Groups, edit.FullName, edit.Disabled, edit.Password.Reveal())
	u := someUser("ada")
	u.Role, u.Groups, u.Disabled = edit.Role, edit.Groups, edit.Disabled
	return u, f.err
}

func (f *appliance) DeleteUser(_ context.Context, id string) error {
	f.note("delete user %s", id)
	return f.check(id)
}

func someToken() api.Token {
	return api.Token{ID: "t1", Name: "backup", User: "u1", UserName: "ada", Role: api.RoleViewer, Created: now, Expires: now.Add(30 * 24 * time.Hour)}
}

func (f *appliance) ListTokens(_ context.Context, q api.TokenQuery) ([]api.Token, error) {
	f.note("list tokens %v %s", q.All, q.By.Name)
	used := someToken()
	used.LastUsed = ago(time.Minute)
	return []api.Token{someToken(), used}, f.err
}

func (f *appliance) CreateToken(_ context.Context, spec api.TokenSpec) (api.NewToken, error) {
	f.note("create token %s %q %s %s", spec.Name, spec.User, spec.Role, spec.Expires.Format(time.RFC3339))
	return api.NewToken{Token: someToken(), Shown: api.NewSecret("ust_shown-this-once")}, f.err
}

func (f *appliance) DeleteToken(_ context.Context, id string, q api.TokenQuery) error {
	f.note("delete token %s %v", id, q.All)
	return f.check(id)
}

// someAudit is a log of two entries.
func someAudit() []api.AuditEntry {
	first := api.AuditEntry{ID: 1, Time: now, User: "ada", Source: "192.0.2.1", Method: "session", Action: "failover", Subject: "web", Group: "g1", Job: "j1",
		After: json.RawMessage(`{"planned":true}`), Status: 202, Outcome: api.OutcomeDone}
	first.Hash = first.Chained("")
	second := api.AuditEntry{ID: 2, Time: now.Add(time.Second), Source: "198.51.100.7", Method: "none", Action: "sign-in", Status: 401,
		Outcome: api.OutcomeRefused, Message: "the name or the password is wrong"}
	second.Hash = second.Chained(first.Hash)
	return []api.AuditEntry{first, second}
}

func (f *appliance) ListAudit(_ context.Context, q api.AuditQuery) (api.Page[api.AuditEntry], error) {
	f.note("list audit %q %q %d", q.User, q.Q, q.Limit)
	all := someAudit()
	return api.Page[api.AuditEntry]{Items: []api.AuditEntry{all[1], all[0]}, Total: 2}, f.err
}

func (f *appliance) ExportAudit(_ context.Context, _, _ time.Time, fn func(api.AuditEntry) error) error {
	for _, e := range someAudit() {
		if err := fn(e); err != nil {
			return err
		}
	}
	return f.err
}

func (f *appliance) BeginAudit(*api.AuditEntry) (string, error)   { return "", nil }
func (f *appliance) EndAudit(string, api.AuditEntry) error        { return nil }
func (f *appliance) LoseOrder(api.Principal, string)              {}
func (f *appliance) SetupNeeded() bool                            { return false }
func (f *appliance) Ways() api.SignInWays                         { return api.SignInWays{Local: true} }
func (f *appliance) SignOut(context.Context, api.Principal) error { return f.err }
func (f *appliance) Session(string, bool) (api.Principal, error) {
	return api.Principal{}, errNoConsole
}
func (f *appliance) Bearer(string) (api.Principal, error) { return api.Principal{}, errNoConsole }
func (f *appliance) Me(p api.Principal) (api.Me, error) {
	return api.Me{User: api.User{ID: p.Name, Name: p.Name, Role: p.Role, Source: "built-in"}}, f.err
}

func (f *appliance) BeginOrder(context.Context, api.Principal, string, string) (*api.Answer, error) {
	return nil, nil
}
func (f *appliance) EndOrder(api.Principal, string, *api.Answer) error { return nil }

// errNoConsole: the command line has a token.
var errNoConsole = errors.New("nobody uses the console here")

func (f *appliance) SetUp(context.Context, api.SetupSpec, string) (api.Opened, error) {
	return api.Opened{}, errNoConsole
}

func (f *appliance) SignIn(context.Context, api.Credentials, string) (api.Opened, error) {
	return api.Opened{}, errNoConsole
}

func (f *appliance) ChangePassword(context.Context, api.Principal, api.PasswordChange) error {
	return errNoConsole
}
