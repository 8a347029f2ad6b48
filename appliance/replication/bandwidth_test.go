package replication_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/appliance/replication"
)

// The calendar bounds the copies, also the one that runs, outlives a restart, and is edited by one at a time.
func TestBandwidthCalendar(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	c, err := w.engine.Bandwidth(ctx)
	require.NoError(t, err)
	require.Empty(t, c.Rules)
	require.Equal(t, int64(0), replication.LineMbit(w.engine))

	// It is 3:04 UTC.
	edit := c
	edit.Mbit, edit.TimeZone = 7, "Europe/Berlin"
	edit.Rules = []api.BandwidthRule{{Window: api.Window{From: "04:00", To: "05:00"}, Mbit: 3}}
	edit, err = w.engine.SetBandwidth(ctx, c.Revision, edit)
	require.NoError(t, err)
	require.Equal(t, c.Revision+1, edit.Revision)
	require.Equal(t, int64(3), replication.LineMbit(w.engine), "at once")
	_, err = w.engine.SetBandwidth(ctx, c.Revision, c)
	w.refused(err, api.CodeStale, "changed meanwhile")
	bad := edit
	bad.Mbit = -1
	_, err = w.engine.SetBandwidth(ctx, edit.Revision, bad)
	w.refused(err, api.CodeInvalid, "bandwidth")

	w.pass(time.Hour)
	w.engine.Tick(ctx)
	require.Equal(t, int64(7), replication.LineMbit(w.engine))
	w.restart()
	require.Equal(t, int64(7), replication.LineMbit(w.engine))
	again, err := w.engine.Bandwidth(ctx)
	require.NoError(t, err)
	require.Equal(t, edit, again)
}

// A group has a window: the schedule starts nothing outside, a person does.
func TestWindows(t *testing.T) {
	w := newWorld(t)
	vm := w.machine("web")
	s := spec("shop", "web")
	s.Policy.Windows = []api.Window{{From: "06:00", To: "07:00"}} // it is 3:04
	g, err := w.engine.CreateGroup(t.Context(), s)
	require.NoError(t, err)
	require.Empty(t, g.Job)
	jobs := func() int {
		list, err := w.engine.ListJobs(t.Context(), api.JobQuery{Group: "shop"})
		require.NoError(t, err)
		return len(list.Items)
	}
	w.engine.Tick(t.Context())
	require.Zero(t, jobs())

	w.done(w.engine.SyncNow(t.Context(), "shop"))
	require.Equal(t, api.StateProtected, w.group("shop").State)
	w.pass(time.Hour)
	w.engine.Tick(t.Context())
	require.Equal(t, 1, jobs())

	w.pass(2 * time.Hour)
	w.write(w.home, vm, 1)
	w.engine.Tick(t.Context())
	w.settle("shop")
	require.Equal(t, 2, jobs())
	w.pass(time.Hour)
	w.engine.Tick(t.Context())
	require.Equal(t, 2, jobs())
}
