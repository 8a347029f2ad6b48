package hypervisortest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"understudy/hypervisors"
)

// stage is what a check that writes stands on: the parts of the host, and the undo of all that was made.
type stage struct {
	Env
	source hypervisors.Source
	target hypervisors.Target
	power  hypervisors.Power
	undo   []func(context.Context) error
	serial int
}

// onStage gives a check a stage and clears it away afterwards, also when ctx has ended.
func onStage(check func(context.Context, *stage) error) func(context.Context, Env) error {
	return func(ctx context.Context, env Env) (err error) {
		s := &stage{Env: env}
		s.source, _ = env.Host.(hypervisors.Source)
		s.target, _ = env.Host.(hypervisors.Target)
		s.power, _ = env.Host.(hypervisors.Power)
		defer func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
			defer cancel()
			for i := len(s.undo) - 1; i >= 0; i-- {
				err = errors.Join(err, s.undo[i](ctx))
			}
		}()
		return check(ctx, s)
	}
}

func (s *stage) later(undo func(context.Context) error) { s.undo = append(s.undo, undo) }

// name makes a name that nothing else has, not even what an aborted run of the suite left.
func (s *stage) name(kind string) string {
	var random [4]byte
	rand.Read(random[:])
	s.serial++
	return fmt.Sprintf("suite-%s%d-%s", kind, s.serial, hex.EncodeToString(random[:]))
}

// connect opens one more connection, closed at the end.
func (s *stage) connect(ctx context.Context, owner string) (hypervisors.Host, error) {
	h, err := s.Connect(ctx, owner)
	if err != nil {
		return nil, fmt.Errorf("one more connection: %w", err)
	}
	s.later(func(context.Context) error { return h.Close() })
	return h, nil
}

// other is an owner that is not Env.Owner.
func (s *stage) other() string {
	if s.Owner == "somebody" {
		return "someelse"
	}
	return "somebody"
}

// freeze takes a checkpoint of one machine; it is closed and forgotten at the end.
func (s *stage) freeze(ctx context.Context, vm string, since hypervisors.ChangeID) (hypervisors.Checkpoint, error) {
	return s.freezeOn(ctx, s.source, hypervisors.CheckpointRequest{
		Name: s.name("c"), VMs: []hypervisors.CheckpointVM{{ID: vm, Since: since}},
	})
}

func (s *stage) freezeOn(ctx context.Context, source hypervisors.Source, req hypervisors.CheckpointRequest) (hypervisors.Checkpoint, error) {
	cp, err := source.Checkpoint(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	ids := cp.ChangeIDs()
	s.later(func(ctx context.Context) error {
		err := ignoreUnreachable(cp.Close(ctx))
		for vm, id := range ids {
			err = errors.Join(err, ignoreUnreachable(source.Forget(ctx, vm, id)))
		}
		return err
	})
	return cp, nil
}

// ignoreUnreachable: a check closed the connection on purpose; what stays is Clean's.
func ignoreUnreachable(err error) error {
	if errors.Is(err, hypervisors.ErrUnreachable) {
		return nil
	}
	return err
}

// frozen is a closed checkpoint: what was on the disks, and the change id.
type frozen struct {
	disks disks
	id    hypervisors.ChangeID
}

// look takes a checkpoint, copies it and closes it.
func (s *stage) look(ctx context.Context, vm string, since hypervisors.ChangeID) (frozen, error) {
	cp, err := s.freeze(ctx, vm, since)
	if err != nil {
		return frozen{}, err
	}
	all, err := readAllocated(ctx, cp.Disks())
	if err != nil {
		return frozen{}, err
	}
	return frozen{disks: all, id: cp.ChangeIDs()[vm]}, cp.Close(ctx)
}

// stock makes hardware for a replica: like VM in all that concerns the hypervisor, with a name, a MAC and two small
// disks of its own. The second disk's last block is short.
func (s *stage) stock(ctx context.Context) (hypervisors.Hardware, error) {
	vm, err := s.Host.VM(ctx, s.VM)
	if err != nil {
		return hypervisors.Hardware{}, err
	}
	hw := s.rename(vm.Hardware)
	hw.Disks = []hypervisors.Disk{
		{ID: "vda", Size: 16 * block, Bus: "virtio", Boot: 1},
		{ID: "vdb", Size: 9*block + 4096, Bus: "virtio"},
	}
	return hw, nil
}

// rename gives a copy of hardware a name and MACs that are free.
func (s *stage) rename(hw hypervisors.Hardware) hypervisors.Hardware {
	hw.Name = s.name("m")
	nics := hw.NICs
	if len(nics) == 0 {
		nics = []hypervisors.NIC{{Model: "virtio"}}
	}
	hw.NICs = nil
	for _, n := range nics {
		var random [3]byte
		rand.Read(random[:])
		n.MAC = fmt.Sprintf("52:54:00:%02x:%02x:%02x", random[0], random[1], random[2])
		n.Network = s.Network
		hw.NICs = append(hw.NICs, n)
	}
	return hw
}

// replica provisions one with stock hardware, deleted at the end.
func (s *stage) replica(ctx context.Context) (hypervisors.Replica, error) {
	hw, err := s.stock(ctx)
	if err != nil {
		return nil, err
	}
	return s.replicaOf(ctx, hw)
}

func (s *stage) replicaOf(ctx context.Context, hw hypervisors.Hardware) (hypervisors.Replica, error) {
	r, err := s.target.CreateReplica(ctx, hypervisors.ReplicaSpec{ID: s.name("r"), Hardware: hw, Storage: s.Storage})
	if err != nil {
		return nil, fmt.Errorf("create replica: %w", err)
	}
	s.later(r.Delete)
	return r, nil
}

// copyOfVM makes a replica of VM with one point, "p1", and tells what is in it.
func (s *stage) copyOfVM(ctx context.Context) (hypervisors.Replica, disks, error) {
	vm, err := s.Host.VM(ctx, s.VM)
	if err != nil {
		return nil, nil, err
	}
	at, err := s.look(ctx, s.VM, "")
	if err != nil {
		return nil, nil, err
	}
	r, err := s.replicaOf(ctx, s.rename(vm.Hardware))
	if err != nil {
		return nil, nil, err
	}
	return r, at.disks, commit(ctx, r, "p1", at.disks)
}

// poll tries again until try succeeds or ctx ends; for things that come with time, as an answer of a guest that boots.
func poll(ctx context.Context, try func() error) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-tick.C:
		}
	}
}
