package replication

import (
	"context"
	"errors"
	"slices"

	"understudy/hypervisors"
)

// owed is a clean-up that failed, mostly because its host could not be reached then. Until it is done the host may
// refuse the next cycle, and production may pay for a checkpoint that nobody reads. It need not survive the appliance:
// a start cleans every host.
type owed struct {
	what string
	do   func(context.Context) error
}

// settle does a clean-up now, or else when the group's next cycle starts or Guard looks.
func (e *Engine) settle(ctx context.Context, group, what string, do func(context.Context) error) {
	err := do(ctx)
	if err == nil || errors.Is(err, hypervisors.ErrNotFound) {
		return
	}
	e.Log.Warn("clean-up is put off", "group", group, "what", what, "error", err)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.owed[group] = append(e.owed[group], owed{what, do})
}

// canPay says that clean-ups of a group were put off, and that its hosts are there.
func (e *Engine) canPay(g *group) bool {
	e.mu.Lock()
	due, home, away := len(e.owed[g.ID]) > 0, e.hosts[g.Home.Host], e.hosts[g.Away.Host]
	e.mu.Unlock()
	return due && home.connected() != nil && away.connected() != nil
}

// pay does what clean-ups of a group were put off. Each is about one checkpoint or draft that is given up, so it may
// run beside anything.
func (e *Engine) pay(ctx context.Context, group string) {
	e.mu.Lock()
	due := e.owed[group]
	delete(e.owed, group)
	e.mu.Unlock()
	for _, o := range due {
		e.settle(ctx, group, o.what, o.do)
	}
}

// payInTime is pay for those who must not wait for a host that hangs; false: it did.
func (e *Engine) payInTime(ctx context.Context, group string) bool {
	ctx, cancel := context.WithTimeout(ctx, undoTimeout)
	defer cancel()
	e.pay(ctx, group)
	return ctx.Err() == nil
}

// machine is one on a host: a replica may have the id of what it was made from.
type machine struct{ host, vm string }

// doubt remembers change ids of a machine of which at most one is needed.
func (e *Engine) doubt(m machine, ids ...hypervisors.ChangeID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.doubts[m] = append(e.doubts[m], ids...)
}

// forgetDoubted lets the source forget the change ids in doubt, now that the record says which are needed. Where the source
// cannot be reached the next cycle does it.
func (e *Engine) forgetDoubted(ctx context.Context, g group) {
	source, err := e.source(ctx, g.source().Host)
	if err != nil {
		return
	}
	for i := range g.Members {
		at := machine{g.source().Host, g.fromSeat(&g.Members[i]).VM}
		if ids := e.doubted(at, g.Members[i].ChangeID); len(ids) > 0 {
			e.settle(ctx, g.ID, "forget change ids", func(ctx context.Context) error { return source.Forget(ctx, at.vm, ids...) })
		}
	}
}

// doubted are the change ids of a machine that were in doubt, now that it is known which one is needed.
func (e *Engine) doubted(m machine, needed hypervisors.ChangeID) []hypervisors.ChangeID {
	e.mu.Lock()
	defer e.mu.Unlock()
	ids := e.doubts[m]
	delete(e.doubts, m)
	return slices.DeleteFunc(ids, func(id hypervisors.ChangeID) bool { return id == "" || id == needed })
}
