package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"understudy/api"
)

// SignIn is what a server needs to know about directories and providers.
type SignIn interface {
	api.SignIn
	// BeginLogin gives the address of the provider to send a browser to, and what only this browser must have when it
	// comes back. The error is a LoginError.
	BeginLogin(ctx context.Context) (Departure, error)
	// EndLogin opens a session for who came back; address is where they come from. The error is a LoginError.
	EndLogin(ctx context.Context, back Return, address string) (api.Opened, error)
}

// Departure sends a browser to a provider.
type Departure struct {
	Address string
	Cookie  api.Secret
}

// Return is what a browser brings back from a provider.
type Return struct {
	Cookie             api.Secret
	State, Code, Error string
	Issuer             string // RFC 9207; empty: the provider does not say
}

// LoginError says why somebody was not let in: Reason for the sign-in page, the error for the log.
type LoginError struct {
	Reason string // one of api.SignInExpired and so on
	Err    error
}

func (e *LoginError) Error() string { return e.Err.Error() }
func (e *LoginError) Unwrap() error { return e.Err }

const (
	// loginCookie must come back when another site sends the browser here, which Strict would not allow.
	loginCookie = "__Host-understudy-login"
	// LoginTime is how long somebody may take at the provider.
	LoginTime = 10 * time.Minute
	// maxReturn bounds each value that a browser brings back, in bytes.
	maxReturn = 4096
)

func loginCookieOf(value api.Secret) string {
	c := http.Cookie{Name: loginCookie, Value: value.Reveal(), Path: "/", MaxAge: int(LoginTime.Seconds()), Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode}
	if value.IsZero() {
		c.MaxAge = -1
	}
	return c.String()
}

// elsewhere sends a browser to another page.
type elsewhere struct {
	Status    int
	Location  string   `header:"Location"`
	SetCookie []string `header:"Set-Cookie"`
}

// toSignIn goes back to the sign-in page, which says why.
func (s *Server) toSignIn(ctx context.Context, err error) *elsewhere {
	s.log.WarnContext(ctx, "sign-in at the provider failed", "reason", reasonOf(err), "error", err)
	return &elsewhere{Status: http.StatusSeeOther, Location: "/?" + url.Values{"sign-in": {reasonOf(err)}}.Encode(),
		SetCookie: []string{loginCookieOf(api.Secret{})}}
}

func (s *Server) signInRoutes() {
	s.loginRoutes()
	register(s, administrator.on(appliance), http.MethodGet, "/settings/sign-in", "sign-in-settings", "Show how people sign in", http.StatusOK,
		func(ctx context.Context, _ *none) (*edited[api.SignInSettings], error) {
			v, err := s.signIn.SignInSettings(ctx)
			return edit(v, v.Revision, err)
		})
	type change struct {
		IfMatch
		Body api.SignInSettings
	}
	register(s, administrator.on(appliance), http.MethodPut, "/settings/sign-in", "set-sign-in", "Replace how people sign in; secrets that are left out stay", http.StatusOK,
		func(ctx context.Context, in *change) (*edited[api.SignInSettings], error) {
			revision, err := in.revision()
			if err != nil {
				return nil, err
			}
			if err := s.mappedGroups(ctx, in.Body); err != nil {
				return nil, err
			}
			v, err := s.signIn.SetSignInSettings(ctx, revision, in.Body)
			return edit(v, v.Revision, err)
		})
	register(s, administrator.on(appliance), http.MethodPost, "/settings/sign-in/test", "test-sign-in", "Try a directory and a provider before they are saved", http.StatusOK,
		func(ctx context.Context, in *struct{ Body api.SignInTrial }) (*body[api.SignInTest], error) {
			return answer(s.signIn.TestSignIn(ctx, in.Body))
		})
}

// mappedGroups turns the names of groups in all mappings into ids, in place.
func (s *Server) mappedGroups(ctx context.Context, v api.SignInSettings) error {
	var mappings = map[string][]api.RoleMapping{}
	if v.LDAP != nil {
		mappings["ldap"] = v.LDAP.Roles
	}
	if v.OIDC != nil {
		mappings["oidc"] = v.OIDC.Roles
	}
	for part, roles := range mappings {
		for i := range roles {
			ids, err := s.groupIDs(ctx, roles[i].Groups)
			if e, ok := err.(*api.Error); ok {
				e.Field = fmt.Sprintf("%s.roles[%d].%s", part, i, e.Field)
			}
			if err != nil {
				return err
			}
			roles[i].Groups = ids
		}
	}
	return nil
}

// back is the input of whoever comes from the provider. Providers add to it what they like.
type back struct {
	Asked
	Cookie string `cookie:"__Host-understudy-login"`
	State  string `query:"state"`
	Code   string `query:"code"`
	Error  string `query:"error"`
	Issuer string `query:"iss"`
}

func (s *Server) loginRoutes() {
	register(s, open, http.MethodGet, "/oidc/login", "begin-login", "Go to the provider to sign in", http.StatusSeeOther,
		func(ctx context.Context, _ *none) (*elsewhere, error) {
			d, err := s.signIn.BeginLogin(ctx)
			if err != nil {
				return s.toSignIn(ctx, err), nil
			}
			return &elsewhere{Status: http.StatusSeeOther, Location: d.Address, SetCookie: []string{loginCookieOf(d.Cookie)}}, nil
		})
	op := s.operation(open, http.MethodGet, "/oidc/callback", "end-login", "Come back from the provider; answers with the console, or the sign-in page and why", http.StatusSeeOther)
	op.SkipValidateParams = true
	huma.Register(s.api, op, func(ctx context.Context, in *back) (*elsewhere, error) { return s.endLogin(ctx, in), nil })
}

// endLogin lets somebody in who came back, writes that down, and leads to the console: never where somebody else says.
func (s *Server) endLogin(ctx context.Context, in *back) *elsewhere {
	if in.Cookie == "" { // whoever comes has not left from here, and nothing is tried
		return s.toSignIn(ctx, &LoginError{api.SignInExpired, errors.New("no sign-in was begun in this browser")})
	}
	for _, value := range []string{in.Cookie, in.State, in.Code, in.Error, in.Issuer} {
		if len(value) > maxReturn {
			return s.toSignIn(ctx, &LoginError{api.SignInFailed, fmt.Errorf("a value has %d bytes", len(value))})
		}
	}
	e := api.AuditEntry{Method: cmp.Or(in.By.Method, "none"), User: in.By.Name, Source: in.From, Action: "end-login", Outcome: api.OutcomeUnknown, Status: http.StatusSeeOther}
	key, err := s.access.BeginAudit(&e)
	if err != nil {
		return s.toSignIn(ctx, &LoginError{api.SignInNotAvailable, err})
	}
	opened, err := s.signIn.EndLogin(ctx, Return{Cookie: api.NewSecret(in.Cookie), State: in.State, Code: in.Code, Error: in.Error, Issuer: in.Issuer}, in.From)
	signed, err := s.letIn(ctx, in.By)(opened, err)
	if err != nil {
		e.Outcome, e.Message = api.OutcomeRefused, reasonOf(err)
	} else {
		e.Outcome, e.User = api.OutcomeDone, opened.User.Name
	}
	if err := s.access.EndAudit(key, e); err != nil {
		s.log.ErrorContext(ctx, "the outcome of a sign-in is not in the audit log yet", "user", e.User, "error", err)
	}
	if err != nil {
		return s.toSignIn(ctx, err)
	}
	return &elsewhere{Status: http.StatusSeeOther, Location: "/", SetCookie: []string{signed.SetCookie, loginCookieOf(api.Secret{})}}
}

func reasonOf(err error) string {
	if e, ok := err.(*LoginError); ok {
		return e.Reason
	}
	return api.SignInNotAvailable
}
