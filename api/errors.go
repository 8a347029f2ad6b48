package api

import (
	"errors"
	"fmt"
	"time"
)

// Code tells kinds of errors apart, over HTTP and in the exit status of the command line.
type Code string

// The codes.
const (
	CodeInvalid      Code = "invalid"      // the request is wrong; 422
	CodeNotFound     Code = "not-found"    // 404
	CodeConflict     Code = "conflict"     // the state does not allow it now; 409
	CodeInUse        Code = "in-use"       // 409
	CodeStale        Code = "stale"        // If-Match does not match; 412
	CodeUnauthorized Code = "unauthorized" // nobody is signed in; 401
	CodeForbidden    Code = "forbidden"    // whoever is signed in may not do it; 403
	CodeThrottled    Code = "throttled"    // too often; 429
	CodeHost         Code = "host"         // a host failed or cannot be reached; 502
	CodeNoSpace      Code = "no-space"     // 507
	CodeInternal     Code = "internal"     // 500
)

// Error is what a user gets: what happened and what to do.
type Error struct {
	Code    Code
	Message string
	Hint    string
	Field   string // name of the offending field, for CodeInvalid
	Err     error  // cause, for errors.Is
	// RetryAfter is how long to wait, for CodeThrottled; 0: unknown.
	RetryAfter time.Duration
}

func (e *Error) Error() string { return e.Message }
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an Error; a trailing error among args is kept as the cause when format wraps it with %w.
func Errorf(code Code, hint, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), Hint: hint, Err: errors.Unwrap(err)}
}

// CodeOf finds the code in err's chain; CodeInternal when there is none.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return CodeInternal
}
