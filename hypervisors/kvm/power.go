package kvm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"libvirt.org/go/libvirt"

	"understudy/hypervisors"
)

// Start runs a machine. One whose disks are just being read while it is off starts all the same: the reading gives way.
func (h *host) Start(ctx context.Context, vm string) error {
	err := h.power(ctx, vm, func(d *libvirt.Domain, def definition) error {
		if def.reader != nil {
			if err := h.endReader(ctx, vm, def.reader); err != nil {
				return err
			}
		}
		switch def.state {
		case hypervisors.Running:
			return nil
		case hypervisors.Paused:
			return virtError(d.Resume())
		}
		err := virtError(d.Create())
		if err != nil && isActive(d) {
			return nil // somebody else was faster
		}
		return err
	})
	return powerError("start", vm, err)
}

// askAgain is how long after a shutdown request the next one is sent: a guest that was still booting missed the first.
const askAgain = 15 * time.Second

// Shutdown presses the power button until the machine is off.
func (h *host) Shutdown(ctx context.Context, vm string) error {
	var asked time.Time
	for {
		off := false
		err := h.power(ctx, vm, func(d *libvirt.Domain, def definition) error {
			if off = def.state == hypervisors.Off; off || time.Since(asked) < askAgain {
				return nil
			}
			asked = time.Now()
			err := virtError(d.Shutdown())
			if virtCode(err) == libvirt.ERR_OPERATION_INVALID && !isActive(d) {
				return nil
			}
			return err
		})
		// A restart of libvirtd does not disturb the guest on its way down.
		if err != nil && (!errors.Is(err, hypervisors.ErrUnreachable) || errors.Is(err, net.ErrClosed)) || off {
			return powerError("shut down", vm, err)
		}
		if !pause(ctx, 200*time.Millisecond) {
			return &hypervisors.Error{Op: "shut down", Subject: "machine " + vm, Err: fmt.Errorf("%w: %w", hypervisors.ErrTimeout, ctx.Err()),
				Hint: "The guest does not react to the power button; stop the machine instead, or shut it down from inside."}
		}
	}
}

// Stop ends the machine's process.
func (h *host) Stop(ctx context.Context, vm string) error {
	err := h.power(ctx, vm, func(d *libvirt.Domain, def definition) error {
		if def.state == hypervisors.Off {
			return nil
		}
		err := virtError(d.Destroy())
		if err != nil && !isActive(d) {
			return nil
		}
		return err
	})
	return powerError("stop", vm, err)
}

// SetAutostart says whether libvirt starts the machine when it starts itself with its host.
func (h *host) SetAutostart(ctx context.Context, vm string, on bool) error {
	err := h.onDomain(ctx, vm, func(d *libvirt.Domain) error {
		if now, err := d.GetAutostart(); err != nil || now == on {
			return err
		}
		return d.SetAutostart(on)
	})
	return powerError("set autostart of", vm, err)
}

func (h *host) power(ctx context.Context, vm string, do func(*libvirt.Domain, definition) error) error {
	return h.onDomain(ctx, vm, func(d *libvirt.Domain) error {
		def, err := define(d)
		if err != nil {
			return err
		}
		return do(d, def)
	})
}

func powerError(op, vm string, err error) error {
	if err == nil {
		return nil
	}
	var said *hypervisors.Error
	if errors.As(err, &said) {
		return err
	}
	return &hypervisors.Error{Op: op, Subject: "machine " + vm, Err: err}
}

func isActive(d *libvirt.Domain) bool {
	active, err := d.IsActive()
	return err == nil && active
}

// onDomain does something with a machine, and once more when libvirtd turned out to have been restarted. It must be
// something that may be repeated.
func (h *host) onDomain(ctx context.Context, id string, do func(*libvirt.Domain) error) error {
	for again := true; ; again = false {
		d, err := h.domain(ctx, id)
		if err != nil {
			return err
		}
		err = do(d)
		d.Free()
		if err == nil || !again || !errors.Is(virtError(err), hypervisors.ErrUnreachable) {
			return virtError(err)
		}
	}
}

// insist is onDomain for cleaning up: while libvirtd is away it waits for its return, until ctx ends. Then it also gives
// up what libvirt does not answer, because QEMU hangs. By the time that the answer comes the next cycle may be at work,
// so do, which is not begun any more then, must look at ctx before each step that could disturb one.
func (h *host) insist(ctx context.Context, id string, do func(*libvirt.Domain) error) error {
	for {
		answer := make(chan error, 1)
		go func() {
			answer <- h.onDomain(ctx, id, func(d *libvirt.Domain) error {
				if err := ctx.Err(); err != nil {
					return err
				}
				return do(d)
			})
		}()
		var err error
		select {
		case err = <-answer:
		case <-ctx.Done():
			return fmt.Errorf("%w: libvirt does not answer: %w", hypervisors.ErrTimeout, ctx.Err())
		}
		if !errors.Is(err, hypervisors.ErrUnreachable) || errors.Is(err, net.ErrClosed) || !pause(ctx, 200*time.Millisecond) {
			return err
		}
	}
}

// pause waits, and says whether to go on.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
