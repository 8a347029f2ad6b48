package lab

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// trialBudget is how long a trial boot under KVM may take. A real one needs about two seconds; where /dev/kvm exists and
// guests hang in it, none would be long enough.
const trialBudget = 10 * time.Second

// kvmWorks boots a guest's kernel under KVM once and sees whether it comes up. That /dev/kvm exists proves nothing. The
// outcome is kept until the machine or the guest changes.
func (l *Lab) kvmWorks(ctx context.Context, t template) (bool, error) {
	if _, err := os.Stat("/dev/kvm"); err != nil {
		return false, nil
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return false, err
	}
	verdict := filepath.Join(l.cache, "kvm-"+strings.TrimSpace(string(boot))+"-"+t.key)
	if known, err := os.ReadFile(verdict); err == nil {
		return string(known) == "works", nil
	}
	trial, cancel := context.WithTimeout(ctx, trialBudget)
	defer cancel()
	// In the host's namespace, so that it cannot outlive the lab.
	out, _ := l.Source.Exec(trial, "timeout", "--signal=KILL", trialBudget.String(),
		"qemu-system-x86_64", "-machine", "q35,accel=kvm", "-cpu", "host", "-m", "256", "-nodefaults", "-no-reboot",
		"-display", "none", "-serial", "stdio", "-kernel", t.kernel, "-initrd", t.initrd,
		"-append", "console=ttyS0 quiet panic=-1 rdinit=/init guest.trial")
	if err := ctx.Err(); err != nil {
		return false, err
	}
	works := bytes.Contains(out, []byte("TRIAL PASSED"))
	l.log.Info("trial boot under KVM", "works", works)
	old, err := filepath.Glob(filepath.Join(l.cache, "kvm-*"))
	if err != nil {
		return false, err
	}
	for _, name := range old {
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return false, err
		}
	}
	answer := map[bool]string{true: "works", false: "fails"}[works]
	return works, os.WriteFile(verdict, []byte(answer), 0o600)
}
