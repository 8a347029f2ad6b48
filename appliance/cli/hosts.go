package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"understudy/api"
	"understudy/api/client"
)

func (a *app) hosts() *cobra.Command {
	return family("hosts", "Connect and look at hypervisors", a.hostAdd(), a.hostTest(), a.hostEdit(),
		a.command("list", "List the hosts", 0, func(ctx context.Context, c *client.Client, _ []string) error {
			hosts, err := c.ListHosts(ctx)
			if err != nil {
				return err
			}
			return a.show(hosts, func(w io.Writer) {
				t := newTable(w, "NAME", "PRODUCT", "VERSION", "CONNECTED", "ROLES", "URI")
				for _, h := range hosts {
					t.row(h.Name, orDash(h.Product), orDash(h.Version), yesNo(h.Connected), orDash(roles(h)), h.URI)
				}
				t.flush()
			})
		}),
		a.command("show HOST", "Show a host", 1, func(ctx context.Context, c *client.Client, args []string) error {
			h, err := c.GetHost(ctx, args[0])
			if err != nil {
				return err
			}
			return a.showHost(h)
		}),
		a.command("inventory HOST", "Show what a host has now: machines, networks, storage", 1,
			func(ctx context.Context, c *client.Client, args []string) error {
				inv, err := c.Inventory(ctx, args[0])
				if err != nil {
					return err
				}
				return a.show(inv, func(w io.Writer) { writeInventory(w, inv) })
			}),
		a.doctor("doctor HOST"),
		a.command("remove HOST", "Disconnect a host that no group uses", 1,
			func(ctx context.Context, c *client.Client, args []string) error {
				if err := c.RemoveHost(ctx, args[0]); err != nil {
					return err
				}
				return a.show(struct{}{}, func(w io.Writer) { fmt.Fprintf(w, "host %s removed\n", args[0]) })
			}))
}

func (a *app) hostAdd() *cobra.Command {
	var spec api.HostSpec
	var file string
	cmd := a.command("add NAME URI", "Connect a host", 2, func(ctx context.Context, c *client.Client, args []string) error {
		spec.Name, spec.URI = args[0], args[1]
		if err := a.hostPassword(&spec, file); err != nil {
			return err
		}
		h, err := c.AddHost(ctx, spec)
		if err != nil {
			return err
		}
		return a.showHost(h)
	})
	cmd.Long = `Connect a host. The URI says where it is:

  qemu:///system                                              libvirt on the appliance itself
  qemu+unix:///system?socket=/run/libvirt/libvirt-sock        libvirt at a socket
  qemu+ssh://root@kvm1/system?keyfile=KEY&known_hosts=FILE    libvirt over SSH
  esx://esx1/?thumbprint=SHA-256                              VMware ESX or vCenter, its certificate pinned (or ca=FILE)

A URI never holds a password; keys are named by file. With --user the password is asked for; it is kept sealed.`
	cmd.Example = `  understudy hosts add kvm1 'qemu+ssh://root@kvm1/system?keyfile=/etc/understudy/id_ed25519&known_hosts=/etc/understudy/known_hosts'`
	cmd.Flags().IntVar(&spec.MaxJobs, "max-jobs", 0, "copies at once on this host (default 4)")
	loginFlags(cmd, &spec.User, &file)
	return cmd
}

func loginFlags(cmd *cobra.Command, user, file *string) {
	cmd.Flags().StringVar(user, "user", "", "who signs in to the host (ESX, vCenter)")
	passwordFlag(cmd, file)
}

// hostPassword reads the password of whoever signs in to the host, if somebody does.
func (a *app) hostPassword(spec *api.HostSpec, file string) (err error) {
	switch {
	case spec.User != "":
		spec.Password, err = a.secret("password", file, false)
	case file != "":
		err = wrong("--password-file needs --user: nobody signs in to this host")
	}
	return err
}

func (a *app) showHost(h api.Host) error {
	return a.show(h, func(w io.Writer) {
		facts(w, "name", h.Name, "id", h.ID, "uri", h.URI, "user", h.User, "identity", h.Identity,
			"product", strings.TrimSpace(h.Product+" "+h.Version), "connected", yesNo(h.Connected), "problem", h.Problem,
			"roles", roles(h), "abilities", abilities(h.Capabilities))
		for _, missing := range h.Capabilities.Missing {
			fmt.Fprintln(w, "missing: "+plain(missing))
		}
	})
}

func roles(h api.Host) string {
	var roles []string
	if h.Capabilities.Source {
		roles = append(roles, "source")
	}
	if h.Capabilities.Target {
		roles = append(roles, "target")
	}
	return strings.Join(roles, ", ")
}

func abilities(c api.Capabilities) string {
	names := []string{}
	for _, ability := range []struct {
		has  bool
		name string
	}{
		{c.ChangeTracking, "change tracking"}, {c.Quiesce, "quiesce"}, {c.GroupMoment, "group moment"},
		{c.Isolation, "isolation"}, {c.Guest, "guest"}, {c.Screen, "screen"}, {c.Compression, "compression"}, {c.Convert, "conversion of guests"},
	} {
		if ability.has {
			names = append(names, ability.name)
		}
	}
	return strings.Join(names, ", ")
}

func (a *app) machines() *cobra.Command {
	return family("machines", "Look at protected machines, and at those of a host", a.machineList())
}

func (a *app) hostMachines(ctx context.Context, c *client.Client, host string) error {
	inv, err := c.Inventory(ctx, host)
	if err != nil {
		return err
	}
	machines := inv.Machines
	if machines == nil {
		machines = []api.Machine{}
	}
	return a.show(machines, func(w io.Writer) { writeMachines(w, machines) })
}

func writeMachines(w io.Writer, machines []api.Machine) {
	t := newTable(w, "NAME", "STATE", "CPUS", "MEMORY", "DISKS", "SIZE", "GROUP", "ID")
	for _, m := range machines {
		var total int64
		var disks []string
		for _, d := range m.Disks {
			total, disks = total+d.Size, append(disks, d.ID)
		}
		group := orDash(m.Protected)
		if m.Replica {
			group += " (replica)"
		}
		t.row(m.Name, m.State, m.CPUs, size(m.Memory), orDash(strings.Join(disks, " ")), size(total), group, m.ID)
	}
	t.flush()
	for _, m := range machines {
		for _, d := range m.Disks {
			if d.Excluded != "" {
				fmt.Fprintf(w, "%s: disk %s cannot be protected: %s\n", plain(m.Name), plain(d.ID), plain(d.Excluded))
			}
		}
		for _, warning := range m.Warnings {
			fmt.Fprintf(w, "%s: %s\n", plain(m.Name), plain(warning))
		}
	}
}

func writeInventory(w io.Writer, inv api.Inventory) {
	writeMachines(w, inv.Machines)
	fmt.Fprintln(w)
	t := newTable(w, "NETWORK", "KIND", "ISOLATED")
	for _, n := range inv.Networks {
		t.row(n.Name, n.Kind, yesNo(n.Isolated))
	}
	t.flush()
	fmt.Fprintln(w)
	t = newTable(w, "STORAGE", "FREE", "TOTAL", "DEFAULT", "PATH")
	for _, s := range inv.Storage {
		t.row(s.Name, size(s.Free), size(s.Total), yesNo(s.Default), s.Path)
	}
	t.flush()
}

func (a *app) doctor(use string) *cobra.Command {
	var probe bool
	var o api.ProbeOrder
	cmd := a.command(use, "Check what works on a host, reading only", 1, func(ctx context.Context, c *client.Client, args []string) error {
		switch {
		case probe:
			return a.probePaths(ctx, c, args[0], o)
		case o.Storage != "":
			return wrong("--storage says where --data-paths makes its disk")
		}
		report, err := c.Doctor(ctx, args[0])
		if err != nil {
			return err
		}
		if err := a.show(report, func(w io.Writer) {
			t := newTable(w, "CHECK", "RESULT", "MESSAGE")
			for _, check := range report.Checks {
				t.row(check.Name, check.Result, check.Message)
			}
			t.flush()
		}); err != nil {
			return err
		}
		if slices.ContainsFunc(report.Checks, func(check api.DoctorCheck) bool { return check.Result == "failed" }) {
			return fmt.Errorf("host %s: a check %w", args[0], errFailed)
		}
		return nil
	})
	cmd.Long = "Check what works on a host, reading only.\n\nWith --data-paths, try instead each way to the content of disks, and tell how fast it is: " +
		"for that a small disk is made in a storage of the host, written, read and removed. No disk of anybody else is touched."
	cmd.Flags().BoolVar(&probe, "data-paths", false, "try each way to the content of disks, on a small disk that is made and removed")
	cmd.Flags().StringVar(&o.Storage, "storage", "", "storage for that disk; without it, the host's default")
	return cmd
}

// probePaths fails when nothing can be read, or nothing be written.
func (a *app) probePaths(ctx context.Context, c *client.Client, host string, o api.ProbeOrder) error {
	report, err := c.ProbePaths(ctx, host, o)
	if err != nil {
		return err
	}
	if err := a.show(report, func(w io.Writer) {
		t := newTable(w, "WAY", "READ", "WRITE", "USED", "RESULT")
		for _, p := range report.Paths {
			t.row(p.Name, speed(p.ReadPerSecond), speed(p.WritePerSecond), orDash(pathUse(p)), pathResult(p))
		}
		t.flush()
	}); err != nil {
		return err
	}
	if !slices.ContainsFunc(report.Paths, func(p api.DataPath) bool { return p.UsedToRead }) {
		return fmt.Errorf("host %s: reading disks %w", host, errFailed)
	}
	if !slices.ContainsFunc(report.Paths, func(p api.DataPath) bool { return p.UsedToWrite }) {
		return fmt.Errorf("host %s: writing disks %w", host, errFailed)
	}
	return nil
}

// speed of bytes in a second.
func speed(n int64) string {
	if n == 0 {
		return "-"
	}
	return size(n) + "/s"
}

func pathUse(p api.DataPath) string {
	var uses []string
	if p.UsedToRead {
		uses = append(uses, "read")
	}
	if p.UsedToWrite {
		uses = append(uses, "write")
	}
	return strings.Join(uses, ", ")
}

func pathResult(p api.DataPath) string {
	switch {
	case p.Problem == "":
		return "works"
	case p.Hint == "":
		return p.Problem
	}
	return p.Problem + " (" + p.Hint + ")"
}
