package main

import (
	"errors"
	"log/slog"
	"path/filepath"

	"understudy/api"
	"understudy/appliance/vault"
)

// Where the state and the key of its secrets are, unless they are told elsewhere: whoever copies the one has not copied
// the other.
const (
	standardDataDir = "/var/lib/understudy"
	standardKeyFile = "/etc/understudy/keys/secret.key"
)

// keyPath is where the key of the secrets is.
func (o serveOptions) keyPath() string {
	switch {
	case o.keyFile != "":
		return o.keyFile
	case filepath.Clean(o.dataDir) == standardDataDir:
		return standardKeyFile
	}
	return filepath.Join(o.dataDir, "keys", "secret.key")
}

// openSecrets opens the vault. Secrets that cannot be read are told, and keep nothing else from working: protection must
// not depend on the password of a mail server.
func openSecrets(o serveOptions, s vault.Store, log *slog.Logger) (*vault.Vault, error) {
	v, err := vault.Open(o.keyPath(), s)
	if err != nil {
		return nil, err
	}
	if status := v.Status(); status.Problem != nil {
		var e *api.Error
		errors.As(status.Problem, &e)
		log.Error("secrets cannot be read", "problem", e.Message, "hint", e.Hint, "secrets", status.Unreadable)
	}
	return v, nil
}
