package store

import (
	"errors"
	"io/fs"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"understudy/api"
)

// A change that finds no room is refused with what to do, and the file goes on as it was.
func TestFullStorageIsNamed(t *testing.T) {
	db := open(t, newPath(t))
	require.NoError(t, db.Put("things", "a", 1))
	for _, errno := range []error{syscall.ENOSPC, syscall.EDQUOT} {
		err := db.queue.write(db.bolt, func(*bbolt.Tx) error { return &fs.PathError{Op: "write", Path: "state.db", Err: errno} })
		var e *api.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, api.CodeNoSpace, e.Code)
		require.Contains(t, e.Hint, "where the appliance keeps its state")
		require.True(t, errors.Is(err, errno))
	}
	require.NoError(t, db.Put("things", "b", 2))
}
