package vault

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/api"
)

// memory is a store that outlives a vault; what is put is durable at once. It fails when full.
type memory struct {
	values map[string]json.RawMessage
	full   bool
}

func (m *memory) Put(_, key string, v any) error {
	if m.full {
		return errors.New("no space left")
	}
	b, err := json.Marshal(v)
	m.values[key] = b
	return err
}

func (m *memory) Delete(_, key string) error {
	delete(m.values, key)
	return nil
}

func (m *memory) Each(_ string, fn func(string, func(any) error) error) error {
	for key, value := range m.values {
		if err := fn(key, func(v any) error { return json.Unmarshal(value, v) }); err != nil {
			return err
		}
	}
	return nil
}

func opened(t *testing.T, path string, m *memory) *Vault {
	t.Helper()
	v, err := Open(path, m)
	require.NoError(t, err)
	return v
}

func newWorld(t *testing.T) (path string, m *memory) {
	return filepath.Join(t.TempDir(), "keys", "secret.key"), &memory{values: map[string]json.RawMessage{}}
}

func requireSecret(t *testing.T, v *Vault, name, want string) {
	t.Helper()
	got, err := v.Get(name)
	require.NoError(t, err)
	require.Equal(t, want, got.Reveal())
}

func TestSecretsAreKeptSealed(t *testing.T) {
	path, m := newWorld(t)
	v := opened(t, path, m)
	require.NoFileExists(t, path, "nothing to seal yet")
	require.Equal(t, Status{}, v.Status())
	_, err := v.Get("smtp")
	require.ErrorIs(t, err, ErrNotFound)
	require.NoError(t, v.Put("smtp", api.NewSecret("hunter2")))
	require.NoError(t, v.Put("ldap", api.NewSecret("pässwörd")))
	require.Error(t, v.Put("none", api.Secret{}))

	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	for _, value := range m.values {
		require.NotContains(t, string(value), "hunter2")
	}

	v = opened(t, path, m)
	requireSecret(t, v, "smtp", "hunter2")
	requireSecret(t, v, "ldap", "pässwörd")
	require.Equal(t, []string{"ldap", "smtp"}, v.Names())
	require.NoError(t, v.Put("smtp", api.NewSecret("other")))
	requireSecret(t, v, "smtp", "other")
	require.NoError(t, v.Delete("smtp"))
	require.NoError(t, v.Delete("smtp"))
	_, err = opened(t, path, m).Get("smtp")
	require.ErrorIs(t, err, ErrNotFound)
}

// Who can write the state cannot make one secret stand for another, nor change one.
func TestSealedSecretsAreBound(t *testing.T) {
	path, m := newWorld(t)
	v := opened(t, path, m)
	require.NoError(t, v.Put("webhook", api.NewSecret("known to the attacker")))
	require.NoError(t, v.Put("ldap", api.NewSecret("bind password")))
	for name, spoil := range map[string]func(m map[string]json.RawMessage){
		"swapped": func(m map[string]json.RawMessage) { m["ldap"] = m["webhook"] },
		"cut off": func(m map[string]json.RawMessage) {
			m["ldap"] = json.RawMessage(fmt.Sprintf(`{"key":%q,"data":"AAAA"}`, v.keys[0].id))
		},
		"changed": func(m map[string]json.RawMessage) {
			var rec sealed
			require.NoError(t, json.Unmarshal(m["ldap"], &rec))
			rec.Data[len(rec.Data)-1] ^= 1
			m["ldap"], _ = json.Marshal(rec)
		},
	} {
		t.Run(name, func(t *testing.T) {
			values := map[string]json.RawMessage{"ldap": m.values["ldap"], "webhook": m.values["webhook"]}
			spoil(values)
			v := opened(t, path, &memory{values: values})
			_, err := v.Get("ldap")
			require.ErrorIs(t, err, ErrUnreadable)
			require.NotContains(t, err.Error(), "known to")
			require.Equal(t, []string{"ldap"}, v.Status().Unreadable)
			requireSecret(t, v, "webhook", "known to the attacker")
		})
	}
}

func TestKeyFileIsLost(t *testing.T) {
	foreign := encodeKeys([]key{newKey()})
	for name, spoil := range map[string]func(path string) error{
		"missing":   os.Remove,
		"foreign":   func(path string) error { return os.WriteFile(path, foreign, 0o600) },
		"empty":     func(path string) error { return os.Truncate(path, 0) },
		"damaged":   func(path string) error { return os.WriteFile(path, []byte("not a key\n"), 0o600) },
		"open":      func(path string) error { return os.Chmod(path, 0o640) },
		"directory": func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) },
	} {
		t.Run(name, func(t *testing.T) {
			path, m := newWorld(t)
			require.NoError(t, opened(t, path, m).Put("smtp", api.NewSecret("hunter2")))
			good, err := os.ReadFile(path)
			require.NoError(t, err)
			require.NoError(t, spoil(path))

			v := opened(t, path, m)
			_, err = v.Get("smtp")
			require.ErrorIs(t, err, ErrUnreadable)
			var forPeople *api.Error
			require.ErrorAs(t, err, &forPeople)
			require.NotEmpty(t, forPeople.Hint)
			require.Contains(t, forPeople.Message, path)
			s := v.Status()
			require.Equal(t, 1, s.Secrets)
			require.Equal(t, []string{"smtp"}, s.Unreadable)
			require.ErrorIs(t, s.Problem, ErrUnreadable)

			// Entering it again works where no key is at risk of being lost for it.
			err = v.Put("smtp", api.NewSecret("again"))
			if name == "missing" || name == "foreign" {
				require.NoError(t, err)
				requireSecret(t, opened(t, path, m), "smtp", "again")
				require.NoError(t, v.Status().Problem)
				return
			}
			require.Error(t, err)
			require.Error(t, v.Rotate())
			// Put back: nothing has to be restarted.
			require.NoError(t, os.RemoveAll(path))
			require.NoError(t, os.WriteFile(path, good, 0o600))
			requireSecret(t, v, "smtp", "hunter2")
			require.NoError(t, v.Status().Problem)
		})
	}
}

// A vault that dies at any step of a rotation opens again with every secret, and the next rotation leaves one key.
func TestRotationIsKilledAtEachStep(t *testing.T) {
	type death struct{}
	steps := 1
	for at := 0; at < steps; at++ {
		path, m := newWorld(t)
		v := opened(t, path, m)
		for i := range 3 {
			require.NoError(t, v.Put(fmt.Sprint("secret", i), api.NewSecret(fmt.Sprint("text", i))))
		}
		old := v.keys[0]
		n := 0
		v.step = func(string) {
			if n == at {
				panic(death{})
			}
			n++
		}
		func() {
			defer func() { require.Equal(t, death{}, recover()) }()
			_ = v.Rotate()
		}()
		steps = 6 // begin, new key, three secrets, end
		v = opened(t, path, m)
		for i := range 3 {
			requireSecret(t, v, fmt.Sprint("secret", i), fmt.Sprint("text", i))
		}
		require.NoError(t, v.Rotate())
		require.Len(t, v.keys, 1)
		require.NotEqual(t, old, v.keys[0])
		v = opened(t, path, m)
		for i := range 3 {
			requireSecret(t, v, fmt.Sprint("secret", i), fmt.Sprint("text", i))
		}
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NotContains(t, string(content), old.id)
		left, err := os.ReadDir(filepath.Dir(path))
		require.NoError(t, err)
		require.Len(t, left, 1)
	}
}

func TestRotationThatCannotWrite(t *testing.T) {
	path, m := newWorld(t)
	v := opened(t, path, m)
	require.NoError(t, v.Put("smtp", api.NewSecret("hunter2")))
	m.full = true
	require.Error(t, v.Rotate())
	requireSecret(t, v, "smtp", "hunter2")
	requireSecret(t, opened(t, path, m), "smtp", "hunter2")
	m.full = false
	require.NoError(t, v.Rotate())
	requireSecret(t, opened(t, path, m), "smtp", "hunter2")
}

// While the appliance runs, its memory still has what the file has lost.
func TestRotationBringsTheKeyFileBack(t *testing.T) {
	path, m := newWorld(t)
	v := opened(t, path, m)
	require.NoError(t, v.Put("smtp", api.NewSecret("hunter2")))
	require.NoError(t, os.Chmod(path, 0o644))
	require.Error(t, v.Rotate())
	requireSecret(t, v, "smtp", "hunter2")
	require.NoError(t, os.Remove(path))
	require.NoError(t, v.Rotate())
	requireSecret(t, opened(t, path, m), "smtp", "hunter2")
	require.NoError(t, os.Remove(path))
	require.NoError(t, v.Put("ldap", api.NewSecret("other")))
	requireSecret(t, opened(t, path, m), "smtp", "hunter2")
}

// A secret whose key is lost keeps the others from nothing, and its record for the day when the key is found.
func TestRotationPassesOverTheUnreadable(t *testing.T) {
	path, m := newWorld(t)
	require.NoError(t, opened(t, path, m).Put("lost", api.NewSecret("one")))
	lost, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.Remove(path))
	v := opened(t, path, m)
	require.NoError(t, v.Put("new", api.NewSecret("two")))
	require.NoError(t, v.Rotate())
	requireSecret(t, v, "new", "two")
	require.Equal(t, []string{"lost"}, v.Status().Unreadable)

	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteString(strings.TrimPrefix(string(lost), keyFileHead))
	require.NoError(t, errors.Join(err, f.Close()))
	v = opened(t, path, m)
	requireSecret(t, v, "lost", "one")
	requireSecret(t, v, "new", "two")
}

// FuzzKeyFile: what is accepted is written and read again as it was, and no refusal shows what was in the file.
func FuzzKeyFile(f *testing.F) {
	f.Add(string(encodeKeys([]key{newKey(), newKey()})))
	f.Add("# nothing\n")
	f.Add("00000000 AAAA")
	f.Add("x\x00y\n\r\n")
	f.Fuzz(func(t *testing.T, text string) {
		keys, err := decodeKeys([]byte(text))
		if err != nil {
			require.Less(t, len(err.Error()), 50)
			return
		}
		again, err := decodeKeys(encodeKeys(keys))
		require.NoError(t, err)
		require.Equal(t, keys, again)
	})
}
