package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"understudy/hypervisors/kvm/lab/record"
)

// Layout of disk A, in bytes: a FAT partition to boot from, an ext4 file system, the log of records. All of it is
// written into a plain file, without root, mounts or loop devices.
const (
	bootOffset = 1 << 20
	bootSize   = 40 << 20
	dataOffset = bootOffset + bootSize
	dataSize   = 32 << 20
	sector     = 512
	// minDiskA holds the layout and the ends of everything.
	minDiskA = record.OffsetA + record.LogSize + 1<<20
)

const partitionTable = `label: dos
label-id: 0x0b5e55ed
%d,%d,c,*
%d,%d,83
%d,%d,83
`

// The kernel leaves out what only costs time in an emulated machine.
const bootMenu = `SERIAL 0 115200
DEFAULT guest
PROMPT 0
TIMEOUT 1
LABEL guest
 KERNEL vmlinuz
 INITRD initrd
 APPEND console=tty0 console=ttyS0 quiet tsc=reliable mitigations=off cryptomgr.notests panic=5 rdinit=/init %s
`

// cache keeps between runs what guests are built from.
type cache struct{ dir string }

// locked runs f while no other lab builds in the same cache.
func (c cache) locked(f func() error) error {
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(c.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return os.NewSyscallError("flock", err)
	}
	return f()
}

// template is a disk A that boots, for a guest without a name. It is rebuilt when anything it is made of has changed.
// kernel and initrd are files with its two parts.
type template struct {
	disk, kernel, initrd string
	key                  string
}

// template makes sure that the cache holds a current template and copies it into dir.
func (c cache) template(ctx context.Context, dir string) (template, error) {
	t := template{disk: filepath.Join(dir, "template.raw"), kernel: filepath.Join(dir, "vmlinuz"), initrd: filepath.Join(dir, "initrd")}
	err := c.locked(func() error {
		p, err := c.parts(ctx)
		if err != nil {
			return err
		}
		sum := sha256.New()
		fmt.Fprintf(sum, "%q %d %d %d %d", partitionTable, bootSize, dataSize, record.OffsetA, record.LogSize)
		sum.Write(p.kernel)
		sum.Write(p.initrd)
		t.key = hex.EncodeToString(sum.Sum(nil))[:16]
		if err := os.WriteFile(t.kernel, p.kernel, 0o600); err != nil {
			return err
		}
		if err := os.WriteFile(t.initrd, p.initrd, 0o600); err != nil {
			return err
		}
		cached := filepath.Join(c.dir, "template-"+t.key+".raw")
		if _, err := os.Stat(cached); err != nil {
			if err := c.buildTemplate(ctx, t, cached); err != nil {
				return fmt.Errorf("build boot disk: %w", err)
			}
		}
		return copySparse(ctx, cached, t.disk)
	})
	return t, err
}

func (c cache) buildTemplate(ctx context.Context, t template, cached string) error {
	old, err := filepath.Glob(filepath.Join(c.dir, "template-*"))
	if err != nil {
		return err
	}
	for _, name := range old {
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	building := filepath.Join(c.dir, "building.raw")
	if err := os.RemoveAll(building); err != nil {
		return err
	}
	if err := makeSparse(building, minDiskA); err != nil {
		return err
	}
	boot := building + "@@" + strconv.Itoa(bootOffset)
	table := fmt.Sprintf(partitionTable, bootOffset/sector, bootSize/sector, dataOffset/sector, dataSize/sector, record.OffsetA/sector, record.LogSize/sector)
	partition := exec.CommandContext(ctx, "sfdisk", "--quiet", building)
	partition.Stdin = strings.NewReader(table)
	if _, err := run(partition, "sfdisk"); err != nil {
		return err
	}
	for _, argv := range [][]string{
		{"dd", "if=/usr/lib/syslinux/mbr/mbr.bin", "of=" + building, "conv=notrunc", "bs=440", "count=1", "status=none"},
		{"mformat", "-i", boot, "-T", strconv.Itoa(bootSize / sector), "-H", strconv.Itoa(bootOffset / sector), "-h", "64", "-s", "32", "::"},
		{"mcopy", "-i", boot, t.kernel, "::vmlinuz"},
		{"mcopy", "-i", boot, t.initrd, "::initrd"},
		{"syslinux", "--install", "--offset", strconv.Itoa(bootOffset), building},
		{"mke2fs", "-q", "-F", "-t", "ext4", "-E", "offset=" + strconv.Itoa(dataOffset), building, strconv.Itoa(dataSize/1024) + "k"},
	} {
		if _, err := run(exec.CommandContext(ctx, argv[0], argv[1:]...), strings.Join(argv, " ")); err != nil {
			return err
		}
	}
	return os.Rename(building, cached)
}

// setMenu gives a disk A the kernel parameters of one guest.
func setMenu(ctx context.Context, disk, params string) error {
	put := exec.CommandContext(ctx, "mcopy", "-o", "-i", disk+"@@"+strconv.Itoa(bootOffset), "-", "::syslinux.cfg")
	put.Stdin = strings.NewReader(fmt.Sprintf(bootMenu, params))
	_, err := run(put, "mcopy syslinux.cfg")
	return err
}

func makeSparse(name string, size int64) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Truncate(size)
}

func copySparse(ctx context.Context, from, to string) error {
	_, err := run(exec.CommandContext(ctx, "cp", "--sparse=always", "--reflink=auto", from, to), "cp "+from)
	return err
}
