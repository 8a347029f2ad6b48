package hypervisortest

import (
	"context"
	"fmt"
	"reflect"

	"understudy/hypervisors"
)

func pathChecks() []Check {
	probe := func(c hypervisors.Capabilities) bool { return c.Probe }
	const why = "the host cannot try the ways to the content of disks"
	return []Check{
		{Name: "a probe finds the ways to the content of disks that work, and leaves nothing", Needs: probe, Why: why, Run: checkPaths},
		{Name: "a probe that cannot be made leaves nothing", Needs: probe, Why: why, Run: checkNoPaths},
	}
}

// checkPaths knows nothing of how fast a way must be.
func checkPaths(ctx context.Context, env Env) error {
	before, err := listed(ctx, env.Host)
	if err != nil {
		return err
	}
	paths, err := env.Host.(hypervisors.Prober).ProbePaths(ctx, env.Storage)
	if err != nil {
		return err
	}
	if err := wellTried(paths); err != nil {
		return fmt.Errorf("%w: %+v", err, paths)
	}
	after, err := listed(ctx, env.Host)
	if err != nil {
		return err
	}
	if !reflect.DeepEqual(before, after) {
		return fmt.Errorf("machines before the probe: %q, after it: %q", before, after)
	}
	return nil
}

// wellTried wants one way at least that works for each direction, and exactly one that is used.
func wellTried(paths []hypervisors.DataPath) error {
	names, toRead, toWrite := map[string]bool{}, 0, 0
	for _, p := range paths {
		switch {
		case p.Name == "" || names[p.Name]:
			return fmt.Errorf("the name %q is empty or there twice", p.Name)
		case p.Read < 0 || p.Write < 0:
			return fmt.Errorf("%s is less than still", p.Name)
		case p.Err == nil && p.Read == 0 && p.Write == 0:
			return fmt.Errorf("%s neither works nor says why", p.Name)
		case p.UsedToRead && p.Read == 0, p.UsedToWrite && p.Write == 0:
			return fmt.Errorf("%s is used for what it does not do", p.Name)
		}
		names[p.Name] = true
		if p.UsedToRead {
			toRead++
		}
		if p.UsedToWrite {
			toWrite++
		}
	}
	if toRead != 1 || toWrite != 1 {
		return fmt.Errorf("%d ways are used to read and %d to write", toRead, toWrite)
	}
	return nil
}

func checkNoPaths(ctx context.Context, env Env) error {
	prober := env.Host.(hypervisors.Prober)
	_, err := prober.ProbePaths(ctx, nobody)
	if err := wants("probe on a storage that does not exist", err, hypervisors.ErrUnknownStorage); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	_, err = prober.ProbePaths(ctx, env.Storage)
	return wants("probe after cancellation", err, context.Canceled)
}

// listed are the machines of a host, as they are told of.
func listed(ctx context.Context, host hypervisors.Host) (names []string, err error) {
	vms, err := host.VMs(ctx)
	for _, vm := range vms {
		names = append(names, vm.Hardware.Name)
	}
	return names, err
}
