package lab

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"understudy/hypervisors/kvm/lab/record"
)

// GuestOptions say what a guest is like. Only Name is needed.
type GuestOptions struct {
	Name string
	// Number makes address 192.168.77.(10+Number) and the MAC; different for every guest of a lab.
	Number int
	// DiskA boots and holds a file system and a log, DiskB another log. Sizes in bytes; 0 means 96 and 64 MiB.
	DiskA, DiskB int64
	// Fill puts that many bytes of noise on disk B behind its log, to have something to copy.
	Fill int64
	// Raw makes raw images, which cannot track changes, instead of qcow2.
	Raw bool
	// Delay between two records; 0 means 20 ms.
	Delay time.Duration
	// NoAgent leaves the guest agent's channel out.
	NoAgent bool
	// Off only defines the guest.
	Off bool
}

// Guest is a machine that writes records. It was started on Host, and may meanwhile run elsewhere or not at all.
type Guest struct {
	GuestOptions
	Host *Host
	// Addr is the guest's address in the network [Production].
	Addr string
	MAC  string
	// Disks are the images of disk A and B, as the host's processes see them.
	Disks [2]string

	lab *Lab
}

// StartGuest builds the disks of a guest on a host, defines it and, unless o.Off, starts it and waits until it answers.
func (l *Lab) StartGuest(ctx context.Context, h *Host, o GuestOptions) (*Guest, error) {
	g := l.newGuest(h, o)
	began := time.Now()
	if err := g.create(ctx); err != nil {
		return nil, fmt.Errorf("guest %s: %w", o.Name, err)
	}
	if o.Off {
		return g, nil
	}
	if err := g.Start(ctx); err != nil {
		return nil, fmt.Errorf("guest %s: %w", o.Name, err)
	}
	l.log.Info("guest is up", "name", g.Name, "host", h.Name, "addr", g.Addr, "took", time.Since(began).Round(time.Millisecond))
	return g, nil
}

func (l *Lab) newGuest(h *Host, o GuestOptions) *Guest {
	o.DiskA, o.DiskB = cmp.Or(o.DiskA, 96<<20), cmp.Or(o.DiskB, 64<<20)
	o.Delay = cmp.Or(o.Delay, 20*time.Millisecond)
	return &Guest{GuestOptions: o, Host: h, lab: l, Addr: fmt.Sprintf("192.168.77.%d", 10+o.Number), MAC: fmt.Sprintf("52:54:00:77:00:%02x", o.Number)}
}

// boot returns the lab's template and whether guests may use KVM; both are found out once.
func (l *Lab) boot(ctx context.Context) (template, bool, error) {
	l.bootOnce.Lock()
	defer l.bootOnce.Unlock()
	if l.template.key != "" {
		return l.template, l.kvm, nil
	}
	t, err := cache{l.cache}.template(ctx, l.Dir)
	if err != nil {
		return template{}, false, err
	}
	kvm := false
	if !l.emulated {
		if kvm, err = l.kvmWorks(ctx, t); err != nil {
			return template{}, false, err
		}
	}
	l.template, l.kvm = t, kvm
	return t, kvm, nil
}

func (g *Guest) create(ctx context.Context) error {
	t, kvm, err := g.lab.boot(ctx)
	if err != nil {
		return err
	}
	if err := g.makeDisks(ctx, t); err != nil {
		return err
	}
	file := filepath.Join(g.Host.Dir, g.Name+".xml")
	if err := os.WriteFile(file, []byte(g.domainXML(kvm)), 0o600); err != nil {
		return err
	}
	_, err = g.Host.Virsh(ctx, "define", file)
	return err
}

// RawDisks makes the disks of a guest that no host here has yet, for a machine of any hypervisor; its devices may be QEMU's
// or VMware's. The files must not exist.
func (l *Lab) RawDisks(ctx context.Context, o GuestOptions, files [2]string) (*Guest, error) {
	g := l.newGuest(nil, o)
	t, _, err := l.boot(ctx)
	if err != nil {
		return nil, err
	}
	return g, g.rawDisks(ctx, t, files)
}

func (g *Guest) rawDisks(ctx context.Context, t template, files [2]string) error {
	if g.DiskA < minDiskA || g.DiskB < record.LogSize+g.Fill {
		return fmt.Errorf("guest %s: disks of %d and %d bytes are too small", g.Name, g.DiskA, g.DiskB)
	}
	if err := copySparse(ctx, t.disk, files[0]); err != nil {
		return err
	}
	params := fmt.Sprintf("guest.name=%s guest.ip=%s/24 guest.delay=%v", g.Name, g.Addr, g.Delay)
	if err := setMenu(ctx, files[0], params); err != nil {
		return err
	}
	if err := os.Truncate(files[0], g.DiskA); err != nil {
		return err
	}
	if err := makeSparse(files[1], g.DiskB); err != nil {
		return err
	}
	return writeNoise(files[1], record.LogSize, g.Fill, uint64(g.Number))
}

func (g *Guest) makeDisks(ctx context.Context, t template) error {
	format := "qcow2"
	if g.Raw {
		format = "raw"
	}
	var raw [2]string
	for i := range raw {
		raw[i] = filepath.Join(g.lab.Dir, fmt.Sprintf("%s-%s-%c.tmp", g.Host.Name, g.Name, 'a'+i))
	}
	if err := g.rawDisks(ctx, t, raw); err != nil {
		return err
	}
	for i, file := range raw {
		g.Disks[i] = path.Join(g.Host.Images, fmt.Sprintf("%s-%c.%s", g.Name, 'a'+i, format))
		argv := []string{"qemu-img", "convert", "-q", "-f", "raw", "-O", format, file, g.Host.Outside(g.Disks[i])}
		if _, err := run(exec.CommandContext(ctx, argv[0], argv[1:]...), strings.Join(argv, " ")); err != nil {
			return err
		}
		if err := os.Remove(file); err != nil {
			return err
		}
	}
	return nil
}

// writeNoise fills a range of a file with the same incompressible bytes for the same seed.
func writeNoise(name string, off, n int64, seed uint64) error {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	noise := rand.NewChaCha8([32]byte{byte(seed)})
	_, err = io.CopyN(io.NewOffsetWriter(f, off), noise, n)
	return err
}

// domainXML describes the guest to libvirt. The disks bypass the page cache, as they do in production.
func (g *Guest) domainXML(kvm bool) string {
	kind, cpu := "qemu", "<cpu mode='maximum'/>"
	if kvm {
		kind, cpu = "kvm", "<cpu mode='host-passthrough'/>"
	}
	format := "qcow2"
	if g.Raw {
		format = "raw"
	}
	agent := ""
	if !g.NoAgent {
		agent = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
	}
	return fmt.Sprintf(`<domain type='%[1]s'>
  <name>%[2]s</name>
  <memory unit='MiB'>256</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type><boot dev='hd'/></os>
  <features><acpi/><apic/></features>
  %[3]s
  <on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'><driver name='qemu' type='%[4]s' cache='none' discard='unmap'/><source file='%[5]s'/><target dev='vda' bus='virtio'/></disk>
    <disk type='file' device='disk'><driver name='qemu' type='%[4]s' cache='none' discard='unmap'/><source file='%[6]s'/><target dev='vdb' bus='virtio'/></disk>
    <interface type='network'><mac address='%[7]s'/><source network='`+Production+`'/><model type='virtio'/></interface>
    <serial type='file'><source path='/var/log/libvirt/%[2]s.serial'/><target port='0'/></serial>
    <video><model type='vga'/></video>
    %[8]s
    <memballoon model='none'/>
  </devices>
</domain>
`, kind, g.Name, cpu, format, g.Disks[0], g.Disks[1], g.MAC, agent)
}

// Start turns the guest on at the host where it was made, and waits until it answers.
func (g *Guest) Start(ctx context.Context) error {
	if _, err := g.Host.Virsh(ctx, "start", g.Name); err != nil {
		return err
	}
	if _, err := g.Host.WaitStatus(ctx, g.Addr); err != nil {
		return fmt.Errorf("%w; its console says:\n%s", err, g.Serial())
	}
	return nil
}

// Status asks the guest how it is, at the host where it was made.
func (g *Guest) Status(ctx context.Context) (record.Status, error) {
	return g.Host.Status(ctx, g.Addr)
}

// Writes are what the last n writes of the guest took, each in milliseconds.
func (g *Guest) Writes(ctx context.Context, n int) ([]float64, error) {
	b, err := g.Host.Get(ctx, g.Addr, fmt.Sprintf("/writes/%d", n))
	if err != nil {
		return nil, err
	}
	var took []float64
	return took, json.Unmarshal(b, &took)
}

// WaitSeq waits until the guest has written n more records than now.
func (g *Guest) WaitSeq(ctx context.Context, n uint64) error {
	return g.Host.WaitSeq(ctx, g.Addr, n)
}

// Serial is all that the guest said on its serial console so far.
func (g *Guest) Serial() string {
	b, err := os.ReadFile(g.Host.Outside("/var/log/libvirt/" + g.Name + ".serial"))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// KillQEMU ends the guest's QEMU with SIGKILL, as a crash of the host would, and waits until it is gone.
func (g *Guest) KillQEMU(ctx context.Context) error {
	for _, p := range processes(g.lab.Dir, g.Host.Name) {
		if !strings.Contains(p.args, "-name guest="+g.Name+",") {
			continue
		}
		if err := unix.Kill(p.pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
		return poll(ctx, func() (bool, error) { return !exists(p.pid), nil })
	}
	return fmt.Errorf("no QEMU runs guest %s on %s", g.Name, g.Host.Name)
}

// Outside is where the machine itself finds a file of the host.
func (h *Host) Outside(name string) string {
	return filepath.Join("/proc", fmt.Sprint(h.PID), "root", name)
}

// Get asks a guest, from inside the host's network, for http://addr/path.
func (h *Host) Get(ctx context.Context, addr, path string) ([]byte, error) {
	client := http.Client{Transport: &http.Transport{DialContext: h.Dial, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", req.URL, resp.Status)
	}
	return io.ReadAll(resp.Body)
}

// Status asks the guest at addr, from inside the host, how it is.
func (h *Host) Status(ctx context.Context, addr string) (record.Status, error) {
	b, err := h.Get(ctx, addr, "/status")
	if err != nil {
		return record.Status{}, err
	}
	var s record.Status
	return s, json.Unmarshal(b, &s)
}

// WaitStatus waits until a guest answers at addr and returns the first answer.
func (h *Host) WaitStatus(ctx context.Context, addr string) (record.Status, error) {
	var s record.Status
	var last error
	err := poll(ctx, func() (bool, error) {
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		s, last = h.Status(try, addr)
		return last == nil, nil
	})
	if err != nil {
		return s, fmt.Errorf("guest at %s does not answer: %w", addr, errors.Join(err, last))
	}
	return s, nil
}

// WaitSeq waits until the guest at addr has written n more records than when it first answered.
func (h *Host) WaitSeq(ctx context.Context, addr string, n uint64) error {
	first, err := h.WaitStatus(ctx, addr)
	if err != nil {
		return err
	}
	return poll(ctx, func() (bool, error) {
		s, err := h.Status(ctx, addr)
		return err == nil && s.Seq >= first.Seq+n, nil
	})
}
