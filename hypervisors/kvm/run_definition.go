package kvm

import (
	"context"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"libvirt.org/go/libvirtxml"

	"understudy/hypervisors"
)

// fittedDisk is a disk of a machine that stands on an overlay of ours.
type fittedDisk struct {
	id         string
	bus        string
	controller string
	boot       int
	file       string
}

// definition is the replica's machine, before it is put onto disks and networks: an adopted one, and one whose guest was
// converted, as it was; ours as it is, because people may have changed it; or, when it is gone, anew.
func (r *replica) definition(ctx context.Context, m *manifest) (*libvirtxml.Domain, error) {
	if m.Adopted != nil {
		def := &libvirtxml.Domain{}
		return def, def.Unmarshal(m.Adopted.Definition)
	}
	if m.Unconverted != "" {
		def := &libvirtxml.Domain{}
		return def, def.Unmarshal(m.Unconverted)
	}
	def, err := r.host.inactive(ctx, m.VM)
	if err != nil {
		return nil, err
	}
	if def == nil {
		return r.host.newDefinition(ctx, m)
	}
	if mark := readMarks(def).Replica; mark == nil || mark.ID != r.id || mark.Owner != r.host.owner {
		return nil, &hypervisors.Error{Op: "use", Subject: "machine " + def.Name, Err: hypervisors.ErrForeign,
			Hint: "It has the UUID of the replica but not its mark; somebody made it by hand. Rename or remove it."}
	}
	return def, nil
}

// fittedDisks are the machine's disks on a point, in files that file names.
func (r *replica) fittedDisks(m *manifest, p *point, file func(disk string) string) []fittedDisk {
	var disks []fittedDisk
	for _, id := range m.stageDisks(p) {
		f := fittedDisk{id: id, bus: "virtio", file: path.Join(r.dir, file(id))}
		if p != nil {
			f.boot = p.disk(id).Boot
			if bus := p.disk(id).Bus; attaches(m.Hardware, bus) {
				f.bus = bus
			}
		}
		for _, d := range m.Hardware.Disks {
			if d.ID == id {
				f.boot = d.Boot
				if d.Bus != "" {
					f.bus, f.controller = d.Bus, d.Controller
				}
			}
		}
		disks = append(disks, f)
	}
	return disks
}

// attaches says that the machine can have a disk on a bus. A source's own may be one that QEMU or the board does not have.
func attaches(hw hypervisors.Hardware, bus string) bool {
	return slices.Contains([]string{"virtio", "scsi", "sata", "usb"}, bus) || bus == "ide" && board(hw) == "pc"
}

// knows says that a disk is one that the replica's points may have; others of an adopted machine, a CD drive say, stay
// as they are.
func (m *manifest) knows(disk string) bool {
	if m.ground(disk) != nil || slices.Contains(m.Stage.Disks, disk) {
		return true
	}
	if m.Adopted == nil && slices.ContainsFunc(m.Hardware.Disks, func(d hypervisors.Disk) bool { return d.ID == disk }) {
		return true
	}
	return slices.ContainsFunc(m.Points, func(p point) bool { return p.disk(disk) != nil })
}

// fitDisks puts the machine onto the disks and takes away those of ours that are not among them.
func fitDisks(def *libvirtxml.Domain, m *manifest, dir string, disks []fittedDisk) error {
	var kept []libvirtxml.DomainDisk
	done := map[string]bool{}
	for _, d := range def.Devices.Disks {
		id := idOf(&d)
		if d.Target == nil || !m.knows(id) && !within(dir, d.Source) {
			kept = append(kept, d)
			continue
		}
		i := slices.IndexFunc(disks, func(f fittedDisk) bool { return f.id == id })
		if i < 0 {
			continue
		}
		kept = append(kept, onOverlay(d, disks[i].file))
		done[id] = true
	}
	def.Devices.Disks = kept
	for _, f := range disks {
		if done[f.id] {
			continue
		}
		if m.Adopted != nil || bootTaken(def, f.boot) {
			f.boot = 0
		}
		if err := addDisk(def, f); err != nil {
			return err
		}
		if f.boot > 0 && def.OS != nil {
			def.OS.BootDevices = nil // libvirt wants the one order or the other
		}
	}
	return nil
}

// bootTaken says that another device has a place in the boot order; libvirt refuses two of them.
func bootTaken(def *libvirtxml.Domain, order int) bool {
	takes := func(b *libvirtxml.DomainDeviceBoot) bool { return b != nil && int(b.Order) == order }
	return slices.ContainsFunc(def.Devices.Disks, func(d libvirtxml.DomainDisk) bool { return takes(d.Boot) }) ||
		slices.ContainsFunc(def.Devices.Interfaces, func(n libvirtxml.DomainInterface) bool { return takes(n.Boot) }) ||
		slices.ContainsFunc(def.Devices.Hostdevs, func(d libvirtxml.DomainHostdev) bool { return takes(d.Boot) })
}

func within(dir string, s *libvirtxml.DomainDiskSource) bool {
	return s != nil && s.File != nil && path.Dir(s.File.File) == dir
}

// onOverlay changes where a disk has its data and nothing that the guest sees.
func onOverlay(d libvirtxml.DomainDisk, file string) libvirtxml.DomainDisk {
	d.Source = &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: file}}
	d.BackingStore, d.Mirror, d.Encryption, d.Auth = nil, nil, nil, nil
	driver := libvirtxml.DomainDiskDriver{}
	if d.Driver != nil {
		driver = *d.Driver
	}
	driver.Name, driver.Type = "qemu", "qcow2"
	d.Driver = &driver
	return d
}

// addDisk gives the machine one more disk.
func addDisk(def *libvirtxml.Domain, f fittedDisk) (err error) {
	d := onOverlay(libvirtxml.DomainDisk{Device: "disk", Target: &libvirtxml.DomainDiskTarget{Bus: f.bus}}, f.file)
	d.Driver.Discard = "unmap"
	nameDisk(def, &d, f.id)
	if f.boot > 0 {
		d.Boot = &libvirtxml.DomainDeviceBoot{Order: uint(f.boot)}
	}
	if f.bus == "scsi" {
		if d.Address, err = placeSCSI(def, f.controller); err != nil {
			return fmt.Errorf("disk %s: %w", f.id, err)
		}
	}
	def.Devices.Disks = append(def.Devices.Disks, d)
	return nil
}

// connectNICs plugs the machine's NICs into the networks, by MAC. Those not named go back to where the hardware has
// them; where the hardware cannot say, they stay.
func connectNICs(def *libvirtxml.Domain, hw hypervisors.Hardware, networks map[string]string) {
	wanted := map[string]string{}
	for _, nic := range hw.NICs {
		wanted[strings.ToLower(nic.MAC)] = nic.Network
	}
	for mac, network := range networks {
		wanted[strings.ToLower(mac)] = network
	}
	for i := range def.Devices.Interfaces {
		nic := &def.Devices.Interfaces[i]
		if nic.MAC == nil {
			continue
		}
		network := wanted[strings.ToLower(nic.MAC.Address)]
		if network == "" || networkOf(nic) == network {
			continue
		}
		// What belongs to the old network does not fit the new one.
		nic.Source, nic.VirtualPort, nic.VLan, nic.FilterRef, nic.Target, nic.PortOptions = nicSource(network), nil, nil, nil, nil, nil
	}
}

// networkOf is the name of the network that a NIC is on, as Host.Networks has it; empty: none of those.
func networkOf(nic *libvirtxml.DomainInterface) string {
	switch s := nic.Source; {
	case s == nil:
	case s.Network != nil:
		return s.Network.Network
	case s.Bridge != nil:
		return bridgePrefix + s.Bridge.Bridge
	}
	return ""
}

// checkRunNetworks refuses networks that are not there and NICs that are not the machine's; every NIC must be named if
// all is set.
func (h *host) checkRunNetworks(ctx context.Context, def *libvirtxml.Domain, networks map[string]string, all bool) error {
	named := map[string]bool{}
	var nics []hypervisors.NIC
	for mac, network := range networks {
		named[strings.ToLower(mac)] = true
		nics = append(nics, hypervisors.NIC{MAC: mac, Network: network})
	}
	known := map[string]bool{}
	var macs []string
	for _, nic := range def.Devices.Interfaces {
		if nic.MAC == nil {
			continue
		}
		mac := strings.ToLower(nic.MAC.Address)
		known[mac], macs = true, append(macs, mac)
		if all && !named[mac] {
			return &hypervisors.Error{Op: "connect", Subject: "NIC " + mac, Err: fmt.Errorf("%w: none given", hypervisors.ErrUnknownNetwork),
				Hint: "A test must say for each NIC which network it goes to, so that none ends up in production."}
		}
	}
	for mac := range named {
		if !known[mac] {
			return &hypervisors.Error{Op: "connect", Subject: "NIC " + mac, Err: fmt.Errorf("%w: the machine has no such NIC", hypervisors.ErrInvalid),
				Hint: "The machine has " + listed(macs) + "."}
		}
	}
	return h.checkNetworks(ctx, nics)
}

var oldMark = regexp.MustCompile(`<understudy:replica\b[^>]*/>`)

// setMark writes into the definition whose machine it is, for us and for people.
func setMark(def *libvirtxml.Domain, mark replicaMark, title, description string) {
	rest := ""
	if def.Metadata != nil {
		rest = strings.TrimSpace(oldMark.ReplaceAllString(def.Metadata.XML, ""))
	}
	def.Metadata = &libvirtxml.DomainMetadata{XML: rest + mark.markup()}
	def.Title, def.Description = title, description
}

const replicaNote = "Made by Understudy. Please leave it off. Starting it by hand is safe: it boots the newest recovery point " +
	"and cannot harm any, but what it writes is thrown away, and newer points do not show in it while it is on."

// define makes libvirt's definition of the replica machine say what the manifest says: the stage's disks, these networks.
func (r *replica) define(ctx context.Context, m *manifest, p *point, networks map[string]string) error {
	def, err := r.definition(ctx, m)
	if err != nil {
		return err
	}
	disks := r.fittedDisks(m, p, stageFile)
	if m.Live != nil {
		m.Live.Devices.fit(def, disks)
	}
	if err := fitDisks(def, m, r.dir, disks); err != nil {
		return err
	}
	connectNICs(def, m.Hardware, networks)
	setMark(def, replicaMark{ID: r.id, Owner: r.host.owner}, "Understudy replica", replicaNote)
	if err := r.host.defineXML(ctx, def); err != nil {
		return err
	}
	return r.host.SetAutostart(ctx, m.VM, false)
}

func (h *host) defineXML(ctx context.Context, def *libvirtxml.Domain) error {
	text, err := def.Marshal()
	if err != nil {
		return err
	}
	c, err := h.conn(ctx)
	if err != nil {
		return err
	}
	d, err := c.DomainDefineXML(text)
	if err != nil {
		return virtError(err)
	}
	return d.Free()
}

// testDefinition is the machine of a test: the replica's, beside it. It shares nothing with it that could be written.
func (r *replica) testDefinition(ctx context.Context, m *manifest, t testRun, p *point, networks map[string]string) (*libvirtxml.Domain, error) {
	def, err := r.definition(ctx, m)
	if err != nil {
		return nil, err
	}
	if err := r.host.checkRunNetworks(ctx, def, networks, true); err != nil {
		return nil, err
	}
	def.Name, def.UUID = def.Name+"-test-"+t.ID, t.VM
	disks := r.fittedDisks(m, p, t.file)
	t.Devices.fit(def, disks)
	if err := fitDisks(def, m, r.dir, disks); err != nil {
		return nil, err
	}
	connectNICs(def, hypervisors.Hardware{}, networks)
	setMark(def, replicaMark{ID: r.id, Owner: r.host.owner, Run: t.ID}, "Understudy test "+t.ID, "A test run made by Understudy. It goes when the test ends.")
	if def.OS != nil && def.OS.NVRam != nil {
		def.OS.NVRam.NVRam, def.OS.NVRam.Source = path.Join(r.dir, testVariables(t.ID)), nil
	}
	dev := def.Devices
	dev.Hostdevs, dev.Shmems, dev.Filesystems, dev.VSock = nil, nil, nil, nil
	for i := range dev.Serials {
		detachFile(dev.Serials[i].Source)
	}
	for i := range dev.Consoles {
		detachFile(dev.Consoles[i].Source)
	}
	for i := range dev.Channels {
		if s := dev.Channels[i].Source; s != nil && s.UNIX != nil {
			s.UNIX.Path = ""
		}
	}
	for i := range dev.Graphics {
		g := &dev.Graphics[i]
		if g.VNC != nil {
			g.VNC.Port, g.VNC.AutoPort = 0, "yes"
		}
		if g.Spice != nil {
			g.Spice.Port, g.Spice.TLSPort, g.Spice.AutoPort = 0, 0, "yes"
		}
	}
	return def, nil
}

// detachFile makes a console that goes to a file go to nobody.
func detachFile(s *libvirtxml.DomainChardevSource) {
	if s != nil && s.File != nil {
		s.File, s.Pty = nil, &libvirtxml.DomainChardevSourcePty{}
	}
}

// testVariables is the file of a test's UEFI variables.
func testVariables(run string) string { return "test-" + run + ".nvram" }
