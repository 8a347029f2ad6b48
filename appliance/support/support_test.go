package support_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/appliance/store"
	"understudy/appliance/support"
	"understudy/appliance/vault"
)

func TestReadyTellsWhatDoesNotWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // its clock: nobody waits for the part that hangs
		good := support.Check{Name: "good", Look: func(context.Context) error { return nil }}
		require.Equal(t, api.Readiness{Ready: true, Reasons: []string{}},
			support.New(support.Options{Checks: []support.Check{good, good}}).Ready(t.Context()))
		r := support.New(support.Options{Checks: []support.Check{
			good,
			{Name: "broken", Look: func(context.Context) error { return errors.New("no disk") }},
			{Name: "hung", Look: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }},
		}}).Ready(t.Context())
		require.False(t, r.Ready)
		require.Equal(t, []string{"broken: no disk", "hung: it does not answer"}, r.Reasons)
	})
}

func TestRotateKey(t *testing.T) {
	dir := t.TempDir()
	db, err := store.Open(filepath.Join(dir, "state.db"))
	require.NoError(t, err)
	defer db.Close()
	v, err := vault.Open(filepath.Join(dir, "keys", "secret.key"), db)
	require.NoError(t, err)
	require.NoError(t, v.Put("smtp", api.NewSecret("hunter2")))
	s := support.New(support.Options{Vault: v})
	status, err := s.RotateKey(t.Context())
	require.NoError(t, err)
	require.Equal(t, api.SecretsStatus{Secrets: 1, Unreadable: []string{}}, status)
	got, err := v.Get("smtp")
	require.NoError(t, err)
	require.Equal(t, "hunter2", got.Reveal())
	require.NoError(t, db.Answers(t.Context()))
}
