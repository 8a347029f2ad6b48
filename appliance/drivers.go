package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"understudy/hypervisors"
	"understudy/hypervisors/kvm"
)

// drivers is the only place that knows which hypervisors there are: by the scheme of a host's URI.
var drivers = map[string]func(ctx context.Context, uri, owner string, log *slog.Logger) (hypervisors.Host, error){
	"qemu":      connectKVM,
	"qemu+unix": connectKVM,
	"qemu+ssh":  connectKVM,
}

func connectKVM(ctx context.Context, uri, owner string, log *slog.Logger) (hypervisors.Host, error) {
	return kvm.Connect(ctx, uri, kvm.Options{Owner: owner, Log: log})
}

// connector opens hosts with the driver that their scheme names.
func connector(log *slog.Logger) func(ctx context.Context, uri, owner string) (hypervisors.Host, error) {
	return func(ctx context.Context, uri, owner string) (hypervisors.Host, error) {
		scheme, _, _ := strings.Cut(uri, ":")
		connect, ok := drivers[scheme]
		if !ok {
			return nil, &hypervisors.Error{Op: "connect host", Subject: uri, Err: fmt.Errorf("%w: %q", hypervisors.ErrScheme, scheme),
				Hint: "Use qemu:///system, qemu+unix:///system?socket=PATH or qemu+ssh://USER@HOST/system."}
		}
		return connect(ctx, uri, owner, log)
	}
}
