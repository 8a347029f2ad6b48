package hypervisortest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"understudy/hypervisors"
)

// undoTimeout bounds what a check does after itself.
const undoTimeout = 2 * time.Minute

// nobody is an id that no machine, network or storage has.
const nobody = "00000000-0000-4000-8000-00000000dead"

func inventoryChecks() []Check {
	return []Check{
		{Name: "host says who it is", ReadOnly: true, Run: checkInfo},
		{Name: "capabilities fit the driver", ReadOnly: true, Run: checkCapabilities},
		{Name: "machines are well formed", ReadOnly: true, Run: checkMachines},
		{Name: "a machine is found by id", ReadOnly: true, Run: checkMachine},
		{Name: "an unknown machine is not found", ReadOnly: true, Run: checkUnknownMachine},
		{Name: "networks are well formed", ReadOnly: true, Run: checkNetworks},
		{Name: "storage is well formed", ReadOnly: true, Run: checkStorage},
		{Name: "inventory gives up when asked", ReadOnly: true, Run: checkInventoryCancel},
	}
}

func checkInfo(ctx context.Context, env Env) error {
	first, err := env.Host.Info(ctx)
	if err != nil {
		return err
	}
	again, err := env.Host.Info(ctx)
	if err != nil {
		return err
	}
	switch {
	case first.Identity == "" || first.Product == "" || first.Version == "":
		return fmt.Errorf("identity, product or version is empty: %+v", first)
	case first.CPUs < 1 || first.Memory < 1:
		return fmt.Errorf("%d CPUs and %d bytes of memory", first.CPUs, first.Memory)
	case first.Identity != again.Identity:
		return fmt.Errorf("identity changed from %s to %s", first.Identity, again.Identity)
	}
	return nil
}

func checkCapabilities(_ context.Context, env Env) error {
	caps := env.Host.Capabilities()
	_, source := env.Host.(hypervisors.Source)
	_, target := env.Host.(hypervisors.Target)
	_, power := env.Host.(hypervisors.Power)
	_, isolation := env.Host.(hypervisors.Isolation)
	_, guest := env.Host.(hypervisors.Guest)
	_, screen := env.Host.(hypervisors.Screen)
	_, prober := env.Host.(hypervisors.Prober)
	all := true
	for _, part := range []struct {
		name             string
		announced, there bool
	}{
		{"Source", caps.Source, source}, {"Target", caps.Target, target}, {"Power", caps.Power, power},
		{"Isolation", caps.Isolation, isolation}, {"Guest", caps.Guest, guest},
		{"Screen", caps.Screen, screen}, {"Prober", caps.Probe, prober},
	} {
		if part.announced && !part.there {
			return fmt.Errorf("%s is announced but not implemented", part.name)
		}
		all = all && part.announced
	}
	if !caps.Source && (caps.ChangeTracking || caps.Quiesce || caps.GroupMoment) {
		return errors.New("tracking, quiescing or group moments without Source")
	}
	if caps.Dial && !caps.Guest {
		return errors.New("connections to guests without Guest")
	}
	all = all && caps.Dial && caps.ChangeTracking && caps.Quiesce && caps.GroupMoment
	if !all && len(caps.Missing) == 0 {
		return errors.New("something is missing and Missing does not say why")
	}
	return nil
}

func checkMachines(ctx context.Context, env Env) error {
	vms, err := env.Host.VMs(ctx)
	if err != nil {
		return err
	}
	if !slices.IsSortedFunc(vms, func(a, b hypervisors.VM) int { return strings.Compare(a.Hardware.Name, b.Hardware.Name) }) {
		return errors.New("machines are not ordered by name")
	}
	ids := map[string]bool{}
	for _, vm := range vms {
		if ids[vm.ID] {
			return fmt.Errorf("id %s is there twice", vm.ID)
		}
		ids[vm.ID] = true
		if err := wellFormed(vm); err != nil {
			return fmt.Errorf("machine %s: %w", vm.Hardware.Name, err)
		}
	}
	return nil
}

func wellFormed(vm hypervisors.VM) error {
	hw := vm.Hardware
	switch {
	case vm.ID == "" || hw.Name == "" || hw.Arch == "":
		return fmt.Errorf("id %q, name %q or architecture %q is empty", vm.ID, hw.Name, hw.Arch)
	case !slices.Contains([]hypervisors.PowerState{hypervisors.Off, hypervisors.Running, hypervisors.Paused}, vm.State):
		return fmt.Errorf("state %q", vm.State)
	case hw.CPUs < 1 || hw.Memory < 1:
		return fmt.Errorf("%d CPUs, %d bytes of memory", hw.CPUs, hw.Memory)
	case hw.Firmware != hypervisors.BIOS && hw.Firmware != hypervisors.UEFI:
		return fmt.Errorf("firmware %q", hw.Firmware)
	}
	disks, macs := map[string]bool{}, map[string]bool{}
	for _, d := range hw.Disks {
		if d.ID == "" || disks[d.ID] {
			return fmt.Errorf("disk id %q is empty or there twice", d.ID)
		}
		disks[d.ID] = true
		if d.Excluded == "" && (d.Size <= 0 || d.Bus == "" || d.Format == "" || d.Boot < 0) {
			return fmt.Errorf("disk %s: size %d, bus %q, format %q, boot %d", d.ID, d.Size, d.Bus, d.Format, d.Boot)
		}
	}
	for _, n := range hw.NICs {
		if _, err := net.ParseMAC(n.MAC); err != nil || macs[n.MAC] || n.MAC != strings.ToLower(n.MAC) {
			return fmt.Errorf("MAC %q is no lower-case address or there twice", n.MAC)
		}
		macs[n.MAC] = true
	}
	return nil
}

func checkMachine(ctx context.Context, env Env) error {
	vms, err := env.Host.VMs(ctx)
	if err != nil {
		return err
	}
	for _, want := range vms {
		got, err := env.Host.VM(ctx, want.ID)
		if errors.Is(err, hypervisors.ErrNotFound) {
			continue // a user's machine may vanish meanwhile
		}
		if err != nil {
			return err
		}
		if got.ID != want.ID || got.Replica != want.Replica || len(got.Hardware.Disks) != len(want.Hardware.Disks) ||
			got.Hardware.Name != want.Hardware.Name {
			return fmt.Errorf("machine %s is listed as %+v but found as %+v", want.ID, want, got)
		}
	}
	return nil
}

func checkUnknownMachine(ctx context.Context, env Env) error {
	_, err := env.Host.VM(ctx, nobody)
	return wants("machine that does not exist", err, hypervisors.ErrNotFound)
}

func checkNetworks(ctx context.Context, env Env) error {
	networks, err := env.Host.Networks(ctx)
	if err != nil {
		return err
	}
	names := map[string]bool{}
	for _, n := range networks {
		if n.Name == "" || n.Kind == "" || names[n.Name] {
			return fmt.Errorf("network %q of kind %q: empty or there twice", n.Name, n.Kind)
		}
		names[n.Name] = true
	}
	return nil
}

func checkStorage(ctx context.Context, env Env) error {
	stores, err := env.Host.Storage(ctx)
	if err != nil {
		return err
	}
	names, defaults := map[string]bool{}, 0
	for _, s := range stores {
		if s.Name == "" || names[s.Name] || s.Free < 0 || s.Total <= 0 || s.Free > s.Total {
			return fmt.Errorf("storage %q: empty, there twice, or sizes make no sense: %d of %d bytes free", s.Name, s.Free, s.Total)
		}
		names[s.Name] = true
		if s.Default {
			defaults++
		}
	}
	if env.Host.Capabilities().Target && defaults != 1 {
		return fmt.Errorf("%d storages are the default one", defaults)
	}
	return nil
}

func checkInventoryCancel(ctx context.Context, env Env) error {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	_, err := env.Host.VMs(ctx)
	if err := wants("list of machines after cancellation", err, context.Canceled); err != nil {
		return err
	}
	_, err = env.Host.VM(ctx, nobody)
	return wants("machine after cancellation", err, context.Canceled)
}
