package esx

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	faults "github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"understudy/hypervisors"
)

var (
	replicaID = regexp.MustCompile(`^[a-z0-9-]{1,40}$`)
	pointID   = regexp.MustCompile(`^[a-z0-9.-]{1,40}$`)
	runID     = regexp.MustCompile(`^[a-z0-9-]{1,20}$`)
)

// valid rejects ids that would not make a name.
func valid(what string, pattern *regexp.Regexp, id string) error {
	if pattern.MatchString(id) {
		return nil
	}
	return fmt.Errorf("%w: %q is no id of a %s", hypervisors.ErrInvalid, id, what)
}

// replicas that this connection works with, by id.
type replicas struct {
	mu    sync.Mutex
	known map[string]*replica
}

func (h *host) replica(id string) *replica {
	h.replicas.mu.Lock()
	defer h.replicas.mu.Unlock()
	if h.replicas.known == nil {
		h.replicas.known = map[string]*replica{}
	}
	r := h.replicas.known[id]
	if r == nil {
		r = &replica{host: h, id: id, points: map[types.ManagedObjectReference]*kept{}}
		h.replicas.known[id] = r
	}
	return r
}

// CreateReplica makes the machine with all its disks and marks in one order: there is no half of it.
func (h *host) CreateReplica(ctx context.Context, spec hypervisors.ReplicaSpec) (hypervisors.Replica, error) {
	if err := valid("replica", replicaID, spec.ID); err != nil {
		return nil, fault("create", "replica "+spec.ID, err)
	}
	r := h.replica(spec.ID)
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := r.load(ctx); err == nil {
		return r, nil
	} else if !errors.Is(err, hypervisors.ErrNotFound) {
		return nil, err
	}
	if err := h.create(ctx, spec); err != nil {
		return nil, tell("create", "replica "+spec.ID, err)
	}
	return r, nil
}

func (h *host) create(ctx context.Context, spec hypervisors.ReplicaSpec) error {
	others, err := h.VMs(ctx)
	if err != nil {
		return err
	}
	if err := clash(spec.Hardware, others); err != nil {
		return err
	}
	store, err := h.store(ctx, spec.Storage)
	if err != nil {
		return err
	}
	esx, err := h.esxHost(ctx)
	if err != nil {
		return err
	}
	dc, err := h.datacenter(ctx, esx.Reference())
	if err != nil {
		return err
	}
	hw := spec.Hardware
	folder := "[" + store + "] " + fileName(hw.Name) + "-" + nonce()
	c := &changes{key: -100}
	var l layout
	for _, d := range hw.Disks {
		d.Boot = l.boot(d.Boot)
		p, err := c.addNew(asked(d), folder, "0")
		if err != nil {
			return err
		}
		l = append(l, p)
	}
	guest, err := h.guestID(ctx, esx, hw.OS)
	if err != nil {
		return err
	}
	config := types.VirtualMachineConfigSpec{
		Name: hw.Name, NumCPUs: int32(hw.CPUs), MemoryMB: hw.Memory >> 20, GuestId: guest,
		Firmware: string(types.GuestOsDescriptorFirmwareTypeBios), Files: &types.VirtualMachineFileInfo{VmPathName: folder + "/" + fileName(hw.Name) + ".vmx"},
		Annotation:            "A replica that Understudy keeps. Start it by Understudy: what is changed here is thrown away.",
		ChangeTrackingEnabled: types.NewBool(true), // before there are snapshots, so that it can be protected itself after a failover
		ExtraConfig: []types.BaseOptionValue{&types.OptionValue{Key: tagOwner, Value: h.owner}, &types.OptionValue{Key: tagReplica, Value: spec.ID},
			&types.OptionValue{Key: "uuid.action", Value: "keep"}, &types.OptionValue{Key: "disk.EnableUUID", Value: "TRUE"}, l.tag()},
	}
	if hw.Firmware == hypervisors.UEFI {
		config.Firmware = string(types.GuestOsDescriptorFirmwareTypeEfi)
		config.BootOptions = &types.VirtualMachineBootOptions{EfiSecureBootEnabled: types.NewBool(hw.SecureBoot)}
	}
	if !slices.ContainsFunc(others, func(vm hypervisors.VM) bool { return vm.ID == spec.PreferUUID }) {
		config.Uuid, config.InstanceUuid = spec.PreferUUID, spec.PreferUUID
	}
	for i, n := range hw.NICs {
		card, err := h.nic(ctx, n, c.newKey())
		if err != nil {
			return err
		}
		c.add(card, "")
		if !vmwareMAC(n.MAC) { // of another maker, so that nobody looks whether it is of VMware's own
			config.ExtraConfig = append(config.ExtraConfig, &types.OptionValue{Key: fmt.Sprintf("ethernet%d.checkMACAddress", i), Value: "FALSE"})
		}
	}
	config.DeviceChange = c.specs
	return h.createMachine(ctx, esx, dc, folder, config)
}

// clash finds a name or a MAC address that another machine has.
func clash(hw hypervisors.Hardware, others []hypervisors.VM) error {
	for _, vm := range others {
		if vm.Hardware.Name == hw.Name {
			return &hypervisors.Error{Op: "use", Subject: "name " + hw.Name, Err: hypervisors.ErrNameTaken, Hint: "A machine of the host has it; choose another name for the replica."}
		}
		for _, theirs := range vm.Hardware.NICs {
			if slices.ContainsFunc(hw.NICs, func(n hypervisors.NIC) bool { return strings.EqualFold(n.MAC, theirs.MAC) }) {
				return &hypervisors.Error{Op: "use", Subject: "MAC address " + theirs.MAC, Err: hypervisors.ErrMACTaken, Hint: "Machine " + vm.Hardware.Name + " of the host has it."}
			}
		}
	}
	return nil
}

// createMachine makes a machine in a folder of its own.
func (h *host) createMachine(ctx context.Context, esx *object.HostSystem, dc *object.Datacenter, folder string, config types.VirtualMachineConfigSpec) error {
	pool, err := esx.ResourcePool(ctx)
	if err != nil {
		return err
	}
	folders, err := dc.Folders(ctx)
	if err != nil {
		return err
	}
	if err := object.NewFileManager(h.client).MakeDirectory(ctx, folder, dc, true); err != nil && !faults.Is(err, &types.FileAlreadyExists{}) {
		return err
	}
	t, err := folders.VmFolder.CreateVM(ctx, config, pool, esx)
	if err == nil {
		_, err = h.wait(ctx, "create", "machine "+config.Name, t)
	}
	if err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterwards)
		defer cancel()
		return errors.Join(err, h.removeFile(undo, dc, folder))
	}
	return nil
}

// nic makes a network card.
func (h *host) nic(ctx context.Context, n hypervisors.NIC, key int32) (types.BaseVirtualDevice, error) {
	backing, err := h.networkBacking(ctx, n.Network)
	if err != nil {
		return nil, err
	}
	base := types.VirtualEthernetCard{VirtualDevice: types.VirtualDevice{Key: key, Backing: backing,
		Connectable: &types.VirtualDeviceConnectInfo{StartConnected: true, AllowGuestControl: true, Connected: true}},
		AddressType: string(types.VirtualEthernetCardMacTypeManual), MacAddress: n.MAC}
	switch n.Model {
	case "", "vmxnet3", "vmxnet2", "sriov":
		return &types.VirtualVmxnet3{VirtualVmxnet: types.VirtualVmxnet{VirtualEthernetCard: base}}, nil
	case "e1000":
		return &types.VirtualE1000{VirtualEthernetCard: base}, nil
	}
	return &types.VirtualE1000e{VirtualEthernetCard: base}, nil
}

// networkBacking finds what a card is connected to. A name that the host does not have is never sent to it.
func (h *host) networkBacking(ctx context.Context, name string) (types.BaseVirtualDeviceBackingInfo, error) {
	var all []mo.Network
	if err := h.collect(ctx, "Network", []string{"name"}, &all); err != nil {
		return nil, err
	}
	for _, n := range all {
		if n.Name != name {
			continue
		}
		if n.Self.Type == "Network" {
			return &types.VirtualEthernetCardNetworkBackingInfo{VirtualDeviceDeviceBackingInfo: types.VirtualDeviceDeviceBackingInfo{DeviceName: name}}, nil
		}
		if r, ok := object.NewReference(h.client, n.Self).(object.NetworkReference); ok {
			return r.EthernetCardBackingInfo(ctx)
		}
	}
	return nil, &hypervisors.Error{Op: "use", Subject: "network " + name, Err: hypervisors.ErrUnknownNetwork, Hint: "Choose a network of the host."}
}

// vmwareMAC says that an address is one that ESX lets people choose.
func vmwareMAC(mac string) bool { return strings.HasPrefix(mac, "00:50:56:") && mac < "00:50:56:40" }

// store finds a datastore by name; empty: the default one.
func (h *host) store(ctx context.Context, name string) (string, error) {
	stores, err := h.Storage(ctx)
	if err != nil {
		return "", err
	}
	for _, s := range stores {
		if s.Name == name || name == "" && s.Default {
			return s.Name, nil
		}
	}
	return "", &hypervisors.Error{Op: "use", Subject: "storage " + name, Err: hypervisors.ErrUnknownStorage, Hint: "Choose a datastore of the host."}
}

// hasRoom refuses a datastore that has less free than is going to be written.
func (h *host) hasRoom(ctx context.Context, store string, bytes int64, hint string) error {
	stores, err := h.Storage(ctx)
	if err != nil {
		return err
	}
	for _, s := range stores {
		if s.Name == store && s.Free < bytes {
			return &hypervisors.Error{Op: "use", Subject: "datastore " + store, Hint: hint,
				Err: fmt.Errorf("%w: %d bytes are free, the copy may need %d", hypervisors.ErrNoSpace, s.Free, bytes)}
		}
	}
	return nil
}

// esxHost is where machines are made.
func (h *host) esxHost(ctx context.Context) (*object.HostSystem, error) {
	all, err := h.hosts(ctx, "name")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, esx := range all {
		if esx.Name == h.addr.host || h.addr.host == "" && len(all) == 1 {
			return object.NewHostSystem(h.client, esx.Self), nil
		}
		names = append(names, esx.Name)
	}
	return nil, h.noHome(names)
}

// Adopt marks a machine that is off, and freezes its own disks below a snapshot that stays: the ground.
func (h *host) Adopt(ctx context.Context, spec hypervisors.AdoptSpec) (hypervisors.Replica, error) {
	if err := valid("replica", replicaID, spec.ID); err != nil {
		return nil, fault("adopt", "machine "+spec.VM, err)
	}
	r := h.replica(spec.ID)
	r.mu.Lock()
	defer r.mu.Unlock()
	vm, m, err := h.machine(ctx, spec.VM)
	if err != nil {
		return nil, err
	}
	if err := h.adopt(ctx, r, vm, m); err != nil {
		return nil, tell("adopt", "machine "+m.Name, err)
	}
	r.vm = spec.VM
	return r, nil
}

func (h *host) adopt(ctx context.Context, r *replica, vm *object.VirtualMachine, m mo.VirtualMachine) error {
	if m.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOff {
		return hypervisors.ErrRunning
	}
	s := &state{replica: r, vm: vm, m: m}
	switch owner, id := tag(m.Config, tagOwner), tag(m.Config, tagReplica); {
	case id == "" && owner == "":
		if err := s.tagAll(ctx, tagOwner, h.owner, tagReplica, r.id, tagAdopted, "yes"); err != nil {
			return err
		}
	case owner != h.owner:
		return fmt.Errorf("%w: it is a replica of appliance %s", hypervisors.ErrForeign, owner)
	case id != r.id:
		return fmt.Errorf("%w: it is the replica %s", hypervisors.ErrInUse, id)
	case tag(m.Config, tagAdopted) == "":
		return s.endLive(ctx) // it was made by us, and was production for a while
	}
	if err := s.reload(ctx); err != nil {
		return err
	}
	if s.ground() != nil {
		if tag(s.m.Config, tagRun) == hypervisors.LiveRun {
			return s.endLive(ctx)
		}
		return nil
	}
	if s.m.Snapshot == nil && !yes(s.m.Config.ChangeTrackingEnabled) {
		if err := h.reconfigure(ctx, vm, "switch on change tracking of", "machine "+m.Name, types.VirtualMachineConfigSpec{ChangeTrackingEnabled: types.NewBool(true)}); err != nil {
			return err
		}
	}
	return s.freeze(ctx, groundName, "The disks of this machine as they were when Understudy took it over as a replica. Understudy removes this snapshot itself.")
}

// Replica finds a replica.
func (h *host) Replica(ctx context.Context, id string) (hypervisors.Replica, error) {
	if err := valid("replica", replicaID, id); err != nil {
		return nil, fault("find", "replica "+id, fmt.Errorf("%w: %w", hypervisors.ErrNotFound, err))
	}
	r := h.replica(id)
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := r.load(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

// tell says what a piece of work was about, unless that is told already.
func tell(op, subject string, err error) error {
	if err == nil {
		return nil
	}
	if told := (*hypervisors.Error)(nil); errors.As(err, &told) {
		return err
	}
	return fault(op, subject, err)
}

var unfit = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

// fileName makes a name of a folder of what a person has called a machine.
func fileName(name string) string {
	name = unfit.ReplaceAllString(name, "-")
	return cmp.Or(name[:min(len(name), 60)], "machine")
}

// nonce is what no other file has in its name.
func nonce() string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // it cannot fail
	return hex.EncodeToString(b[:])
}

// collectMachine reads a machine anew.
func (h *host) collectMachine(ctx context.Context, ref types.ManagedObjectReference) (m mo.VirtualMachine, err error) {
	err = property.DefaultCollector(h.client).RetrieveOne(ctx, ref, machineProperties, &m)
	return m, err
}
