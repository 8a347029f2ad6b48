package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"understudy/api"
)

// policyFlags are the flags that make or change a policy.
type policyFlags struct {
	rpo, verifyEvery    duration
	retention           string
	consistency         string
	compression         string
	groupMoment, verify bool
	bandwidth           int
	windows             []string
	zone                string
	flags               *pflag.FlagSet
}

func (p *policyFlags) add(flags *pflag.FlagSet) {
	p.flags = flags
	flags.Var(&p.rpo, "rpo", "how old the newest point may become, such as 10s or 1h")
	flags.StringVar(&p.retention, "retention", "", "points to keep, as EVERY:FOR[:COUNT],..., such as 5m:2h,1h:1d")
	flags.StringVar(&p.consistency, "consistency", "", "crash, or application to ask the guests to quiesce")
	flags.BoolVar(&p.groupMoment, "group-moment", false, "one moment over all machines, which hold still for an instant")
	flags.BoolVar(&p.verify, "verify", false, "read both sides in full in every cycle and compare")
	flags.Var(&p.verifyEvery, "verify-every", "how often a verification compares the whole replicas with their sources, beside the cycles; 0 means only when ordered (default for a new group: 7d)")
	flags.StringArrayVar(&p.windows, "window", nil, "when the schedule may start cycles, as [DAYS@]FROM-TO, such as mon-fri@18:00-08:00; repeat it; \"always\" drops them")
	flags.StringVar(&p.zone, "time-zone", "", "of the windows, such as Europe/Berlin; empty means UTC")
	flags.StringVar(&p.compression, "compression", "", "how points are stored at the target, from the next one on: none or zstd")
	flags.IntVar(&p.bandwidth, "bandwidth", 0, "bound for the copies of this group in Mbit/s")
}

// apply changes what was given on the command line, and says whether that was anything.
func (p *policyFlags) apply(policy *api.Policy) (changed bool, err error) {
	for name, set := range map[string]func(){
		"rpo":          func() { policy.RPOSeconds = p.rpo.seconds },
		"retention":    func() { policy.Retention, err = parseRetention(p.retention) },
		"consistency":  func() { policy.Consistency = p.consistency },
		"compression":  func() { policy.Compression = p.compression },
		"group-moment": func() { policy.GroupMoment = p.groupMoment },
		"verify":       func() { policy.VerifyCycles = p.verify },
		"verify-every": func() { policy.VerifyEverySeconds = p.verifyEvery.seconds },
		"bandwidth":    func() { policy.BandwidthMbit = p.bandwidth },
		"time-zone":    func() { policy.TimeZone = p.zone },
	} {
		if p.flags.Changed(name) {
			set()
			changed = true
		}
	}
	if err != nil {
		return false, wrong(err.Error())
	}
	if p.flags.Changed("window") {
		policy.Windows, changed = nil, true
		for _, text := range p.windows {
			if text == "always" {
				continue
			}
			w, err := parseWindow("--window", text)
			if err != nil {
				return false, err
			}
			policy.Windows = append(policy.Windows, w)
		}
	}
	return changed, nil
}

// specFlags are the flags that make a group.
type specFlags struct {
	file, source, target, storage string
	machines, networks, checks    []string
	stages, leaveOut, buses       []string
	convert                       []string
	policy                        policyFlags
}

func (s *specFlags) add(flags *pflag.FlagSet) {
	flags.StringVarP(&s.file, "file", "f", "", "group in JSON, as the API takes it; - reads standard input; other flags come on top")
	flags.StringVar(&s.source, "source", "", "host that runs the machines")
	flags.StringVar(&s.target, "target", "", "host that keeps the replicas")
	flags.StringVar(&s.storage, "storage", "", "storage of the target for the replicas (default: the target's own)")
	flags.StringArrayVar(&s.machines, "machine", nil, "machine to protect, as NAME or NAME=REPLICA; repeat it in the order of starting")
	flags.StringArrayVar(&s.stages, "stage", nil,
		"start group of a machine, as MACHINE=NUMBER; the others start in 1. Delays, checks to wait for, scripts and manual steps: runbook in --file; repeat it")
	flags.StringArrayVar(&s.leaveOut, "leave-out", nil, "disk that is not protected, such as swap or scratch, as MACHINE=DISK; repeat it")
	flags.StringArrayVar(&s.buses, "disk-bus", nil, "what a disk of the replica is attached to, as MACHINE=DISK=BUS with virtio, scsi or sata (default: as at the source); repeat it")
	flags.StringArrayVar(&s.convert, "convert", nil, "machine whose guest is made to start on the target's own devices when its replica is started; repeat it")
	flags.StringArrayVar(&s.networks, "network", nil, "network to map, as SOURCE=TARGET; repeat it")
	flags.StringArrayVar(&s.checks, "check", nil,
		"what must answer after a start: agent, tcp://IP:PORT or http://IP[:PORT]/PATH; MACHINE=CHECK when there are several; repeat it")
	s.policy.add(flags)
}

// The RPO and the verification of groups whose maker does not say: a minute, and each week. Silent damage is found while
// there are points from before it, at the price of one full read.
const (
	defaultRPO         = 60
	defaultVerifyEvery = 7 * 24 * 3600
)

// spec is the group of the given name.
func (s *specFlags) spec(name string, in io.Reader) (api.GroupSpec, error) {
	spec := api.GroupSpec{Policy: api.Policy{RPOSeconds: defaultRPO, VerifyEverySeconds: defaultVerifyEvery}}
	if s.file != "" {
		if err := readSpec(s.file, in, &spec); err != nil {
			return spec, err
		}
	}
	spec.Name = name
	for flag, field := range map[*string]*string{&s.source: &spec.SourceHost, &s.target: &spec.TargetHost, &s.storage: &spec.Storage} {
		if *flag != "" {
			*field = *flag
		}
	}
	if len(s.machines) > 0 {
		spec.Machines = nil
		for _, m := range s.machines {
			vm, replica, _ := strings.Cut(m, "=")
			spec.Machines = append(spec.Machines, api.GroupMachine{VM: vm, ReplicaName: replica})
		}
	}
	for _, n := range s.networks {
		from, to, ok := strings.Cut(n, "=")
		if !ok {
			return spec, wrong(fmt.Sprintf("--network %q is not SOURCE=TARGET", n))
		}
		spec.Networks = append(spec.Networks, api.NetworkMap{From: from, To: to})
	}
	for _, st := range s.stages {
		if err := setStage(spec.Machines, st); err != nil {
			return spec, err
		}
	}
	if err := leaveOut(spec.Machines, s.leaveOut, s.buses); err != nil {
		return spec, err
	}
	for _, name := range s.convert {
		m, err := machineNamed(spec.Machines, name, "--convert "+name)
		if err != nil {
			return spec, err
		}
		m.Convert = true
	}
	for _, c := range s.checks {
		if err := addCheck(spec.Machines, c); err != nil {
			return spec, err
		}
	}
	if spec.SourceHost == "" || spec.TargetHost == "" || len(spec.Machines) == 0 {
		return spec, wrong("--source, --target and --machine are needed, or --file with all of it")
	}
	_, err := s.policy.apply(&spec.Policy)
	return spec, err
}

// setStage puts a machine into a start group.
func setStage(machines []api.GroupMachine, s string) error {
	name, stage, err := parseStage(s)
	if err != nil {
		return err
	}
	m, err := machineNamed(machines, name, "--stage "+s)
	if err != nil {
		return err
	}
	m.Stage = stage
	return nil
}

// machineNamed finds the machine that a flag speaks of.
func machineNamed(machines []api.GroupMachine, name, flag string) (*api.GroupMachine, error) {
	i := slices.IndexFunc(machines, func(m api.GroupMachine) bool { return m.VM == name })
	if i < 0 {
		return nil, wrong(flag + ": no --machine has that name")
	}
	return &machines[i], nil
}

func parseStage(s string) (machine string, stage int, err error) {
	machine, text, _ := strings.Cut(s, "=")
	if stage, err = strconv.Atoi(text); err != nil {
		return "", 0, wrong(fmt.Sprintf("--stage %q is not MACHINE=NUMBER", s))
	}
	return machine, stage, nil
}

func readSpec(file string, in io.Reader, spec *api.GroupSpec) error {
	return readFile("group", file, in, spec)
}

// readFile reads what people write as the API takes it.
func readFile(what, file string, in io.Reader, v any) error {
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return wrong(fmt.Sprintf("read %s: %v", what, err))
		}
		defer f.Close()
		in = f
	}
	decoder := json.NewDecoder(in)
	decoder.DisallowUnknownFields() // a misspelled word would silently do nothing
	if err := decoder.Decode(v); err != nil {
		return wrong(fmt.Sprintf("read %s from %s: %v", what, file, err))
	}
	return nil
}

// addCheck gives the check to the machine that it names, to the only one, or an agent check to all.
func addCheck(machines []api.GroupMachine, s string) error {
	name, text := "", s
	if before, after, ok := strings.Cut(s, "="); ok && !strings.ContainsAny(before, ":/") {
		name, text = before, after
	}
	check, err := parseCheck(text)
	if err != nil {
		return err
	}
	if name == "" && len(machines) > 1 && check.Kind != "agent" {
		return wrong(fmt.Sprintf("--check %s: say of which machine, as MACHINE=CHECK", s))
	}
	found := false
	for i := range machines {
		if name == "" || machines[i].VM == name {
			machines[i].Checks = append(machines[i].Checks, check)
			found = true
		}
	}
	if !found {
		return wrong(fmt.Sprintf("--check %s: no --machine has that name", s))
	}
	return nil
}

func parseCheck(s string) (api.Check, error) {
	switch scheme, rest, _ := strings.Cut(s, "://"); {
	case s == "agent":
		return api.Check{Kind: "agent"}, nil
	case scheme == "tcp" && rest != "":
		return api.Check{Kind: "tcp", Address: rest}, nil
	case (scheme == "http" || scheme == "https") && rest != "":
		return api.Check{Kind: "http", Address: s}, nil
	}
	return api.Check{}, wrong(fmt.Sprintf("--check %q is none of agent, tcp://IP:PORT and http://IP[:PORT]/PATH", s))
}
