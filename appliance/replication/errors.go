package replication

import (
	"errors"

	"understudy/api"
	"understudy/appliance/jobs"
	"understudy/hypervisors"
)

// public turns any error into what a user gets. It is the only place that knows which code a driver's error has.
func public(err error) error {
	var known *api.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	var locked *jobs.ErrLocked
	code := api.CodeInternal
	switch {
	case errors.As(err, &locked), errors.Is(err, hypervisors.ErrRunning), errors.Is(err, hypervisors.ErrBusy),
		errors.Is(err, hypervisors.ErrNameTaken), errors.Is(err, hypervisors.ErrMACTaken):
		code = api.CodeConflict
	case errors.Is(err, hypervisors.ErrInUse):
		code = api.CodeInUse
	case errors.Is(err, hypervisors.ErrNotFound):
		code = api.CodeNotFound
	case errors.Is(err, hypervisors.ErrNoSpace):
		code = api.CodeNoSpace
	case errors.Is(err, hypervisors.ErrUnknownNetwork), errors.Is(err, hypervisors.ErrUnknownStorage), errors.Is(err, hypervisors.ErrScheme),
		errors.Is(err, hypervisors.ErrInvalid), errors.Is(err, hypervisors.ErrIncapable), errors.Is(err, hypervisors.ErrUnconvertible):
		code = api.CodeInvalid
	case errors.Is(err, hypervisors.ErrUnreachable), errors.Is(err, hypervisors.ErrUnauthorized), errors.Is(err, hypervisors.ErrHostKey),
		errors.Is(err, hypervisors.ErrTimeout), errors.Is(err, hypervisors.ErrGaveWay), errors.Is(err, hypervisors.ErrNotIsolated),
		errors.Is(err, hypervisors.ErrForeign):
		code = api.CodeHost
	}
	return &api.Error{Code: code, Message: err.Error(), Hint: hypervisors.Hint(err), Err: err}
}

func asPublic(err error) *api.Error {
	var e *api.Error
	errors.As(public(err), &e)
	return e
}
