// Package vault keeps the secrets of the appliance: each sealed with XChaCha20-Poly1305, its name bound to it, by a key
// that is in a file of its own, apart from the state. It owns the bucket "secrets" and the key file; records elsewhere say
// that there is a secret and never hold one. It knows nothing of what the secrets are for.
//
// # When the key file is lost
//
// Nothing else of the appliance depends on it. A vault opens without its key file, with one that others can read, with a
// damaged or a foreign one: then the secrets that it cannot open answer an error that says what to do, see Status. A file
// that is there is never replaced by a new key; only where there is none is one made, with the first secret that is put.
//
// # Rotation
//
// The new key is in the file, durable, before anything is sealed with it; an old one leaves the file only when no secret
// needs it any more. Between the two the file holds both, so that a death at any step loses nothing, and the next rotation
// ends what this one began.
package vault

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync"

	"golang.org/x/crypto/chacha20poly1305"

	"understudy/api"
)

// Bucket of the store in which the sealed secrets are.
const Bucket = "secrets"

// ErrNotFound: there is no secret of that name. ErrUnreadable: there is one, and no key that opens it.
var (
	ErrNotFound   = errors.New("no such secret")
	ErrUnreadable = errors.New("the secret cannot be read")
)

// Store keeps JSON values by bucket and key; a Put is durable when it returns. *store.DB is one.
type Store interface {
	Put(bucket, key string, v any) error
	Delete(bucket, key string) error
	Each(bucket string, fn func(key string, decode func(v any) error) error) error
}

// sealed is what the store keeps of a secret.
type sealed struct {
	Key  string `json:"key"`  // id of the key that opens it
	Data []byte `json:"data"` // nonce, then the sealed text
}

// Vault is open. All methods are safe for concurrent use.
type Vault struct {
	path  string
	store Store
	step  func(string) // between the steps of a rotation, for tests that die there

	mu      sync.Mutex
	keys    []key // the newest is the last
	broken  error // why there are no keys, when that is a fault
	secrets map[string]sealed
}

// Open loads the sealed secrets and the key file. It fails only when the store does: see Status for the keys.
func Open(keyPath string, s Store) (*Vault, error) {
	v := &Vault{path: keyPath, store: s, step: func(string) {}, secrets: map[string]sealed{}}
	err := s.Each(Bucket, func(name string, decode func(any) error) error {
		var rec sealed
		if err := decode(&rec); err != nil {
			return err
		}
		v.secrets[name] = rec
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("load secrets: %w", err)
	}
	v.load()
	return v, nil
}

// load reads the key file.
func (v *Vault) load() {
	v.keys, v.broken = readKeys(v.path)
	if errors.Is(v.broken, fs.ErrNotExist) && len(v.secrets) == 0 {
		v.broken = nil
	}
}

// Status says how many secrets there are, and which of them cannot be read and why.
type Status struct {
	Secrets    int
	Unreadable []string // names
	Problem    error    // an *api.Error; nil when all is well
}

// Status looks at the key file again when it was not well: whoever repaired it need not restart the appliance.
func (v *Vault) Status() Status {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.broken != nil {
		v.load()
	}
	s := Status{Secrets: len(v.secrets)}
	for _, name := range slices.Sorted(maps.Keys(v.secrets)) {
		if _, err := v.open(name); err != nil {
			s.Unreadable = append(s.Unreadable, name)
		}
	}
	switch {
	case len(s.Unreadable) > 0:
		s.Problem = v.unreadable(fmt.Sprintf("%d of %d secrets", len(s.Unreadable), len(v.secrets)), v.broken)
	case v.broken != nil:
		s.Problem = v.noKey()
	}
	return s
}

// Put keeps the secret under its name, in place of what is there. It makes the key file where there is none.
func (v *Vault) Put(name string, secret api.Secret) error {
	if name == "" || secret.IsZero() {
		return errors.New("keep secret: no name, or no secret")
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.haveKey(); err != nil {
		return err
	}
	return v.seal(name, secret)
}

// Seal gives the record of a secret without keeping it, for a store that is being made. It makes the key file where there
// is none.
func (v *Vault) Seal(name string, secret api.Secret) (json.RawMessage, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.haveKey(); err != nil {
		return nil, err
	}
	rec, err := v.sealed(name, secret)
	if err != nil {
		return nil, err
	}
	return json.Marshal(rec)
}

// haveKey loads the key file, or makes it where there is none.
func (v *Vault) haveKey() error {
	if len(v.keys) == 0 {
		v.load()
	}
	if len(v.keys) == 0 {
		if v.broken != nil && !errors.Is(v.broken, fs.ErrNotExist) {
			return v.noKey()
		}
		v.keys = []key{newKey()}
	}
	if _, err := os.Stat(v.path); errors.Is(err, fs.ErrNotExist) { // at first, or lost while the keys are in memory
		if err := writeKeys(v.path, v.keys); err != nil {
			return fmt.Errorf("make key file %s: %w", v.path, err)
		}
		v.broken = nil
	}
	return nil
}

// seal keeps the secret, sealed by the newest key.
func (v *Vault) seal(name string, secret api.Secret) error {
	rec, err := v.sealed(name, secret)
	if err != nil {
		return err
	}
	if err := v.store.Put(Bucket, name, rec); err != nil {
		return err
	}
	v.secrets[name] = rec
	return nil
}

func (v *Vault) sealed(name string, secret api.Secret) (sealed, error) {
	k := v.keys[len(v.keys)-1]
	aead, err := chacha20poly1305.NewX(k.bytes)
	if err != nil {
		return sealed{}, err
	}
	nonce := make([]byte, aead.NonceSize(), aead.NonceSize()+len(secret.Reveal())+aead.Overhead())
	rand.Read(nonce)
	return sealed{Key: k.id, Data: aead.Seal(nonce, nonce, []byte(secret.Reveal()), boundTo(name))}, nil
}

// boundTo is what is sealed along: the secret of one name cannot stand under another.
func boundTo(name string) []byte { return []byte("understudy secret " + name) }

// Get gives the secret of that name; ErrNotFound, or an *api.Error with ErrUnreadable and what to do.
func (v *Vault) Get(name string) (api.Secret, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, ok := v.secrets[name]; !ok {
		return api.Secret{}, fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	secret, err := v.open(name)
	if err != nil && v.broken != nil { // perhaps it was repaired
		v.load()
		secret, err = v.open(name)
	}
	if err != nil {
		return api.Secret{}, v.unreadable("the secret "+name, err)
	}
	return secret, nil
}

func (v *Vault) open(name string) (api.Secret, error) {
	rec := v.secrets[name]
	at := slices.IndexFunc(v.keys, func(k key) bool { return k.id == rec.Key })
	if at < 0 {
		if v.broken != nil {
			return api.Secret{}, v.broken
		}
		return api.Secret{}, fmt.Errorf("it needs the key %q, which is not in the key file", rec.Key)
	}
	aead, err := chacha20poly1305.NewX(v.keys[at].bytes)
	if err != nil {
		return api.Secret{}, err
	}
	if len(rec.Data) < aead.NonceSize() {
		return api.Secret{}, errors.New("it is cut off")
	}
	text, err := aead.Open(nil, rec.Data[:aead.NonceSize()], rec.Data[aead.NonceSize():], boundTo(name))
	if err != nil {
		return api.Secret{}, errors.New("it was changed since it was sealed")
	}
	return api.NewSecret(string(text)), nil
}

// Delete forgets the secret. None there is success.
func (v *Vault) Delete(name string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.store.Delete(Bucket, name); err != nil {
		return err
	}
	delete(v.secrets, name)
	return nil
}

// Names are those of all secrets, sorted.
func (v *Vault) Names() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Sorted(maps.Keys(v.secrets))
}

// Rotate makes a new key, seals every secret with it, and forgets the older keys. Secrets that cannot be read stay as
// they are, with the keys that they name: see Status.
func (v *Vault) Rotate() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	keys, err := readKeys(v.path)
	v.broken = err
	if missing := errors.Is(err, fs.ErrNotExist) && (len(v.keys) > 0 || len(v.secrets) == 0); err != nil && !missing {
		return v.noKey()
	}
	v.step("begin")
	keys = append(with(v.keys, keys), newKey()) // also those that were lost from the file since
	if err := writeKeys(v.path, keys); err != nil {
		return fmt.Errorf("write key file %s: %w", v.path, err)
	}
	v.keys, v.broken = keys, nil
	v.step("new key is in the file")
	for _, name := range slices.Sorted(maps.Keys(v.secrets)) {
		secret, err := v.open(name)
		if err != nil {
			continue // Status tells
		}
		if err := v.seal(name, secret); err != nil {
			return fmt.Errorf("seal with the new key: %w", err)
		}
		v.step("sealed " + name)
	}
	needed := map[string]bool{keys[len(keys)-1].id: true}
	for _, rec := range v.secrets {
		needed[rec.Key] = true
	}
	keys = slices.DeleteFunc(slices.Clone(keys), func(k key) bool { return !needed[k.id] })
	if err := writeKeys(v.path, keys); err != nil {
		return fmt.Errorf("write key file %s: %w", v.path, err)
	}
	v.keys = keys
	v.step("end")
	return nil
}

// with gives all of a and what else is in b.
func with(a, b []key) []key {
	all := slices.Clone(a)
	for _, k := range b {
		if !slices.ContainsFunc(all, func(known key) bool { return known.id == k.id }) {
			all = append(all, k)
		}
	}
	return all
}

func (v *Vault) unreadable(what string, cause error) error {
	if cause == nil {
		cause = errors.New("they need keys that are not in the key file")
	}
	return &api.Error{Code: api.CodeConflict, Err: errors.Join(ErrUnreadable, cause),
		Message: fmt.Sprintf("%s cannot be read with the key file %s: %v", what, v.path, cause),
		Hint:    "Put the key file back (mode 0600), or enter the secret again. Replication does not need it."}
}

func (v *Vault) noKey() error {
	return &api.Error{Code: api.CodeConflict, Err: v.broken,
		Message: fmt.Sprintf("the key file %s cannot be used: %v", v.path, v.broken),
		Hint: "Put a copy of it back and give it mode 0600. When there is none, move it away: a new key is made, and the secrets " +
			"must be entered again."}
}
