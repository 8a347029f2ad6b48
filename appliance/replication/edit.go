package replication

import (
	"context"
	"fmt"
	"slices"

	"understudy/api"
)

// UpdatePolicy changes the policy of a group whose revision the caller has seen.
func (e *Engine) UpdatePolicy(ctx context.Context, ref string, revision int64, p api.Policy) (api.Group, error) {
	return e.UpdateGroup(ctx, ref, revision, api.GroupEdit{Policy: p})
}

// UpdateGroup changes what can be changed of a group whose revision the caller has seen: all of it, or nothing.
func (e *Engine) UpdateGroup(ctx context.Context, ref string, revision int64, edit api.GroupEdit) (api.Group, error) {
	if err := edit.Validate(); err != nil {
		return api.Group{}, err
	}
	if err := e.runnable(edit.Runbook); err != nil {
		return api.Group{}, err
	}
	g, err := e.group(ref)
	if err != nil {
		return api.Group{}, err
	}
	if err := e.mayLeaveOut(ctx, g, edit); err != nil {
		return api.Group{}, err
	}
	if err := e.mayConvert(ctx, g, edit); err != nil {
		return api.Group{}, err
	}
	g, err = e.update(g.ID, func(g *group) error {
		if g.Revision != revision {
			return stale("group "+g.Spec.Name, g.Revision, revision)
		}
		g.Spec.Policy = edit.Policy
		g.Spec.Machines = slices.Clone(g.Spec.Machines) // others read the ones that are there
		for i, m := range edit.Machines {
			at, err := g.machine(m.VM)
			if err != nil {
				err.Field = fmt.Sprintf("machines[%d].vm", i)
				return err
			}
			g.Spec.Machines[at].Stage, g.Spec.Machines[at].Checks = m.Stage, m.Checks
			if m.Convert != nil {
				g.Spec.Machines[at].Convert = *m.Convert
			}
			if m.LeaveOut == nil || same(g.Spec.Machines[at].LeftOut(), m.LeaveOut) {
				continue
			}
			if err := g.atHome(i); err != nil { // it may have gone since
				return err
			}
			g.Spec.Machines[at].Disks = g.Spec.Machines[at].LeavingOut(m.LeaveOut)
		}
		if edit.Runbook != nil {
			if g.Spec.Runbook = edit.Runbook; len(edit.Runbook.Stages) == 0 {
				g.Spec.Runbook = nil
			}
		}
		g.Revision++
		return nil
	})
	if err != nil {
		return api.Group{}, err
	}
	e.limiter(g) // for the copy that runs, too
	return e.viewOf(&g), nil
}

// machine finds a machine of a group as its specification names it, by its name, or by its id.
func (g *group) machine(ref string) (int, *api.Error) {
	if at := slices.IndexFunc(g.Spec.Machines, func(m api.GroupMachine) bool { return m.VM == ref }); at >= 0 {
		return at, nil
	}
	if at := slices.IndexFunc(g.Members, func(m member) bool { return m.Name == ref || m.Home.VM == ref }); at >= 0 {
		return at, nil
	}
	return -1, api.Errorf(api.CodeNotFound, "Show the group to see its machines.", "group %s has no machine %q", g.Spec.Name, ref)
}
