// Package access decides who gets in: it owns the users, their passwords, sessions and API tokens, how often a wrong one
// may be tried, and the audit log of what they did. It implements the part of the API that is about them; what a role may
// do is the server's business, and hosts and groups are unknown here. Directories (LDAP, OIDC) prove identities elsewhere
// and meet it in [Identity].
//
// Nothing that lets somebody in is kept as it is: passwords are kept as argon2id hashes, sessions and tokens, which have
// 256 bits of chance, as SHA-256 digests.
package access

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"understudy/api"
)

// Store keeps JSON values by bucket and key; a Put is durable when it returns. *store.DB is one.
type Store interface {
	Put(bucket, key string, v any) error
	Delete(bucket, key string) error
	// Each calls fn for all keys of the bucket in byte order.
	Each(bucket string, fn func(key string, decode func(v any) error) error) error
	// Walk is Each from a key on, or back from there, without holding all of it, and the values as they are kept; "" is
	// the end where it begins.
	Walk(bucket, from string, backwards bool, fn func(key string, value []byte) error) error
}

const (
	bucketUsers    = "users"
	bucketSessions = "sessions"
	bucketTokens   = "tokens"
)

// Options of an Access.
type Options struct {
	Store Store
	// SetupFile gets the token that makes the first user, as long as there is none.
	SetupFile string
	Clock     func() time.Time // nil: time.Now
	Log       *slog.Logger     // nil: slog.Default
	// Cost of a password's hash; the zero value is the right one outside of tests.
	Cost Cost
}

// Access implements what the server asks about who comes. All methods are safe for concurrent use.
type Access struct {
	Options
	passwords *passwords
	throttle  *throttle

	// writing is held over a change and its way to the disk, mu over the maps alone: who looks does not wait for the disk.
	writing  sync.Mutex
	mu       sync.RWMutex
	users    map[string]user    // by id
	sessions map[string]session // by digest
	tokens   map[string]token   // by id
	byDigest map[string]string  // ids of tokens
	setup    api.Secret

	audit  audit
	orders orders

	directory Directory
	provider  string
	idle      time.Duration
}

// New loads what there is. While there is no user, it makes the setup token; when there is one, it removes it.
func New(o Options) (*Access, error) {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	a := &Access{Options: o, throttle: newThrottle(o.Clock), idle: DefaultIdle,
		users: map[string]user{}, sessions: map[string]session{}, tokens: map[string]token{}, byDigest: map[string]string{},
		passwords: newPasswords(o.Cost)}
	if err := a.load(); err != nil {
		return nil, err
	}
	if err := a.prepareSetup(); err != nil {
		return nil, err
	}
	return a, nil
}

func (a *Access) load() error {
	if err := each(a.Store, bucketUsers, func(id string, u user) { a.users[id] = u }); err != nil {
		return err
	}
	if err := each(a.Store, bucketSessions, func(digest string, s session) { a.sessions[digest] = s }); err != nil {
		return err
	}
	if err := each(a.Store, bucketTokens, func(id string, t token) {
		a.tokens[id] = t
		a.byDigest[t.Digest] = id
	}); err != nil {
		return err
	}
	if err := a.loadOrders(); err != nil {
		return err
	}
	return a.loadAudit()
}

func each[T any](s Store, bucket string, take func(key string, v T)) error {
	err := s.Each(bucket, func(key string, decode func(any) error) error {
		var v T
		if err := decode(&v); err != nil {
			return err
		}
		take(key, v)
		return nil
	})
	if err != nil {
		return fmt.Errorf("load %s: %w", bucket, err)
	}
	return nil
}

// chance makes 256 bits that nobody guesses, in 43 characters.
func chance() string {
	var b [32]byte
	rand.Read(b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// newID makes the id of a user, session or token: no secret.
func newID() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// digest of something with so much chance that guessing is hopeless, so that a slow hash would add nothing.
func digest(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}
