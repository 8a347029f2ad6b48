package kvm

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"understudy/hypervisors"
)

// networkNS is the XML namespace of the mark of our networks.
const networkNS = "https://understudy.dev/network"

// networkMark is in the metadata of a network that we made.
func networkMark(owner string) string {
	return fmt.Sprintf(`<understudy:network xmlns:understudy=%s owner=%s/>`, quoteXML(networkNS), quoteXML(owner))
}

// Devices of ours on a host: bridges of isolated networks, and the ends of our own probes in them.
const (
	ourBridge = "usb-"
	ourProbe  = "usp-"
)

func deviceName(prefix string) string {
	var id [5]byte
	rand.Read(id[:])
	return prefix + hex.EncodeToString(id[:]) // an interface's name has 15 bytes at most
}

// IsolatedNetwork makes a network that is a bridge and nothing else. It is transient, and so gone with its host's next
// restart, as the machines on it are.
func (h *host) IsolatedNetwork(ctx context.Context, name string) error {
	return networkError("make", name, h.withNetwork(ctx, name, func(_ *libvirt.Network, x *libvirtxml.Network) error {
		if x != nil {
			return leadsNowhere(x)
		}
		text, err := (&libvirtxml.Network{
			Name:     name,
			Metadata: &libvirtxml.NetworkMetadata{XML: networkMark(h.owner)},
			Bridge:   &libvirtxml.NetworkBridge{Name: deviceName(ourBridge), STP: "off", Delay: "0"},
			DNS:      &libvirtxml.NetworkDNS{Enable: "no"},
		}).Marshal()
		if err != nil {
			return err
		}
		c, err := h.conn(ctx)
		if err != nil {
			return err
		}
		made, err := c.NetworkCreateXML(text)
		if err != nil {
			return virtError(err)
		}
		return made.Free()
	}))
}

// withNetwork calls do with a network of libvirt's, or with nil when there is none of that name.
func (h *host) withNetwork(ctx context.Context, name string, do func(*libvirt.Network, *libvirtxml.Network) error) error {
	c, err := h.conn(ctx)
	if err != nil {
		return err
	}
	n, err := c.LookupNetworkByName(name)
	if virtCode(err) == libvirt.ERR_NO_NETWORK {
		return do(nil, nil)
	}
	if err != nil {
		return virtError(err)
	}
	defer n.Free()
	text, err := n.GetXMLDesc(0)
	if err != nil {
		return virtError(err)
	}
	var x libvirtxml.Network
	if err := x.Unmarshal(text); err != nil {
		return err
	}
	return do(n, &x)
}

func networkError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &hypervisors.Error{Op: op, Subject: "network " + name, Err: err}
}

// leadsNowhere looks at the definition of a network only.
func leadsNowhere(x *libvirtxml.Network) error {
	not := func(why string) error {
		return &hypervisors.Error{Op: "use", Subject: "network " + x.Name, Err: fmt.Errorf("%w: %s", hypervisors.ErrNotIsolated, why),
			Hint: "Choose another name, or a network without <forward> and <ip>."}
	}
	switch {
	case x.Forward != nil && x.Forward.Mode != "none":
		return not("it is forwarded")
	case len(x.IPs) > 0:
		return not("the host has an address on it")
	case x.Bridge == nil || x.Bridge.Name == "":
		return not("it has no bridge of its own")
	}
	return nil
}

// AssertIsolated looks at the definition, at the addresses and the ports that the bridge really has, and at whose they are.
func (h *host) AssertIsolated(ctx context.Context, name string) error {
	return networkError("check", name, h.withNetwork(ctx, name, func(_ *libvirt.Network, x *libvirtxml.Network) error {
		if x == nil {
			return hypervisors.ErrNotFound
		}
		if err := leadsNowhere(x); err != nil {
			return err
		}
		allowed, err := h.testPorts(ctx)
		if err != nil {
			return err
		}
		ports, err := h.bridgePorts(ctx, x.Bridge.Name)
		if err != nil {
			return err
		}
		for _, port := range ports {
			if !allowed[port] && !strings.HasPrefix(port, ourProbe) {
				return fmt.Errorf("%w: device %s, which is no test machine's, is connected to it", hypervisors.ErrNotIsolated, port)
			}
		}
		return h.withoutAddress(ctx, x.Bridge.Name)
	}))
}

// link is what "ip -json address" says of a device.
type link struct {
	Name      string `json:"ifname"`
	Addresses []struct {
		Local string `json:"local"`
		Scope string `json:"scope"`
	} `json:"addr_info"`
}

func (h *host) links(ctx context.Context, selector ...string) ([]link, error) {
	out, err := h.place.Run(ctx, nil, append([]string{"ip", "-json", "address", "show"}, selector...)...)
	if err != nil {
		return nil, err
	}
	var all []link
	if err := json.Unmarshal(out, &all); err != nil {
		return nil, fmt.Errorf("ip address: %w", err)
	}
	// Some versions print an empty object for each device that was not selected.
	return slices.DeleteFunc(all, func(l link) bool { return l.Name == "" }), nil
}

func (h *host) bridgePorts(ctx context.Context, bridge string) ([]string, error) {
	all, err := h.links(ctx, "master", bridge)
	var names []string
	for _, l := range all {
		names = append(names, l.Name)
	}
	return names, err
}

func (h *host) withoutAddress(ctx context.Context, bridge string) error {
	all, err := h.links(ctx, "dev", bridge)
	if err != nil {
		return err
	}
	for _, l := range all {
		for _, a := range l.Addresses {
			if a.Scope != "link" {
				return fmt.Errorf("%w: the host has address %s on it", hypervisors.ErrNotIsolated, a.Local)
			}
		}
	}
	return nil
}

// testPorts are the devices of our running test machines.
func (h *host) testPorts(ctx context.Context) (map[string]bool, error) {
	ports := map[string]bool{}
	err := h.eachDefinition(ctx, func(def *definition) {
		mark := readMarks(&def.live).Replica
		if !def.active || mark == nil || mark.Owner != h.owner || mark.Run == "" {
			return
		}
		for _, nic := range nicsOf(&def.live) {
			if nic.Target != nil {
				ports[nic.Target.Dev] = true
			}
		}
	})
	return ports, err
}

// eachDefinition calls f for every machine.
func (h *host) eachDefinition(ctx context.Context, f func(*definition)) error {
	return h.eachDomain(ctx, func(d *libvirt.Domain) error {
		def, err := define(d)
		if err != nil {
			return ignoreGone(err)
		}
		f(&def)
		return nil
	})
}

func nicsOf(def *libvirtxml.Domain) []libvirtxml.DomainInterface {
	if def.Devices == nil {
		return nil
	}
	return def.Devices.Interfaces
}

// RemoveNetwork removes a network of ours on which no machine is.
func (h *host) RemoveNetwork(ctx context.Context, name string) error {
	return networkError("remove", name, h.withNetwork(ctx, name, func(n *libvirt.Network, x *libvirtxml.Network) error {
		if x == nil {
			return nil
		}
		if !h.ownsNetwork(x) {
			return fmt.Errorf("%w: this appliance did not make it", hypervisors.ErrForeign)
		}
		used, err := h.usedNetworks(ctx)
		if err != nil {
			return err
		}
		if used[name] {
			return &hypervisors.Error{Op: "use", Subject: "network " + name, Err: hypervisors.ErrInUse, Hint: "End the machines on it first."}
		}
		return destroyNetwork(n)
	}))
}

func destroyNetwork(n *libvirt.Network) error {
	err := n.Destroy() // a transient network is gone with that
	if code := virtCode(err); code == libvirt.ERR_NO_NETWORK || code == libvirt.ERR_OPERATION_INVALID {
		return nil
	}
	return virtError(err)
}

func (h *host) ownsNetwork(x *libvirtxml.Network) bool {
	return x.Metadata != nil && strings.Contains(x.Metadata.XML, networkNS) && strings.Contains(x.Metadata.XML, `owner=`+quoteXML(h.owner))
}

// usedNetworks are those that machines are on, or will be at their next start: one that is off, as a live run may be,
// would not start without its network.
func (h *host) usedNetworks(ctx context.Context) (map[string]bool, error) {
	used := map[string]bool{}
	err := h.eachDefinition(ctx, func(def *definition) {
		for _, nic := range slices.Concat(nicsOf(&def.live), nicsOf(&def.next)) {
			used[networkOf(&nic)] = true
		}
	})
	return used, err
}

// cleanNetworks removes our networks on which no machine is, except those that are wanted.
func (h *host) cleanNetworks(ctx context.Context, keep []string) ([]string, error) {
	c, err := h.conn(ctx)
	if err != nil {
		return nil, err
	}
	all, err := c.ListAllNetworks(0)
	if err != nil {
		return nil, virtError(err)
	}
	var removed []string
	var errs []error
	for i := range all {
		name, err := all[i].GetName()
		errs = append(errs, virtError(err), all[i].Free())
		ours := false
		err = h.withNetwork(ctx, name, func(_ *libvirt.Network, x *libvirtxml.Network) error {
			ours = x != nil && h.ownsNetwork(x)
			return nil
		})
		if errs = append(errs, err); !ours || slices.Contains(keep, name) {
			continue
		}
		switch err := h.RemoveNetwork(ctx, name); {
		case err == nil:
			removed = append(removed, "network "+name)
		case !errors.Is(err, hypervisors.ErrInUse):
			errs = append(errs, err)
		}
	}
	return removed, errors.Join(errs...)
}
