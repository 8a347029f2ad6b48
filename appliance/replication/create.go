package replication

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"understudy/api"
	"understudy/appliance/protection"
	"understudy/hypervisors"
	"understudy/provisioning"
)

// CreateGroup checks the order against both hosts, provisions the replicas and starts the first mirror,
// unless the policy's windows are closed.
func (e *Engine) CreateGroup(ctx context.Context, spec api.GroupSpec) (api.Group, error) {
	s := e.survey(ctx, spec)
	if err := ctx.Err(); err != nil {
		return api.Group{}, err
	}
	if s.refusal != nil {
		return api.Group{}, s.refusal
	}
	g := s.group()
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

// group is the group that a survey found nothing against.
func (s *survey) group() *group {
	g := &group{ID: newID(), Revision: 1, Spec: s.spec, State: api.StateMirroring, Created: s.e.Clock(), writing: new(sync.Mutex), watching: new(sync.Mutex),
		Home: place{Host: s.home.ID}, Away: place{Host: s.away.ID, Storage: s.spec.Storage}}
	for i, vm := range s.vms {
		replica := fmt.Sprintf("%s-%d", g.ID, i+1)
		g.Members = append(g.Members, member{Name: vm.Hardware.Name,
			Home: seat{VM: vm.ID, Replica: replica + "-home"}, Away: seat{Replica: replica}})
	}
	return g
}

func (e *Engine) insert(g *group) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.nameTaken(g.Spec.Name); err != nil {
		return err
	}
	if err := e.Store.Put(bucketGroups, g.ID, g); err != nil {
		return err
	}
	e.groups[g.ID] = g
	e.byName = nil
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
	mapping := networkMapping(g.Spec.Networks)
	for i, m := range g.Members {
		vm, err := home.VM(ctx, m.Home.VM)
		if err != nil {
			return err
		}
		hw, err := provisioning.Replica(vm, wishes(g.Spec.Machines[i]), mapping, away.Capabilities().Devices, networks)
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
