package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"understudy/api"
	"understudy/appliance/protection"
	"understudy/hypervisors"
	"understudy/provisioning"
)

// CreateGroup checks the order against both hosts, provisions the replicas and starts the first mirror,
// unless the policy's windows are closed.
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
	if protection.Open(spec.Policy, e.Clock()) { // else the schedule does it in time
		if _, err := e.submit(ctx, *g, wish{order: protection.OrderMirror}); err != nil {
			return api.Group{}, err
		}
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
	protected := e.protected(home.ID)
	g := &group{ID: newID(), Revision: 1, Spec: spec, State: api.StateMirroring, Created: e.Clock(), writing: new(sync.Mutex), watching: new(sync.Mutex),
		Home: place{Host: home.ID}, Away: place{Host: away.ID, Storage: spec.Storage}}
	for i, wish := range spec.Machines {
		vm, err := find(ctx, host, wish.VM, home.Name)
		if err != nil {
			return nil, err
		}
		if owner := protected[vm.ID]; owner != "" {
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

// find asks for a machine by its id, and only then for all of them, which takes long on a large host.
func find(ctx context.Context, from hypervisors.Host, ref, host string) (hypervisors.VM, error) {
	if vm, err := from.VM(ctx, ref); err == nil {
		return vm, nil
	}
	vms, err := from.VMs(ctx)
	if err != nil {
		return hypervisors.VM{}, err
	}
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
	if err := e.deleteReplicas(ctx, g); err != nil {
		return err
	}
	return e.delete(id)
}

// deleteReplicas removes the replicas of the direction in force with all their points.
func (e *Engine) deleteReplicas(ctx context.Context, g group) error {
	for i := range g.Members {
		replica, err := e.replicaOf(ctx, g, &g.Members[i])
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
