// Command understudy is the recovery appliance: the daemon (`understudy serve`) and the command line, which is only a
// client of the daemon's API. It wires every part and decides nothing.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"understudy/appliance/cli"
)

// version is set by the linker in released builds.
var version = "0.1.0-dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := cli.New(os.Stdout, os.Stderr, os.Stdin, offline)
	root.Version = version
	root.AddCommand(serveCommand(serveOptions{}), manualCommand(), insideCommand())
	if err := root.ExecuteContext(ctx); err != nil {
		stop()
		os.Exit(cli.ExitCode(err))
	}
}
