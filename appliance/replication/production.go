package replication

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"understudy/api"
	"understudy/hypervisors"
)

// What failover and failback do to the machines that are production: turn them off before anybody replaces them, make
// sure that they still are, and turn them on again, only when what replaced them is off. Never both.

// sourceOff makes sure that production is off before anybody replaces it. A planned failover shuts it down. An
// unplanned one expects it to be dead: when it lives, only an order that says so turns it off, and when nobody can tell
// (host gone), the group's state fences it once it is back.
func (e *Engine) sourceOff(ctx context.Context, t *task) error {
	if t.work.Planned {
		return e.shutdownSource(ctx, t)
	}
	host, err := e.host(ctx, t.group.source().Host)
	if err != nil {
		t.Log().Warn("source cannot be asked whether it is off", "group", t.group.Spec.Name, "error", err)
		return e.looked(t)
	}
	if err := e.keepOff(ctx, t, host, e.NoticeTime); err != nil {
		return err
	}
	if err := e.looked(t); err != nil {
		return err
	}
	return e.holdAllOff(ctx, t, host)
}

// looked notes that this life of the appliance knows of the source what can be known.
func (e *Engine) looked(t *task) error {
	t.work.Looked = e.started
	return t.Save(t.work)
}

// stillOff looks once more whether the source is off, just before others start in its place: since it was turned off
// somebody may have started it, or its host may have come back, and most of all when the appliance was down meanwhile.
// Only an unplanned failover, or a life that saw it off, goes on when it cannot be asked.
func (e *Engine) stillOff(ctx context.Context, t *task) error {
	patience := e.NoticeTime
	if t.work.Looked.Equal(e.started) {
		patience = 0 // source-off has waited
	}
	host, err := e.host(ctx, t.group.source().Host)
	if err == nil {
		return e.keepOff(ctx, t, host, patience)
	}
	return e.unasked(t, "", patience, err)
}

// unasked decides whether to go on although the source cannot be asked whether it is off.
func (e *Engine) unasked(t *task, machine string, patience time.Duration, err error) error {
	if !t.work.Planned || patience == 0 {
		t.Log().Warn("source cannot be asked whether it is off", "group", t.group.Spec.Name, "machine", machine, "error", err)
		return nil
	}
	return &api.Error{Code: api.CodeHost, Err: err,
		Message: fmt.Sprintf("nobody knows whether the machines are still off on %s: %v", e.hostName(t.group.source().Host), err),
		Hint:    "When that host is lost, order an unplanned failover."}
}

// turnsOff registers the way back before a source machine is turned off, because starting a machine that runs does nothing,
// and a death in between must not leave production off.
func (e *Engine) turnsOff(t *task, vm string) error {
	if err := t.Undo("source-on", vm); err != nil {
		return err
	}
	return e.stopped(t, vm, true)
}

// stopped notes of a source machine whether it is us who turn it off: rolling back turns it on again.
func (e *Engine) stopped(t *task, vm string, stopped bool) error {
	_, err := e.update(t.group.ID, func(g *group) error {
		for i := range g.Members {
			if m := &g.Members[i]; g.fromSeat(m).VM == vm {
				m.Stopped = stopped
			}
		}
		return nil
	})
	return err
}

// holdAllOff keeps the machines that are being replaced from starting with their host. A recovery does not wait for
// that: what fails here is tried again by whoever watches the group afterwards.
func (e *Engine) holdAllOff(ctx context.Context, t *task, host hypervisors.Host) error {
	if err := t.Undo("autostart", ""); err != nil {
		return err
	}
	t.group.watching.Lock()
	defer t.group.watching.Unlock()
	for i := range t.group.Members {
		vm, err := ask(ctx, host, t.group.fromSeat(&t.group.Members[i]).VM)
		if err == nil {
			err = e.holdOff(ctx, t.group.ID, i, host, vm)
		}
		if err != nil {
			t.Log().Warn("source may start with its host", "machine", t.group.Members[i].Name, "error", err)
		}
		if gone(err) { // nor does it answer for the others
			break
		}
	}
	return ctx.Err()
}

// keepOff makes sure that machines are off that must not run beside their replicas, and turns them off if the order
// allows it.
func (e *Engine) keepOff(ctx context.Context, t *task, host hypervisors.Host, patience time.Duration) error {
	force := t.work.Force && !t.work.Planned
	on := make([]bool, len(t.group.Members))
	looks, looking := errgroup.WithContext(ctx) // all at once: a look takes long only where nobody answers
	for i := range t.group.Members {
		m := &t.group.Members[i]
		looks.Go(func() (err error) {
			if on[i], err = e.stillOn(looking, host, t.group.fromSeat(m).VM, patience, force); err == nil {
				return nil
			}
			if on[i] = false; looking.Err() != nil {
				return looking.Err()
			}
			return e.unasked(t, m.Name, patience, err)
		})
	}
	if err := looks.Wait(); err != nil || !slices.Contains(on, true) {
		return cmp.Or(ctx.Err(), err)
	}
	for i, m := range t.group.Members {
		if on[i] && t.work.Planned {
			return api.Errorf(api.CodeConflict, "Find out who started it, then order again.",
				"machine %s was started again while it was being replaced; both must never run at once", m.Name)
		}
		if on[i] && !force {
			return api.Errorf(api.CodeConflict, "Order a planned failover, which loses nothing, or one with force, which turns the source off hard.",
				"machine %s still runs at the source; both must never run at once", m.Name)
		}
		if on[i] {
			if err := e.turnsOff(t, t.group.fromSeat(&m).VM); err != nil {
				return err
			}
		}
	}
	power, ok := host.(hypervisors.Power)
	if !ok {
		return fmt.Errorf("turn the source off: %w", hypervisors.ErrIncapable)
	}
	return e.together(ctx, t.group, t.group.source().Host, func(ctx context.Context, i int) error {
		if !on[i] {
			return nil
		}
		return power.Stop(ctx, t.group.fromSeat(&t.group.Members[i]).VM)
	})
}

// stillOn looks whether a machine is on, and looks again for a while unless it will be turned off anyway: a hypervisor
// takes a moment to notice that a machine has died. One that cannot be asked is asked again for as long: who takes a
// moment's trouble for the death of the host starts a second copy of what lives. With no patience there is one look.
func (e *Engine) stillOn(ctx context.Context, host hypervisors.Host, vm string, patience time.Duration, once bool) (bool, error) {
	enough := time.After(patience)
	again := time.NewTicker(e.NoticeTime/20 + 1)
	defer again.Stop()
	for {
		found, err := ask(ctx, host, vm)
		switch {
		case errors.Is(err, hypervisors.ErrNotFound):
			return false, nil
		case err == nil && (found.State == hypervisors.Off || once):
			return found.State != hypervisors.Off, nil
		case patience == 0:
			return err == nil, err
		}
		select {
		case <-enough:
			return err == nil, err
		case <-ctx.Done():
			return true, ctx.Err()
		case <-again.C:
		}
	}
}

// ask looks at a machine, on a host that may hang.
func ask(ctx context.Context, host hypervisors.Host, vm string) (hypervisors.VM, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	return host.VM(ctx, vm)
}

// shutdownSource shuts the running machines of the source side down, in the reverse of the order in which they start.
func (e *Engine) shutdownSource(ctx context.Context, t *task) error {
	g := t.group
	host, err := e.host(ctx, g.source().Host)
	if err != nil {
		return err
	}
	power, err := e.power(ctx, g.source().Host)
	if err != nil {
		return err
	}
	for _, i := range slices.Backward(g.order()) {
		from, _ := g.Members[i].seats(g.Reversed)
		vm, err := host.VM(ctx, from.VM)
		if err != nil {
			return err
		}
		if vm.State == hypervisors.Off {
			continue
		}
		if err := e.turnsOff(t, from.VM); err != nil {
			return err
		}
		if err := e.shutdown(ctx, power, from.VM); err != nil {
			return err
		}
	}
	if err := e.looked(t); err != nil {
		return err
	}
	return e.holdAllOff(ctx, t, host)
}

func (e *Engine) shutdown(ctx context.Context, power hypervisors.Power, vm string) error {
	ctx, cancel := context.WithTimeout(ctx, e.ShutdownTimeout)
	defer cancel()
	return power.Shutdown(ctx, vm)
}

// sourceOn is the undo of turning a source machine off.
func (e *Engine) sourceOn(ctx context.Context, t *task, vm string) error {
	for i := range t.group.Members {
		if m := &t.group.Members[i]; t.group.fromSeat(m).VM == vm {
			if err := e.replacementOff(ctx, t, m); err != nil {
				return err
			}
		}
	}
	if err := e.startSource(ctx, t, vm); err != nil {
		return err
	}
	return e.stopped(t, vm, false)
}

// sourceMayStart is the undo of keeping the source from starting with its host.
func (e *Engine) sourceMayStart(ctx context.Context, t *task, _ string) error {
	for i := range t.group.Members {
		if err := e.replacementOff(ctx, t, &t.group.Members[i]); err != nil {
			return err
		}
	}
	return e.letStart(ctx, t.group, t.group.source(), t.group.fromSeat)
}

// replacementOff makes sure, before production starts again, that what this job started in its place is off. Undos go on
// behind one that failed for good: that its host was away for a while must not make two of a machine.
func (e *Engine) replacementOff(ctx context.Context, t *task, m *member) error {
	if !slices.Contains(t.work.Live, m.Name) {
		return nil
	}
	power, err := e.power(ctx, t.group.target().Host)
	if err == nil {
		err = power.Stop(ctx, t.group.toSeat(m).VM)
	}
	if err == nil || errors.Is(err, hypervisors.ErrNotFound) {
		return nil
	}
	on, at := e.hostName(t.group.target().Host), e.hostName(t.group.source().Host)
	return &api.Error{Code: api.CodeHost, Err: err,
		Message: fmt.Sprintf("machine %s stays off on %s, because it may run on %s: %v", m.Name, at, on, err),
		Hint:    fmt.Sprintf("Turn it off on %s, then start it on %s.", on, at)}
}

// alive notes before they start that machines may run in place of production.
func (t *task) alive(members []int) error {
	for _, i := range members {
		if name := t.group.Members[i].Name; !slices.Contains(t.work.Live, name) {
			t.work.Live = append(t.work.Live, name)
		}
	}
	return t.Save(t.work)
}

// over notes that one of them is off again, for sure.
func (t *task) over(name string) error {
	t.work.Live = slices.DeleteFunc(t.work.Live, func(n string) bool { return n == name })
	return t.Save(t.work)
}

// startSources starts the machines of the source side that a failover turned off.
func (e *Engine) startSources(ctx context.Context, t *task) error {
	return e.together(ctx, t.group, t.group.source().Host, func(ctx context.Context, i int) error {
		if !t.group.Members[i].Stopped {
			return nil
		}
		from, _ := t.group.Members[i].seats(t.group.Reversed)
		return e.startSource(ctx, t, from.VM)
	})
}

func (e *Engine) startSource(ctx context.Context, t *task, vm string) error {
	power, err := e.power(ctx, t.group.source().Host)
	if err != nil {
		return err
	}
	return power.Start(ctx, vm)
}
