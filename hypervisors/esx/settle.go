package esx

import (
	"context"
	"errors"
	"fmt"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"understudy/hypervisors"
)

// Settle gives an adopted machine the newest point on its own disks, and ends being a replica.
func (r *replica) Settle(ctx context.Context) error {
	return r.work(ctx, "settle", func(s *state) error {
		switch {
		case s.tag(tagAdopted) == "":
			return fmt.Errorf("%w: the machine was made by Understudy; delete the replica instead", hypervisors.ErrInvalid)
		case s.draft != nil:
			return fmt.Errorf("%w: a draft is open", hypervisors.ErrBusy)
		}
		if err := s.endRuns(ctx); err != nil {
			return err
		}
		return s.settle(ctx)
	})
}

// settle may be repeated after a kill at any moment: once the mark is set, what the machine is now is what stays.
func (s *state) settle(ctx context.Context) error {
	if s.tag(tagSettling) == "" {
		top := s.top()
		if top == nil || top.Name == groundName {
			return fmt.Errorf("%w: there is no point", hypervisors.ErrInvalid)
		}
		if err := s.clearAttached(ctx); err != nil {
			return err
		}
		if err := s.revert(ctx, top, tagSettling, "yes"); err != nil {
			return err
		}
	}
	return s.giveBack(ctx)
}

// giveBack merges all into what the machine is now, and takes away all that is ours.
func (s *state) giveBack(ctx context.Context) error {
	points := s.chain()
	var maps []string
	c := &changes{devices: object.VirtualDeviceList(s.m.Config.Hardware.Device)}
	for _, p := range layoutOf(s.m.Config) {
		if disk := diskAt(c.devices, p.Map); p.Map != "" && disk != nil {
			maps = append(maps, baseOf(disk))
			c.remove(disk, "")
		}
	}
	if len(c.specs) > 0 {
		if err := s.host.reconfigure(ctx, s.vm, "give back", "machine "+s.m.Name, types.VirtualMachineConfigSpec{DeviceChange: c.specs}); err != nil {
			return err
		}
	}
	if ground := s.ground(); ground != nil {
		res, err := methods.RemoveSnapshot_Task(ctx, s.host.client, &types.RemoveSnapshot_Task{This: ground.Snapshot, RemoveChildren: true, Consolidate: types.NewBool(true)})
		if err == nil {
			_, err = s.host.wait(ctx, "merge the points of", "machine "+s.m.Name, object.NewTask(s.host.client, res.Returnval))
		}
		if err != nil {
			return err
		}
	}
	if err := s.reload(ctx); err != nil {
		return err
	}
	if s.m.Runtime.ConsolidationNeeded {
		if err := s.host.consolidate(ctx, s.vm, s.m.Name); err != nil {
			return err
		}
	}
	dc, err := s.host.datacenter(ctx, s.vm.Reference())
	if err != nil {
		return err
	}
	for _, file := range append(maps, s.later...) {
		if err := s.host.removeDisk(ctx, dc, file); err != nil {
			s.host.log.Warn("the disk of a block map stays", "file", file, "error", err)
		}
	}
	for _, t := range points {
		if id, ok := pointName(t.Name); ok {
			if err := s.erase(ctx, id); err != nil {
				return err
			}
		}
	}
	// Last: with the marks goes the knowledge that anything is left to do.
	if err := s.tagAll(ctx, tagOwner, "", tagReplica, "", tagAdopted, "", tagSettling, "", tagDraft, "", tagRun, "", tagPoint, "", tagDisks, ""); err != nil {
		return err
	}
	s.replica.vm = ""
	clear(s.points)
	return nil
}

// baseOf is the file at the bottom of a disk.
func baseOf(d *types.VirtualDisk) string {
	b, ok := d.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
	if !ok {
		return ""
	}
	for b.Parent != nil {
		b = b.Parent
	}
	return b.FileName
}

func (s *state) endRuns(ctx context.Context) error {
	for run := range s.tests() {
		if err := s.endTest(ctx, run); err != nil {
			return err
		}
	}
	return s.endLive(ctx)
}

// Delete removes a replica; an adopted machine gets its own disks back as they were.
func (r *replica) Delete(ctx context.Context) error {
	err := r.work(ctx, "delete", func(s *state) error {
		if d := s.draft; d != nil {
			if err := s.host.detachAll(ctx, d.attached); err != nil {
				return err
			}
			d.ended, s.draft = true, nil
		}
		if err := s.clearAttached(ctx); err != nil {
			return err
		}
		for run := range s.tests() {
			if err := s.endTest(ctx, run); err != nil {
				return err
			}
		}
		if err := s.host.Stop(ctx, s.m.Config.InstanceUuid); err != nil {
			return err
		}
		switch {
		case s.tag(tagAdopted) == "":
			return s.destroy(ctx)
		case s.tag(tagSettling) != "":
			return s.giveBack(ctx)
		}
		if ground := s.ground(); ground != nil {
			if err := s.eraseMaps(ctx, ground); err != nil {
				return err
			}
		}
		return s.giveBack(ctx)
	})
	if errors.Is(err, hypervisors.ErrNotFound) {
		return nil
	}
	return err
}

// eraseMaps goes back to the ground, and deletes the disks of block maps, which the ground does not know.
func (s *state) eraseMaps(ctx context.Context, ground *types.VirtualMachineSnapshotTree) error {
	var maps []string
	devices := object.VirtualDeviceList(s.m.Config.Hardware.Device)
	for _, p := range layoutOf(s.m.Config) {
		if disk := diskAt(devices, p.Map); p.Map != "" && disk != nil {
			maps = append(maps, baseOf(disk))
		}
	}
	if err := s.revert(ctx, ground); err != nil {
		return err
	}
	s.later = append(s.later, maps...)
	return nil
}

// destroy a machine of ours with all its files.
func (s *state) destroy(ctx context.Context) error {
	for _, t := range s.chain() {
		if id, ok := pointName(t.Name); ok {
			if err := s.erase(ctx, id); err != nil {
				return err
			}
		}
	}
	if err := s.host.destroyMachine(ctx, s.vm, s.m); err != nil {
		return err
	}
	s.replica.vm = ""
	clear(s.points)
	return nil
}

// destroyMachine removes a machine with its disks and its folder.
func (h *host) destroyMachine(ctx context.Context, vm *object.VirtualMachine, m mo.VirtualMachine) error {
	dc, err := h.datacenter(ctx, vm.Reference())
	if err != nil {
		return err
	}
	t, err := vm.Destroy(ctx)
	if err == nil {
		_, err = h.wait(ctx, "delete", "machine "+m.Name, t)
	}
	if err != nil {
		return err
	}
	folder := folderOf(m.Config)
	if err := h.removeFile(ctx, dc, folder); err != nil && !errors.Is(err, hypervisors.ErrNotFound) {
		h.log.Warn("the folder of a machine stays", "folder", folder, "error", err)
	}
	return nil
}
