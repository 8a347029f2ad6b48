package replication

import (
	"context"
	"fmt"
	"slices"
	"time"

	"understudy/api"
	"understudy/provisioning"
)

// How the machines of a group come up: stage by stage, with what its runbook wants around each start. Failover, test and
// failback have this in common, and differ in how they start a machine and what a failed check means.

// Kinds of moves.
const (
	moveAction = "action"
	moveStart  = "start"
	moveChecks = "checks"
	moveDelay  = "delay"
)

// move is one thing that is done on the way.
type move struct {
	Kind     string
	Stage    int
	Part     string      // in the timeline
	Machines []int       `json:",omitempty"` // by their place in the group
	When     string      `json:",omitempty"` // of an action: before or after
	Prompt   string      `json:",omitempty"` // of a manual step
	Action   *api.Action `json:",omitempty"`
	Seconds  int         `json:",omitempty"` // of a delay
}

// course is the whole way and how far the job has come. It is a part of the job: what somebody changes in the runbook
// meanwhile is for the next one.
type course struct {
	Moves []move
	At    int       // the move at work; those before are done
	Until time.Time `json:",omitzero"` // when the delay at work ends
}

// startup is how an order starts machines.
type startup struct {
	test   bool
	host   string // id of where they come up
	start  func(ctx context.Context, t *task, members []int) error
	vm     func(t *task, i int) string // machine id there, empty before it was started
	strict bool                        // a failed check that was waited for ends the order
	// stage is where a machine is asked; nil: from its host's own network.
	stage func(t *task, i int) provisioning.Stage
}

// order gives the members in the order in which they start.
func (g *group) order() []int {
	all := make([]int, len(g.Members))
	for i := range all {
		all[i] = i
	}
	slices.SortStableFunc(all, func(a, b int) int { return g.stage(a) - g.stage(b) })
	return all
}

func (g *group) stage(i int) int { return g.Spec.Machines[i].StageOf() }

// newCourse plans the way of an order.
func newCourse(g group, test bool) *course {
	wishes := map[int]api.RunbookStage{}
	var stages []int
	if g.Spec.Runbook != nil {
		for _, s := range g.Spec.Runbook.Stages {
			wishes[s.Stage] = s
			stages = append(stages, s.Stage)
		}
	}
	if len(wishes) == 0 && !slices.ContainsFunc(g.order(), func(i int) bool { return g.stage(i) != 1 }) {
		return &course{Moves: []move{{Kind: moveStart, Stage: 1, Machines: g.order()}}}
	}
	for i := range g.Members {
		stages = append(stages, g.stage(i))
	}
	slices.Sort(stages)
	stages = slices.Compact(stages)
	c := &course{}
	for n, stage := range stages {
		c.add(g, stage, wishes[stage], test, n == len(stages)-1)
	}
	return c
}

// add plans one stage.
func (c *course) add(g group, stage int, wish api.RunbookStage, test, last bool) {
	members := slices.DeleteFunc(g.order(), func(i int) bool { return g.stage(i) != stage })
	push := func(m move, part string) {
		m.Stage, m.Part = stage, fmt.Sprintf("stage %d: %s", stage, part)
		c.Moves = append(c.Moves, m)
	}
	act := func(when string, actions []api.Action) {
		for n, a := range actions {
			if !test || a.InTests {
				push(move{Kind: moveAction, When: when, Action: &a, Prompt: fmt.Sprintf("%d-%s-%d", stage, when, n+1)}, a.Name)
			}
		}
	}
	act("before", wish.Before)
	if len(members) > 0 {
		push(move{Kind: moveStart, Machines: members}, "start")
		if wish.WaitForChecks {
			push(move{Kind: moveChecks, Machines: members}, "checks")
		}
	}
	act("after", wish.After)
	if wish.DelaySeconds > 0 && !last {
		push(move{Kind: moveDelay, Seconds: wish.DelaySeconds}, fmt.Sprintf("wait %d s", wish.DelaySeconds))
	}
}

// starts says that machines are still to be started.
func (c *course) starts() bool {
	return slices.ContainsFunc(c.Moves[c.At:], func(m move) bool { return m.Kind == moveStart })
}

// acted counts the actions that are done.
func (c *course) acted() (n int) {
	for _, m := range c.Moves[:c.At] {
		if m.Kind == moveAction {
			n++
		}
	}
	return n
}

// follow goes the whole way, from where the job was when it was interrupted. What is done is written down after each
// move, so at most the one at work is done again.
func (e *Engine) follow(ctx context.Context, t *task, s startup) (err error) {
	if t.work.Course == nil {
		t.work.Course = newCourse(t.group, s.test)
		if err := t.Save(t.work); err != nil {
			return err
		}
	}
	for c := t.work.Course; c.At < len(c.Moves); {
		if t.group, err = e.group(t.group.ID); err != nil { // as it is by now: it may have been a long wait
			return err
		}
		m := c.Moves[c.At]
		if m.Part != "" {
			t.Part(m.Part)
		}
		if err := e.do(ctx, t, s, m); err != nil {
			return err
		}
		c.At, c.Until = c.At+1, time.Time{}
		if err := t.Save(t.work); err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) do(ctx context.Context, t *task, s startup, m move) error {
	switch m.Kind {
	case moveAction:
		return e.act(ctx, t, s, m)
	case moveStart:
		if err := s.start(ctx, t, m.Machines); err != nil {
			return err
		}
		t.up(e.Clock(), m.Machines)
		return nil
	case moveChecks:
		problems, err := e.examine(ctx, t, s, m.Machines)
		if err == nil && s.strict && len(problems) > 0 {
			err = notUp(problems)
		}
		return err
	case moveDelay:
		return e.delay(ctx, t, time.Duration(m.Seconds)*time.Second)
	}
	return fmt.Errorf("unknown move %q", m.Kind)
}

// delay waits until its time is over, restarts included. A clock that is set back makes nobody wait longer than the whole
// delay once more.
func (e *Engine) delay(ctx context.Context, t *task, whole time.Duration) error {
	c := t.work.Course
	if c.Until.IsZero() {
		c.Until = e.Clock().Add(whole)
		if err := t.Save(t.work); err != nil {
			return err
		}
	}
	for {
		left := min(c.Until.Sub(e.Clock()), whole)
		if left <= 0 {
			return nil
		}
		if err := e.Sleep(ctx, left); err != nil {
			return err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
