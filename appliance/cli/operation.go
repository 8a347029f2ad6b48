package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"understudy/api"
	"understudy/api/client"
)

// Offline restores a backup into a data directory that no daemon uses.
type Offline func(ctx context.Context, dataDir, keyFile string, o api.RestoreOrder) (api.Restoration, error)

func (a *app) certificate() *cobra.Command {
	show := a.command("show", "Show the certificate of the API", 0, func(ctx context.Context, c *client.Client, _ []string) error {
		v, err := c.Certificate(ctx)
		if err != nil {
			return err
		}
		return a.showCertificate(v)
	})
	replace := a.command("replace CERT KEY", "Use another certificate, at once", 2, func(ctx context.Context, c *client.Client, args []string) error {
		cert, err := readBounded(args[0], api.MaxSecret*4)
		if err != nil {
			return err
		}
		key, err := readBounded(args[1], api.MaxSecret)
		if err != nil {
			return err
		}
		v, err := c.ReplaceCertificate(ctx, api.CertificateOrder{Certificate: string(cert), Key: api.NewSecret(string(key))})
		if err != nil {
			return err
		}
		return a.showCertificate(v)
	})
	replace.Long = `Use another certificate. CERT is a PEM file with the certificate and those of its issuers in order, KEY one with its
private key. It holds for the connections that are made from then on. This command line, on the appliance itself, goes on
to see the appliance's own certificate.`
	reset := a.command("reset", "Go back to a certificate that the appliance makes itself", 0, func(ctx context.Context, c *client.Client, _ []string) error {
		v, err := c.ResetCertificate(ctx)
		if err != nil {
			return err
		}
		return a.showCertificate(v)
	})
	return family("certificate", "Show and replace the certificate of the API", show, replace, reset)
}

func (a *app) showCertificate(v api.Certificate) error {
	return a.show(v, func(w io.Writer) {
		facts(w, "subject", v.Subject, "issuer", v.Issuer, "names", strings.Join(v.Names, ", "), "from", v.NotBefore.UTC().Format(time.DateOnly),
			"until", v.NotAfter.UTC().Format(time.DateOnly), "self-made", yesNo(v.SelfMade), "sha256", v.Fingerprint)
		for _, warning := range v.Warnings {
			fmt.Fprintln(w, "warning: "+plain(warning))
		}
	})
}

func (a *app) secrets() *cobra.Command {
	return a.command("secrets", "Tell whether the kept secrets can be read", 0, func(ctx context.Context, c *client.Client, _ []string) error {
		v, err := c.Secrets(ctx)
		if err != nil {
			return err
		}
		return a.showSecrets(v)
	})
}

func (a *app) rotateKey() *cobra.Command {
	cmd := a.command("rotate-key", "Seal the kept secrets with a new key", 0, func(ctx context.Context, c *client.Client, _ []string) error {
		v, err := c.RotateKey(ctx)
		if err != nil {
			return err
		}
		return a.showSecrets(v)
	})
	cmd.Long = `Make a new key, seal all kept secrets with it, and forget the old key. Copies of the key file that were made before
do not open what is sealed from now on: make a new copy.`
	return cmd
}

func (a *app) showSecrets(v api.SecretsStatus) error {
	return a.show(v, func(w io.Writer) {
		facts(w, "secrets", fmt.Sprint(v.Secrets), "unreadable", strings.Join(v.Unreadable, ", "), "problem", v.Problem, "hint", v.Hint)
	})
}

func (a *app) backup() *cobra.Command {
	var passphraseFile string
	cmd := a.command("backup FILE", "Write the configuration down, encrypted", 1, func(ctx context.Context, c *client.Client, args []string) error {
		passphrase, err := a.secret("passphrase", passphraseFile, true)
		if err != nil {
			return err
		}
		o := api.BackupOrder{Passphrase: passphrase}
		if err := o.Validate(); err != nil {
			return err
		}
		return a.saveAs(args[0], func(w io.Writer) error { return c.Backup(ctx, o, w) })
	})
	cmd.Long = `Write the configuration to FILE: hosts, groups, policies, users, notifications, settings, and the secrets. It is encrypted
with a passphrase, which is asked for; without it nobody can read the file. Replicas and their recovery points are on the
target hosts and not in it.`
	passphraseFlag(cmd, &passphraseFile)
	return cmd
}

func passphraseFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVar(file, "passphrase-file", "", "read the passphrase from the first line of this file, - for standard input")
}

func (a *app) restore() *cobra.Command {
	var passphraseFile, dir, keyFile string
	var yes bool
	cmd := &cobra.Command{
		Use: "restore FILE", Short: "Bring a backup of the configuration back",
		Long: `Bring a backup of the configuration back. It is checked in full first; the configuration as it is stays beside the state
database. The appliance does it when it is started again.

With --data-dir the backup goes into a data directory directly: for a new appliance, or one that does not start. No daemon
may use it meanwhile.

All groups come back paused, because machines may have been failed over since the backup: make sure that no other appliance
protects the same machines, then resume the groups one by one. Both hosts are asked where production is, and the next cycle
compares everything.`,
		Args: func(cmd *cobra.Command, given []string) error {
			if len(given) != 1 {
				return usageError(cmd, fmt.Errorf("%s has 1 argument, not %d", cmd.CommandPath(), len(given)))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return forPeople(a.restoreFrom(cmd, args[0], passphraseFile, dir, keyFile, yes))
		},
	}
	passphraseFlag(cmd, &passphraseFile)
	cmd.Flags().StringVar(&dir, "data-dir", "", "restore into this data directory, which no daemon uses")
	cmd.Flags().StringVar(&keyFile, "key-file", "", "with --data-dir: file with the key of the secrets, as for serve")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

func (a *app) restoreFrom(cmd *cobra.Command, file, passphraseFile, dir, keyFile string, yes bool) error {
	data, err := readBounded(file, api.MaxBackup)
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	lines := []string{"The configuration of the appliance is replaced by the one in " + file + ".", "All groups come back paused."}
	if err := a.confirm(ctx, lines, yes); err != nil {
		return err
	}
	passphrase, err := a.secret("passphrase", passphraseFile, false)
	if err != nil {
		return err
	}
	o := api.RestoreOrder{Passphrase: passphrase, Data: data}
	var r api.Restoration
	if dir != "" {
		r, err = a.offline(ctx, dir, keyFile, o)
	} else {
		var c *client.Client
		if c, err = a.connect(cmd); err == nil {
			r, err = c.Restore(ctx, o)
		}
	}
	if err != nil {
		return err
	}
	return a.show(r, func(w io.Writer) {
		facts(w, "made", r.Made.UTC().Format(time.DateTime)+"Z", "by version", r.Version, "appliance", r.Appliance, "hosts", fmt.Sprint(r.Hosts),
			"groups", fmt.Sprint(r.Groups), "users", fmt.Sprint(r.Users), "secrets", fmt.Sprint(r.Secrets))
		for _, warning := range r.Warnings {
			fmt.Fprintln(w, "warning: "+plain(warning))
		}
		if r.Restart {
			fmt.Fprintln(w, "Restart the appliance to do it: systemctl restart understudy")
		}
	})
}

func (a *app) supportBundle() *cobra.Command {
	cmd := a.command("support-bundle FILE", "Collect what helps to find a fault, without secrets", 1, func(ctx context.Context, c *client.Client, args []string) error {
		return a.saveAs(args[0], func(w io.Writer) error { return c.SupportBundle(ctx, w) })
	})
	cmd.Long = `Write a zip file with the log, hosts, groups, recent jobs, what the hosts can do, and the state of the machine. It has names
and addresses, and no password, token or key.`
	return cmd
}

// saveAs makes a file that only its owner may read, whole or not at all. One that is there stays.
func (a *app) saveAs(path string, write func(io.Writer) error) (err error) {
	if _, err := os.Lstat(path); err == nil {
		return wrong("there is a file " + path + " already")
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if gone := os.Remove(f.Name()); err != nil && !errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, gone)
		}
	}()
	if err = errors.Join(write(f), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil { // unlike a rename, it replaces nothing
		return err
	}
	a.say("wrote %s", path)
	return nil
}

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, wrong(err.Error())
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, wrong(err.Error())
	}
	if int64(len(b)) > limit {
		return nil, wrong(path + " is too large")
	}
	return b, nil
}
