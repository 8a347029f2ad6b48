package replication_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/appliance/replication"
)

const hostPassword = "hunter2-Passw0rd!"

// signedIn is a world with a host that wants a password.
func signedIn(t *testing.T) (*world, api.Host) {
	w := newWorld(t)
	w.passwords = map[string]string{"root": hostPassword, "ada": "another-Passw0rd!"}
	h, err := w.engine.AddHost(t.Context(), api.HostSpec{Name: "third", URI: "fake:third", User: "root", Password: api.NewSecret(hostPassword)})
	require.NoError(t, err)
	return w, h
}

// last is what the driver was given last for the third host.
func (w *world) last() (last replication.Login) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, to := range w.logins {
		if strings.HasPrefix(to.URI, "fake:third") {
			last = to
		}
	}
	return last
}

// atField checks that a refusal is told at the field.
func (w *world) atField(err error, field, word string) {
	w.t.Helper()
	var e *api.Error
	require.ErrorAs(w.t, err, &e)
	require.Equal(w.t, field, e.Field, "%v", err)
	require.Contains(w.t, e.Message, word)
	require.NotEmpty(w.t, e.Hint)
	require.NotContains(w.t, e.Message+e.Hint, "Passw0rd")
}

// hostState is everything that the state keeps of hosts and secrets.
func (w *world) hostState() string {
	w.t.Helper()
	var all strings.Builder
	for _, bucket := range []string{"hosts", "secrets"} {
		require.NoError(w.t, w.db.Each(bucket, func(key string, decode func(any) error) error {
			var value json.RawMessage
			err := decode(&value)
			all.WriteString(bucket + " " + key + " " + string(value) + "\n")
			return err
		}))
	}
	return all.String()
}

// A password is kept apart from the host and shown nowhere; the engine signs in with it again after a restart, an edit of
// something else, and a new key; it goes with its host.
func TestPasswordIsKept(t *testing.T) {
	w, h := signedIn(t)
	ctx := t.Context()
	shown, err := json.Marshal(h)
	require.NoError(t, err)
	require.NotContains(t, string(shown), "password")
	require.Equal(t, "root", h.User)
	require.NotContains(t, w.hostState(), "Passw0rd")

	h, err = w.engine.UpdateHost(ctx, h.ID, h.Revision, api.HostSpec{Name: "cellar", URI: "fake:third", User: "root", MaxJobs: 2})
	require.NoError(t, err)
	require.NoError(t, w.vault.Rotate())
	for range 2 {
		w.restart()
		h, err = w.engine.GetHost(ctx, "cellar")
		require.NoError(t, err)
		require.True(t, h.Connected, h.Problem)
	}
	got, err := w.engine.TestHost(ctx, h.HostSpec)
	require.NoError(t, err)
	require.True(t, got.Reachable, got.Problem)
	require.Equal(t, hostPassword, w.last().Password.Reveal())

	h, err = w.engine.UpdateHost(ctx, h.ID, h.Revision, api.HostSpec{Name: "cellar", URI: "fake:third", User: "ada", Password: api.NewSecret("another-Passw0rd!")})
	require.NoError(t, err)
	require.Len(t, w.vault.Names(), 1, "the one before is forgotten")
	h, err = w.engine.UpdateHost(ctx, h.ID, h.Revision, api.HostSpec{Name: "cellar", URI: "fake:third"})
	require.NoError(t, err)
	require.Empty(t, w.vault.Names(), "nobody signs in any more")
	_, err = w.engine.UpdateHost(ctx, h.ID, h.Revision, api.HostSpec{Name: "cellar", URI: "fake:third", User: "ada"})
	w.atField(err, "password", "missing")
	_, err = w.engine.UpdateHost(ctx, h.ID, h.Revision, api.HostSpec{Name: "cellar", URI: "fake:third", User: "root", Password: api.NewSecret(hostPassword)})
	require.NoError(t, err)
	require.NoError(t, w.engine.RemoveHost(ctx, "cellar"))
	require.Empty(t, w.vault.Names())
}

// A password is for one address and one user. Whoever changes either has to know it: nothing is connected before.
func TestPasswordGoesNowhereElse(t *testing.T) {
	w, h := signedIn(t)
	ctx := t.Context()
	tried := len(w.logins)
	for _, change := range []func(*api.HostSpec){
		func(s *api.HostSpec) { s.URI = "fake:third?elsewhere" },
		func(s *api.HostSpec) { s.User = "ada" },
		func(s *api.HostSpec) { s.URI, s.User = "fake:away", "ada" },
	} {
		spec := h.HostSpec
		change(&spec)
		_, err := w.engine.UpdateHost(ctx, h.ID, h.Revision, spec)
		w.atField(err, "password", "for another address or user")
		_, err = w.engine.TestHost(ctx, spec)
		w.atField(err, "password", "for another address or user")
		spec.Name = "new"
		_, err = w.engine.TestHost(ctx, spec)
		w.atField(err, "password", "missing")
	}
	same := h.HostSpec
	same.Name = "new"
	_, err := w.engine.TestHost(ctx, same)
	w.atField(err, "password", "missing")
	_, err = w.engine.AddHost(ctx, same)
	w.atField(err, "password", "missing")
	same.User, same.Password = "", api.NewSecret(hostPassword)
	_, err = w.engine.AddHost(ctx, same)
	w.atField(err, "user", "without a user")
	require.Len(t, w.logins, tried, "nothing was connected")

	moved := h.HostSpec
	moved.URI, moved.Password = "fake:third?elsewhere", api.NewSecret(hostPassword)
	h, err = w.engine.UpdateHost(ctx, h.ID, h.Revision, moved)
	require.NoError(t, err)
	require.True(t, h.Connected)
	wrong := h.HostSpec
	wrong.Password = api.NewSecret("guessed-Passw0rd!")
	_, err = w.engine.UpdateHost(ctx, h.ID, h.Revision, wrong)
	w.atField(err, "user", "refused the credentials")
	w.restart()
	again, err := w.engine.GetHost(ctx, h.ID)
	require.NoError(t, err)
	require.Equal(t, h, again, "what was refused changed nothing")
}

// The appliance dies, or its state is full, between a password and the record of its host: the one that is kept stays
// with the address that it is for, and nothing stays behind.
func TestDeathBetweenPasswordAndRecord(t *testing.T) {
	for _, dies := range []bool{false, true} {
		t.Run(fmt.Sprintf("dies %v", dies), func(t *testing.T) {
			w, h := signedIn(t)
			ctx := t.Context()
			fails := func(bucket string) error {
				if bucket != "hosts" {
					return nil
				}
				w.dead.Store(dies)
				return errors.New("no room")
			}
			edit := h.HostSpec
			edit.URI, edit.User, edit.Password = "fake:third?elsewhere", "ada", api.NewSecret("another-Passw0rd!")
			w.before = fails
			_, err := w.engine.UpdateHost(ctx, h.ID, h.Revision, edit)
			require.ErrorContains(t, err, "no room")
			w.before = nil
			if !dies {
				require.Len(t, w.vault.Names(), 1, "at once, where nothing died")
			}
			w.restart()
			require.Len(t, w.vault.Names(), 1)
			require.Equal(t, "fake:third", w.last().URI)
			require.Equal(t, "root", w.last().User)
			require.Equal(t, hostPassword, w.last().Password.Reveal())

			require.NoError(t, w.engine.RemoveHost(ctx, h.ID))
			w.before = fails
			_, err = w.engine.AddHost(ctx, edit)
			require.ErrorContains(t, err, "no room")
			w.before = nil
			w.restart()
			require.Empty(t, w.vault.Names())
		})
	}
}

// A state without the key of its secrets: the host says what is missing, everything else works, and the password that is
// entered again, or the key that is put back, helps.
func TestPasswordWithoutItsKey(t *testing.T) {
	w, _ := signedIn(t)
	ctx := t.Context()
	w.stop()
	require.NoError(t, os.Rename(w.keyFile(), w.keyFile()+".away"))
	w.start()
	h, err := w.engine.GetHost(ctx, "third")
	require.NoError(t, err)
	require.False(t, h.Connected)
	require.Contains(t, h.Problem, "the password of host third is missing: enter it again, or put the key file")
	_, err = w.engine.Inventory(ctx, "third")
	w.atField(err, "password", "is missing")
	_, err = w.engine.TestHost(ctx, h.HostSpec)
	w.atField(err, "password", "is missing")
	h, err = w.engine.UpdateHost(ctx, h.ID, h.Revision, api.HostSpec{Name: "cellar", URI: h.URI, User: "root"})
	require.NoError(t, err, "what needs no password can be changed")

	require.NoError(t, os.Rename(w.keyFile()+".away", w.keyFile()))
	_, err = w.engine.Inventory(ctx, "cellar")
	require.NoError(t, err)
	w.stop()
	require.NoError(t, os.Remove(w.keyFile()))
	w.start()
	h, err = w.engine.GetHost(ctx, "cellar")
	require.NoError(t, err)
	require.False(t, h.Connected)
	edit := h.HostSpec
	edit.Password = api.NewSecret(hostPassword)
	h, err = w.engine.UpdateHost(ctx, h.ID, h.Revision, edit)
	require.NoError(t, err)
	require.True(t, h.Connected, h.Problem)
	w.restart()
	h, err = w.engine.GetHost(ctx, "cellar")
	require.NoError(t, err)
	require.True(t, h.Connected, h.Problem)
}

// What the driver table refuses is told at its field, when a host is added, tried and edited.
func TestFieldsThatADriverRefuses(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	no := api.Errorf(api.CodeInvalid, "Leave it empty.", "takes no user")
	no.Field = "user"
	w.refuses = errors.Join(no)
	spec := api.HostSpec{Name: "x", URI: "fake:third", User: "root", Password: api.NewSecret(hostPassword)}
	_, err := w.engine.AddHost(ctx, spec)
	w.atField(err, "user", "takes no user")
	_, err = w.engine.TestHost(ctx, spec)
	w.atField(err, "user", "takes no user")
	home, err := w.engine.GetHost(ctx, "home")
	require.NoError(t, err)
	spec.Name, spec.URI = "home", "fake:home"
	_, err = w.engine.UpdateHost(ctx, home.ID, home.Revision, spec)
	w.atField(err, "user", "takes no user")
	require.Empty(t, w.vault.Names())
	w.refuses = nil
}
