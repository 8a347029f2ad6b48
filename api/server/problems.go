package server

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/validation"
	"github.com/gin-gonic/gin"

	"understudy/api"
)

// Problem is the body of every answer that is not 2xx: RFC 9457 with the product's own members.
type Problem struct {
	Title   string      `json:"title" doc:"The HTTP status in words"`
	Status  int         `json:"status"`
	Detail  string      `json:"detail" doc:"What happened, for people"`
	Code    api.Code    `json:"code" doc:"What happened, for programs" enum:"invalid,not-found,conflict,in-use,stale,unauthorized,forbidden,throttled,host,no-space,internal"`
	Hint    string      `json:"hint,omitempty" doc:"What to do about it"`
	Field   string      `json:"field,omitempty" doc:"The offending field, such as policy.rpoSeconds"`
	Request string      `json:"request,omitempty" doc:"Id of the request, which the log has too"`
	Errors  []Violation `json:"errors,omitempty" doc:"All offending fields, when there are several"`

	retryAfter time.Duration
}

// Violation is one field that is wrong.
type Violation struct {
	Field   string `json:"field"`
	Message string `json:"message"`
}

func (p *Problem) Error() string { return p.Detail }

// GetStatus implements huma.StatusError.
func (p *Problem) GetStatus() int { return p.Status }

// GetHeaders implements huma.HeadersError.
func (p *Problem) GetHeaders() http.Header {
	if p.retryAfter <= 0 {
		return nil
	}
	return http.Header{"Retry-After": {strconv.Itoa(int(math.Ceil(p.retryAfter.Seconds())))}}
}

// ContentType implements huma.ContentTypeFilter.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// Huma asks this variable for the errors that it finds itself, and for the schema of errors in the document.
func init() { huma.NewError = validationProblem }

// statuses is the one place that maps codes to HTTP.
var statuses = map[api.Code]int{
	api.CodeInvalid:      http.StatusUnprocessableEntity,
	api.CodeNotFound:     http.StatusNotFound,
	api.CodeConflict:     http.StatusConflict,
	api.CodeInUse:        http.StatusConflict,
	api.CodeStale:        http.StatusPreconditionFailed,
	api.CodeUnauthorized: http.StatusUnauthorized,
	api.CodeForbidden:    http.StatusForbidden,
	api.CodeThrottled:    http.StatusTooManyRequests,
	api.CodeHost:         http.StatusBadGateway,
	api.CodeNoSpace:      http.StatusInsufficientStorage,
	api.CodeInternal:     http.StatusInternalServerError,
}

// problem translates an error of the service. What has no code is the appliance's own fault: the message goes out, and
// nothing else.
func (s *Server) problem(ctx context.Context, err error) *Problem {
	var known *Problem
	if errors.As(err, &known) {
		return known
	}
	var e *api.Error
	if !errors.As(err, &e) {
		e = &api.Error{Code: api.CodeInternal, Message: err.Error()}
	}
	status, ok := statuses[e.Code]
	if !ok {
		status = http.StatusInternalServerError
	}
	if status == http.StatusInternalServerError && ctx.Err() == nil {
		// The reader of the log is another one than the reader of the answer.
		s.log.ErrorContext(ctx, "request failed", "error", err)
	}
	p := newProblem(status, e)
	p.Request = requestOf(ctx)
	return p
}

func newProblem(status int, e *api.Error) *Problem {
	return &Problem{Title: http.StatusText(status), Status: status, Detail: e.Message, Code: e.Code, Hint: e.Hint, Field: e.Field, retryAfter: e.RetryAfter}
}

func abort(c *gin.Context, status int, e *api.Error) {
	c.Header("Content-Type", "application/problem+json")
	p := newProblem(status, e)
	p.Request = requestOf(c.Request.Context())
	c.AbortWithStatusJSON(status, p)
}

// validationProblem translates what huma finds wrong with a request.
func validationProblem(status int, message string, errs ...error) huma.StatusError {
	e := &api.Error{Code: api.CodeInvalid, Message: message}
	if status >= http.StatusInternalServerError {
		e.Code = api.CodeInternal
	}
	var violations []Violation
	var texts []string
	for _, err := range errs {
		if err == nil {
			continue
		}
		v := violation(err)
		violations = append(violations, v)
		texts = append(texts, strings.TrimPrefix(v.Field+": "+v.Message, ": "))
	}
	p := newProblem(status, e)
	if len(violations) > 0 {
		p.Detail, p.Field = strings.Join(texts, "; "), violations[0].Field
	}
	if len(violations) > 1 {
		p.Errors = violations
	}
	return p
}

// violation names the field as users write it: policy.rpoSeconds, not body.policy.rpoSeconds. The value is left out, it
// may be a whole document.
func violation(err error) Violation {
	var d *huma.ErrorDetail
	if !errors.As(err, &d) {
		return Violation{Message: err.Error()}
	}
	_, field, _ := strings.Cut(d.Location, ".")
	// Huma reports what is missing at the object that lacks it.
	var missing string
	if n, _ := fmt.Sscanf(d.Message, validation.MsgExpectedRequiredProperty, &missing); n == 1 {
		field = strings.TrimPrefix(field+"."+missing, ".")
	}
	return Violation{Field: field, Message: d.Message}
}
