package hypervisortest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"understudy/hypervisors"
)

func deviceChecks() []Check {
	return []Check{
		{Name: "a host says what machines can be made of", ReadOnly: true, Needs: needTarget, Why: whyTarget, Run: checkDevices},
		{Name: "a replica from another hypervisor has the devices and the ids that it came with", Why: whyRun + ", or freeze them",
			Needs: func(c hypervisors.Capabilities) bool { return needRun(c) && c.Source }, Run: onStage(checkForeign)},
	}
}

func checkDevices(_ context.Context, env Env) error {
	has := env.Host.Capabilities().Devices
	if len(has.Disks) == 0 || len(has.NICs) == 0 {
		return fmt.Errorf("devices are %+v", has)
	}
	for _, kind := range has.Disks {
		bus, controller, named := strings.Cut(kind, "/")
		known := slices.Contains([]string{"virtio", "scsi", "sata", "ide", "nvme", "usb"}, bus)
		if named {
			known = bus == "scsi" && slices.Contains([]string{"virtio-scsi", "pvscsi", "lsilogic", "lsisas1068", "buslogic"}, controller)
		}
		if !known {
			return fmt.Errorf("nobody knows disks on %q", kind)
		}
	}
	for _, model := range has.NICs {
		if !slices.Contains([]string{"virtio", "e1000", "e1000e", "rtl8139", "vmxnet3"}, model) {
			return fmt.Errorf("nobody knows NICs %q", model)
		}
	}
	return nil
}

// foreign makes hardware with two disks of each kind that the host can give, under ids that no driver here would choose,
// and one NIC of each kind.
func (s *stage) foreign(ctx context.Context) (hypervisors.Hardware, disks, error) {
	hw, err := s.stock(ctx)
	if err != nil {
		return hw, nil, err
	}
	has := s.Host.Capabilities().Devices
	hw.Chipset, hw.CPUModel, hw.Disks = "", "", nil
	var content disks
	for i, kind := range has.Disks {
		for unit := range 2 {
			d := hypervisors.Disk{ID: fmt.Sprintf("other%d-%d", i, unit), Size: 2 * block}
			d.Bus, d.Controller, _ = strings.Cut(kind, "/")
			hw.Disks = append(hw.Disks, d)
			data := newDisk(d.ID, d.Size)
			data.put([]byte(d.ID), block)
			content = append(content, data)
		}
	}
	hw.Disks[len(hw.Disks)-1].Boot, hw.Disks[0].Boot = 1, 2
	nic := hw.NICs[0]
	hw.NICs = nil
	for i, model := range has.NICs {
		nic.MAC, nic.Model = fmt.Sprintf("%s%02x", nic.MAC[:len(nic.MAC)-2], i), model
		hw.NICs = append(hw.NICs, nic)
	}
	return hw, content, nil
}

func checkForeign(ctx context.Context, s *stage) error {
	hw, content, err := s.foreign(ctx)
	if err != nil {
		return err
	}
	r, err := s.replicaOf(ctx, hw)
	if err != nil {
		return err
	}
	if err := commit(ctx, r, "p1", content); err != nil {
		return err
	}
	network, err := s.bubble(ctx)
	if err != nil {
		return err
	}
	test, err := s.test(ctx, r, "t1", "p1", network)
	if err != nil {
		return err
	}
	live, err := r.Run(ctx, hypervisors.RunSpec{ID: hypervisors.LiveRun, Point: "p1"})
	if err != nil {
		return err
	}
	s.later(func(ctx context.Context) error { return r.End(ctx, hypervisors.LiveRun) })
	for _, run := range []hypervisors.RunStatus{test, live} {
		vm, err := s.Host.VM(ctx, run.VM)
		if err != nil {
			return err
		}
		if vm.State != hypervisors.Running {
			return fmt.Errorf("run %s is %s", run.ID, vm.State)
		}
		if err := madeOf(vm.Hardware, hw); err != nil {
			return fmt.Errorf("run %s: %w", run.ID, err)
		}
	}
	return s.frozenAs(ctx, live.VM, content)
}

// madeOf says where a machine has other devices than the ones that were ordered.
func madeOf(got, want hypervisors.Hardware) error {
	if err := sameDisks(got.Disks, want.Disks); err != nil {
		return err
	}
	var errs []error
	for i, d := range got.Disks {
		if w := want.Disks[i]; d.Attached() != w.Attached() || d.Boot != w.Boot {
			errs = append(errs, fmt.Errorf("disk %s is on %s, boot place %d, ordered was %s, %d", d.ID, d.Attached(), d.Boot, w.Attached(), w.Boot))
		}
	}
	for i, n := range got.NICs {
		if w := want.NICs[i]; n.Model != w.Model || !strings.EqualFold(n.MAC, w.MAC) {
			errs = append(errs, fmt.Errorf("NIC %s is of model %s, ordered was %s of model %s", n.MAC, n.Model, w.MAC, w.Model))
		}
	}
	return errors.Join(errs...)
}

// frozenAs freezes a machine twice, as a failback does: its disks have their ids at the source, too, and are tracked by
// them where they can be.
func (s *stage) frozenAs(ctx context.Context, vm string, want disks) error {
	first, err := s.look(ctx, vm, "")
	if err != nil {
		return err
	}
	if err := first.disks.same(want); err != nil {
		return err
	}
	if first.id == "" {
		return nil // it cannot track
	}
	cp, err := s.freeze(ctx, vm, first.id)
	if err != nil {
		return err
	}
	for _, d := range cp.Disks() {
		for _, err := range d.Changed(ctx) {
			if err != nil {
				return fmt.Errorf("changes of disk %s: %w", d.ID(), err)
			}
		}
	}
	return cp.Close(ctx)
}
