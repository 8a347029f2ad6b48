package esx

import (
	"context"
	"errors"
	"fmt"
	"slices"

	faults "github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"understudy/hypervisors"
	"understudy/snapshot"
)

// draft is an open uncommitted point: what is above the newest snapshot, written at our own machine.
type draft struct {
	replica  *replica
	request  hypervisors.DraftRequest
	nonce    string // of this one, in the mark of the machine
	layout   layout
	disks    []*draftDisk
	attached []*attached // of all disks and maps
	ended    bool        // committed, or discarded
	done     bool        // committed
}

// draftDisk is one disk of a draft.
type draftDisk struct {
	*attached
	id       string
	blockMap *attached
	mapValid bool
}

func (d *draftDisk) ID() string         { return d.id }
func (d *draftDisk) Map() snapshot.Disk { return d.blockMap }
func (d *draftDisk) MapValid() bool     { return d.mapValid }

// Draft opens an uncommitted point.
func (r *replica) Draft(ctx context.Context, req hypervisors.DraftRequest) (hypervisors.Draft, error) {
	var d *draft
	err := r.work(ctx, "open a draft of", func(s *state) (err error) {
		d, err = s.openDraft(ctx, req)
		return err
	})
	if err != nil {
		return nil, err
	}
	return d, nil
}

func (s *state) openDraft(ctx context.Context, req hypervisors.DraftRequest) (_ *draft, err error) {
	if err := s.canDraft(ctx, req); err != nil {
		return nil, err
	}
	if err := s.clear(ctx); err != nil {
		return nil, err
	}
	d := &draft{replica: s.replica, request: req, nonce: nonce()}
	defer func() {
		if err != nil {
			undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterwards)
			defer cancel()
			err = errors.Join(err, d.abandon(undo, s))
		}
	}()
	if err := s.layOut(ctx, d); err != nil {
		return nil, err
	}
	if err := d.open(ctx, s); err != nil {
		return nil, err
	}
	s.draft = d
	return d, nil
}

func (s *state) canDraft(ctx context.Context, req hypervisors.DraftRequest) error {
	if err := valid("point", pointID, req.Point); err != nil {
		return err
	}
	switch {
	case s.draft != nil:
		return fmt.Errorf("%w: a draft is open", hypervisors.ErrBusy)
	case s.tag(tagSettling) != "":
		return fmt.Errorf("%w: the machine is being given back", hypervisors.ErrBusy)
	case s.tag(tagRun) == hypervisors.LiveRun:
		return fmt.Errorf("%w: the replica is production", hypervisors.ErrInUse)
	case s.m.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOff:
		return &hypervisors.Error{Op: "write to", Subject: s.subject(), Err: hypervisors.ErrRunning, Hint: "Somebody started the replica by hand. Stop it: what it wrote is thrown away."}
	case s.point(req.Point) != nil:
		return fmt.Errorf("%w: there is a point %s already", hypervisors.ErrInvalid, req.Point)
	case len(req.Disks) == 0:
		return fmt.Errorf("%w: a point needs a disk", hypervisors.ErrInvalid)
	}
	for i, d := range req.Disks {
		if d.ID == "" || d.Size <= 0 || d.Size%sector != 0 || slices.ContainsFunc(req.Disks[:i], func(o hypervisors.DraftDiskSpec) bool { return o.ID == d.ID }) {
			return fmt.Errorf("%w: disk %q of %d bytes", hypervisors.ErrInvalid, d.ID, d.Size)
		}
	}
	var path object.DatastorePath
	path.FromString(s.m.Config.Files.VmPathName)
	return s.host.hasRoom(ctx, path.Datastore, req.ExpectBytes, "Free space there, keep fewer points, or move the replica to a larger datastore.")
}

// clear throws away what is above the newest snapshot: a draft that was left over, or what a run by hand has written.
func (s *state) clear(ctx context.Context) error {
	if err := s.clearAttached(ctx); err != nil {
		return err
	}
	if top := s.top(); top != nil {
		return s.revert(ctx, top)
	}
	return nil
}

// layOut gives the machine the disks of the draft, and marks it, in one order.
func (s *state) layOut(ctx context.Context, d *draft) error {
	c := &changes{devices: slices.Clone(object.VirtualDeviceList(s.m.Config.Hardware.Device)), key: -100}
	folder := folderOf(s.m.Config)
	have := layoutOf(s.m.Config)
	top := s.top()
	if s.tag(tagAdopted) != "" && len(have) == 0 {
		for _, own := range disksOf(s.m.Config) {
			p := asked(own.shown)
			p.At = p.ID
			have = append(have, p)
		}
	}
	fresh := top == nil // nothing below: whatever the disks hold is a draft's
	for _, p := range have {
		if fresh || !slices.ContainsFunc(d.request.Disks, func(w hypervisors.DraftDiskSpec) bool { return w.ID == p.ID }) && s.tag(tagAdopted) == "" {
			for _, at := range []string{p.At, p.Map} {
				if disk := diskAt(c.devices, at); disk != nil {
					file := types.VirtualDeviceConfigSpecFileOperation("")
					if fresh {
						file = types.VirtualDeviceConfigSpecFileOperationDestroy
					}
					c.remove(disk, file)
				}
			}
		}
	}
	for _, want := range d.request.Disks {
		was := have.of(want.ID)
		p := place{ID: want.ID, Bus: want.Bus, Boot: d.layout.boot(want.Boot), Size: want.Size}
		if was != nil {
			p.Bus, p.Controller, p.Boot = was.Bus, was.Controller, was.Boot
		} else if p.Bus == "" {
			p.Bus = "scsi"
		}
		var err error
		switch {
		case was == nil || fresh:
			p, err = c.addNew(p, folder, d.nonce)
		case want.Size < was.Size: // another disk under an old name
			c.takeOut(*was)
			p, err = c.addNew(p, folder, d.nonce)
		default:
			p.At, p.Map = was.At, was.Map
			p, err = s.keep(ctx, c, p, *was, d.nonce)
		}
		if err != nil {
			return err
		}
		d.layout = append(d.layout, p)
	}
	if s.tag(tagAdopted) != "" { // disks that are none of the point stay at their places
		for _, p := range have {
			if d.layout.of(p.ID) == nil && p.Map == "" {
				d.layout = append(d.layout, p)
			}
		}
	}
	spec := types.VirtualMachineConfigSpec{DeviceChange: c.specs, ExtraConfig: append(tags(tagDraft, d.request.Point+" "+d.nonce), d.layout.tag())}
	if err := s.host.reconfigure(ctx, s.vm, "lay out", s.subject(), spec); err != nil {
		return err
	}
	return s.reload(ctx)
}

// takeOut removes a disk and its map from the machine; earlier points have their files.
func (c *changes) takeOut(p place) {
	for _, at := range []string{p.At, p.Map} {
		if disk := diskAt(c.devices, at); disk != nil {
			c.remove(disk, "")
		}
	}
}

// keep lets a disk stand on what is below. One that has grown is copied, for what snapshots stand on cannot be extended.
func (s *state) keep(ctx context.Context, c *changes, p, was place, nonce string) (place, error) {
	folder := folderOf(s.m.Config)
	var err error
	if p.Size > was.Size {
		if p.At, err = s.grow(ctx, c, was.At, p, folder+"/"+p.ID+"-"+nonce+".vmdk", p.Size); err != nil {
			return p, err
		}
	}
	switch {
	case was.Map == "":
		return c.addMap(p, folder, nonce)
	case mapCapacity(p.Size) > mapCapacity(was.Size):
		m := p
		m.Bus, m.Controller = "scsi", ""
		p.Map, err = s.grow(ctx, c, was.Map, m, folder+"/"+p.ID+"-"+nonce+"-map.vmdk", mapCapacity(p.Size))
	}
	return p, err
}

// grow replaces the disk at a place by a larger copy.
func (s *state) grow(ctx context.Context, c *changes, at string, p place, file string, size int64) (string, error) {
	old := diskAt(c.devices, at)
	if old == nil {
		return "", fmt.Errorf("disk %s %w", at, hypervisors.ErrNotFound)
	}
	dc, err := s.host.datacenter(ctx, s.vm.Reference())
	if err != nil {
		return "", err
	}
	disks := object.NewVirtualDiskManager(s.host.client)
	t, err := disks.CopyVirtualDisk(ctx, diskOf(old, c.devices).Path, dc, file, dc, nil, false)
	if err == nil {
		_, err = s.host.wait(ctx, "copy", "disk "+p.ID, t)
	}
	if err != nil {
		return "", err
	}
	t, err = disks.ExtendVirtualDisk(ctx, file, dc, (size+1023)>>10, nil)
	if err == nil {
		_, err = s.host.wait(ctx, "extend", "disk "+p.ID, t)
	}
	if err != nil {
		return "", errors.Join(err, s.host.removeDisk(ctx, dc, file))
	}
	c.remove(old, "")
	return c.addDisk(p.kind(), at, thin(file), (size+1023)>>10<<10, false)
}

// removeDisk deletes a disk that no machine has.
func (h *host) removeDisk(ctx context.Context, dc *object.Datacenter, file string) error {
	t, err := object.NewVirtualDiskManager(h.client).DeleteVirtualDisk(ctx, file, dc)
	if err == nil {
		_, err = h.wait(ctx, "remove", file, t)
	}
	if faults.Is(err, &types.FileNotFound{}) {
		return nil
	}
	return err
}

// open attaches the disks of the draft.
func (d *draft) open(ctx context.Context, s *state) error {
	devices := object.VirtualDeviceList(s.m.Config.Hardware.Device)
	var files []diskFile
	for _, want := range d.request.Disks {
		p := d.layout.of(want.ID)
		data, err := fileAt(devices, p.At, p.Size)
		if err != nil {
			return err
		}
		blockMap, err := fileAt(devices, p.Map, snapshot.MapSize(p.Size))
		if err != nil {
			return err
		}
		files = append(files, data, blockMap)
	}
	all, err := s.host.attach(ctx, files, writing)
	if err != nil {
		return err
	}
	d.attached = all
	for i, want := range d.request.Disks {
		d.disks = append(d.disks, &draftDisk{attached: all[2*i], id: want.ID, blockMap: all[2*i+1], mapValid: !s.own(ctx, want.ID)})
	}
	return nil
}

// fileAt is the disk at a place, to be attached.
func fileAt(devices object.VirtualDeviceList, at string, size int64) (diskFile, error) {
	disk := diskAt(devices, at)
	if disk == nil {
		return diskFile{}, fmt.Errorf("disk at %s %w", at, hypervisors.ErrNotFound)
	}
	return diskFile{file: diskOf(disk, devices).Path, uuid: diskUUID(disk), size: size}, nil
}

// own says that a disk is an adopted machine's own, without a point that tells what is on it.
func (s *state) own(ctx context.Context, id string) bool {
	top := s.top()
	if s.tag(tagAdopted) == "" || top == nil {
		return false
	}
	if top.Name == groundName {
		return true
	}
	k, err := s.read(ctx, top)
	return err != nil || k.Layout.of(id) == nil || k.Layout.of(id).Map == ""
}

func (d *draft) Disks() []hypervisors.DraftDisk {
	var disks []hypervisors.DraftDisk
	for _, disk := range d.disks {
		disks = append(disks, disk)
	}
	return disks
}

// Commit puts the snapshot that is the point on what was written.
func (d *draft) Commit(ctx context.Context, p hypervisors.Point) error {
	return d.replica.work(ctx, "commit point "+d.request.Point+" of", func(s *state) error {
		if d.done {
			return nil
		}
		if d.ended || p.ID != d.request.Point {
			return fmt.Errorf("%w: the draft of point %s has ended, or is of another point", hypervisors.ErrInvalid, d.request.Point)
		}
		if s.point(p.ID) == nil {
			for _, a := range d.attached {
				if a.gone {
					continue
				}
				if err := a.Flush(ctx); err != nil {
					return err
				}
			}
			if err := s.host.detachAll(ctx, d.attached); err != nil {
				return err
			}
			if err := s.write(ctx, &kept{p, d.layout}); err != nil {
				return err
			}
			if err := s.freeze(ctx, pointPrefix+p.ID, describePoint(p, p.Suspect)); err != nil {
				return err
			}
		}
		d.done, d.ended, s.draft = true, true, nil
		if err := s.tagAll(ctx, tagDraft, ""); err != nil {
			s.host.log.Warn("a point is committed, and its draft is still marked", "replica", s.id, "point", p.ID, "error", err)
		}
		return nil
	})
}

// Discard throws away what was written.
func (d *draft) Discard(ctx context.Context) error {
	err := d.replica.work(ctx, "discard a draft of", func(s *state) error {
		if d.done {
			return nil
		}
		d.ended = true
		if err := d.abandon(ctx, s); err != nil {
			return err
		}
		if s.draft == d {
			s.draft = nil
		}
		return nil
	})
	if errors.Is(err, hypervisors.ErrNotFound) {
		return nil // the replica is gone, and its draft with it
	}
	return err
}

// abandon removes what there is of a draft: nothing, when the machine carries the mark of another one.
func (d *draft) abandon(ctx context.Context, s *state) error {
	if err := s.host.detachAll(ctx, d.attached); err != nil {
		return err
	}
	if err := s.reload(ctx); err != nil {
		return err
	}
	if s.tag(tagDraft) != d.request.Point+" "+d.nonce {
		return nil
	}
	if err := s.clear(ctx); err != nil {
		return err
	}
	return s.scrap(ctx)
}

// scrap clears a mark that is left when there is no snapshot to go back to: the next draft makes the disks anew.
func (s *state) scrap(ctx context.Context) error {
	if s.top() != nil {
		return nil
	}
	return s.tagAll(ctx, tagDraft, "")
}
