package access

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"understudy/api"
)

// prepareSetup makes the token for the first user, or finds the one of an earlier start; once there is a user, it removes it.
func (a *Access) prepareSetup() error {
	if len(a.users) > 0 || a.SetupFile == "" {
		a.setupDone()
		return nil
	}
	text, err := os.ReadFile(a.SetupFile)
	info, statErr := os.Stat(a.SetupFile)
	usable := err == nil && statErr == nil && info.Mode().Perm()&0o077 == 0 && len(strings.TrimSpace(string(text))) >= 20
	if !usable {
		if text, err = a.makeSetup(); err != nil {
			return fmt.Errorf("make setup token: %w", err)
		}
	}
	a.setup = api.NewSecret(strings.TrimSpace(string(text)))
	a.Log.Info("there is no user yet: open the console and use the setup token", "file", a.SetupFile)
	return nil
}

// makeSetup replaces whatever lies there: a file that others could read or write is no secret.
func (a *Access) makeSetup() ([]byte, error) {
	if err := os.Remove(a.SetupFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f, err := os.OpenFile(a.SetupFile, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	text := []byte(chance() + "\n")
	_, err = f.Write(text)
	return text, errors.Join(err, f.Sync(), f.Close())
}

// setupDone ends the setup: its token is good for nothing any more.
func (a *Access) setupDone() {
	a.mu.Lock()
	a.setup = api.Secret{}
	a.mu.Unlock()
	if a.SetupFile == "" {
		return
	}
	if err := os.Remove(a.SetupFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.Log.Warn("setup token was used, but its file stays", "error", err)
	}
}

// SetupNeeded tells whether there is no user yet.
func (a *Access) SetupNeeded() bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return len(a.users) == 0
}

// SetUp makes the first administrator, and opens a session for it.
func (a *Access) SetUp(ctx context.Context, spec api.SetupSpec, from string) (api.Opened, error) {
	guess := try{"address " + place(from), perAddress}
	if err := a.throttle.take(guess); err != nil {
		return api.Opened{}, err
	}
	if err := a.checkSetup(spec.Token); err != nil {
		return api.Opened{}, err
	}
	a.throttle.forgive(guess)
	u, err := a.newUser(ctx, api.UserSpec{Name: spec.Name, FullName: spec.FullName, Role: api.RoleAdministrator, Password: spec.Password})
	if err != nil {
		return api.Opened{}, err
	}
	a.writing.Lock()
	defer a.writing.Unlock()
	if err := a.checkSetup(spec.Token); err != nil { // two at once: one is the first
		return api.Opened{}, err
	}
	if _, err := a.addUser(u); err != nil {
		return api.Opened{}, err
	}
	return a.open(u, from)
}

func (a *Access) checkSetup(given api.Secret) error {
	a.mu.RLock()
	defer a.mu.RUnlock()
	switch {
	case len(a.users) > 0:
		return api.Errorf(api.CodeConflict, "Sign in.", "the appliance is set up already")
	case a.setup.IsZero() || digest(strings.TrimSpace(given.Reveal())) != digest(a.setup.Reveal()):
		e := api.Errorf(api.CodeUnauthorized, "Copy it from "+a.SetupFile+" on the appliance.", "the setup token is wrong")
		e.Field = "token"
		return e
	}
	return nil
}
