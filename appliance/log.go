package main

import (
	"fmt"
	"io"
	"log/slog"

	"understudy/api"
	"understudy/appliance/support"
)

// newLog makes the log of the daemon; logs keeps the newest of it for support bundles.
func newLog(w io.Writer, format string, debug bool, logs *support.Ring) (*slog.Logger, error) {
	o := &slog.HandlerOptions{Level: slog.LevelInfo}
	if debug {
		o.Level = slog.LevelDebug
	}
	switch format {
	case "", "text":
		return slog.New(slog.NewMultiHandler(slog.NewTextHandler(w, o), slog.NewJSONHandler(logs, o))), nil
	case "json":
		return slog.New(slog.NewMultiHandler(slog.NewJSONHandler(w, o), slog.NewJSONHandler(logs, o))), nil
	}
	return nil, &api.Error{Code: api.CodeInvalid, Message: fmt.Sprintf("there is no log format %q", format), Hint: "Choose text or json."}
}
