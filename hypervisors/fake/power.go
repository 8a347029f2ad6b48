package fake

import (
	"context"
	"fmt"

	"understudy/hypervisors"
)

func (c *conn) Start(ctx context.Context, vm string) error {
	return c.power(ctx, "start", vm, func(m *machine) error {
		m.turnOn()
		return nil
	})
}

func (c *conn) Stop(ctx context.Context, vm string) error {
	return c.power(ctx, "stop", vm, func(m *machine) error {
		if m.state != hypervisors.Off {
			m.stopped()
		}
		return nil
	})
}

func (c *conn) SetAutostart(ctx context.Context, vm string, on bool) error {
	return c.power(ctx, "set autostart of", vm, func(m *machine) error {
		m.autostart = on
		return nil
	})
}

// Shutdown asks the guest; how long that takes is the guest's affair, so the lock is not held meanwhile.
func (c *conn) Shutdown(ctx context.Context, vm string) error {
	var ask func(context.Context) error
	err := c.power(ctx, "shut down", vm, func(m *machine) error {
		if m.state != hypervisors.Off {
			ask = m.onShutdown
		}
		return nil
	})
	if err != nil {
		return err
	}
	if ask != nil {
		if err := ask(ctx); err != nil {
			return fail("shut down", "machine "+vm, fmt.Errorf("%w: %w", hypervisors.ErrTimeout, err),
				"shut the guest down from inside, or stop the machine")
		}
	}
	return c.Stop(ctx, vm)
}

func (c *conn) power(ctx context.Context, op, vm string, do func(*machine) error) error {
	if err := c.lock(ctx, op, "machine "+vm); err != nil {
		return err
	}
	defer c.hv.mu.Unlock()
	if err := c.capable(c.hv.caps.Power, "turning machines on and off"); err != nil {
		return fail(op, "machine "+vm, err, "")
	}
	m, err := c.machine(vm)
	if err == nil {
		err = do(m)
	}
	if err != nil {
		return fail(op, "machine "+vm, err, "")
	}
	return nil
}
