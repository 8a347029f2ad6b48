package replication

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"understudy/api"
	"understudy/appliance/jobs"
	"understudy/appliance/protection"
	"understudy/hypervisors"
	"understudy/provisioning"
)

// group is a protection group as the state database keeps it. Where it and a target disagree about points, the target
// is right.
type group struct {
	ID       string
	Revision int64
	Spec     api.GroupSpec
	State    api.GroupState
	// Reversed swaps the roles: production runs Away, and Home holds the replicas.
	Reversed bool
	Paused   bool
	Home     place // where the machines come from
	Away     place // where their replicas were made
	Members  []member
	// Points of the direction in force, oldest first; OtherPoints are those that wait on the other side.
	Points      []api.Point
	OtherPoints []api.Point

	Test    *api.TestReport
	TestRun string // run id of a test that is up, else empty

	Worst    float64 // largest RPO age seen, seconds
	Problem  string
	Hint     string
	Failures int // cycles in a row
	// Compare makes the next cycle read both sides in full: a verification found them different.
	Compare bool
	// Before is the state in which a removal began.
	Before api.GroupState
	// Stopped says that the failover in force turned the source machines off, so that rolling back turns them on.
	Stopped bool
	Attempt time.Time
	Created time.Time
}

// place is one side of a group.
type place struct {
	Host    string // id
	Storage string
}

// member is a machine of a group with a seat on each side.
type member struct {
	Name string
	Home seat
	Away seat
	// ChangeID of the newest recorded point, on the side that is source now.
	ChangeID hypervisors.ChangeID
	Problem  string
}

// seat is a machine on one side: its id there, and the id of the replica it is (or becomes) there.
type seat struct {
	VM      string
	Replica string
}

func (g *group) source() place {
	if g.Reversed {
		return g.Away
	}
	return g.Home
}

func (g *group) target() place {
	if g.Reversed {
		return g.Home
	}
	return g.Away
}

// seats gives where the member is read from and where its replica is.
func (m *member) seats(reversed bool) (from, to *seat) {
	if reversed {
		return &m.Away, &m.Home
	}
	return &m.Home, &m.Away
}

func (g *group) clone() group {
	c := *g
	c.Members = slices.Clone(g.Members)
	c.Points = slices.Clone(g.Points)
	c.OtherPoints = slices.Clone(g.OtherPoints)
	if g.Test != nil {
		t := *g.Test
		t.Machines = slices.Clone(t.Machines)
		c.Test = &t
	}
	return c
}

// point finds a point by id; an empty id means the newest.
func (g *group) point(id string) (api.Point, error) {
	if len(g.Points) == 0 {
		return api.Point{}, api.Errorf(api.CodeConflict, "Wait for the first mirror to end.", "group %s has no recovery point yet", g.Spec.Name)
	}
	if id == "" {
		return g.Points[len(g.Points)-1], nil
	}
	for _, p := range g.Points {
		if p.ID == id {
			return p, nil
		}
	}
	return api.Point{}, api.Errorf(api.CodeNotFound, "It may have been dropped by retention: list the points and choose another.",
		"group %s has no recovery point %q", g.Spec.Name, id)
}

func (g *group) view(now time.Time, job string) api.Group {
	v := api.Group{GroupSpec: g.Spec, ID: g.ID, Revision: g.Revision, State: g.State, Reversed: g.Reversed, Paused: g.Paused,
		Points: len(g.Points), Test: g.Test, Job: job, Problem: g.Problem, Hint: g.Hint, Created: g.Created, Members: []api.GroupMember{}}
	for _, m := range g.Members {
		v.Members = append(v.Members, api.GroupMember{Name: m.Name, SourceVM: m.Home.VM, TargetVM: m.Away.VM, ReplicaID: m.Away.Replica, Problem: m.Problem})
	}
	var newest time.Time
	if n := len(g.Points); n > 0 {
		newest = g.Points[n-1].Taken
	}
	v.RPO = protection.RPO(g.Spec.Policy, newest, g.Worst, now)
	return v
}

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
	return group{}, api.Errorf(api.CodeNotFound, "List the groups to see which there are.", "there is no group %q", ref)
}

func (e *Engine) snapshotGroups() []group {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := make([]group, 0, len(e.groups))
	for _, g := range e.groups {
		out = append(out, g.clone())
	}
	slices.SortFunc(out, func(a, b group) int { return cmp.Compare(a.Spec.Name, b.Spec.Name) })
	return out
}

// update changes a group: durable when it returns, and nothing happened when it fails.
func (e *Engine) update(id string, change func(*group) error) (group, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	g, ok := e.groups[id]
	if !ok {
		return group{}, api.Errorf(api.CodeNotFound, "", "there is no group %q", id)
	}
	next := g.clone()
	if err := change(&next); err != nil {
		return group{}, err
	}
	if err := e.Store.Put(bucketGroups, id, &next); err != nil {
		return group{}, fmt.Errorf("record group %s: %w", next.Spec.Name, err)
	}
	e.groups[id] = &next
	e.publish("group", "updated", id, id, "")
	return next.clone(), nil
}

func (e *Engine) viewOf(g group) api.Group {
	return g.view(e.Clock(), e.working(g.ID))
}

// working is the id of the unfinished job of a group, if any.
func (e *Engine) working(id string) string {
	list, err := e.runner.List(id, 5)
	if err != nil {
		return ""
	}
	for _, j := range list {
		if !j.State.Ended() {
			return j.ID
		}
	}
	return ""
}

// ListGroups gives all groups by name.
func (e *Engine) ListGroups(context.Context) ([]api.Group, error) {
	out := []api.Group{}
	for _, g := range e.snapshotGroups() {
		out = append(out, e.viewOf(g))
	}
	return out, nil
}

// GetGroup gives one group by id or name.
func (e *Engine) GetGroup(_ context.Context, ref string) (api.Group, error) {
	g, err := e.group(ref)
	if err != nil {
		return api.Group{}, err
	}
	return e.viewOf(g), nil
}

// ListPoints gives the points of the direction in force, oldest first.
func (e *Engine) ListPoints(_ context.Context, ref string) ([]api.Point, error) {
	g, err := e.group(ref)
	if err != nil {
		return nil, err
	}
	return append([]api.Point{}, g.Points...), nil
}

// protectedBy names the group that has this machine, on either side.
func (e *Engine) protectedBy(host, vm string) string {
	for _, g := range e.snapshotGroups() {
		for _, m := range g.Members {
			if (g.Home.Host == host && m.Home.VM == vm) || (g.Away.Host == host && m.Away.VM == vm) {
				return g.Spec.Name
			}
		}
	}
	return ""
}

// CreateGroup checks the order against both hosts, provisions the replicas and starts the first mirror.
func (e *Engine) CreateGroup(ctx context.Context, spec api.GroupSpec) (api.Group, error) {
	if err := spec.Validate(); err != nil {
		return api.Group{}, err
	}
	g, err := e.plan(ctx, spec)
	if err != nil {
		return api.Group{}, public(err)
	}
	if err := e.insert(g); err != nil {
		return api.Group{}, err
	}
	defer e.created(g.ID)
	if err := e.provision(ctx, g.ID); err != nil {
		return api.Group{}, errors.Join(public(err), e.withdraw(context.WithoutCancel(ctx), g.ID))
	}
	if _, err := e.submit(ctx, *g, protection.OrderMirror, work{}); err != nil {
		return api.Group{}, err
	}
	e.publish("group", "created", g.ID, g.ID, "group "+spec.Name+" created")
	return e.GetGroup(ctx, g.ID)
}

// plan resolves names and finds what can be known to go wrong before anything is made.
func (e *Engine) plan(ctx context.Context, spec api.GroupSpec) (*group, error) {
	home, err := e.endpoint(spec.SourceHost)
	if err != nil {
		return nil, err
	}
	away, err := e.endpoint(spec.TargetHost)
	if err != nil {
		return nil, err
	}
	if home.Identity == away.Identity {
		return nil, &api.Error{Code: api.CodeInvalid, Field: "targetHost", Message: "source and target are the same host",
			Hint: "A replica beside its original dies with it: choose another host."}
	}
	if _, err := e.source(ctx, home.ID); err != nil {
		return nil, err
	}
	if _, err := e.target(ctx, away.ID); err != nil {
		return nil, err
	}
	host, err := e.host(ctx, home.ID)
	if err != nil {
		return nil, err
	}
	vms, err := host.VMs(ctx)
	if err != nil {
		return nil, err
	}
	g := &group{ID: newID(), Revision: 1, Spec: spec, State: api.StateMirroring, Created: e.Clock(),
		Home: place{Host: home.ID}, Away: place{Host: away.ID, Storage: spec.Storage}}
	for i, wish := range spec.Machines {
		vm, err := find(vms, wish.VM, home.Name)
		if err != nil {
			return nil, err
		}
		if owner := e.protectedBy(home.ID, vm.ID); owner != "" {
			return nil, api.Errorf(api.CodeConflict, "Remove it there first.", "machine %s is protected already, by group %s", vm.Hardware.Name, owner)
		}
		if slices.ContainsFunc(g.Members, func(m member) bool { return m.Home.VM == vm.ID }) {
			return nil, &api.Error{Code: api.CodeInvalid, Field: "machines", Message: fmt.Sprintf("machine %s is named twice", vm.Hardware.Name)}
		}
		replica := fmt.Sprintf("%s-%d", g.ID, i+1)
		g.Members = append(g.Members, member{Name: vm.Hardware.Name,
			Home: seat{VM: vm.ID, Replica: replica + "-home"}, Away: seat{Replica: replica}})
	}
	return g, nil
}

func find(vms []hypervisors.VM, ref, host string) (hypervisors.VM, error) {
	for _, vm := range vms {
		if vm.ID == ref || vm.Hardware.Name == ref {
			return vm, nil
		}
	}
	return hypervisors.VM{}, api.Errorf(api.CodeNotFound, "Look at the host's inventory.", "host %s has no machine %q", host, ref)
}

func (e *Engine) insert(g *group) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, other := range e.groups {
		if other.Spec.Name == g.Spec.Name {
			return &api.Error{Code: api.CodeConflict, Field: "name", Message: fmt.Sprintf("there is a group %q already", g.Spec.Name), Hint: "Choose another name."}
		}
	}
	if err := e.Store.Put(bucketGroups, g.ID, g); err != nil {
		return err
	}
	e.groups[g.ID] = g
	e.creating[g.ID] = true
	return nil
}

// created opens a new group to the schedule, which would otherwise mirror what is still being provisioned. After a
// death in between the schedule finds the group and provisions it.
func (e *Engine) created(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.creating, id)
}

// provision makes the replicas of a group, or finds the ones that are there.
func (e *Engine) provision(ctx context.Context, id string) error {
	g, err := e.group(id)
	if err != nil {
		return err
	}
	home, err := e.host(ctx, g.Home.Host)
	if err != nil {
		return err
	}
	away, err := e.host(ctx, g.Away.Host)
	if err != nil {
		return err
	}
	target, err := e.target(ctx, g.Away.Host)
	if err != nil {
		return err
	}
	networks, err := away.Networks(ctx)
	if err != nil {
		return err
	}
	mapping := provisioning.Networks{}
	for _, n := range g.Spec.Networks {
		mapping[n.From] = n.To
	}
	for i, m := range g.Members {
		vm, err := home.VM(ctx, m.Home.VM)
		if err != nil {
			return err
		}
		wish := g.Spec.Machines[i]
		hw, err := provisioning.Replica(vm, provisioning.Wishes{Name: wish.ReplicaName, CPUs: wish.CPUs, Memory: wish.Memory, NICModel: wish.NICModel}, mapping, networks)
		if err != nil {
			return err
		}
		replica, err := target.CreateReplica(ctx, hypervisors.ReplicaSpec{ID: m.Away.Replica, Hardware: hw, Storage: g.Away.Storage, PreferUUID: vm.ID})
		if err != nil {
			return err
		}
		status, err := replica.Status(ctx)
		if err != nil {
			return err
		}
		if _, err := e.update(id, func(g *group) error { g.Members[i].Away.VM = status.VM; return nil }); err != nil {
			return err
		}
	}
	return nil
}

// withdraw undoes a CreateGroup that failed.
func (e *Engine) withdraw(ctx context.Context, id string) error {
	g, err := e.group(id)
	if err != nil {
		return err
	}
	if err := e.deleteReplicas(ctx, g.Away.Host, func(yield func(string) bool) {
		for _, m := range g.Members {
			if !yield(m.Away.Replica) {
				return
			}
		}
	}); err != nil {
		return err
	}
	return e.delete(id)
}

func (e *Engine) deleteReplicas(ctx context.Context, hostID string, replicas func(func(string) bool)) error {
	target, err := e.target(ctx, hostID)
	if err != nil {
		return err
	}
	for id := range replicas {
		replica, err := target.Replica(ctx, id)
		if errors.Is(err, hypervisors.ErrNotFound) {
			continue
		}
		if err == nil {
			err = replica.Delete(ctx)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// delete forgets a group.
func (e *Engine) delete(id string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.Store.Delete(bucketGroups, id); err != nil {
		return err
	}
	delete(e.groups, id)
	e.publish("group", "deleted", id, id, "")
	return nil
}

// UpdatePolicy changes the policy of a group whose revision the caller has seen.
func (e *Engine) UpdatePolicy(_ context.Context, ref string, revision int64, p api.Policy) (api.Group, error) {
	if err := p.Validate(); err != nil {
		return api.Group{}, err
	}
	g, err := e.group(ref)
	if err != nil {
		return api.Group{}, err
	}
	g, err = e.update(g.ID, func(g *group) error {
		if g.Revision != revision {
			return api.Errorf(api.CodeStale, "Read the group again and repeat the change.",
				"group %s was changed meanwhile (revision %d, not %d)", g.Spec.Name, g.Revision, revision)
		}
		g.Spec.Policy = p
		g.Revision++
		return nil
	})
	if err != nil {
		return api.Group{}, err
	}
	return e.viewOf(g), nil
}

// Pause stops the schedule of a group.
func (e *Engine) Pause(_ context.Context, ref string) (api.Group, error) {
	return e.setPaused(ref, true)
}

// Resume starts it again.
func (e *Engine) Resume(_ context.Context, ref string) (api.Group, error) {
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
	return e.viewOf(g), nil
}

// public turns any error into what a user gets. It is the only place that knows which code a driver's error has.
func public(err error) error {
	var known *api.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	var locked *jobs.ErrLocked
	code := api.CodeInternal
	switch {
	case errors.As(err, &locked), errors.Is(err, hypervisors.ErrRunning), errors.Is(err, hypervisors.ErrBusy),
		errors.Is(err, hypervisors.ErrNameTaken), errors.Is(err, hypervisors.ErrMACTaken):
		code = api.CodeConflict
	case errors.Is(err, hypervisors.ErrInUse):
		code = api.CodeInUse
	case errors.Is(err, hypervisors.ErrNotFound):
		code = api.CodeNotFound
	case errors.Is(err, hypervisors.ErrNoSpace):
		code = api.CodeNoSpace
	case errors.Is(err, hypervisors.ErrUnknownNetwork), errors.Is(err, hypervisors.ErrUnknownStorage), errors.Is(err, hypervisors.ErrScheme),
		errors.Is(err, hypervisors.ErrInvalid), errors.Is(err, hypervisors.ErrIncapable):
		code = api.CodeInvalid
	case errors.Is(err, hypervisors.ErrUnreachable), errors.Is(err, hypervisors.ErrUnauthorized), errors.Is(err, hypervisors.ErrHostKey),
		errors.Is(err, hypervisors.ErrTimeout), errors.Is(err, hypervisors.ErrGaveWay), errors.Is(err, hypervisors.ErrNotIsolated),
		errors.Is(err, hypervisors.ErrForeign):
		code = api.CodeHost
	}
	return &api.Error{Code: code, Message: err.Error(), Hint: hypervisors.Hint(err), Err: err}
}
