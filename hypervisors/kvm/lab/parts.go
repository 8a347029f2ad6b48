package lab

import (
	"bytes"
	"compress/gzip"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// The two Debian packages that guests are made of. They are unpacked, never installed: a kernel and an agent for guests
// have no business in the machine's own boot menu and services.
const (
	kernelPackage = "linux-image-cloud-amd64"
	agentPackage  = "qemu-guest-agent"
)

// guestModules are what a guest needs besides what is built into the kernel; what they depend on is found out.
var guestModules = []string{"virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "button", "evdev"}

// vmwareModules are what it needs on VMware's devices, wherever it finds them.
var vmwareModules = []string{"vmw_pvscsi", "sd_mod", "vmxnet3"}

// parts are what a guest boots from.
type parts struct {
	kernel []byte
	initrd []byte
}

// parts gathers kernel and initial RAM disk. The first time on a machine it downloads Debian's packages.
func (c cache) parts(ctx context.Context) (parts, error) {
	kernel, err := c.unpacked(ctx, kernelPackage)
	if err != nil {
		return parts{}, err
	}
	agent, err := c.unpacked(ctx, agentPackage)
	if err != nil {
		return parts{}, err
	}
	images, err := filepath.Glob(filepath.Join(kernel, "boot/vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return parts{}, fmt.Errorf("found %d kernels in %s", len(images), kernel)
	}
	image, err := os.ReadFile(images[0])
	if err != nil {
		return parts{}, err
	}
	var buf bytes.Buffer
	zip, err := gzip.NewWriterLevel(&buf, gzip.BestSpeed)
	if err != nil {
		return parts{}, err
	}
	a := &archive{w: zip}
	if err := c.fillInitrd(ctx, a, kernel, filepath.Join(agent, "usr/sbin/qemu-ga")); err != nil {
		return parts{}, fmt.Errorf("build initial RAM disk: %w", err)
	}
	if err := errors.Join(a.close(), zip.Close()); err != nil {
		return parts{}, err
	}
	return parts{image, buf.Bytes()}, nil
}

func (c cache) fillInitrd(ctx context.Context, a *archive, kernel, agent string) error {
	init, err := c.buildInit(ctx)
	if err != nil {
		return err
	}
	for _, d := range []string{"dev", "proc", "sys", "run", "etc", "data", "sbin"} {
		a.dir(d)
	}
	a.copy("init", init)
	a.link("sbin/shutdown", "/init")
	for _, load := range []struct {
		dir   string
		names []string
	}{{"modules", guestModules}, {"modules-vmware", vmwareModules}} {
		modules, err := findModules(kernel, load.names)
		if err != nil {
			return err
		}
		for i, m := range modules {
			a.copy(fmt.Sprintf("%s/%02d-%s", load.dir, i, filepath.Base(m)), m)
		}
	}
	a.copy("usr/sbin/qemu-ga", agent)
	libs, err := libraries(ctx, agent)
	if err != nil {
		return err
	}
	for _, l := range libs {
		a.copy(strings.TrimPrefix(l, "/"), l)
	}
	return a.err
}

// buildInit compiles the guest's only program.
func (c cache) buildInit(ctx context.Context) (string, error) {
	out := filepath.Join(c.dir, "init")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", out, "understudy/hypervisors/kvm/lab/guest")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=")
	_, err := run(cmd, "build guest")
	return out, err
}

// unpacked is where a Debian package's files are; it downloads the package when they are not there yet.
func (c cache) unpacked(ctx context.Context, pkg string) (string, error) {
	dir := filepath.Join(c.dir, pkg)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	tmp, err := os.MkdirTemp(c.dir, "unpack-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	name := pkg
	if pkg == kernelPackage {
		if name, err = currentKernel(ctx); err != nil {
			return "", err
		}
	}
	download := exec.CommandContext(ctx, "apt-get", "download", "--quiet", name)
	download.Dir = tmp
	if _, err := run(download, "apt-get download "+name); err != nil {
		return "", fmt.Errorf("%w (make deps refreshes the package lists)", err)
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(debs) != 1 {
		return "", fmt.Errorf("apt-get download %s left %d packages", name, len(debs))
	}
	files := filepath.Join(tmp, "files")
	if _, err := run(exec.CommandContext(ctx, "dpkg-deb", "--extract", debs[0], files), "dpkg-deb --extract "+debs[0]); err != nil {
		return "", err
	}
	return dir, os.Rename(files, dir)
}

var kernelName = regexp.MustCompile(`linux-image-\d\S*-cloud-amd64`)

// currentKernel asks apt which package Debian's kernel for clouds is now.
func currentKernel(ctx context.Context) (string, error) {
	out, err := run(exec.CommandContext(ctx, "apt-cache", "depends", "--important", kernelPackage), "apt-cache depends "+kernelPackage)
	if err != nil {
		return "", fmt.Errorf("%w (make deps refreshes the package lists)", err)
	}
	name := kernelName.Find(out)
	if name == nil {
		return "", fmt.Errorf("apt knows no %s; make deps refreshes the package lists", kernelPackage)
	}
	return string(name), nil
}

// findModules gives the files of modules and of all that they need, each behind what it needs. Modules that are built
// into the kernel are left out.
func findModules(kernel string, names []string) ([]string, error) {
	files := map[string]string{}
	err := filepath.WalkDir(filepath.Join(kernel, "lib/modules"), func(path string, _ fs.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(filepath.Base(path), ".ko"); ok {
			files[strings.ReplaceAll(name, "-", "_")] = path
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	builtin, err := filepath.Glob(filepath.Join(kernel, "lib/modules/*/modules.builtin"))
	if err != nil || len(builtin) != 1 {
		return nil, fmt.Errorf("found %d lists of built-in modules in %s", len(builtin), kernel)
	}
	inKernel, err := os.ReadFile(builtin[0])
	if err != nil {
		return nil, err
	}
	var out []string
	var add func(name string) error
	add = func(name string) error {
		file, ok := files[name]
		if !ok {
			if bytes.Contains(inKernel, []byte("/"+name+".ko")) {
				return nil
			}
			return fmt.Errorf("the kernel has no module %s", name)
		}
		if slices.Contains(out, file) {
			return nil
		}
		needs, err := moduleNeeds(file)
		if err != nil {
			return err
		}
		for _, n := range needs {
			if err := add(n); err != nil {
				return err
			}
		}
		out = append(out, file)
		return nil
	}
	for _, n := range names {
		if err := add(n); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// moduleNeeds reads "depends" from a module's .modinfo section, for the package has no modules.dep.
func moduleNeeds(file string) ([]string, error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("%s has no .modinfo", file)
	}
	data, err := section.Data()
	if err != nil {
		return nil, err
	}
	for _, field := range strings.Split(string(data), "\x00") {
		if list, ok := strings.CutPrefix(field, "depends="); ok && list != "" {
			return strings.Split(strings.ReplaceAll(list, "-", "_"), ","), nil
		}
	}
	return nil, nil
}

var libraryPath = regexp.MustCompile(`(?m)(/\S+) \(0x[0-9a-f]+\)$`)

// libraries are the paths of the shared libraries that a program loads, its loader included.
func libraries(ctx context.Context, program string) ([]string, error) {
	out, err := run(exec.CommandContext(ctx, "ldd", program), "ldd "+program)
	if err != nil {
		return nil, err
	}
	if bytes.Contains(out, []byte("not found")) {
		return nil, fmt.Errorf("%s lacks libraries (make deps installs them): %s", program, out)
	}
	var libs []string
	for _, m := range libraryPath.FindAllSubmatch(out, -1) {
		libs = append(libs, string(m[1]))
	}
	return libs, nil
}
