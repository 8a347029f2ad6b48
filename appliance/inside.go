package main

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"understudy/provisioning"
	"understudy/provisioning/linux"
)

const insideCommandName = "look-inside"

// insideCommand is the process that reads what guests have written.
func insideCommand() *cobra.Command {
	return &cobra.Command{Use: insideCommandName, Short: "Read the disk of a guest for the daemon", Hidden: true, Args: cobra.NoArgs, SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error { return linux.Child(cmd.InOrStdin(), cmd.OutOrStdout()) }}
}

// lookInside starts it from the very program that runs now, which an upgrade may have replaced meanwhile.
func lookInside(ctx context.Context, disk io.ReaderAt, size int64) (linux.System, error) {
	return linux.Apart(ctx, disk, size, provisioning.LinuxModules(), "/proc/self/exe", insideCommandName)
}
