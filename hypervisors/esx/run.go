package esx

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"understudy/hypervisors"
)

// runs are those that there are: the replica itself, and machines beside it.
func (s *state) runs(ctx context.Context) ([]hypervisors.RunStatus, error) {
	var out []hypervisors.RunStatus
	if s.tag(tagRun) == hypervisors.LiveRun {
		out = append(out, runStatus(&s.m))
	}
	if len(s.tests()) == 0 {
		return out, nil
	}
	all, err := s.host.machines(ctx)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if s.isTest(&all[i]) {
			out = append(out, runStatus(&all[i]))
		}
	}
	return out, nil
}

func runStatus(m *mo.VirtualMachine) hypervisors.RunStatus {
	return hypervisors.RunStatus{ID: tag(m.Config, tagRun), Point: tag(m.Config, tagPoint), VM: m.Config.InstanceUuid, State: powerState(m.Runtime.PowerState)}
}

// isTest says that a machine is one of the replica's tests.
func (s *state) isTest(m *mo.VirtualMachine) bool {
	run := tag(m.Config, tagRun)
	return tag(m.Config, tagReplica) == s.id && tag(m.Config, tagOwner) == s.host.owner && run != "" && run != hypervisors.LiveRun
}

// Run starts a machine from a point.
func (r *replica) Run(ctx context.Context, spec hypervisors.RunSpec) (hypervisors.RunStatus, error) {
	var out hypervisors.RunStatus
	err := r.work(ctx, "run "+spec.ID+" of", func(s *state) (err error) {
		if err := valid("run", runID, spec.ID); err != nil {
			return err
		}
		if spec.Convert {
			return &hypervisors.Error{Op: "convert", Subject: s.subject(), Err: hypervisors.ErrIncapable, Hint: "No program converts guests on the disks of an ESX host. Start it without a conversion."}
		}
		if spec.ID == hypervisors.LiveRun {
			out, err = s.live(ctx, spec)
		} else {
			out, err = s.test(ctx, spec)
		}
		return err
	})
	return out, err
}

// live makes the replica itself production.
func (s *state) live(ctx context.Context, spec hypervisors.RunSpec) (hypervisors.RunStatus, error) {
	if s.tag(tagRun) != hypervisors.LiveRun {
		if err := s.goLive(ctx, spec); err != nil {
			return hypervisors.RunStatus{}, err
		}
	}
	if at := s.tag(tagPoint); at != spec.Point {
		return hypervisors.RunStatus{}, fmt.Errorf("%w: it runs from point %s", hypervisors.ErrInUse, at)
	}
	return s.start(ctx, s.m.Config.InstanceUuid)
}

// start a run, and say how it is.
func (s *state) start(ctx context.Context, vm string) (hypervisors.RunStatus, error) {
	if err := s.orderBoot(ctx, vm); err != nil {
		return hypervisors.RunStatus{}, err
	}
	if err := s.host.Start(ctx, vm); err != nil {
		return hypervisors.RunStatus{}, err
	}
	_, m, err := s.host.machine(ctx, vm)
	if err != nil {
		return hypervisors.RunStatus{}, err
	}
	return runStatus(&m), nil
}

// orderBoot lets a machine of ours that is off boot from the disks that its source boots from, whatever their places here.
// It could not be told before: devices have their keys only when the machine is there.
func (s *state) orderBoot(ctx context.Context, vm string) error {
	machine, m, err := s.host.machine(ctx, vm)
	if err != nil || s.tag(tagAdopted) != "" || m.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOff {
		return err
	}
	l := slices.DeleteFunc(layoutOf(m.Config), func(p place) bool { return p.Boot == 0 })
	slices.SortStableFunc(l, func(a, b place) int { return a.Boot - b.Boot })
	options := types.VirtualMachineBootOptions{}
	if m.Config.BootOptions != nil {
		options = *m.Config.BootOptions
	}
	before := options.BootOrder
	options.BootOrder = nil
	for _, p := range l {
		if disk := diskAt(m.Config.Hardware.Device, p.At); disk != nil {
			options.BootOrder = append(options.BootOrder, &types.VirtualMachineBootOptionsBootableDiskDevice{DeviceKey: disk.Key})
		}
	}
	if len(options.BootOrder) == 0 || reflect.DeepEqual(before, options.BootOrder) {
		return nil
	}
	return s.host.reconfigure(ctx, machine, "choose the boot disk of", "machine "+m.Name, types.VirtualMachineConfigSpec{BootOptions: &options})
}

func (s *state) goLive(ctx context.Context, spec hypervisors.RunSpec) error {
	t := s.point(spec.Point)
	switch {
	case t == nil:
		return fmt.Errorf("point %s %w", spec.Point, hypervisors.ErrNotFound)
	case s.draft != nil:
		return fmt.Errorf("%w: a draft is open", hypervisors.ErrBusy)
	case s.m.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOff:
		return &hypervisors.Error{Op: "start", Subject: s.subject(), Err: hypervisors.ErrRunning, Hint: "Somebody started the replica by hand. Stop it: what it wrote is thrown away."}
	}
	if err := s.clearAttached(ctx); err != nil {
		return err
	}
	if err := s.revert(ctx, t); err != nil {
		return err
	}
	c := &changes{devices: slices.Clone(object.VirtualDeviceList(s.m.Config.Hardware.Device)), key: -100}
	for _, p := range layoutOf(s.m.Config) {
		if disk := diskAt(c.devices, p.Map); disk != nil {
			c.remove(disk, "") // a guest has no business with it
		}
	}
	if err := s.connect(ctx, c, spec.Networks); err != nil {
		return err
	}
	// The mark and the disks change together: with the mark this is production, and nobody goes back to a point by himself.
	if err := s.host.reconfigure(ctx, s.vm, "start", s.subject(), types.VirtualMachineConfigSpec{DeviceChange: c.specs,
		ExtraConfig: tags(tagRun, hypervisors.LiveRun, tagPoint, spec.Point)}); err != nil {
		return err
	}
	return s.reload(ctx)
}

// connect gives NICs other networks, by their MACs.
func (s *state) connect(ctx context.Context, c *changes, networks map[string]string) error {
	for _, d := range c.devices {
		card, ok := d.(types.BaseVirtualEthernetCard)
		if !ok {
			continue
		}
		to, ok := networks[strings.ToLower(card.GetVirtualEthernetCard().MacAddress)]
		if !ok {
			continue
		}
		backing, err := s.host.networkBacking(ctx, to)
		if err != nil {
			return err
		}
		card.GetVirtualEthernetCard().Backing = backing
		c.specs = append(c.specs, &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationEdit, Device: d})
	}
	return nil
}

// test makes a machine beside the replica whose disks stand on those of a point, and starts it.
func (s *state) test(ctx context.Context, spec hypervisors.RunSpec) (hypervisors.RunStatus, error) {
	runs, err := s.runs(ctx)
	if err != nil {
		return hypervisors.RunStatus{}, err
	}
	for _, run := range runs {
		if run.ID != spec.ID {
			continue
		}
		if run.Point != spec.Point {
			return run, fmt.Errorf("%w: run %s is from point %s", hypervisors.ErrInUse, run.ID, run.Point)
		}
		return s.start(ctx, run.VM)
	}
	t := s.point(spec.Point)
	if t == nil {
		return hypervisors.RunStatus{}, fmt.Errorf("point %s %w", spec.Point, hypervisors.ErrNotFound)
	}
	frozen, err := s.frozenAt(ctx, t)
	if err != nil {
		return hypervisors.RunStatus{}, err
	}
	k, err := s.read(ctx, t)
	if err != nil {
		return hypervisors.RunStatus{}, err
	}
	folder := folderOf(s.m.Config) + "-test-" + spec.ID + "-" + nonce()
	config, err := s.testMachine(ctx, spec, frozen, k, folder)
	if err != nil {
		return hypervisors.RunStatus{}, err
	}
	esx, err := s.host.esxHost(ctx)
	if err != nil {
		return hypervisors.RunStatus{}, err
	}
	dc, err := s.host.datacenter(ctx, s.vm.Reference())
	if err != nil {
		return hypervisors.RunStatus{}, err
	}
	// First the replica says where the test will be: so it is found whatever happens.
	if err := s.tagAll(ctx, tagTest+spec.ID, folder); err != nil {
		return hypervisors.RunStatus{}, err
	}
	if err := s.reload(ctx); err != nil {
		return hypervisors.RunStatus{}, err
	}
	err = s.host.createMachine(ctx, esx, dc, folder, config)
	var out hypervisors.RunStatus
	if err == nil {
		out, err = s.start(ctx, config.InstanceUuid)
	}
	if err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterwards)
		defer cancel()
		return out, errors.Join(err, s.endTest(undo, spec.ID))
	}
	return out, nil
}

// testMachine describes the machine of a test: the replica's hardware at the point, with its NICs elsewhere.
func (s *state) testMachine(ctx context.Context, spec hypervisors.RunSpec, at *types.VirtualMachineConfigInfo, k *kept, folder string) (types.VirtualMachineConfigSpec, error) {
	id := newUUID()
	config := types.VirtualMachineConfigSpec{
		Name: s.m.Name + "-test-" + spec.ID, Uuid: id, InstanceUuid: id, Version: at.Version, GuestId: at.GuestId, Firmware: at.Firmware, BootOptions: at.BootOptions,
		NumCPUs: at.Hardware.NumCPU, MemoryMB: int64(at.Hardware.MemoryMB), Files: &types.VirtualMachineFileInfo{VmPathName: folder + "/test.vmx"},
		Annotation:  "A test of a replica that Understudy keeps. It is thrown away when the test ends.",
		ExtraConfig: tags(tagOwner, s.host.owner, tagReplica, s.id, tagRun, spec.ID, tagPoint, spec.Point, "uuid.action", "keep"),
	}
	if config.BootOptions != nil {
		config.BootOptions.BootOrder = nil // which speaks of other devices
	}
	c := &changes{key: -100}
	devices := object.VirtualDeviceList(at.Hardware.Device)
	var l layout
	for _, d := range k.Point.Disks {
		p := k.Layout.of(d.ID)
		if p == nil {
			return config, fmt.Errorf("disk %s %w", d.ID, hypervisors.ErrNotFound)
		}
		disk := diskAt(devices, p.At)
		if disk == nil {
			return config, fmt.Errorf("disk at %s %w", p.At, hypervisors.ErrNotFound)
		}
		child := thin(folder + "/" + d.ID + ".vmdk")
		child.Parent = &types.VirtualDiskFlatVer2BackingInfo{VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: diskOf(disk, devices).Path}}
		test := *p
		test.Map = ""
		var err error
		if test.At, err = c.addDisk(p.kind(), p.At, child, disk.CapacityInBytes, true); err != nil {
			return config, err
		}
		l = append(l, test)
	}
	for _, d := range devices {
		card, ok := d.(types.BaseVirtualEthernetCard)
		if !ok {
			continue
		}
		shown := nicOf(card, nil)
		to, ok := spec.Networks[shown.MAC]
		if !ok {
			return config, fmt.Errorf("%w: a test must say where NIC %s leads", hypervisors.ErrInvalid, shown.MAC)
		}
		shown.Network = to
		nic, err := s.host.nic(ctx, shown, c.newKey())
		if err != nil {
			return config, err
		}
		c.add(nic, "")
	}
	config.ExtraConfig = append(config.ExtraConfig, l.tag())
	config.DeviceChange = c.specs
	return config, nil
}

// End stops a run and throws away what it wrote.
func (r *replica) End(ctx context.Context, run string) error {
	return r.work(ctx, "end run "+run+" of", func(s *state) error {
		if run == hypervisors.LiveRun {
			return s.endLive(ctx)
		}
		if err := s.endTest(ctx, run); err != nil {
			return err
		}
		return s.merge(ctx)
	})
}

func (s *state) endLive(ctx context.Context) error {
	if s.tag(tagRun) != hypervisors.LiveRun {
		return nil
	}
	if err := s.host.Stop(ctx, s.m.Config.InstanceUuid); err != nil {
		return err
	}
	top := s.top()
	if top == nil {
		return fmt.Errorf("%w: there is no point to go back to", hypervisors.ErrInvalid)
	}
	return s.revert(ctx, top)
}

// endTest removes the machine of a test: it is let go, and its folder is deleted, so that whatever a host does with the
// disks below those of a machine that it destroys, it does not do it here.
func (s *state) endTest(ctx context.Context, run string) error {
	all, err := s.host.machines(ctx)
	if err != nil {
		return err
	}
	for i := range all {
		m := &all[i]
		if !s.isTest(m) || tag(m.Config, tagRun) != run {
			continue
		}
		if err := s.host.Stop(ctx, m.Config.InstanceUuid); err != nil {
			return err
		}
		if err := object.NewVirtualMachine(s.host.client, m.Self).Unregister(ctx); err != nil {
			return err
		}
	}
	folder := s.tests()[run]
	if folder == "" {
		return nil
	}
	dc, err := s.host.datacenter(ctx, s.vm.Reference())
	if err != nil {
		return err
	}
	if err := s.host.removeFile(ctx, dc, folder); err != nil && !errors.Is(err, hypervisors.ErrNotFound) {
		return err
	}
	if err := s.tagAll(ctx, tagTest+run, ""); err != nil {
		return err
	}
	return s.reload(ctx)
}
