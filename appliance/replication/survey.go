package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"understudy/api"
	"understudy/appliance/protection"
	"understudy/hypervisors"
	"understudy/provisioning"
)

// survey looks at everything that can be known about a group before it is made. CreateGroup refuses on the first thing
// that is wrong, Preflight tells all of it: one look, so that they cannot disagree.
type survey struct {
	e    *Engine
	spec api.GroupSpec
	// found are all checks, in the order in which they were made; refusal is the error of the first that is one.
	found   []api.PreflightCheck
	refusal error

	home, away *endpoint
	source     ground
	target     ground
	vms        []hypervisors.VM // by machine; one that was not found has no ID
	bytes      int64
}

// ground is what a host has.
type ground struct {
	host     hypervisors.Host
	info     hypervisors.Info
	networks []hypervisors.Network
	storage  []hypervisors.Storage
	vms      []hypervisors.VM
	listed   bool // vms are known
}

// Preflight tells everything that is wrong or doubtful about a group that is to be made, at once.
func (e *Engine) Preflight(ctx context.Context, spec api.GroupSpec) (api.Preflight, error) {
	s := e.survey(ctx, spec)
	if ctx.Err() != nil {
		return api.Preflight{}, ctx.Err()
	}
	return api.Preflight{Checks: append([]api.PreflightCheck{}, s.found...), Ready: s.refusal == nil, Bytes: s.bytes}, nil
}

func (e *Engine) survey(ctx context.Context, spec api.GroupSpec) *survey {
	s := &survey{e: e, spec: spec, vms: make([]hypervisors.VM, len(spec.Machines))}
	for _, err := range spec.Faults() {
		s.refuse("spec", "", "", err)
	}
	if err := e.runnable(spec.Runbook); err != nil {
		s.refuse("runbook", "runbook", "", err)
	}
	s.name()
	s.home = s.endpoint("source-host", "sourceHost", spec.SourceHost)
	s.away = s.endpoint("target-host", "targetHost", spec.TargetHost)
	if s.home != nil && s.away != nil && s.home.Identity == s.away.Identity && spec.SourceHost != spec.TargetHost {
		s.refuse("target-host", "targetHost", "", &api.Error{Code: api.CodeInvalid, Message: "source and target are the same host",
			Hint: "A replica beside its original dies with it: choose another host."})
	}
	if s.home != nil {
		s.lookHome(ctx)
	}
	if s.away != nil {
		s.lookAway(ctx)
	}
	if s.source.host != nil {
		s.machines(ctx)
	}
	if s.target.host != nil {
		s.replicas()
		s.room()
	}
	s.policy()
	return s
}

// note adds a check; machine may be empty.
func (s *survey) note(code, level, field, machine, message, hint string) {
	s.found = append(s.found, api.PreflightCheck{Code: code, Level: level, Message: message, Hint: hint, Field: field, Machine: machine})
}

func (s *survey) ok(code, field, format string, args ...any) {
	s.note(code, api.LevelOK, field, "", fmt.Sprintf(format, args...), "")
}

// doubt is something that works, but perhaps not as it was meant.
func (s *survey) doubt(code, field, machine, message, hint string) {
	s.note(code, api.LevelWarning, field, machine, message, hint)
}

// refuse notes why the group cannot be made. The error's own field goes before field.
func (s *survey) refuse(code, field, machine string, err error) {
	why := *asPublic(err)
	if why.Field == "" {
		why.Field = field
	}
	if s.refusal == nil {
		s.refusal = &why
	}
	s.note(code, api.LevelError, why.Field, machine, why.Message, why.Hint)
}

func (s *survey) name() {
	if err := s.e.freeName(s.spec.Name); err != nil {
		s.refuse("name", "name", "", err)
	}
}

// freeName refuses the name of a group that there is.
func (e *Engine) freeName(name string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.nameTaken(name)
}

// nameTaken is freeName for those who hold the mutex.
func (e *Engine) nameTaken(name string) error {
	for _, other := range e.groups {
		if other.Spec.Name == name {
			return &api.Error{Code: api.CodeConflict, Field: "name", Message: fmt.Sprintf("there is a group %q already", name), Hint: "Choose another name."}
		}
	}
	return nil
}

func (s *survey) endpoint(code, field, ref string) *endpoint {
	if ref == "" {
		return nil // said already
	}
	p, err := s.e.endpoint(ref)
	if err != nil {
		s.refuse(code, field, "", err)
		return nil
	}
	return p
}

func (s *survey) lookHome(ctx context.Context) {
	host, err := s.e.host(ctx, s.home.ID)
	if err == nil {
		_, err = s.e.source(ctx, s.home.ID)
	}
	if err != nil {
		s.refuse("source-host", "sourceHost", "", err)
		return
	}
	s.source.host = host
	s.ok("source-host", "sourceHost", "%s answers and can be read.", s.home.Name)
}

func (s *survey) lookAway(ctx context.Context) {
	host, err := s.e.host(ctx, s.away.ID)
	if err == nil {
		_, err = s.e.target(ctx, s.away.ID)
	}
	t := &s.target
	if err == nil {
		t.info, err = host.Info(ctx)
	}
	if err == nil {
		t.networks, err = host.Networks(ctx)
	}
	if err == nil {
		t.storage, err = host.Storage(ctx)
	}
	if err == nil {
		t.vms, err = host.VMs(ctx)
	}
	if err != nil {
		s.refuse("target-host", "targetHost", "", err)
		return
	}
	t.host = host
	s.ok("target-host", "targetHost", "%s answers and can keep replicas.", s.away.Name)
	if !host.Capabilities().Isolation {
		s.doubt("target-host", "targetHost", "", s.away.Name+" cannot make isolated networks: there will be no test failovers.", "Run the doctor on it: it says what is missing.")
	}
}

// machines finds the machines at the source, and what of them cannot be protected, or not well.
func (s *survey) machines(ctx context.Context) {
	protected := s.e.protected(s.home.ID)
	at := map[string]int{}
	for i, wish := range s.spec.Machines {
		field := fmt.Sprintf("machines[%d].vm", i)
		if strings.TrimSpace(wish.VM) == "" {
			continue // said already
		}
		vm, err := s.find(ctx, wish.VM)
		if err != nil {
			s.refuse("machine", field, wish.VM, err)
			continue
		}
		if first, twice := at[vm.ID]; twice {
			if s.spec.Machines[first].VM != wish.VM { // else said already
				s.refuse("machine", field, vm.Hardware.Name, &api.Error{Code: api.CodeInvalid, Message: fmt.Sprintf("machine %s is named twice", vm.Hardware.Name), Hint: "Name each machine once."})
			}
			continue
		}
		at[vm.ID], s.vms[i] = i, vm
		if owner := protected[vm.ID]; owner != "" {
			s.refuse("protected", field, vm.Hardware.Name, api.Errorf(api.CodeConflict, "Remove it there first.", "machine %s is protected already, by group %s", vm.Hardware.Name, owner))
		}
		s.content(vm, field, i)
	}
}

// find asks for a machine by its id, and only then for all of them, which takes long on a large host.
func (s *survey) find(ctx context.Context, ref string) (hypervisors.VM, error) {
	vm, err := s.source.host.VM(ctx, ref)
	if err == nil {
		return vm, nil
	}
	if !s.source.listed {
		if s.source.vms, err = s.source.host.VMs(ctx); err != nil {
			return vm, err
		}
		s.source.listed = true
	}
	for _, vm := range s.source.vms {
		if vm.ID == ref || vm.Hardware.Name == ref {
			return vm, nil
		}
	}
	return vm, api.Errorf(api.CodeNotFound, "Look at the host's inventory.", "host %s has no machine %q", s.home.Name, ref)
}

// content looks at a machine itself.
func (s *survey) content(vm hypervisors.VM, field string, member int) {
	name, caps := vm.Hardware.Name, s.source.host.Capabilities()
	s.wishesForDisks(vm, member)
	leftOut := s.spec.Machines[member].LeftOut()
	for _, d := range vm.Hardware.Disks {
		switch {
		case slices.Contains(leftOut, d.ID):
			continue // said already
		case d.Excluded != "":
			s.doubt("disk-excluded", field, name, fmt.Sprintf("Disk %s of %s is left out: %s. The replica will not have it.", d.ID, name, d.Excluded), "")
			continue
		case d.Format == "raw" || !caps.ChangeTracking:
			s.doubt("tracking", field, name, fmt.Sprintf("Changes of disk %s of %s cannot be tracked: every cycle reads all of it.", d.ID, name), "Convert it to a format with change tracking, such as qcow2.")
		}
		s.bytes += d.Size
	}
	for _, w := range vm.Warnings {
		if !slices.ContainsFunc(vm.Hardware.Disks, func(d hypervisors.Disk) bool { return strings.HasPrefix(w, "disk "+d.ID+" ") }) {
			s.doubt("machine", field, name, name+": "+w+".", "")
		}
	}
	if vm.State == hypervisors.Off {
		s.doubt("power", field, name, name+" is off. It is protected as it is.", "")
	}
	if s.spec.Policy.Consistency == string(hypervisors.ApplicationConsistent) {
		switch {
		case !caps.Quiesce:
			s.doubt("agent", "policy.consistency", name, fmt.Sprintf("%s cannot quiesce guests: the points of %s will be crash-consistent.", s.home.Name, name), "")
		case !vm.Hardware.GuestAgent:
			s.doubt("agent", "policy.consistency", name, name+" has no guest agent: its points will be crash-consistent.", "Install the guest agent and give the machine its channel.")
		}
	}
}

// replicas looks at the replicas that would be made.
func (s *survey) replicas() {
	mapping, caps := s.networks(), s.target.host.Capabilities()
	names := map[string]string{}
	var memory int64
	for i, vm := range s.vms {
		if vm.ID == "" {
			continue
		}
		field, wish, name := fmt.Sprintf("machines[%d]", i), s.spec.Machines[i], vm.Hardware.Name
		hw, err := provisioning.Replica(vm, wishes(wish), mapping, caps.Devices, s.target.networks)
		if missing := mapping.Missing(vm, s.target.networks); len(missing) > 0 {
			for _, err := range missing {
				s.refuse("networks", "networks", name, err)
			}
		} else if err != nil {
			at := field + ".vm"
			if len(wish.LeftOut()) > 0 {
				at = field + ".disks"
			}
			s.refuse("disks", at, name, err)
		}
		for _, err := range provisioning.Clashes(hw, s.target.vms) {
			code := "replica-name"
			if errors.Is(err, hypervisors.ErrMACTaken) {
				code = "mac"
			}
			s.refuse(code, field+".replicaName", name, err)
		}
		if other, taken := names[hw.Name]; taken {
			s.refuse("replica-name", field+".replicaName", name, &api.Error{Code: api.CodeInvalid,
				Message: fmt.Sprintf("replica name %s is taken by machine %s", hw.Name, other), Hint: "Give each replica a name of its own."})
		}
		names[hw.Name] = name
		memory += hw.Memory
		if wish.Convert {
			s.conversion(vm.Hardware, field+".convert")
		} else {
			s.drivers(vm.Hardware, hw, field)
		}
		s.fits(hw, field, name)
		if connects := func(c api.Check) bool { return c.Address != "" }; caps.Isolation && !caps.Dial && slices.ContainsFunc(wish.Checks, connects) {
			s.doubt("checks", field+".checks", name, fmt.Sprintf("%s lets nobody into an isolated network: checks that connect to %s fail in every test, and work after a failover.", s.away.Name, name),
				"Use a check that asks the guest agent or VMware Tools.")
		}
		for _, nic := range vm.Hardware.NICs {
			if _, mapped := mapping[nic.Network]; !mapped && mapping.Missing(vm, s.target.networks) == nil {
				s.doubt("network-unmapped", "networks", name, fmt.Sprintf("Network %q of %s is not mapped: the replica is connected to the network of that name on %s.", nic.Network, name, s.away.Name), "")
			}
		}
	}
	if t := s.target.info; t.Memory > 0 && memory > t.Memory {
		s.doubt("memory", "machines", "", fmt.Sprintf("All replicas together have %s of memory; %s has %s. They cannot all run there.", giB(memory), s.away.Name, giB(t.Memory)), "")
	}
}

// drivers doubts a guest whose replica has other devices.
func (s *survey) drivers(source, replica hypervisors.Hardware, field string) {
	hint := "Prove it by a test failover. Linux needs the driver in its initial RAM disk, which is looked into after the first copy; Windows needs it among those that start at boot."
	if cannotConvert(s.target.host.Capabilities(), s.away.Name, source) == nil {
		hint += " Or let the guest be converted when it starts: " + s.away.Name + " can do that."
	}
	for _, r := range provisioning.Replacements(source, replica) {
		s.doubt("driver", field, source.Name, fmt.Sprintf("The replica of %s has its %s on %s, not on %s: the guest must have a driver for that when it starts.", source.Name, r.Device, r.Is, r.Was), hint)
	}
}

func wishes(w api.GroupMachine) provisioning.Wishes {
	disks := map[string]provisioning.DiskWish{}
	for _, d := range w.Disks {
		disks[d.ID] = provisioning.DiskWish{LeaveOut: d.LeaveOut, Bus: d.Bus}
	}
	return provisioning.Wishes{Name: w.ReplicaName, CPUs: w.CPUs, Memory: w.Memory, NICModel: w.NICModel, Disks: disks}
}

func (s *survey) networks() provisioning.Networks { return networkMapping(s.spec.Networks) }

func networkMapping(maps []api.NetworkMap) provisioning.Networks {
	mapping := provisioning.Networks{}
	for _, n := range maps {
		mapping[n.From] = n.To
	}
	return mapping
}

func (s *survey) fits(hw hypervisors.Hardware, field, name string) {
	t := s.target.info
	if t.CPUs > 0 && hw.CPUs > t.CPUs {
		s.doubt("cpus", field+".cpus", name, fmt.Sprintf("The replica of %s has %d CPUs; %s has %d.", name, hw.CPUs, s.away.Name, t.CPUs), "Give it fewer.")
	}
	if t.Memory > 0 && hw.Memory > t.Memory {
		s.doubt("memory", field+".memory", name, fmt.Sprintf("The replica of %s has %s of memory; %s has %s.", name, giB(hw.Memory), s.away.Name, giB(t.Memory)), "Give it less.")
	}
}

// room compares what the replicas may need with what their storage has.
func (s *survey) room() {
	at := slices.IndexFunc(s.target.storage, func(st hypervisors.Storage) bool {
		return st.Name == s.spec.Storage || s.spec.Storage == "" && st.Default
	})
	if at < 0 {
		s.refuse("storage", "storage", "", &hypervisors.Error{Op: "use", Subject: fmt.Sprintf("storage %q", s.spec.Storage), Err: hypervisors.ErrUnknownStorage,
			Hint: "Look at the host's inventory: it names what there is."})
		return
	}
	st := s.target.storage[at]
	if s.bytes > st.Free {
		s.doubt("storage-room", "storage", "", fmt.Sprintf("The disks have %s; storage %s has %s free. Only what they hold is copied, and recovery points come on top.", giB(s.bytes), st.Name, giB(st.Free)),
			"Choose another storage, or make room.")
		return
	}
	s.ok("storage-room", "storage", "Storage %s has %s free; the disks have %s, and recovery points come on top.", st.Name, giB(st.Free), giB(s.bytes))
}

// Figures from which on a policy is doubted.
const (
	longFirstCopy = 24 * time.Hour
	fastStorage   = 500e6 // bytes per second that a full read of both sides may take for granted
)

// policy looks whether the policy can be kept.
func (s *survey) policy() {
	p := s.spec.Policy
	rpo := time.Duration(p.RPOSeconds) * time.Second
	if p.Validate() != nil {
		return // said already
	}
	if closed := protection.LongestClosed(p); closed > rpo {
		s.doubt("windows", "policy.windows", "", fmt.Sprintf("The windows are closed for %s at a time; points will then be older than the RPO of %s.", closed, rpo), "")
	}
	if p.VerifyCycles && float64(s.bytes) > fastStorage*rpo.Seconds()/2 {
		s.doubt("rpo", "policy.verifyCycles", "", fmt.Sprintf("Every cycle reads all %s on both sides; within an RPO of %s that will hardly do.", giB(s.bytes), rpo), "Verify by a schedule instead.")
	}
	if took := s.firstCopy(p.BandwidthMbit); took > longFirstCopy {
		s.doubt("bandwidth", "policy.bandwidthMbit", "", fmt.Sprintf("With %d Mbit/s the first copy of %s takes up to %s.", p.BandwidthMbit, giB(s.bytes), took.Round(time.Hour)), "")
	}
	if p.GroupMoment && s.source.host != nil && !s.source.host.Capabilities().GroupMoment {
		s.doubt("group-moment", "policy.groupMoment", "", s.home.Name+" cannot give several machines one moment: each has its own.", "")
	}
	if p.Compression == api.CompressionZstd && s.target.host != nil && !s.target.host.Capabilities().Compression {
		s.doubt("compression", "policy.compression", "", s.away.Name+" cannot store points compressed: they will take as much room as without.", "")
	}
}

func (s *survey) firstCopy(mbit int) time.Duration {
	if mbit <= 0 {
		return 0
	}
	return time.Duration(float64(s.bytes) / float64(bytesPerSecond(mbit)) * float64(time.Second))
}

func giB(bytes int64) string { return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30)) }
