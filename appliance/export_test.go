package main

import (
	"context"
	"log/slog"

	"understudy/appliance/replication"
	"understudy/hypervisors"
)

// InsideCommand is what the program is called with to look into a guest.
const InsideCommand = insideCommandName

// ServeVictim is the daemon as it is, but that it stops at kill points and knows one more driver, by the scheme "fake".
func ServeVictim(ctx context.Context, args []string, killPoint func(kind, step, phase string),
	fake func(ctx context.Context, uri, owner string) (hypervisors.Host, error),
) error {
	drivers["fake"] = driver{connect: func(ctx context.Context, to replication.Login, owner string, _ *slog.Logger) (hypervisors.Host, error) {
		return fake(ctx, to.URI, owner)
	}}
	cmd := serveCommand(serveOptions{killPoint: killPoint})
	cmd.SetArgs(args)
	return cmd.ExecuteContext(ctx)
}
