package main

import (
	"fmt"
	"io"
	"log/slog"

	"understudy/api"
)

// newLog makes the log of the daemon.
func newLog(w io.Writer, format string, debug bool) (*slog.Logger, error) {
	o := &slog.HandlerOptions{Level: slog.LevelInfo}
	if debug {
		o.Level = slog.LevelDebug
	}
	switch format {
	case "", "text":
		return slog.New(slog.NewTextHandler(w, o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, o)), nil
	}
	return nil, &api.Error{Code: api.CodeInvalid, Message: fmt.Sprintf("there is no log format %q", format), Hint: "Choose text or json."}
}
