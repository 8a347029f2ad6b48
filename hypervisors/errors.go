package hypervisors

import (
	"errors"
	"strings"
)

// What can go wrong in ways that callers tell apart. Drivers wrap them in an Error.
var (
	ErrNotFound       = errors.New("not found")
	ErrTrackingLost   = errors.New("change tracking lost")
	ErrGaveWay        = errors.New("replication gave way to production")
	ErrBusy           = errors.New("busy with another job")
	ErrRunning        = errors.New("machine is running")
	ErrInUse          = errors.New("in use")
	ErrNoSpace        = errors.New("no space left")
	ErrNameTaken      = errors.New("name is taken")
	ErrMACTaken       = errors.New("MAC address is taken")
	ErrUnknownNetwork = errors.New("unknown network")
	ErrUnknownStorage = errors.New("unknown storage")
	ErrUnreachable    = errors.New("host cannot be reached")
	ErrUnauthorized   = errors.New("host refused the credentials")
	ErrHostKey        = errors.New("host key is unknown or has changed")
	ErrScheme         = errors.New("address has a scheme no driver knows")
	ErrIncapable      = errors.New("host lacks a capability")
	ErrNotIsolated    = errors.New("network is not isolated")
	ErrForeign        = errors.New("belongs to somebody else")
	ErrTimeout        = errors.New("timed out")
	ErrInvalid        = errors.New("invalid")
	ErrUnconvertible  = errors.New("guest cannot be converted")
)

// Error tells a person what was tried on what, why it failed and what to do.
type Error struct {
	Op      string // verb: "take checkpoint"
	Subject string // what: "machine web1, disk vda"
	Err     error
	Hint    string // what to do, a sentence; may be empty
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Subject != "" {
		b.WriteString(" " + e.Subject)
	}
	b.WriteString(": " + e.Err.Error())
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// Hint finds the first hint in err's chain.
func Hint(err error) string {
	for err != nil {
		var e *Error
		if !errors.As(err, &e) {
			return ""
		}
		if e.Hint != "" {
			return e.Hint
		}
		err = e.Err
	}
	return ""
}
