package lab

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
	"golang.org/x/sys/unix"

	"understudy/hypervisors"
)

// AddVM creates a machine that is off, on hardware that can track changes, with some data on its first disk; its id is its
// InstanceUuid. Disks get slots in order, scsi0:0 and so on (unit 7 is the controller's own); Write and Read know them by
// the ids given here as well. A NIC without a network is on Network.
func (l *Lab) AddVM(hw hypervisors.Hardware) (string, error) {
	id := uuid.NewString()
	spec := types.VirtualMachineConfigSpec{
		Name: hw.Name, Uuid: uuid.NewString(), InstanceUuid: id, Version: "vmx-14", GuestId: "otherGuest64",
		NumCPUs: int32(max(hw.CPUs, 1)), MemoryMB: max(hw.Memory>>20, 64), Firmware: "bios",
		Files: &types.VirtualMachineFileInfo{VmPathName: "[" + Datastore + "]"},
	}
	if hw.Firmware == hypervisors.UEFI {
		spec.Firmware = "efi"
		spec.BootOptions = &types.VirtualMachineBootOptions{EfiSecureBootEnabled: &hw.SecureBoot}
	}
	devices, names, err := l.devices(hw)
	if err != nil {
		return "", err
	}
	if spec.DeviceChange, err = devices.ConfigSpec(types.VirtualDeviceConfigSpecOperationAdd); err != nil {
		return "", err
	}
	ref, err := l.createMachine(context.Background(), spec)
	if err != nil {
		return "", fmt.Errorf("add %s: %w", hw.Name, err)
	}
	return id, l.born(ref, hw, names)
}

// born gives a new machine its guest: tools, when it has a channel for them, and data.
func (l *Lab) born(ref types.ManagedObjectReference, hw hypervisors.Hardware, names map[string]string) error {
	reg := l.model.Map()
	x := reg.Get(ref).(*simulator.VirtualMachine)
	ctx := &simulator.Context{Map: reg, Context: context.Background()}
	if hw.GuestAgent {
		ctx.WithLock(x, func() {
			guest := *x.Guest
			guest.ToolsRunningStatus = string(types.VirtualMachineToolsRunningStatusGuestToolsRunning)
			guest.ToolsStatus = types.VirtualMachineToolsStatusToolsOk
			guest.HostName = hw.Name
			ctx.Update(x, []types.PropertyChange{{Name: "guest", Val: guest}})
		})
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.machines[ref]
	m.names = names
	if len(hw.Disks) == 0 {
		return nil
	}
	d, err := m.named(hw.Disks[0].ID)
	if err != nil {
		return err
	}
	data := make([]byte, min(d.image.size, 1<<20))
	random := rand.NewChaCha8([32]byte([]byte(strings.Repeat(m.id, 2))[:32]))
	_, _ = random.Read(data) // it cannot fail
	return write(d.image.content, 0, data)
}

// devices of a machine, and what AddVM called its disks.
func (l *Lab) devices(hw hypervisors.Hardware) (object.VirtualDeviceList, map[string]string, error) {
	var devices object.VirtualDeviceList
	controller, err := devices.CreateSCSIController("pvscsi")
	if err != nil {
		return nil, nil, err
	}
	devices = append(devices, controller)
	names := map[string]string{}
	for n, d := range hw.Disks {
		unit := int32(n)
		if unit >= 7 {
			unit++
		}
		if unit > 15 {
			return nil, nil, fmt.Errorf("%d disks: one controller holds 15", len(hw.Disks))
		}
		if d.ID != "" {
			names[d.ID] = fmt.Sprintf("scsi0:%d", unit)
		}
		devices = append(devices, &types.VirtualDisk{
			VirtualDevice: types.VirtualDevice{
				Key: -int32(200 + n), ControllerKey: controller.GetVirtualDevice().Key, UnitNumber: &unit,
				Backing: &types.VirtualDiskFlatVer2BackingInfo{
					VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{
						FileName: fmt.Sprintf("[%s] %s/%s.vmdk", Datastore, hw.Name, diskFile(hw.Name, n))},
					DiskMode: string(types.VirtualDiskModePersistent), ThinProvisioned: types.NewBool(true),
				},
			},
			CapacityInBytes: d.Size, CapacityInKB: d.Size / 1024,
		})
	}
	for n, nic := range hw.NICs {
		network := nic.Network
		if network == "" {
			network = Network
		}
		kind := nic.Model
		if kind == "" || kind == "virtio" {
			kind = "vmxnet3"
		}
		card, err := devices.CreateEthernetCard(kind, &types.VirtualEthernetCardNetworkBackingInfo{
			VirtualDeviceDeviceBackingInfo: types.VirtualDeviceDeviceBackingInfo{DeviceName: network}})
		if err != nil {
			return nil, nil, err
		}
		c := card.(types.BaseVirtualEthernetCard).GetVirtualEthernetCard()
		c.Key = -int32(300 + n)
		if nic.MAC != "" {
			c.AddressType, c.MacAddress = string(types.VirtualEthernetCardMacTypeManual), nic.MAC
		}
		devices = append(devices, card)
	}
	return devices, names, nil
}

func diskFile(name string, n int) string {
	if n == 0 {
		return name
	}
	return fmt.Sprintf("%s_%d", name, n)
}

func (l *Lab) createMachine(ctx context.Context, spec types.VirtualMachineConfigSpec) (types.ManagedObjectReference, error) {
	var none types.ManagedObjectReference
	f := find.NewFinder(l.client.Client)
	dc, err := f.DefaultDatacenter(ctx)
	if err != nil {
		return none, err
	}
	folders, err := dc.Folders(ctx)
	if err != nil {
		return none, err
	}
	host := object.NewHostSystem(l.client.Client, l.host)
	pool, err := host.ResourcePool(ctx)
	if err != nil {
		return none, err
	}
	t, err := folders.VmFolder.CreateVM(ctx, spec, pool, host)
	if err != nil {
		return none, err
	}
	info, err := t.WaitForResultEx(ctx)
	if err != nil {
		return none, err
	}
	return info.Result.(types.ManagedObjectReference), nil
}

// addAppliance creates and starts the machine that the appliance would run in, with controllers to attach disks to.
func (l *Lab) addAppliance(ctx context.Context) error {
	var devices object.VirtualDeviceList
	for range 4 {
		c, err := devices.CreateSCSIController("pvscsi")
		if err != nil {
			return err
		}
		devices = append(devices, c)
	}
	changes, err := devices.ConfigSpec(types.VirtualDeviceConfigSpecOperationAdd)
	if err != nil {
		return err
	}
	ref, err := l.createMachine(ctx, types.VirtualMachineConfigSpec{
		Name: applianceName, Uuid: l.appliance, InstanceUuid: l.appliance, Version: "vmx-14", GuestId: "otherGuest64",
		NumCPUs: 2, MemoryMB: 1024, Files: &types.VirtualMachineFileInfo{VmPathName: "[" + Datastore + "]"},
		ExtraConfig:  []types.BaseOptionValue{&types.OptionValue{Key: "disk.EnableUUID", Value: "TRUE"}},
		DeviceChange: changes,
	})
	if err != nil {
		return fmt.Errorf("create the appliance's machine: %w", err)
	}
	return l.done(object.NewVirtualMachine(l.client.Client, ref).PowerOn(ctx))
}

// Leftovers names what an appliance with nothing at work should not have left: machines beside the named ones and its own,
// and snapshots.
func (l *Lab) Leftovers(ctx context.Context, machines ...string) (left []string, err error) {
	all, err := find.NewFinder(l.client.Client).VirtualMachineList(ctx, "*")
	if err != nil {
		return nil, err
	}
	for _, vm := range all {
		var m mo.VirtualMachine
		if err := vm.Properties(ctx, vm.Reference(), []string{"name", "snapshot"}, &m); err != nil {
			return nil, err
		}
		if m.Name != applianceName && !slices.Contains(machines, m.Name) {
			left = append(left, "machine "+m.Name+" at ESX")
		}
		if m.Snapshot != nil {
			left = append(left, "snapshots of machine "+m.Name+" at ESX")
		}
	}
	return left, nil
}

// applianceName is what the appliance's own machine is called.
const applianceName = "understudy-appliance"

func (l *Lab) done(t *object.Task, err error) error {
	if err != nil {
		return err
	}
	return t.WaitEx(context.Background())
}

// find a machine by its id. l.mu is held.
func (l *Lab) find(id string) (*machine, error) {
	for _, m := range l.machines {
		if m.id == id {
			return m, nil
		}
	}
	return nil, fmt.Errorf("machine %s: %w", id, os.ErrNotExist)
}

// VM is a machine as the administrator's client sees it.
func (l *Lab) VM(id string) (*object.VirtualMachine, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m, err := l.find(id)
	if err != nil {
		return nil, err
	}
	return object.NewVirtualMachine(l.client.Client, m.ref), nil
}

// PowerOn a machine.
func (l *Lab) PowerOn(id string) error {
	x, err := l.VM(id)
	if err != nil {
		return err
	}
	return l.done(x.PowerOn(context.Background()))
}

// PowerOff a machine, at once.
func (l *Lab) PowerOff(id string) error {
	x, err := l.VM(id)
	if err != nil {
		return err
	}
	return l.done(x.PowerOff(context.Background()))
}

// Remove a machine with its disks and snapshots.
func (l *Lab) Remove(id string) error {
	x, err := l.VM(id)
	if err != nil {
		return err
	}
	return l.done(x.Destroy(context.Background()))
}

// Grow a disk of a machine without snapshots, in bytes.
func (l *Lab) Grow(id, name string, size int64) error {
	x, err := l.VM(id)
	if err != nil {
		return err
	}
	devices, err := x.Device(context.Background())
	if err != nil {
		return err
	}
	n := slices.IndexFunc(devices, func(d types.BaseVirtualDevice) bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		m, err := l.find(id)
		if err != nil {
			return false
		}
		have, err := m.named(name)
		return err == nil && have.key == d.GetVirtualDevice().Key
	})
	if n < 0 {
		return fmt.Errorf("disk %s: %w", name, os.ErrNotExist)
	}
	d := devices[n].(*types.VirtualDisk)
	d.CapacityInBytes, d.CapacityInKB = size, size/1024
	return x.EditDevice(context.Background(), d)
}

// ErrOff says that a guest that does not run cannot write.
var ErrOff = errors.New("the machine is off")

// Write is the guest of a running machine writing to its disk.
func (l *Lab) Write(id, name string, off int64, p []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	m, d, err := l.disk(id, name)
	if err != nil {
		return err
	}
	switch {
	case !m.on:
		return ErrOff
	case off < 0 || off+int64(len(p)) > d.image.size:
		return fmt.Errorf("write %d bytes at %d of disk %s, which has %d: %w", len(p), off, name, d.image.size, os.ErrInvalid)
	case passing(d.mode) && d.private == "":
		return nil
	case passing(d.mode):
		return write(d.private, off, p)
	}
	if err := write(d.image.content, off, p); err != nil {
		return err
	}
	d.history.mark(off, int64(len(p)))
	return nil
}

// Discard is the guest giving space back: it reads as zeros afterwards, and counts as changed.
func (l *Lab) Discard(id, name string, off, n int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	m, d, err := l.disk(id, name)
	if err != nil {
		return err
	}
	if !m.on {
		return ErrOff
	}
	f, err := os.OpenFile(d.image.content, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n); err != nil {
		return err
	}
	d.history.mark(off, n)
	return nil
}

// Read is what a disk holds now.
func (l *Lab) Read(id, name string) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, d, err := l.disk(id, name)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(d.image.content)
}

// Frozen is what a disk held when a snapshot was made.
func (l *Lab) Frozen(id string, snapshot types.ManagedObjectReference, name string) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m, d, err := l.disk(id, name)
	if err != nil {
		return nil, err
	}
	f, ok := m.snaps[snapshot][d.key]
	if !ok {
		return nil, fmt.Errorf("disk %s in snapshot %s: %w", name, snapshot.Value, os.ErrNotExist)
	}
	return os.ReadFile(f.image.content)
}

// ResetTracking begins a new epoch of change tracking, as the host does after a crash; old change ids are void.
func (l *Lab) ResetTracking(id string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	m, err := l.find(id)
	if err != nil {
		return err
	}
	for _, d := range m.disks {
		if d.history != nil {
			d.history = l.begin()
		}
	}
	return nil
}

func (l *Lab) disk(id, name string) (*machine, *disk, error) {
	m, err := l.find(id)
	if err != nil {
		return nil, nil, err
	}
	d, err := m.named(name)
	return m, d, err
}

func write(name string, off int64, p []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(p, off)
	return errors.Join(err, f.Close())
}
