package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// PowerOff ends every process of the host at once and takes away what a host keeps in its memory: /run, and with it what
// libvirt knows of running machines, and the bridge. The host's first process stays, as it holds the namespaces: the
// host has no kernel of its own that could stop, so its files, mounts and wire stay, and nothing written is lost.
func (h *Host) PowerOff(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	err := poll(ctx, func() (bool, error) {
		left := slices.DeleteFunc(processes(h.lab.Dir, h.Name), func(p process) bool { return p.pid == h.PID || !exists(p.pid) })
		for _, p := range left {
			if err := unix.Kill(p.pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return false, fmt.Errorf("kill %s (%d): %w", p.name, p.pid, err)
			}
		}
		return len(left) == 0, nil
	})
	if err != nil {
		return fmt.Errorf("power off %s: %w", h.Name, err)
	}
	run := filepath.Join(h.Dir, "run")
	entries, err := os.ReadDir(run)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(run, e.Name())); err != nil {
			return err
		}
	}
	_, err = h.Exec(ctx, "ip", "link", "delete", productionBridge)
	return err
}

// PowerOn starts what a host starts when it boots: its sshd and libvirtd, with the networks and storage that start by
// themselves. Guests stay off.
func (h *Host) PowerOn(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, d := range []string{"run/libvirt", "run/sshd"} {
		if err := os.MkdirAll(filepath.Join(h.Dir, d), 0o755); err != nil {
			return err
		}
	}
	if err := h.startSSHD(ctx); err != nil {
		return err
	}
	return h.startLibvirtd(ctx)
}

func (h *Host) startSSHD(ctx context.Context) error {
	_, err := h.Exec(ctx, "/usr/sbin/sshd", "-f", filepath.Join(h.Dir, "ssh/sshd_config"), "-E", filepath.Join(h.Dir, "log/sshd.log"))
	return err
}

// ChangeHostKey gives the host's sshd another key, as a host has that was set up anew, and restarts it. Connections stay.
// A second call brings the first key back.
func (h *Host) ChangeHostKey(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	key, other := filepath.Join(h.Dir, "ssh/host_key"), filepath.Join(h.Dir, "ssh/other_key")
	if _, err := os.Stat(other); errors.Is(err, os.ErrNotExist) {
		if _, err := newKey(other); err != nil {
			return err
		}
	}
	if err := unix.Renameat2(unix.AT_FDCWD, key, unix.AT_FDCWD, other, unix.RENAME_EXCHANGE); err != nil {
		return os.NewSyscallError("renameat2", err)
	}
	for _, p := range processes(h.lab.Dir, h.Name) {
		if p.name == "sshd" && strings.Contains(p.args, "[listener]") {
			if err := unix.Kill(p.pid, unix.SIGKILL); err != nil {
				return err
			}
			if err := poll(ctx, func() (bool, error) { return !exists(p.pid), nil }); err != nil {
				return err
			}
		}
	}
	return h.startSSHD(ctx)
}
