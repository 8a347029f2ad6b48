package esx

import (
	"context"
	"fmt"
	"image"
	"image/png"
	"io"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"understudy/hypervisors"
)

// mostScreen bounds the file of a picture, in bytes.
const mostScreen = 64 << 20

// Screenshot has the host leave a picture beside the machine, takes it and removes it.
func (h *host) Screenshot(ctx context.Context, id string) (image.Image, error) {
	vm, m, err := h.machine(ctx, id)
	if err != nil {
		return nil, err
	}
	subject := "the screen of machine " + m.Name
	if m.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOn {
		return nil, &hypervisors.Error{Op: "take", Subject: subject, Err: fmt.Errorf("%w: the machine is off", hypervisors.ErrInvalid)}
	}
	shown, err := h.screenshot(ctx, vm, subject)
	return shown, fault("take", subject, err)
}

func (h *host) screenshot(ctx context.Context, vm *object.VirtualMachine, subject string) (image.Image, error) {
	res, err := methods.CreateScreenshot_Task(ctx, h.client, &types.CreateScreenshot_Task{This: vm.Reference()})
	if err != nil {
		return nil, err
	}
	result, err := h.wait(ctx, "take", subject, object.NewTask(h.client, res.Returnval))
	if err != nil {
		return nil, err
	}
	file, _ := result.(string)
	dc, err := h.datacenter(ctx, vm.Reference())
	if err != nil {
		return nil, err
	}
	defer func() {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterwards)
		defer cancel()
		if err := h.removeFile(undo, dc, file); err != nil {
			h.log.Warn("a picture of a screen stays on its datastore", "file", file, "error", err)
		}
	}()
	from, _, err := h.open(ctx, dc, file, nil)
	if err != nil {
		return nil, err
	}
	defer from.Close()
	return png.Decode(io.LimitReader(from, mostScreen))
}

// open reads a file of a datastore over HTTPS, or the part of it that the headers ask for.
func (h *host) open(ctx context.Context, dc *object.Datacenter, file string, headers map[string]string) (io.ReadCloser, int64, error) {
	var path object.DatastorePath
	if !path.FromString(file) {
		return nil, 0, fmt.Errorf("%w: %q is no file of a datastore", hypervisors.ErrInvalid, file)
	}
	u := object.NewDatastoreURL(*h.client.URL(), dc.InventoryPath, path.Datastore, path.Path)
	return h.client.Download(ctx, u, &soap.Download{Method: "GET", Headers: headers})
}

func (h *host) removeFile(ctx context.Context, dc *object.Datacenter, file string) error {
	t, err := object.NewFileManager(h.client).DeleteDatastoreFile(ctx, file, dc)
	if err != nil {
		return err
	}
	_, err = h.wait(ctx, "remove", file, t)
	return err
}

// datacenter that something is in, with its path.
func (h *host) datacenter(ctx context.Context, of types.ManagedObjectReference) (*object.Datacenter, error) {
	for at := of; ; {
		parent, name, err := h.parent(ctx, at)
		if err != nil {
			return nil, err
		}
		if at.Type == "Datacenter" {
			dc := object.NewDatacenter(h.client, at)
			dc.InventoryPath = "/" + name
			for ; parent != nil && *parent != h.client.ServiceContent.RootFolder; at = *parent { // folders of datacenters
				if parent, name, err = h.parent(ctx, *parent); err != nil {
					return nil, err
				}
				dc.InventoryPath = "/" + name + dc.InventoryPath
			}
			return dc, nil
		}
		if parent == nil {
			return nil, fmt.Errorf("the datacenter %w", hypervisors.ErrNotFound)
		}
		at = *parent
	}
}
