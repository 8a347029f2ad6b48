package kvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"
)

// forget deletes checkpoints of ours by name, those that are there.
func (h *host) forget(ctx context.Context, d *libvirt.Domain, names []string) error {
	def, err := define(d)
	if err != nil {
		return err
	}
	if def.reader != nil {
		// A leftover: nobody holds the machine's lock but us.
		if err := h.endReader(ctx, def.id, def.reader); err != nil {
			return err
		}
	}
	if def.active {
		var all []error
		for _, name := range names {
			all = append(all, h.deleteCheckpoint(d, name))
		}
		return errors.Join(all...)
	}
	return h.forgetOffline(ctx, d, &def, names)
}

// deleteCheckpoint deletes a checkpoint of a machine that is on, with its bitmaps. Where a bitmap was lost, libvirt
// refuses to delete those of the other disks; so the checkpoint is redefined without that disk first.
func (h *host) deleteCheckpoint(d *libvirt.Domain, name string) error {
	for {
		c, err := d.CheckpointLookupByName(name, 0)
		if virtCode(err) == libvirt.ERR_NO_DOMAIN_CHECKPOINT {
			return nil
		}
		if err != nil {
			return virtError(err)
		}
		err = virtError(c.Delete(0))
		if err == nil || virtCode(err) == libvirt.ERR_NO_DOMAIN_CHECKPOINT {
			c.Free()
			return nil
		}
		if !isTrackingError(err) && virtCode(err) != libvirt.ERR_INVALID_ARG {
			c.Free()
			return err
		}
		narrowed, nerr := narrow(d, c, err)
		if nerr == nil && narrowed {
			c.Free()
			continue
		}
		h.log.Warn("bitmaps of a broken checkpoint stay in the images until the machine is off", "checkpoint", name, "reason", err.Error())
		err = virtError(c.Delete(libvirt.DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY))
		c.Free()
		return err
	}
}

// narrow takes the disk that an error names out of a checkpoint. False when that cannot help.
func narrow(d *libvirt.Domain, c *libvirt.DomainCheckpoint, cause error) (bool, error) {
	text, err := c.GetXMLDesc(0)
	if err != nil {
		return false, err
	}
	narrower, ok := withoutDisk(text, cause.Error())
	if !ok {
		return false, nil
	}
	again, err := d.CreateCheckpointXML(narrower, libvirt.DOMAIN_CHECKPOINT_CREATE_REDEFINE)
	if err != nil {
		return false, virtError(err)
	}
	return true, again.Free()
}

// withoutDisk sets the disk that the message names to checkpoint='no'. The description is changed as text, because it
// holds the machine's definition, of which we need not understand everything.
func withoutDisk(text, message string) (string, bool) {
	var x libvirtxml.DomainCheckpoint
	if err := x.Unmarshal(text); err != nil || x.Disks == nil {
		return "", false
	}
	left := 0
	var hit *libvirtxml.DomainCheckpointDisk
	for i := range x.Disks.Disks {
		k := &x.Disks.Disks[i]
		if k.Checkpoint != "bitmap" {
			continue
		}
		if left++; strings.Contains(message, "'"+k.Name+"'") {
			hit = k
		}
	}
	if hit == nil || left < 2 {
		return "", false
	}
	start := strings.Index(text, "<disks>")
	end := strings.Index(text, "</disks>")
	if start < 0 || end < start {
		return "", false
	}
	var disks strings.Builder
	disks.WriteString("<disks>")
	for i := range x.Disks.Disks {
		k := &x.Disks.Disks[i]
		switch {
		case k == hit || k.Checkpoint != "bitmap":
			fmt.Fprintf(&disks, `<disk name=%s checkpoint="no"/>`, quoteXML(k.Name))
		default:
			fmt.Fprintf(&disks, `<disk name=%s checkpoint="bitmap" bitmap=%s/>`, quoteXML(k.Name), quoteXML(k.Bitmap))
		}
	}
	return text[:start] + disks.String() + text[end:], true
}

// forgetOffline removes the bitmaps from the images first, and then the checkpoints that name them: if it is cut short,
// a checkpoint without bitmaps is left, which the next try finds. qemu-img fails when the machine is started meanwhile.
func (h *host) forgetOffline(ctx context.Context, d *libvirt.Domain, def *definition, names []string) error {
	wanted := map[string]bool{}
	for _, name := range names {
		wanted[name] = true
	}
	if _, err := h.removeBitmaps(ctx, d, def, func(bitmap string) bool { return wanted[bitmap] }); err != nil {
		return err
	}
	for _, name := range names {
		c, err := d.CheckpointLookupByName(name, 0)
		if virtCode(err) == libvirt.ERR_NO_DOMAIN_CHECKPOINT {
			continue
		}
		if err != nil {
			return virtError(err)
		}
		err = virtError(c.Delete(libvirt.DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY))
		c.Free()
		if err != nil && virtCode(err) != libvirt.ERR_NO_DOMAIN_CHECKPOINT {
			return err
		}
	}
	return nil
}

// removeBitmaps removes bitmaps of ours from the images of a machine that is off, through all layers of each. It names
// those that it removed.
func (h *host) removeBitmaps(ctx context.Context, d *libvirt.Domain, def *definition, unwanted func(bitmap string) bool) ([]string, error) {
	disks, err := h.disks(ctx, d, def)
	if err != nil {
		return nil, err
	}
	var removed []string
	for _, k := range disks {
		if !k.tracked || k.Excluded != "" {
			continue
		}
		layers, err := readLayers(ctx, h.place, k.Path)
		if err != nil {
			return removed, err
		}
		for i, l := range layers {
			for _, b := range l.bitmaps() {
				if !h.owns(b) || !unwanted(b) {
					continue
				}
				_, err := h.place.Run(ctx, nil, "qemu-img", "bitmap", "--remove", "-f", l.Format, l.Filename, b)
				if err != nil && i > 0 {
					// Others may stand on a lower layer and read it. There the bitmap no longer grows; it does no harm.
					h.log.Debug("bitmap stays in a lower image", "bitmap", b, "image", l.Filename, "reason", err.Error())
					continue
				}
				if err != nil {
					return removed, fmt.Errorf("remove bitmap: %w", err)
				}
				removed = append(removed, b)
			}
		}
	}
	return removed, nil
}

// layer is one image of a chain, as qemu-img tells it.
type layer struct {
	Filename string `json:"filename"`
	Format   string `json:"format"`
	Specific struct {
		Data struct {
			Bitmaps []struct {
				Name string `json:"name"`
			} `json:"bitmaps"`
		} `json:"data"`
	} `json:"format-specific"`
}

func (l *layer) bitmaps() []string {
	var names []string
	if l.Format == "qcow2" {
		for _, b := range l.Specific.Data.Bitmaps {
			names = append(names, b.Name)
		}
	}
	return names
}

// readLayers lists the images that a disk is made of, from the top. It takes no lock.
func readLayers(ctx context.Context, p place, file string) ([]layer, error) {
	out, err := p.Run(ctx, nil, "qemu-img", "info", "-U", "--backing-chain", "-f", "qcow2", "--output=json", file)
	if err != nil {
		return nil, err
	}
	var layers []layer
	if err := json.Unmarshal(out, &layers); err != nil {
		return nil, fmt.Errorf("qemu-img info %s: %w", file, err)
	}
	return layers, nil
}
