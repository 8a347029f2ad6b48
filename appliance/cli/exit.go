package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"understudy/api"
	"understudy/api/client"
)

// Exit statuses, beside those of the codes of package api.
const (
	exitInternal    = 1
	exitUsage       = 2
	exitUnreachable = 3
	exitFailed      = 11
	exitInterrupted = 130
)

// exits maps the codes of package api; the only other place that knows the numbers is exitHelp.
var exits = map[api.Code]int{
	api.CodeInternal:     exitInternal,
	api.CodeNotFound:     4,
	api.CodeConflict:     5,
	api.CodeInUse:        5,
	api.CodeInvalid:      6,
	api.CodeStale:        7,
	api.CodeUnauthorized: 8,
	api.CodeForbidden:    8,
	api.CodeThrottled:    12,
	api.CodeHost:         9,
	api.CodeNoSpace:      10,
}

const exitHelp = `Exit status:
  0    done
  1    an internal error
  2    the command line is wrong
  3    the appliance cannot be reached
  4    not found
  5    the state does not allow it now, or it is in use
  6    the appliance refused a value
  7    somebody else changed it meanwhile
  8    the token is missing or wrong, or its user may not do it
  9    a host failed or cannot be reached
  10   no space left
  11   the job failed or was cancelled, or a check failed
  12   too often; try again later
  130  interrupted; a job that was ordered goes on`

// errFailed is in the chain when the order was carried out and its outcome is bad.
var errFailed = errors.New("failed")

// ExitCode is the status to exit with after Execute returned err.
func ExitCode(err error) int {
	var c *commandError
	var e *api.Error
	switch {
	case err == nil:
		return 0
	case errors.As(err, &c) && c.usage:
		return exitUsage
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.Is(err, errFailed):
		return exitFailed
	case errors.Is(err, client.ErrUnreachable):
		return exitUnreachable
	case errors.As(err, &e) && exits[e.Code] != 0:
		return exits[e.Code]
	}
	return exitInternal
}

// commandError is an error with all that is printed of it.
type commandError struct {
	text  string
	usage bool
	err   error
}

func (e *commandError) Error() string { return e.text }
func (e *commandError) Unwrap() error { return e.err }

// wrong makes the error of an action that was asked for in a wrong way.
func wrong(message string) error { return &commandError{text: message, usage: true} }

func usageError(cmd *cobra.Command, err error) error {
	return &commandError{text: err.Error() + "\nSee \"" + cmd.CommandPath() + " --help\".", usage: true, err: err}
}

// forPeople adds the field and the hint to what cobra prints.
func forPeople(err error) error {
	var e *api.Error
	if !errors.As(err, &e) {
		return err
	}
	text := err.Error()
	if e.Hint != "" {
		text += "\n" + e.Hint
	}
	return &commandError{text: plainLines(text), err: err}
}
