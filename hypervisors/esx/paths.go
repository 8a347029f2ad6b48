package esx

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"understudy/hypervisors"
	"understudy/snapshot"
)

// tagProbe marks a machine that has the disk of a probe. It is never turned on.
const tagProbe = "understudy.probe"

// probeBytes is the size of a probe's disk, wayPatience bounds all that is done with one way; tests make them smaller.
var (
	probeBytes  int64 = 64 << 20
	wayPatience       = 30 * time.Second
)

// probeTime bounds each direction.
const probeTime = 8 * time.Second

// ProbePaths tries each way on the disk of a machine that is made for that, as replicas are, and is never turned on.
func (h *host) ProbePaths(ctx context.Context, storage string) (paths []hypervisors.DataPath, err error) {
	vm, m, file, err := h.makeProbe(ctx, storage)
	if vm != nil {
		defer func() {
			undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterwards)
			defer cancel()
			err = errors.Join(err, fault("remove", "machine "+m.Name, h.destroyMachine(undo, vm, m)))
		}()
	}
	if err != nil {
		return nil, tell("make", "a disk for a probe", err)
	}
	trial := snapshot.Trial{Bytes: probeBytes, Time: probeTime, Clock: h.clock}
	var written int64 // what the others read, HotAdd has written
	try := func(way string) (p hypervisors.DataPath) {
		ctx, cancel := context.WithTimeout(ctx, wayPatience)
		defer cancel()
		if way == byHotAdd {
			p, written = h.tryHotAdd(ctx, trial, file)
		} else {
			p = h.tryReading(ctx, way, trial, file, written)
		}
		return p
	}
	paths = append(paths, try(byHotAdd))
	if h.addr.vddk != "" {
		paths = append(paths, try(byVDDK))
	}
	paths = append(paths, try(byHTTPS))
	h.markUsed(paths)
	return paths, context.Cause(ctx)
}

// markUsed says which of the ways [host.read] and drafts take.
func (h *host) markUsed(paths []hypervisors.DataPath) {
	for _, way := range h.ways() {
		if i := slices.IndexFunc(paths, func(p hypervisors.DataPath) bool { return p.Name == way && p.Read > 0 }); i >= 0 {
			paths[i].UsedToRead = true
			break
		}
	}
	for i := range paths {
		paths[i].UsedToWrite = paths[i].Write > 0
	}
}

// tryHotAdd writes the disk by our own machine as drafts do, and reads it as the disks of sources are read.
func (h *host) tryHotAdd(ctx context.Context, trial snapshot.Trial, file diskFile) (p hypervisors.DataPath, written int64) {
	p.Name = byHotAdd
	var read, write int64
	err := h.whileAttached(ctx, file, writing, func(a *attached) (err error) {
		written, write, err = trial.Write(ctx, a)
		return fault("write to", file.file, err)
	})
	if err == nil {
		err = h.whileAttached(ctx, file, reading, func(a *attached) (err error) {
			read, err = trial.Read(ctx, a, written)
			return fault("read", file.file, err)
		})
	}
	if err != nil {
		p.Err = useless(byHotAdd, err, hints[byHotAdd])
		return p, written
	}
	p.Read, p.Write = read, write
	return p, written
}

// whileAttached detaches the disk again, whatever becomes of do.
func (h *host) whileAttached(ctx context.Context, file diskFile, m mode, do func(*attached) error) error {
	all, err := h.attach(ctx, []diskFile{file}, m)
	if err != nil {
		return err
	}
	err = do(all[0])
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterwards)
	defer cancel()
	return errors.Join(err, h.detachAll(undo, all))
}

// tryReading reads what HotAdd has written: where that failed, a disk that is still empty.
func (h *host) tryReading(ctx context.Context, way string, trial snapshot.Trial, file diskFile, written int64) (p hypervisors.DataPath) {
	p.Name = way
	r, err := h.readBy(ctx, way, []diskFile{file})
	if err == nil {
		defer r.ends[0]()
		defer context.AfterFunc(ctx, r.ends[0])()
		p.Read, err = trial.Read(ctx, r.each[0], written)
	}
	p.Err = useless(way, fault("read", file.file, err), hints[way])
	return p
}

// hints say what each way needs.
var hints = map[string]string{
	byHotAdd: hintHotAdd,
	byVDDK:   "VDDK is needed only where HotAdd does not work. Its folder must hold VMware's library for this machine, and nbdkit must have its plugin for it, or the folder nbdkit-vddk-plugin.so.",
	byHTTPS:  "HTTPS is needed only where HotAdd does not work. It must be open from the appliance to the host, behind a vCenter also to each ESX host, and some datastores, such as vSAN, do not have it.",
}

// useless says why a way cannot be used, and what to do where err does not say that.
func useless(way string, err error, hint string) error {
	if err == nil || hypervisors.Hint(err) != "" {
		return err
	}
	return &hypervisors.Error{Op: "use", Subject: way, Err: err, Hint: hint}
}

// makeProbe makes a machine with one disk that is thin. With an error, too, vm is one that is to be removed, unless nil.
func (h *host) makeProbe(ctx context.Context, storage string) (_ *object.VirtualMachine, m mo.VirtualMachine, file diskFile, err error) {
	store, err := h.store(ctx, storage)
	if err != nil {
		return nil, m, file, err
	}
	if err := h.hasRoom(ctx, store, probeBytes+reserve, "Free space there, or name another datastore."); err != nil {
		return nil, m, file, err
	}
	esx, err := h.esxHost(ctx)
	if err != nil {
		return nil, m, file, err
	}
	dc, err := h.datacenter(ctx, esx.Reference())
	if err != nil {
		return nil, m, file, err
	}
	guest, err := h.guestID(ctx, esx, "")
	if err != nil {
		return nil, m, file, err
	}
	name, id := h.ours()+"probe."+nonce(), newUUID()
	folder := "[" + store + "] " + name
	c := &changes{key: -100}
	at, err := c.addDisk("scsi", "", thin(folder+"/disk.vmdk"), probeBytes, true)
	if err != nil {
		return nil, m, file, err
	}
	err = h.createMachine(ctx, esx, dc, folder, types.VirtualMachineConfigSpec{Name: name, Uuid: id, InstanceUuid: id, GuestId: guest, NumCPUs: 1, MemoryMB: 64,
		Files: &types.VirtualMachineFileInfo{VmPathName: folder + "/" + name + ".vmx"}, DeviceChange: c.specs,
		Annotation:  "A disk on which Understudy tries how to reach the content of disks. It is removed at once, or when Understudy connects the next time.",
		ExtraConfig: tags(tagOwner, h.owner, tagProbe, "yes")})
	// It may be there in spite of an error, as when ctx ended meanwhile, and must be known to be removed.
	vm, m, unseen := h.machine(context.WithoutCancel(ctx), id)
	if err = cmp.Or(err, unseen); err != nil {
		return vm, m, file, err
	}
	file, err = fileAt(m.Config.Hardware.Device, at, probeBytes)
	file.dc, file.flat, file.vm = dc, true, vm.Reference()
	return vm, m, file, err
}

// isProbe says that a machine was made for a probe of this appliance.
func (h *host) isProbe(m *mo.VirtualMachine) bool {
	return tag(m.Config, tagProbe) != "" && tag(m.Config, tagOwner) == h.owner
}

// cleanProbes removes the machines of probes that were cut off. Their disks are detached already.
func (h *host) cleanProbes(ctx context.Context) (removed []string, err error) {
	all, err := h.machines(ctx)
	if err != nil {
		return nil, err
	}
	for i := range all {
		m := &all[i]
		if !h.isProbe(m) {
			continue
		}
		if err := h.destroyMachine(ctx, object.NewVirtualMachine(h.client, m.Self), *m); err != nil {
			return removed, fault("remove", "machine "+m.Name, err)
		}
		removed = append(removed, fmt.Sprintf("machine %s of a probe", m.Name))
	}
	return removed, nil
}
