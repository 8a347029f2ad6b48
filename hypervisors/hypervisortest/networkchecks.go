package hypervisortest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"understudy/hypervisors"
)

func networkChecks() []Check {
	isolation := func(c hypervisors.Capabilities) bool { return c.Isolation }
	guest := func(c hypervisors.Capabilities) bool { return c.Guest }
	return []Check{
		{Name: "an isolated network comes and goes", Needs: isolation, Why: "the host cannot isolate networks", Run: onStage(checkIsolated)},
		{Name: "networks of others are neither isolated nor removed", Needs: isolation, Why: "the host cannot isolate networks",
			Run: onStage(checkForeignNetwork)},
		{Name: "production in an isolated network is found", Run: onStage(checkNotIsolated), Why: "the host cannot run replicas in isolated networks",
			Needs: func(c hypervisors.Capabilities) bool { return needTarget(c) && c.Power && c.Isolation }},
		{Name: "a guest answers", Needs: guest, Why: "the host cannot ask guests", Run: onStage(checkGuest)},
	}
}

func (s *stage) wantNetworks(ctx context.Context, want map[string]bool) error {
	networks, err := s.Host.Networks(ctx)
	if err != nil {
		return err
	}
	for name, there := range want {
		i := slices.IndexFunc(networks, func(n hypervisors.Network) bool { return n.Name == name })
		if there != (i >= 0) {
			return fmt.Errorf("network %s: there is %v, want %v", name, i >= 0, there)
		}
		if there && !networks[i].Isolated {
			return fmt.Errorf("network %s is not shown as isolated", name)
		}
	}
	return nil
}

func checkIsolated(ctx context.Context, s *stage) error {
	isolation := s.Host.(hypervisors.Isolation)
	name, err := s.bubble(ctx)
	if err != nil {
		return err
	}
	if err := isolation.IsolatedNetwork(ctx, name); err != nil {
		return fmt.Errorf("again: %w", err)
	}
	if err := isolation.AssertIsolated(ctx, name); err != nil {
		return err
	}
	if err := s.wantNetworks(ctx, map[string]bool{name: true}); err != nil {
		return err
	}
	for range 2 {
		if err := isolation.RemoveNetwork(ctx, name); err != nil {
			return err
		}
	}
	if isolation.AssertIsolated(ctx, name) == nil {
		return errors.New("a network that is gone is said to be isolated")
	}
	return s.wantNetworks(ctx, map[string]bool{name: false})
}

func checkForeignNetwork(ctx context.Context, s *stage) error {
	isolation := s.Host.(hypervisors.Isolation)
	return errors.Join(
		wants("a network with machines", isolation.AssertIsolated(ctx, s.Network), hypervisors.ErrNotIsolated),
		wants("removing it", isolation.RemoveNetwork(ctx, s.Network), hypervisors.ErrForeign))
}

func checkNotIsolated(ctx context.Context, s *stage) error {
	isolation := s.Host.(hypervisors.Isolation)
	r, err := s.replica(ctx)
	if err != nil {
		return err
	}
	if err := commit(ctx, r, "p1", pattern(1)); err != nil {
		return err
	}
	name, err := s.bubble(ctx)
	if err != nil {
		return err
	}
	if _, err := s.test(ctx, r, "t1", "p1", name); err != nil {
		return err
	}
	if err := isolation.AssertIsolated(ctx, name); err != nil {
		return fmt.Errorf("with a test in it: %w", err)
	}
	if _, err := s.test(ctx, r, hypervisors.LiveRun, "p1", name); err != nil {
		return err
	}
	return wants("with a live run in it", isolation.AssertIsolated(ctx, name), hypervisors.ErrNotIsolated)
}

func checkGuest(ctx context.Context, s *stage) error {
	guest := s.Host.(hypervisors.Guest)
	vm, err := s.Host.VM(ctx, s.VM)
	if err != nil {
		return err
	}
	if len(vm.Hardware.NICs) == 0 {
		return errors.New("the Env's machine has no NIC")
	}
	if err := s.answers(ctx, vm.Hardware.NICs[0].Network); err != nil {
		return err
	}
	if vm.Hardware.GuestAgent {
		if err := guest.AgentPing(ctx, s.VM); err != nil {
			return err
		}
	}
	off, err := s.NewVM(ctx)
	if err != nil {
		return err
	}
	if guest.AgentPing(ctx, off) == nil {
		return errors.New("the agent of a machine that is off answers")
	}
	if !s.Host.Capabilities().Dial {
		return nil
	}
	return silent(ctx, guest, vm.Hardware.NICs[0].Network, s.Answer)
}

// silent proves that a connection to where nobody listens fails, by itself or when ctx ends.
func silent(ctx context.Context, guest hypervisors.Guest, network string, a Answer) error {
	host, _, err := net.SplitHostPort(a.Addr)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := guest.Dial(ctx, network, a.From, net.JoinHostPort(host, "9"))
	if err == nil {
		return errors.Join(errors.New("a port that nobody listens on answers"), conn.Close())
	}
	return nil
}
