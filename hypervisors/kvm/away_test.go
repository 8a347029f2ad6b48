package kvm

import (
	"context"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/hypervisors"
)

// A host that is away when it should be cleaned up is cleaned up when it is back, without a restart of the appliance.

// awayPlace is the place of a host that cannot be reached.
type awayPlace struct{ place }

func (awayPlace) Run(context.Context, io.Reader, ...string) ([]byte, error) {
	return nil, hypervisors.ErrUnreachable
}

func TestDraftIsDiscardedWhileHostIsAway(t *testing.T) {
	w := newWorld(t)
	r := w.create()
	w.mustAdd(r, "p1")
	d, err := r.Draft(w.ctx, w.request("p2"))
	require.NoError(t, err)
	here := w.h.place
	w.h.place = awayPlace{here}
	require.ErrorIs(t, d.Discard(w.ctx), hypervisors.ErrUnreachable)
	w.h.place = here
	w.mustAdd(r, "p3")
	require.Equal(t, pointFiles("p1", "p3"), w.images(r))
	w.check(r)
}

// TestDiscardIsTriedAgain discards a draft once more when its host is back, as the engine does. What it removes then is
// its own: a draft that was opened meanwhile for the same point is left alone.
func TestDiscardIsTriedAgain(t *testing.T) {
	w := newWorld(t)
	r := w.create()
	w.mustAdd(r, "p1")
	here := w.h.place
	lose := func() hypervisors.Draft {
		d, err := r.Draft(w.ctx, w.request("p2"))
		require.NoError(t, err)
		w.h.place = awayPlace{here}
		for range 2 {
			require.ErrorIs(t, d.Discard(w.ctx), hypervisors.ErrUnreachable)
		}
		w.h.place = here
		require.Equal(t, pointFiles("p1", "p2"), w.images(r))
		return d
	}
	d := lose()
	for range 2 {
		require.NoError(t, d.Discard(w.ctx))
		require.Equal(t, pointFiles("p1"), w.images(r))
	}
	names, err := list(w.ctx, w.h.place, exportDir)
	require.NoError(t, err)
	require.Empty(t, names, "sockets of the draft's export")

	d = lose()
	next, err := r.Draft(w.ctx, w.request("p2"))
	require.NoError(t, err)
	require.NoError(t, d.Discard(w.ctx))
	now, err := w.scribble(next, w.want["p1"])
	require.NoError(t, err)
	require.NoError(t, next.Commit(w.ctx, describe(w.request("p2"))))
	w.want["p2"], w.ids = now, append(w.ids, "p2")
	require.NoError(t, d.Discard(w.ctx))
	w.check(r)
}

// TestCloseIsTriedAgain closes a checkpoint once more when its host is back: its job must not run on. The job of the next
// checkpoint looks the same, and is left alone.
func TestCloseIsTriedAgain(t *testing.T) {
	ctx := testContext(t)
	g, vm := standingGuest(t)
	h := openHost(t, testLab.Source.URI)
	m := newMirror(h, vm)
	virt, place := h.virt, h.place
	runs := func(file string) bool {
		_, err := testLab.Source.Virsh(ctx, "backup-dumpxml", g.Name)
		_, gone := testLab.Source.Exec(ctx, "test", "-e", file)
		require.Equal(t, err == nil, gone == nil, "job and scratch file go together")
		return err == nil
	}
	lose := func() (cp *checkpoint, scratch string) {
		cp = m.take(t, false).(*checkpoint)
		m.apply(t, cp)
		cp.stopReading(errRead) // nothing else looks at the host now
		h.virt = newVirt(func(context.Context) (string, error) { return "", errClosed })
		h.place = awayPlace{place}
		for range 2 {
			require.ErrorIs(t, cp.Close(ctx), hypervisors.ErrUnreachable)
		}
		h.virt, h.place = virt, place
		scratch = cp.plans[0].disks[0].scratch
		require.True(t, runs(scratch))
		return cp, scratch
	}
	cp, scratch := lose()
	require.True(t, h.locks.try(vm))
	require.ErrorIs(t, cp.Close(ctx), hypervisors.ErrBusy)
	require.True(t, runs(scratch))
	h.locks.release(vm)
	for range 2 {
		require.NoError(t, cp.Close(ctx))
		require.False(t, runs(scratch))
	}
	undisturbed(t, testLab.Source, map[string][]string{g.Name: {string(cp.ChangeIDs()[vm])}})

	cp, scratch = lose()
	next := m.take(t, false)
	require.ErrorIs(t, cp.Close(ctx), hypervisors.ErrBusy)
	m.apply(t, next)
	require.False(t, h.locks.try(vm), "a retry must not unlock the next checkpoint's machine")
	require.NoError(t, next.Close(ctx))
	require.NoError(t, cp.Close(ctx))
	require.False(t, runs(scratch))
}

func TestForgottenWhileHostIsAway(t *testing.T) {
	ctx := testContext(t)
	g, vm := standingGuest(t)
	h := openHost(t, testLab.Source.URI)
	m := newMirror(h, vm)
	m.cycle(t)
	old := m.since
	cp := m.take(t, false)
	m.apply(t, cp)
	require.NoError(t, cp.Close(ctx))
	here := h.virt
	h.virt = newVirt(func(context.Context) (string, error) { return "", hypervisors.ErrUnreachable })
	require.ErrorIs(t, h.Forget(ctx, vm, old), hypervisors.ErrUnreachable)
	h.virt = here
	scratch := testLab.Source.Images + "/" + h.name(vm, "c0", "vda", "scratch")
	_, err := testLab.Source.Exec(ctx, "touch", scratch)
	require.NoError(t, err)
	m.cycle(t)
	require.Empty(t, m.lost)
	undisturbed(t, testLab.Source, map[string][]string{g.Name: {string(m.since)}})
	_, err = testLab.Source.Exec(ctx, "test", "!", "-e", scratch)
	require.NoError(t, err, "the scratch file of a checkpoint that was killed is still there")
}
