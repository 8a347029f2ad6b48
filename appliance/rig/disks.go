package rig

import (
	"context"
	"fmt"
	"path"
	"path/filepath"
	"strings"

	"understudy/hypervisors/kvm/lab"
	"understudy/hypervisors/kvm/lab/record"
)

// Disks are the contents of both disks of a lab's guest at one moment.
type Disks [2]*lab.Image

// Close removes what was read.
func (d Disks) Close() {
	for _, img := range d {
		if img != nil {
			_ = img.Close() // a copy of ours, gone with the lab at the latest
		}
	}
}

// Check proves that the records of both disks are of one moment and whole, and returns the number of the newest.
func (d Disks) Check() (uint64, error) {
	r, err := record.Check(d[0], d[1])
	if err != nil {
		return 0, err
	}
	if problems := r.Problems(); len(problems) > 0 {
		return 0, fmt.Errorf("the guest's records: %s", strings.Join(problems, "; "))
	}
	return r.Newest(), nil
}

func readDisks(ctx context.Context, h *lab.Host, files [2]string) (Disks, error) {
	var d Disks
	for i, name := range files {
		img, err := h.ReadImage(ctx, name)
		if err != nil {
			d.Close()
			return Disks{}, err
		}
		d[i] = img
	}
	return d, nil
}

// PointDisks reads a recovery point on a host without the appliance: its files are ordinary qcow2 images.
func PointDisks(ctx context.Context, h *lab.Host, id string) (Disks, error) {
	root := h.Outside(h.Images)
	found, err := filepath.Glob(filepath.Join(root, "*", "*", "*."+id+".qcow2"))
	if err != nil {
		return Disks{}, err
	}
	if len(found) != 2 {
		return Disks{}, fmt.Errorf("found %d disks of point %s on %s", len(found), id, h.Name)
	}
	var files [2]string
	for i, name := range found { // by the names of the disks
		files[i] = path.Join(h.Images, strings.TrimPrefix(name, root))
	}
	return readDisks(ctx, h, files)
}

// MachineDisks reads the disks of a machine on a host as they are in its definition now.
func MachineDisks(ctx context.Context, h *lab.Host, machine string) (Disks, error) {
	list, err := h.Virsh(ctx, "domblklist", machine)
	if err != nil {
		return Disks{}, err
	}
	var files [2]string
	for line := range strings.Lines(list) {
		switch f := strings.Fields(line); {
		case len(f) != 2:
		case f[0] == "vda" || f[0] == "sda":
			files[0] = f[1]
		case f[0] == "vdb" || f[0] == "sdb":
			files[1] = f[1]
		}
	}
	return readDisks(ctx, h, files)
}
