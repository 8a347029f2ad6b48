package replication

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"understudy/api"
)

// group gives a copy of a group by id or name.
func (e *Engine) group(ref string) (group, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if g, ok := e.groups[ref]; ok {
		return g.clone(), nil
	}
	for _, g := range e.groups {
		if g.Spec.Name == ref {
			return g.clone(), nil
		}
	}
	return group{}, noGroup(ref)
}

func noGroup(ref string) error {
	return api.Errorf(api.CodeNotFound, "List the groups to see which there are.", "there is no group %q", ref)
}

// snapshotGroups gives all groups by name, for reading only: a group is never changed in place.
func (e *Engine) snapshotGroups() []*group {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.byName == nil { // the schedule asks several times in a second
		e.byName = slices.Collect(maps.Keys(e.groups))
		slices.SortFunc(e.byName, func(a, b string) int { return cmp.Compare(e.groups[a].Spec.Name, e.groups[b].Spec.Name) })
	}
	out := make([]*group, len(e.byName))
	for i, id := range e.byName {
		out[i] = e.groups[id]
	}
	return out
}

// held gives a group with the right to replace it.
func (e *Engine) held(id string) (g *group, release func(), err error) {
	unknown := api.Errorf(api.CodeNotFound, "", "there is no group %q", id)
	e.mu.Lock()
	g, ok := e.groups[id]
	e.mu.Unlock()
	if !ok {
		return nil, nil, unknown
	}
	g.writing.Lock()
	e.mu.Lock()
	defer e.mu.Unlock()
	if g, ok := e.groups[id]; ok { // as it is by now
		return g, g.writing.Unlock, nil
	}
	g.writing.Unlock()
	return nil, nil, unknown
}

// kindGroup is the kind of the kill points around the writes of a group; they belong to no job's steps.
const kindGroup = "group"

// update changes a group: durable when it returns, and nothing happened when it fails. Only those who change the same
// group wait for each other, and nobody who reads waits for the disk.
func (e *Engine) update(id string, change func(*group) error) (group, error) {
	g, release, err := e.held(id)
	if err != nil {
		return group{}, err
	}
	defer release()
	next := g.clone()
	if err := change(&next); err != nil {
		return group{}, err
	}
	e.KillPoint(kindGroup, "record", "before write")
	if err := e.Store.Put(bucketGroups, id, &next); err != nil {
		return group{}, fmt.Errorf("record group %s: %w", next.Spec.Name, err)
	}
	e.KillPoint(kindGroup, "record", "after write")
	e.mu.Lock()
	if e.groups[id] = &next; next.Spec.Name != g.Spec.Name {
		e.byName = nil
	}
	e.mu.Unlock()
	e.publish("group", "updated", id, id, "")
	return next.clone(), nil
}

func (e *Engine) viewOf(g *group) api.Group {
	return g.view(e.Clock(), e.working(g.ID))
}

// working is the id of the unfinished job of a group, if any; of several the newest.
func (e *Engine) working(id string) string {
	list, err := e.runner.Unfinished(id)
	if err != nil || len(list) == 0 {
		return ""
	}
	return list[0].ID
}

// GetGroup gives one group by id or name.
func (e *Engine) GetGroup(_ context.Context, ref string) (api.Group, error) {
	g, err := e.group(ref)
	if err != nil {
		return api.Group{}, err
	}
	return e.viewOf(&g), nil
}

// ListPoints gives the points of the direction in force, oldest first.
func (e *Engine) ListPoints(_ context.Context, ref string) ([]api.Point, error) {
	g, err := e.group(ref)
	if err != nil {
		return nil, err
	}
	return append([]api.Point{}, g.Points...), nil
}

// protected names the groups of all machines of a host that have one, on either side, by machine.
func (e *Engine) protected(host string) map[string]string {
	by := map[string]string{}
	for _, g := range e.snapshotGroups() {
		for _, m := range g.Members {
			if g.Home.Host == host {
				by[m.Home.VM] = g.Spec.Name
			}
			if g.Away.Host == host && m.Away.VM != "" {
				by[m.Away.VM] = g.Spec.Name
			}
		}
	}
	return by
}

// delete forgets a group.
func (e *Engine) delete(id string) error {
	g, release, err := e.held(id)
	if api.CodeOf(err) == api.CodeNotFound {
		return nil
	}
	if err != nil {
		return err
	}
	defer release()
	if err := e.chronicle.forget(id); err != nil {
		return err
	}
	if err := e.Store.Delete(bucketGroups, id); err != nil {
		return err
	}
	e.mu.Lock()
	delete(e.groups, id)
	e.byName = nil
	delete(e.limits, id)
	delete(e.healths, id)
	e.mu.Unlock()
	for _, a := range g.Alerts {
		e.publishAlert("deleted", alertOfGroup(g, a), "over: "+a.Message)
	}
	e.publish("group", "deleted", id, id, "")
	return nil
}

// Pause stops the schedule of a group.
func (e *Engine) Pause(_ context.Context, ref string) (api.Group, error) {
	return e.setPaused(ref, true)
}

// Resume starts it again.
func (e *Engine) Resume(ctx context.Context, ref string) (api.Group, error) {
	g, err := e.group(ref)
	if err == nil && g.Restored != nil {
		if g, err = e.findAgain(ctx, g); err == nil {
			return e.viewOf(&g), nil
		}
	}
	if err != nil {
		return api.Group{}, err
	}
	return e.setPaused(ref, false)
}

func (e *Engine) setPaused(ref string, paused bool) (api.Group, error) {
	g, err := e.group(ref)
	if err != nil {
		return api.Group{}, err
	}
	g, err = e.update(g.ID, func(g *group) error { g.Paused = paused; return nil })
	if err != nil {
		return api.Group{}, err
	}
	return e.viewOf(&g), nil
}
