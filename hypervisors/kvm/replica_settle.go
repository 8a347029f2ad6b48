package kvm

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"understudy/hypervisors"
)

// Settle writes the newest point into an adopted machine's own disks and gives the machine back. Once the first byte is
// written the other points are no longer whole; the manifest says so before. Every step may be repeated, so a settling
// that was interrupted is finished by calling again, and the newest point stays readable all the time.
func (r *replica) Settle(ctx context.Context) error {
	return r.work(ctx, "settle", func(m *manifest) error {
		p, err := r.maySettle(ctx, m)
		if err != nil {
			return err
		}
		if !m.Adopted.Settling {
			m.Adopted.Settling = true
			for i := range m.Points {
				m.Points[i].Hidden = m.Points[i].Meta.ID != p.Meta.ID
			}
			if err := r.save(ctx, m); err != nil {
				return err
			}
		}
		def := &libvirtxml.Domain{}
		if err := def.Unmarshal(m.Adopted.Definition); err != nil {
			return err
		}
		for _, d := range p.Disks {
			top := path.Join(r.dir, d.Data.File)
			if g := m.ground(d.ID); g != nil {
				err = settleImage(ctx, r.host.place, *g, d.Size, top)
			} else {
				err = r.keepDisk(ctx, m, def, d, top)
			}
			if err != nil {
				return err
			}
		}
		if err := r.giveBack(ctx, m, def); err != nil {
			return err
		}
		return r.removeFolder(ctx, m)
	})
}

// maySettle finds the point that the machine gets.
func (r *replica) maySettle(ctx context.Context, m *manifest) (*point, error) {
	if m.Adopted == nil {
		return nil, fmt.Errorf("%w: the machine was made by us and has no disks of its own", hypervisors.ErrInvalid)
	}
	if r.draft != nil {
		return nil, fmt.Errorf("%w: a draft is open", hypervisors.ErrBusy)
	}
	if users := r.users(m); len(users) > 0 {
		return nil, &hypervisors.Error{Op: "use", Subject: "point " + users[0], Err: hypervisors.ErrInUse, Hint: "End all runs and readers first."}
	}
	stray, err := r.stray(ctx, m)
	if err != nil {
		return nil, err
	}
	if stray {
		return nil, &hypervisors.Error{Op: "use", Subject: "machine " + m.Hardware.Name, Err: hypervisors.ErrRunning, Hint: "Turn it off first."}
	}
	p := m.newestVisible()
	if p == nil {
		return nil, &hypervisors.Error{Op: "use", Subject: "machine " + m.Hardware.Name,
			Err: fmt.Errorf("%w: there is no point", hypervisors.ErrInvalid), Hint: "Delete the replica to get the machine back as it was."}
	}
	for _, d := range p.Disks {
		g := m.ground(d.ID)
		if g != nil && d.Size > g.Size && strings.HasPrefix(g.Path, "/dev/") {
			return nil, &hypervisors.Error{Op: "grow", Subject: "disk " + d.ID,
				Err:  fmt.Errorf("%w: %s has %d bytes and the point %d", hypervisors.ErrNoSpace, g.Path, g.Size, d.Size),
				Hint: "A block device does not grow by itself; enlarge it and adopt the machine again."}
		}
	}
	return p, nil
}

// keepDisk gives the machine a disk that it did not have when it was adopted: a file of its own, beside the replicas.
func (r *replica) keepDisk(ctx context.Context, m *manifest, def *libvirtxml.Domain, d pointDisk, top string) error {
	file := path.Join(r.storagePath(), m.Hardware.Name+"-"+d.ID+"."+r.id+".qcow2")
	if _, err := r.host.place.Run(ctx, nil, "qemu-img", "convert", "-q", "-f", "qcow2", "-O", "qcow2", top, file+".new"); err != nil {
		return imageError("copy", top, err)
	}
	if err := syncPaths(ctx, r.host.place, file+".new"); err != nil {
		return err
	}
	if err := renameFile(ctx, r.host.place, file+".new", file); err != nil {
		return err
	}
	bus := d.Bus
	if bus == "" {
		bus = "virtio"
	}
	return addDisk(def, fittedDisk{id: d.ID, bus: bus, file: file})
}

// giveBack defines an adopted machine as it was, or as def says.
func (r *replica) giveBack(ctx context.Context, m *manifest, def *libvirtxml.Domain) error {
	if err := r.host.dropMoments(ctx, m.VM); err != nil {
		return err
	}
	if err := r.host.defineXML(ctx, def); err != nil {
		return err
	}
	return r.host.SetAutostart(ctx, m.VM, m.Adopted.Autostart)
}

// Delete removes the replica, its folder last, so that an interrupted Delete can be repeated.
func (r *replica) Delete(ctx context.Context) error {
	err := r.work(ctx, "delete", func(m *manifest) error {
		if r.draft != nil {
			return fmt.Errorf("%w: a draft is open", hypervisors.ErrBusy)
		}
		if err := unsettled(m); err != nil {
			return err
		}
		if stray, err := r.stray(ctx, m); err != nil {
			return err
		} else if stray {
			return &hypervisors.Error{Op: "remove", Subject: "machine " + m.Hardware.Name,
				Err: fmt.Errorf("%w: somebody started it by hand", hypervisors.ErrRunning), Hint: "Turn it off first."}
		}
		for len(m.Tests) > 0 {
			if err := r.endTest(ctx, m, m.Tests[0].ID); err != nil {
				return err
			}
		}
		if err := r.interrupt(ctx, hypervisors.LiveRun); err != nil {
			return err
		}
		if err := r.host.destroy(ctx, m.VM); err != nil {
			return err
		}
		if err := r.removeMachine(ctx, m); err != nil {
			return err
		}
		return r.removeFolder(ctx, m)
	})
	if errors.Is(err, hypervisors.ErrNotFound) {
		return nil
	}
	return err
}

// removeMachine undefines the replica machine, or gives an adopted one back as it was.
func (r *replica) removeMachine(ctx context.Context, m *manifest) error {
	def, err := r.definition(ctx, m)
	if errors.Is(err, hypervisors.ErrForeign) {
		return nil
	}
	if err != nil {
		return err
	}
	if m.Adopted != nil {
		return r.giveBack(ctx, m, def)
	}
	d, err := r.host.domain(ctx, m.VM)
	if errors.Is(err, hypervisors.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Free()
	err = virtError(d.UndefineFlags(libvirt.DOMAIN_UNDEFINE_NVRAM | libvirt.DOMAIN_UNDEFINE_MANAGED_SAVE |
		libvirt.DOMAIN_UNDEFINE_SNAPSHOTS_METADATA | libvirt.DOMAIN_UNDEFINE_CHECKPOINTS_METADATA))
	if errors.Is(err, hypervisors.ErrNotFound) {
		return nil
	}
	return err
}

// removeFolder removes the replica's files, the manifest last, and forgets the handle. Before the first one goes the
// manifest says that there is no replica any more.
func (r *replica) removeFolder(ctx context.Context, m *manifest) error {
	if !m.Removed {
		m.Removed = true
		if err := r.save(ctx, m); err != nil {
			return err
		}
	}
	// A daemon that outlived its draft would keep the room of files that are gone.
	if _, err := r.host.cleanExports(ctx, r.draftExports()); err != nil {
		return err
	}
	p := r.host.place
	names, err := list(ctx, p, r.dir)
	if err != nil {
		return err
	}
	var files []string
	for _, name := range names {
		if name != manifestFile {
			files = append(files, name)
		}
	}
	if err := removeAll(ctx, p, r.paths(files...)...); err != nil {
		return err
	}
	if err := removeAll(ctx, p, r.dir); err != nil {
		return err
	}
	t := &r.host.targets
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID[r.id] == r {
		delete(t.byID, r.id)
	}
	return syncPaths(ctx, p, path.Dir(r.dir))
}

// finishRemoval removes what an interrupted removal left.
func (r *replica) finishRemoval(ctx context.Context, m *manifest) error {
	if err := r.take(ctx); err != nil {
		return err
	}
	defer r.give()
	return r.removeFolder(ctx, m)
}
