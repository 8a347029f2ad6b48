package lab

import (
	"errors"
	"os"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// CreateVirtualDiskTask makes a disk that belongs to no machine yet.
func (d *diskManager) CreateVirtualDiskTask(ctx *simulator.Context, req *types.CreateVirtualDisk_Task) soap.HasFault {
	return &methods.CreateVirtualDisk_TaskBody{Res: &types.CreateVirtualDisk_TaskResponse{
		Returnval: d.l.run(ctx, d.VirtualDiskManager, "CreateVirtualDisk_Task", "createVirtualDisk",
			func(*simulator.Context, types.BaseMethodFault) (any, types.BaseMethodFault) {
				d.l.mu.Lock()
				defer d.l.mu.Unlock()
				spec, ok := req.Spec.(types.BaseFileBackedVirtualDiskSpec)
				if !ok {
					return nil, &types.InvalidArgument{InvalidProperty: "spec"}
				}
				if f := d.l.vacant(req.Name, false); f != nil {
					return nil, f
				}
				if _, err := d.l.create(req.Name, spec.GetFileBackedVirtualDiskSpec().CapacityKb*1024); err != nil {
					return nil, trouble(req.Name, err)
				}
				return req.Name, nil
			})}}
}

// vacant says whether a disk can be made at a path. l.mu is held.
func (l *Lab) vacant(p string, force bool) types.BaseMethodFault {
	if f := l.orders.noSpace(p); f != nil {
		return f
	}
	local := l.local(p)
	if local == "" {
		return &types.InvalidDatastorePath{DatastorePath: p}
	}
	if _, err := os.Stat(local); err == nil && !force {
		return &types.FileAlreadyExists{FileFault: types.FileFault{File: p}}
	}
	return nil
}

// CopyVirtualDiskTask copies what a disk holds, all its layers together, into a disk of its own.
func (d *diskManager) CopyVirtualDiskTask(ctx *simulator.Context, req *types.CopyVirtualDisk_Task) soap.HasFault {
	return &methods.CopyVirtualDisk_TaskBody{Res: &types.CopyVirtualDisk_TaskResponse{
		Returnval: d.l.run(ctx, d.VirtualDiskManager, "CopyVirtualDisk_Task", "copyVirtualDisk",
			func(*simulator.Context, types.BaseMethodFault) (any, types.BaseMethodFault) {
				return nil, d.l.copyDisk(req)
			})}}
}

func (l *Lab) copyDisk(req *types.CopyVirtualDisk_Task) types.BaseMethodFault {
	l.mu.Lock()
	defer l.mu.Unlock()
	from := l.known(req.SourceName)
	if from == nil {
		return &types.FileNotFound{FileFault: types.FileFault{File: req.SourceName}}
	}
	if l.use(from, nil) == writing {
		return locked(from)
	}
	if f := l.vacant(req.DestName, on(req.Force)); f != nil {
		return f
	}
	to := &image{path: req.DestName, content: flat(l.local(req.DestName)), size: from.size, uuid: uuid.NewString()}
	if err := clone(from.content, to.content); err != nil {
		return trouble(req.DestName, err)
	}
	if err := describe(l.local(to.path), to.content, to.size); err != nil {
		return trouble(req.DestName, errors.Join(err, os.Remove(to.content)))
	}
	l.images[to.path] = to
	return nil
}

// ExtendVirtualDiskTask grows a disk that has no layers.
func (d *diskManager) ExtendVirtualDiskTask(ctx *simulator.Context, req *types.ExtendVirtualDisk_Task) soap.HasFault {
	return &methods.ExtendVirtualDisk_TaskBody{Res: &types.ExtendVirtualDisk_TaskResponse{
		Returnval: d.l.run(ctx, d.VirtualDiskManager, "ExtendVirtualDisk_Task", "extendVirtualDisk",
			func(*simulator.Context, types.BaseMethodFault) (any, types.BaseMethodFault) {
				l := d.l
				l.mu.Lock()
				defer l.mu.Unlock()
				i := l.known(req.Name)
				switch {
				case i == nil:
					return nil, &types.FileNotFound{FileFault: types.FileFault{File: req.Name}}
				case i.parent != nil || l.relied(i):
					return nil, &types.FileFault{File: req.Name}
				case l.use(i, nil) != unused:
					return nil, locked(i)
				}
				if f := l.orders.noSpace(req.Name); f != nil {
					return nil, f
				}
				if err := i.grow(l.local(i.path), req.NewCapacityKb*1024); err != nil {
					return nil, trouble(req.Name, err)
				}
				l.untrack(i)
				return req.Name, nil
			})}}
}

// relied says whether there are layers above an image. l.mu is held.
func (l *Lab) relied(i *image) bool {
	for _, other := range l.images {
		if other.parent == i {
			return true
		}
	}
	return false
}

// DeleteVirtualDiskTask deletes one disk, not what is below it.
func (d *diskManager) DeleteVirtualDiskTask(ctx *simulator.Context, req *types.DeleteVirtualDisk_Task) soap.HasFault {
	return &methods.DeleteVirtualDisk_TaskBody{Res: &types.DeleteVirtualDisk_TaskResponse{
		Returnval: d.l.run(ctx, d.VirtualDiskManager, "DeleteVirtualDisk_Task", "deleteVirtualDisk",
			func(*simulator.Context, types.BaseMethodFault) (any, types.BaseMethodFault) {
				d.l.mu.Lock()
				defer d.l.mu.Unlock()
				i := d.l.known(req.Name)
				switch {
				case i == nil:
					return nil, &types.FileNotFound{FileFault: types.FileFault{File: req.Name}}
				case d.l.use(i, nil) != unused:
					return nil, locked(i)
				}
				d.l.erase(i)
				return nil, nil
			})}}
}

// MoveVirtualDiskTask gives a disk that nobody uses another name.
func (d *diskManager) MoveVirtualDiskTask(ctx *simulator.Context, req *types.MoveVirtualDisk_Task) soap.HasFault {
	return &methods.MoveVirtualDisk_TaskBody{Res: &types.MoveVirtualDisk_TaskResponse{
		Returnval: d.l.run(ctx, d.VirtualDiskManager, "MoveVirtualDisk_Task", "moveVirtualDisk",
			func(*simulator.Context, types.BaseMethodFault) (any, types.BaseMethodFault) {
				return nil, d.l.moveDisk(req)
			})}}
}

func (l *Lab) moveDisk(req *types.MoveVirtualDisk_Task) types.BaseMethodFault {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := l.known(req.SourceName)
	switch {
	case i == nil:
		return &types.FileNotFound{FileFault: types.FileFault{File: req.SourceName}}
	case i.parent != nil || l.relied(i):
		return &types.FileFault{File: req.SourceName}
	case l.use(i, nil) != unused:
		return locked(i)
	}
	if f := l.vacant(req.DestName, on(req.Force)); f != nil {
		return f
	}
	to := l.local(req.DestName)
	if err := os.Rename(i.content, flat(to)); err != nil {
		return trouble(req.DestName, err)
	}
	if err := errors.Join(describe(to, flat(to), i.size), os.Remove(l.local(i.path))); err != nil {
		return trouble(req.DestName, err)
	}
	delete(l.images, i.path)
	i.path, i.content = req.DestName, flat(to)
	l.images[i.path] = i
	return nil
}

// QueryVirtualDiskUuid says the UUID by which a disk appears in a guest.
func (d *diskManager) QueryVirtualDiskUuid(_ *simulator.Context, req *types.QueryVirtualDiskUuid) soap.HasFault {
	body := &methods.QueryVirtualDiskUuidBody{}
	d.l.mu.Lock()
	defer d.l.mu.Unlock()
	i := d.l.known(req.Name)
	if i == nil {
		body.Fault_ = refused(&types.FileNotFound{FileFault: types.FileFault{File: req.Name}})
		return body
	}
	body.Res = &types.QueryVirtualDiskUuidResponse{Returnval: i.uuid}
	return body
}

// DeleteDatastoreFileTask deletes a file, or a directory with all that is in it; not what a running machine uses.
func (m *fileManager) DeleteDatastoreFileTask(ctx *simulator.Context, req *types.DeleteDatastoreFile_Task) soap.HasFault {
	return &methods.DeleteDatastoreFile_TaskBody{Res: &types.DeleteDatastoreFile_TaskResponse{
		Returnval: m.l.run(ctx, m.FileManager, "DeleteDatastoreFile_Task", "deleteDatastoreFile",
			func(*simulator.Context, types.BaseMethodFault) (any, types.BaseMethodFault) {
				return nil, m.l.deleteFile(req.Name)
			})}}
}

func (l *Lab) deleteFile(p string) types.BaseMethodFault {
	l.mu.Lock()
	defer l.mu.Unlock()
	local := l.local(p)
	if local == "" {
		return &types.InvalidDatastorePath{DatastorePath: p}
	}
	if _, err := os.Stat(local); err != nil {
		return trouble(p, err)
	}
	var within []*image
	for _, i := range l.images {
		if under(i.path, p) || flat(i.path) == p {
			if l.use(i, nil) != unused {
				return locked(i)
			}
			within = append(within, i)
		}
	}
	for _, m := range l.machines {
		if m.on && under(m.vmx, p) {
			return &types.FileLocked{FileFault: types.FileFault{File: m.vmx}}
		}
	}
	for _, i := range within {
		i.gone = true
		delete(l.images, i.path)
		if i.parent != nil {
			if err := removeIfThere(i.content); err != nil {
				return trouble(i.path, err)
			}
		}
	}
	if err := os.RemoveAll(local); err != nil {
		return trouble(p, err)
	}
	return nil
}
