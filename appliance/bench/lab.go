package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"

	"understudy/hypervisors"
	"understudy/hypervisors/kvm"
	"understudy/hypervisors/kvm/lab"
)

const owner = "bench000"

// stage is two real libvirt hosts, connected as the appliance connects them.
type stage struct {
	*lab.Lab
	source, target endpoint
}

// endpoint is a connected host with all that the rows need of it.
type endpoint interface {
	hypervisors.Host
	hypervisors.Source
	hypervisors.Target
}

// onStage runs a row's work on a fresh lab below dir.
func onStage(ctx context.Context, dir string, work func(s *stage) ([]Figure, error)) (figures []Figure, err error) {
	s := &stage{}
	if s.Lab, err = lab.Start(ctx, lab.Options{Dir: dir}); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close(ctx)) }()
	for _, at := range []struct {
		host *lab.Host
		into *endpoint
	}{{s.Source, &s.source}, {s.Target, &s.target}} {
		h, err := kvm.Connect(ctx, at.host.URI, kvm.Options{Owner: owner})
		if err != nil {
			return nil, err
		}
		defer h.Close()
		*at.into = h.(endpoint)
	}
	return work(s)
}

// machine is a guest without a guest: QEMU runs it, paused, so that its disk changes only when a row says so.
type machine struct {
	host *lab.Host
	name string
	id   string
	disk string // its only image, as the host sees it
}

const domain = `<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>%s</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none' discard='unmap'/><source file='%s'/><target dev='vda' bus='virtio'/></disk>
    <memballoon model='none'/>
  </devices>
  <qemu:commandline><qemu:arg value='-qmp'/><qemu:arg value='unix:%s,server=on,wait=off'/></qemu:commandline>
</domain>`

// machine puts a qcow2 image on the source host and starts a machine with it.
func (s *stage) machine(ctx context.Context, name, image string) (*machine, error) {
	m := &machine{host: s.Source, name: name, disk: path.Join(s.Source.Images, name+".qcow2")}
	file := filepath.Join(s.Dir, name+".xml")
	if err := os.WriteFile(file, fmt.Appendf(nil, domain, name, m.disk, m.monitor()), 0o600); err != nil {
		return nil, err
	}
	if err := command(ctx, "cp", "--sparse=always", image, m.host.Outside(m.disk)); err != nil {
		return nil, err
	}
	for _, args := range [][]string{{"define", file}, {"start", "--paused", name}} {
		if _, err := m.host.Virsh(ctx, args...); err != nil {
			return nil, err
		}
	}
	var err error
	m.id, err = m.host.Virsh(ctx, "domuuid", name)
	return m, err
}

// write fills blocks of the disk with a byte, as the guest's own device would: QEMU tracks it. It has a monitor of its own
// for that, since thousands of calls through libvirt take minutes.
func (m *machine) write(ctx context.Context, blocks []int64, size int64, fill byte) error {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", m.host.Outside(m.monitor()))
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	answers := json.NewDecoder(conn)
	ask := func(order string) error {
		if _, err := io.WriteString(conn, order); err != nil {
			return err
		}
		for {
			var answer struct{ Event, Return, Error json.RawMessage }
			if err := answers.Decode(&answer); err != nil {
				return err
			}
			if answer.Error != nil || answer.Return != nil && len(answer.Return) > len(`""`) && answer.Return[0] == '"' {
				return fmt.Errorf("QEMU: %s%s", answer.Error, answer.Return)
			}
			if answer.Return != nil {
				return nil
			}
		}
	}
	if err := ask(`{"execute":"qmp_capabilities"}`); err != nil {
		return err
	}
	for _, b := range blocks {
		if err := ask(fmt.Sprintf(`{"execute":"human-monitor-command","arguments":{"command-line":`+
			`"qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend \"write -q -P %d %d %d\""}}`, fill, b*size, size)); err != nil {
			return fmt.Errorf("write block %d of %s: %w", b, m.name, err)
		}
	}
	return nil
}

// monitor is the socket of QEMU's second monitor.
func (m *machine) monitor() string { return "/run/" + m.name + ".qmp" }

// virsh is one virsh that takes many orders, so that a libvirt call can be timed without the start of a program.
type virsh struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func newVirsh(h *lab.Host) (*virsh, error) {
	// Unbuffered, for virsh itself keeps back what it says while nobody is at a terminal.
	v := &virsh{cmd: exec.Command("stdbuf", "-o0", "virsh", "--quiet", "--connect", h.URI)}
	var err error
	if v.in, err = v.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := v.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	v.cmd.Stderr = v.cmd.Stdout
	v.out = bufio.NewReader(out)
	if err := v.cmd.Start(); err != nil {
		return nil, err
	}
	_, _, err = v.do("version") // the first order makes the connection
	return v, err
}

// do runs one order and returns what it printed. virsh repeats every order on its output, after its prompt.
func (v *virsh) do(order string) (took time.Duration, said string, err error) {
	const mark, end = "=end=", "virsh # echo =end=\n=end="
	start := time.Now()
	if _, err := fmt.Fprintf(v.in, "%s\necho %s\n", order, mark); err != nil {
		return 0, "", err
	}
	var text []byte
	for !bytes.HasSuffix(text, []byte(end)) {
		c, err := v.out.ReadByte()
		if err != nil {
			return 0, "", fmt.Errorf("virsh %s: %w: %s", order, err, text)
		}
		text = append(text, c)
	}
	took = time.Since(start)
	_, answer, _ := bytes.Cut(text[:len(text)-len(end)], []byte("\n"))
	return took, string(bytes.TrimSpace(answer)), nil
}

func (v *virsh) close() {
	_ = v.in.Close()
	_ = v.cmd.Wait() // its end of input is its order to end
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return strings.TrimSpace(line)
}
