package replication

import (
	"fmt"
	"io/fs"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/api"
)

// TestFullStateIsNamed: an order that cannot be written down is refused with what to do.
func TestFullStateIsNamed(t *testing.T) {
	err := asPublic(fmt.Errorf("submit of job: %w", &fs.PathError{Op: "write", Path: "state.db", Err: syscall.ENOSPC}))
	require.Equal(t, api.CodeNoSpace, err.Code)
	require.Contains(t, err.Hint, "where the appliance keeps its state")
}
