package kvm

import (
	"context"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"libvirt.org/go/libvirt"

	"understudy/hypervisors"
)

// defaultPauseBudget is how long guests are held still at most when the request does not say.
const defaultPauseBudget = 2 * time.Second

// cleanupPatience bounds what is done after the caller has given up.
const cleanupPatience = time.Minute

// Checkpoint freezes machines by one pull backup job each, which all begin while the guests are held still when there
// are several. A disk whose tracking turns out to be broken is frozen without it, and says ErrTrackingLost.
func (h *host) Checkpoint(ctx context.Context, req hypervisors.CheckpointRequest) (hypervisors.Checkpoint, error) {
	cp, err := h.checkpoint(ctx, req)
	if err != nil {
		return nil, err
	}
	return cp, nil
}

func (h *host) checkpoint(ctx context.Context, req hypervisors.CheckpointRequest) (*checkpoint, error) {
	if req.PauseBudget == 0 {
		req.PauseBudget = defaultPauseBudget
	}
	if !checkpointName.MatchString(req.Name) || len(req.VMs) == 0 {
		return nil, &hypervisors.Error{Op: "take", Subject: fmt.Sprintf("checkpoint %q", req.Name), Err: hypervisors.ErrInvalid}
	}
	cp := &checkpoint{host: h, consistency: hypervisors.CrashConsistent}
	ok := false
	defer func() {
		if ok {
			return
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupPatience)
		defer cancel()
		cp.undo(ctx)
	}()
	for _, vm := range req.VMs {
		p, err := h.plan(ctx, req.Name, vm)
		if p != nil {
			cp.plans = append(cp.plans, p)
		}
		if err != nil {
			return nil, takeError(vm.ID, err)
		}
	}
	if err := cp.measureScratch(ctx); err != nil {
		return nil, err
	}
	if err := cp.begin(ctx, req); err != nil {
		return nil, err
	}
	if err := cp.open(ctx); err != nil {
		return nil, err
	}
	ok = true
	cp.watch()
	return cp, nil
}

var checkpointName = regexp.MustCompile(`^[a-z0-9.-]{1,40}$`)

func takeError(vm string, err error) error {
	var said *hypervisors.Error
	if errors.As(err, &said) {
		return err
	}
	return &hypervisors.Error{Op: "take checkpoint of", Subject: "machine " + vm, Err: err}
}

// plan is what a checkpoint does with one machine.
type plan struct {
	vm     string
	name   string // of the machine, for people
	reader bool   // the machine is off, and we started it paused to read its disks
	live   bool   // the guest runs, and has to be held still for a moment shared with others
	agent  bool   // a guest agent is connected
	disks  []*planDisk
	// checkpoint is the name of the libvirt checkpoint to make; empty when no disk can be tracked.
	checkpoint string
	socket     string
	begun      bool
	// released says that nothing of it is left at the host but the change tracking.
	released bool
}

type planDisk struct {
	disk
	scratch string
	// since is the checkpoint that the disk's changes are told from; empty: they are not known.
	since string
	// sizeThen is the disk's size at that checkpoint.
	sizeThen int64
}

// plan prepares one machine: it is ours alone afterwards, and its disks are open in some QEMU. With an error, a plan
// that is not nil has to be undone.
func (h *host) plan(ctx context.Context, name string, vm hypervisors.CheckpointVM) (*plan, error) {
	if !h.locks.try(vm.ID) {
		return nil, busy("this appliance works on it already")
	}
	p := &plan{vm: vm.ID}
	d, err := h.domain(ctx, vm.ID)
	if err != nil {
		return p, err
	}
	defer func() {
		if d != nil {
			d.Free()
		}
	}()
	def, err := define(d)
	if err != nil {
		return p, err
	}
	p.name, p.live = def.next.Name, def.state == hypervisors.Running
	if !def.active {
		if err := h.startReader(ctx, &def); err != nil {
			return p, err
		}
		p.reader = true
		// libvirt's object of a machine that was off does not learn that there is a process now.
		d.Free()
		if d, err = h.domain(ctx, vm.ID); err != nil {
			d = nil
			return p, err
		}
	} else if err := h.endOldJob(ctx, d); err != nil {
		return p, err
	}
	if err := h.settle(d, vm.ID, string(vm.Since)); err != nil {
		return p, err
	}
	_, p.agent = guestAgent(&def.live)
	if err := h.planDisks(ctx, d, &def, p, name, vm.LeaveOut); err != nil {
		return p, err
	}
	if p.socket, err = h.backupSocket(ctx, d); err != nil {
		return p, err
	}
	return p, h.planTracking(d, &def, p, name, vm.Since)
}

func busy(why string) error { return fmt.Errorf("%w: %s", hypervisors.ErrBusy, why) }

func (h *host) planDisks(ctx context.Context, d *libvirt.Domain, def *definition, p *plan, name string, leaveOut []string) error {
	disks, err := h.disks(ctx, d, def)
	if err != nil {
		return err
	}
	left := false
	for _, k := range disks {
		if slices.Contains(leaveOut, k.ID) {
			left = true
			continue
		}
		if k.Excluded != "" {
			continue
		}
		dir := h.addr.scratch
		if dir == "" {
			dir = defaultImages // for block devices, which have no folder of their own
			if k.file {
				dir = path.Dir(k.Path)
			}
		}
		p.disks = append(p.disks, &planDisk{disk: k, scratch: path.Join(dir, h.name(p.vm, name, k.ID, "scratch"))})
	}
	if len(p.disks) == 0 && left {
		return &hypervisors.Error{Op: "take checkpoint of", Subject: "machine " + p.name,
			Err: fmt.Errorf("%w: all disks that can be protected are left out", hypervisors.ErrInvalid), Hint: "Take one of them back."}
	}
	if len(p.disks) == 0 {
		return &hypervisors.Error{Op: "take checkpoint of", Subject: "machine " + p.name,
			Err: fmt.Errorf("%w: it has no disk that can be protected", hypervisors.ErrInvalid), Hint: "Its warnings say why."}
	}
	return nil
}

// planTracking decides which disks can tell what changed, and gets a leftover of the same name out of the way.
func (h *host) planTracking(d *libvirt.Domain, def *definition, p *plan, name string, since hypervisors.ChangeID) error {
	tracked := false
	for _, k := range p.disks {
		tracked = tracked || k.tracked
	}
	if !tracked || !def.persistent || !h.caps.ChangeTracking {
		return nil
	}
	p.checkpoint = h.name(name)
	all, err := readTracks(d)
	if err != nil {
		return err
	}
	if _, there := all[p.checkpoint]; there {
		if string(since) == p.checkpoint {
			return fmt.Errorf("%w: checkpoint %q exists and is still needed", hypervisors.ErrInvalid, name)
		}
		if err := h.deleteCheckpoint(d, p.checkpoint); err != nil {
			return err
		}
	}
	then, there := all[string(since)]
	if !there || !h.owns(string(since)) {
		return nil
	}
	for _, k := range p.disks {
		if size, in := then.sizes[k.name]; in && k.tracked && then.disks[k.name] {
			k.since, k.sizeThen = string(since), size
		}
	}
	return nil
}

// owns says whether a name is one of ours.
func (h *host) owns(name string) bool { return strings.HasPrefix(name, h.name("")) }

// backupSocket is where QEMU will serve the frozen disks: in the folder that libvirt makes for the process and that
// QEMU may write to whatever it runs as.
func (h *host) backupSocket(ctx context.Context, d *libvirt.Domain) (string, error) {
	id, err := d.GetID()
	if err != nil {
		return "", virtError(err)
	}
	const folders = "/var/lib/libvirt/qemu"
	names, err := list(ctx, h.place, folders)
	if err != nil {
		return "", err
	}
	prefix := fmt.Sprintf("domain-%d-", id)
	i := slices.IndexFunc(names, func(name string) bool { return strings.HasPrefix(name, prefix) })
	if i >= 0 {
		return path.Join(folders, names[i], h.name("nbd")), nil
	}
	if err := mkdirAll(ctx, h.place, exportDir); err != nil {
		return "", fmt.Errorf("no folder for QEMU's socket: neither %s/%s… nor %s: %w", folders, prefix, exportDir, err)
	}
	return path.Join(exportDir, h.name("nbd")), nil
}

// endOldJob makes sure that no job runs at a machine that is on: one of ours is a leftover, as nobody holds it.
func (h *host) endOldJob(ctx context.Context, d *libvirt.Domain) error {
	job, err := jobOf(d)
	switch {
	case err != nil:
		return err
	case job == noJob:
		return nil
	case job == otherJob || !strings.Contains(job, h.name("")):
		return &hypervisors.Error{Op: "take checkpoint of", Subject: "machine", Err: busy("somebody else's job runs at it"),
			Hint: "Wait for the backup, migration or save that runs (virsh domjobinfo), or abort it."}
	}
	return endJob(ctx, d)
}

// What jobOf finds when it does not find a backup.
const (
	noJob    = ""
	otherJob = "other"
)

// jobOf returns the description of the backup that runs at a machine, otherJob for another job, or noJob.
func jobOf(d *libvirt.Domain) (string, error) {
	info, err := d.GetJobStats(0)
	if err != nil {
		return "", virtError(err)
	}
	if info.Type == libvirt.DOMAIN_JOB_NONE {
		return noJob, nil
	}
	text, err := d.BackupGetXMLDesc(0)
	if virtCode(err) == libvirt.ERR_NO_DOMAIN_BACKUP {
		return otherJob, nil
	}
	return text, virtError(err)
}

// endJob aborts the backup of a machine and waits until it is gone. None is fine.
func endJob(ctx context.Context, d *libvirt.Domain) error {
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		text, err := d.BackupGetXMLDesc(0)
		if code := virtCode(err); code == libvirt.ERR_NO_DOMAIN_BACKUP || code == libvirt.ERR_OPERATION_INVALID {
			return nil
		}
		if err != nil {
			return virtError(err)
		}
		if err := ctx.Err(); err != nil {
			return err // it may be another job by now
		}
		// Repeated, since the first one may come before the job takes orders; an error says that it just ended.
		if err := d.AbortJob(); err != nil && virtCode(err) != libvirt.ERR_OPERATION_INVALID {
			return virtError(err)
		}
		if !pause(ctx, wait) {
			return fmt.Errorf("backup job does not end: %w (%s)", ctx.Err(), socketOf(text))
		}
	}
}

// Forget deletes checkpoints of ours. Those of a machine that is off are removed from its images.
func (h *host) Forget(ctx context.Context, vm string, ids ...hypervisors.ChangeID) error {
	var names []string
	for _, id := range ids {
		if h.owns(string(id)) {
			names = append(names, string(id))
		}
	}
	if len(names) == 0 {
		return nil
	}
	fail := func(err error) error {
		return &hypervisors.Error{Op: "forget changes of", Subject: "machine " + vm, Err: err}
	}
	if !h.locks.try(vm) {
		return fail(busy("its checkpoint is still open"))
	}
	defer h.locks.release(vm)
	err := h.onDomain(ctx, vm, func(d *libvirt.Domain) error { return h.forget(ctx, d, names) })
	if err != nil && !errors.Is(err, hypervisors.ErrNotFound) {
		h.owed.add(vm, names...)
		return fail(err)
	}
	return nil
}

// undo ends everything that a plan has begun, and the checkpoint that it has made.
func (h *host) undo(ctx context.Context, p *plan) error {
	var all []error
	if p.begun {
		all = append(all, ignoreGone(h.insist(ctx, p.vm, func(d *libvirt.Domain) error {
			if err := endJob(ctx, d); err != nil || p.checkpoint == "" {
				return err
			}
			if err := ctx.Err(); err != nil {
				return err // the name may be another one's by now
			}
			return h.deleteCheckpoint(d, p.checkpoint)
		})))
		if all[0] != nil && p.checkpoint != "" {
			h.owed.add(p.vm, p.checkpoint)
		}
	}
	return errors.Join(append(all, h.release(ctx, p))...)
}

// release gives back what a plan holds, but the change tracking; the machine's lock also when that fails, as the next
// checkpoint removes what is left.
func (h *host) release(ctx context.Context, p *plan) error {
	var all []error
	if p.begun {
		all = append(all, ignoreGone(h.insist(ctx, p.vm, func(d *libvirt.Domain) error { return h.endOwnJob(ctx, d, p) })))
	}
	files := []string{}
	for _, k := range p.disks {
		files = append(files, k.scratch)
	}
	if p.begun && p.socket != "" {
		files = append(files, p.socket)
	}
	all = append(all, removeAll(ctx, h.place, files...))
	if p.reader {
		all = append(all, ignoreGone(h.insist(ctx, p.vm, func(d *libvirt.Domain) error { return h.stopReader(ctx, d) })))
	}
	h.locks.release(p.vm)
	return errors.Join(all...)
}

// endOwnJob ends the plan's job unless it ended by itself and another one took its place.
func (h *host) endOwnJob(ctx context.Context, d *libvirt.Domain, p *plan) error {
	text, err := d.BackupGetXMLDesc(0)
	if code := virtCode(err); code == libvirt.ERR_NO_DOMAIN_BACKUP || code == libvirt.ERR_OPERATION_INVALID {
		return nil
	}
	if err != nil {
		return err
	}
	if socketOf(text) != p.socket {
		return nil
	}
	return endJob(ctx, d)
}

// together does the same with several plans at once and returns the first error.
func together(plans []*plan, do func(*plan) error) error {
	var g errgroup.Group
	for _, p := range plans {
		g.Go(func() error { return do(p) })
	}
	return g.Wait()
}
