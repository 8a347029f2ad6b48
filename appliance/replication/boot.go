package replication

import (
	"context"
	"fmt"
	"sync"
	"time"

	"understudy/api"
	"understudy/hypervisors"
	"understudy/provisioning"
)

// How long pictures of screens may take, of one machine and of all: they prove something, and nobody waits for them.
const (
	screenTimeout  = 15 * time.Second
	screensTimeout = time.Minute
)

// boot is how a machine came up, for the report.
type boot struct {
	VM      string
	Started time.Time
	Checked bool              `json:",omitempty"`
	Checks  []api.CheckResult `json:",omitempty"`
	// Problem is why it could not be checked.
	Problem       string `json:",omitempty"`
	Screen        int    `json:",omitempty"` // bytes of the picture; 0: none
	ScreenProblem string `json:",omitempty"`
}

// up notes that members have started.
func (t *task) up(now time.Time, members []int) {
	if t.work.Boots == nil {
		t.work.Boots = map[string]boot{}
	}
	for _, i := range members {
		t.work.Boots[t.group.Members[i].Name] = boot{Started: now}
	}
}

// note keeps what is only for the report: that it cannot be written down stops nobody.
func (e *Engine) note(t *task) {
	if err := t.Save(t.work); err != nil {
		t.Log().Warn("what happened cannot be noted for the report", "error", err)
	}
}

// examine makes the boot checks of members, unless they were made while the stages came up. What fails is in the result,
// for people; the error is that of ctx.
func (e *Engine) examine(ctx context.Context, t *task, s startup, members []int) (problems []string, err error) {
	host, err := e.host(ctx, s.host)
	if err != nil {
		return []string{err.Error()}, ctx.Err()
	}
	for _, i := range members {
		name := t.group.Members[i].Name
		b := t.work.Boots[name]
		if b.VM = s.vm(t, i); !b.Checked {
			if b.Checks, err = e.examineOne(ctx, t, s, host, i); err != nil {
				b.Problem = err.Error()
			} else {
				b.Checked, b.Problem = true, ""
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
		}
		if t.work.Boots == nil {
			t.work.Boots = map[string]boot{}
		}
		t.work.Boots[name] = b
		problems = append(problems, b.problems(name)...)
	}
	e.note(t)
	return problems, ctx.Err()
}

func (e *Engine) examineOne(ctx context.Context, t *task, s startup, host hypervisors.Host, i int) ([]api.CheckResult, error) {
	wishes := checks(t.group.Spec.Machines[i].Checks)
	if s.stage != nil {
		at := s.stage(t, i)
		at.Host = host
		return checkResults(at.Run(ctx, wishes)), nil
	}
	vm, err := host.VM(ctx, s.vm(t, i))
	if err != nil {
		return nil, err
	}
	at := provisioning.Stage{Host: host, VM: vm.ID}
	if len(vm.Hardware.NICs) > 0 {
		at.Network = vm.Hardware.NICs[0].Network
	}
	return checkResults(at.Run(ctx, wishes)), nil
}

func (b boot) problems(name string) (out []string) {
	if b.Problem != "" {
		out = append(out, name+": "+b.Problem)
	}
	for _, c := range b.Checks {
		if !c.Passed {
			out = append(out, fmt.Sprintf("%s: %s: %s", name, c.Kind, c.Message))
		}
	}
	return out
}

// photograph takes a picture of each machine's screen. What fails is told in the report and stops nothing; the error is
// that of ctx.
func (e *Engine) photograph(ctx context.Context, t *task, s startup) error {
	bounded, cancel := context.WithTimeout(ctx, screensTimeout)
	defer cancel()
	host, err := e.host(bounded, s.host)
	var mu sync.Mutex
	take := func(ctx context.Context, i int) error {
		name := t.group.Members[i].Name
		size, failed := 0, err
		if failed == nil {
			size, failed = e.photographOne(ctx, host, s.vm(t, i), screenKey(t.ID(), i))
		}
		mu.Lock()
		defer mu.Unlock()
		b := t.work.Boots[name]
		if b.Screen, b.ScreenProblem = size, ""; failed != nil {
			b.ScreenProblem = failed.Error()
		}
		t.work.Boots[name] = b
		return nil
	}
	if t.work.Boots == nil {
		t.work.Boots = map[string]boot{}
	}
	if err != nil {
		for i := range t.group.Members {
			_ = take(bounded, i) // notes it
		}
	} else if err := e.together(bounded, t.group, s.host, take); err != nil {
		t.Log().Warn("not every screen was photographed", "error", err)
	}
	e.note(t)
	return ctx.Err()
}

func (e *Engine) photographOne(ctx context.Context, host hypervisors.Host, vm, key string) (size int, err error) {
	ctx, cancel := context.WithTimeout(ctx, screenTimeout)
	defer cancel()
	shot, err := provisioning.Screenshot(ctx, host, vm)
	if err != nil {
		return 0, err
	}
	if err := e.Store.Put(bucketScreens, key, shot); err != nil {
		return 0, fmt.Errorf("keep screenshot: %w", err)
	}
	return len(shot), nil
}
