package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"understudy/api/server"
	"understudy/appliance/access"
	"understudy/appliance/directory"
	"understudy/appliance/metrics"
	"understudy/appliance/notify"
	"understudy/appliance/replication"
	"understudy/appliance/scripts"
	"understudy/appliance/store"
	"understudy/appliance/support"
)

// maxLogs is how much of the log is kept in memory for support bundles, in bytes: a day or more of an appliance that is well.
const maxLogs = 4 << 20

// closeTimeout bounds how long a daemon that was told to stop waits for its jobs to let go.
const closeTimeout = time.Minute

type serveOptions struct {
	dataDir    string
	listen     string
	consoleURL string
	debug      bool
	// logFormat is text or json.
	logFormat string
	keyFile   string // of the secrets; empty: where it belongs to dataDir
	scripts   string // directory of the scripts that runbooks name
	// killPoint is only set by tests, see replication.Options.
	killPoint func(kind, step, phase string)
}

func serveCommand(o serveOptions) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the appliance",
		Long: `Run the appliance: the engine, its schedule and the API.

The data directory holds the state (state.db), the token of the command line (admin.token, mode 0600), the TLS
certificate (tls/) and, until the first user is made, the token for that (setup.token); all of them are made at the
first start. One data directory serves one daemon at a time.`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return serve(cmd.Context(), o) },
		SilenceErrors: false,
	}
	cmd.Flags().StringVar(&o.dataDir, "data-dir", standardDataDir, "where the appliance keeps its state")
	cmd.Flags().StringVar(&o.listen, "listen", ":8443", "address of the API")
	cmd.Flags().StringVar(&o.keyFile, "key-file", "", "file with the key of the secrets (default "+standardKeyFile+
		", or keys/secret.key in another data directory)")
	cmd.Flags().StringVar(&o.consoleURL, "console-url", "", "address by which people reach the console, for links in notifications; without it they have none")
	cmd.Flags().StringVar(&o.scripts, "scripts-dir", "/etc/understudy/scripts", "where the scripts are that runbooks may name; only root and the daemon's user may write there")
	cmd.Flags().StringVar(&o.logFormat, "log-format", "text", "text or json")
	cmd.Flags().BoolVar(&o.debug, "debug", false, "log more")
	return cmd
}

func serve(ctx context.Context, o serveOptions) (err error) {
	logs := support.NewRing(maxLogs)
	log, err := newLog(os.Stderr, o.logFormat, o.debug, logs)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.dataDir, 0o700); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	db, err := store.Open(filepath.Join(o.dataDir, "state.db"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if done, err := support.ApplyRestore(db, o.dataDir); err != nil {
		return err
	} else if done {
		log.Warn("the configuration was restored: all groups are paused until they are resumed")
	}
	secrets, err := openSecrets(o, db, log)
	if err != nil {
		return err
	}
	token, err := server.Token(filepath.Join(o.dataDir, "admin.token"))
	if err != nil {
		return err
	}
	certificates, err := server.OpenCertificates(filepath.Join(o.dataDir, "tls"), certificateNames(o.listen))
	if err != nil {
		return err
	}
	people, err := access.New(access.Options{Store: db, SetupFile: filepath.Join(o.dataDir, "setup.token"), Log: log})
	if err != nil {
		return err
	}
	signIn, err := directory.New(directory.Options{Store: db, Secrets: secrets, People: people, Log: log})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", o.listen)
	if err != nil {
		return fmt.Errorf("listen for the API: %w", err)
	}
	defer listener.Close()

	bus := store.NewBus(db, time.Now, log)
	// Before the engine: what that finds when it starts shall be told.
	notifier, err := notify.New(notify.Options{Store: db, Bus: bus, Secrets: secrets, Since: db.LastEvent(), Version: version,
		ConsoleURL: o.consoleURL, Log: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, notifier.Close()) }()
	engine, err := replication.New(ctx, replication.Options{
		Store: db, Bus: bus, Connect: connector(log), Secrets: secrets, Certificate: certificates.Show, Version: version, Log: log,
		KillPoint: o.killPoint, Scripts: scripts.Dir(o.scripts), LookInside: lookInside,
	})
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		err = errors.Join(err, engine.Close(ctx))
	}()
	engine.Run()
	notifier.Run(engine)
	log.Info("serving", "address", listener.Addr().String(), "data", o.dataDir)
	figures := metrics.New(metrics.Options{Source: engine, Version: version, Log: log, Secrets: func() int { return len(secrets.Status().Unreadable) }})
	go figures.Run(ctx)
	operate := runs{o, db, engine, secrets, certificates, figures, logs}.support()
	parts := server.Parts{Service: engine, Access: people, Operation: operate, Notifications: notifier, SignIn: signIn}
	manager := systemd{os.Getenv("NOTIFY_SOCKET")}
	manager.tell("READY=1") // connections wait for Serve from here on
	defer manager.tell("STOPPING=1")
	go manager.watchdog(ctx, engine.Scheduling)
	return server.Serve(ctx, listener, server.New(parts, server.Options{Token: token, Log: log, Version: version,
		Metrics: figures.Handler(), Observe: figures.Observe}), certificates)
}

// certificateNames are the names a client on this machine or in its network reaches the API by.
func certificateNames(listen string) []string {
	names := []string{"localhost", "127.0.0.1", "::1"}
	if hostname, err := os.Hostname(); err == nil {
		names = append(names, hostname)
	}
	if host, _, err := net.SplitHostPort(listen); err == nil && host != "" {
		names = append(names, host)
	}
	return names
}
