package kvm

import (
	"context"
	"errors"
	"path"
	"sort"
	"strings"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"understudy/hypervisors"
)

// bridgePrefix begins the names of networks that are host bridges without a libvirt network.
const bridgePrefix = "bridge/"

// Networks are libvirt's, and bridges that machines use without libvirt managing them, as "bridge/NAME".
func (h *host) Networks(ctx context.Context) ([]hypervisors.Network, error) {
	networks, err := h.networks(ctx)
	if err != nil {
		return nil, &hypervisors.Error{Op: "list", Subject: "networks", Err: virtError(err)}
	}
	return networks, nil
}

func (h *host) networks(ctx context.Context) ([]hypervisors.Network, error) {
	c, err := h.conn(ctx)
	if err != nil {
		return nil, err
	}
	all, err := c.ListAllNetworks(0)
	if err != nil {
		return nil, err
	}
	var out []hypervisors.Network
	for i := range all {
		defer all[i].Free()
		text, err := all[i].GetXMLDesc(0)
		if virtCode(err) == libvirt.ERR_NO_NETWORK {
			continue
		}
		if err != nil {
			return nil, err
		}
		var x libvirtxml.Network
		if err := x.Unmarshal(text); err != nil {
			return nil, err
		}
		mode := "isolated"
		if x.Forward != nil && x.Forward.Mode != "none" {
			if mode = x.Forward.Mode; mode == "" {
				mode = "nat"
			}
		}
		out = append(out, hypervisors.Network{Name: x.Name, Kind: "libvirt network, " + mode, Isolated: mode == "isolated"})
	}
	bridges := map[string]bool{}
	err = h.eachDomain(ctx, func(d *libvirt.Domain) error {
		def, err := define(d)
		if err != nil || def.live.Devices == nil {
			return ignoreGone(err)
		}
		for _, nic := range nics(def.live.Devices.Interfaces) {
			if strings.HasPrefix(nic.Network, bridgePrefix) && !bridges[nic.Network] {
				bridges[nic.Network] = true
				out = append(out, hypervisors.Network{Name: nic.Network, Kind: "bridge"})
			}
		}
		return nil
	})
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out, err
}

// ignoreGone makes nothing of a machine that went away while all were listed.
func ignoreGone(err error) error {
	if errors.Is(err, hypervisors.ErrNotFound) {
		return nil
	}
	return err
}

// defaultPool is the pool that replicas go to unless told otherwise, and the folder that stands in for it.
const (
	defaultPool   = "default"
	defaultImages = "/var/lib/libvirt/images"
)

// Storage are the active pools that are folders. A host without a pool named default has libvirt's own folder instead.
func (h *host) Storage(ctx context.Context) ([]hypervisors.Storage, error) {
	out, err := h.storage(ctx)
	if err != nil {
		return nil, &hypervisors.Error{Op: "list", Subject: "storage", Err: virtError(err)}
	}
	return out, nil
}

func (h *host) storage(ctx context.Context) ([]hypervisors.Storage, error) {
	c, err := h.conn(ctx)
	if err != nil {
		return nil, err
	}
	pools, err := c.ListAllStoragePools(libvirt.CONNECT_LIST_STORAGE_POOLS_ACTIVE |
		libvirt.CONNECT_LIST_STORAGE_POOLS_DIR | libvirt.CONNECT_LIST_STORAGE_POOLS_FS | libvirt.CONNECT_LIST_STORAGE_POOLS_NETFS)
	if err != nil {
		return nil, err
	}
	folders := map[string]string{}
	for i := range pools {
		defer pools[i].Free()
		text, err := pools[i].GetXMLDesc(0)
		if virtCode(err) == libvirt.ERR_NO_STORAGE_POOL {
			continue
		}
		if err != nil {
			return nil, err
		}
		var x libvirtxml.StoragePool
		if err := x.Unmarshal(text); err != nil {
			return nil, err
		}
		if x.Target != nil && x.Target.Path != "" {
			folders[x.Name] = path.Clean(x.Target.Path)
		}
	}
	if folders[defaultPool] == "" {
		folders[defaultPool] = defaultImages
	}
	var out []hypervisors.Storage
	for name, folder := range folders {
		room, err := freeSpace(ctx, h.place, folder)
		var refused *runError
		if errors.As(err, &refused) {
			h.log.Debug("storage cannot be used", "pool", name, "path", folder, "reason", refused.Error())
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, hypervisors.Storage{Name: name, Path: folder, Free: room.Free, Total: room.Total, Default: name == defaultPool})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	if len(out) > 0 && !hasDefault(out) {
		out[0].Default = true
	}
	return out, nil
}

func hasDefault(all []hypervisors.Storage) bool {
	for _, s := range all {
		if s.Default {
			return true
		}
	}
	return false
}
