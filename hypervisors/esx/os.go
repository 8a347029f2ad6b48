package esx

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// ownWord is before the names of VMware's that libosinfo has nothing for, where our words for systems are libosinfo's.
const ownWord = "vmware:"

// systems have VMware's name for a guest's system and libosinfo's id; %s is the version, where the name has one. The first
// that fits an id counts. Names: VirtualMachineGuestOsIdentifier of the vSphere Web Services API; ids: the OS database of
// libosinfo.
var systems = []struct{ name, id string }{
	{"windows7Server64Guest", "http://microsoft.com/win/2k8r2"},
	{"windows8Server64Guest", "http://microsoft.com/win/2k12r2"},
	{"windows8Server64Guest", "http://microsoft.com/win/2k12"},
	{"windows9Server64Guest", "http://microsoft.com/win/2k16"},
	{"windows2019srv_64Guest", "http://microsoft.com/win/2k19"},
	{"windows2019srvNext_64Guest", "http://microsoft.com/win/2k22"},
	{"windows2022srvNext_64Guest", "http://microsoft.com/win/2k25"},
	{"windows7_64Guest", "http://microsoft.com/win/7"},
	{"windows8_64Guest", "http://microsoft.com/win/8.1"},
	{"windows9_64Guest", "http://microsoft.com/win/10"},
	{"windows11_64Guest", "http://microsoft.com/win/11"},
	{"debian%s_64Guest", "http://debian.org/debian/%s"},
	{"ubuntu64Guest", "http://ubuntu.com/ubuntu"},
	{"rhel%s_64Guest", "http://redhat.com/rhel/%s"},
	{"centos%s_64Guest", "http://centos.org/centos/%s"},
	{"centos%s_64Guest", "http://centos.org/centos-stream/%s"},
	{"rockylinux_64Guest", "http://rockylinux.org/rocky"},
	{"almalinux_64Guest", "http://almalinux.org/almalinux"},
	{"oracleLinux%s_64Guest", "http://oracle.com/ol/%s"},
	{"sles%s_64Guest", "http://suse.com/sle/%s"},
	{"fedora64Guest", "http://fedoraproject.org/fedora"},
	{"freebsd%s_64Guest", "http://freebsd.org/freebsd/%s"},
}

var version = regexp.MustCompile(`^[0-9]+`)

// osOf gives our word for VMware's name of a system.
func osOf(name string) string {
	if name == "" || strings.HasPrefix(name, "otherGuest") { // nobody said
		return ""
	}
	for _, s := range systems {
		if s.name == name {
			return s.id
		}
		before, after, versions := strings.Cut(s.name, "%s")
		if v, fits := strings.CutPrefix(strings.TrimSuffix(name, after), before); versions && fits && strings.HasSuffix(name, after) && version.FindString(v) == v && v != "" {
			return fmt.Sprintf(s.id, v)
		}
	}
	return ownWord + name
}

// nameOf gives VMware's name for our word; empty: there is none. Minor versions have none of their own.
func nameOf(os string) string {
	if name, own := strings.CutPrefix(os, ownWord); own {
		return name
	}
	for _, s := range systems {
		before, _, versions := strings.Cut(s.id, "%s")
		rest, fits := strings.CutPrefix(os, before)
		switch {
		case !fits:
		case versions && version.MatchString(rest):
			return fmt.Sprintf(s.name, version.FindString(rest))
		case !versions && (rest == "" || rest[0] == '/'):
			return s.name
		}
	}
	return ""
}

// guestID is the name of a system for a machine on this host: one that the host does not know, for it is older, say,
// would be refused.
func (h *host) guestID(ctx context.Context, esx *object.HostSystem, os string) (string, error) {
	const any = string(types.VirtualMachineGuestOsIdentifierOtherGuest64)
	name := nameOf(os)
	if name == "" {
		return any, nil
	}
	var parent mo.HostSystem
	collector := property.DefaultCollector(h.client)
	if err := collector.RetrieveOne(ctx, esx.Reference(), []string{"parent"}, &parent); err != nil || parent.Parent == nil {
		return any, err
	}
	var resource mo.ComputeResource
	if err := collector.RetrieveOne(ctx, *parent.Parent, []string{"environmentBrowser"}, &resource); err != nil || resource.EnvironmentBrowser == nil {
		return any, err
	}
	res, err := methods.QueryConfigOptionEx(ctx, h.client, &types.QueryConfigOptionEx{This: *resource.EnvironmentBrowser,
		Spec: &types.EnvironmentBrowserConfigOptionQuerySpec{GuestId: []string{name}}})
	if err != nil {
		return any, err
	}
	if res.Returnval == nil || !slices.ContainsFunc(res.Returnval.GuestOSDescriptor, func(d types.GuestOsDescriptor) bool { return d.Id == name }) {
		return any, nil
	}
	return name, nil
}
