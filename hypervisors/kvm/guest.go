package kvm

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path"
	"strings"
	"sync"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"understudy/hypervisors"
)

// agentSeconds bounds one answer of a guest agent.
const agentSeconds = 5

// AgentPing asks the guest agent for a sign of life.
func (h *host) AgentPing(ctx context.Context, vm string) error {
	err := h.onDomain(ctx, vm, func(d *libvirt.Domain) error {
		_, err := d.QemuAgentCommand(`{"execute":"guest-ping"}`, agentSeconds, 0)
		return err
	})
	if err == nil {
		return nil
	}
	if code := virtCode(err); code == libvirt.ERR_AGENT_UNRESPONSIVE || code == libvirt.ERR_OPERATION_TIMEOUT {
		err = fmt.Errorf("%w: %w", hypervisors.ErrTimeout, err)
	}
	return &hypervisors.Error{Op: "ask", Subject: "guest agent of machine " + vm, Err: err}
}

// probes let one connection at a time into each isolated network: they all use the same address there.
type probes struct {
	mu    sync.Mutex
	turns map[string]chan struct{}
}

func (p *probes) turn(network string) chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.turns == nil {
		p.turns = map[string]chan struct{}{}
	}
	if p.turns[network] == nil {
		p.turns[network] = make(chan struct{}, 1)
	}
	return p.turns[network]
}

// dialHere is a pipe to a TCP connection. Its first line tells how connecting went, in one word or in bash's.
const dialHere = `exec 4>&1
if ! exec 3<>"/dev/tcp/$1/$2"; then exit 1; fi 2>&1
exec 2>/dev/null
echo connected >&4
cat <&3 4>&- &
reader=$!
exec 1>&- 4>&-
cat >&3
kill "$reader" 2>/dev/null`

// dialInside makes a network namespace that lives as long as this connection, with one end of a virtual cable in it and
// the other on the bridge, and connects from there. Two shells talk through FIFOs: the outer one makes the cable once
// the inner one has told its process id, and tells how that went. Both give up after a while.
const dialInside = `exec 2>&1
fifo=$1 bridge=$2 cable=$3 mac=$4 from=$5; shift 5
mkdir -p -m 0700 "${fifo%/*}" && mkfifo "$fifo" "$fifo.back" || exit
{
	exec 5<>"$fifo" 6<>"$fifo.back"
	if read -t 20 -r pid <&5; then
		if said=$({ ip link add "$cable" type veth peer name guest address "$mac" netns "$pid" &&
			ip link set "$cable" master "$bridge" up; } 2>&1)
		then echo ready >&6; else echo "$said" >&6; fi
	fi
	rm -f "$fifo" "$fifo.back"
} </dev/null >/dev/null 2>&1 &
exec unshare -n bash -c 'fifo=$1 from=$2 script=$3; shift 3
exec 6<"$fifo.back"
echo $$ >"$fifo"
read -t 20 -r said <&6
exec 6<&-
[ "$said" = ready ] || { echo "$said"; exit 1; }
said=$({ ip link set lo up && ip address add "$from" dev guest && ip link set guest up; } 2>&1) || { echo "$said"; exit 1; }
eval "$script"' probe "$fifo" "$from" "$@"`

// Dial reaches a guest from its own network. Into a network that has no address of the host it goes with one for the
// time of the connection; connections into the same such network wait for each other.
func (h *host) Dial(ctx context.Context, network, from, addr string) (net.Conn, error) {
	conn, err := h.dial(ctx, network, from, addr)
	if err != nil {
		return nil, &hypervisors.Error{Op: "connect to", Subject: addr + " in network " + network, Err: err}
	}
	return conn, nil
}

func (h *host) dial(ctx context.Context, network, from, addr string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, fmt.Errorf("%w address: %w", hypervisors.ErrInvalid, err)
	}
	bridge, err := h.isolatedBridge(ctx, network)
	if err != nil {
		return nil, err
	}
	target := []string{to.Addr().String(), fmt.Sprint(to.Port())}
	if bridge == "" {
		return h.dialThrough(ctx, append([]string{"bash", "-c", dialHere, "dial"}, target...), func() {})
	}
	if _, err := netip.ParsePrefix(from); err != nil {
		return nil, fmt.Errorf("%w address to connect from: %w", hypervisors.ErrInvalid, err)
	}
	turn := h.probes.turn(network)
	select {
	case turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	cable := deviceName(ourProbe)
	argv := []string{"bash", "-c", dialInside, "probe", path.Join(exportDir, exportPrefix(h.owner)+cable+".fifo"), bridge, cable,
		probeMAC(network, from), from, dialHere}
	return h.dialThrough(ctx, append(argv, target...), sync.OnceFunc(func() { <-turn }))
}

// probeMAC is the same for every connection from an address, so that guests need not learn it anew.
func probeMAC(network, from string) string {
	sum := sha256.Sum256([]byte(network + " " + from))
	return net.HardwareAddr{0x02, sum[0], sum[1], sum[2], sum[3], sum[4]}.String()
}

// isolatedBridge is the bridge of a network on which the host has no address; empty when it has one, or routes there.
func (h *host) isolatedBridge(ctx context.Context, network string) (string, error) {
	if ok, err := h.isBridge(ctx, network); ok || err != nil {
		return "", err
	}
	bridge := ""
	err := h.withNetwork(ctx, network, func(_ *libvirt.Network, x *libvirtxml.Network) error {
		if x == nil {
			return hypervisors.ErrUnknownNetwork
		}
		if leadsNowhere(x) == nil {
			bridge = x.Bridge.Name
		}
		return nil
	})
	return bridge, err
}

// dialThrough starts one of the scripts and waits for its first line.
func (h *host) dialThrough(ctx context.Context, argv []string, done func()) (net.Conn, error) {
	pipe, err := h.place.Pipe(ctx, argv...)
	if err != nil {
		done()
		return nil, err
	}
	hangUp := sync.OnceFunc(func() {
		_ = pipe.Close() // it ends what is not wanted any more
		done()
	})
	stop := context.AfterFunc(ctx, hangUp)
	line, err := firstLine(pipe)
	if !stop() {
		return nil, fmt.Errorf("%w: %w", hypervisors.ErrTimeout, ctx.Err())
	}
	if err != nil || line != "connected" {
		hangUp()
		if line != "" || err == nil {
			err = fmt.Errorf("the host cannot connect: %q", line)
		}
		return nil, err
	}
	near, far := net.Pipe()
	go func() {
		_, _ = io.Copy(far, pipe)
		_ = far.Close()
	}()
	go func() {
		_, _ = io.Copy(pipe, far)
		_ = far.Close()
		hangUp()
	}()
	return near, nil
}

// firstLine reads no byte further than the line's end.
func firstLine(r io.Reader) (string, error) {
	var line strings.Builder
	b := make([]byte, 1)
	for line.Len() < 1024 {
		n, err := r.Read(b)
		if n == 1 && b[0] == '\n' {
			return line.String(), nil
		}
		line.Write(b[:n])
		if err != nil {
			return line.String(), fmt.Errorf("the program that connects ended: %w", err)
		}
	}
	return line.String(), nil
}
