package support

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/appliance/store"
	"understudy/appliance/vault"
)

const passphrase = "some words, long enough"

// appliance is a state with a vault, and a Support over both.
type appliance struct {
	*Support
	dir string
	db  *store.DB
	v   *vault.Vault
}

func newAppliance(t *testing.T, dir string) *appliance {
	t.Helper()
	db, err := store.Open(filepath.Join(dir, "state.db"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	v, err := vault.Open(filepath.Join(dir, "keys", "secret.key"), db)
	require.NoError(t, err)
	s := New(Options{State: db, Vault: v, DataDir: dir, Version: "1.2.3", Clock: func() time.Time { return time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC) },
		Log: slog.New(slog.DiscardHandler), Configuration: Configuration{
			Kept: []Kept{{Bucket: "system"}, {Bucket: "hosts"}, {Bucket: "users"}, {Bucket: "groups", Restored: func(value json.RawMessage, _ time.Time) (json.RawMessage, error) {
				var g map[string]any
				if err := json.Unmarshal(value, &g); err != nil || g == nil {
					return nil, errors.New("no group")
				}
				g["paused"] = true
				return json.Marshal(g)
			}}},
			Forgotten: []string{"jobs", "sessions"}, Staying: []string{"audit"},
		}})
	s.workFactor = 10
	return &appliance{s, dir, db, v}
}

func (a *appliance) configure(t *testing.T, name string) {
	t.Helper()
	require.NoError(t, a.db.Put("system", "owner", "0a0b0c0d"))
	require.NoError(t, a.db.Put("hosts", "h1", map[string]string{"name": name}))
	require.NoError(t, a.db.Put("groups", "g1", map[string]any{"name": name}))
	require.NoError(t, a.db.Put("users", "u1", map[string]string{"name": name}))
	require.NoError(t, a.db.Put("jobs", "j-"+name, "job"))
	require.NoError(t, a.db.Put("sessions", "s-"+name, "session"))
	require.NoError(t, a.db.Put("audit", name, "what happened"))
	require.NoError(t, a.v.Put("smtp", api.NewSecret("password of "+name)))
}

func (a *appliance) backup(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, a.Backup(t.Context(), api.BackupOrder{Passphrase: api.NewSecret(passphrase)}, &b))
	return b.Bytes()
}

func order(data []byte) api.RestoreOrder {
	return api.RestoreOrder{Passphrase: api.NewSecret(passphrase), Data: data}
}

// state is everything that is kept, for comparing.
func (a *appliance) state(t *testing.T) map[string]string {
	t.Helper()
	names, err := a.db.Buckets()
	require.NoError(t, err)
	all := map[string]string{}
	for _, bucket := range names {
		require.NoError(t, a.db.Each(bucket, func(key string, decode func(any) error) error {
			var v json.RawMessage
			err := decode(&v)
			if bucket == vault.Bucket {
				secret, _ := a.v.Get(key)
				v = json.RawMessage(secret.Reveal())
			}
			all[bucket+"/"+key] = string(v)
			return err
		}))
	}
	return all
}

func TestBackupAndRestore(t *testing.T) {
	old := newAppliance(t, t.TempDir())
	old.configure(t, "old")
	data := old.backup(t)
	require.NotContains(t, string(data), "old", "it is encrypted")

	// On the same appliance, and on a new one with another key.
	for name, dir := range map[string]string{"same": old.dir, "new": t.TempDir()} {
		t.Run(name, func(t *testing.T) {
			a := old
			if name == "new" {
				a = newAppliance(t, dir)
			}
			a.configure(t, "changed")
			require.NoError(t, a.db.Put("users", "u2", "came later"))
			require.NoError(t, a.v.Put("ldap", api.NewSecret("came later")))
			before := a.state(t)
			r, err := a.Restore(t.Context(), order(data))
			require.NoError(t, err)
			require.Equal(t, api.Restoration{Made: a.Clock(), Version: "1.2.3", Appliance: "0a0b0c0d", Hosts: 1, Groups: 1, Users: 1, Secrets: 1,
				Restart: true, Warnings: r.Warnings}, r)
			require.Equal(t, before, a.state(t), "nothing changes before the next start")
			pending, err := os.ReadFile(filepath.Join(dir, pendingFile))
			require.NoError(t, err)
			require.NotContains(t, string(pending), "password of old")
			info, err := os.Stat(filepath.Join(dir, pendingFile))
			require.NoError(t, err)
			require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

			done, err := ApplyRestore(a.db, dir)
			require.NoError(t, err)
			require.True(t, done)
			require.NoError(t, a.db.Close())
			a = newAppliance(t, dir)
			now := a.state(t)
			require.JSONEq(t, `{"name":"old","paused":true}`, now["groups/g1"])
			require.JSONEq(t, `{"name":"old"}`, now["users/u1"])
			require.Equal(t, "password of old", now["secrets/smtp"])
			for _, gone := range []string{"users/u2", "secrets/ldap", "jobs/j-old", "jobs/j-changed", "sessions/s-changed"} {
				require.NotContains(t, now, gone)
			}
			require.Contains(t, now, "audit/changed", "what happened stays")
			done, err = ApplyRestore(a.db, dir)
			require.NoError(t, err)
			require.False(t, done)

			kept, err := filepath.Glob(filepath.Join(dir, "state.db.before-restore-*"))
			require.NoError(t, err)
			require.Len(t, kept, 1)
			require.NoError(t, os.MkdirAll(filepath.Join(dir, "aside"), 0o700))
			require.NoError(t, os.Rename(kept[0], filepath.Join(dir, "aside", "state.db")))
			aside, err := store.Open(filepath.Join(dir, "aside", "state.db"))
			require.NoError(t, err)
			defer aside.Close()
			var user string
			require.NoError(t, aside.Get("users", "u2", &user))
		})
	}
}

// A death at any step of the restore leaves the old configuration or the new one, and the next start ends it once.
func TestRestoreIsKilledAtEachStep(t *testing.T) {
	type death struct{}
	for at, steps := 0, 1; at < steps; at++ {
		dir := t.TempDir()
		a := newAppliance(t, dir)
		a.configure(t, "old")
		data := a.backup(t)
		a.configure(t, "changed")
		changed := a.state(t)
		_, err := a.Restore(t.Context(), order(data))
		require.NoError(t, err)
		n := 0
		func() {
			defer func() { require.Equal(t, death{}, recover()) }()
			_, _ = applyRestore(a.db, dir, func(string) {
				if n == at {
					panic(death{})
				}
				n++
			})
		}()
		steps = 4 // begin, kept, restored, end
		require.NoError(t, a.db.Close())
		a = newAppliance(t, dir)
		now := a.state(t)
		if now["users/u1"] != `{"name":"old"}` {
			require.Equal(t, changed, now, "step %d left neither the old nor the new", at)
		}
		if at == 2 { // restored, and not yet said so: what happens meanwhile must not be undone
			require.NoError(t, a.db.Put("users", "u3", "after"))
		}
		_, err = ApplyRestore(a.db, dir)
		require.NoError(t, err)
		now = a.state(t)
		require.JSONEq(t, `{"name":"old"}`, now["users/u1"])
		require.Equal(t, at == 2, now["users/u3"] != "")
		require.NoFileExists(t, filepath.Join(dir, pendingFile))
	}
}

func sealed(t testing.TB, text string) []byte {
	var b bytes.Buffer
	to, err := age.NewScryptRecipient(passphrase)
	require.NoError(t, err)
	to.SetWorkFactor(10)
	w, err := age.Encrypt(&b, to)
	require.NoError(t, err)
	_, err = w.Write([]byte(text))
	require.NoError(t, errors.Join(err, w.Close()))
	return b.Bytes()
}

func TestBadBackupsChangeNothing(t *testing.T) {
	a := newAppliance(t, t.TempDir())
	a.configure(t, "old")
	data := a.backup(t)
	made := func(change func(*content)) []byte {
		c, err := a.collect()
		require.NoError(t, err)
		change(&c)
		var b bytes.Buffer
		require.NoError(t, encrypt(c, api.NewSecret(passphrase), 10, &b))
		return b.Bytes()
	}
	flipped := bytes.Clone(data)
	flipped[len(flipped)-5] ^= 1
	heavy := bytes.Replace(data, []byte(" 10\n"), []byte(" 30\n"), 1)
	require.NotEqual(t, data, heavy)
	for name, c := range map[string]struct {
		order api.RestoreOrder
		code  api.Code
		field string
	}{
		"wrong passphrase": {api.RestoreOrder{Passphrase: api.NewSecret("some other words"), Data: data}, api.CodeInvalid, "passphrase"},
		"no passphrase":    {api.RestoreOrder{Data: data}, api.CodeInvalid, "passphrase"},
		"nothing":          {order(nil), api.CodeInvalid, "data"},
		"something else":   {order([]byte("PK\x03\x04 a zip file")), api.CodeInvalid, "data"},
		"cut off":          {order(data[:len(data)-20]), api.CodeInvalid, "data"},
		"cut off head":     {order(data[:60]), api.CodeInvalid, "data"},
		"changed":          {order(flipped), api.CodeInvalid, "data"},
		"takes all memory": {order(heavy), api.CodeInvalid, "data"},
		"not packed":       {order(sealed(t, "hello")), api.CodeInvalid, "data"},
		"newer format":     {order(made(func(c *content) { c.Format = 2 })), api.CodeConflict, "data"},
		"newer bucket":     {order(made(func(c *content) { c.Buckets["plans"] = map[string]json.RawMessage{} })), api.CodeConflict, "data"},
		"no format":        {order(made(func(c *content) { c.Format = 0 })), api.CodeInvalid, "data"},
		"bad group":        {order(made(func(c *content) { c.Buckets["groups"]["g1"] = json.RawMessage("5") })), api.CodeInvalid, "data"},
		"no key":           {order(made(func(c *content) { c.Buckets["users"][""] = json.RawMessage("5") })), api.CodeInvalid, "data"},
		"empty secret":     {order(made(func(c *content) { c.Secrets["x"] = "" })), api.CodeInvalid, "data"},
	} {
		t.Run(name, func(t *testing.T) {
			before := a.state(t)
			_, err := a.Restore(t.Context(), c.order)
			var e *api.Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, c.code, e.Code)
			require.Equal(t, c.field, e.Field)
			require.NotEmpty(t, e.Hint)
			require.NotContains(t, e.Message, "password of old")
			require.NoFileExists(t, filepath.Join(a.dir, pendingFile))
			require.Equal(t, before, a.state(t))
		})
	}
}

func TestDamagedPendingRestoreIsTold(t *testing.T) {
	a := newAppliance(t, t.TempDir())
	path := filepath.Join(a.dir, pendingFile)
	require.NoError(t, os.WriteFile(path, []byte("{"), 0o600))
	_, err := ApplyRestore(a.db, a.dir)
	require.ErrorContains(t, err, path)
}

// A secret that cannot be read does not keep the rest from being backed up.
func TestBackupWithoutTheKeyFile(t *testing.T) {
	a := newAppliance(t, t.TempDir())
	a.configure(t, "old")
	require.NoError(t, os.RemoveAll(filepath.Join(a.dir, "keys")))
	require.NoError(t, a.db.Close())
	a = newAppliance(t, a.dir)
	r, err := a.Restore(t.Context(), order(a.backup(t)))
	require.NoError(t, err)
	require.Zero(t, r.Secrets)
	require.Contains(t, fmt.Sprint(r.Warnings), "smtp")
}

func TestShortPassphraseIsRefused(t *testing.T) {
	a := newAppliance(t, t.TempDir())
	err := a.Backup(context.Background(), api.BackupOrder{Passphrase: api.NewSecret("short")}, &bytes.Buffer{})
	require.Equal(t, api.CodeInvalid, api.CodeOf(err))
}

// FuzzContent: whatever somebody encrypts with the right passphrase is refused in words, or can be applied.
func FuzzContent(f *testing.F) {
	f.Add(`{"format":1,"made":"2026-03-04T05:06:07Z","version":"1","appliance":"a","buckets":{"groups":{"g":{"name":"x"}}},"secrets":{"smtp":"x"}}`)
	f.Add(`{"format":1,"buckets":{"groups":{"g":null}},"secrets":null}`)
	f.Add(`{"format":9}`)
	f.Add(`{"format":1,"buckets":{"meta":{}}}`)
	f.Add(`[]`)
	f.Fuzz(func(t *testing.T, text string) {
		c, err := decode([]byte(text))
		if err == nil {
			a := newAppliance(t, t.TempDir())
			var p pending
			if p, err = a.prepare(c); err == nil {
				require.NoError(t, writePending(a.dir, p))
				done, err := ApplyRestore(a.db, a.dir)
				require.NoError(t, err)
				require.True(t, done)
				return
			}
		}
		var e *api.Error
		require.ErrorAs(t, err, &e)
		require.NotEmpty(t, e.Hint)
	})
}
