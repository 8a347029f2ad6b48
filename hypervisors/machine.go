package hypervisors

// Info identifies a host.
type Info struct {
	// Identity is the same however the host is reached (its UUID), so that one host is not taken for two.
	Identity string
	// Product and Version of the hypervisor, for people: "QEMU/libvirt", "7.2.22/9.0.0".
	Product string
	Version string
	// Hostname as the host says it.
	Hostname string
	CPUs     int
	Memory   int64
}

// Capabilities announce the optional parts of a driver on this host. A false means: not here, whatever the type says.
type Capabilities struct {
	Source    bool // Host implements Source
	Target    bool // Host implements Target
	Power     bool // Host implements Power
	Isolation bool // Host implements Isolation
	Guest     bool // Host implements Guest
	Screen    bool // Host implements Screen
	Probe     bool // Host implements Prober
	// Dial: Guest.Dial leads into isolated networks, where the guests of tests are.
	Dial bool
	// ChangeTracking: Changed can answer for at least some disks.
	ChangeTracking bool
	// Quiesce: application-consistent checkpoints can be tried.
	Quiesce bool
	// GroupMoment: several machines can share one moment.
	GroupMoment bool
	// Compression: what a draft is asked to compress takes less room. Where it is false the wish changes nothing.
	Compression bool
	// Convert: runs can make the guest start on the host's own devices, see RunSpec.Convert.
	Convert bool
	// Devices of replicas, for a Target.
	Devices Devices
	// Missing says, for people, why something above is false: "libvirt 5.0 has no checkpoints; 6.0 or later is needed".
	Missing []string
}

// Devices are what machines of a host can be made of, in the words of Hardware. A guest boots on another hypervisor when
// it finds there what it has drivers for, so a driver names whatever it can give, not what it likes best.
type Devices struct {
	// Disks are the ways to attach one, as Disk.Attached has them.
	Disks []string
	// NICs are models, as NIC.Model.
	NICs []string
}

// PowerState of a machine.
type PowerState string

// Power states.
const (
	Off     PowerState = "off"
	Running PowerState = "running"
	Paused  PowerState = "paused"
)

// VM is a machine as a host shows it.
type VM struct {
	// ID is stable for the life of the machine (its UUID).
	ID       string
	State    PowerState
	Hardware Hardware
	// Replica is the replica id when the machine is one of ours or a test run of ours, else empty.
	Replica string
	// Autostart: the machine starts by itself with its host.
	Autostart bool
	// Warnings say, for people, what of this machine cannot be protected, or not well: a raw disk, a shared disk, a
	// passed-through device.
	Warnings []string
}

// Firmware of a machine.
type Firmware string

// Firmware kinds.
const (
	BIOS Firmware = "bios"
	UEFI Firmware = "uefi"
)

// Hardware is what a machine is made of, in terms that every hypervisor has.
type Hardware struct {
	Name     string
	CPUs     int
	Memory   int64 // bytes
	Firmware Firmware
	// SecureBoot and TPM matter only with UEFI.
	SecureBoot bool
	TPM        bool
	Arch       string // x86_64
	// Chipset is the driver's own word where it matters (KVM: "q35" or "pc"); drivers ignore those they do not know.
	Chipset string
	// CPUModel is the driver's own word (KVM: "host-model", "maximum", "Skylake-Server"); ignored where unknown.
	CPUModel string
	// OS is what the host was told that the guest is, by libosinfo's id ("http://debian.org/debian/12"). What libosinfo does
	// not know has the driver's own word, which others ignore. Empty: nobody said.
	OS    string
	Disks []Disk
	NICs  []NIC
	// Accelerated is false for machines that must run in software emulation (QEMU's TCG).
	Accelerated bool
	// GuestAgent says that a channel for a guest agent is there.
	GuestAgent bool
}

// Disk of a machine.
type Disk struct {
	// ID is stable within the machine and unique there (KVM: the target name, "vda"; ESX: the place, "scsi0-1"). A replica's
	// disk has the id of its source's, whatever the target calls its own. [a-z][a-z0-9-]{1,15}
	ID   string
	Size int64 // bytes
	// Bus is virtio, scsi, sata, ide, nvme or usb.
	Bus string
	// Controller, on the SCSI bus, is what the guest needs a driver for: virtio-scsi, pvscsi, lsilogic, lsisas1068 or
	// buslogic. Empty: nobody said, and a target takes what it likes.
	Controller string
	// Format is the source's image format, for people and for choosing how to track (qcow2, raw, vmdk, vhdx).
	Format string
	// Path at the host, for people.
	Path string
	// Boot is the position in the boot order, from 1; 0: not in it.
	Boot int
	// Excluded says why this disk cannot be protected (shared, read-only, network without support); empty: it can.
	Excluded string
}

// Attached says by what a guest reaches the disk: its bus and, where one is named, its controller: "sata", "scsi/pvscsi".
func (d Disk) Attached() string {
	if d.Bus == "scsi" && d.Controller != "" {
		return d.Bus + "/" + d.Controller
	}
	return d.Bus
}

// NIC of a machine.
type NIC struct {
	MAC     string
	Model   string // virtio, e1000, e1000e, rtl8139, vmxnet3
	Network string // as Network.Name
}

// Network of a host.
type Network struct {
	Name string
	// Kind for people: "libvirt network, isolated", "bridge".
	Kind string
	// Isolated is true when the host says that it has no uplink.
	Isolated bool
}

// Storage is a place for replicas.
type Storage struct {
	Name  string
	Path  string
	Free  int64
	Total int64
	// Default is where replicas go when nobody chose.
	Default bool
}
