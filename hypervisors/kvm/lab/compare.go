package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
)

// Image is the content of a disk image, read at the moment it was opened.
type Image struct {
	*os.File // raw content
	Size     int64
}

// Close ends reading and removes the copy.
func (i *Image) Close() error { return errors.Join(i.File.Close(), os.Remove(i.Name())) }

// ReadImage reads an image of the host with everything below it in its chain. QEMU may hold the image at the same time;
// what it then still writes may be there or not.
func (h *Host) ReadImage(ctx context.Context, name string) (*Image, error) {
	f, err := os.CreateTemp(h.lab.Dir, "image-")
	if err != nil {
		return nil, err
	}
	img := &Image{File: f}
	// Converted in the host, whose paths the chain is made of; the lab's directory is the same inside.
	if _, err := h.Exec(ctx, "qemu-img", "convert", "-q", "--force-share", "-O", "raw", name, f.Name()); err != nil {
		return nil, errors.Join(err, img.Close())
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, img.Close())
	}
	img.Size = info.Size()
	return img, nil
}

// Compare says, in the words of qemu-img compare, whether two images have the same content: nil when they do.
func Compare(ctx context.Context, a, b *Image) error {
	if a.Size != b.Size {
		return fmt.Errorf("%s has %d bytes, %s has %d", a.Name(), a.Size, b.Name(), b.Size)
	}
	cmd := exec.CommandContext(ctx, "qemu-img", "compare", "-f", "raw", "-F", "raw", a.Name(), b.Name())
	out, err := run(cmd, "qemu-img compare")
	if err != nil {
		return fmt.Errorf("%w %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// Changed counts the bytes of the blocks, of the given size, in which two images differ.
func Changed(a, b *Image, block int64) (int64, error) {
	var changed int64
	left, right := make([]byte, block), make([]byte, block)
	for off := int64(0); off < max(a.Size, b.Size); off += block {
		n, err := a.ReadAt(left, off)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		m, err := b.ReadAt(right, off)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		if !bytes.Equal(left[:n], right[:m]) {
			changed += int64(max(n, m))
		}
	}
	return changed, nil
}

// FileSystemClean says whether the file system of a guest's disk A needs no recovery: true when it was unmounted or
// frozen at that moment.
func FileSystemClean(diskA io.ReaderAt) (bool, error) {
	const superblock, magicAt, incompatAt = dataOffset + 1024, 56, 96
	b := make([]byte, 1024)
	if _, err := diskA.ReadAt(b, superblock); err != nil {
		return false, fmt.Errorf("read superblock: %w", err)
	}
	if b[magicAt] != 0x53 || b[magicAt+1] != 0xEF {
		return false, errors.New("no ext4 superblock where the guest has one")
	}
	const needsRecovery = 0x4
	return b[incompatAt]&needsRecovery == 0, nil
}
