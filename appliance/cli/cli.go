// Package cli is the command line of an appliance: one command for everything that the API can do. It knows api/client
// and nothing of what is behind it. It owns what people see: tables, sizes, ages, progress, questions, hints and the exit
// status.
package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"understudy/api/client"
)

// Where a daemon on this machine listens, and where it keeps its secrets.
const (
	localURL = "https://localhost:8443"
	dataDir  = "/var/lib/understudy"
)

// app is one run of the command line.
type app struct {
	out, err io.Writer
	in       io.Reader

	url, tokenFile, ca string
	json               bool

	now func() time.Time
	// asks: a person sits at the input and can be asked. draws: the error output is a terminal that can show bars.
	asks, draws bool
	offline     Offline
}

// New makes the root command. The results go to out; progress, questions and errors to err; answers come from in;
// offline restores where no daemon runs. The
// error of its Execute has been printed; ExitCode gives the status to exit with.
func New(out, err io.Writer, in io.Reader, offline Offline) *cobra.Command {
	a := newApp(out, err, in)
	a.offline = offline
	return a.root()
}

func newApp(out, err io.Writer, in io.Reader) *app {
	return &app{out: out, err: err, in: in, now: time.Now, asks: isTerminal(in) && isTerminal(err), draws: isTerminal(err)}
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func (a *app) root() *cobra.Command {
	root := family("understudy", "Keep replicas of virtual machines ready to take over",
		a.hosts(), a.machines(), a.groups(), a.points(), a.jobs(), a.reports(), a.scripts(),
		a.verify(), a.test(), a.failover(), a.commit(), a.rollback(), a.reprotect(), a.failback(), a.fence(), a.bandwidth(),
		a.certificate(), a.secrets(), a.rotateKey(), a.backup(), a.restore(), a.supportBundle(),
		a.users(), a.tokens(), a.audit(), a.whoAmI(),
		a.status(), a.alerts(), a.events(), a.notifications(), a.signIn(), a.doctor("doctor HOST"), a.about())
	root.Long = `Understudy keeps replicas of virtual machines ready to take over.

Hosts, groups and machines are named by name or id. Orders wait for their job and show its progress; with --no-wait they
return at once, and "understudy jobs watch JOB" watches later.

` + exitHelp
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetIn(a.in)
	root.SilenceUsage = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usageError(cmd, err) })
	flags := root.PersistentFlags()
	flags.StringVar(&a.url, "url", env("UNDERSTUDY_URL", localURL), "address of the appliance (UNDERSTUDY_URL)")
	flags.StringVar(&a.tokenFile, "token-file", env("UNDERSTUDY_TOKEN_FILE", filepath.Join(dataDir, "admin.token")),
		"file with the token (UNDERSTUDY_TOKEN_FILE)")
	flags.StringVar(&a.ca, "ca", env("UNDERSTUDY_CA", filepath.Join(dataDir, "tls", "cert.pem")),
		"certificate to trust (UNDERSTUDY_CA); without it, the system's")
	flags.BoolVar(&a.json, "json", false, "print JSON")
	return root
}

func env(name, otherwise string) string { return cmp.Or(os.Getenv(name), otherwise) }

// family is a command that only groups others. Cobra would answer a misspelled one with help and success.
func family(use, short string, members ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs, SuggestionsMinimumDistance: 2}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		message := fmt.Sprintf("there is no command %q", cmd.CommandPath()+" "+args[0])
		if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
			message += fmt.Sprintf(", but there is %q", cmd.CommandPath()+" "+like[0])
		}
		return usageError(cmd, errors.New(message))
	}
	cmd.AddCommand(members...)
	return cmd
}

// action does the work of a command.
type action func(ctx context.Context, c *client.Client, args []string) error

// command makes a command of the tree; args is how many arguments it must have.
func (a *app) command(use, short string, args int, do action) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short,
		Args: func(cmd *cobra.Command, given []string) error {
			if len(given) != args {
				return usageError(cmd, fmt.Errorf("%s has %s, not %d", cmd.CommandPath(), count(args, "argument"), len(given)))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect(cmd)
			if err == nil {
				err = do(cmd.Context(), c, args)
			}
			var usage *commandError
			if errors.As(err, &usage) && usage.usage {
				return usageError(cmd, err)
			}
			return forPeople(err)
		},
	}
}

func (a *app) connect(cmd *cobra.Command) (*client.Client, error) {
	o := client.Options{TokenFile: a.tokenFile, CAFile: a.ca}
	// Nobody named the default: where it is missing, the appliance is elsewhere and the system's roots may do.
	if _, err := os.Stat(a.ca); errors.Is(err, fs.ErrNotExist) && !cmd.Flags().Changed("ca") && os.Getenv("UNDERSTUDY_CA") == "" {
		o.CAFile = ""
	}
	return client.New(a.url, o)
}

// show prints v as JSON, or what text writes.
func (a *app) show(v any, text func(w io.Writer)) error {
	var b bytes.Buffer
	if a.json {
		enc := json.NewEncoder(&b)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		if err := enc.Encode(v); err != nil {
			return fmt.Errorf("encode result: %w", err)
		}
	} else {
		text(&b)
	}
	_, err := b.WriteTo(a.out)
	return err
}

// say tells a person something that is no result.
func (a *app) say(format string, args ...any) {
	// Standard error is the last resort for words; there is nobody to tell that it is gone.
	_, _ = fmt.Fprintf(a.err, format+"\n", args...)
}
