package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"understudy/api"
	"understudy/api/server"
	"understudy/appliance/metrics"
	"understudy/appliance/replication"
	"understudy/appliance/store"
	"understudy/appliance/support"
	"understudy/appliance/vault"
)

// configuration says what a backup has of the state, and what a restore does with the rest. A bucket that is not here fails
// a test, and whoever adds one decides.
var configuration = support.Configuration{
	Kept: []support.Kept{
		{Bucket: "system"},
		{Bucket: "hosts", Restored: replication.RestoredHost},
		{Bucket: "groups", Restored: replication.RestoredGroup},
		{Bucket: "users"},
		{Bucket: "notify-channels"},
		{Bucket: "notify-rules"},
		{Bucket: "sign-in"},
	},
	// Work and sessions of the configuration that goes; API tokens too: one that was withdrawn must not come back.
	Forgotten: []string{"jobs", "sessions", "tokens", "orders", "host-alerts", "notify-queue", "notify-alerts"},
	Staying:   []string{"audit", "audit-pending", "history", "notify-deliveries", "notify-state", "reports", "report-screens", "report-outputs"},
}

// runs are the parts of a daemon that support looks at.
type runs struct {
	options      serveOptions
	state        *store.DB
	engine       *replication.Engine
	secrets      *vault.Vault
	certificates *server.Certificates
	metrics      *metrics.Metrics
	logs         *support.Ring
}

func (r runs) support() *support.Support {
	dir := r.options.dataDir
	return support.New(support.Options{
		Certificates: r.certificates, Vault: r.secrets, State: r.state, Service: r.engine, Logs: r.logs,
		Configuration: configuration, DataDir: dir, Version: version,
		Checks: []support.Check{{Name: "state", Look: r.state.Answers}, {Name: "schedule", Look: r.engine.Scheduling}},
		Sections: []support.Section{
			{Name: "metrics.txt", Write: func(_ context.Context, w io.Writer) error { return r.metrics.Write(w) }},
			{Name: "overview.json", Write: func(ctx context.Context, w io.Writer) error {
				o, err := r.engine.Overview(ctx, nil)
				if err != nil {
					return err
				}
				return json.NewEncoder(w).Encode(o)
			}},
		},
		SecretFiles: []string{filepath.Join(dir, "admin.token"), filepath.Join(dir, "setup.token"), filepath.Join(dir, "tls", "key.pem"),
			filepath.Join(dir, "tls", "uploaded.pem"), r.options.keyPath()},
	})
}

// offline restores while no daemon runs: the whole of it at once.
func offline(ctx context.Context, dataDir, keyFile string, o api.RestoreOrder) (r api.Restoration, err error) {
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return r, fmt.Errorf("make data directory: %w", err)
	}
	db, err := store.Open(filepath.Join(dataDir, "state.db"))
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	secrets, err := vault.Open(serveOptions{dataDir: dataDir, keyFile: keyFile}.keyPath(), db)
	if err != nil {
		return r, err
	}
	s := support.New(support.Options{Vault: secrets, State: db, Configuration: configuration, DataDir: dataDir, Version: version})
	if r, err = s.Restore(ctx, o); err != nil {
		return r, err
	}
	_, err = support.ApplyRestore(db, dataDir)
	r.Restart = false
	return r, err
}
