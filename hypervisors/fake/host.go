package fake

import (
	"context"
	"maps"
	"slices"

	"github.com/google/uuid"

	"understudy/hypervisors"
)

func (c *conn) Info(ctx context.Context) (hypervisors.Info, error) {
	if err := c.lock(ctx, "ask", "host"); err != nil {
		return hypervisors.Info{}, err
	}
	defer c.hv.mu.Unlock()
	return hypervisors.Info{
		Identity: uuid.NewSHA1(uuid.NameSpaceOID, []byte(c.hv.name)).String(),
		Product:  "Understudy fake",
		Version:  "1",
		Hostname: c.hv.name,
		CPUs:     16,
		Memory:   64 << 30,
	}, nil
}

func (c *conn) Capabilities() hypervisors.Capabilities {
	caps := c.hv.caps
	caps.Missing = slices.Clone(caps.Missing)
	return caps
}

func (c *conn) VMs(ctx context.Context) ([]hypervisors.VM, error) {
	if err := c.lock(ctx, "list", "machines"); err != nil {
		return nil, err
	}
	defer c.hv.mu.Unlock()
	var out []hypervisors.VM
	for _, m := range slices.SortedFunc(maps.Values(c.hv.machines), byName) {
		out = append(out, m.show())
	}
	return out, nil
}

func (c *conn) VM(ctx context.Context, id string) (hypervisors.VM, error) {
	if err := c.lock(ctx, "find", "machine "+id); err != nil {
		return hypervisors.VM{}, err
	}
	defer c.hv.mu.Unlock()
	m, err := c.machine(id)
	if err != nil {
		return hypervisors.VM{}, fail("find", "machine "+id, err, "list the machines of the host")
	}
	return m.show(), nil
}

func (c *conn) Networks(ctx context.Context) ([]hypervisors.Network, error) {
	if err := c.lock(ctx, "list", "networks"); err != nil {
		return nil, err
	}
	defer c.hv.mu.Unlock()
	var out []hypervisors.Network
	for _, n := range c.hv.networks {
		out = append(out, n.Network)
	}
	return out, nil
}

func (c *conn) Storage(ctx context.Context) ([]hypervisors.Storage, error) {
	if err := c.lock(ctx, "list", "storage"); err != nil {
		return nil, err
	}
	defer c.hv.mu.Unlock()
	var out []hypervisors.Storage
	for i, p := range c.hv.pools {
		out = append(out, hypervisors.Storage{
			Name: p.name, Path: "/" + c.hv.name + "/" + p.name, Free: p.free(), Total: p.capacity, Default: i == 0,
		})
	}
	return out, nil
}

func (c *conn) Close() error {
	c.hv.mu.Lock()
	defer c.hv.mu.Unlock()
	c.closed = true
	return nil
}

func (c *conn) Clean(ctx context.Context, keep hypervisors.Keep) ([]string, error) {
	if err := c.lock(ctx, "clean", "host"); err != nil {
		return nil, err
	}
	defer c.hv.mu.Unlock()
	removed := c.hv.leftovers(func(l leftover) bool {
		return l.owner == c.owner && !slices.Contains(keep.TestRuns, l.run)
	})
	names := []string{}
	for _, l := range removed {
		l.remove()
		names = append(names, l.name)
	}
	for _, m := range slices.SortedFunc(maps.Values(c.hv.machines), byName) {
		names = append(names, m.forget(func(t *tracker) bool {
			return t.owner == c.owner && !slices.Contains(keep.ChangeIDs[m.id], t.id)
		})...)
	}
	// Only now is it known which networks the kept tests still use.
	return append(names, c.hv.removeNetworks(func(n *network) bool {
		return n.owner == c.owner && !slices.Contains(keep.Networks, n.Name)
	})...), nil
}

// leftover is something that its maker should remove and that Clean would.
type leftover struct {
	owner  string
	name   string
	run    string // of a test run
	remove func()
}

func (hv *Hypervisor) leftovers(want func(leftover) bool) []leftover {
	var out []leftover
	add := func(l leftover) {
		if want(l) {
			out = append(out, l)
		}
	}
	for _, m := range slices.SortedFunc(maps.Values(hv.machines), byName) {
		if cp := m.open; cp != nil && cp.machines[0] == m {
			add(leftover{owner: cp.owner, name: "checkpoint " + cp.name + " of machine " + m.hw.Name, remove: cp.abandon})
		}
	}
	for _, r := range hv.readers {
		add(leftover{owner: r.c.owner, name: "export of point " + r.point, remove: r.release})
	}
	for _, id := range slices.Sorted(maps.Keys(hv.replicas)) {
		r := hv.replicas[id]
		if d := r.draft; d != nil {
			add(leftover{owner: r.owner, name: "draft " + d.point + " of replica " + id, remove: d.release})
		}
		for _, run := range r.sortedRuns() {
			if run.id != hypervisors.LiveRun {
				add(leftover{owner: r.owner, name: "test machine " + run.machine.hw.Name, run: run.id, remove: run.release})
			}
		}
	}
	return out
}

// removeNetworks removes isolated networks that nothing is connected to.
func (hv *Hypervisor) removeNetworks(want func(*network) bool) (names []string) {
	hv.networks = slices.DeleteFunc(hv.networks, func(n *network) bool {
		if n.owner == "" || !want(n) || len(hv.connected(n.Name)) > 0 {
			return false
		}
		names = append(names, "network "+n.Name)
		return true
	})
	return names
}

// Leftovers names what is there for the time being only: open checkpoints, drafts, exports, test machines and test
// networks of every owner. With no job under way and no test wanted it is empty.
func (hv *Hypervisor) Leftovers() []string {
	hv.mu.Lock()
	defer hv.mu.Unlock()
	var names []string
	for _, l := range hv.leftovers(func(leftover) bool { return true }) {
		names = append(names, l.name)
	}
	for _, n := range hv.networks {
		if n.owner != "" {
			names = append(names, "network "+n.Name)
		}
	}
	return names
}

// Tracked lists the change ids that the machine's changes are tracked by.
func (hv *Hypervisor) Tracked(vm string) []hypervisors.ChangeID {
	hv.mu.Lock()
	defer hv.mu.Unlock()
	var ids []hypervisors.ChangeID
	if m := hv.machines[vm]; m != nil {
		for _, t := range m.trackers {
			ids = append(ids, t.id)
		}
	}
	return ids
}
