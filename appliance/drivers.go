package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"understudy/api"
	"understudy/appliance/replication"
	"understudy/hypervisors"
	"understudy/hypervisors/esx"
	"understudy/hypervisors/kvm"
)

// driver opens hosts.
type driver struct {
	connect func(ctx context.Context, to replication.Login, owner string, log *slog.Logger) (hypervisors.Host, error)
	// signsIn: with a user and a password. Without, the address says all, and neither is taken.
	signsIn bool
}

// drivers is the only place that knows which hypervisors there are: by the scheme of a host's URI.
var drivers = map[string]driver{
	"qemu":      {connect: connectKVM},
	"qemu+unix": {connect: connectKVM},
	"qemu+ssh":  {connect: connectKVM},
	"esx":       {connect: connectESX, signsIn: true},
}

func connectKVM(ctx context.Context, to replication.Login, owner string, log *slog.Logger) (hypervisors.Host, error) {
	return kvm.Connect(ctx, to.URI, kvm.Options{Owner: owner, Log: log})
}

func connectESX(ctx context.Context, to replication.Login, owner string, log *slog.Logger) (hypervisors.Host, error) {
	return esx.Connect(ctx, to.URI, esx.Options{Owner: owner, Log: log, User: to.User, Password: to.Password.Reveal()})
}

// connector opens hosts with the driver that their scheme names.
func connector(log *slog.Logger) func(ctx context.Context, to replication.Login, owner string) (hypervisors.Host, error) {
	return func(ctx context.Context, to replication.Login, owner string) (hypervisors.Host, error) {
		scheme, _, _ := strings.Cut(to.URI, ":")
		d, ok := drivers[scheme]
		if !ok {
			return nil, &hypervisors.Error{Op: "connect host", Subject: to.URI, Err: fmt.Errorf("%w: %q", hypervisors.ErrScheme, scheme),
				Hint: "Use qemu:///system, qemu+unix:///system?socket=PATH, qemu+ssh://USER@HOST/system or esx://HOST/?thumbprint=SHA-256."}
		}
		if err := d.takes(scheme, to); err != nil {
			return nil, err
		}
		return d.connect(ctx, to, owner, log)
	}
}

// takes says what is wrong with user and password for the driver, at the field where it is.
func (d driver) takes(scheme string, to replication.Login) error {
	wrong := func(field, hint, format string, args ...any) error {
		err := api.Errorf(api.CodeInvalid, hint, format, args...)
		err.Field = field
		return err
	}
	const byAddress = "Leave both empty: the address says who signs in and by which key, as in qemu+ssh://root@HOST/system?keyfile=FILE."
	switch {
	case d.signsIn && to.User == "":
		return wrong("user", "Give the user, and the password of that user.", "a host at %s: needs a user", scheme)
	case d.signsIn && to.Password.IsZero():
		return wrong("password", "Give it; it is kept sealed and never shown.", "the password of %s is missing", to.User)
	case !d.signsIn && to.User != "":
		return wrong("user", byAddress, "a host at %s: takes no user here", scheme)
	case !d.signsIn && !to.Password.IsZero():
		return wrong("password", byAddress, "a host at %s: takes no password", scheme)
	}
	return nil
}
