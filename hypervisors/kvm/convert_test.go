package kvm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"libvirt.org/go/libvirtxml"

	"understudy/hypervisors"
	"understudy/hypervisors/kvm/lab"
)

// standIns lets the hosts of the lab find our stand-in for virt-v2v before any that the machine has: on their own, by
// this process's path, and by SSH.
func standIns(l *lab.Lab) {
	dir, err := filepath.Abs("testdata")
	if err == nil {
		err = os.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	}
	for _, h := range []*lab.Host{l.Source, l.Target} {
		err = errors.Join(err, os.Symlink(filepath.Join(dir, converter), filepath.Join(h.Programs(), converter)))
	}
	if err != nil {
		panic(err)
	}
}

// conversions reads from the first disk of a machine how often its guest was converted by the stand-in.
func conversions(ctx context.Context, on *lab.Host, vm string) (int, error) {
	all, err := on.Virsh(ctx, "domblklist", vm)
	if err != nil {
		return 0, err
	}
	return conversionsOf(ctx, on, strings.Fields(all)[1])
}

func conversionsOf(ctx context.Context, on *lab.Host, image string) (n int, err error) {
	out, err := on.Exec(ctx, "sh", "-c", `qemu-io -U -r -f qcow2 -c "read -v 8192 1" "$1" | sed -n 's/^00002000: *\(..\).*/\1/p'`, "read", image)
	if err == nil {
		_, err = fmt.Sscanf(string(out), "%x", &n)
	}
	return n, err
}

// withSystem makes one more point, with what the stand-in takes for a system that behaves in a way.
func (w *world) withSystem(r *replica, id, way string) {
	w.t.Helper()
	req := w.request(id)
	d, err := r.Draft(w.ctx, req)
	require.NoError(w.t, err)
	now, err := w.scribble(d, w.want[w.newest()])
	require.NoError(w.t, err)
	head := make([]byte, 16<<10)
	copy(head[510:], "\x55\xaa")
	copy(head[1024:], way)
	_, err = d.Disks()[0].WriteAt(head, 0)
	require.NoError(w.t, err)
	copy(now["vda"].data, head)
	require.NoError(w.t, d.Commit(w.ctx, describe(req)))
	w.want[id], w.ids = now, append(w.ids, id)
}

// nothingLeft expects that no conversion has left anything on the target host.
func (w *world) nothingLeft(r *replica) {
	w.t.Helper()
	names, err := list(w.ctx, w.h.place, r.dir)
	require.NoError(w.t, err)
	for _, name := range names {
		require.False(w.t, strings.HasPrefix(name, "convert-"), name)
	}
	temporary, err := filepath.Glob(testLab.Target.Outside(w.h.converterSockets()) + ".*")
	require.NoError(w.t, err)
	require.Empty(w.t, temporary)
	sockets, err := os.ReadFile(testLab.Target.Outside("/run/converter-sockets"))
	require.True(w.t, err == nil || errors.Is(err, fs.ErrNotExist), "%v", err)
	for dir := range strings.Lines(string(sockets)) {
		require.NoDirExists(w.t, strings.TrimSpace(dir))
	}
	require.Zero(w.t, sleepers(w.t, "4321"))
	require.Zero(w.t, w.servers(r))
}

// servers counts the servers of images of the replica that conversions have started.
func (w *world) servers(r *replica) int {
	w.t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(w.t, err)
	n := 0
	for _, f := range files {
		if text, err := os.ReadFile(f); err == nil && bytes.HasPrefix(text, []byte("qemu-nbd\x00")) && bytes.Contains(text, []byte(r.dir+"/")) {
			n++
		}
	}
	return n
}

func (w *world) devicesOf(vm string) (all []string) {
	w.t.Helper()
	m, err := w.h.VM(w.ctx, vm)
	require.NoError(w.t, err)
	for _, d := range m.Hardware.Disks {
		all = append(all, d.ID+" "+d.Attached())
	}
	for _, n := range m.Hardware.NICs {
		all = append(all, n.Model)
	}
	return all
}

// vmware gives the world's machine the devices of a guest from ESX.
func (w *world) vmware() {
	hw := &w.spec.Hardware
	for i := range hw.Disks {
		hw.Disks[i].Bus, hw.Disks[i].Controller = "scsi", "pvscsi"
	}
	hw.NICs[0].Model = "vmxnet3"
}

func (w *world) convert(run, point string) hypervisors.RunSpec {
	return hypervisors.RunSpec{ID: run, Point: point, Networks: map[string]string{w.spec.Hardware.NICs[0].MAC: "production"}, Convert: true}
}

// A converted guest has the devices that virt-v2v made it for, in a test and as production, over a restart too; the replica
// has its own again afterwards. Both ways to a host are the same.
func TestConvertedRuns(t *testing.T) {
	for name, uri := range map[string]string{"local": testLab.Target.URI, "ssh": testLab.Target.SSHURI()} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.h = openHost(t, uri)
			require.True(t, w.h.Capabilities().Convert)
			w.vmware()
			r := w.create()
			w.withSystem(r, "p1", "")
			w.withSystem(r, "p2", "ide")
			own := []string{"vda scsi/pvscsi", "vdb scsi/pvscsi", "vmxnet3"}
			status, err := r.Status(w.ctx)
			require.NoError(t, err)

			test, err := r.Run(w.ctx, w.convert("t1", "p1"))
			require.NoError(t, err)
			require.Equal(t, []string{"vda virtio", "vdb virtio", "virtio"}, w.devicesOf(test.VM))
			n, err := conversions(w.ctx, testLab.Target, test.VM)
			require.NoError(t, err)
			require.Equal(t, 1, n)
			other, err := r.Run(w.ctx, w.convert("t2", "p2"))
			require.NoError(t, err)
			require.Equal(t, []string{"vda sata", "vdb sata", "rtl8139"}, w.devicesOf(other.VM))
			require.Equal(t, own, w.devicesOf(status.VM))
			w.nothingLeft(r)
			require.NoError(t, r.End(w.ctx, "t1"))
			require.NoError(t, r.End(w.ctx, "t2"))
			prepared := w.convert("t3", "p1")
			prepared.Prepare = true
			ready, err := r.Run(w.ctx, prepared)
			require.NoError(t, err)
			require.Equal(t, hypervisors.Off, ready.State)
			started, err := r.Run(w.ctx, w.convert("t3", "p1"))
			require.NoError(t, err)
			require.Equal(t, hypervisors.RunStatus{ID: "t3", Point: "p1", VM: ready.VM, State: hypervisors.Running}, started)
			n, err = conversions(w.ctx, testLab.Target, started.VM)
			require.NoError(t, err)
			require.Equal(t, 1, n)
			require.NoError(t, r.End(w.ctx, "t3"))

			live := w.convert(hypervisors.LiveRun, "p1")
			run, err := r.Run(w.ctx, live)
			require.NoError(t, err)
			made := []string{"vda virtio", "vdb virtio", "virtio"}
			require.Equal(t, made, w.devicesOf(run.VM))
			w.power(w.spec.Hardware.Name, "destroy")
			w.power(w.spec.Hardware.Name, "undefine")
			_, err = r.Run(w.ctx, live)
			require.NoError(t, err)
			require.Equal(t, made, w.devicesOf(run.VM), "it was undefined by hand")
			n, err = conversions(w.ctx, testLab.Target, run.VM)
			require.NoError(t, err)
			require.Equal(t, 1, n)
			require.NoError(t, r.End(w.ctx, hypervisors.LiveRun))
			require.Equal(t, own, w.devicesOf(run.VM))
			m, err := r.load(w.ctx)
			require.NoError(t, err)
			require.Empty(t, m.Unconverted)
			w.check(r)
			w.nothingLeft(r)
		})
	}
}

// What virt-v2v refuses is told in its words, and nothing is left; what it does not finish well is no run that starts.
func TestConversionsThatFail(t *testing.T) {
	w := newWorld(t)
	r := w.create()
	w.mustAdd(r, "p1")
	w.withSystem(r, "p2", "silent")
	w.withSystem(r, "p3", "")
	for _, run := range []string{"t1", hypervisors.LiveRun} {
		_, err := r.Run(w.ctx, w.convert(run, "p1"))
		require.ErrorIs(t, err, hypervisors.ErrUnconvertible)
		require.ErrorContains(t, err, "inspection could not detect the source guest (or physical machine).")
		require.NotContains(t, err.Error(), "Assuming")
		require.NotEmpty(t, hypervisors.Hint(err))
		_, err = r.Run(w.ctx, w.convert(run, "p2"))
		require.ErrorIs(t, err, hypervisors.ErrUnconvertible)
		w.nothingLeft(r)
	}
	s, err := r.Status(w.ctx)
	require.NoError(t, err)
	require.Empty(t, s.Runs)
	require.Equal(t, pointFiles("p1", "p2", "p3"), w.images(r))

	w.withSystem(r, "p4", "")
	d, err := r.Draft(w.ctx, w.request("p5"))
	require.NoError(t, err)
	_, err = d.Disks()[0].WriteAt([]byte("\xbe\xef"), 506)
	require.NoError(t, err)
	require.NoError(t, d.Commit(w.ctx, describe(w.request("p5"))))
	_, err = r.Run(w.ctx, w.convert("t1", "p5"))
	require.ErrorContains(t, err, "guestfs_launch failed")
	require.NotErrorIs(t, err, hypervisors.ErrUnconvertible, "it is the host")
	require.Contains(t, hypervisors.Hint(err), "libguestfs-test-tool")
	require.NoError(t, r.End(w.ctx, "t1"))
	require.NoError(t, r.Drop(w.ctx, "p5"))
	w.nothingLeft(r)

	w.h.caps.Convert = false
	_, err = r.Run(w.ctx, w.convert("t1", "p3"))
	require.ErrorIs(t, err, hypervisors.ErrIncapable)
	require.NotEmpty(t, hypervisors.Hint(err))
	w.check(r)
}

// While a guest is converted, points come and go and other runs start; the run itself can be ended, or is given up with
// its caller or its connection, and begins anew. Nothing of it lives on.
func TestConversionIsInterrupted(t *testing.T) {
	for name, uri := range map[string]string{"local": testLab.Target.URI, "ssh": testLab.Target.SSHURI()} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.h = openHost(t, uri)
			r := w.create()
			w.withSystem(r, "p1", "")
			w.withSystem(r, "p2", "hang")
			for _, id := range []string{"t1", hypervisors.LiveRun} {
				begin := func() (chan error, context.CancelFunc) {
					ctx, cancel := context.WithCancel(w.ctx)
					ended := make(chan error, 1)
					go func() { _, err := r.Run(ctx, w.convert(id, "p2")); ended <- err }()
					waitFor(t, "it is being converted", func() bool { return sleepers(t, "4321") == 1 })
					return ended, cancel
				}
				ended, cancel := begin()
				require.Equal(t, 1, w.servers(r))
				w.mustAdd(r, "q"+id)
				s, err := r.Status(w.ctx)
				require.NoError(t, err)
				require.Equal(t, []hypervisors.RunStatus{{ID: id, Point: "p2", VM: s.Runs[0].VM, State: hypervisors.Off}}, s.Runs)
				_, err = r.Run(w.ctx, w.convert(id, "p2"))
				require.ErrorIs(t, err, hypervisors.ErrBusy)
				require.ErrorIs(t, r.Drop(w.ctx, "p2"), hypervisors.ErrInUse)
				beside, err := r.Run(w.ctx, w.convert("t9", "p1"))
				require.NoError(t, err)
				require.Equal(t, hypervisors.Running, beside.State)
				require.NoError(t, r.End(w.ctx, "t9"))
				require.NoError(t, r.End(w.ctx, id))
				require.ErrorIs(t, <-ended, hypervisors.ErrNotFound)
				cancel()
				w.nothingLeft(r)

				ended, cancel = begin()
				cancel()
				require.ErrorIs(t, <-ended, context.Canceled)
				w.nothingLeft(r)

				// The appliance dies, and another finds what it left.
				ended, cancel = begin()
				require.NoError(t, w.h.Close())
				require.Error(t, <-ended)
				cancel()
				w.h = openHost(t, uri)
				r, err = w.h.findReplica(w.ctx, w.spec.ID)
				require.NoError(t, err)
				waitFor(t, "nothing of it is at work", func() bool { return sleepers(t, "4321") == 0 && w.servers(r) == 0 })
				kept, err := w.h.cleanTargets(w.ctx, hypervisors.Keep{TestRuns: []string{"t1"}})
				require.NoError(t, err)
				require.Empty(t, kept, "it is still wanted")
				require.Len(t, w.tests(r), map[string]int{"t1": 1, hypervisors.LiveRun: 0}[id])
				removed, err := w.h.cleanTargets(w.ctx, hypervisors.Keep{})
				require.NoError(t, err)
				if id == "t1" {
					require.Contains(t, removed, "test run t1 of replica "+r.id)
				}
				require.NoError(t, r.End(w.ctx, id))
				w.nothingLeft(r)
				w.drop(r, "q"+id)
			}
			w.check(r)
			require.Equal(t, pointFiles("p1", "p2"), w.images(r))
		})
	}
}

func (w *world) tests(r *replica) []testRun {
	w.t.Helper()
	m, err := r.load(w.ctx)
	require.NoError(w.t, err)
	return m.Tests
}

// A conversion whose script was killed begins on fresh overlays; what it left goes with the run, and by Clean.
func TestConversionBeginsAnew(t *testing.T) {
	w := newWorld(t)
	r := w.create()
	w.withSystem(r, "p1", "")
	for _, id := range []string{"t1", hypervisors.LiveRun} {
		file := map[string]string{"t1": testFile("vda", "t1"), hypervisors.LiveRun: stageFile("vda")}[id]
		_, c, err := r.run(w.ctx, w.convert(id, "p1"), nil)
		require.NoError(t, err)
		require.NotNil(t, c)
		_, err = c.work(w.ctx)
		require.NoError(t, err)
		n, err := conversionsOf(w.ctx, testLab.Target, path.Join(r.dir, file))
		require.NoError(t, err)
		require.Equal(t, 1, n)
		require.NoError(t, mkdirAll(w.ctx, w.h.place, path.Join(r.dir, scratchDir(id))))
		temporary := w.h.converterSockets() + ".dead"
		require.NoError(t, mkdirAll(w.ctx, w.h.place, temporary))

		r = w.reopen()
		removed, err := w.h.cleanTargets(w.ctx, hypervisors.Keep{TestRuns: []string{"t1"}})
		require.NoError(t, err)
		require.Equal(t, []string{temporary}, removed)
		run, err := r.Run(w.ctx, w.convert(id, "p1"))
		require.NoError(t, err)
		n, err = conversions(w.ctx, testLab.Target, run.VM)
		require.NoError(t, err)
		require.Equal(t, 1, n, "it was not made on what the first had left")
		w.nothingLeft(r)
		require.NoError(t, r.End(w.ctx, id))
	}
	w.check(r)
}

func TestWhatTheConverterSays(t *testing.T) {
	said := func(block, net string) string {
		return fmt.Sprintf("gcaps_block_bus = %s\ngcaps_net_bus = %s\ngcaps_machine = q35\n", block, net)
	}
	old := hypervisors.Hardware{Chipset: "pc"}
	for _, c := range []struct {
		block, net string
		hw         hypervisors.Hardware
		want       devices
	}{
		{"virtio-blk", "virtio-net", old, devices{Bus: "virtio", NIC: "virtio"}},
		{"virtio-scsi", "e1000", old, devices{Bus: "scsi", Controller: "virtio-scsi", NIC: "e1000"}},
		{"ide", "rtl8139", old, devices{Bus: "ide", NIC: "rtl8139"}},
		{"ide", "rtl8139", hypervisors.Hardware{}, devices{Bus: "sata", NIC: "rtl8139"}},
	} {
		made, err := converted(said(c.block, c.net), c.hw)
		require.NoError(t, err)
		require.Equal(t, &c.want, made)
	}
	for _, text := range []string{"", said("floppy", "virtio-net"), said("virtio-blk", "token-ring"), "gcaps_block_bus = ide"} {
		_, err := converted(text, old)
		require.ErrorIs(t, err, hypervisors.ErrUnconvertible, text)
	}
	require.Equal(t, "a b", bounded(" a\n\tb\n"))
	require.Len(t, []rune(bounded(strings.Repeat("ä", 999))), 401)
}

// A place in the boot order stays with its disk, and disks of others stay where they are.
func TestFitDevices(t *testing.T) {
	def := &libvirtxml.Domain{}
	require.NoError(t, def.Unmarshal(`<domain type='qemu'><name>a</name><devices>
<disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>
<disk type='file' device='disk'><source file='/r/vda_stage.qcow2'/><target dev='sdb' bus='scsi'/><boot order='3'/><alias name='ua-understudy-scsi0-0'/></disk>
<interface type='network'><mac address='52:54:00:00:00:01'/><source network='lan'/><model type='vmxnet3'/><address type='pci' domain='0' bus='1' slot='0' function='0'/></interface>
</devices></domain>`))
	disks := []fittedDisk{{id: "scsi0-0", bus: "scsi", controller: "pvscsi", file: "/r/x"}}
	(&devices{Bus: "virtio", NIC: "e1000"}).fit(def, disks)
	require.Len(t, def.Devices.Disks, 1)
	require.Equal(t, "cdrom", def.Devices.Disks[0].Device)
	require.Equal(t, fittedDisk{id: "scsi0-0", bus: "virtio", boot: 3, file: "/r/x"}, disks[0])
	require.Equal(t, "e1000", def.Devices.Interfaces[0].Model.Type)
	require.Nil(t, def.Devices.Interfaces[0].Address)
	(*devices)(nil).fit(def, disks)
	require.Len(t, def.Devices.Disks, 1)
}
