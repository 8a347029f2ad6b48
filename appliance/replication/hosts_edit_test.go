package replication_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/hypervisors"
	"understudy/hypervisors/hypervisortest"
)

// A host is tried before it is added: nothing is kept and nothing is left.
func TestTestHost(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	got, err := w.engine.TestHost(ctx, api.HostSpec{Name: "new", URI: "fake:third"})
	require.NoError(t, err)
	require.True(t, got.Reachable)
	require.Empty(t, got.Problem)
	require.True(t, got.Capabilities.Target)
	require.NotEmpty(t, got.Checks)
	for _, c := range got.Checks {
		require.NotEqual(t, "failed", c.Result, "%+v", c)
	}
	require.Empty(t, w.third.Leftovers())
	hosts, err := w.engine.ListHosts(ctx)
	require.NoError(t, err)
	require.Len(t, hosts, 2)
	require.Zero(t, w.connections("fake:third"), "no connection stays")

	got, err = w.engine.TestHost(ctx, api.HostSpec{Name: "new", URI: "fake:nowhere"})
	require.NoError(t, err)
	require.False(t, got.Reachable)
	require.Contains(t, got.Problem, "cannot be reached")
	require.NotEmpty(t, got.Hint)
	got, err = w.engine.TestHost(ctx, api.HostSpec{Name: "new", URI: "fake:home"})
	require.NoError(t, err)
	require.Equal(t, "home", got.Known)
	require.Contains(t, got.Problem, "known already")
	got, err = w.engine.TestHost(ctx, api.HostSpec{Name: "home", URI: "fake:third"})
	require.NoError(t, err)
	require.Contains(t, got.Problem, "already")
}

// A host gets another name and address while it is used: what is at work ends well, and what comes after takes the new
// way.
func TestUpdateHost(t *testing.T) {
	w := newWorld(t)
	vm := w.machine("web")
	w.protect(spec("shop", "web"))
	ctx := t.Context()
	home, err := w.engine.GetHost(ctx, "home")
	require.NoError(t, err)
	hold := w.holdAt("cycle", "copy")
	job, err := w.engine.SyncNow(ctx, "shop")
	require.NoError(t, err)
	release := hold()

	edit := home.HostSpec
	edit.Name, edit.URI, edit.MaxJobs = "london", "fake:home?again", 9
	edited, err := w.engine.UpdateHost(ctx, "home", home.Revision, edit)
	require.NoError(t, err)
	require.Equal(t, home.Revision+1, edited.Revision)
	require.Equal(t, edit, edited.HostSpec)
	require.Equal(t, home.ID, edited.ID)
	require.True(t, edited.Connected)
	require.Equal(t, 1, w.connections("fake:home"), "the cycle may use it")
	release()
	w.done(job, nil)
	w.engine.Guard(ctx)
	require.Zero(t, w.connections("fake:home"))
	require.Equal(t, 1, w.connections("fake:home?again"))
	w.write(w.home, vm, 3)
	w.done(w.engine.SyncNow(ctx, "shop"))

	_, err = w.engine.UpdateHost(ctx, "london", home.Revision, edit)
	w.refused(err, api.CodeStale, "changed meanwhile")
	for uri, code := range map[string]api.Code{"fake:nowhere": api.CodeHost, "fake:third": api.CodeConflict} {
		other := edit
		other.URI = uri
		_, err = w.engine.UpdateHost(ctx, "london", edited.Revision, other)
		w.refused(err, code)
		require.Zero(t, w.connections(uri))
	}
	taken := edit
	taken.Name = "away"
	_, err = w.engine.UpdateHost(ctx, "london", edited.Revision, taken)
	w.refused(err, api.CodeConflict, "away")
	_, err = w.engine.UpdateHost(ctx, "nowhere", 1, taken)
	w.refused(err, api.CodeNotFound)
	after, err := w.engine.GetHost(ctx, "london")
	require.NoError(t, err)
	require.Equal(t, edited, after, "what was refused changed nothing")

	w.restart()
	after, err = w.engine.GetHost(ctx, "london")
	require.NoError(t, err)
	require.Equal(t, edited, after)
	w.done(w.engine.SyncNow(ctx, "shop"))
	w.clean()
}

// Whoever waits for a connection while the host is edited gets the one that holds.
func TestUpdateHostBesideWork(t *testing.T) {
	w := newWorld(t)
	w.machine("web")
	w.protect(spec("shop", "web"))
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			w.engine.Guard(ctx)
			_, _ = w.engine.Inventory(ctx, "away")
			_, _ = w.engine.Plan(ctx, "shop", api.PlanOrder{Order: "test"})
		}
	}()
	for i := range 20 {
		away, err := w.engine.GetHost(ctx, "away")
		require.NoError(t, err)
		edit := away.HostSpec
		edit.URI, edit.MaxJobs = []string{"fake:away?again", "fake:away"}[i%2], i%4
		_, err = w.engine.UpdateHost(ctx, "away", away.Revision, edit)
		require.NoError(t, err)
		w.done(w.engine.SyncNow(ctx, "shop"))
	}
	stop()
	<-done
	w.engine.Guard(t.Context())
	require.Equal(t, 1, w.connections("fake:away")+w.connections("fake:away?again"))
}

// A probe leaves nothing, and says what kept it from being made.
func TestProbePaths(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	got, err := w.engine.ProbePaths(ctx, "home", api.ProbeOrder{})
	require.NoError(t, err)
	require.Equal(t, "home", got.Host)
	require.Len(t, got.Paths, 1)
	require.True(t, got.Paths[0].UsedToRead && got.Paths[0].UsedToWrite)
	require.Empty(t, w.home.Leftovers())
	_, err = w.engine.ProbePaths(ctx, "home", api.ProbeOrder{Storage: "moon"})
	w.refused(err, api.CodeInvalid)
	_, err = w.engine.ProbePaths(ctx, "nowhere", api.ProbeOrder{})
	w.refused(err, api.CodeNotFound)
	w.faults["home"].Queue("Prober.ProbePaths", hypervisortest.Before, hypervisortest.Fail(hypervisors.ErrUnreachable))
	_, err = w.engine.ProbePaths(ctx, "home", api.ProbeOrder{})
	w.refused(err, api.CodeHost)
}
