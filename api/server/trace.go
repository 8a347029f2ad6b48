package server

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gin-gonic/gin"
)

// requestKey is where a request carries its id: it is known to the log and to problems, and decides nothing.
type requestKey struct{}

// requestOf is the id of the request that ctx belongs to; empty: none.
func requestOf(ctx context.Context) string {
	id, _ := ctx.Value(requestKey{}).(string)
	return id
}

// traced adds the id of the request to what is logged in its course.
type traced struct{ slog.Handler }

func (h traced) Handle(ctx context.Context, r slog.Record) error {
	if id := requestOf(ctx); id != "" {
		r.AddAttrs(slog.String("request", id))
	}
	return h.Handler.Handle(ctx, r)
}

func (h traced) WithAttrs(attrs []slog.Attr) slog.Handler { return traced{h.Handler.WithAttrs(attrs)} }
func (h traced) WithGroup(name string) slog.Handler       { return traced{h.Handler.WithGroup(name)} }

// trace gives each request an id, logs it and measures it. The id is ours: one that a client sends could be anything.
func (s *Server) trace(c *gin.Context) {
	start := time.Now()
	var random [8]byte
	rand.Read(random[:])
	id := hex.EncodeToString(random[:])
	ctx := context.WithValue(c.Request.Context(), requestKey{}, id)
	c.Request = c.Request.WithContext(ctx)
	c.Header("Understudy-Request", id)
	c.Next()
	took := time.Since(start)
	level := slog.LevelInfo
	if c.Request.Method == "GET" {
		level = slog.LevelDebug
	}
	s.log.Log(ctx, level, "request", "method", c.Request.Method, "path", c.Request.URL.Path,
		"status", c.Writer.Status(), "took", took.Round(time.Microsecond), "from", c.Request.RemoteAddr)
	// A stream takes as long as its reader likes.
	method, route := c.Request.Method, c.FullPath()
	if route == "" {
		method, route = "other", "none" // what strangers make up must not become labels
	}
	if s.observe != nil && route != prefix+"/events" {
		s.observe(method, route, c.Writer.Status(), took)
	}
}

// Huma asks this variable for the errors that it finds itself.
func init() {
	huma.NewErrorWithContext = func(ctx huma.Context, status int, message string, errs ...error) huma.StatusError {
		err := huma.NewError(status, message, errs...)
		if p, ok := err.(*Problem); ok && ctx != nil {
			p.Request = requestOf(ctx.Context())
		}
		return err
	}
}
