// Package server publishes an api.Service over HTTP: REST below /api/v1 with its OpenAPI document made from the types,
// problem+json errors, an event stream that can be resumed, sign-in by bearer token, TLS, and the page of package ui. It
// translates and guards; it decides nothing, keeps no state and knows no engine.
package server

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humagin"
	"github.com/gin-gonic/gin"

	"understudy/api"
	"understudy/ui"
)

const (
	prefix  = "/api/v1"
	maxBody = 1 << 20
)

// Parts are what a server publishes. Those that are missing are in the document all the same, but must not be asked.
type Parts struct {
	api.Service
	Access        Access
	Operation     api.Operation
	Notifications api.Notifications
	SignIn        SignIn
}

// Options of a server.
type Options struct {
	// Token lets in as the administrator "local": it is for the command line on the appliance itself. Empty: nobody.
	Token string
	// Log gets one line for each request, never a token; nil means slog's default.
	Log *slog.Logger
	// Version is told in the header Understudy-Version of every answer to a client that signed in.
	Version string
	// Metrics answers at /metrics; nil: there are none.
	Metrics http.Handler
	// Observe is told of each request, by the pattern of its route; nil: nobody is.
	Observe func(method, route string, status int, took time.Duration)
}

// Server is the http.Handler of an appliance; [Serve] runs it.
type Server struct {
	engine        *gin.Engine
	api           huma.API
	svc           api.Service
	access        Access
	operate       api.Operation
	notifications api.Notifications
	signIn        SignIn
	log           *slog.Logger
	observe       func(method, route string, status int, took time.Duration) // may be nil
	token         string
	needs         map[string]guarded // by method and path, as gin writes them

	// streams ends when the server shuts down: event streams would never end by themselves.
	streams    context.Context
	endStreams context.CancelFunc

	heartbeat   time.Duration // of event streams
	linger      time.Duration // of an event, for others to leave with: a packet for each would cost more than they do
	bodyTimeout time.Duration // for the whole body of a request
}

func init() { gin.SetMode(gin.ReleaseMode) } // the debug mode prints to standard output

// New makes the handler for the parts.
func New(parts Parts, o Options) *Server {
	s := &Server{
		engine: gin.New(), svc: parts.Service, access: parts.Access, operate: parts.Operation, token: o.Token,
		log: slog.New(traced{cmp.Or(o.Log, slog.Default()).Handler()}), observe: o.Observe,
		notifications: parts.Notifications, signIn: parts.SignIn,
		needs:     map[string]guarded{},
		heartbeat: 15 * time.Second, linger: 50 * time.Millisecond, bodyTimeout: 30 * time.Second,
	}
	s.streams, s.endStreams = context.WithCancel(context.Background())
	e := s.engine
	e.RedirectTrailingSlash = false
	e.HandleMethodNotAllowed = true
	e.Use(s.trace, gin.CustomRecoveryWithWriter(nil, s.recovered), secureHeaders)

	// Open to everybody: a sign of life, the page, and the document. Everything below Use(gate) is not, unless its need says so.
	e.GET("/healthz", func(c *gin.Context) { c.JSON(http.StatusOK, gin.H{"status": "ok"}) })
	e.GET("/readyz", s.ready)
	e.GET("/openapi.json", func(c *gin.Context) { c.Data(http.StatusOK, "application/vnd.oai.openapi+json", s.Document()) })
	console, err := loadPages(ui.Files())
	if err != nil {
		panic(err) // they are part of the program
	}

	e.Use(console.serve, s.gate, s.readBody, func(c *gin.Context) {
		c.Header("Understudy-Version", o.Version)
		c.Header("Cache-Control", "no-store")
	}, s.record)
	if o.Metrics != nil {
		s.guard(viewer.on(appliance), http.MethodGet, "/metrics", "metrics", http.StatusOK)
		e.GET("/metrics", gin.WrapH(o.Metrics))
	}
	e.NoRoute(func(c *gin.Context) {
		abort(c, http.StatusNotFound, &api.Error{Code: api.CodeNotFound, Message: "there is nothing at " + c.Request.URL.Path,
			Hint: "All addresses are in /openapi.json."})
	})
	e.NoMethod(func(c *gin.Context) {
		abort(c, http.StatusMethodNotAllowed, &api.Error{Code: api.CodeInvalid,
			Message: c.Request.Method + " is not possible at " + c.Request.URL.Path})
	})
	s.api = humagin.New(e, config())
	s.routes()
	return s
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.engine.ServeHTTP(w, r) }

// Document is the OpenAPI 3.1 document, in JSON.
func (s *Server) Document() []byte {
	b, err := s.api.OpenAPI().MarshalJSON()
	if err != nil {
		panic(err) // it is made from types alone
	}
	return b
}

func config() huma.Config {
	c := huma.DefaultConfig("Understudy", "1")
	c.Info.Description = "Replication and recovery of machines. Orders that take time answer 202 with the job that does them; " +
		"jobs and all other changes are told by the event stream."
	// Huma's own pages load scripts from foreign servers, and its $schema links would clutter every answer.
	c.DocsPath, c.OpenAPIPath, c.SchemasPath = "", "", ""
	c.CreateHooks = nil
	c.RejectUnknownQueryParameters = true
	c.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"token":   {Type: "http", Scheme: "bearer", Description: "An API token, or the one that the appliance made at its first start"},
		"session": {Type: "apiKey", In: "cookie", Name: cookieName, Description: "A person; everything but GET needs the header " + csrfHeader + " too"},
	}
	c.Security = []map[string][]string{{"token": {}}, {"session": {}}}
	return c
}

func secureHeaders(c *gin.Context) {
	c.Header("X-Content-Type-Options", "nosniff")
	c.Header("Content-Security-Policy", "default-src 'self'; frame-ancestors 'none'")
	c.Header("Referrer-Policy", "no-referrer")
}

func (s *Server) recovered(c *gin.Context, reason any) {
	if err, ok := reason.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(reason) // net/http ends the connection quietly
	}
	s.log.ErrorContext(c.Request.Context(), "request panicked", "method", c.Request.Method, "path", c.Request.URL.Path, "reason", reason,
		"stack", string(debug.Stack()))
	abort(c, http.StatusInternalServerError, &api.Error{Code: api.CodeInternal, Message: "the appliance failed to answer",
		Hint: "This is a bug; its log has the details."})
}
