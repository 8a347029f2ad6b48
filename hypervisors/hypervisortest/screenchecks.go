package hypervisortest

import (
	"context"
	"errors"
	"fmt"

	"understudy/hypervisors"
)

func screenChecks() []Check {
	screen := func(c hypervisors.Capabilities) bool { return c.Screen }
	const why = "the host cannot show what machines show"
	return []Check{
		{Name: "the screen of a running machine is shown", ReadOnly: true, Needs: screen, Why: why, Run: checkScreen},
		{Name: "no screen is shown where there is none", Needs: screen, Why: why, Run: onStage(checkNoScreen)},
	}
}

// checkScreen looks at the first machine that runs and has a screen. A user's host need not have one.
func checkScreen(ctx context.Context, env Env) error {
	vms, err := env.Host.VMs(ctx)
	if err != nil {
		return err
	}
	for _, vm := range vms {
		if vm.State != hypervisors.Running {
			continue
		}
		shown, err := env.Host.(hypervisors.Screen).Screenshot(ctx, vm.ID)
		switch {
		case errors.Is(err, hypervisors.ErrIncapable), errors.Is(err, hypervisors.ErrNotFound), errors.Is(err, hypervisors.ErrInvalid):
			continue // without a screen, or a user's machine that went off meanwhile
		case err != nil:
			return err
		case shown.Bounds().Empty():
			return fmt.Errorf("the screen of machine %s is %v", vm.Hardware.Name, shown.Bounds())
		}
		return nil
	}
	if env.VM != "" {
		return errors.New("no machine that runs has a screen")
	}
	return nil
}

func checkNoScreen(ctx context.Context, s *stage) error {
	screen := s.Host.(hypervisors.Screen)
	off, err := s.NewVM(ctx)
	if err != nil {
		return err
	}
	_, err = screen.Screenshot(ctx, off)
	if err := wants("screen of a machine that is off", err, hypervisors.ErrInvalid); err != nil {
		return err
	}
	_, err = screen.Screenshot(ctx, nobody)
	if err := wants("screen of an unknown machine", err, hypervisors.ErrNotFound); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	_, err = screen.Screenshot(ctx, s.VM)
	return wants("screen after cancellation", err, context.Canceled)
}
