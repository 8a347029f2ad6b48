package lab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/vim25/types"
	"github.com/vmware/govmomi/vmdk"
	"golang.org/x/sys/unix"
)

// image is one file of a disk: a base, whose content is its -flat.vmdk, or a layer above another image.
type image struct {
	path    string // "[ds] dir/x.vmdk"
	content string // local file with all bytes of the disk as seen from here
	size    int64
	uuid    string // of the disk: the same in all its layers
	parent  *image
	// version changes whenever content does that layers above rely on; under is the parent's when this layer was made.
	version, under int
	gone           bool // its files were deleted
}

// flat names the content of a base.
func flat(p string) string { return strings.TrimSuffix(p, ".vmdk") + "-flat.vmdk" }

// marker names what a layer has in the datastore instead of content.
func marker(p string) string { return strings.TrimSuffix(p, ".vmdk") + "-sesparse.vmdk" }

// whole says whether all files below an image are there, and as they were when it was made.
func (i *image) whole() bool {
	for ; i != nil; i = i.parent {
		if i.gone || i.parent != nil && (i.parent.gone || i.parent.version != i.under) {
			return false
		}
	}
	return true
}

// create makes an empty base. l.mu is held.
func (l *Lab) create(p string, size int64) (*image, error) {
	local := l.local(p)
	if local == "" {
		return nil, fmt.Errorf("%s: %w", p, os.ErrInvalid)
	}
	i := &image{path: p, content: flat(local), size: size, uuid: uuid.NewString()}
	if err := describe(local, flat(local), size); err != nil {
		return nil, err
	}
	f, err := os.Create(i.content)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return nil, err
	}
	l.images[p] = i
	return i, nil
}

// known finds an image; files that somebody put there by PUT or by copying count as well. l.mu is held.
func (l *Lab) known(p string) *image {
	if i := l.images[p]; i != nil {
		return i
	}
	local := l.local(p)
	st, err := os.Stat(flat(local))
	if local == "" || err != nil {
		return nil
	}
	if _, err := os.Stat(local); err != nil {
		return nil
	}
	i := &image{path: p, content: flat(local), size: st.Size(), uuid: uuid.NewString()}
	l.images[p] = i
	return i
}

// layer makes an image above another; its content is a whole copy. l.mu is held.
func (l *Lab) layer(p string, parent *image, id string) (*image, error) {
	local := l.local(p)
	l.serial++
	i := &image{
		path: p, content: filepath.Join(l.layers(), fmt.Sprintf("%06d.raw", l.serial)), size: parent.size, uuid: id,
		parent: parent, under: parent.version,
	}
	if err := clone(parent.content, i.content); err != nil {
		return nil, err
	}
	if err := describe(local, marker(local), parent.size); err != nil {
		return nil, errors.Join(err, os.Remove(i.content))
	}
	if err := os.WriteFile(marker(local), []byte("a layer, not a disk\n"), 0o600); err != nil {
		return nil, errors.Join(err, os.Remove(i.content), os.Remove(local))
	}
	l.images[p] = i
	return i, nil
}

// next is the first free name for a layer of a disk, beside it. l.mu is held.
func (l *Lab) next(p string) string {
	stem := strings.TrimSuffix(p, ".vmdk")
	if n := len(stem) - 7; n > 0 && stem[n] == '-' && strings.Trim(stem[n+1:], "0123456789") == "" {
		stem = stem[:n]
	}
	for n := 1; ; n++ {
		name := fmt.Sprintf("%s-%06d.vmdk", stem, n)
		if _, err := os.Stat(l.local(name)); l.images[name] == nil && err != nil {
			return name
		}
	}
}

// erase deletes an image with its files. l.mu is held.
func (l *Lab) erase(i *image) {
	i.gone = true
	delete(l.images, i.path)
	local := l.local(i.path)
	for _, name := range []string{local, flat(local), marker(local), i.content} {
		if err := os.Remove(name); err != nil && !os.IsNotExist(err) {
			l.log.Warn("delete a file of a disk", "file", name, "error", err)
		}
	}
}

// merge folds a layer into its parent: the parent's file lives on, with the layer's content. l.mu is held.
func (l *Lab) merge(child *image) error {
	into := child.parent
	if err := os.Rename(child.content, into.content); err != nil {
		return err
	}
	into.size = child.size
	into.version++
	l.erase(child)
	return nil
}

// grow a base. l.mu is held.
func (i *image) grow(local string, size int64) error {
	if size < i.size {
		return fmt.Errorf("%s cannot shrink: %w", i.path, os.ErrInvalid)
	}
	if err := os.Truncate(i.content, size); err != nil {
		return err
	}
	i.size = size
	i.version++
	return describe(local, i.content, size)
}

// describe writes the descriptor of a disk.
func describe(local, extent string, size int64) error {
	f, err := os.Create(local)
	if err != nil {
		return err
	}
	d := vmdk.NewDescriptor(vmdk.Extent{Info: filepath.Base(extent), Size: size / vmdk.SectorSize})
	return errors.Join(d.Write(f), f.Close())
}

// clone copies a file with its holes, by reference where the file system can.
func clone(from, to string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	if unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) == nil {
		return nil
	}
	st, err := src.Stat()
	if err != nil {
		return err
	}
	if err := dst.Truncate(st.Size()); err != nil {
		return err
	}
	return pieces(src, st.Size(), func(off, n int64) error {
		_, err := io.Copy(io.NewOffsetWriter(dst, off), io.NewSectionReader(src, off, n))
		return err
	})
}

// pieces calls do for what is allocated in a file.
func pieces(f *os.File, size int64, do func(off, n int64) error) error {
	for off := int64(0); off < size; {
		start, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		if err != nil {
			return err
		}
		end, err := unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if err := do(start, end-start); err != nil {
			return err
		}
		off = end
	}
	return nil
}

// locked says that a file is in use.
func locked(i *image) types.BaseMethodFault {
	return &types.FileLocked{FileFault: types.FileFault{File: i.path}}
}

// trouble turns what went wrong with local files into what ESX says.
func trouble(p string, err error) types.BaseMethodFault {
	switch {
	case errors.Is(err, os.ErrNotExist):
		return &types.FileNotFound{FileFault: types.FileFault{File: p}}
	case errors.Is(err, os.ErrExist):
		return &types.FileAlreadyExists{FileFault: types.FileFault{File: p}}
	case errors.Is(err, unix.ENOSPC):
		return full(p)
	}
	return &types.CannotAccessFile{FileFault: types.FileFault{File: p, VimFault: types.VimFault{MethodFault: types.MethodFault{
		FaultMessage: []types.LocalizableMessage{{Key: "vim.hostd.file", Message: err.Error()}}}}}}
}

func full(p string) types.BaseMethodFault {
	return &types.NoDiskSpace{FileFault: types.FileFault{File: p}, Datastore: Datastore}
}
