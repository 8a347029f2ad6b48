package replication

import (
	"errors"
	"syscall"

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
	code, hint := api.CodeInternal, hypervisors.Hint(err)
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
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT): // no driver's: those say ErrNoSpace
		code, hint = api.CodeNoSpace, "Free space where the appliance keeps its state: nothing can be ordered until it can be written down."
	case errors.Is(err, hypervisors.ErrUnknownNetwork), errors.Is(err, hypervisors.ErrUnknownStorage), errors.Is(err, hypervisors.ErrScheme),
		errors.Is(err, hypervisors.ErrInvalid), errors.Is(err, hypervisors.ErrIncapable):
		code = api.CodeInvalid
	case errors.Is(err, hypervisors.ErrUnreachable), errors.Is(err, hypervisors.ErrUnauthorized), errors.Is(err, hypervisors.ErrHostKey),
		errors.Is(err, hypervisors.ErrTimeout), errors.Is(err, hypervisors.ErrGaveWay), errors.Is(err, hypervisors.ErrNotIsolated),
		errors.Is(err, hypervisors.ErrForeign):
		code = api.CodeHost
	}
	return &api.Error{Code: code, Message: err.Error(), Hint: hint, Err: err}
}

func asPublic(err error) *api.Error {
	var e *api.Error
	errors.As(public(err), &e)
	return e
}
