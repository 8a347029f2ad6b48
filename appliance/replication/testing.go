package replication

import (
	"context"
	"fmt"
	"strings"
	"time"

	"understudy/api"
	"understudy/appliance/jobs"
	"understudy/appliance/protection"
	"understudy/hypervisors"
	"understudy/provisioning"
)

// Test starts the replicas in a bubble of their own, beside running replication.
func (e *Engine) Test(ctx context.Context, ref string, o api.TestOrder) (api.Job, error) {
	return e.give(ctx, ref, api.PlanOrder{Order: string(protection.OrderTest), Point: o.Point})
}

func (e *Engine) testKind() jobs.Kind {
	return jobs.Kind{Name: string(protection.OrderTest), Ended: e.ended,
		Steps: []jobs.Step{
			e.step("report", e.openReport),
			e.step("network", e.makeBubble),
			e.step("start", e.startTest),
			e.step("checks", e.checkTest),
		},
		Undos: undos{
			"report": e.undo(func(_ context.Context, t *task, _ string) error {
				return e.closeReport(t, "the test could not be started")
			}),
			// What a host that is away keeps of a test goes when it is back.
			"network": e.undo(func(ctx context.Context, t *task, _ string) error {
				e.settle(ctx, t.group.ID, "remove test network", func(ctx context.Context) error { return e.dropBubble(ctx, t) })
				return nil
			}),
			"start": e.undo(func(ctx context.Context, t *task, _ string) error {
				e.settle(ctx, t.group.ID, "end test runs", func(ctx context.Context) error { return e.endRuns(ctx, t) })
				return nil
			}),
		},
	}
}

// bubble is the name of the isolated network of a test.
func bubble(run string) string { return "test-" + run }

func (e *Engine) openReport(_ context.Context, t *task) error {
	if err := t.Undo("report", ""); err != nil {
		return err
	}
	_, err := e.update(t.group.ID, func(g *group) error {
		if g.TestRun != "" && g.TestRun != t.work.Run {
			return api.Errorf(api.CodeConflict, "End it first.", "a test of group %s is up already", g.Spec.Name)
		}
		g.TestRun = t.work.Run
		g.Test = &api.TestReport{ID: t.work.Run, Point: t.work.Point, State: "starting", Started: t.Created(), Machines: []api.TestMachine{}}
		return nil
	})
	return err
}

func (e *Engine) makeBubble(ctx context.Context, t *task) error {
	isolation, err := e.isolation(ctx, t.group)
	if err != nil {
		return err
	}
	if err := t.Undo("network", ""); err != nil {
		return err
	}
	return isolation.IsolatedNetwork(ctx, bubble(t.work.Run))
}

func (e *Engine) dropBubble(ctx context.Context, t *task) error {
	isolation, err := e.isolation(ctx, t.group)
	if err != nil {
		return err
	}
	return isolation.RemoveNetwork(ctx, bubble(t.work.Run))
}

func (e *Engine) isolation(ctx context.Context, g group) (hypervisors.Isolation, error) {
	return ability[hypervisors.Isolation](ctx, e, g.target().Host, "isolate a test")
}

func (e *Engine) startTest(ctx context.Context, t *task) error {
	isolation, err := e.isolation(ctx, t.group)
	if err != nil {
		return err
	}
	host, err := e.host(ctx, t.group.target().Host)
	if err != nil {
		return err
	}
	if err := t.Undo("start", ""); err != nil {
		return err
	}
	network := bubble(t.work.Run)
	machines := make([]api.TestMachine, len(t.group.Members))
	if err := e.eachReplica(ctx, t.group, func(ctx context.Context, i int, replica hypervisors.Replica) error {
		m := &t.group.Members[i]
		_, to := m.seats(t.group.Reversed)
		vm, err := host.VM(ctx, to.VM)
		if err != nil {
			return err
		}
		run, err := replica.Run(ctx, hypervisors.RunSpec{ID: t.work.Run, Point: t.work.Point, Networks: provisioning.Bubble(vm.Hardware, network)})
		machines[i] = api.TestMachine{Name: m.Name, VM: run.VM, Network: network, Checks: []api.CheckResult{}}
		return err
	}); err != nil {
		return err
	}
	if err := isolation.AssertIsolated(ctx, network); err != nil {
		return err
	}
	_, err = e.update(t.group.ID, func(g *group) error { g.Test.State, g.Test.Machines = "running", machines; return nil })
	return err
}

// checkTest makes the boot checks inside the bubble. When one fails, the job fails but the machines stay up, so that
// somebody can look at them; ending the test cleans up.
func (e *Engine) checkTest(ctx context.Context, t *task) error {
	host, err := e.host(ctx, t.group.target().Host)
	if err != nil {
		return err
	}
	machines := t.group.Test.Machines
	var problems []string
	for i := range machines {
		stage := provisioning.Stage{Host: host, VM: machines[i].VM, Network: machines[i].Network, Isolated: true}
		results := stage.Run(ctx, checks(t.group.Spec.Machines[i].Checks))
		machines[i].Checks = checkResults(results)
		problems = append(problems, failures(machines[i].Name, results)...)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, err := e.update(t.group.ID, func(g *group) error {
		g.Test.Machines, g.Test.Problem = machines, strings.Join(problems, "; ")
		g.Test.Seconds = e.Clock().Sub(g.Test.Started).Seconds()
		return nil
	}); err != nil {
		return err
	}
	t.Result("seconds", e.Clock().Sub(t.Created()).Seconds())
	if err := t.Forgive(); err != nil {
		return err
	}
	if len(problems) > 0 {
		return api.Errorf(api.CodeHost, "The machines are still up: look at them, then end the test.", "checks failed: %s", strings.Join(problems, "; "))
	}
	return nil
}

// EndTest cleans a test up; only then has it passed.
func (e *Engine) EndTest(ctx context.Context, ref string) (api.Job, error) {
	return e.give(ctx, ref, api.PlanOrder{Order: string(protection.OrderEndTest)})
}

func (e *Engine) endTestKind() jobs.Kind {
	return jobs.Kind{Name: string(protection.OrderEndTest), Ended: e.ended, Steps: []jobs.Step{
		e.step("end-machines", e.endRuns),
		e.step("network", e.dropBubble),
		e.step("report", func(_ context.Context, t *task) error { return e.closeReport(t, "") }),
	}}
}

func (e *Engine) endRuns(ctx context.Context, t *task) error {
	return e.eachReplica(ctx, t.group, func(ctx context.Context, _ int, replica hypervisors.Replica) error {
		return replica.End(ctx, t.work.Run)
	})
}

func (e *Engine) closeReport(t *task, problem string) error {
	_, err := e.update(t.group.ID, func(g *group) error {
		g.TestRun = ""
		if g.Test == nil || g.Test.Ended != nil {
			return nil
		}
		now := e.Clock()
		g.Test.Ended = &now
		if g.Test.Problem == "" {
			g.Test.Problem = problem
		}
		if g.Test.State = "failed"; g.Test.Problem == "" {
			g.Test.State, g.Tested = "passed", now
		}
		return nil
	})
	return err
}

// checkSide makes the boot checks of a group's machines on one of its hosts, from the host's own network. The problem
// is empty when all passed; what cannot be asked has not. The error is that of ctx.
func (e *Engine) checkSide(ctx context.Context, g group, hostID string, seat func(*member) string) (problem string, err error) {
	host, err := e.host(ctx, hostID)
	if err != nil {
		return err.Error(), ctx.Err()
	}
	var problems []string
	for i := range g.Members {
		vm, err := host.VM(ctx, seat(&g.Members[i]))
		if err != nil {
			problems = append(problems, g.Members[i].Name+": "+err.Error())
			continue
		}
		stage := provisioning.Stage{Host: host, VM: vm.ID}
		if len(vm.Hardware.NICs) > 0 {
			stage.Network = vm.Hardware.NICs[0].Network
		}
		problems = append(problems, failures(g.Members[i].Name, stage.Run(ctx, checks(g.Spec.Machines[i].Checks)))...)
	}
	return strings.Join(problems, "; "), ctx.Err()
}

func checks(wishes []api.Check) []provisioning.Check {
	out := make([]provisioning.Check, 0, len(wishes))
	for _, c := range wishes {
		out = append(out, provisioning.Check{Kind: provisioning.CheckKind(c.Kind), Address: c.Address, From: c.From,
			Contains: c.Contains, Timeout: time.Duration(c.TimeoutSeconds) * time.Second})
	}
	return out
}

func checkResults(results []provisioning.Result) []api.CheckResult {
	out := make([]api.CheckResult, 0, len(results))
	for _, r := range results {
		out = append(out, api.CheckResult{Kind: string(r.Kind), Passed: r.Passed, Message: r.Message, Seconds: r.Took.Seconds()})
	}
	return out
}

func failures(machine string, results []provisioning.Result) (out []string) {
	for _, r := range results {
		if !r.Passed {
			out = append(out, fmt.Sprintf("%s: %s: %s", machine, r.Kind, r.Message))
		}
	}
	return out
}
