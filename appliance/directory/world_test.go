package directory_test

import (
	"bytes"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/api/server"
	"understudy/appliance/access"
	"understudy/appliance/directory"
	"understudy/appliance/store"
	"understudy/appliance/vault"
)

const (
	home  = "192.0.2.1"
	right = "correct horse battery staple"
)

// world is an appliance with people and a directory, which can be started again.
type world struct {
	t       *testing.T
	dir     string
	people  *access.Access
	signIn  *directory.Directory
	options directory.Options
	mu      sync.Mutex
	now     time.Time
	log     bytes.Buffer
}

// newWorld has one user, ada, an administrator with the password right.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), now: time.Now().UTC()}
	db, err := store.Open(filepath.Join(w.dir, "state.db"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	secrets, err := vault.Open(filepath.Join(w.dir, "secret.key"), db)
	require.NoError(t, err)
	log := slog.New(slog.NewTextHandler(w, nil))
	w.people, err = access.New(access.Options{Store: db, Clock: w.clock, Log: log, Cost: access.Cost{MemoryKiB: 64}})
	require.NoError(t, err)
	w.options = directory.Options{Store: db, Secrets: secrets, People: w.people, Clock: w.clock, Log: log, Patience: time.Minute}
	w.start()
	_, err = w.people.CreateUser(t.Context(), api.UserSpec{Name: "ada", Role: api.RoleAdministrator, Password: api.NewSecret(right)})
	require.NoError(t, err)
	return w
}

func (w *world) start() {
	w.t.Helper()
	var err error
	w.signIn, err = directory.New(w.options)
	require.NoError(w.t, err)
}

// Write takes the log.
func (w *world) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(p)
}

func (w *world) logged() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.String()
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// set changes the settings.
func (w *world) set(change func(s *api.SignInSettings)) (api.SignInSettings, error) {
	w.t.Helper()
	s, err := w.signIn.SignInSettings(w.t.Context())
	require.NoError(w.t, err)
	change(&s)
	return w.signIn.SetSignInSettings(w.t.Context(), s.Revision, s)
}

func (w *world) mustSet(change func(s *api.SignInSettings)) api.SignInSettings {
	w.t.Helper()
	s, err := w.set(change)
	require.NoError(w.t, err)
	return s
}

func (w *world) try(name, password string) (api.Opened, error) {
	return w.people.SignIn(w.t.Context(), api.Credentials{Name: name, Password: api.NewSecret(password)}, home)
}

func (w *world) mustSignIn(name, password string) api.Opened {
	w.t.Helper()
	opened, err := w.try(name, password)
	require.NoError(w.t, err)
	return opened
}

func (w *world) alive(o api.Opened) bool {
	_, err := w.people.Session(o.Cookie.Reveal(), true)
	return err == nil
}

// reason is why a sign-in at the provider failed.
func reason(t *testing.T, err error) string {
	t.Helper()
	e, ok := err.(*server.LoginError)
	require.True(t, ok, "%T %v", err, err)
	return e.Reason
}
