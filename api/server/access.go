package server

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"understudy/api"
)

// Access is what a server needs to know about who comes.
type Access interface {
	api.Users
	api.Tokens
	Sessions
	Record
	// Bearer finds whose API token it is.
	Bearer(token string) (api.Principal, error)
}

// Sessions let people in. Addresses are those that they come from.
type Sessions interface {
	// Session finds whose cookie it is. With touch, the session lasts on.
	Session(cookie string, touch bool) (api.Principal, error)
	Ways() api.SignInWays
	SetupNeeded() bool
	SetUp(ctx context.Context, spec api.SetupSpec, address string) (api.Opened, error)
	SignIn(ctx context.Context, in api.Credentials, address string) (api.Opened, error)
	SignOut(ctx context.Context, p api.Principal) error
	ChangePassword(ctx context.Context, p api.Principal, in api.PasswordChange) error
	Me(p api.Principal) (api.Me, error)
}

// signedIn is the answer that lets somebody in, or out.
type signedIn struct {
	SetCookie string `header:"Set-Cookie" doc:"The session"`
	Body      api.Me
}

type signedOut struct {
	SetCookie string `header:"Set-Cookie"`
}

func (s *Server) accessRoutes() {
	s.sessionRoutes()
	s.tokenRoutes()
	s.userRoutes()
	s.auditRoutes()
}

func (s *Server) sessionRoutes() {
	register(s, open, http.MethodGet, "/setup", "setup", "Tell whether the first administrator is still to be made", http.StatusOK,
		func(context.Context, *none) (*body[api.Setup], error) {
			return answer(api.Setup{Needed: s.access.SetupNeeded()}, nil)
		})
	type setup struct {
		Asked
		Body api.SetupSpec
	}
	register(s, open, http.MethodPost, "/setup", "set-up", "Make the first administrator", http.StatusCreated,
		func(ctx context.Context, in *setup) (*signedIn, error) {
			return s.letIn(ctx, in.By)(s.access.SetUp(ctx, in.Body, in.From))
		})
	register(s, open, http.MethodGet, "/sign-in", "sign-in-ways", "Tell how one can sign in", http.StatusOK,
		func(context.Context, *none) (*body[api.SignInWays], error) { return answer(s.access.Ways(), nil) })
	type credentials struct {
		Asked
		Body api.Credentials
	}
	register(s, open, http.MethodPost, "/session", "sign-in", "Sign in with name and password", http.StatusOK,
		func(ctx context.Context, in *credentials) (*signedIn, error) {
			return s.letIn(ctx, in.By)(s.access.SignIn(ctx, in.Body, in.From))
		})
	register(s, self, http.MethodGet, "/session", "session", "Tell who is signed in", http.StatusOK,
		func(_ context.Context, in *struct{ Asked }) (*body[api.Me], error) {
			me, err := s.access.Me(in.By)
			me.CSRF = in.csrf
			return answer(me, err)
		})
	register(s, self, http.MethodDelete, "/session", "sign-out", "Sign out", http.StatusNoContent,
		func(ctx context.Context, in *struct{ Asked }) (*signedOut, error) {
			return &signedOut{SetCookie: noCookie()}, s.access.SignOut(ctx, in.By)
		})
	type change struct {
		Asked
		Body api.PasswordChange
	}
	register(s, self, http.MethodPut, "/session/password", "change-password", "Change one's own password, which ends one's other sessions", http.StatusNoContent,
		func(ctx context.Context, in *change) (*none, error) {
			return nil, s.access.ChangePassword(ctx, in.By, in.Body)
		})
}

// letIn answers with the new session; the one that was there before ends.
func (s *Server) letIn(ctx context.Context, before api.Principal) func(api.Opened, error) (*signedIn, error) {
	return func(opened api.Opened, err error) (*signedIn, error) {
		if err != nil {
			return nil, err
		}
		if err := s.access.SignOut(ctx, before); err != nil {
			s.log.Warn("an older session stays open", "error", err)
		}
		opened.CSRF = csrfOf(opened.Cookie.Reveal())
		return &signedIn{SetCookie: cookieOf(opened.Cookie), Body: opened.Me}, nil
	}
}

// whose is part of the input of operations on tokens.
type whose struct {
	Asked
	All bool `query:"all" doc:"Those of all users; administrators only"`
}

func (in *whose) query() api.TokenQuery { return api.TokenQuery{All: in.All, By: in.By} }

func (s *Server) tokenRoutes() {
	register(s, self, http.MethodGet, "/tokens", "list-tokens", "List one's own API tokens, or everybody's", http.StatusOK,
		func(ctx context.Context, in *whose) (*body[[]api.Token], error) {
			return list(s.access.ListTokens(ctx, in.query()))
		})
	type spec struct {
		Asked
		Body api.TokenSpec
	}
	register(s, self, http.MethodPost, "/tokens", "create-token", "Make an API token, which is shown once", http.StatusCreated,
		func(ctx context.Context, in *spec) (*created[api.NewToken], error) {
			in.Body.By = in.By
			t, err := s.access.CreateToken(ctx, in.Body)
			t.Shown = t.Shown.InClear()
			return &created[api.NewToken]{Location: prefix + "/tokens/" + url.PathEscape(t.ID), Body: t}, err
		})
	type one struct {
		Asked
		ID  string `path:"id" maxLength:"128" doc:"Id of the token"`
		All bool   `query:"all" doc:"Also one of another user; administrators only"`
	}
	register(s, self, http.MethodDelete, "/tokens/{id}", "delete-token", "Delete an API token", http.StatusNoContent,
		func(ctx context.Context, in *one) (*none, error) {
			return nil, s.access.DeleteToken(ctx, in.ID, api.TokenQuery{All: in.All, By: in.By})
		})
}

// OfUser addresses a user.
type OfUser struct {
	ID string `path:"id" maxLength:"128" doc:"Id or name of the user"`
}

type revisedUser struct {
	ETag string `header:"ETag"`
	Body api.User
}

func aUser(u api.User, err error) (*revisedUser, error) {
	return &revisedUser{ETag: strconv.Quote(strconv.FormatInt(u.Revision, 10)), Body: u}, err
}

func (s *Server) userRoutes() {
	register(s, administrator.on(appliance), http.MethodGet, "/users", "list-users", "List who may sign in", http.StatusOK,
		func(ctx context.Context, _ *none) (*body[[]api.User], error) { return list(s.access.ListUsers(ctx)) })
	register(s, administrator.on(appliance), http.MethodPost, "/users", "create-user", "Let somebody in", http.StatusCreated,
		func(ctx context.Context, in *struct{ Body api.UserSpec }) (*created[api.User], error) {
			var err error
			if in.Body.Groups, err = s.groupIDs(ctx, in.Body.Groups); err != nil {
				return nil, err
			}
			u, err := s.access.CreateUser(ctx, in.Body)
			return &created[api.User]{Location: prefix + "/users/" + url.PathEscape(u.ID), Body: u}, err
		})
	register(s, administrator.on(appliance), http.MethodGet, "/users/{id}", "get-user", "Show a user", http.StatusOK,
		func(ctx context.Context, in *OfUser) (*revisedUser, error) {
			return aUser(s.access.GetUser(ctx, in.ID))
		})
	type edit struct {
		OfUser
		IfMatch
		Body api.UserEdit
	}
	register(s, administrator.on(appliance), http.MethodPut, "/users/{id}", "update-user", "Change a user", http.StatusOK,
		func(ctx context.Context, in *edit) (*revisedUser, error) {
			revision, err := in.revision()
			if err != nil {
				return nil, err
			}
			if in.Body.Groups, err = s.groupIDs(ctx, in.Body.Groups); err != nil {
				return nil, err
			}
			return aUser(s.access.UpdateUser(ctx, in.ID, revision, in.Body))
		})
	register(s, administrator.on(appliance), http.MethodDelete, "/users/{id}", "delete-user", "Delete a user with all sessions and tokens", http.StatusNoContent,
		func(ctx context.Context, in *OfUser) (*none, error) { return nil, s.access.DeleteUser(ctx, in.ID) })
}

// groupIDs turns names of groups into ids. A name that is no group would be a scope that fits a later one by chance.
func (s *Server) groupIDs(ctx context.Context, refs []string) ([]string, error) {
	ids := make([]string, 0, len(refs))
	for i, ref := range refs {
		g, err := s.svc.GetGroup(ctx, ref)
		if api.CodeOf(err) == api.CodeNotFound {
			e := api.Errorf(api.CodeInvalid, "List the groups to see which there are.", "there is no group %q", ref)
			e.Field = fmt.Sprintf("groups[%d]", i)
			return nil, e
		}
		if err != nil {
			return nil, err
		}
		ids = append(ids, g.ID)
	}
	return ids, nil
}
