package linux

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/cavaliergopher/cpio"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/stretchr/testify/require"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"
)

// child makes the test binary the process that reads a disk.
const child = "child"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == child {
		if err := Child(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// diskWith makes an image of a disk with files on a file system, in a partition if there shall be a table of them.
func diskWith(t *testing.T, table, kind string, files map[string][]byte) *os.File {
	t.Helper()
	const start, size = 1 << 20, 400 << 20 // the least that XFS makes is 300 MiB
	dir, image := t.TempDir(), filepath.Join(t.TempDir(), "disk")
	var proto strings.Builder
	proto.WriteString("/\n0 0\nd--755 0 0\n")
	for name, content := range files {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
	}
	require.NoError(t, protoOf(&proto, dir))
	command := func(stdin, name string, args ...string) {
		c := exec.CommandContext(t.Context(), name, args...)
		c.Stdin = strings.NewReader(stdin)
		out, err := c.CombinedOutput()
		require.NoError(t, err, "%s: %s", name, out)
	}
	require.NoError(t, os.WriteFile(image, nil, 0o600))
	require.NoError(t, os.Truncate(image, size))
	offset := int64(0)
	if table != "" {
		command("label: "+table+"\nstart=2048, type=linux\n", "sfdisk", "--quiet", image)
		offset = start
	}
	volume := filepath.Join(t.TempDir(), "volume")
	require.NoError(t, os.WriteFile(volume, nil, 0o600))
	require.NoError(t, os.Truncate(volume, size-2*start))
	if kind == "xfs" {
		file := filepath.Join(t.TempDir(), "proto")
		require.NoError(t, os.WriteFile(file, []byte(proto.String()), 0o600))
		command("", "mkfs.xfs", "-q", "-p", file, volume)
	} else {
		command("", "mke2fs", "-q", "-t", kind, "-d", dir, volume)
	}
	command("", "dd", "status=none", "conv=notrunc,sparse", "bs=1M", "if="+volume, "of="+image, fmt.Sprintf("seek=%d", offset>>20))
	f, err := os.Open(image)
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// protoOf describes a tree of files as mkfs.xfs wants it.
func protoOf(w *strings.Builder, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if path := filepath.Join(dir, e.Name()); e.IsDir() {
			fmt.Fprintf(w, "%s d--755 0 0\n", e.Name())
			if err := protoOf(w, path); err != nil {
				return err
			}
		} else {
			fmt.Fprintf(w, "%s ---644 0 0 %s\n", e.Name(), path)
		}
	}
	w.WriteString("$\n")
	return nil
}

// archive is an initial RAM disk with some files.
func archive(t *testing.T, files ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := cpio.NewWriter(&b)
	for _, name := range files {
		content := []byte(name)
		if strings.HasSuffix(name, "modules.builtin") {
			content = []byte("kernel/drivers/block/virtio_blk.ko\nkernel/drivers/virtio/virtio_pci.ko\n")
		}
		require.NoError(t, w.WriteHeader(&cpio.Header{Name: name, Mode: 0o644, Size: int64(len(content))}))
		_, err := w.Write(content)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

func packedBy(t *testing.T, open func(io.Writer) (io.WriteCloser, error), content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := open(&b)
	require.NoError(t, err)
	_, err = w.Write(content)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.Bytes()
}

var asked = []string{"ahci", "e1000e", "virtio_blk", "virtio_net", "virtio_pci", "vmw_pvscsi"}

// A disk like those of distributions: with a kernel for rescue, an older one, and one for crash dumps.
func files(ramDisk []byte) map[string][]byte {
	return map[string][]byte{
		"boot/vmlinuz-6.1.0-9-amd64": nil, "boot/initrd.img-6.1.0-9-amd64": []byte("not looked at"),
		"boot/vmlinuz-6.1.0-13-amd64": nil, "boot/initrd.img-6.1.0-13-amd64": ramDisk,
		"boot/vmlinuz-9-rescue-b2":                                 nil,
		"usr/lib/modules/6.1.0-13-amd64/modules.dep":               []byte("kernel/drivers/net/virtio_net.ko.xz: kernel/net/core/failover.ko\nkernel/drivers/ata/ahci.ko:\n"),
		"usr/lib/modules/6.1.0-13-amd64/modules.builtin":           []byte("kernel/drivers/virtio/virtio_pci.ko\n"),
		"usr/lib/modules/6.1.0-13-amd64/kernel/drivers/big-enough": bytes.Repeat([]byte("0123456789"), 1<<18),
	}
}

func TestApart(t *testing.T) {
	early := archive(t, "kernel/x86/microcode/GenuineIntel.bin")
	main := archive(t, "usr/lib/modules/6.1.0-13-amd64/kernel/drivers/scsi/vmw_pvscsi.ko.zst", "usr/lib/modules/6.1.0-13-amd64/modules.builtin", "init")
	for _, c := range []struct {
		table, kind, pack string
		open              func(io.Writer) (io.WriteCloser, error)
	}{
		{"dos", "ext4", "gzip", func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil }},
		{"gpt", "xfs", "zstd", func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) }},
		{"gpt", "ext2", "xz", func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) }},
		{"dos", "xfs", "lz4", func(w io.Writer) (io.WriteCloser, error) {
			l := lz4.NewWriter(w)
			return l, l.Apply(lz4.LegacyOption(true))
		}},
		{"", "ext3", "lzma", func(w io.Writer) (io.WriteCloser, error) { return lzma.NewWriter(w) }},
		{"", "xfs", "lz4 in frames", func(w io.Writer) (io.WriteCloser, error) { return lz4.NewWriter(w), nil }},
		{"gpt", "ext4", "nothing", nil},
	} {
		t.Run(c.table+" "+c.kind+" "+c.pack, func(t *testing.T) {
			t.Parallel()
			packed := main
			if c.open != nil {
				packed = packedBy(t, c.open, main)
			}
			f := diskWith(t, c.table, c.kind, files(append(append(bytes.Clone(early), make([]byte, 100)...), packed...)))
			want := System{Version: "6.1.0-13-amd64", Early: []string{"virtio_blk", "virtio_pci", "vmw_pvscsi"},
				Later: []string{"ahci", "virtio_blk", "virtio_net", "virtio_pci", "vmw_pvscsi"}, Whole: true}
			got, err := apart(t, f)
			require.NoError(t, err)
			require.Equal(t, want, got)
		})
	}
}

func apart(t *testing.T, f *os.File) (System, error) { return apartFor(t, f, asked) }

func apartFor(t *testing.T, f *os.File, modules []string) (System, error) {
	t.Helper()
	info, err := f.Stat()
	require.NoError(t, err)
	return Apart(t.Context(), f, info.Size(), modules, os.Args[0], child)
}

// Where /boot is a volume of its own, and the root file system one that cannot be read, the initial RAM disk tells
// of itself alone.
func TestBootOfItsOwn(t *testing.T) {
	f := diskWith(t, "gpt", "ext2", map[string][]byte{"vmlinuz-5.14.0-427.el9.x86_64": nil, "vmlinuz-0-rescue-4e1f": nil, "initramfs-5.14.0-427.el9.x86_64.img": archive(t, "usr/lib/modules/5.14.0-427.el9.x86_64/kernel/drivers/scsi/vmw_pvscsi.ko.xz"), "initramfs-5.14.0-427.el9.x86_64kdump.img": nil})
	got, err := apart(t, f)
	require.NoError(t, err)
	require.Equal(t, System{Version: "5.14.0-427.el9.x86_64", Early: []string{"vmw_pvscsi"}, Later: []string{"vmw_pvscsi"}}, got)
}

func TestUnknown(t *testing.T) {
	empty, err := os.Create(filepath.Join(t.TempDir(), "empty"))
	require.NoError(t, err)
	require.NoError(t, empty.Truncate(1<<20))
	for name, f := range map[string]*os.File{
		"empty":                     empty,
		"a kernel alone":            diskWith(t, "dos", "ext4", map[string][]byte{"boot/vmlinuz-6.1.0": nil}),
		"another system":            diskWith(t, "dos", "ext4", map[string][]byte{"windows/system32/ntoskrnl.exe": nil}),
		"compressed in another way": diskWith(t, "dos", "ext4", files([]byte("\x89LZO\x00\r\n"))),
	} {
		_, err := apart(t, f)
		require.ErrorIs(t, err, ErrUnknown, name)
	}
}

// A guest that makes its reader take all memory takes that of a process which may die.
func TestGreedyDisk(t *testing.T) {
	f := diskWith(t, "dos", "ext4", files([]byte("\x5d\x00\x00\x00\x7f"+strings.Repeat("\xff", 8)+strings.Repeat("\x00", 100)))) // LZMA with a dictionary of 2 GiB
	_, err := apart(t, f)
	require.ErrorIs(t, err, ErrUnknown)
	require.ErrorContains(t, err, "exit status")
}

// One that makes it read for ever is let go of.
func TestEndlessDisk(t *testing.T) {
	f := diskWith(t, "", "ext4", files(nil))
	out, err := exec.CommandContext(t.Context(), "debugfs", "-w", "-R", "set_inode_field /boot/initrd.img-6.1.0-13-amd64 size 8796093022208", f.Name()).CombinedOutput()
	require.NoError(t, err, "%s", out)
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	_, err = Apart(ctx, readerAt(func(p []byte, off int64) (int, error) {
		cancel(enough)
		return f.ReadAt(p, off)
	}), 400<<20, asked, os.Args[0], child)
	require.ErrorIs(t, err, enough)
}

// That a host fails is not what is on the disk.
func TestHostFails(t *testing.T) {
	lost := errors.New("connection lost")
	_, err := Apart(t.Context(), readerAt(func([]byte, int64) (int, error) { return 0, lost }), 1<<30, asked, os.Args[0], child)
	require.ErrorIs(t, err, lost)
	require.NotErrorIs(t, err, ErrUnknown)
}

func TestNewest(t *testing.T) {
	for want, names := range map[string][]string{
		"linux/initramfs-linux.img":                              {"vmlinuz-linux", "initramfs-linux.img", "initramfs-linux-fallback.img"},
		"6.4.0-150600.21-default/initrd-6.4.0-150600.21-default": {"vmlinux-6.4.0-150600.21-default.gz", "vmlinuz-6.4.0-150600.21-default.old", "vmlinuz-6.4.0-150600.21-default", "initrd-6.4.0-150600.21-default"},
		"6.10.0/": {"vmlinuz-6.9.0", "initrd.img-6.9.0", "vmlinuz-6.10.0"},
		"/":       {"initrd.img-6.9.0", "bootmgr"},
	} {
		dir := fstest.MapFS{}
		for _, n := range names {
			dir[n] = &fstest.MapFile{}
		}
		all, err := fs.ReadDir(dir, ".")
		require.NoError(t, err)
		version, ramDisk := newest(all)
		require.Equal(t, want, version+"/"+ramDisk)
	}
}

// What a child says is never trusted: it is where a guest may have got a foot in.
func FuzzServe(f *testing.F) {
	for _, r := range []request{{Length: 512}, {Offset: 1 << 40, Length: ahead}, {Offset: -1}, {Answer: &answer{System: System{Version: "6.1"}}}} {
		var b bytes.Buffer
		require.NoError(f, gob.NewEncoder(&b).Encode(r))
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, said []byte) {
		const size = 1 << 16
		_, _ = serve(readerAt(func(p []byte, off int64) (int, error) {
			require.True(t, off >= 0 && off+int64(len(p)) <= size)
			return len(p), nil
		}), io.Discard, bytes.NewReader(said), question{Size: size})
	})
}

type readerAt func(p []byte, off int64) (int, error)

func (r readerAt) ReadAt(p []byte, off int64) (int, error) { return r(p, off) }
