package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWalk(t *testing.T) {
	db := open(t, newPath(t))
	var want []string
	for i := range 2*walkAtOnce + 1 { // more than one part
		key := fmt.Sprintf("%04d", 2*i)
		want = append(want, key)
		require.NoError(t, db.Put("numbers", key, 2*i))
	}
	walk := func(from string, backwards bool) (keys []string) {
		t.Helper()
		require.NoError(t, db.Walk("numbers", from, backwards, func(key string, value []byte) error {
			var n int
			require.NoError(t, json.Unmarshal(value, &n))
			require.Equal(t, fmt.Sprintf("%04d", n), key)
			keys = append(keys, key)
			return nil
		}))
		return keys
	}
	reversed := slices.Clone(want)
	slices.Reverse(reversed)
	require.Equal(t, want, walk("", false))
	require.Equal(t, reversed, walk("", true))
	require.Equal(t, want[5:], walk("0010", false))
	require.Equal(t, want[5:], walk("0009", false))
	require.Equal(t, []string{"0010", "0008", "0006", "0004", "0002", "0000"}, walk("0010", true))
	require.Equal(t, []string{"0010", "0008", "0006", "0004", "0002", "0000"}, walk("0011", true))
	require.Equal(t, reversed, walk("9", true))
	require.Empty(t, walk("9", false))
	stop := errors.New("stop")
	require.ErrorIs(t, db.Walk("numbers", "", false, func(string, []byte) error { return stop }), stop)
	require.NoError(t, db.Walk("nothing", "", true, func(string, []byte) error { return stop }))
}
