package kvm

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/google/uuid"
	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"understudy/hypervisors"
)

// replicaDir is the folder of all replicas within a storage.
const replicaDir = "understudy"

// targets are the replicas that were met on this connection.
type targets struct {
	mu   sync.Mutex
	byID map[string]*replica
}

// replica returns the one handle of a replica, so that drafts and readers of it know of each other.
func (h *host) replicaAt(id, dir string) *replica {
	h.targets.mu.Lock()
	defer h.targets.mu.Unlock()
	if r := h.targets.byID[id]; r != nil && r.dir == dir {
		return r
	}
	if h.targets.byID == nil {
		h.targets.byID = map[string]*replica{}
	}
	r := &replica{host: h, id: id, dir: dir, turn: make(chan struct{}, 1), readers: map[string]int{}}
	h.targets.byID[id] = r
	return r
}

func (h *host) replicaMet(id string) *replica {
	h.targets.mu.Lock()
	defer h.targets.mu.Unlock()
	return h.targets.byID[id]
}

// Replica finds a replica by its folder, in whichever storage that is.
func (h *host) Replica(ctx context.Context, id string) (hypervisors.Replica, error) {
	r, err := h.findReplica(ctx, id)
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (h *host) findReplica(ctx context.Context, id string) (*replica, error) {
	fail := func(err error) (*replica, error) {
		return nil, &hypervisors.Error{Op: "find", Subject: "replica " + id, Err: err}
	}
	if err := valid("replica", replicaID, id); err != nil {
		return fail(err)
	}
	// Where it was the last time, it is mostly still; looking through all storages takes many calls.
	if r := h.replicaMet(id); r != nil {
		if m, err := readManifest(ctx, h.place, r.dir); err == nil && m.Owner == h.owner && !m.Removed {
			return r, nil
		}
	}
	places, err := h.Storage(ctx)
	if err != nil {
		return fail(err)
	}
	for _, s := range places {
		dir := path.Join(s.Path, replicaDir, id)
		m, err := readManifest(ctx, h.place, dir)
		if absent(err) {
			continue
		}
		if err == nil && m.Owner != h.owner {
			err = fmt.Errorf("%w: appliance %s", hypervisors.ErrForeign, m.Owner)
		}
		if err == nil && m.Removed {
			if err = h.replicaAt(id, dir).finishRemoval(ctx, m); err == nil {
				continue
			}
		}
		if err != nil {
			return fail(err)
		}
		return h.replicaAt(id, dir), nil
	}
	return nil, &hypervisors.Error{Op: "find", Subject: "replica " + id, Err: hypervisors.ErrNotFound,
		Hint: "Look whether the storage pool that holds it is active, and whether somebody removed its folder."}
}

// CreateReplica makes the replica's folder, its stage and its machine, in this order; whatever is missing of an earlier
// try is made.
func (h *host) CreateReplica(ctx context.Context, spec hypervisors.ReplicaSpec) (hypervisors.Replica, error) {
	r, err := h.createReplica(ctx, spec)
	if err != nil {
		return nil, &hypervisors.Error{Op: "create", Subject: "replica " + spec.ID, Err: err}
	}
	return r, nil
}

func (h *host) createReplica(ctx context.Context, spec hypervisors.ReplicaSpec) (*replica, error) {
	r, err := h.findReplica(ctx, spec.ID)
	if err == nil {
		return r, r.refresh(ctx)
	}
	if !errors.Is(err, hypervisors.ErrNotFound) {
		return nil, err
	}
	for _, d := range spec.Hardware.Disks {
		if err := valid("disk", diskID, d.ID); err != nil {
			return nil, err
		}
	}
	storage, err := h.chooseStorage(ctx, spec.Storage)
	if err != nil {
		return nil, err
	}
	if err := h.checkClashes(ctx, spec.Hardware); err != nil {
		return nil, err
	}
	if err := h.checkNetworks(ctx, spec.Hardware.NICs); err != nil {
		return nil, err
	}
	id, err := h.chooseUUID(ctx, spec.PreferUUID)
	if err != nil {
		return nil, err
	}
	m := &manifest{Owner: h.owner, Replica: spec.ID, VM: id, Hardware: spec.Hardware, Stage: stage{Stale: true}}
	// A definition that libvirt would refuse is found before anything is made.
	if _, err := h.newDefinition(ctx, m); err != nil {
		return nil, err
	}
	return h.found(ctx, storage, m)
}

// found makes the folder of a new replica and then all that the manifest asks for. What an error leaves is taken up by
// the next try.
func (h *host) found(ctx context.Context, storage hypervisors.Storage, m *manifest) (*replica, error) {
	dir := path.Join(storage.Path, replicaDir, m.Replica)
	if _, err := h.place.Run(ctx, nil, "mkdir", "-p", "-m", "0711", "--", dir); err != nil {
		return nil, noSpace(err)
	}
	if err := writeManifest(ctx, h.place, dir, m); err != nil {
		return nil, noSpace(err)
	}
	if err := syncPaths(ctx, h.place, path.Dir(dir), storage.Path); err != nil {
		return nil, err
	}
	r := h.replicaAt(m.Replica, dir)
	return r, r.refresh(ctx)
}

// chooseStorage finds a storage by name, or the default.
func (h *host) chooseStorage(ctx context.Context, name string) (hypervisors.Storage, error) {
	all, err := h.Storage(ctx)
	if err != nil {
		return hypervisors.Storage{}, err
	}
	var names []string
	for _, s := range all {
		if s.Name == name || name == "" && s.Default {
			return s, nil
		}
		names = append(names, s.Name)
	}
	return hypervisors.Storage{}, &hypervisors.Error{Op: "use", Subject: fmt.Sprintf("storage %q", name),
		Err: hypervisors.ErrUnknownStorage, Hint: "The host has " + listed(names) + "."}
}

// checkClashes refuses a name or a MAC address that another machine of the host has.
func (h *host) checkClashes(ctx context.Context, hw hypervisors.Hardware) error {
	all, err := h.VMs(ctx)
	if err != nil {
		return err
	}
	for _, vm := range all {
		if vm.Hardware.Name == hw.Name {
			return &hypervisors.Error{Op: "use", Subject: "name " + hw.Name, Err: hypervisors.ErrNameTaken,
				Hint: "A machine of the host has this name; choose another name for the replica."}
		}
		for _, theirs := range vm.Hardware.NICs {
			for _, ours := range hw.NICs {
				if strings.EqualFold(ours.MAC, theirs.MAC) {
					return &hypervisors.Error{Op: "use", Subject: "MAC address " + ours.MAC, Err: hypervisors.ErrMACTaken,
						Hint: fmt.Sprintf("Machine %s of the host has it; is this the machine itself?", vm.Hardware.Name)}
				}
			}
		}
	}
	return nil
}

// checkNetworks refuses networks that the host does not have.
func (h *host) checkNetworks(ctx context.Context, nics []hypervisors.NIC) error {
	all, err := h.Networks(ctx)
	if err != nil {
		return err
	}
	var names []string
	for _, n := range all {
		names = append(names, n.Name)
	}
	for _, nic := range nics {
		known, err := h.isBridge(ctx, nic.Network)
		if err != nil {
			return err
		}
		if !known && !slices.Contains(names, nic.Network) {
			return &hypervisors.Error{Op: "connect", Subject: fmt.Sprintf("NIC %s to network %q", nic.MAC, nic.Network),
				Err: hypervisors.ErrUnknownNetwork, Hint: "The host has " + listed(names) + "."}
		}
	}
	return nil
}

// isBridge says that a network is a bridge of the host. Those that no machine uses yet are in no list.
func (h *host) isBridge(ctx context.Context, network string) (bool, error) {
	name, ok := strings.CutPrefix(network, bridgePrefix)
	if !ok || name == "" || strings.ContainsAny(name, "/.") {
		return false, nil
	}
	// The output is empty for a device that is no bridge.
	out, err := h.place.Run(ctx, nil, "ip", "-o", "link", "show", "dev", name, "type", "bridge")
	var refused *runError
	if errors.As(err, &refused) {
		return false, nil
	}
	return len(out) > 0, err
}

// chooseUUID takes the preferred one when it is free.
func (h *host) chooseUUID(ctx context.Context, prefer string) (string, error) {
	id, err := uuid.Parse(prefer)
	if err != nil {
		return uuid.NewString(), nil
	}
	d, err := h.domain(ctx, id.String())
	switch {
	case errors.Is(err, hypervisors.ErrNotFound):
		return id.String(), nil
	case err != nil:
		return "", err
	}
	return uuid.NewString(), d.Free()
}

func listed(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// Adopt takes a machine over, or its live run back. The machine's definition is in the manifest before it is changed.
func (h *host) Adopt(ctx context.Context, spec hypervisors.AdoptSpec) (hypervisors.Replica, error) {
	r, err := h.adopt(ctx, spec)
	if err != nil {
		return nil, &hypervisors.Error{Op: "adopt", Subject: "machine " + spec.VM, Err: err}
	}
	return r, nil
}

func (h *host) adopt(ctx context.Context, spec hypervisors.AdoptSpec) (*replica, error) {
	if err := valid("replica", replicaID, spec.ID); err != nil {
		return nil, err
	}
	vm, err := h.VM(ctx, spec.VM)
	if err != nil {
		return nil, err
	}
	r, err := h.findReplica(ctx, spec.ID)
	switch {
	case err == nil:
		return r, r.readopt(ctx, vm)
	case !errors.Is(err, hypervisors.ErrNotFound):
		return nil, err
	case vm.Replica != "":
		return nil, &hypervisors.Error{Op: "use", Subject: "machine " + vm.Hardware.Name,
			Err: fmt.Errorf("%w: it is replica %s already", hypervisors.ErrInUse, vm.Replica)}
	}
	if err := mustBeOff(vm); err != nil {
		return nil, err
	}
	storage, err := h.chooseStorage(ctx, spec.Storage)
	if err != nil {
		return nil, err
	}
	// Tracking goes: from now on the disks change in ways that it would not see.
	var moments []hypervisors.ChangeID
	if err := h.eachMoment(ctx, vm.ID, func(_ *libvirt.DomainCheckpoint, name string) error {
		moments = append(moments, hypervisors.ChangeID(name))
		return nil
	}); err != nil {
		return nil, err
	}
	if err := h.Forget(ctx, vm.ID, moments...); err != nil {
		return nil, err
	}
	own, err := h.ownDefinition(ctx, vm)
	if err != nil {
		return nil, err
	}
	m := &manifest{Owner: h.owner, Replica: spec.ID, VM: vm.ID, Hardware: vm.Hardware, Adopted: own, Stage: stage{Stale: true}}
	return h.found(ctx, storage, m)
}

func mustBeOff(vm hypervisors.VM) error {
	if vm.State == hypervisors.Off {
		return nil
	}
	return &hypervisors.Error{Op: "use", Subject: "machine " + vm.Hardware.Name, Err: hypervisors.ErrRunning, Hint: "Shut it down first."}
}

// ownDefinition is what an adopted machine will get back.
func (h *host) ownDefinition(ctx context.Context, vm hypervisors.VM) (*adopted, error) {
	d, err := h.domain(ctx, vm.ID)
	if err != nil {
		return nil, err
	}
	defer d.Free()
	if saved, err := d.HasManagedSaveImage(0); err != nil {
		return nil, virtError(err)
	} else if saved {
		return nil, &hypervisors.Error{Op: "use", Subject: "machine " + vm.Hardware.Name,
			Err:  fmt.Errorf("%w: its memory is saved to disk", hypervisors.ErrRunning),
			Hint: "Start it and shut it down, or remove the saved memory (virsh managedsave-remove)."}
	}
	text, err := d.GetXMLDesc(libvirt.DOMAIN_XML_INACTIVE | libvirt.DOMAIN_XML_SECURE)
	if err != nil {
		return nil, virtError(err)
	}
	autostart, err := d.GetAutostart()
	if err != nil {
		return nil, virtError(err)
	}
	own := &adopted{Definition: text, Autostart: autostart}
	for _, disk := range vm.Hardware.Disks {
		if disk.Excluded == "" {
			own.Disks = append(own.Disks, ground{Disk: disk.ID, Path: disk.Path, Format: disk.Format, Size: disk.Size})
		}
	}
	if len(own.Disks) == 0 {
		return nil, fmt.Errorf("%w: it has no disk that can be protected", hypervisors.ErrInvalid)
	}
	return own, nil
}

// inactive reads the definition of a machine as it will be at the next start; nil when there is no such machine.
func (h *host) inactive(ctx context.Context, id string) (*libvirtxml.Domain, error) {
	d, err := h.domain(ctx, id)
	if errors.Is(err, hypervisors.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer d.Free()
	text, err := d.GetXMLDesc(libvirt.DOMAIN_XML_INACTIVE | libvirt.DOMAIN_XML_SECURE)
	if err != nil {
		return nil, virtError(err)
	}
	var def libvirtxml.Domain
	return &def, def.Unmarshal(text)
}
