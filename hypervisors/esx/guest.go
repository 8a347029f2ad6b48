package esx

import (
	"context"
	"fmt"
	"net"

	"github.com/vmware/govmomi/vim25/types"

	"understudy/hypervisors"
)

// AgentPing looks whether VMware Tools run in a guest.
func (h *host) AgentPing(ctx context.Context, id string) error {
	_, m, err := h.machine(ctx, id)
	if err != nil {
		return err
	}
	if m.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn && m.Guest != nil &&
		m.Guest.ToolsRunningStatus == string(types.VirtualMachineToolsRunningStatusGuestToolsRunning) {
		return nil
	}
	return &hypervisors.Error{Op: "ask", Subject: "VMware Tools of machine " + m.Name, Err: fmt.Errorf("%w: they do not run", hypervisors.ErrTimeout),
		Hint: "The guest may still be booting, or has no VMware Tools."}
}

// Dial connects from where the appliance is: ESX lends nobody a place in its networks.
func (h *host) Dial(ctx context.Context, network, from, addr string) (net.Conn, error) {
	subject := addr + " in network " + network
	if from != "" {
		return nil, &hypervisors.Error{Op: "connect to", Subject: subject, Err: fmt.Errorf("%w: ESX lets nobody into a network", hypervisors.ErrIncapable),
			Hint: "Let the checks of this group look at VMware Tools."}
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, &hypervisors.Error{Op: "connect to", Subject: subject, Err: fmt.Errorf("%w: %w", hypervisors.ErrUnreachable, err)}
	}
	return conn, nil
}
