// Command guest is the whole userland of the lab's little machine: it is the kernel's first process, writes numbered
// records to two disks, answers HTTP about it, and turns the machine off when the power button or the guest agent asks.
// It runs from the initial RAM disk and is of no use elsewhere.
//
// Kernel parameters: guest.name, guest.ip (with prefix), guest.delay between records; guest.trial turns the machine off
// as soon as it is up.
package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// trialLine tells whoever watches the serial console that the machine booted.
const trialLine = "TRIAL PASSED"

func main() {
	if filepath.Base(os.Args[0]) == "shutdown" { // as the guest agent calls it
		if err := unix.Kill(1, unix.SIGPWR); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	off := make(chan os.Signal, 1)
	signal.Notify(off, unix.SIGPWR, unix.SIGTERM)
	if err := mountSystem(); err != nil {
		fmt.Println("ERROR", err)
	}
	params := kernelParams()
	if _, trial := params["guest.trial"]; trial {
		fmt.Println(trialLine)
		powerOff()
	}
	if err := loadModules("/modules"); err != nil {
		fmt.Println("ERROR", err)
	}
	if onVMware() {
		if err := loadModules("/modules-vmware"); err != nil {
			fmt.Println("ERROR", err)
		}
	}
	stop := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		if err := work(params, stop); err != nil {
			fmt.Println("ERROR", err)
		}
	}()
	go watchPowerButton(off)
	go runAgent()
	<-off
	close(stop)
	<-stopped
	if err := unix.Unmount("/data", 0); err != nil {
		fmt.Println("ERROR unmount /data:", err)
	}
	powerOff()
}

func powerOff() {
	unix.Sync()
	fmt.Println("POWEROFF")
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

func mountSystem() error {
	for _, m := range [][2]string{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/run"}} {
		if err := os.MkdirAll(m[1], 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m[1], err)
		}
	}
	return nil
}

func kernelParams() map[string]string {
	line, _ := os.ReadFile("/proc/cmdline")
	out := map[string]string{}
	for _, w := range strings.Fields(string(line)) {
		k, v, _ := strings.Cut(w, "=")
		out[k] = v
	}
	return out
}

// onVMware says that a device of VMware's is there, which may also be one that QEMU emulates.
func onVMware() bool {
	vendors, _ := filepath.Glob("/sys/bus/pci/devices/*/vendor")
	return slices.ContainsFunc(vendors, func(name string) bool {
		id, _ := os.ReadFile(name)
		return strings.TrimSpace(string(id)) == "0x15ad"
	})
}

// loadModules loads what the builder put into a folder, in the order of the names.
func loadModules(dir string) error {
	files, err := filepath.Glob(dir + "/*.ko")
	if err != nil {
		return err
	}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil {
			return fmt.Errorf("load %s: %w", name, err)
		}
	}
	return nil
}

// waitFor waits until something exists, devices appear a little after their module was loaded.
func waitFor(pattern string, patience time.Duration) (string, error) {
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return "", err
		}
		if len(found) > 0 {
			return found[0], nil
		}
		if time.Now().After(deadline) {
			return "", fmt.Errorf("no %s after %v", pattern, patience)
		}
	}
}

// watchPowerButton asks for the end when the ACPI power button is pressed.
func watchPowerButton(off chan<- os.Signal) {
	if _, err := waitFor("/dev/input/event*", time.Minute); err != nil {
		fmt.Println("ERROR", err)
		return
	}
	buttons, _ := filepath.Glob("/dev/input/event*")
	for _, name := range buttons {
		go func() {
			f, err := os.Open(name)
			if err != nil {
				return
			}
			defer f.Close()
			const keyEvent, keyPower = 1, 116
			event := make([]byte, 24) // struct input_event
			for {
				if _, err := f.Read(event); err != nil {
					return
				}
				if binary.LittleEndian.Uint16(event[16:]) == keyEvent && binary.LittleEndian.Uint16(event[18:]) == keyPower {
					off <- unix.SIGPWR
				}
			}
		}()
	}
}

// runAgent runs Debian's guest agent where the machine has a channel for it.
func runAgent() {
	names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil || len(names) == 0 {
		return
	}
	for _, file := range names {
		name, _ := os.ReadFile(file)
		if strings.TrimSpace(string(name)) != "org.qemu.guest_agent.0" {
			continue
		}
		port := filepath.Join("/dev", filepath.Base(filepath.Dir(file)))
		for {
			out, err := exec.Command("/usr/sbin/qemu-ga", "--method=virtio-serial", "--path="+port, "--statedir=/run").CombinedOutput()
			fmt.Printf("AGENT ended: %v %s\n", err, out)
			time.Sleep(time.Second)
		}
	}
}
