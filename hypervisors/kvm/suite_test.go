package kvm

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"understudy/hypervisors"
	"understudy/hypervisors/hypervisortest"
)

// The same suite judges every driver; here it runs against the lab's source host, which is a target too.
func TestConformance(t *testing.T) {
	t.Parallel()
	hypervisortest.Run(t, func(t *testing.T) hypervisortest.Env {
		g, vm := startStanding(t)
		return hypervisortest.Env{
			Host: openHost(t, testLab.Source.URI), Owner: testOwner, VM: vm,
			Connect: func(ctx context.Context, owner string) (hypervisors.Host, error) {
				return Connect(ctx, testLab.Source.URI, Options{Owner: owner, Log: testLog(t)})
			},
			Dirty: func(ctx context.Context, vm string) error { return waitForWrite(ctx, vm) },
			NewVM: func(context.Context) (string, error) {
				_, vm := newMachine(t, "qcow2")
				return vm, nil
			},
			Grow:         grow,
			LoseTracking: func(ctx context.Context) error { return crashAndRestart(ctx, g) },
			Conversions:  func(ctx context.Context, vm string) (int, error) { return conversions(ctx, testLab.Source, vm) },
			Storage:      "default", Network: "production",
			Answer: hypervisortest.Answer{From: "192.168.77.253/24", Addr: g.Addr + ":80"},
		}
	})
}

// waitForWrite waits until QEMU has written more for a guest than by now.
func waitForWrite(ctx context.Context, vm string) error {
	before, err := writtenBy(ctx, vm)
	for err == nil {
		var now int64
		if now, err = writtenBy(ctx, vm); now > before {
			return err
		}
		if !pause(ctx, pollEvery) {
			return fmt.Errorf("machine %s writes nothing: %w", vm, ctx.Err())
		}
	}
	return err
}

func writtenBy(ctx context.Context, vm string) (int64, error) {
	out, err := testLab.Source.Virsh(ctx, "domstats", "--block", "--raw", vm)
	if err != nil {
		return 0, err
	}
	total := int64(0)
	for line := range strings.Lines(out) {
		name, n, _ := strings.Cut(strings.TrimSpace(line), "=")
		if strings.HasSuffix(name, ".wr.bytes") {
			bytes, err := strconv.ParseInt(n, 10, 64)
			if err != nil {
				return 0, err
			}
			total += bytes
		}
	}
	return total, nil
}

// grow makes a disk larger as an administrator does: through libvirt while the machine runs, else in its image.
func grow(ctx context.Context, vm, disk string, size int64) error {
	state, err := testLab.Source.Virsh(ctx, "domstate", vm)
	if err != nil {
		return err
	}
	if strings.TrimSpace(state) == "running" {
		_, err := testLab.Source.Virsh(ctx, "blockresize", vm, disk, fmt.Sprintf("%dB", size))
		return err
	}
	image, err := testLab.Source.Virsh(ctx, "domblklist", vm)
	if err != nil {
		return err
	}
	for line := range strings.Lines(image) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == disk {
			_, err := testLab.Source.Exec(ctx, "qemu-img", "resize", f[1], strconv.FormatInt(size, 10))
			return err
		}
	}
	return fmt.Errorf("machine %s has no disk %s", vm, disk)
}
