package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// manualCommand writes the manual page of the whole command line, for packages.
func manualCommand() *cobra.Command {
	return &cobra.Command{Use: "manual", Short: "Write the manual page", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return writeManual(cmd.OutOrStdout(), cmd.Root()) }}
}

func writeManual(out io.Writer, root *cobra.Command) error {
	var w strings.Builder
	fmt.Fprintf(&w, ".TH UNDERSTUDY 1 \"\" %q \"Understudy\"\n.SH NAME\nunderstudy \\- %s\n.SH SYNOPSIS\n.B understudy\n.I COMMAND\n[OPTIONS]\n", root.Version,
		roff(lowerFirst(root.Short)))
	fmt.Fprintf(&w, ".SH DESCRIPTION\n%s", preformatted(root.Long))
	w.WriteString(".SH OPTIONS OF EVERY COMMAND\n")
	writeFlags(&w, root.PersistentFlags())
	w.WriteString(".SH COMMANDS\n")
	writeCommands(&w, root)
	w.WriteString(".SH FILES\n.TP\n.I /var/lib/understudy\nThe state of the appliance.\n.TP\n.I /etc/understudy/keys/secret.key\n" +
		"The key of the secrets that it keeps.\n.TP\n.I /etc/default/understudy\nOptions of the daemon, when systemd starts it.\n")
	_, err := io.WriteString(out, w.String())
	return err
}

func writeCommands(w *strings.Builder, parent *cobra.Command) {
	for _, cmd := range parent.Commands() {
		if cmd.Hidden || cmd.Name() == "help" || cmd.Name() == "completion" {
			continue
		}
		if cmd.Runnable() && !cmd.HasSubCommands() {
			fmt.Fprintf(w, ".SS %s\n%s.\n", roff(strings.TrimSuffix(cmd.UseLine(), " [flags]")), roff(cmd.Short))
			if cmd.Long != "" {
				w.WriteString(preformatted(cmd.Long))
			}
			writeFlags(w, cmd.LocalNonPersistentFlags())
		}
		writeCommands(w, cmd)
	}
}

func writeFlags(w *strings.Builder, flags *pflag.FlagSet) {
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		name, usage := pflag.UnquoteUsage(f)
		fmt.Fprintf(w, ".TP\n.B %s\n.I %s\n%s\n", roff("--"+f.Name), roff(name), roff(usage))
	})
}

// preformatted keeps the lines of a text.
func preformatted(text string) string {
	return ".PP\n.nf\n" + roff(strings.TrimSpace(text)) + "\n.fi\n"
}

// roff escapes what troff would take for its own.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(text)
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
			lines[i] = `\&` + line
		}
	}
	return strings.Join(lines, "\n")
}

func lowerFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToLower(s[:1]) + s[1:]
}
