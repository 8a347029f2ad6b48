// Package linux tells which drivers the Linux on a disk starts with, without starting it: it finds the newest kernel in
// /boot, and looks into its initial RAM disk and its directory of modules.
//
// It reads partitions of MBR and GPT, and ext2 to ext4 and XFS on them. What lies in LVM, RAID, encryption or btrfs it
// does not see: then nothing is known. The disk may be one of a running machine, frozen: its journal is not replayed, so
// a kernel that was installed in the last seconds may be missed.
//
// Disks are what guests made of them, and decoders trust them too much: [Apart] reads one in a process of its own.
package linux

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/maruel/natural"
	"github.com/masahiro331/go-disk"
	"github.com/masahiro331/go-ext4-filesystem/ext4"
	"github.com/masahiro331/go-xfs-filesystem/xfs"
)

// ErrUnknown says that nothing can be told of a disk: another system is on it, or a file system that cannot be read here.
var ErrUnknown = errors.New("its Linux cannot be looked into")

// System is the Linux that a disk starts, if nobody chose another kernel than the newest.
type System struct {
	// Version of the kernel, as its files are named: "6.1.0-13-amd64".
	Version string
	// Early are the modules that it has before its root file system, built in or in its initial RAM disk: of those that
	// were asked for, in their order.
	Early []string
	// Later are the modules that it has with its root file system; as Early, which they include.
	Later []string
	// Whole says that Later is known. The root file system may be one that cannot be read, while /boot is another.
	Whole bool
}

// read looks for these modules. Every error is one of what is on the disk.
func read(disk io.ReaderAt, size int64, modules []string) (System, error) {
	volumes := volumesOf(io.NewSectionReader(disk, 0, size))
	version, early, err := boot(volumes)
	if err != nil {
		return System{}, err
	}
	later, builtIn := installed(volumes, version)
	early = append(early, builtIn...)
	if later == nil && early == nil {
		return System{}, fmt.Errorf("neither the initial RAM disk nor the modules of kernel %s are found", version)
	}
	s := System{Version: version, Whole: later != nil}
	for _, m := range modules {
		if slices.Contains(early, m) {
			s.Early = append(s.Early, m)
		}
		if slices.Contains(later, m) || slices.Contains(early, m) {
			s.Later = append(s.Later, m)
		}
	}
	return s, nil
}

// volume is a file system.
type volume interface {
	fs.FS
	fs.ReadDirFS
}

// volumesOf are those on the partitions of a disk, or on the disk itself.
func volumesOf(whole *io.SectionReader) (all []volume) {
	add := func(r io.SectionReader) {
		if v, err := ext4.NewFS(r, nil); err == nil {
			all = append(all, v)
			return
		}
		_, _ = r.Seek(0, io.SeekStart) // within bounds
		if v, err := xfs.NewFS(r, nil); err == nil {
			all = append(all, v)
		}
	}
	table, err := disk.NewDriver(whole)
	if err != nil {
		add(*io.NewSectionReader(whole, 0, whole.Size()))
		return all
	}
	for {
		p, err := table.Next()
		if err != nil {
			return all
		}
		add(p.GetSectionReader())
	}
}

// kernel is how the files of kernels begin, before their version; ramDisks are the names of initial RAM disks, with the
// version for the star.
const kernel = "vmlinuz-"

var ramDisks = []string{"initrd.img-*", "initramfs-*.img", "initrd-*", "initrd-*.img", "initramfs-*"}

// boot finds the newest kernel and the modules in its initial RAM disk.
func boot(volumes []volume) (version string, modules []string, err error) {
	for _, v := range volumes {
		for _, dir := range []string{"boot", "."} {
			files, err := v.ReadDir(dir)
			if err != nil {
				continue
			}
			version, ramDisk := newest(files)
			if version == "" {
				continue
			}
			if ramDisk == "" {
				return version, nil, nil
			}
			f, err := v.Open(path.Join(dir, ramDisk))
			if err != nil {
				return "", nil, fmt.Errorf("open %s: %w", ramDisk, err)
			}
			defer f.Close()
			if modules, err = modulesIn(f); err != nil {
				return "", nil, fmt.Errorf("read %s: %w", ramDisk, err)
			}
			return version, modules, nil
		}
	}
	return "", nil, errors.New("no kernel is found in /boot, on a file system that can be read")
}

// newest gives the version of the newest kernel among some files, and the name of its initial RAM disk; empty: it has
// none. Kernels for rescue, and what an installation set aside, are no choice of a boot loader.
func newest(files []fs.DirEntry) (version, ramDisk string) {
	for _, f := range files {
		v, is := strings.CutPrefix(f.Name(), kernel)
		if is && !f.IsDir() && !strings.Contains(v, "rescue") && !strings.HasSuffix(v, ".old") && (version == "" || natural.Less(version, v)) {
			version = v
		}
	}
	for _, pattern := range ramDisks {
		name := strings.Replace(pattern, "*", version, 1)
		if slices.ContainsFunc(files, func(f fs.DirEntry) bool { return f.Name() == name }) {
			return version, name
		}
	}
	return version, ""
}

// installed gives the modules in the directory of a kernel, and those that are built in; nil: there is none to be read.
func installed(volumes []volume, version string) (modules, builtIn []string) {
	for _, v := range volumes {
		for _, dir := range []string{"usr/lib/modules", "lib/modules"} {
			f, err := v.Open(path.Join(dir, version, "modules.dep"))
			if err != nil {
				continue
			}
			defer f.Close()
			if modules, err = moduleList(f); err != nil || modules == nil {
				return nil, nil
			}
			if f, err := v.Open(path.Join(dir, version, "modules.builtin")); err == nil {
				defer f.Close()
				builtIn, _ = moduleList(f) // as far as it can be read
			}
			return modules, builtIn
		}
	}
	return nil, nil
}

// moduleList reads modules.dep and modules.builtin: a path in each line, up to a colon.
func moduleList(r io.Reader) (names []string, err error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		file, _, _ := strings.Cut(lines.Text(), ":")
		if name := moduleOf(file); name != "" {
			names = append(names, name)
		}
	}
	return names, lines.Err()
}

// moduleOf gives the name of the module in a file, compressed or not; empty: it is none.
func moduleOf(file string) string {
	name, rest, is := strings.Cut(path.Base(file), ".ko")
	if !is || rest != "" && rest[0] != '.' {
		return ""
	}
	return strings.ReplaceAll(name, "-", "_")
}
