package store

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

type thing struct {
	Name string
	N    int
}

func open(t *testing.T, path string) *DB {
	t.Helper()
	db, err := Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func newPath(t *testing.T) string { return filepath.Join(t.TempDir(), "state.db") }

func TestValuesSurviveReopening(t *testing.T) {
	path := newPath(t)
	db := open(t, path)
	require.NoError(t, db.Put("things", "b", thing{"two", 2}))
	require.NoError(t, db.Put("things", "a", thing{"one", 0}))
	require.NoError(t, db.Put("things", "a", thing{"one", 1}))
	require.NoError(t, db.Put("things", "c", thing{"three", 3}))
	require.NoError(t, db.Delete("things", "c"))
	require.NoError(t, db.Delete("things", "never"))
	require.NoError(t, db.Delete("nowhere", "never"))
	require.NoError(t, db.Close())

	db = open(t, path)
	var got thing
	require.NoError(t, db.Get("things", "a", &got))
	require.Equal(t, thing{"one", 1}, got)
	require.ErrorIs(t, db.Get("things", "c", &got), ErrNotFound)
	require.ErrorIs(t, db.Get("nowhere", "c", &got), ErrNotFound)

	var keys []string
	require.NoError(t, db.Each("things", func(key string, decode func(any) error) error {
		keys = append(keys, key)
		var v thing
		require.NoError(t, decode(&v))
		require.Equal(t, len(keys), v.N)
		return db.Delete("things", key) // no transaction is held
	}))
	require.Equal(t, []string{"a", "b"}, keys)

	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	left, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, left, 1, "nothing but the database stays")
}

func TestEachStopsAtTheFirstError(t *testing.T) {
	db := open(t, newPath(t))
	require.NoError(t, db.Put("things", "a", 1))
	require.NoError(t, db.Put("things", "b", 2))
	enough := errors.New("enough")
	calls := 0
	err := db.Each("things", func(string, func(any) error) error { calls++; return enough })
	require.ErrorIs(t, err, enough)
	require.Equal(t, 1, calls)
}

func TestDrop(t *testing.T) {
	path := newPath(t)
	db := open(t, path)
	require.NoError(t, db.Put("old", "a", 1))
	require.NoError(t, db.Put("new", "a", 2))
	require.NoError(t, db.Drop("old"))
	require.NoError(t, db.Drop("old"), "none there is success")
	require.NoError(t, db.Close())
	db = open(t, path)
	defer db.Close()
	var v int
	require.ErrorIs(t, db.Get("old", "a", &v), ErrNotFound)
	require.NoError(t, db.Get("new", "a", &v))
	for _, bucket := range []string{metaBucket, eventsBucket, ""} {
		require.Error(t, db.Drop(bucket), bucket)
	}
}
