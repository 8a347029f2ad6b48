package server

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"understudy/api"
)

// Record keeps what was asked for and how it ended.
type Record interface {
	api.AuditLog
	// BeginAudit writes down that something is going to be tried. When that fails, it must not be tried.
	BeginAudit(e *api.AuditEntry) (key string, err error)
	// EndAudit writes down how it ended; without a key, it never began.
	EndAudit(key string, e api.AuditEntry) error
	// BeginOrder gives the answer to an order that was carried out before, or nil: it is to be carried out now, and either
	// EndOrder or LoseOrder follows. It waits for one that is at work.
	BeginOrder(ctx context.Context, p api.Principal, key, request string) (*api.Answer, error)
	EndOrder(p api.Principal, key string, answer *api.Answer) error
	LoseOrder(p api.Principal, key string)
}

const (
	keyHeader = "Idempotency-Key"
	maxKey    = 128
	// maxHeld bounds what is kept of an answer until the log is written, in bytes: far more than any order's.
	maxHeld = 4 << 20
	// maxOrder bounds how long an order is taken, jobs apart; the longest connects a host.
	maxOrder = 5 * time.Minute
)

// changes tells whether a route changes anything. What a viewer may do only looks, whatever its method.
func (g guarded) changes(method string) bool {
	return g.action != "" && !safe(method) && g.role != api.RoleViewer
}

// repeatable tells whether an order may come again with the same key. The answers of those that are about oneself hold
// secrets, which are not kept.
func (g guarded) repeatable() bool {
	return g.role != "" && (g.status == http.StatusAccepted || g.status == http.StatusCreated)
}

// record lets nothing be changed that is not written down, and writes down the outcome before the answer goes out.
func (s *Server) record(c *gin.Context) {
	route, p := s.needs[c.Request.Method+" "+c.FullPath()], principal(c)
	if s.access == nil || !route.changes(c.Request.Method) {
		return
	}
	body := bodyOf(c)
	if s.comesAgain(c, route, p, body) {
		return
	}
	e := s.entry(c, route, p)
	if schema := s.bodySchema(route); schema != nil {
		e.After = redacted(schema, s.api.OpenAPI().Components.Schemas, body)
	}
	if route.role != "" && c.Request.Method != http.MethodPost {
		e.Before = s.before(c)
	}
	key, err := s.access.BeginAudit(&e)
	if err != nil {
		if order := c.GetHeader(keyHeader); order != "" && route.repeatable() {
			_ = s.access.EndOrder(p, order, nil) // it is not known otherwise; the error that counts is the other one
		}
		s.refuse(c, err)
		return
	}
	held := &heldWriter{ResponseWriter: c.Writer}
	ended := false
	held.end = func() {
		ended = true
		s.complete(c, &e, route, held)
		if err := s.access.EndAudit(key, e); err != nil {
			s.log.Error("the outcome of a change is not in the audit log yet", "action", e.Action, "user", e.User, "status", e.Status, "error", err)
		}
		s.endOrder(c, route, p, held) // whoever gets the answer by asking again finds it in the log, too
	}
	c.Writer = held
	if route.repeatable() {
		// An order is carried out or refused, also when whoever sent it is cut off meanwhile: it comes again for the answer.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Request.Context()), maxOrder)
		defer cancel()
		c.Request = c.Request.WithContext(ctx)
	}
	defer func() {
		c.Writer = held.ResponseWriter
		if !ended { // a panic, which is answered elsewhere
			s.loseOrder(c, route, p)
			e.Status, e.Outcome = http.StatusInternalServerError, api.OutcomeFailed
			if err := s.access.EndAudit(key, e); err != nil {
				s.log.Error("the outcome of a change is not in the audit log yet", "action", e.Action, "user", e.User, "error", err)
			}
		}
	}()
	c.Next()
	if err := held.flush(); err != nil {
		s.log.Debug("nobody waits for the answer", "action", e.Action, "error", err)
	}
}

// bodyOf gives the body, which is still there for others: readBody has taken it whole.
func bodyOf(c *gin.Context) []byte {
	if c.Request.Body == nil || c.Request.Body == http.NoBody {
		return nil
	}
	body, err := io.ReadAll(c.Request.Body)
	if err != nil {
		return nil // it is in memory
	}
	c.Request.Body = io.NopCloser(bytes.NewReader(body))
	return body
}

// entry says who wants what from where.
func (s *Server) entry(c *gin.Context, route guarded, p api.Principal) api.AuditEntry {
	e := api.AuditEntry{User: p.Name, Method: cmp.Or(p.Method, "none"), Source: c.RemoteIP(), Action: route.action, Subject: subject(c), Outcome: api.OutcomeUnknown}
	switch {
	case route.thing.group != nil:
		if group, err := route.thing.group(c.Request.Context(), s.svc, c.Param("id")); err == nil {
			e.Group = group
		}
	case strings.HasPrefix(c.FullPath(), prefix+"/groups/"):
		e.Group = c.Param("id")
	}
	return e
}

// subject is what the path names: a group, or a point of it, and so on.
func subject(c *gin.Context) string {
	var names []string
	for _, p := range c.Params {
		names = append(names, p.Value)
	}
	return strings.Join(names, "/")
}

// complete takes from the answer what is known only now.
func (s *Server) complete(c *gin.Context, e *api.AuditEntry, route guarded, held *heldWriter) {
	e.Status = held.Status()
	var answered struct {
		ID     string
		Detail string
		Group  string
		User   struct{ Name string }
	}
	// Not everything is answered with an object; then nothing more is known.
	_ = json.Unmarshal(held.body.Bytes(), &answered)
	switch {
	case e.Status >= http.StatusInternalServerError:
		e.Outcome, e.Message = api.OutcomeFailed, answered.Detail
	case e.Status >= http.StatusBadRequest:
		e.Outcome, e.Message = api.OutcomeRefused, answered.Detail
	default:
		e.Outcome = api.OutcomeDone
	}
	if e.Outcome == api.OutcomeDone {
		switch e.Status {
		case http.StatusAccepted:
			e.Job, e.Group = answered.ID, cmp.Or(answered.Group, e.Group)
		case http.StatusCreated:
			e.Subject = cmp.Or(e.Subject, answered.ID)
		}
	}
	if !route.anybody {
		return
	}
	// Whoever signs in is known only afterwards, and people type passwords where the name belongs.
	if e.Outcome == api.OutcomeDone {
		e.User = answered.User.Name
		return
	}
	e.After = nil
	if given := struct{ Name string }{}; json.Unmarshal(bodyOf(c), &given) == nil {
		if u, err := s.access.GetUser(c.Request.Context(), strings.TrimSpace(given.Name)); err == nil {
			e.User = u.Name
		}
	}
}

// before looks at what is going to be changed, as whoever changes it sees it: at the same address, or in the list above.
func (s *Server) before(c *gin.Context) json.RawMessage {
	if raw := s.look(c, c.Request.URL.Path, c.FullPath()); raw != nil {
		return raw
	}
	raw := s.look(c, path.Dir(c.Request.URL.Path), path.Dir(c.FullPath()))
	id := path.Base(c.Request.URL.Path)
	var page struct{ Items []json.RawMessage }
	if err := json.Unmarshal(raw, &page); err != nil || page.Items == nil {
		if err := json.Unmarshal(raw, &page.Items); err != nil {
			return raw // the thing that this is a part of
		}
	}
	for _, item := range page.Items {
		var named struct{ ID, Name string }
		if err := json.Unmarshal(item, &named); err == nil && (named.ID == id || named.Name == id) {
			return item
		}
	}
	return nil
}

// look asks for what is at an address, and gives it if there is a route for that.
func (s *Server) look(c *gin.Context, address, route string) json.RawMessage {
	if _, known := s.needs["GET "+route]; !known {
		return nil
	}
	r := c.Request.Clone(c.Request.Context())
	r.Method, r.Body, r.ContentLength = http.MethodGet, http.NoBody, 0
	r.URL = &url.URL{Path: address, RawPath: ""}
	w := &memoryWriter{header: http.Header{}}
	s.engine.ServeHTTP(w, r)
	if w.status != http.StatusOK || !json.Valid(w.body.Bytes()) {
		return nil
	}
	return redacted(nil, nil, w.body.Bytes())
}

// memoryWriter takes an answer that nobody gets.
type memoryWriter struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *memoryWriter) Header() http.Header    { return w.header }
func (w *memoryWriter) WriteHeader(status int) { w.status = cmp.Or(w.status, status) }

func (w *memoryWriter) Write(b []byte) (int, error) {
	w.status = cmp.Or(w.status, http.StatusOK)
	return w.body.Write(b)
}

// heldWriter keeps an answer in JSON until end has been called; another one, which may be long, goes out after that.
type heldWriter struct {
	gin.ResponseWriter
	body  bytes.Buffer
	ended bool
	end   func()
}

func (w *heldWriter) finish() {
	if !w.ended {
		w.ended = true
		w.end()
	}
}

func (w *heldWriter) holds() bool {
	kind, _, _ := strings.Cut(w.Header().Get("Content-Type"), ";")
	return !w.ended && (kind == "application/json" || kind == "application/problem+json") && w.body.Len() < maxHeld
}

func (w *heldWriter) Write(b []byte) (int, error) {
	if w.holds() {
		return w.body.Write(b)
	}
	if err := w.flush(); err != nil {
		return 0, err
	}
	return w.ResponseWriter.Write(b)
}

func (w *heldWriter) WriteString(text string) (int, error) { return w.Write([]byte(text)) }

// WriteHeaderNow waits: the status is not out before the log is written.
func (w *heldWriter) WriteHeaderNow() {}

func (w *heldWriter) Flush() {
	_ = w.flush()
	w.ResponseWriter.Flush()
}

// flush ends what is held and lets it go.
func (w *heldWriter) flush() error {
	w.finish()
	if w.body.Len() == 0 {
		return nil
	}
	_, err := w.ResponseWriter.Write(w.body.Bytes())
	w.body.Reset()
	return err
}

// noteRefused writes down that somebody was not let through to a change.
func (s *Server) noteRefused(c *gin.Context, route guarded, p api.Principal, problem *Problem) {
	if s.access == nil || !route.changes(c.Request.Method) {
		return
	}
	e := api.AuditEntry{User: p.Name, Method: cmp.Or(p.Method, "none"), Source: c.RemoteIP(), Action: route.action, Subject: subject(c),
		Status: problem.Status, Outcome: api.OutcomeRefused, Message: problem.Detail}
	if err := s.access.EndAudit("", e); err != nil {
		s.log.Error("a refused attempt is not in the audit log yet", "action", e.Action, "user", e.User, "error", err)
	}
}
