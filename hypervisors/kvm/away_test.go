package kvm

import (
	"bytes"
	"context"
	"io"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"libvirt.org/go/libvirt"

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
	for range 3 {
		require.ErrorIs(t, h.Forget(ctx, vm, old), hypervisors.ErrUnreachable)
	}
	h.virt = here
	require.Equal(t, []string{string(old)}, h.owed.byVM[vm], "an outage may be long")
	scratch := testLab.Source.Images + "/" + h.name(vm, "c0", "vda", "scratch")
	_, err := testLab.Source.Exec(ctx, "touch", scratch)
	require.NoError(t, err)
	m.cycle(t)
	require.Empty(t, m.lost)
	undisturbed(t, testLab.Source, map[string][]string{g.Name: {string(m.since)}})
	_, err = testLab.Source.Exec(ctx, "test", "!", "-e", scratch)
	require.NoError(t, err, "the scratch file of a checkpoint that was killed is still there")
}

// TestLateCleanUpDoesNothing: what was given up because libvirt did not answer must not be done when it answers at last,
// as the next cycle may be at work by then.
func TestLateCleanUpDoesNothing(t *testing.T) {
	g, vm := standingGuest(t)
	h := openHost(t, testLab.Source.URI)
	ended, cancel := context.WithCancel(testContext(t))
	virt, asked, answers := h.virt, make(chan struct{}), make(chan struct{})
	h.virt = newVirt(func(ctx context.Context) (string, error) {
		close(asked)
		<-answers
		return virt.socket(ctx)
	})
	t.Cleanup(h.virt.close)
	go func() {
		<-asked
		cancel()
	}()
	var late atomic.Bool
	err := h.insist(ended, vm, func(*libvirt.Domain) error {
		late.Store(true)
		return nil
	})
	require.ErrorIs(t, err, hypervisors.ErrTimeout)
	close(answers)
	waitFor(t, "the late answer has come", func() bool {
		stacks := make([]byte, 1<<20)
		return !bytes.Contains(stacks[:runtime.Stack(stacks, true)], []byte("kvm.(*host).insist"))
	})
	require.False(t, late.Load())

	// The same, when it was begun already.
	cp := newMirror(h, vm).take(t, false).(*checkpoint)
	plan := cp.plans[0]
	require.NoError(t, h.onDomain(testContext(t), vm, func(d *libvirt.Domain) error {
		require.ErrorIs(t, endJob(ended, d), context.Canceled)
		require.ErrorIs(t, h.endOwnJob(ended, d, plan), context.Canceled)
		return nil
	}))
	virsh(t, testLab.Source, "backup-dumpxml", g.Name)
	require.NoError(t, cp.Close(testContext(t)))
	_, err = h.virt.conn(ended)
	require.ErrorIs(t, err, context.Canceled)
}
