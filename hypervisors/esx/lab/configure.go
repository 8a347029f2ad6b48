package lab

import (
	"bytes"
	"slices"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
	"github.com/vmware/govmomi/vim25/xml"
)

// ReconfigVMTask changes a machine. What the simulator would let pass, or would panic of, is refused first.
func (v *vm) ReconfigVMTask(ctx *simulator.Context, req *types.ReconfigVM_Task) soap.HasFault {
	return &methods.ReconfigVM_TaskBody{Res: &types.ReconfigVM_TaskResponse{
		Returnval: v.l.run(ctx, v.VirtualMachine, "ReconfigVM_Task", "reconfigVm",
			func(ctx *simulator.Context, _ types.BaseMethodFault) (any, types.BaseMethodFault) {
				return nil, v.l.reconfigure(ctx, v.VirtualMachine, req)
			})}}
}

func (l *Lab) reconfigure(ctx *simulator.Context, x *simulator.VirtualMachine, req *types.ReconfigVM_Task) types.BaseMethodFault {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.machines[x.Self]
	if e := req.Spec.ChangeTrackingEnabled; e != nil && *e && len(m.snaps) > 0 && !on(x.Config.ChangeTrackingEnabled) {
		return &types.InvalidVmConfig{Property: "configSpec.changeTrackingEnabled"}
	}
	destroyed, fault := l.check(ctx, m, req.Spec.DeviceChange)
	if fault != nil {
		return fault
	}
	if _, fault := stock(ctx, x.ReconfigVMTask(ctx, req)); fault != nil {
		return fault
	}
	if fault := l.adopt(m, x, req.Spec.DeviceChange); fault != nil {
		return fault
	}
	for _, i := range destroyed {
		if !m.refers(i) {
			l.erase(i)
		}
	}
	l.publish(ctx, m)
	if err := l.appear(m); err != nil {
		return trouble(m.vmx, err)
	}
	return nil
}

func on(b *bool) bool { return b != nil && *b }

// check what shall change; it returns the images to delete once they are out of the machine.
func (l *Lab) check(ctx *simulator.Context, m *machine, changes []types.BaseVirtualDeviceConfigSpec) ([]*image, types.BaseMethodFault) {
	var destroyed []*image
	for n, c := range changes {
		spec := c.GetVirtualDeviceConfigSpec()
		if f := l.checkNetwork(ctx, int32(n), spec); f != nil {
			return nil, f
		}
		d, ok := spec.Device.(*types.VirtualDisk)
		if !ok {
			continue
		}
		switch spec.Operation {
		case types.VirtualDeviceConfigSpecOperationAdd:
			if f := l.checkDisk(m, spec, d); f != nil {
				return nil, f
			}
		case types.VirtualDeviceConfigSpecOperationEdit:
			if f := l.checkEdit(m, d); f != nil {
				return nil, f
			}
			spec.FileOperation = "" // govmomi says replace; ESX keeps the content, the simulator would not
		case types.VirtualDeviceConfigSpecOperationRemove:
			have := m.disks[d.Key]
			if have == nil {
				return nil, &types.InvalidDeviceSpec{DeviceIndex: int32(n)}
			}
			if spec.FileOperation == types.VirtualDeviceConfigSpecFileOperationDestroy {
				if l.use(have.image, m) != unused {
					return nil, locked(have.image)
				}
				destroyed = append(destroyed, have.image)
				spec.FileOperation = ""
			}
		}
	}
	return destroyed, nil
}

// checkNetwork refuses networks that the host does not have; the simulator would end the process.
func (l *Lab) checkNetwork(ctx *simulator.Context, n int32, spec *types.VirtualDeviceConfigSpec) types.BaseMethodFault {
	nic, ok := spec.Device.(types.BaseVirtualEthernetCard)
	if !ok || spec.Operation == types.VirtualDeviceConfigSpecOperationRemove {
		return nil
	}
	if b, ok := nic.GetVirtualEthernetCard().Backing.(*types.VirtualEthernetCardNetworkBackingInfo); ok {
		dc := ctx.Map.Any("Datacenter").(*simulator.Datacenter)
		if ctx.Map.FindByName(b.DeviceName, dc.Network) == nil {
			return &types.InvalidDeviceBacking{InvalidDeviceSpec: types.InvalidDeviceSpec{
				InvalidVmConfig: types.InvalidVmConfig{Property: "virtualDeviceSpec.device.backing"}, DeviceIndex: n}}
		}
	}
	return nil
}

// checkDisk that shall be added. Its capacity is what the file has.
func (l *Lab) checkDisk(m *machine, spec *types.VirtualDeviceConfigSpec, d *types.VirtualDisk) types.BaseMethodFault {
	b, ok := d.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
	if !ok {
		return &types.DeviceUnsupportedForVmPlatform{}
	}
	if spec.FileOperation != "" {
		if f := l.orders.noSpace(b.FileName); f != nil {
			return f
		}
		if b.Uuid == "" {
			b.Uuid = uuid.NewString() // the simulator would derive it from the path
		}
		if b.Parent == nil {
			return nil
		}
		parent := l.known(b.Parent.FileName)
		if parent == nil {
			return &types.FileNotFound{FileFault: types.FileFault{File: b.Parent.FileName}}
		}
		if !parent.whole() {
			return &types.GenericVmConfigFault{Reason: "The parent virtual disk has been modified since the child was created."}
		}
		if l.use(parent, m) == writing {
			return locked(parent)
		}
		return nil
	}
	i := l.known(b.FileName)
	if i == nil {
		return &types.FileNotFound{FileFault: types.FileFault{File: b.FileName}}
	}
	b.Parent = nil // said again by publish, as it is
	d.CapacityInBytes, d.CapacityInKB = i.size, i.size/1024
	if m.on {
		return l.lock(m, i, mode(d))
	}
	return nil
}

// checkEdit refuses to grow what snapshots rely on.
func (l *Lab) checkEdit(m *machine, d *types.VirtualDisk) types.BaseMethodFault {
	have := m.disks[d.Key]
	size := max(d.CapacityInBytes, d.CapacityInKB*1024)
	if have == nil || size <= have.image.size {
		return nil
	}
	if have.image.parent != nil || len(m.snaps) > 0 {
		return &types.InvalidDeviceOperation{BadOp: types.VirtualDeviceConfigSpecOperationEdit}
	}
	if l.use(have.image, m) != unused {
		return locked(have.image)
	}
	return l.orders.noSpace(have.image.path)
}

// adopt the disks that a machine has after a change. l.mu is held.
func (l *Lab) adopt(m *machine, x *simulator.VirtualMachine, changes []types.BaseVirtualDeviceConfigSpec) types.BaseMethodFault {
	for _, c := range changes {
		spec := c.GetVirtualDeviceConfigSpec()
		d, ok := spec.Device.(*types.VirtualDisk)
		if !ok || spec.FileOperation == "" || spec.Operation != types.VirtualDeviceConfigSpecOperationAdd {
			continue
		}
		if f := l.make(d); f != nil {
			return f
		}
	}
	devices := object.VirtualDeviceList(x.Config.Hardware.Device)
	seen := map[int32]bool{}
	for _, dev := range devices.SelectByType((*types.VirtualDisk)(nil)) {
		d := dev.(*types.VirtualDisk)
		b, ok := d.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
		if !ok {
			continue
		}
		seen[d.Key] = true
		i := l.known(b.FileName)
		if i == nil {
			return &types.FileNotFound{FileFault: types.FileFault{File: b.FileName}}
		}
		have := m.disks[d.Key]
		if have == nil || have.image != i {
			have = &disk{key: d.Key, image: i}
			m.disks[d.Key] = have
		}
		have.name, have.mode = slot(devices, d), mode(d)
		if d.CapacityInBytes > i.size {
			if err := i.grow(l.local(i.path), d.CapacityInBytes); err != nil {
				return trouble(i.path, err)
			}
			if have.history != nil {
				have.history = l.begin()
			}
		}
	}
	for key, d := range m.disks {
		if !seen[key] {
			l.vanish(d)
			delete(m.disks, key)
		}
	}
	return nil
}

// make the content of a new disk, or of a layer above an existing one. l.mu is held.
func (l *Lab) make(d *types.VirtualDisk) types.BaseMethodFault {
	b := d.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
	if b.Parent == nil {
		i, err := l.create(b.FileName, d.CapacityInBytes)
		if err != nil {
			return trouble(b.FileName, err)
		}
		if b.Uuid != "" {
			i.uuid = b.Uuid
		}
		return nil
	}
	parent := l.known(b.Parent.FileName)
	if parent == nil {
		return &types.FileNotFound{FileFault: types.FileFault{File: b.Parent.FileName}}
	}
	// The simulator made the content of a base.
	if err := removeIfThere(flat(l.local(b.FileName))); err != nil {
		return trouble(b.FileName, err)
	}
	if _, err := l.layer(b.FileName, parent, b.Uuid); err != nil {
		return trouble(b.FileName, err)
	}
	return nil
}

func mode(d *types.VirtualDisk) types.VirtualDiskMode {
	if b, ok := d.Backing.(*types.VirtualDiskFlatVer2BackingInfo); ok && b.DiskMode != "" {
		return types.VirtualDiskMode(b.DiskMode)
	}
	return types.VirtualDiskModePersistent
}

// publish what the lab knows of a machine's disks in its configuration and in those of its snapshots. l.mu is held, and so
// is the machine's lock.
func (l *Lab) publish(ctx *simulator.Context, m *machine) {
	x := ctx.Map.Get(m.ref).(*simulator.VirtualMachine)
	devices := slices.Clone(x.Config.Hardware.Device)
	for i, dev := range devices {
		if d, ok := dev.(*types.VirtualDisk); ok && m.disks[d.Key] != nil {
			devices[i] = said(d, m.disks[d.Key].image, m.disks[d.Key].history.id())
		}
	}
	ctx.Update(x, []types.PropertyChange{{Name: "config.hardware.device", Val: devices}})
	for ref, snap := range m.snaps {
		s, ok := ctx.Map.Get(ref).(*simulator.VirtualMachineSnapshot)
		if !ok {
			continue
		}
		frozen := slices.Clone(s.Config.Hardware.Device)
		for i, dev := range frozen {
			if d, ok := dev.(*types.VirtualDisk); ok && snap[d.Key].image != nil {
				frozen[i] = said(d, snap[d.Key].image, snap[d.Key].change)
			}
		}
		ctx.WithLock(s, func() { s.Config.Hardware.Device = frozen })
	}
}

// said is a disk of a configuration as it is now. The one that was given stays as it is, for somebody may be reading it.
func said(d *types.VirtualDisk, i *image, change string) *types.VirtualDisk {
	old, ok := d.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
	if !ok {
		return d
	}
	now, b := *d, *old
	now.CapacityInBytes, now.CapacityInKB, now.Backing = i.size, i.size/1024, &b
	b.FileName, b.Uuid, b.ChangeId, b.Parent = i.path, i.uuid, change, nil
	for at, below := &b, i.parent; below != nil; at, below = at.Parent, below.parent {
		at.Parent = &types.VirtualDiskFlatVer2BackingInfo{
			VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: below.path, Datastore: b.Datastore},
			DiskMode:                     b.DiskMode,
			ThinProvisioned:              b.ThinProvisioned,
			Uuid:                         below.uuid,
		}
	}
	return &now
}

// copied devices share nothing with those they were copied from, so that nobody reads what is being changed.
func copied(devices []types.BaseVirtualDevice) []types.BaseVirtualDevice {
	b, err := xml.Marshal(types.ArrayOfVirtualDevice{VirtualDevice: devices})
	if err != nil {
		panic(err) // they came as XML
	}
	d := xml.NewDecoder(bytes.NewReader(b))
	d.TypeFunc = types.TypeFunc()
	var out types.ArrayOfVirtualDevice
	if err := d.Decode(&out); err != nil {
		panic(err)
	}
	return out.VirtualDevice
}
