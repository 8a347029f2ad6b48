package esx

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"understudy/hypervisors"
	"understudy/snapshot"
)

// tagDisks has the layout of a replica's disks as it is now.
const tagDisks = "understudy.disks"

// mapUnit is what the size of a block map's disk is rounded up to, so that few disks that grow need a larger one.
const mapUnit = 1 << 20

// layout says which disk of a replica is which. A replica's disks have the ids of its source's, wherever they are here.
type layout []place

// place of a disk.
type place struct {
	ID  string `json:"id"`
	At  string `json:"at"`  // as the id of a disk of our own, "scsi0-1"
	Map string `json:"map"` // where the disk with its block map is; taken out while the replica runs
	Bus string `json:"bus"` // as it was asked for
	// Controller as it was asked for, on a SCSI bus.
	Controller string `json:"controller,omitempty"`
	Boot       int    `json:"boot,omitempty"`
	Size       int64  `json:"size"` // as it was asked for
}

// asked is the place of a disk as it is asked for; where it is comes later.
func asked(d hypervisors.Disk) place {
	return place{ID: d.ID, Bus: d.Bus, Controller: d.Controller, Boot: d.Boot, Size: d.Size}
}

// kind of device that serves what was asked for, of those that [devices] has; "scsi" is any that is one. What no machine
// here can have is on SCSI, too.
func (p place) kind() string {
	switch kind := (hypervisors.Disk{Bus: p.Bus, Controller: p.Controller}).Attached(); {
	case slices.Contains(devices.Disks, kind):
		return kind
	case p.Bus == "ide":
		return "sata"
	}
	return "scsi"
}

// layoutOf a machine; nil: its disks are what they are.
func layoutOf(c *types.VirtualMachineConfigInfo) layout {
	var l layout
	if err := json.Unmarshal([]byte(tag(c, tagDisks)), &l); err != nil {
		return nil
	}
	return l
}

func (l layout) tag() types.BaseOptionValue {
	b, err := json.Marshal(l)
	if err != nil {
		panic(err) // it is text and numbers
	}
	return &types.OptionValue{Key: tagDisks, Value: string(b)}
}

func (l layout) of(id string) *place {
	if i := slices.IndexFunc(l, func(p place) bool { return p.ID == id }); i >= 0 {
		return &l[i]
	}
	return nil
}

// seen is a disk of a machine, and what is told of it.
type seen struct {
	*types.VirtualDisk
	shown hypervisors.Disk
}

// disksOf a machine: those that are its own business, in the order of its layout, with what is told of them.
func disksOf(c *types.VirtualMachineConfigInfo) []seen {
	devices := inOrder(c.Hardware.Device)
	boot := bootOrder(c, devices)
	l := layoutOf(c)
	rank := func(s seen) int {
		if i := slices.IndexFunc(l, func(p place) bool { return p.ID == s.shown.ID }); i >= 0 {
			return i
		}
		return len(l)
	}
	var out []seen
	for _, d := range devices.SelectByType((*types.VirtualDisk)(nil)) {
		s := seen{d.(*types.VirtualDisk), diskOf(d.(*types.VirtualDisk), devices)}
		s.shown.Boot = boot[s.Key]
		at := s.shown.ID
		if slices.ContainsFunc(l, func(p place) bool { return p.Map == at }) {
			continue
		}
		if i := slices.IndexFunc(l, func(p place) bool { return p.At == at }); i >= 0 {
			s.shown.ID, s.shown.Bus, s.shown.Controller, s.shown.Boot, s.shown.Size = l[i].ID, l[i].Bus, l[i].Controller, l[i].Boot, l[i].Size
		}
		out = append(out, s)
	}
	slices.SortStableFunc(out, func(a, b seen) int { return rank(a) - rank(b) })
	return out
}

// diskAt finds the disk at a place.
func diskAt(devices object.VirtualDeviceList, at string) *types.VirtualDisk {
	for _, d := range devices.SelectByType((*types.VirtualDisk)(nil)) {
		if disk := d.(*types.VirtualDisk); diskOf(disk, devices).ID == at {
			return disk
		}
	}
	return nil
}

// changes of a machine's devices, gathered for one order.
type changes struct {
	devices object.VirtualDeviceList // as they will be
	specs   []types.BaseVirtualDeviceConfigSpec
	key     int32
}

func (c *changes) newKey() int32 {
	c.key--
	return c.key
}

func (c *changes) add(d types.BaseVirtualDevice, file types.VirtualDeviceConfigSpecFileOperation) {
	c.devices = append(c.devices, d)
	c.specs = append(c.specs, &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationAdd, FileOperation: file, Device: d})
}

// remove takes a disk out; with destroy its file goes, too.
func (c *changes) remove(d *types.VirtualDisk, file types.VirtualDeviceConfigSpecFileOperation) {
	c.devices = slices.DeleteFunc(c.devices, func(o types.BaseVirtualDevice) bool { return o.GetVirtualDevice().Key == d.Key })
	c.specs = append(c.specs, &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationRemove, FileOperation: file, Device: d})
}

// place finds a controller of the kind with a free unit, or adds one.
func (c *changes) place(kind, wanted string) (controller types.BaseVirtualController, unit int32, err error) {
	bus, _, _ := strings.Cut(kind, "/")
	number := int32(0)
	for _, d := range c.devices {
		have, ok := d.(types.BaseVirtualController)
		if !ok || busOf(have) != bus {
			continue
		}
		number = max(number, have.GetVirtualController().BusNumber+1)
		if kind != bus && kind != bus+"/"+scsiKind(have) {
			continue
		}
		free := []int32{}
		for unit := range unitsOf[bus] {
			if (bus != "scsi" || unit != ownUnit) && !slices.ContainsFunc(c.devices, func(o types.BaseVirtualDevice) bool {
				v := o.GetVirtualDevice()
				return v.ControllerKey == d.GetVirtualDevice().Key && v.UnitNumber != nil && *v.UnitNumber == unit
			}) {
				free = append(free, unit)
			}
		}
		for _, unit := range free {
			if wanted == placeName(have, unit) {
				return have, unit, nil
			}
		}
		if len(free) > 0 {
			return have, free[0], nil
		}
	}
	if number > 3 {
		return nil, 0, fmt.Errorf("%w: there is no place for one more disk", hypervisors.ErrInvalid)
	}
	d := newController(kind, types.VirtualController{VirtualDevice: types.VirtualDevice{Key: c.newKey()}, BusNumber: number})
	c.add(d, "")
	return d.(types.BaseVirtualController), 0, nil
}

// newController makes one of a kind of [devices]; where any will do it is the paravirtual one, which is quickest.
func newController(kind string, base types.VirtualController) types.BaseVirtualDevice {
	scsi := types.VirtualSCSIController{VirtualController: base, SharedBus: types.VirtualSCSISharingNoSharing}
	switch kind {
	case "sata":
		return &types.VirtualAHCIController{VirtualSATAController: types.VirtualSATAController{VirtualController: base}}
	case "nvme":
		return &types.VirtualNVMEController{VirtualController: base}
	case "scsi/lsisas1068":
		return &types.VirtualLsiLogicSASController{VirtualSCSIController: scsi}
	case "scsi/lsilogic":
		return &types.VirtualLsiLogicController{VirtualSCSIController: scsi}
	}
	return &types.ParaVirtualSCSIController{VirtualSCSIController: scsi}
}

// unitsOf a controller, by its bus.
var unitsOf = map[string]int32{"scsi": unitsPerController, "sata": 30, "nvme": 15}

func placeName(c types.BaseVirtualController, unit int32) string {
	return fmt.Sprintf("%s%d-%d", busOf(c), c.GetVirtualController().BusNumber, unit)
}

// addDisk adds a disk on a file, by a controller of the kind; create makes it. It gives its place.
func (c *changes) addDisk(kind, wanted string, backing *types.VirtualDiskFlatVer2BackingInfo, size int64, create bool) (string, error) {
	controller, unit, err := c.place(kind, wanted)
	if err != nil {
		return "", err
	}
	d := &types.VirtualDisk{VirtualDevice: types.VirtualDevice{Key: c.newKey(), ControllerKey: controller.GetVirtualController().Key, UnitNumber: &unit, Backing: backing},
		CapacityInBytes: size, CapacityInKB: size >> 10}
	op := types.VirtualDeviceConfigSpecFileOperation("")
	if create {
		op = types.VirtualDeviceConfigSpecFileOperationCreate
	}
	c.add(d, op)
	return placeName(controller, unit), nil
}

func thin(file string) *types.VirtualDiskFlatVer2BackingInfo {
	return &types.VirtualDiskFlatVer2BackingInfo{VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: file},
		DiskMode: string(types.VirtualDiskModePersistent), ThinProvisioned: types.NewBool(true)}
}

// addNew adds an empty disk and one for its block map, on files of their own.
func (c *changes) addNew(p place, folder, nonce string) (place, error) {
	var err error
	stem := folder + "/" + p.ID + "-" + nonce
	if p.At, err = c.addDisk(p.kind(), p.ID, thin(stem+".vmdk"), p.Size, true); err != nil {
		return p, err
	}
	return c.addMap(p, folder, nonce)
}

func (c *changes) addMap(p place, folder, nonce string) (_ place, err error) {
	p.Map, err = c.addDisk("scsi", "", thin(folder+"/"+p.ID+"-"+nonce+"-map.vmdk"), mapCapacity(p.Size), true)
	return p, err
}

// mapCapacity is the size of the disk that holds a block map.
func mapCapacity(size int64) int64 { return (snapshot.MapSize(size) + mapUnit - 1) / mapUnit * mapUnit }

// firstFree gives a boot place as it is asked for, unless another disk has it.
func (l layout) boot(asked int) int {
	if asked > 0 && slices.ContainsFunc(l, func(p place) bool { return p.Boot == asked }) {
		return 0
	}
	return asked
}

// folderOf the machine's files, "[datastore] folder".
func folderOf(c *types.VirtualMachineConfigInfo) string {
	if i := strings.LastIndex(c.Files.VmPathName, "/"); i > 0 {
		return c.Files.VmPathName[:i]
	}
	return strings.TrimSuffix(c.Files.VmPathName, ".vmx")
}
