package server

import (
	"encoding/json"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/appliance/access"
)

// memory keeps values as the state database does, without its disk.
type memory struct {
	mu     sync.Mutex
	values map[string]map[string][]byte
}

func (m *memory) Put(bucket, key string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.values == nil {
		m.values = map[string]map[string][]byte{}
	}
	if m.values[bucket] == nil {
		m.values[bucket] = map[string][]byte{}
	}
	m.values[bucket][key] = b
	return nil
}

func (m *memory) Delete(bucket, key string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.values[bucket], key)
	return nil
}

func (m *memory) Each(bucket string, fn func(key string, decode func(v any) error) error) error {
	return m.Walk(bucket, "", false, func(key string, value []byte) error {
		return fn(key, func(v any) error { return json.Unmarshal(value, v) })
	})
}

func (m *memory) Walk(bucket, from string, backwards bool, fn func(key string, value []byte) error) error {
	m.mu.Lock()
	values := maps.Clone(m.values[bucket])
	m.mu.Unlock()
	keys := slices.Sorted(maps.Keys(values))
	if backwards {
		slices.Reverse(keys)
	}
	for _, key := range keys {
		if from != "" && (backwards && key > from || !backwards && key < from) {
			continue
		}
		if err := fn(key, values[key]); err != nil {
			return err
		}
	}
	return nil
}

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
	var err error
	p.Access, err = access.New(access.Options{Store: &memory{}, SetupFile: p.setupFile, Clock: p.clock, Log: slog.New(slog.DiscardHandler),
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
