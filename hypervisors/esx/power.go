package esx

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	faults "github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"understudy/hypervisors"
)

const offPause = 500 * time.Millisecond

// Start turns a machine on.
func (h *host) Start(ctx context.Context, id string) error {
	return h.turn(ctx, "start", id, types.VirtualMachinePowerStatePoweredOn, (*object.VirtualMachine).PowerOn)
}

// Stop turns a machine off at once.
func (h *host) Stop(ctx context.Context, id string) error {
	return h.turn(ctx, "stop", id, types.VirtualMachinePowerStatePoweredOff, (*object.VirtualMachine).PowerOff)
}

func (h *host) turn(ctx context.Context, op, id string, want types.VirtualMachinePowerState, order func(*object.VirtualMachine, context.Context) (*object.Task, error)) error {
	vm, m, err := h.machine(ctx, id)
	if err != nil || m.Runtime.PowerState == want {
		return err
	}
	t, err := order(vm, ctx)
	if err == nil {
		_, err = h.wait(ctx, op, "machine "+m.Name, t)
	}
	if state := (&types.InvalidPowerState{}); asFault(err, &state) && state.ExistingState == want {
		return nil // somebody else was quicker
	}
	return fault(op, "machine "+m.Name, err)
}

// Shutdown asks VMware Tools to shut the guest down, and waits.
func (h *host) Shutdown(ctx context.Context, id string) error {
	vm, m, err := h.machine(ctx, id)
	if err != nil || m.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOff {
		return err
	}
	subject := "machine " + m.Name
	if err := vm.ShutdownGuest(ctx); err != nil {
		if faults.Is(err, &types.InvalidPowerState{}) {
			return h.waitOff(ctx, vm, subject)
		}
		err = fault("shut down", subject, err)
		if told := (*hypervisors.Error)(nil); errors.As(err, &told) && errors.Is(err, hypervisors.ErrIncapable) {
			told.Hint = "Start or install VMware Tools in the guest, or stop the machine as if power failed."
		}
		return err
	}
	return h.waitOff(ctx, vm, subject)
}

func (h *host) waitOff(ctx context.Context, vm *object.VirtualMachine, subject string) error {
	for {
		state, err := vm.PowerState(ctx)
		switch {
		case err == nil && state == types.VirtualMachinePowerStatePoweredOff:
			return nil
		case err != nil && ctx.Err() == nil:
			return fault("shut down", subject, err)
		}
		if err := pause(ctx, offPause); err != nil {
			return &hypervisors.Error{Op: "shut down", Subject: subject, Err: fmt.Errorf("%w: the guest is not off: %w", hypervisors.ErrTimeout, err),
				Hint: "Look at the guest's console; or stop the machine as if power failed."}
		}
	}
}

// SetAutostart puts a machine into, or takes it out of, those that start with their ESX host.
func (h *host) SetAutostart(ctx context.Context, id string, on bool) error {
	vm, m, err := h.machine(ctx, id)
	if err != nil {
		return err
	}
	return fault("set the autostart of", "machine "+m.Name, h.setAutostart(ctx, vm, m.Runtime.Host, on))
}

func (h *host) setAutostart(ctx context.Context, vm *object.VirtualMachine, at *types.ManagedObjectReference, on bool) error {
	if at == nil {
		return fmt.Errorf("%w: no ESX host has it", hypervisors.ErrUnreachable)
	}
	manager, err := h.autoStart(ctx, *at)
	switch {
	case err != nil:
		return err
	case manager == nil:
		return fmt.Errorf("%w: the host starts no machines by itself", hypervisors.ErrIncapable)
	case starts(manager)[vm.Reference()] == on:
		return nil
	}
	p := types.AutoStartPowerInfo{Key: vm.Reference(), StartOrder: -1, StartDelay: -1, StopDelay: -1, StartAction: string(types.AutoStartActionNone),
		WaitForHeartbeat: types.AutoStartWaitHeartbeatSettingSystemDefault, StopAction: string(types.AutoStartActionSystemDefault)}
	spec := types.HostAutoStartManagerConfig{}
	if on {
		p.StartAction = string(types.AutoStartActionPowerOn)
		spec.Defaults = &types.AutoStartDefaults{Enabled: types.NewBool(true)} // without it the host starts nobody
	}
	spec.PowerInfo = []types.AutoStartPowerInfo{p}
	_, err = methods.ReconfigureAutostart(ctx, h.client, &types.ReconfigureAutostart{This: manager.Self, Spec: spec})
	return err
}

// autoStart is an ESX host's list of machines that start with it; nil: it has none.
func (h *host) autoStart(ctx context.Context, esx types.ManagedObjectReference) (*mo.HostAutoStartManager, error) {
	var m mo.HostSystem
	pc := property.DefaultCollector(h.client)
	if err := pc.RetrieveOne(ctx, esx, []string{"configManager.autoStartManager"}, &m); err != nil || m.ConfigManager.AutoStartManager == nil {
		return nil, err
	}
	var manager mo.HostAutoStartManager
	return &manager, pc.RetrieveOne(ctx, *m.ConfigManager.AutoStartManager, []string{"config"}, &manager)
}

// starts are the machines that start with their ESX host.
func starts(m *mo.HostAutoStartManager) map[types.ManagedObjectReference]bool {
	all := map[types.ManagedObjectReference]bool{}
	if m == nil || m.Config.Defaults == nil || !yes(m.Config.Defaults.Enabled) {
		return all
	}
	for _, p := range m.Config.PowerInfo {
		all[p.Key] = strings.EqualFold(p.StartAction, string(types.AutoStartActionPowerOn))
	}
	return all
}
