package store

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"understudy/api"
)

// FuzzStateFile changes bytes of a good file, with meta pages made to look right again, and cuts it off. The file is
// refused as damaged, or newer, and left as it was; or it opens, everything in it can be read, and it takes changes that
// are there after the next start. The process lives on in any case.
func FuzzStateFile(f *testing.F) {
	good := sample(f)
	page := uint16(os.Getpagesize() / 16)
	f.Add([]byte{}, uint16(0), false)
	f.Add([]byte{}, uint16(3), false)
	f.Add(patch(0, 16, 0), uint16(0), true)          // magic
	f.Add(patch(0, 32, 99), uint16(0), true)         // root bucket beyond the end
	f.Add(patch(page, 32, 2), uint16(0), true)       // root bucket is the list of free pages
	f.Add(patch(2*page, 8, 1), uint16(0), true)      // another kind of page
	f.Add(patch(2*page, 10, 255), uint16(0), false)  // more entries than there are
	f.Add(patch(3*page, 12, 255), uint16(0), false)  // overflow
	f.Add(patch(3*page+1, 8, 255), uint16(0), false) // position of a key
	f.Add(patch(4*page, 0, 7), uint16(0), false)     // id of a page
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, patches []byte, cut uint16, checksums bool) {
		path := filepath.Join(dir, fmt.Sprintf("%d.db", os.Getpid()))
		content := damage(good, patches, cut, checksums)
		require.NoError(t, os.WriteFile(path, content, 0o600))
		defer os.Remove(path)
		db, err := Open(path)
		if err != nil {
			require.True(t, errors.Is(err, ErrCorrupt) || errors.Is(err, ErrNewer), "%v", err)
			var e *api.Error
			require.ErrorAs(t, err, &e)
			require.NotEmpty(t, e.Hint)
			now, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, content, now, "the file was touched")
			return
		}
		before, err := readAll(db)
		if err != nil {
			require.NoError(t, db.Close())
			return // a value that is damaged within a page: whoever reads it is told
		}
		require.NoError(t, db.Put("things", "new", "value"))
		e, err := appendOne(db, api.Event{Kind: "group"})
		require.NoError(t, err)
		require.NoError(t, db.Close())

		db, err = Open(path)
		require.NoError(t, err, "the file was good when it was opened")
		defer db.Close()
		require.Equal(t, e.ID, db.LastEvent())
		after, err := readAll(db)
		require.NoError(t, err)
		require.Equal(t, json.RawMessage(`"value"`), after["new"])
		delete(after, "new")
		delete(before, "new")
		require.Equal(t, before, after)
	})
}

// patch is one change: in units of 16 bytes, a byte within, a value.
func patch(unit uint16, at, value byte) []byte {
	return append(binary.LittleEndian.AppendUint16(nil, unit+uint16(at/16)), at%16, value)
}

func damage(good, patches []byte, cut uint16, checksums bool) []byte {
	content := append([]byte(nil), good...)
	for ; len(patches) >= 4; patches = patches[4:] {
		at := (int(binary.LittleEndian.Uint16(patches))*16 + int(patches[2]%16)) % len(content)
		content[at] = patches[3]
	}
	if checksums {
		for _, page := range []int{0, os.Getpagesize()} {
			meta := content[page+16 : page+80] // behind the page's head; its last 8 bytes are the checksum
			sum := fnv.New64a()
			sum.Write(meta[:56])
			binary.LittleEndian.PutUint64(meta[56:], sum.Sum64())
		}
	}
	return content[:len(content)-min(int(cut)*64, len(content))]
}

// sample is a small file with what the appliance keeps: buckets of one page and of several, a long value, free pages.
func sample(t testing.TB) []byte {
	path := filepath.Join(t.TempDir(), "state.db")
	db, err := Open(path)
	require.NoError(t, err)
	for i := range 30 {
		require.NoError(t, db.Put("things", fmt.Sprintf("%04d", i), map[string]any{"n": i, "text": fmt.Sprintf("%0300d", i)}))
		_, err := appendOne(db, api.Event{Kind: "job", Action: "updated", Subject: fmt.Sprint(i)})
		require.NoError(t, err)
	}
	require.NoError(t, db.Put("groups", "long", fmt.Sprintf("%09000d", 1)))
	for i := range 10 {
		require.NoError(t, db.Delete("things", fmt.Sprintf("%04d", 2*i)))
	}
	require.NoError(t, db.Close())
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	return content
}

// readAll reads every value, and every event.
func readAll(db *DB) (map[string]json.RawMessage, error) {
	all := map[string]json.RawMessage{}
	var buckets []string
	err := db.bolt.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(name []byte, _ *bbolt.Bucket) error {
			if string(name) != eventsBucket {
				buckets = append(buckets, string(name))
			}
			return nil
		})
	})
	for _, bucket := range buckets {
		err = errors.Join(err, db.Each(bucket, func(key string, decode func(any) error) error {
			var v json.RawMessage
			err := decode(&v)
			all[key] = v
			return err
		}))
	}
	if err == nil {
		_, err = db.EventsAfter(0, 1000)
	}
	return all, err
}
