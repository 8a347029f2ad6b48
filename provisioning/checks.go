package provisioning

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"understudy/hypervisors"
)

// CheckKind says what must answer.
type CheckKind string

// The kinds of checks.
const (
	CheckRunning CheckKind = "running" // the hypervisor runs the machine
	CheckAgent   CheckKind = "agent"   // the guest agent answers
	CheckTCP     CheckKind = "tcp"     // a port accepts
	CheckHTTP    CheckKind = "http"    // a GET answers below 400, with a text where one is asked for
)

// Check is one thing that must be true of a started machine before it counts as on stage.
type Check struct {
	Kind CheckKind
	// Address is "ip:port" for tcp, a URL with an IP address for http.
	Address string
	// From is the address with prefix to ask from inside an isolated network; empty: the last but one of Address's /24
	// (/64 for IPv6).
	From     string
	Contains string
	Timeout  time.Duration // 0: 5 minutes
}

// Result is the outcome of a check.
type Result struct {
	Kind    CheckKind
	Passed  bool
	Message string
	Took    time.Duration
}

// Stage is where a machine was started.
type Stage struct {
	Host hypervisors.Host
	VM   string
	// Network to ask from; empty: the guest cannot be asked over the network.
	Network string
	// Isolated asks from an address inside the network instead of from the host.
	Isolated bool
	// Poll is the pause between two tries; 0: half a second.
	Poll time.Duration
}

const checkTimeout = 5 * time.Minute

// Run makes the checks one after the other, each until it passes or its time is over, CheckRunning always first. It
// never fails as a whole: what went wrong is in the results.
func (s Stage) Run(ctx context.Context, checks []Check) []Result {
	results := make([]Result, 0, len(checks)+1)
	for _, c := range append([]Check{{Kind: CheckRunning}}, checks...) {
		results = append(results, s.until(ctx, c))
	}
	return results
}

// Passed says whether all of them did.
func Passed(results []Result) bool {
	for _, r := range results {
		if !r.Passed {
			return false
		}
	}
	return true
}

func (s Stage) until(ctx context.Context, c Check) Result {
	timeout := c.Timeout
	if timeout == 0 {
		timeout = checkTimeout
	}
	poll := s.Poll
	if poll == 0 {
		poll = time.Second / 2
	}
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var last error
	for {
		message, err := s.try(ctx, c)
		if err == nil {
			return Result{Kind: c.Kind, Passed: true, Message: message, Took: time.Since(start)}
		}
		if errors.Is(err, hypervisors.ErrIncapable) { // nor will it be later
			return Result{Kind: c.Kind, Message: err.Error(), Took: time.Since(start)}
		}
		if last == nil || ctx.Err() == nil { // that the time is over says less than what happened before
			last = err
		}
		select {
		case <-ctx.Done():
			took := time.Since(start)
			return Result{Kind: c.Kind, Message: fmt.Sprintf("gave up after %s: %v", took.Round(time.Millisecond), last), Took: took}
		case <-time.After(poll):
		}
	}
}

func (s Stage) try(ctx context.Context, c Check) (string, error) {
	// One try must not eat the whole budget: a SYN into a guest that still boots is answered by nobody.
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	switch c.Kind {
	case CheckRunning:
		return s.running(ctx)
	case CheckAgent:
		guest, err := s.guest()
		if err != nil {
			return "", err
		}
		return "guest agent answered", guest.AgentPing(ctx, s.VM)
	case CheckTCP:
		conn, err := s.dial(ctx, c, c.Address)
		if err != nil {
			return "", err
		}
		return c.Address + " accepts", conn.Close()
	case CheckHTTP:
		return s.get(ctx, c)
	}
	return "", fmt.Errorf("%w: unknown kind of check %q", hypervisors.ErrInvalid, c.Kind)
}

func (s Stage) running(ctx context.Context) (string, error) {
	vm, err := s.Host.VM(ctx, s.VM)
	if err != nil {
		return "", err
	}
	if vm.State != hypervisors.Running {
		return "", fmt.Errorf("machine %s is %s", vm.Hardware.Name, vm.State)
	}
	return "machine runs", nil
}

func (s Stage) guest() (hypervisors.Guest, error) {
	guest, ok := s.Host.(hypervisors.Guest)
	if !ok || !s.Host.Capabilities().Guest {
		return nil, fmt.Errorf("%w: this host cannot ask guests", hypervisors.ErrIncapable)
	}
	return guest, nil
}

func (s Stage) dial(ctx context.Context, c Check, addr string) (net.Conn, error) {
	guest, err := s.guest()
	if err != nil {
		return nil, err
	}
	if s.Network == "" {
		return nil, fmt.Errorf("%w: the machine has no network", hypervisors.ErrUnknownNetwork)
	}
	from := ""
	if s.Isolated {
		if !s.Host.Capabilities().Dial {
			return nil, fmt.Errorf("%w: this host leads nobody into an isolated network", hypervisors.ErrIncapable)
		}
		if from, err = c.from(addr); err != nil {
			return nil, err
		}
	}
	return guest.Dial(ctx, s.Network, from, addr)
}

func (s Stage) get(ctx context.Context, c Check) (string, error) {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return s.dial(ctx, c, addr)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.Address, nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return "", err
	}
	if resp.StatusCode >= 400 {
		return "", errors.New("answered " + resp.Status)
	}
	if !strings.Contains(string(body), c.Contains) {
		return "", fmt.Errorf("answered %s without %q", resp.Status, c.Contains)
	}
	return "answered " + resp.Status, nil
}

// from chooses the address to ask from: one that guests rarely have, in the guest's own network, because an isolated
// network has neither router nor DHCP.
func (c Check) from(addr string) (string, error) {
	if c.From != "" {
		return c.From, nil
	}
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return "", fmt.Errorf("%w: check address %q needs an IP address: %w", hypervisors.ErrInvalid, addr, err)
	}
	ip := ap.Addr().AsSlice()
	prefix := 24
	if ap.Addr().Is6() {
		prefix = 64
	}
	last := byte(253)
	if ip[len(ip)-1] == last {
		last--
	}
	ip[len(ip)-1] = last
	a, _ := netip.AddrFromSlice(ip)
	return netip.PrefixFrom(a, prefix).String(), nil
}
