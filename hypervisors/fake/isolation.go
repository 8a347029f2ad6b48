package fake

import (
	"context"
	"fmt"

	"understudy/hypervisors"
)

func (c *conn) IsolatedNetwork(ctx context.Context, name string) error {
	return c.isolation(ctx, "make", name, func(n *network) error {
		switch {
		case name == "":
			return hypervisors.ErrInvalid
		case n == nil:
			c.hv.networks = append(c.hv.networks, &network{
				Network: hypervisors.Network{Name: name, Kind: "isolated", Isolated: true}, owner: c.owner,
			})
		case n.owner != c.owner:
			return hypervisors.ErrForeign
		}
		return nil
	})
}

func (c *conn) AssertIsolated(ctx context.Context, name string) error {
	return c.isolation(ctx, "check isolation of", name, func(n *network) error {
		switch {
		case n == nil:
			return hypervisors.ErrUnknownNetwork
		case !n.Isolated:
			return fmt.Errorf("has an uplink: %w", hypervisors.ErrNotIsolated)
		}
		for _, m := range c.hv.connected(name) {
			test := m.run != nil && m.run.id != hypervisors.LiveRun && m.replica.owner == c.owner
			if m.state != hypervisors.Off && !test {
				return fmt.Errorf("machine %s is connected: %w", m.hw.Name, hypervisors.ErrNotIsolated)
			}
		}
		return nil
	})
}

func (c *conn) RemoveNetwork(ctx context.Context, name string) error {
	return c.isolation(ctx, "remove", name, func(n *network) error {
		switch {
		case n == nil:
			return nil
		case n.owner != c.owner:
			return hypervisors.ErrForeign
		case len(c.hv.removeNetworks(func(other *network) bool { return other == n })) == 0:
			return fmt.Errorf("machine %s is connected: %w", c.hv.connected(name)[0].hw.Name, hypervisors.ErrInUse)
		}
		return nil
	})
}

func (c *conn) isolation(ctx context.Context, op, name string, do func(*network) error) error {
	if err := c.lock(ctx, op, "network "+name); err != nil {
		return err
	}
	defer c.hv.mu.Unlock()
	err := c.capable(c.hv.caps.Isolation, "isolated networks")
	if err == nil {
		err = do(c.hv.network(name))
	}
	if err != nil {
		return fail(op, "network "+name, err, "")
	}
	return nil
}

// connected lists the machines that have a NIC in the network, running or not.
func (hv *Hypervisor) connected(name string) (out []*machine) {
	for _, m := range hv.machines {
		for _, n := range m.hw.NICs {
			if n.Network == name {
				out = append(out, m)
				break
			}
		}
	}
	return out
}
