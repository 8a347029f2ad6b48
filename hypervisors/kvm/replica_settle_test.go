package kvm

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/hypervisors"
	"understudy/hypervisors/kvm/lab"
)

// adoptedWorld is a world whose replica is a machine that was there before.
type adoptedWorld struct {
	*world
	format string
	vm     string
	before string // its definition
	own    map[string][]byte
}

// newAdopted makes a machine on the target host with disks that hold something.
func newAdopted(t *testing.T, format string) *adoptedWorld {
	t.Helper()
	w := &adoptedWorld{world: newWorld(t), format: format, own: map[string][]byte{}}
	hw := w.spec.Hardware
	def, err := machineXML(hw, false)
	require.NoError(t, err)
	for _, d := range hw.Disks {
		data := make([]byte, d.Size)
		fill(w.rng, data)
		w.own[d.ID] = data
		file := w.ownFile(d.ID)
		raw := filepath.Join(testLab.Target.Dir, "lib/images", filepath.Base(file)+".tmp")
		require.NoError(t, os.WriteFile(raw, data, 0o600))
		_, err := testLab.Target.Exec(w.ctx, "qemu-img", "convert", "-f", "raw", "-O", format, file+".tmp", file)
		require.NoError(t, err)
		require.NoError(t, os.Remove(raw))
		require.NoError(t, addDisk(def, fittedDisk{id: d.ID, bus: d.Bus, boot: d.Boot, file: file}))
		def.Devices.Disks[len(def.Devices.Disks)-1].Driver.Type = format
	}
	require.NoError(t, w.h.defineXML(w.ctx, def))
	t.Cleanup(func() {
		virsh(t, testLab.Target, "undefine", hw.Name)
		for _, d := range hw.Disks {
			require.NoError(t, os.Remove(filepath.Join(testLab.Target.Dir, "lib/images", filepath.Base(w.ownFile(d.ID)))))
		}
	})
	w.vm = virshLine(t, testLab.Target, "domuuid", hw.Name)
	w.before = virsh(t, testLab.Target, "dumpxml", "--inactive", hw.Name)
	return w
}

func (w *adoptedWorld) ownFile(disk string) string {
	return lab.ImagesDir + "/" + w.spec.Hardware.Name + "-" + disk + "." + w.format
}

// adopt takes the machine over. What a draft shows first is the machine's own data.
func (w *adoptedWorld) adopt() *replica {
	w.t.Helper()
	r, err := w.h.Adopt(w.ctx, hypervisors.AdoptSpec{ID: w.spec.ID, VM: w.vm})
	require.NoError(w.t, err)
	w.cleanup()
	w.want[""] = map[string]content{}
	for id, data := range w.own {
		w.want[""][id] = content{data: data}
	}
	return r.(*replica)
}

// checkOwn reads the machine's own disks.
func (w *adoptedWorld) checkOwn(want func(disk string) []byte) {
	w.t.Helper()
	for _, d := range w.spec.Hardware.Disks {
		img, err := testLab.Target.ReadImage(w.ctx, w.ownFile(d.ID))
		require.NoError(w.t, err)
		data := want(d.ID)
		require.True(w.t, bytes.Equal(data, readBytes(w.t, img, len(data))), "own disk %s differs", d.ID)
		require.NoError(w.t, img.Close())
	}
}

func (w *adoptedWorld) checkUntouched() {
	w.t.Helper()
	w.checkOwn(func(disk string) []byte { return w.own[disk] })
}

func (w *adoptedWorld) checkSettled(point string) {
	w.t.Helper()
	w.checkOwn(func(disk string) []byte { return w.want[point][disk].data })
	require.Equal(w.t, w.before, virsh(w.t, testLab.Target, "dumpxml", "--inactive", w.spec.Hardware.Name))
	_, err := w.h.Replica(w.ctx, w.spec.ID)
	require.ErrorIs(w.t, err, hypervisors.ErrNotFound)
}

func TestAdoptAndSettle(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"raw", "qcow2"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			w := newAdopted(t, format)
			r := w.adopt()
			d, err := r.Draft(w.ctx, w.request("p1"))
			require.NoError(t, err)
			for _, disk := range d.Disks() {
				require.False(t, disk.MapValid(), "nobody knows the hashes of an adopted disk")
				require.Equal(t, w.own[disk.ID()], readBytes(t, disk, int(disk.Size())))
			}
			require.NoError(t, d.Discard(w.ctx))

			w.mustAdd(r, "p1", "p2")
			w.spec.Hardware.Disks[1].Size += mib // it grows
			w.mustAdd(r, "p3")
			w.drop(r, "p1")
			w.check(r)
			w.drop(r, "p2")
			w.check(r)
			w.checkUntouched()

			require.NoError(t, r.Settle(w.ctx))
			w.checkSettled("p3")
		})
	}
}

func TestDeletingAnAdoptedReplicaGivesTheMachineBack(t *testing.T) {
	t.Parallel()
	w := newAdopted(t, "qcow2")
	r := w.adopt()
	w.mustAdd(r, "p1", "p2")
	require.NoError(t, r.Delete(w.ctx))
	require.NoError(t, r.Delete(w.ctx))
	w.checkUntouched()
	require.Equal(t, w.before, virsh(t, testLab.Target, "dumpxml", "--inactive", w.spec.Hardware.Name))
}

func TestAdoptRefuses(t *testing.T) {
	w := newAdopted(t, "qcow2")
	virsh(t, testLab.Target, "start", "--paused", w.spec.Hardware.Name)
	_, err := w.h.Adopt(w.ctx, hypervisors.AdoptSpec{ID: w.spec.ID, VM: w.vm})
	require.ErrorIs(t, err, hypervisors.ErrRunning)
	virsh(t, testLab.Target, "destroy", w.spec.Hardware.Name)

	r := w.adopt()
	require.ErrorIs(t, r.Settle(w.ctx), hypervisors.ErrInvalid, "there is no point")
	_, err = w.h.Adopt(w.ctx, hypervisors.AdoptSpec{ID: "another", VM: w.vm})
	require.ErrorIs(t, err, hypervisors.ErrInUse)

	made := newWorld(t)
	require.ErrorIs(t, made.create().Settle(made.ctx), hypervisors.ErrInvalid, "it was made by us")
}
