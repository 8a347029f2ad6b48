package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"understudy/api"
	"understudy/appliance/rig"
	"understudy/hypervisors"
	esxlab "understudy/hypervisors/esx/lab"
	"understudy/hypervisors/kvm/lab"
	"understudy/hypervisors/kvm/lab/record"
)

// walkESX is the way from ESX to KVM and back. ESX is a simulator with real disks, which runs no guests: while the machine
// is there, a scribe writes what its guest would. On KVM the guest itself boots.
type walkESX struct {
	*walk
	esx    *esxlab.Lab
	vm     string // its id on ESX
	scribe *scribe
}

// disksESX are the ids of its disks, which a replica's have on every host.
var disksESX = [2]string{"scsi0-0", "scsi0-1"}

func startESX(ctx context.Context, w *walk) (_ *walkESX, err error) {
	dir := filepath.Join(w.lab.Dir, "esx")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	w.say("starting an ESX host: VMware's simulator for govmomi, with disks")
	l, err := esxlab.Start(ctx, esxlab.Options{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	return &walkESX{walk: w, esx: l}, err
}

func (w *walkESX) close() error {
	if w.scribe != nil {
		w.scribe.stop()
	}
	return w.esx.Close()
}

func (w *walkESX) run(ctx context.Context) error {
	w.points = map[string]api.Point{}
	return w.steps(ctx, []step{
		{"machine", w.startMachine},
		{"hosts", w.connect},
		{"mirror", w.protect},
		{"cycles", w.watchCycles},
		{"test failover", w.test},
		{"failover", w.failOver},
		{"failback", w.failBack},
		{"protected again", w.protectedAgain},
		{"final compare", w.compare},
	})
}

// startMachine puts the disks of the lab's little guest onto the host's datastore, and turns their machine on.
func (w *walkESX) startMachine(ctx context.Context) error {
	guest := lab.GuestOptions{Name: machine, Number: 1, Fill: fill}
	files := [2]string{filepath.Join(w.lab.Dir, "a.raw"), filepath.Join(w.lab.Dir, "b.raw")}
	made, err := w.lab.RawDisks(ctx, guest, files)
	if err != nil {
		return err
	}
	w.guest = made
	w.vm, err = w.esx.AddVM(hypervisors.Hardware{Name: machine, CPUs: 1, Memory: 256 << 20, GuestAgent: true,
		Disks: []hypervisors.Disk{{ID: disksESX[0], Size: made.DiskA}, {ID: disksESX[1], Size: made.DiskB}},
		NICs:  []hypervisors.NIC{{MAC: made.MAC, Model: "vmxnet3", Network: esxlab.Network}}})
	if err != nil {
		return err
	}
	if err := w.esx.PowerOn(w.vm); err != nil {
		return err
	}
	for i, file := range files {
		if err := w.pour(file, disksESX[i]); err != nil {
			return err
		}
	}
	if err := w.write(ctx, 50); err != nil {
		return err
	}
	w.say("machine %s is on at ESX, on pvscsi and vmxnet3; a scribe writes what its guest would, for the simulator runs none", machine)
	return nil
}

// pour writes the content of a file onto a disk.
func (w *walkESX) pour(file, disk string) error {
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	for off := 0; off < len(content); off += 1 << 20 {
		part := content[off:min(off+1<<20, len(content))]
		if err := w.esx.Write(w.vm, disk, int64(off), part); err != nil {
			return err
		}
	}
	return nil
}

func (w *walkESX) connect(ctx context.Context) error {
	host, err := w.api.AddHost(ctx, api.HostSpec{Name: "esx", URI: w.esx.URI(), User: w.esx.User, Password: api.NewSecret(w.esx.Password)})
	if err != nil {
		return err
	}
	w.say("host esx connected, its certificate pinned: %s %s", host.Product, host.Version)
	return w.connectKVM(ctx, w.lab.Target)
}

func (w *walkESX) protect(ctx context.Context) error {
	return w.createGroup(ctx, api.GroupSpec{
		Name: group, SourceHost: "esx", TargetHost: "target",
		Machines: []api.GroupMachine{{VM: machine, Checks: []api.Check{{
			Kind: "http", Address: "http://" + w.guest.Addr + "/", Contains: machine, From: "192.168.77.253/24",
		}}}},
		Networks: []api.NetworkMap{{From: esxlab.Network, To: lab.Production}},
		Policy:   api.Policy{RPOSeconds: rpo, VerifyCycles: true},
	})
}

func (w *walkESX) test(ctx context.Context) error {
	return w.testWhile(ctx, func(ctx context.Context) error { return w.scribe.wait(ctx, 10) })
}

func (w *walkESX) failOver(ctx context.Context) error {
	w.scribe.stop()
	if err := w.esx.PowerOff(w.vm); err != nil {
		return err
	}
	at := w.scribe.newest()
	w.say("the machine on ESX lost its power at record %d", at)
	took, err := order(ctx, w.walk, w.api.Failover, api.FailoverOrder{})
	if err != nil {
		return err
	}
	w.FailoverS = took.Seconds()
	points, err := w.listPoints(ctx)
	if err != nil {
		return err
	}
	up, err := w.answersFrom(ctx, points[len(points)-1])
	if err != nil {
		return err
	}
	w.say("failover: %s boots on KVM and answers %.1f s after the order, at record %d (%d lost)", machine, w.FailoverS, up.Recovered, int64(at)-int64(up.Recovered))
	xml, err := w.lab.Target.Virsh(ctx, "dumpxml", machine)
	if err != nil {
		return err
	}
	if !strings.Contains(xml, "model='vmpvscsi'") || !strings.Contains(xml, "<model type='vmxnet3'/>") {
		return fmt.Errorf("it does not have the devices that it knows from ESX:\n%s", xml)
	}
	if err := w.commit(ctx); err != nil {
		return err
	}
	w.say("committed: it has on KVM the devices that it knows, pvscsi and vmxnet3, is production there, and has written 100 records more")
	return nil
}

// failBack brings the machine home: what it became on KVM is what ESX has afterwards.
func (w *walkESX) failBack(ctx context.Context) error {
	if err := w.checkTools(ctx); err != nil {
		return err
	}
	old, err := w.disks()
	if err != nil {
		return err
	}
	defer old.Close()
	last, newest, took, err := w.comeHome(ctx, old)
	if err != nil {
		return err
	}
	defer last.Close()
	if err := w.compareHome(ctx, last); err != nil {
		return err
	}
	if err := w.silentAt(ctx, w.lab.Target); err != nil {
		return err
	}
	w.say("failback in %.1f s: %s differed, %s written at ESX; both disks are there byte by byte what they were on KVM, at record %d",
		took.Seconds(), size(w.ChangedBytes), size(w.FailbackBytes), newest)
	return w.write(ctx, 10)
}

// checkTools lets the group be judged by the guest's tools: nothing on the simulated host answers HTTP.
func (w *walkESX) checkTools(ctx context.Context) error {
	g, err := w.api.GetGroup(ctx, group)
	if err != nil {
		return err
	}
	_, err = w.api.UpdateGroup(ctx, group, g.Revision, api.GroupEdit{Policy: g.Policy, Machines: []api.MachineEdit{{VM: machine, Checks: []api.Check{{Kind: "agent"}}}}})
	return err
}

// compare stops the machine, makes a last point, and compares all of both sides.
func (w *walkESX) compare(ctx context.Context) error {
	if err := w.pause(ctx); err != nil {
		return err
	}
	w.scribe.stop()
	if err := w.esx.PowerOff(w.vm); err != nil {
		return err
	}
	if _, err := w.job(ctx, w.api.SyncNow); err != nil {
		return err
	}
	points, err := w.listPoints(ctx)
	if err != nil {
		return err
	}
	replica, err := rig.PointDisks(ctx, w.lab.Target, points[len(points)-1].ID)
	if err != nil {
		return err
	}
	defer replica.Close()
	newest, err := replica.Check()
	if err != nil {
		return err
	}
	if err := w.compareHome(ctx, replica); err != nil {
		return err
	}
	if err := lab.CheckFileSystem(ctx, replica[0]); err != nil {
		return err
	}
	left, err := w.esx.Leftovers(ctx, machine)
	if err != nil {
		return err
	}
	w.Leftovers = append(w.Leftovers, left...)
	w.Identical, w.Points, w.CycleSMedian = true, len(w.points), w.medianCycle()
	w.say("turned off at record %d: the machine on ESX and its newest of %d points are identical, e2fsck finds nothing", newest, w.Points)
	if w.headless {
		return nil
	}
	if err := w.esx.PowerOn(w.vm); err != nil {
		return err
	}
	if err := w.write(ctx, 1); err != nil {
		return err
	}
	_, err = w.api.Resume(ctx, group)
	return err
}

// disks reads both disks at ESX.
func (w *walkESX) disks() (d rig.Disks, err error) {
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	for i, id := range disksESX {
		content, err := w.esx.Read(w.vm, id)
		if err != nil {
			return d, err
		}
		f, err := os.CreateTemp(w.lab.Dir, "esx-")
		if err != nil {
			return d, err
		}
		d[i] = &lab.Image{File: f, Size: int64(len(content))}
		if _, err := f.Write(content); err != nil {
			return d, err
		}
	}
	return d, nil
}

// compareHome compares both disks at ESX with others, byte by byte.
func (w *walkESX) compareHome(ctx context.Context, other rig.Disks) error {
	home, err := w.disks()
	if err != nil {
		return err
	}
	defer home.Close()
	for i := range home {
		if err := lab.Compare(ctx, home[i], other[i]); err != nil {
			return fmt.Errorf("disk %s at ESX: %w", disksESX[i], err)
		}
	}
	return nil
}

// write lets a new scribe go on where the disks are, and waits for n records.
func (w *walkESX) write(ctx context.Context, n uint64) error {
	disks, err := w.disks()
	if err != nil {
		return err
	}
	defer disks.Close()
	r, err := record.Check(disks[0], disks[1])
	if err != nil {
		return err
	}
	if problems := r.Problems(); len(problems) > 0 {
		return fmt.Errorf("on the disks at ESX: %s", strings.Join(problems, "; "))
	}
	w.scribe = &scribe{lab: w.esx, vm: w.vm, seq: r.Newest(), boot: r.A.Newest.Boot + 1, quit: make(chan struct{}), done: make(chan struct{})}
	if r.A.Newest.Seq > r.B.Newest.Seq { // as the guest does
		if err := w.scribe.put(1, r.Newest()); err != nil {
			return err
		}
	}
	go w.scribe.run()
	return w.scribe.wait(ctx, n)
}

// scribe writes records as the guest's own program does: a record to the one disk, and then to the other.
type scribe struct {
	lab        *esxlab.Lab
	vm         string
	boot       uint64
	quit, done chan struct{}
	once       sync.Once

	mu  sync.Mutex
	seq uint64
	err error
}

func (s *scribe) run() {
	defer close(s.done)
	for {
		select {
		case <-s.quit:
			return
		case <-time.After(20 * time.Millisecond):
		}
		seq := s.newest() + 1
		err := s.put(0, seq)
		if err == nil {
			err = s.put(1, seq)
		}
		s.mu.Lock()
		if s.err = err; err == nil {
			s.seq = seq
		}
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (s *scribe) put(disk int, seq uint64) error {
	b := make([]byte, record.Size)
	record.Record{Seq: seq, Boot: s.boot, Disk: uint64(disk)}.Encode(b)
	base := [2]int64{record.OffsetA, 0}[disk]
	return s.lab.Write(s.vm, disksESX[disk], base+int64(seq%record.Slots)*record.Size, b)
}

func (s *scribe) newest() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seq
}

// wait until n more records are written.
func (s *scribe) wait(ctx context.Context, n uint64) error {
	first := s.newest()
	return rig.Until(ctx, func() (bool, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.seq >= first+n, s.err
	})
}

// stop returns when nothing more is written.
func (s *scribe) stop() {
	s.once.Do(func() { close(s.quit) })
	<-s.done
}
