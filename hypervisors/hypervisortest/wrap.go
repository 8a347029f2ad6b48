package hypervisortest

import (
	"context"
	"image"
	"net"

	"understudy/hypervisors"
)

// Wrap puts faults between a host and its user. What comes back implements exactly the optional interfaces that host
// does, and Screen and Prober: without one of the host's own it is ErrIncapable, and not announced. Everything that comes from it (checkpoints, replicas, drafts, readers) is wrapped too.
func Wrap(host hypervisors.Host, f *Faults) hypervisors.Host {
	life, end := context.WithCancel(context.Background())
	h := &faultyHost{Host: host, f: f, end: end}
	source, _ := host.(hypervisors.Source)
	target, _ := host.(hypervisors.Target)
	power, _ := host.(hypervisors.Power)
	isolation, _ := host.(hypervisors.Isolation)
	guest, _ := host.(hypervisors.Guest)
	h.screen, _ = host.(hypervisors.Screen)
	h.prober, _ = host.(hypervisors.Prober)
	p := parts{host: h}
	if source != nil {
		p.source = &faultySource{inner: source, f: f, life: life}
	}
	if target != nil {
		p.target = &faultyTarget{inner: target, f: f, life: life}
	}
	if power != nil {
		p.power = &faultyPower{inner: power, f: f}
	}
	if isolation != nil {
		p.isolation = &faultyIsolation{inner: isolation, f: f}
	}
	if guest != nil {
		p.guest = &faultyGuest{inner: guest, f: f}
	}
	return p.join()
}

type faultyHost struct {
	hypervisors.Host                    // for Capabilities
	screen           hypervisors.Screen // nil: none
	prober           hypervisors.Prober // nil: none
	f                *Faults
	end              context.CancelFunc
}

func (h *faultyHost) Info(ctx context.Context) (hypervisors.Info, error) {
	return result(h.f, ctx, "Host.Info", "", func() (hypervisors.Info, error) { return h.Host.Info(ctx) })
}

func (h *faultyHost) VMs(ctx context.Context) ([]hypervisors.VM, error) {
	return result(h.f, ctx, "Host.VMs", "", func() ([]hypervisors.VM, error) { return h.Host.VMs(ctx) })
}

func (h *faultyHost) VM(ctx context.Context, id string) (hypervisors.VM, error) {
	return result(h.f, ctx, "Host.VM", id, func() (hypervisors.VM, error) { return h.Host.VM(ctx, id) })
}

func (h *faultyHost) Networks(ctx context.Context) ([]hypervisors.Network, error) {
	return result(h.f, ctx, "Host.Networks", "", func() ([]hypervisors.Network, error) { return h.Host.Networks(ctx) })
}

func (h *faultyHost) Storage(ctx context.Context) ([]hypervisors.Storage, error) {
	return result(h.f, ctx, "Host.Storage", "", func() ([]hypervisors.Storage, error) { return h.Host.Storage(ctx) })
}

func (h *faultyHost) Clean(ctx context.Context, keep hypervisors.Keep) ([]string, error) {
	return result(h.f, ctx, "Host.Clean", "", func() ([]string, error) { return h.Host.Clean(ctx, keep) })
}

func (h *faultyHost) Close() error {
	h.end()
	return h.f.around(context.Background(), "Host.Close", "", h.Host.Close)
}

func (h *faultyHost) Screenshot(ctx context.Context, vm string) (image.Image, error) {
	if h.screen == nil {
		return nil, hypervisors.ErrIncapable
	}
	return result(h.f, ctx, "Screen.Screenshot", vm, func() (image.Image, error) { return h.screen.Screenshot(ctx, vm) })
}

func (h *faultyHost) ProbePaths(ctx context.Context, storage string) ([]hypervisors.DataPath, error) {
	if h.prober == nil {
		return nil, hypervisors.ErrIncapable
	}
	return result(h.f, ctx, "Prober.ProbePaths", storage, func() ([]hypervisors.DataPath, error) { return h.prober.ProbePaths(ctx, storage) })
}

type faultyPower struct {
	inner hypervisors.Power
	f     *Faults
}

func (p *faultyPower) Start(ctx context.Context, vm string) error {
	return p.f.around(ctx, "Power.Start", vm, func() error { return p.inner.Start(ctx, vm) })
}

func (p *faultyPower) Shutdown(ctx context.Context, vm string) error {
	return p.f.around(ctx, "Power.Shutdown", vm, func() error { return p.inner.Shutdown(ctx, vm) })
}

func (p *faultyPower) Stop(ctx context.Context, vm string) error {
	return p.f.around(ctx, "Power.Stop", vm, func() error { return p.inner.Stop(ctx, vm) })
}

func (p *faultyPower) SetAutostart(ctx context.Context, vm string, on bool) error {
	return p.f.around(ctx, "Power.SetAutostart", vm, func() error { return p.inner.SetAutostart(ctx, vm, on) })
}

type faultyIsolation struct {
	inner hypervisors.Isolation
	f     *Faults
}

func (i *faultyIsolation) IsolatedNetwork(ctx context.Context, name string) error {
	return i.f.around(ctx, "Isolation.IsolatedNetwork", name, func() error { return i.inner.IsolatedNetwork(ctx, name) })
}

func (i *faultyIsolation) AssertIsolated(ctx context.Context, name string) error {
	return i.f.around(ctx, "Isolation.AssertIsolated", name, func() error { return i.inner.AssertIsolated(ctx, name) })
}

func (i *faultyIsolation) RemoveNetwork(ctx context.Context, name string) error {
	return i.f.around(ctx, "Isolation.RemoveNetwork", name, func() error { return i.inner.RemoveNetwork(ctx, name) })
}

type faultyGuest struct {
	inner hypervisors.Guest
	f     *Faults
}

func (g *faultyGuest) AgentPing(ctx context.Context, vm string) error {
	return g.f.around(ctx, "Guest.AgentPing", vm, func() error { return g.inner.AgentPing(ctx, vm) })
}

func (g *faultyGuest) Dial(ctx context.Context, network, from, addr string) (net.Conn, error) {
	return result(g.f, ctx, "Guest.Dial", addr, func() (net.Conn, error) { return g.inner.Dial(ctx, network, from, addr) })
}
