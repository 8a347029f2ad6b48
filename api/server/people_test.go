package server

import (
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/appliance/access"
	"understudy/appliance/store"
)

// people are the real ones, with a clock that stands still until it is moved.
type people struct {
	*access.Access
	setupFile string
	mu        sync.Mutex
	now       time.Time
}

const password = "a long enough password"

func newPeople(t testing.TB) *people {
	t.Helper()
	p := &people{setupFile: filepath.Join(t.TempDir(), "setup.token"), now: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)}
	db, err := store.Open(filepath.Join(t.TempDir(), "state.db"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	p.Access, err = access.New(access.Options{Store: db, SetupFile: p.setupFile, Clock: p.clock, Log: slog.New(slog.DiscardHandler),
		Cost: access.Cost{MemoryKiB: 64}})
	require.NoError(t, err)
	return p
}

func (p *people) clock() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}

func (p *people) pass(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = p.now.Add(d)
}

// add makes a user and signs it in.
func (p *people) add(t testing.TB, name string, role api.Role, groups ...string) (api.User, string) {
	t.Helper()
	u, err := p.CreateUser(t.Context(), api.UserSpec{Name: name, Role: role, Groups: groups, Password: api.NewSecret(password)})
	require.NoError(t, err)
	opened, err := p.SignIn(t.Context(), api.Credentials{Name: name, Password: api.NewSecret(password)}, "192.0.2.1")
	require.NoError(t, err)
	return u, opened.Cookie.Reveal()
}
