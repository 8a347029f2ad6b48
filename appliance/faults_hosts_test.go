package main_test

import (
	"strings"

	"github.com/stretchr/testify/require"

	"understudy/hypervisors/kvm/lab"
)

// hostFaults are row R3: processes, machines and disks that go away.
var hostFaults = []fault{
	{
		name:   "QEMUKilled",
		strike: func(s *stage) { require.NoError(s.t, s.guest.KillQEMU(s.ctx)) },
		told:   "the machine stopped while its disks were read",
		hint:   "The next cycle starts from the last recovery point.",
		mend:   func(s *stage) { s.startGuest() },
		next:   "difference", // the change tracking died with QEMU
		stops:  true,
	},
	{
		name: "LibvirtdKilled",
		strike: func(s *stage) {
			require.NoError(s.t, s.lab.Source.Kill())
			require.NoError(s.t, s.lab.Target.Kill())
			require.NoError(s.t, s.lab.Source.Restart(s.ctx))
			require.NoError(s.t, s.lab.Target.Restart(s.ctx))
		},
		next: "incremental",
	},
	{
		name: "MachineUndefined",
		strike: func(s *stage) {
			s.sh(s.lab.Source, `virsh -q dumpxml --inactive "$1" >/var/lib/libvirt/saved.xml`, faultGuest)
			s.virsh(s.lab.Source, "destroy", faultGuest)
			s.virsh(s.lab.Source, "undefine", faultGuest, "--checkpoints-metadata")
		},
		told: "read machine " + faultGuest + ".*(the machine stopped|not found)",
		mend: func(s *stage) {
			s.sh(s.lab.Source, `virsh -q define /var/lib/libvirt/saved.xml`)
			s.startGuest()
		},
		next:  "difference",
		long:  true,
		stops: true,
	},
	{
		name: "DiskAdded",
		strike: func(s *stage) {
			s.sh(s.lab.Source, `qemu-img create -q -f qcow2 "$1" 8M && qemu-io -c "write -P 7 1M 1M" "$1"`, extraDisk)
			s.virsh(s.lab.Source, "attach-disk", faultGuest, extraDisk, "vdc", "--driver", "qemu", "--subdriver", "qcow2", "--targetbus", "virtio")
		},
		mend: func(s *stage) { s.d.succeeded(s.d.SyncNow(s.ctx, faultGroup)) }, // the next cycle takes it along
		next: "difference",
		long: true,
	},
	{
		name: "DiskRemoved",
		strike: func(s *stage) {
			// libvirt does not let go of a disk that is being read; when the cycle has ended it does.
			_, err := s.lab.Source.Virsh(s.ctx, "detach-disk", faultGuest, "vdc")
			s.t.Log("detached in a cycle: ", err)
		},
		mend: func(s *stage) {
			s.detachExtra()
			s.d.succeeded(s.d.SyncNow(s.ctx, faultGroup))
		},
		next: "incremental",
		long: true,
	},
	{
		name: "DiskResized",
		strike: func(s *stage) {
			_, err := s.lab.Source.Virsh(s.ctx, "blockresize", faultGuest, "vdb", "40M")
			require.ErrorContains(s.t, err, "is in use", "QEMU protects a disk that is being read")
		},
		mend: func(s *stage) {
			s.virsh(s.lab.Source, "blockresize", faultGuest, "vdb", "40M")
			s.d.succeeded(s.d.SyncNow(s.ctx, faultGroup))
		},
		next: "difference",
		long: true,
	},
	{
		name:   "SourceRebooted",
		strike: func(s *stage) { s.reboot(s.lab.Source) },
		told:   "read machine " + faultGuest + ".*(host cannot be reached|the machine stopped)",
		hint:   "The next cycle starts from the last recovery point.",
		mend:   func(s *stage) { s.startGuest() },
		next:   "difference",
		stops:  true,
	},
	{
		name:   "TargetRebooted",
		strike: func(s *stage) { s.reboot(s.lab.Target) },
		told:   "qemu-storage-daemon|host cannot be reached",
		next:   "incremental",
		long:   true,
	},
}

const extraDisk = lab.ImagesDir + "/web1-c.qcow2"

func (s *stage) startGuest() {
	s.until("the guest is off", func() bool {
		state, err := s.lab.Source.Virsh(s.ctx, "domstate", faultGuest)
		return err == nil && strings.HasPrefix(state, "shut")
	})
	require.NoError(s.t, s.guest.Start(s.ctx))
}

func (s *stage) detachExtra() {
	s.until("the disk is gone", func() bool {
		disks := s.virsh(s.lab.Source, "domblklist", faultGuest)
		if strings.Contains(disks, "vdc") {
			_, _ = s.lab.Source.Virsh(s.ctx, "detach-disk", faultGuest, "vdc") // it may be on its way out
		}
		return !strings.Contains(disks, "vdc")
	})
}

// reboot ends everything that runs on a host at once, with what is in its memory, and starts what a host starts.
func (s *stage) reboot(h *lab.Host) {
	require.NoError(s.t, h.PowerOff(s.ctx))
	require.NoError(s.t, h.PowerOn(s.ctx))
}
