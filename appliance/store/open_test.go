package store

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"understudy/api"
)

func sum(t *testing.T, path string) [32]byte {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	return sha256.Sum256(data)
}

// requireRefused opens path and wants it refused with this error, a hint, and every byte where it was.
func requireRefused(t *testing.T, path string, want error) {
	t.Helper()
	before := sum(t, path)
	db, err := Open(path)
	if err == nil {
		_ = db.Close()
	}
	require.ErrorIs(t, err, want)
	require.Contains(t, err.Error(), path, "the message names the file")
	var e *api.Error
	require.ErrorAs(t, err, &e)
	require.NotEmpty(t, e.Hint)
	require.Equal(t, before, sum(t, path), "the file was touched")
	left, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, left, 1, "something was left beside the file")
}

func TestSecondDaemonIsRefused(t *testing.T) {
	path := newPath(t)
	db := open(t, path)
	require.NoError(t, db.Put("things", "a", 1))
	requireRefused(t, path, ErrLocked)
	require.NoError(t, db.Put("things", "b", 2), "the first one is not disturbed")
	require.NoError(t, db.Close())
	open(t, path)
}

func TestNewerFileIsRefused(t *testing.T) {
	path := newPath(t)
	require.NoError(t, open(t, path).Close())
	setFormat(t, path, len(migrations)+1)
	requireRefused(t, path, ErrNewer)
}

func setFormat(t *testing.T, path string, version int) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
		value, err := json.Marshal(version)
		require.NoError(t, err)
		return tx.Bucket([]byte(metaBucket)).Put(versionKey, value)
	}))
	require.NoError(t, db.Close())
}

// fill makes a database of many pages, with free ones among them.
func fill(t *testing.T, path string) {
	t.Helper()
	db := open(t, path)
	db.bolt.NoSync = true // speed only: no power is cut here
	for i := range 600 {
		require.NoError(t, db.Put("things", fmt.Sprintf("%04d", i), strings.Repeat("x", 300)))
	}
	for i := range 300 {
		require.NoError(t, db.Delete("things", fmt.Sprintf("%04d", i)))
	}
	require.NoError(t, db.Close())
}

func TestTruncatedFileIsRefused(t *testing.T) {
	whole := newPath(t)
	fill(t, whole)
	data, err := os.ReadFile(whole)
	require.NoError(t, err)
	var used int64 // bbolt lets its file grow in advance; only what lies below this can be missed
	db, err := bbolt.Open(whole, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.View(func(tx *bbolt.Tx) error { used = tx.Size(); return nil }))
	require.NoError(t, db.Close())

	page := int64(os.Getpagesize())
	sizes := []int64{0, 1, 100, page - 1, page, 2*page - 1, 2 * page, 3 * page, 4*page + 7, used / 2, used - page, used - 1}
	for _, size := range sizes {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			path := newPath(t)
			require.NoError(t, os.WriteFile(path, data[:size], 0o600))
			requireRefused(t, path, ErrCorrupt)
		})
	}
}

func TestGarbageIsRefused(t *testing.T) {
	path := newPath(t)
	require.NoError(t, os.WriteFile(path, []byte(strings.Repeat("this is no database\n", 5000)), 0o600))
	requireRefused(t, path, ErrCorrupt)
}

// Each page in turn is overwritten with noise. Where the page was in use the file is refused; where it was free, or a
// spare meta page, it opens. It never panics, and what opens holds everything.
func TestDamagedPages(t *testing.T) {
	whole := newPath(t)
	fill(t, whole)
	data, err := os.ReadFile(whole)
	require.NoError(t, err)
	random := rand.New(rand.NewPCG(1, 2))
	page := os.Getpagesize()
	refused := 0
	for at := 0; at+page <= len(data); at += page {
		damaged := append([]byte(nil), data...)
		for i := range page {
			damaged[at+i] = byte(random.Uint32())
		}
		path := newPath(t)
		require.NoError(t, os.WriteFile(path, damaged, 0o600))
		db, err := Open(path)
		if err != nil {
			require.ErrorIs(t, err, ErrCorrupt)
			refused++
			continue
		}
		n := 0
		require.NoError(t, db.Each("things", func(_ string, decode func(any) error) error {
			n++
			var s string
			return decode(&s)
		}))
		// The newest meta page gone means the state before the last change, which bbolt keeps whole.
		require.Contains(t, []int{300, 600}, n)
		require.NoError(t, db.Close())
	}
	require.Greater(t, refused, 10)
}

// A file from before formats were counted is brought up to date, its values stay, and a copy of it is put beside it.
func TestMigrationFromFormat0(t *testing.T) {
	path := newPath(t)
	makeFormat0(t, path)
	db := open(t, path)
	var got thing
	require.NoError(t, db.Get("things", "a", &got))
	require.Equal(t, thing{"kept", 7}, got)
	e, err := appendOne(db, api.Event{Kind: "group"})
	require.NoError(t, err)
	require.EqualValues(t, 1, e.ID)
	require.NoError(t, db.Close())

	copied := fmt.Sprintf("%s.before-format-%d", path, len(migrations))
	info, err := os.Stat(copied)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	old, err := bbolt.Open(copied, 0o600, &bbolt.Options{ReadOnly: true})
	require.NoError(t, err)
	require.NoError(t, old.View(func(tx *bbolt.Tx) error {
		require.Nil(t, tx.Bucket([]byte(metaBucket)), "the copy is the file as it was")
		require.NotNil(t, tx.Bucket([]byte("things")).Get([]byte("a")))
		return nil
	}))
	require.NoError(t, old.Close())
	require.NoError(t, os.Remove(copied))

	require.NoError(t, open(t, path).Close())
	require.NoFileExists(t, copied, "a current file needs no copy")
}

func makeFormat0(t *testing.T, path string) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket([]byte("things"))
		require.NoError(t, err)
		return b.Put([]byte("a"), []byte(`{"Name":"kept","N":7}`))
	}))
	require.NoError(t, db.Close())
}

func TestMigrationIsAllOrNothing(t *testing.T) {
	path := newPath(t)
	makeFormat0(t, path)
	db, err := bbolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	defer db.Close()
	broken := errors.New("broken")
	steps := []func(*bbolt.Tx) error{makeEvents, func(*bbolt.Tx) error { return broken }}
	require.ErrorIs(t, migrate(db, steps), broken)
	require.NoError(t, db.View(func(tx *bbolt.Tx) error {
		require.Nil(t, tx.Bucket([]byte(eventsBucket)))
		version, err := versionOf(tx)
		require.NoError(t, err)
		require.Zero(t, version)
		return nil
	}))

	var order []int
	count := func(n int) func(*bbolt.Tx) error {
		return func(*bbolt.Tx) error { order = append(order, n); return nil }
	}
	require.NoError(t, migrate(db, []func(*bbolt.Tx) error{count(1), count(2)}))
	require.NoError(t, migrate(db, []func(*bbolt.Tx) error{count(1), count(2), count(3)}))
	require.Equal(t, []int{1, 2, 3}, order, "each step once, in order")
}
