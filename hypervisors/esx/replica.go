package esx

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"understudy/hypervisors"
)

// More marks of replicas: that the machine was there before us; the draft that is being written; that it is being given back.
const (
	tagAdopted  = "understudy.adopted"
	tagDraft    = "understudy.draft"
	tagSettling = "understudy.settling"
	tagPoint    = "understudy.point" // that a run stands on
	tagTest     = "understudy.test." // on the replica, by run: the folder of the test's machine
)

// Names of snapshots that replicas are made of, as an administrator sees them.
const (
	pointPrefix = "understudy point "
	groundName  = "understudy ground"
	suspectWord = "\nSuspect: "
)

// maxManifest bounds what is read of a point's description, in bytes.
const maxManifest = 16 << 20

// replica is a machine that is off, with a snapshot for each point. The snapshot is the commit: a point is there when it is.
// What its words do not hold is in a file beside the machine's, written before.
type replica struct {
	host *host
	id   string

	mu     sync.Mutex // one piece of work at a time
	vm     string     // the machine's id, when it was found
	draft  *draft     // that is open; nil: none
	points map[types.ManagedObjectReference]*kept
}

// kept is what the file of a point holds.
type kept struct {
	Point  hypervisors.Point `json:"point"`
	Layout layout            `json:"layout"`
}

// state is a replica as it is now.
type state struct {
	*replica
	vm    *object.VirtualMachine
	m     mo.VirtualMachine
	later []string // files of disks to delete when no snapshot needs them any more
}

func (r *replica) ID() string { return r.id }

func (r *replica) subject() string { return "replica " + r.id }

// load finds the machine of a replica.
func (r *replica) load(ctx context.Context) (*state, error) {
	if r.vm != "" {
		vm, m, err := r.host.machine(ctx, r.vm)
		if err == nil && r.is(m.Config) {
			return &state{replica: r, vm: vm, m: m}, nil
		}
		if err != nil && !errors.Is(err, hypervisors.ErrNotFound) {
			return nil, err
		}
		r.vm = ""
	}
	all, err := r.host.machines(ctx)
	if err != nil {
		return nil, err
	}
	for _, m := range all {
		if r.is(m.Config) {
			r.vm = m.Config.InstanceUuid
			return &state{replica: r, vm: object.NewVirtualMachine(r.host.client, m.Self), m: m}, nil
		}
	}
	return nil, &hypervisors.Error{Op: "find", Subject: r.subject(), Err: hypervisors.ErrNotFound}
}

// is says that a machine is the replica, and not a test of it.
func (r *replica) is(c *types.VirtualMachineConfigInfo) bool {
	run := tag(c, tagRun)
	return tag(c, tagReplica) == r.id && tag(c, tagOwner) == r.host.owner && (run == "" || run == hypervisors.LiveRun)
}

// work does something with the replica as it is.
func (r *replica) work(ctx context.Context, op string, do func(*state) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, err := r.load(ctx)
	if err != nil {
		return err
	}
	return tell(op, r.subject(), do(s))
}

func (s *state) reload(ctx context.Context) (err error) {
	s.m, err = s.host.collectMachine(ctx, s.vm.Reference())
	return err
}

func (s *state) tag(name string) string { return tag(s.m.Config, name) }

// tagAll sets marks, name and value in turn; an empty value takes one away.
func (s *state) tagAll(ctx context.Context, words ...string) error {
	return s.host.reconfigure(ctx, s.vm, "mark", "machine "+s.m.Name, types.VirtualMachineConfigSpec{ExtraConfig: tags(words...)})
}

func tags(words ...string) (out []types.BaseOptionValue) {
	for i := 0; i+1 < len(words); i += 2 {
		out = append(out, &types.OptionValue{Key: words[i], Value: words[i+1]})
	}
	return out
}

// chain lists the snapshots of ours, oldest first: the ground, where there is one, and the points.
func (s *state) chain() (out []types.VirtualMachineSnapshotTree) {
	if s.m.Snapshot == nil {
		return nil
	}
	var walk func([]types.VirtualMachineSnapshotTree)
	walk = func(tree []types.VirtualMachineSnapshotTree) {
		for _, t := range tree {
			if t.Name == groundName || strings.HasPrefix(t.Name, pointPrefix) {
				out = append(out, t)
			}
			walk(t.ChildSnapshotList)
		}
	}
	walk(s.m.Snapshot.RootSnapshotList)
	return out
}

// ground is the snapshot of an adopted machine's own disks.
func (s *state) ground() *types.VirtualMachineSnapshotTree {
	for _, t := range s.chain() {
		if t.Name == groundName {
			return &t
		}
	}
	return nil
}

// point finds the snapshot of a point.
func (s *state) point(id string) *types.VirtualMachineSnapshotTree {
	for _, t := range s.chain() {
		if t.Name == pointPrefix+id {
			return &t
		}
	}
	return nil
}

// top is the newest snapshot of ours.
func (s *state) top() *types.VirtualMachineSnapshotTree {
	chain := s.chain()
	if len(chain) == 0 {
		return nil
	}
	return &chain[len(chain)-1]
}

// read what is kept of a point.
func (s *state) read(ctx context.Context, t *types.VirtualMachineSnapshotTree) (*kept, error) {
	k := s.points[t.Snapshot]
	if k == nil {
		k = &kept{}
		id := strings.TrimPrefix(t.Name, pointPrefix)
		dc, err := s.host.datacenter(ctx, s.vm.Reference())
		if err != nil {
			return nil, err
		}
		from, _, err := s.host.open(ctx, dc, s.manifest(id), nil)
		if err != nil {
			return nil, fmt.Errorf("what was kept of point %s: %w", id, err)
		}
		defer from.Close()
		if err := json.NewDecoder(io.LimitReader(from, maxManifest)).Decode(k); err != nil {
			return nil, fmt.Errorf("what was kept of point %s: %w", id, err)
		}
		s.points[t.Snapshot] = k
	}
	out := *k
	_, out.Point.Suspect, _ = strings.Cut(t.Description, suspectWord)
	return &out, nil
}

// manifest is the file of a point.
func (s *state) manifest(id string) string {
	return folderOf(s.m.Config) + "/understudy-" + id + ".json"
}

// write what is to be kept of a point. It is durable when the host has answered.
func (s *state) write(ctx context.Context, k *kept) error {
	b, err := json.Marshal(k)
	if err != nil {
		return err
	}
	dc, err := s.host.datacenter(ctx, s.vm.Reference())
	if err != nil {
		return err
	}
	var path object.DatastorePath
	path.FromString(s.manifest(k.Point.ID))
	if _, err := s.host.who(ctx); err != nil { // brings back a session that is lost
		return err
	}
	u := object.NewDatastoreURL(*s.host.client.URL(), dc.InventoryPath, path.Datastore, path.Path)
	err = s.host.client.Upload(ctx, bytes.NewReader(b), u, &soap.Upload{Method: "PUT", ContentLength: int64(len(b)), Type: "application/json"})
	if err != nil && strings.HasPrefix(err.Error(), "507 ") { // govmomi keeps the number to itself
		return &hypervisors.Error{Op: "write", Subject: s.manifest(k.Point.ID), Err: fmt.Errorf("%w: %w", hypervisors.ErrNoSpace, err), Hint: "Free space on the datastore, keep fewer points, or choose a larger one."}
	}
	return err
}

// erase the files of a point. That none is there is success.
func (s *state) erase(ctx context.Context, id string) error {
	dc, err := s.host.datacenter(ctx, s.vm.Reference())
	if err != nil {
		return err
	}
	if err := s.host.removeFile(ctx, dc, s.manifest(id)); err != nil && !errors.Is(err, hypervisors.ErrNotFound) {
		return err
	}
	return nil
}

// freeze puts a snapshot on what the machine is now.
func (s *state) freeze(ctx context.Context, name, description string) error {
	t, err := s.vm.CreateSnapshot(ctx, name, description, false, false)
	if err == nil {
		_, err = s.host.wait(ctx, "freeze", "machine "+s.m.Name, t)
	}
	if err != nil {
		return limit(err)
	}
	return s.reload(ctx)
}

// revert makes the machine what it was at a snapshot, and throws away what was written since. What that brings back of
// marks is put right; more of them can be given.
func (s *state) revert(ctx context.Context, to *types.VirtualMachineSnapshotTree, words ...string) error {
	res, err := methods.RevertToSnapshot_Task(ctx, s.host.client, &types.RevertToSnapshot_Task{This: to.Snapshot, SuppressPowerOn: types.NewBool(true)})
	if err == nil {
		_, err = s.host.wait(ctx, "revert", "machine "+s.m.Name, object.NewTask(s.host.client, res.Returnval))
	}
	if err != nil {
		return err
	}
	marks := tags(append([]string{tagDraft, "", tagRun, "", tagPoint, ""}, words...)...)
	if to.Name != groundName {
		k, err := s.read(ctx, to)
		if err != nil {
			return err
		}
		marks = append(marks, k.Layout.tag())
	} else {
		marks = append(marks, &types.OptionValue{Key: tagDisks, Value: ""})
	}
	for name, value := range s.tests() { // machines of tests outlive it
		marks = append(marks, &types.OptionValue{Key: tagTest + name, Value: value})
	}
	if err := s.host.reconfigure(ctx, s.vm, "mark", "machine "+s.m.Name, types.VirtualMachineConfigSpec{ExtraConfig: marks}); err != nil {
		return err
	}
	return s.reload(ctx)
}

// tests are the folders of the machines of tests, by run.
func (s *state) tests() map[string]string {
	all := map[string]string{}
	for _, o := range s.m.Config.ExtraConfig {
		v := o.GetOptionValue()
		if run, ok := strings.CutPrefix(v.Key, tagTest); ok {
			if folder, _ := v.Value.(string); folder != "" {
				all[run] = folder
			}
		}
	}
	return all
}

// Status reads it all from the host.
func (r *replica) Status(ctx context.Context) (hypervisors.ReplicaStatus, error) {
	var out hypervisors.ReplicaStatus
	err := r.work(ctx, "look at", func(s *state) (err error) {
		out, err = s.status(ctx)
		return err
	})
	return out, err
}

func (s *state) status(ctx context.Context) (hypervisors.ReplicaStatus, error) {
	out := hypervisors.ReplicaStatus{VM: s.m.Config.InstanceUuid, Adopted: s.tag(tagAdopted) != "", Points: []hypervisors.Point{}}
	for _, t := range s.chain() {
		if t.Name == groundName {
			continue
		}
		k, err := s.read(ctx, &t)
		if err != nil {
			return out, err
		}
		out.Points = append(out.Points, k.Point)
	}
	var err error
	if out.Runs, err = s.runs(ctx); err != nil {
		return out, err
	}
	out.Stray = s.m.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOff && s.tag(tagRun) == ""
	return out, nil
}

// describe a point for whoever looks at the snapshots of the machine.
func describePoint(p hypervisors.Point, suspect string) string {
	text := fmt.Sprintf("Recovery point of %s, %s consistent.", p.Taken.UTC().Format(time.DateTime), p.Consistency)
	if suspect != "" {
		text += suspectWord + suspect
	}
	return text
}

// pointName takes the id of a point from the name of its snapshot.
func pointName(snapshot string) (string, bool) { return strings.CutPrefix(snapshot, pointPrefix) }
