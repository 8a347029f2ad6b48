package kvm

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"libvirt.org/go/libvirt"

	"understudy/hypervisors"
)

// begin starts the backup jobs at one moment. When a machine turns out to have lost the tracking of a disk, all is
// undone and done again without it: guests are not held still while we find out.
func (cp *checkpoint) begin(ctx context.Context, req hypervisors.CheckpointRequest) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		failed, err := cp.moment(ctx, req)
		if err == nil {
			return nil
		}
		if failed == nil || !failed.distrust(err) {
			return err
		}
		cp.host.log.Info("change tracking lost; the disk will be compared in full", "vm", failed.name, "reason", err.Error())
		for _, p := range cp.plans {
			if err := cp.host.abandon(ctx, p); err != nil {
				return takeError(p.vm, err)
			}
		}
	}
}

// abandon takes back a job and its checkpoint, but keeps the plan ready for another try.
func (h *host) abandon(ctx context.Context, p *plan) error {
	files := []string{p.socket}
	for _, k := range p.disks {
		files = append(files, k.scratch)
	}
	if p.begun {
		err := h.onDomain(ctx, p.vm, func(d *libvirt.Domain) error {
			if err := endJob(ctx, d); err != nil || p.checkpoint == "" {
				return err
			}
			return h.deleteCheckpoint(d, p.checkpoint)
		})
		if err != nil {
			return err
		}
		p.begun = false
	}
	return removeAll(ctx, h.place, files...)
}

// moment freezes the file systems when that is asked for, suspends the guests when there are several, begins all jobs
// and lets go. On failure it names the plan that failed, when one did.
func (cp *checkpoint) moment(ctx context.Context, req hypervisors.CheckpointRequest) (failed *plan, err error) {
	h := cp.host
	hold := &hold{host: h}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupPatience)
		defer cancel()
		if rerr := hold.release(ctx); rerr != nil {
			err = errors.Join(err, rerr)
		}
	}()
	var running []*plan
	for _, p := range cp.plans {
		if p.live {
			running = append(running, p)
		}
	}
	quiet := req.Quiesce && hold.freeze(ctx, cp.plans)
	cp.taken = time.Now()
	if len(running) > 1 {
		if err := hold.suspend(ctx, running, req.PauseBudget); err != nil {
			return nil, err
		}
	}
	var mu sync.Mutex
	err = together(cp.plans, func(p *plan) error {
		err := h.beginJob(ctx, p)
		if err != nil {
			mu.Lock()
			defer mu.Unlock()
			// The one whose tracking is at fault matters most, as that can be helped.
			if failed == nil || isTrackingError(err) {
				failed = p
			}
		}
		return err
	})
	if err != nil {
		return failed, takeError(failed.vm, err)
	}
	late, thawed := hold.overdue()
	if late {
		return nil, &hypervisors.Error{Op: "take checkpoint of", Subject: fmt.Sprintf("%d machines at one moment", len(running)),
			Err:  fmt.Errorf("%w: it took longer than %v", hypervisors.ErrGaveWay, req.PauseBudget),
			Hint: "Put fewer machines into the group, or allow a longer pause."}
	}
	cp.consistency = hypervisors.CrashConsistent
	if quiet && !thawed {
		cp.consistency = hypervisors.ApplicationConsistent
	}
	return nil, nil
}

// beginJob starts the pull backup of one machine.
func (h *host) beginJob(ctx context.Context, p *plan) error {
	backup, err := p.backupXML()
	if err != nil {
		return err
	}
	check, err := p.checkpointXML()
	if err != nil {
		return err
	}
	d, err := h.domain(ctx, p.vm)
	if err != nil {
		return err
	}
	defer d.Free()
	// Marked before: when the answer is lost the job may run all the same.
	p.begun = true
	if err = virtError(d.BackupBegin(backup, check, 0)); err == nil {
		return nil
	}
	p.begun = errors.Is(err, hypervisors.ErrUnreachable) || errors.Is(err, hypervisors.ErrBusy)
	if text := err.Error(); strings.Contains(text, "blockjob") || strings.Contains(text, "block job") {
		return busy(text)
	}
	return err
}

var (
	diskInError = regexp.MustCompile(`(?:for|of) disk '([^']+)'`)
	badBitmap   = regexp.MustCompile(`[Bb]itmap .*(inconsistent|not found|cannot be used|broken)`)
)

func isTrackingError(err error) bool {
	switch virtCode(err) {
	case libvirt.ERR_CHECKPOINT_INCONSISTENT, libvirt.ERR_NO_DOMAIN_CHECKPOINT:
		return true
	}
	return badBitmap.MatchString(err.Error())
}

// distrust gives up the tracking of the disk that an error is about, or of all when it names none. It says whether
// there was anything to give up.
func (p *plan) distrust(err error) bool {
	if !isTrackingError(err) {
		return false
	}
	named := ""
	if m := diskInError.FindStringSubmatch(err.Error()); m != nil {
		named = m[1]
	}
	given := false
	for _, only := range []bool{true, false} {
		for _, k := range p.disks {
			if k.since != "" && (!only || k.name == named) {
				k.since, given = "", true
			}
		}
		if given {
			break
		}
	}
	return given
}

// hold is what keeps guests still for a moment. It lets go by itself when the moment takes too long.
type hold struct {
	host *host

	mu        sync.Mutex
	frozen    []*plan
	suspended []*plan
	timers    []*time.Timer
	// late and thawed say that a timer let go before the jobs had begun.
	late, thawed bool
}

// freezeBudget is how long file systems stay frozen at most; databases and Windows itself take ten seconds badly.
const freezeBudget = 8 * time.Second

// freeze asks the guest agents of all machines to freeze the file systems. It says whether all did; those of machines
// that are off are quiet anyway.
func (o *hold) freeze(ctx context.Context, plans []*plan) bool {
	all := true
	for _, p := range plans {
		if p.reader {
			continue
		}
		if err := o.freezeOne(ctx, p); err != nil {
			o.host.log.Warn("guest cannot be quiesced; the point will be crash-consistent", "vm", p.name, "reason", err.Error())
			all = false
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.frozen) > 0 {
		o.timers = append(o.timers, time.AfterFunc(freezeBudget, func() {
			o.mu.Lock()
			o.thawed = true
			o.mu.Unlock()
			ctx, cancel := context.WithTimeout(context.Background(), cleanupPatience)
			defer cancel()
			if err := o.letGo(ctx); err != nil {
				o.host.log.Error("guests may be frozen still", "reason", err.Error())
			}
		}))
	}
	return all
}

func (o *hold) freezeOne(ctx context.Context, p *plan) error {
	if !p.agent {
		return errors.New("no guest agent is connected")
	}
	if !p.live {
		return errors.New("the machine is paused")
	}
	d, err := o.host.domain(ctx, p.vm)
	if err != nil {
		return err
	}
	defer d.Free()
	// libvirt would wait for a silent agent without end.
	if _, err := d.QemuAgentCommand(`{"execute":"guest-ping"}`, 5, 0); err != nil {
		return virtError(err)
	}
	if err := o.host.markHeld(ctx, p.vm); err != nil {
		return err
	}
	o.mu.Lock()
	o.frozen = append(o.frozen, p)
	o.mu.Unlock()
	answer := make(chan error, 1)
	go func() { answer <- o.host.onDomain(context.WithoutCancel(ctx), p.vm, fsFreeze) }()
	select {
	case err := <-answer:
		return err
	case <-time.After(freezeBudget):
		// It may still succeed; the thaw that follows waits behind it for the agent.
		return fmt.Errorf("%w: the guest agent does not answer", hypervisors.ErrTimeout)
	}
}

func fsFreeze(d *libvirt.Domain) error { return d.FSFreeze(nil, 0) }

// suspend holds the guests still for at most budget.
func (o *hold) suspend(ctx context.Context, plans []*plan, budget time.Duration) error {
	for _, p := range plans {
		if err := o.host.markHeld(ctx, p.vm); err != nil {
			return err
		}
	}
	o.mu.Lock()
	o.suspended = plans
	o.timers = append(o.timers, time.AfterFunc(budget, func() {
		o.mu.Lock()
		o.late = true
		o.mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), cleanupPatience)
		defer cancel()
		if err := o.letGo(ctx); err != nil {
			o.host.log.Error("guests may be suspended still", "reason", err.Error())
		}
	}))
	o.mu.Unlock()
	return together(plans, func(p *plan) error {
		err := o.host.onDomain(ctx, p.vm, func(d *libvirt.Domain) error { return d.Suspend() })
		if err != nil {
			return takeError(p.vm, err)
		}
		return nil
	})
}

// overdue ends the timers and says which of them had come first.
func (o *hold) overdue() (late, thawed bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.stopTimers()
	return o.late, o.thawed
}

func (o *hold) stopTimers() {
	for _, t := range o.timers {
		t.Stop()
	}
	o.timers = nil
}

// release lets the guests go on, for good.
func (o *hold) release(ctx context.Context) error {
	o.mu.Lock()
	o.stopTimers()
	held := append(append([]*plan(nil), o.suspended...), o.frozen...)
	o.mu.Unlock()
	err := o.letGo(ctx)
	for _, p := range held {
		if err == nil {
			err = o.host.unmarkHeld(ctx, p.vm)
		}
	}
	return err
}

// letGo resumes and thaws whatever is held, all at once, and is done again by release in case of failure.
func (o *hold) letGo(ctx context.Context) error {
	o.mu.Lock()
	suspended, frozen := o.suspended, o.frozen
	o.mu.Unlock()
	err := together(suspended, func(p *plan) error { return o.host.resume(ctx, p.vm) })
	return errors.Join(err, together(frozen, func(p *plan) error { return o.host.thaw(ctx, p.vm) }))
}

// resume lets a guest that we suspended run on. One that runs, or is gone, is fine.
func (h *host) resume(ctx context.Context, vm string) error {
	return ignoreGone(h.insist(ctx, vm, func(d *libvirt.Domain) error {
		state, _, err := d.GetState()
		if err != nil || state != libvirt.DOMAIN_PAUSED {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err // it may be held for another moment by now
		}
		return d.Resume()
	}))
}

// thaw lets a guest's file systems go. An agent that went away with its guest is fine, and so is one that was not
// frozen. One that is still busy with the freeze is waited for.
func (h *host) thaw(ctx context.Context, vm string) error {
	for {
		err := ignoreGone(h.insist(ctx, vm, func(d *libvirt.Domain) error { return d.FSThaw(nil, 0) }))
		switch code := virtCode(err); {
		case code == libvirt.ERR_OPERATION_INVALID, code == libvirt.ERR_AGENT_UNRESPONSIVE:
			return nil
		case !errors.Is(err, hypervisors.ErrBusy) || !pause(ctx, 200*time.Millisecond):
			return err
		}
	}
}
