package replication

import (
	"context"
	"slices"
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
	return jobs.Kind{Name: string(protection.OrderTest), Ended: e.endedWithReport,
		Steps: []jobs.Step{
			e.step("report", e.openReport),
			e.step("drivers", func(ctx context.Context, t *task) error { return e.lookInside(ctx, t, t.work.Point) }),
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
	if err := t.Undo("start", ""); err != nil {
		return err
	}
	if err := e.follow(ctx, t, e.testStartup(t)); err != nil {
		return err
	}
	_, err := e.update(t.group.ID, func(g *group) error { g.Test.State = "running"; return nil })
	return err
}

// testStartup says how the replicas start beside production.
func (e *Engine) testStartup(t *task) startup {
	at := func(t *task, i int) api.TestMachine {
		name := t.group.Members[i].Name
		if k := slices.IndexFunc(t.group.Test.Machines, func(m api.TestMachine) bool { return m.Name == name }); k >= 0 {
			return t.group.Test.Machines[k]
		}
		return api.TestMachine{}
	}
	return startup{test: true, host: t.group.target().Host, start: e.startInBubble,
		vm: func(t *task, i int) string { return at(t, i).VM },
		stage: func(t *task, i int) provisioning.Stage {
			return provisioning.Stage{VM: at(t, i).VM, Network: at(t, i).Network, Isolated: true}
		}}
}

// startInBubble starts test runs of some members, and shows them.
func (e *Engine) startInBubble(ctx context.Context, t *task, members []int) error {
	isolation, err := e.isolation(ctx, t.group)
	if err != nil {
		return err
	}
	host, err := e.host(ctx, t.group.target().Host)
	if err != nil {
		return err
	}
	network := bubble(t.work.Run)
	machines := make([]api.TestMachine, len(t.group.Members))
	if err := e.some(ctx, t.group, t.group.target().Host, members, func(ctx context.Context, i int) error {
		m := &t.group.Members[i]
		replica, err := e.replicaOf(ctx, t.group, m)
		if err != nil {
			return err
		}
		vm, err := host.VM(ctx, t.group.toSeat(m).VM)
		if err != nil {
			return err
		}
		run, err := replica.Run(ctx, hypervisors.RunSpec{ID: t.work.Run, Point: t.work.Point, Networks: provisioning.Bubble(vm.Hardware, network),
			Convert: t.group.converts(i, host.Capabilities())})
		machines[i] = api.TestMachine{Name: m.Name, VM: run.VM, Network: network, Checks: []api.CheckResult{}}
		return err
	}); err != nil {
		return err
	}
	if err := isolation.AssertIsolated(ctx, network); err != nil {
		return err
	}
	t.group, err = e.update(t.group.ID, func(g *group) error {
		for _, i := range members {
			g.Test.Machines = slices.DeleteFunc(g.Test.Machines, func(m api.TestMachine) bool { return m.Name == machines[i].Name })
			g.Test.Machines = append(g.Test.Machines, machines[i])
		}
		return nil
	})
	return err
}

// checkTest makes the boot checks inside the bubble. When one fails, the job fails but the machines stay up, so that
// somebody can look at them; ending the test cleans up.
func (e *Engine) checkTest(ctx context.Context, t *task) error {
	if _, err := e.host(ctx, t.group.target().Host); err != nil {
		return err
	}
	s := e.testStartup(t)
	problems, err := e.examine(ctx, t, s, t.group.order())
	if err != nil {
		return err
	}
	problems = append(problems, t.work.problems()...)
	t.work.Problem = strings.Join(problems, "; ")
	t.work.Seconds = e.Clock().Sub(t.Created()).Seconds()
	if err := e.photograph(ctx, t, s); err != nil {
		return err
	}
	if _, err := e.update(t.group.ID, func(g *group) error {
		for i, m := range g.Test.Machines {
			if made := t.work.Boots[m.Name].Checks; made != nil {
				g.Test.Machines[i].Checks = made
			}
		}
		g.Test.Problem, g.Test.Seconds = t.work.Problem, t.work.Seconds
		return nil
	}); err != nil {
		return err
	}
	t.Result("seconds", t.work.Seconds)
	if err := e.proved(t); err != nil {
		return err
	}
	if err := t.Forgive(); err != nil {
		return err
	}
	if len(problems) > 0 {
		return api.Errorf(api.CodeHost, "The machines are still up: look at them, then end the test.", "checks failed: %s", t.work.Problem)
	}
	return nil
}

// EndTest cleans a test up; only then has it passed.
func (e *Engine) EndTest(ctx context.Context, ref string) (api.Job, error) {
	return e.give(ctx, ref, api.PlanOrder{Order: string(protection.OrderEndTest)})
}

func (e *Engine) endTestKind() jobs.Kind {
	return jobs.Kind{Name: string(protection.OrderEndTest), Ended: e.endedWithReport, Steps: []jobs.Step{
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
