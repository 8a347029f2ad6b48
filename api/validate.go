package api

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Limits of a policy, beside those in the schema.
const (
	minRPOSeconds = 5
	maxRPOSeconds = 7 * 24 * 3600
	maxTiers      = 16

	maxDiskID = 64

	minVerifySeconds = 60
	maxVerifySeconds = 365 * 24 * 3600
)

// Validate checks what the schema cannot say, and the limits that matter most once more, for callers that do not come
// over HTTP. The error is an *Error of CodeInvalid with Field and Hint.
func (s GroupSpec) Validate() error {
	if faults := s.Faults(); len(faults) > 0 {
		return faults[0]
	}
	return nil
}

// Faults are all that Validate could say: one at least for each part of the specification that is wrong.
func (s GroupSpec) Faults() (faults []error) {
	fault := func(err error) {
		if err != nil {
			faults = append(faults, err)
		}
	}
	if s.SourceHost == "" {
		fault(invalid("sourceHost", "Name the host that the machines run on.", "there is no source host"))
	}
	if s.TargetHost == "" {
		fault(invalid("targetHost", "Name the host that keeps the replicas.", "there is no target host"))
	}
	if s.SourceHost == s.TargetHost && s.SourceHost != "" {
		fault(sameHost(s.SourceHost, s.TargetHost))
	}
	if len(s.Machines) == 0 {
		fault(invalid("machines", "Name at least one machine.", "the group has no machines"))
	}
	vms, names := map[string]int{}, map[string]int{}
	for i, m := range s.Machines {
		field := fmt.Sprintf("machines[%d]", i)
		fault(m.validate(field))
		if first, twice := vms[m.VM]; twice {
			fault(invalid(field+".vm", "Name each machine once.", "machine %s is number %d already", m.VM, first+1))
			continue
		}
		vms[m.VM] = i
		name := cmp.Or(m.ReplicaName, m.VM)
		if first, twice := names[name]; twice {
			fault(invalid(field+".replicaName", "Give each replica a name of its own.",
				"replica name %s is taken by machine %s", name, s.Machines[first].VM))
		}
		names[name] = i
	}
	fault(validateNetworks(s.Networks))
	fault(s.Runbook.Validate())
	fault(s.Policy.Validate())
	return faults
}

// ValidateHosts refuses one host under two names or two addresses.
func ValidateHosts(source, target Host) error {
	if source.ID == target.ID || source.Identity != "" && source.Identity == target.Identity {
		return sameHost(source.Name, target.Name)
	}
	return nil
}

func sameHost(source, target string) error {
	return invalid("targetHost", "Choose another host: a replica beside its source is lost with it.",
		"source %s and target %s are the same host", source, target)
}

func validateNetworks(maps []NetworkMap) error {
	seen := map[string]bool{}
	for i, m := range maps {
		field := fmt.Sprintf("networks[%d]", i)
		switch {
		case m.From == "":
			return invalid(field+".from", "Name the source network.", "the network to map has no name")
		case m.To == "":
			return invalid(field+".to", "Name the target network.", "network %s is mapped to nothing", m.From)
		case seen[m.From]:
			return invalid(field+".from", "Map each source network once.", "network %s is mapped twice", m.From)
		}
		seen[m.From] = true
	}
	return nil
}

func (m GroupMachine) validate(field string) error {
	switch {
	case strings.TrimSpace(m.VM) == "":
		return invalid(field+".vm", "Give the machine's id or name at the source.", "the machine has no name")
	case m.Stage < 0 || m.Stage > maxStage:
		return invalid(field+".stage", "Use 1 to 20.", "there is no stage %d", m.Stage)
	case m.CPUs < 0:
		return invalid(field+".cpus", "Use 0 for as many as the source has.", "%d CPUs are too few", m.CPUs)
	case m.Memory < 0, m.Memory > 0 && m.Memory < 1<<20:
		return invalid(field+".memory", "Memory is in bytes; use 0 for as much as the source has.",
			"%d bytes of memory are too few", m.Memory)
	case strings.ContainsAny(m.ReplicaName, "/\\\x00\n\r\t") || strings.TrimSpace(m.ReplicaName) != m.ReplicaName:
		return invalid(field+".replicaName", "Leave out slashes, line breaks and spaces at the ends.",
			"%q is no name for a replica", m.ReplicaName)
	}
	var disks []string
	for i, d := range m.Disks {
		if err := d.validate(fmt.Sprintf("%s.disks[%d]", field, i), disks); err != nil {
			return err
		}
		disks = append(disks, d.ID)
	}
	for i, c := range m.Checks {
		if err := c.validate(fmt.Sprintf("%s.checks[%d]", field, i)); err != nil {
			return err
		}
	}
	return nil
}

// Buses that a replica's disk can be attached to by wish.
var Buses = []string{"virtio", "scsi", "sata"}

func (d GroupDisk) validate(field string, before []string) error {
	if d.Bus != "" && !slices.Contains(Buses, d.Bus) {
		return invalid(field+".bus", "Use "+strings.Join(Buses, ", ")+", or leave it out.", "a disk cannot be attached to %q", d.Bus)
	}
	return namedOnce(field+".id", d.ID, before)
}

// namedOnce refuses a disk without a name, or one that was named before.
func namedOnce(field, id string, before []string) error {
	switch {
	case strings.TrimSpace(id) == "":
		return invalid(field, "Give the disk's id as the source host names it, such as vdb.", "the disk has no name")
	case len(id) > maxDiskID:
		return invalid(field, "Use the disk's id as the source host names it, such as vdb.", "a disk's name has at most %d bytes", maxDiskID)
	case slices.Contains(before, id):
		return invalid(field, "Name each disk once.", "disk %s is named twice", id)
	}
	return nil
}

func (c Check) validate(field string) error {
	if c.TimeoutSeconds < 0 || c.TimeoutSeconds > 3600 {
		return invalid(field+".timeoutSeconds", "Use 1 to 3600, or 0 for 300.", "a timeout of %d s is not possible",
			c.TimeoutSeconds)
	}
	if c.Contains != "" && c.Kind != "http" {
		return invalid(field+".contains", "Use it with http, or leave it out.", "a %s check has no text to look at", c.Kind)
	}
	switch c.Kind {
	case "agent":
		if c.Address != "" || c.From != "" {
			return invalid(field+".address", "Leave out address and from.", "an agent check has no address")
		}
		return nil
	case "tcp":
		return c.validateTCP(field)
	case "http":
		return c.validateHTTP(field)
	default:
		return invalid(field+".kind", "Use agent, tcp or http.", "there is no check %q", c.Kind)
	}
}

func (c Check) validateTCP(field string) error {
	host, port, err := net.SplitHostPort(c.Address)
	if err != nil || !usable(host) || !isPort(port) {
		return invalid(field+".address", "Write it as 192.0.2.10:22; names are not resolved in an isolated network.",
			"%q is no IP address with port", c.Address)
	}
	return c.validateFrom(field, host)
}

func (c Check) validateHTTP(field string) error {
	const hint = "Write it as http://192.0.2.10:80/health; names are not resolved in an isolated network."
	u, err := url.Parse(c.Address)
	switch {
	case err != nil:
		return invalid(field+".address", hint, "%q is no URL", c.Address)
	case u.Scheme != "http" && u.Scheme != "https":
		return invalid(field+".address", hint, "%q is neither http nor https", c.Address)
	case !usable(u.Hostname()), u.Port() != "" && !isPort(u.Port()):
		return invalid(field+".address", hint, "%q has no IP address to ask", c.Address)
	case u.User != nil:
		// The specification is shown to everybody who may look.
		return invalid(field+".address", "Check a page that needs no sign-in.", "the URL of a check must not hold a secret")
	}
	return c.validateFrom(field, u.Hostname())
}

// validateFrom: an isolated network has no router, so both addresses must lie in one subnet.
func (c Check) validateFrom(field, host string) error {
	if c.From == "" {
		return nil
	}
	from, err := netip.ParsePrefix(c.From)
	if err != nil {
		return invalid(field+".from", "Write it as 192.0.2.253/24.", "%q is no address with prefix", c.From)
	}
	if to := netip.MustParseAddr(host); from.Addr() == to || !from.Masked().Contains(to) {
		return invalid(field+".from", "Use a free address of the guest's own subnet.", "%s cannot ask %s", c.From, host)
	}
	return nil
}

// usable is an address that a guest can have.
func usable(host string) bool {
	a, err := netip.ParseAddr(host)
	return err == nil && a.Zone() == "" && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast()
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

// Validate checks a policy; see GroupSpec.Validate.
func (p Policy) Validate() error {
	if p.RPOSeconds < minRPOSeconds || p.RPOSeconds > maxRPOSeconds {
		return invalid("policy.rpoSeconds", "Use 5 seconds to 7 days (604800).",
			"an RPO of %d s is not possible", p.RPOSeconds)
	}
	if !slices.Contains([]string{"", "crash", "application"}, p.Consistency) {
		return invalid("policy.consistency", "Use crash or application.", "there is no consistency %q", p.Consistency)
	}
	if !slices.Contains([]string{"", CompressionNone, CompressionZstd}, p.Compression) {
		return invalid("policy.compression", "Use none or zstd.", "there is no compression %q", p.Compression)
	}
	if p.BandwidthMbit < 0 {
		return invalid("policy.bandwidthMbit", "Use 0 for no bound.", "a bandwidth of %d Mbit/s is not possible",
			p.BandwidthMbit)
	}
	if p.VerifyEverySeconds != 0 && (p.VerifyEverySeconds < minVerifySeconds || p.VerifyEverySeconds > maxVerifySeconds) {
		return invalid("policy.verifyEverySeconds", "Use 1 minute (60) to 1 year (31536000), or 0 for only when it is ordered.",
			"a verification every %d s is not possible", p.VerifyEverySeconds)
	}
	if err := p.validateWindows(); err != nil {
		return err
	}
	if len(p.Retention) > maxTiers {
		return invalid("policy.retention", "Use fewer tiers.", "%d tiers are more than %d", len(p.Retention), maxTiers)
	}
	for i, t := range p.Retention {
		if err := t.validate(fmt.Sprintf("policy.retention[%d]", i)); err != nil {
			return err
		}
	}
	return validateTiers(p.Retention)
}

func (t RetentionTier) validate(field string) error {
	switch {
	case t.EverySeconds < 0:
		return invalid(field+".everySeconds", "Use 0 to keep every point.", "an interval of %d s is not possible",
			t.EverySeconds)
	case t.ForSeconds < 0:
		return invalid(field+".forSeconds", "Use 0 to bound by count only.", "a time of %d s is not possible", t.ForSeconds)
	case t.Count < 0:
		return invalid(field+".count", "Use 0 to bound by time only.", "a count of %d is not possible", t.Count)
	case t.ForSeconds == 0 && t.Count == 0:
		return invalid(field, "Give forSeconds, count or both.", "the tier has no end: it would fill the storage")
	case t.ForSeconds > 0 && t.ForSeconds < t.EverySeconds:
		return invalid(field+".forSeconds", "Make forSeconds at least as long as everySeconds.",
			"the tier keeps nothing: one point each %d s, but only for %d s", t.EverySeconds, t.ForSeconds)
	}
	return nil
}

// validateTiers finds tiers that add nothing: the same interval twice, or a wider one that ends before a closer one.
func validateTiers(tiers []RetentionTier) error {
	for i, t := range tiers {
		for j, other := range tiers[:i] {
			field := fmt.Sprintf("policy.retention[%d]", i)
			if t.EverySeconds == other.EverySeconds {
				return invalid(field+".everySeconds", "Merge the two tiers.",
					"tiers %d and %d have the same interval of %d s", j+1, i+1, t.EverySeconds)
			}
			near, far := other, t
			if t.EverySeconds < other.EverySeconds {
				near, far = t, other
			}
			if near.Count == 0 && far.ForSeconds > 0 && far.ForSeconds <= near.ForSeconds {
				return invalid(field+".forSeconds", "Let the wider interval reach further back, or leave it out.",
					"one point each %d s for %d s adds nothing to one each %d s for %d s",
					far.EverySeconds, far.ForSeconds, near.EverySeconds, near.ForSeconds)
			}
		}
	}
	return nil
}

func invalid(field, hint, format string, args ...any) error {
	e := Errorf(CodeInvalid, hint, format, args...)
	e.Field = field
	return e
}
