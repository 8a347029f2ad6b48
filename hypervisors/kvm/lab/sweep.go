package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// owner is recorded in a lab's directory. The start time tells a process from a later one with the same id.
type owner struct {
	PID   int    `json:"pid"`
	Start string `json:"start"`
}

const ownerFile = "owner.json"

func writeOwner(dir string) error {
	start, err := startTime(os.Getpid())
	if err != nil {
		return err
	}
	b, err := json.Marshal(owner{os.Getpid(), start})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, ownerFile), b, 0o600)
}

// startTime is when a process began, in clock ticks since the machine did.
func startTime(pid int) (string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	// The command, in parentheses, may hold anything; the state follows it as field 3, the start time is field 22.
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 20 {
		return "", fmt.Errorf("unexpected /proc/%d/stat: %q", pid, b)
	}
	return f[19], nil
}

// Sweep removes labs below parent whose owner is gone, and returns their directories.
func Sweep(ctx context.Context, parent string) ([]string, error) {
	dirs, err := filepath.Glob(filepath.Join(parent, dirPrefix+"*"))
	if err != nil {
		return nil, err
	}
	var swept []string
	var errs []error
	for _, dir := range dirs {
		if dir, err = filepath.Abs(dir); err != nil {
			return swept, err
		}
		if alive(dir) {
			continue
		}
		if err := remove(ctx, dir); err != nil {
			errs = append(errs, err)
			continue
		}
		swept = append(swept, dir)
	}
	return swept, errors.Join(errs...)
}

// alive says whether a lab's owner still runs. A lab without a record is just being made, or foreign: hands off.
func alive(dir string) bool {
	b, err := os.ReadFile(filepath.Join(dir, ownerFile))
	if err != nil {
		return true
	}
	var o owner
	if json.Unmarshal(b, &o) != nil {
		return true
	}
	start, err := startTime(o.PID)
	return err == nil && start == o.Start
}

// remove ends what is left of a lab whose owner is gone. Its namespaces went with their first processes.
func remove(ctx context.Context, dir string) error {
	id := strings.TrimPrefix(filepath.Base(dir), dirPrefix)
	errs := []error{killAll(ctx, dir, "")}
	for _, host := range []string{"source", "target"} {
		errs = append(errs, removeDevice(ctx, deviceName(id, host)))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

type process struct {
	pid  int
	name string
	args string
}

// processes finds those that live in the mounts of a lab's host (of any host when host is empty), and, without host,
// those that name the lab's directory in their command line.
func processes(dir, host string) []process {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	mark := []byte(filepath.Join(filepath.Base(dir), host) + "/")
	var out []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		// Mounts that only these namespaces have name the directory they were bound from.
		mounts, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "mountinfo"))
		args, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if !bytes.Contains(mounts, mark) && (host != "" || !bytes.Contains(args, []byte(dir))) {
			continue
		}
		name, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "comm"))
		out = append(out, process{pid, strings.TrimSpace(string(name)), strings.TrimSpace(strings.ReplaceAll(string(args), "\x00", " "))})
	}
	return out
}

// exists says whether a process still runs; one that ended and was not reaped does not.
func exists(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	return !bytes.HasPrefix(b[bytes.LastIndexByte(b, ')')+1:], []byte(" Z"))
}

// killAll ends every process inside a lab's host and waits until they are gone. Most died with the first process; those
// that others brought into the mounts alone did not.
func killAll(ctx context.Context, dir, host string) error {
	err := poll(ctx, func() (bool, error) {
		left := slices.DeleteFunc(inside(dir, host), func(p process) bool { return !exists(p.pid) })
		for _, p := range left {
			if err := unix.Kill(p.pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return false, fmt.Errorf("kill %s (%d): %w", p.name, p.pid, err)
			}
		}
		return len(left) == 0, nil
	})
	if err != nil {
		return fmt.Errorf("end processes of %s: %w", filepath.Join(dir, host), err)
	}
	return nil
}

// inside is processes without those that only name the directory: they are seen, but not ours to kill.
func inside(dir, host string) []process {
	if host != "" {
		return processes(dir, host)
	}
	return append(processes(dir, "source"), processes(dir, "target")...)
}

// Strangers names processes in the hosts that belong neither to the lab nor to libvirt and its guests: what somebody
// started there and did not end.
func (l *Lab) Strangers() []string {
	own := []string{"bash", "libvirtd", "sshd", "dnsmasq", "qemu-system-x86"}
	out := []string{}
	for _, p := range inside(l.Dir, "") {
		if !slices.Contains(own, p.name) && exists(p.pid) {
			out = append(out, fmt.Sprintf("process %d %s", p.pid, p.args))
		}
	}
	return out
}

func leftovers(dir, id string) []string {
	out := []string{}
	for _, p := range processes(dir, "") {
		if exists(p.pid) {
			out = append(out, fmt.Sprintf("process %d %s", p.pid, p.args))
		}
	}
	for _, host := range []string{"source", "target"} {
		if name := deviceName(id, host); deviceExists(name) {
			out = append(out, "device "+name)
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, filepath.Base(dir)) {
			out = append(out, "mount "+strings.TrimSpace(line))
		}
	}
	if _, err := os.Lstat(dir); err == nil {
		out = append(out, "directory "+dir)
	}
	return out
}

func deviceExists(name string) bool {
	_, err := net.InterfaceByName(name)
	return err == nil
}
