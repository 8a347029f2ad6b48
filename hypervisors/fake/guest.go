package fake

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"understudy/hypervisors"
)

// Guest is what runs inside a machine, as somebody logged in there sees it.
type Guest struct {
	hv *Hypervisor
	vm string
}

// Guest finds the guest of a machine; on a machine that does not exist every method fails with ErrNotFound.
func (hv *Hypervisor) Guest(vm string) *Guest { return &Guest{hv: hv, vm: vm} }

func (g *Guest) do(f func(*machine) error) error {
	g.hv.mu.Lock()
	defer g.hv.mu.Unlock()
	m := g.hv.machines[g.vm]
	if m == nil {
		return fmt.Errorf("machine %s: %w", g.vm, hypervisors.ErrNotFound)
	}
	return f(m)
}

// Install puts an operating system onto the machine's disks: what it answers and how it writes records. It travels
// with the disks, so a replica answers and writes like its source, provided that its disks are whole. A machine that
// runs reboots into it.
func (g *Guest) Install(c GuestConfig) error {
	return g.do(func(m *machine) error {
		sizes := map[string]int64{}
		var ids []string
		for _, d := range m.disks {
			ids, sizes[d.id] = append(ids, d.id), d.image.size
		}
		b, err := newBoot(c, ids, sizes)
		if err != nil {
			return fmt.Errorf("machine %s: %w", m.hw.Name, err)
		}
		if err := m.write(m.disks[0], b.encode(), 0); err != nil {
			return err
		}
		if m.state == hypervisors.Running {
			m.started()
		}
		return nil
	})
}

// Conversions says how often the guest was converted, as its disk has it.
func (g *Guest) Conversions() (n int, err error) {
	err = g.do(func(m *machine) error {
		if len(m.disks) > 0 {
			if b := readBoot(m.disks[0].image); b != nil {
				n = b.Converted
			}
		}
		return nil
	})
	return n, err
}

// Write writes as the guest does, durably. When the storage is full because of a checkpoint, the checkpoint gives way;
// when it is full all the same, the machine pauses and the error is ErrNoSpace.
func (g *Guest) Write(disk string, off int64, p []byte) error {
	return g.do(func(m *machine) error { return m.guestWrite(disk, off, p) })
}

func (m *machine) guestWrite(id string, off int64, p []byte) error {
	if m.state != hypervisors.Running {
		return fmt.Errorf("machine %s is %s: %w", m.hw.Name, m.state, hypervisors.ErrInvalid)
	}
	d, err := m.disk(id)
	if err != nil {
		return err
	}
	err = m.write(d, p, off)
	if errors.Is(err, hypervisors.ErrNoSpace) && m.open != nil {
		m.open.giveWay()
		err = m.write(d, p, off)
	}
	if errors.Is(err, hypervisors.ErrNoSpace) {
		m.state = hypervisors.Paused
	}
	return err
}

// Step writes n more numbered records, each durable before the next, alternating over the disks, and returns the
// number of the last one. The machine must run an installed guest.
func (g *Guest) Step(n int) (last uint64, err error) {
	for range n { // a checkpoint may fall between any two records
		err = g.do(func(m *machine) error {
			if m.boot == nil {
				return fmt.Errorf("machine %s runs no guest: %w", m.hw.Name, hypervisors.ErrInvalid)
			}
			if m.written == 0 {
				m.written = m.boot.newest(m.readers())
			}
			next := m.written + 1
			disk, off := m.boot.place(next)
			if err := m.guestWrite(m.boot.Disks[disk], off, m.boot.record(next, m.id)); err != nil {
				return err // tried again by the next Step
			}
			m.written, last = next, next
			return nil
		})
		if err != nil {
			return last, err
		}
	}
	return last, nil
}

// RefuseQuiesce makes the guest agent unable to freeze file systems.
func (g *Guest) RefuseQuiesce(refuse bool) error {
	return g.do(func(m *machine) error { m.refusesQuiesce = refuse; return nil })
}

// Mute makes the guest agent silent.
func (g *Guest) Mute(mute bool) error {
	return g.do(func(m *machine) error { m.mute = mute; return nil })
}

// OnShutdown replaces what the guest does when it is asked to shut down; nil: it does so at once. It is called without
// any lock, may write, and returns nil when the guest is down. One that never goes down waits for ctx.
func (g *Guest) OnShutdown(f func(context.Context) error) error {
	return g.do(func(m *machine) error { m.onShutdown = f; return nil })
}

func (m *machine) agentAnswers() bool {
	return m.state == hypervisors.Running && m.boot != nil && m.hw.GuestAgent && !m.mute
}

func (c *conn) AgentPing(ctx context.Context, vm string) error {
	if err := c.lock(ctx, "ask guest agent of", "machine "+vm); err != nil {
		return err
	}
	defer c.hv.mu.Unlock()
	err := c.capable(c.hv.caps.Guest, "asking guests")
	if err == nil {
		var m *machine
		if m, err = c.machine(vm); err == nil && !m.agentAnswers() {
			err = fmt.Errorf("agent does not answer: %w", hypervisors.ErrTimeout)
		}
	}
	if err != nil {
		return fail("ask guest agent of", "machine "+vm, err, "see that the agent is installed and the machine is up")
	}
	return nil
}

func (c *conn) Dial(ctx context.Context, network, from, addr string) (net.Conn, error) {
	if err := c.lock(ctx, "connect to", addr+" in network "+network); err != nil {
		return nil, err
	}
	defer c.hv.mu.Unlock()
	text, err := c.answer(network, from, addr)
	if err != nil {
		return nil, fail("connect to", addr+" in network "+network, err, "")
	}
	near, far := net.Pipe()
	go serve(far, text)
	return near, nil
}

func (c *conn) answer(network, from, addr string) (string, error) {
	if err := c.capable(c.hv.caps.Guest, "asking guests"); err != nil {
		return "", err
	}
	if c.hv.network(network) == nil {
		return "", fmt.Errorf("%q: %w", network, hypervisors.ErrUnknownNetwork)
	}
	if _, err := netip.ParsePrefix(from); from != "" && err != nil {
		return "", fmt.Errorf("%w: %w", hypervisors.ErrInvalid, err)
	}
	if _, err := netip.ParseAddrPort(addr); err != nil {
		return "", fmt.Errorf("%w: %w", hypervisors.ErrInvalid, err)
	}
	for _, m := range c.hv.connected(network) {
		if m.state == hypervisors.Running && m.boot != nil {
			if text, ok := m.boot.Serves[addr]; ok {
				return text, nil
			}
		}
	}
	return "", fmt.Errorf("nobody answers: %w", hypervisors.ErrTimeout)
}

// serve answers HTTP requests until the connection is closed.
func serve(conn net.Conn, text string) {
	defer conn.Close()
	for in := bufio.NewReader(conn); ; {
		req, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		res := http.Response{
			StatusCode: http.StatusOK, ProtoMajor: 1, ProtoMinor: 1, Request: req,
			ContentLength: int64(len(text)), Body: io.NopCloser(strings.NewReader(text)),
		}
		if res.Write(conn) != nil {
			return
		}
	}
}
