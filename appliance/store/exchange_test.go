package store

import (
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestExchange(t *testing.T) {
	path := newPath(t)
	db := open(t, path)
	for _, bucket := range []string{"groups", "jobs", "audit"} {
		require.NoError(t, db.Put(bucket, "old", "value"))
	}
	names, err := db.Buckets()
	require.NoError(t, err)
	require.Equal(t, []string{"audit", "groups", "jobs"}, names)
	id, err := db.Exchanged()
	require.NoError(t, err)
	require.Empty(t, id)
	aside := filepath.Join(t.TempDir(), "aside")
	require.NoError(t, db.CopyTo(aside))

	raw := func(s string) json.RawMessage { return json.RawMessage(s) }
	// What would fail in the middle is refused before.
	require.Error(t, db.Exchange("bad", map[string]map[string]json.RawMessage{"groups": {"a": raw("{")}}, []string{"jobs"}))
	require.Error(t, db.Exchange("bad", map[string]map[string]json.RawMessage{"groups": {"": raw("1")}}, []string{"jobs"}))
	require.Error(t, db.Exchange("bad", nil, []string{"events"}))
	var got string
	require.NoError(t, db.Get("jobs", "old", &got))

	require.NoError(t, db.Exchange("one", map[string]map[string]json.RawMessage{"groups": {"new": raw(`"here"`)}, "users": {}}, []string{"jobs", "never"}))
	require.NoError(t, db.Close())
	db = open(t, path)
	require.ErrorIs(t, db.Get("groups", "old", &got), ErrNotFound)
	require.ErrorIs(t, db.Get("jobs", "old", &got), ErrNotFound)
	require.NoError(t, db.Get("audit", "old", &got))
	require.NoError(t, db.Get("groups", "new", &got))
	require.Equal(t, "here", got)
	id, err = db.Exchanged()
	require.NoError(t, err)
	require.Equal(t, "one", id)

	require.NoError(t, db.CopyTo(aside), "the first copy stays")
	old := open(t, aside)
	require.NoError(t, old.Get("groups", "old", &got))
}
