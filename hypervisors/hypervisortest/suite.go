package hypervisortest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"understudy/hypervisors"
)

// Check is one thing that every driver must do right.
type Check struct {
	Name string
	// ReadOnly checks change nothing and need nothing of Env but its Host.
	ReadOnly bool
	// Needs says whether the check applies to a host; nil: always. Why says, for people, what is missing when it does not.
	Needs func(hypervisors.Capabilities) bool
	Why   string
	// Run returns nil when the driver passed. It removes what it made, whatever happened.
	Run func(ctx context.Context, env Env) error
}

// Outcome of a check.
type Outcome string

// Outcomes.
const (
	Passed  Outcome = "passed"
	Failed  Outcome = "failed"
	Skipped Outcome = "skipped"
)

// Result of a check, for people.
type Result struct {
	Name    string
	Outcome Outcome
	Message string // why it failed or was skipped
}

// Checks lists the whole suite, those that only read first.
func Checks() []Check {
	return slices.Concat(inventoryChecks(), deviceChecks(), screenChecks(), sourceChecks(), trackingChecks(), replicaChecks(), draftChecks(), compressChecks(), pointChecks(),
		runChecks(), convertChecks(), adoptChecks(), cleanChecks(), networkChecks(), pathChecks())
}

// Run judges a driver: every check is a subtest with an Env of its own, skipped only when the host lacks the capability.
func Run(t *testing.T, newEnv func(t *testing.T) Env) {
	for _, c := range Checks() {
		t.Run(c.Name, func(t *testing.T) {
			env := newEnv(t)
			switch r := c.judge(t.Context(), env); r.Outcome {
			case Skipped:
				t.Skip(r.Message)
			case Failed:
				t.Error(r.Message)
			}
		})
	}
}

// Doctor runs the checks that only read against a user's host. It never changes anything there.
func Doctor(ctx context.Context, host hypervisors.Host) []Result {
	var results []Result
	for _, c := range Checks() {
		if c.ReadOnly {
			results = append(results, c.judge(ctx, Env{Host: host}))
		}
	}
	return results
}

func (c Check) judge(ctx context.Context, env Env) Result {
	if c.Needs != nil && !c.Needs(env.Host.Capabilities()) {
		return Result{Name: c.Name, Outcome: Skipped, Message: c.Why}
	}
	run := c.Run
	if !c.ReadOnly {
		run = tidy(c.Run)
	}
	if err := run(ctx, env); err != nil {
		message := err.Error()
		if hint := hypervisors.Hint(err); hint != "" {
			message += " (" + hint + ")"
		}
		return Result{Name: c.Name, Outcome: Failed, Message: message}
	}
	return Result{Name: c.Name, Outcome: Passed}
}

// tidy adds to a check what is true of every one: when it has undone what it did, Clean finds nothing.
func tidy(run func(context.Context, Env) error) func(context.Context, Env) error {
	return func(ctx context.Context, env Env) error {
		if _, err := env.Host.Clean(ctx, hypervisors.Keep{}); err != nil {
			return fmt.Errorf("clean before the check: %w", err)
		}
		err := run(ctx, env)
		left, cleanErr := env.Host.Clean(context.WithoutCancel(ctx), hypervisors.Keep{})
		if len(left) > 0 && err == nil {
			err = fmt.Errorf("left behind: %q", left)
		}
		return errors.Join(err, cleanErr)
	}
}

func needSource(c hypervisors.Capabilities) bool   { return c.Source }
func needTracking(c hypervisors.Capabilities) bool { return c.Source && c.ChangeTracking }
func needTarget(c hypervisors.Capabilities) bool   { return c.Target }
func needBoth(c hypervisors.Capabilities) bool     { return c.Source && c.Target }
func needRun(c hypervisors.Capabilities) bool      { return c.Source && c.Target && c.Power }

const (
	whySource   = "the host has no checkpoints"
	whyTracking = "the host cannot tell what changed"
	whyTarget   = "the host cannot keep replicas"
	whyBoth     = "the host is not both source and target"
	whyRun      = "the host cannot protect, keep and start machines alike"
)

// wants fails unless err wraps target.
func wants(what string, err, target error) error {
	if !errors.Is(err, target) {
		return fmt.Errorf("%s: got %v, want %w", what, err, target)
	}
	return nil
}
