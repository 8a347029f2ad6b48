package server

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"reflect"
	"regexp"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humagin"
	"github.com/gin-gonic/gin"

	"understudy/api"
)

// need is what a route asks of whoever comes. There is none without one: register takes it, and the gate lets nobody
// through to a route that it does not know.
type need struct {
	anybody bool     // not even signed in
	role    api.Role // empty: whoever is signed in
	thing   thing
}

var (
	// open routes are for everybody: those that let in.
	open = need{anybody: true}
	// self is for whoever is signed in, about nobody but themselves.
	self = need{}
)

type role api.Role

const (
	viewer        = role(api.RoleViewer)
	operator      = role(api.RoleOperator)
	administrator = role(api.RoleAdministrator)
)

// on says what the route is about, so that nobody reaches beyond their scope.
func (r role) on(t thing) need { return need{role: api.Role(r), thing: t} }

// thing is what a route is about.
type thing struct {
	// whole: it concerns more than groups. Those who see only some groups have no business there.
	whole bool
	// group gives the id of the group that what {id} in the path names belongs to, with an error where there is no such
	// thing. Nil: no part of the path names anything, the route keeps what it answers to the scope of whoever asks.
	group func(ctx context.Context, svc api.Service, id string) (string, error)
	// missing is the error of group where there is no such thing: what lies beyond the scope is not told apart.
	missing func(id string) error
}

var (
	// filtered: lists that the route itself keeps to the scope (Asked).
	filtered = thing{}
	// appliance: what belongs to no group, such as settings. Hosts are shared by groups and so belong to none.
	appliance = thing{whole: true}
	hosts     = thing{whole: true}

	groups = thing{
		group: func(ctx context.Context, svc api.Service, id string) (string, error) {
			g, err := svc.GetGroup(ctx, id)
			return g.ID, err
		},
		missing: func(id string) error {
			return api.Errorf(api.CodeNotFound, "List the groups to see which there are.", "there is no group %q", id)
		},
	}
	jobs = thing{
		group: func(ctx context.Context, svc api.Service, id string) (string, error) {
			j, err := svc.GetJob(ctx, id)
			return j.Group, err
		},
		missing: func(id string) error { return api.Errorf(api.CodeNotFound, "", "there is no job %q", id) },
	}
)

// guarded is a route with what it needs.
type guarded struct {
	need
	action string // id of the operation
	path   string // as in the document
	status int    // of success; 0: not known
}

var pathParameter = regexp.MustCompile(`\{(\w+)\}`)

// routeKey is a route as gin writes it.
func routeKey(method, path string) string {
	return method + " " + pathParameter.ReplaceAllString(path, ":$1")
}

// guard notes what a route needs; path is written as in the document, status is that of success. Routes beside the document
// must call it themselves.
func (s *Server) guard(n need, method, path, action string, status int) {
	if n.thing.group != nil && !strings.Contains(path, "{id}") {
		panic(path + " names nothing")
	}
	s.needs[routeKey(method, path)] = guarded{n, action, path, status}
}

// keyPrincipal is where the gate leaves who asks.
const keyPrincipal = "principal"

// Asked is part of the input of operations that must know who asks.
type Asked struct {
	By   api.Principal `json:"-"`
	From string        `json:"-"` // the address of the other side
	csrf string
}

// Resolve implements huma.Resolver.
func (a *Asked) Resolve(ctx huma.Context) []error {
	c := humagin.Unwrap(ctx)
	a.By, a.From = principal(c), c.RemoteIP()
	if a.By.Method == api.MethodSession {
		a.csrf = csrfOf(cookie(c))
	}
	return nil
}

// principal gives who asks; the zero Principal, which has no role, is nobody.
func principal(c *gin.Context) api.Principal {
	p, _ := c.Value(keyPrincipal).(api.Principal)
	return p
}

// gate lets through who may.
func (s *Server) gate(c *gin.Context) {
	route, known := s.needs[c.Request.Method+" "+c.FullPath()]
	if !known && c.FullPath() != "" {
		s.log.Error("a route has no need", "path", c.FullPath())
		s.refuse(c, api.Errorf(api.CodeForbidden, "This is a bug.", "nobody may use this address"))
		return
	}
	p, err := s.identify(c, true)
	switch {
	case route.anybody && !safe(c.Request.Method) && foreign(c.Request):
		err = errForeign() // or a foreign page could sign people in as somebody else
	case route.anybody && err != nil:
		p, err = api.Principal{}, nil
	case err == nil && !route.anybody:
		if p.Method == api.MethodSession {
			err = checkCSRF(c, cookie(c))
		}
		if err == nil {
			err = s.allowed(c.Request.Context(), route.need, p, c.Param("id"))
		}
	}
	if err != nil {
		problem := s.problem(c.Request.Context(), err)
		s.noteRefused(c, route, p, problem)
		refuse(c, problem)
		return
	}
	c.Set(keyPrincipal, p)
}

func (s *Server) refuse(c *gin.Context, err error) { refuse(c, s.problem(c.Request.Context(), err)) }

func refuse(c *gin.Context, p *Problem) {
	if p.Status == http.StatusUnauthorized {
		c.Header("WWW-Authenticate", `Bearer realm="understudy"`)
	}
	for name := range p.GetHeaders() {
		c.Header(name, p.GetHeaders().Get(name))
	}
	c.Header("Content-Type", "application/problem+json")
	c.AbortWithStatusJSON(p.Status, p)
}

// allowed decides whether p may use a route; id is what its path names.
func (s *Server) allowed(ctx context.Context, n need, p api.Principal, id string) error {
	if n.role != "" && !p.Role.Includes(n.role) {
		return api.Errorf(api.CodeForbidden, "Ask an administrator of the appliance.", "this needs the role %s, and %s has %s", n.role, p.Name, p.Role)
	}
	if p.Scope == nil {
		return nil
	}
	if n.thing.whole {
		return api.Errorf(api.CodeForbidden, "Ask an administrator of the appliance.", "%s may only see some groups, and this concerns all", p.Name)
	}
	if n.thing.group == nil {
		return nil
	}
	group, err := n.thing.group(ctx, s.svc, id)
	if err == nil && !p.Scope.Has(group) || api.CodeOf(err) == api.CodeNotFound {
		return n.thing.missing(id)
	}
	return err
}

// identify finds out who asks. With touch, a session lasts on.
func (s *Server) identify(c *gin.Context, touch bool) (api.Principal, error) {
	nobody := api.Errorf(api.CodeUnauthorized, "Send a token as Authorization: Bearer, or sign in.", "nobody is signed in, or the token is wrong")
	if header := c.GetHeader("Authorization"); header != "" {
		scheme, token, _ := strings.Cut(header, " ")
		token = strings.TrimSpace(token)
		switch {
		case !strings.EqualFold(scheme, "Bearer") || len(token) > maxCredential:
			return api.Principal{}, nobody
		case s.isLocal(token):
			return api.Principal{Name: "local", Role: api.RoleAdministrator, Method: api.MethodLocal}, nil
		case s.access == nil:
			return api.Principal{}, nobody
		}
		return s.access.Bearer(token)
	}
	cookie := cookie(c)
	if s.access == nil || cookie == "" || len(cookie) > maxCredential {
		return api.Principal{}, nobody
	}
	return s.access.Session(cookie, touch)
}

// still tells whether whoever asked is still the same and may still do the same.
func (s *Server) still(c *gin.Context, p api.Principal) bool {
	now, err := s.identify(c, false)
	return err == nil && reflect.DeepEqual(now, p)
}

func cookie(c *gin.Context) string {
	value, err := c.Request.Cookie(cookieName)
	if err != nil {
		return ""
	}
	return value.Value
}

// isLocal compares digests, so that the time it takes tells neither content nor length of the token.
func (s *Server) isLocal(token string) bool {
	given, have := sha256.Sum256([]byte(token)), sha256.Sum256([]byte(s.token))
	return subtle.ConstantTimeCompare(given[:], have[:]) == 1 && s.token != ""
}
