package esx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"understudy/hypervisors"
)

const (
	devicePatience = time.Minute
	devicePause    = 50 * time.Millisecond
	// sector is what a disk is read and written in, pageSize what memory for that begins at; bounce is how much is moved
	// through memory of our own at once.
	sector, pageSize, bounce = 512, 4096, 1 << 20
)

// device is an open disk at our own machine. It is read and written past the page cache, where the system can: what the
// host froze is not what an earlier disk of the same name left in memory, and copies do not push out what others need.
type device struct {
	file *os.File
	size int64
	mu   sync.RWMutex // written while a part of a sector is put into its whole
}

// openDevice waits until a disk appears, and opens it.
func (h *host) openDevice(ctx context.Context, i diskFile, write bool) (*device, error) {
	path := h.devicePath(i.uuid)
	patience, cancel := context.WithTimeout(ctx, devicePatience)
	defer cancel()
	for {
		d, err := openDirect(path, i.size, write)
		if !errors.Is(err, fs.ErrNotExist) {
			return d, err
		}
		if pause(patience, devicePause) != nil {
			if errors.Is(ctx.Err(), context.Canceled) {
				return nil, context.Cause(ctx)
			}
			return nil, &hypervisors.Error{Op: "find", Subject: "disk " + i.file, Err: fmt.Errorf("%w: %s does not appear", hypervisors.ErrTimeout, path),
				Hint: "Set disk.EnableUUID to TRUE for the appliance's own machine, and look at its kernel's log."}
		}
	}
}

// waitGone waits until the kernel has let a disk go; one that is left to it would be there again under another disk.
func (h *host) waitGone(ctx context.Context, id string) error {
	path := h.devicePath(id)
	if target, err := filepath.EvalSymlinks(path); err == nil {
		// The kernel is told by nobody that a disk is gone.
		if err := os.WriteFile(filepath.Join("/sys/block", filepath.Base(target), "device/delete"), []byte("1"), 0o200); err != nil && !errors.Is(err, fs.ErrNotExist) {
			h.log.Warn("a detached disk stays known to the kernel", "device", target, "error", err)
		}
	}
	patience, cancel := context.WithTimeout(ctx, devicePatience)
	defer cancel()
	for {
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err := pause(patience, devicePause); err != nil {
			return &hypervisors.Error{Op: "detach", Subject: "disk " + id, Err: fmt.Errorf("%w: %s stays", hypervisors.ErrTimeout, path),
				Hint: "Look at the kernel's log of the appliance."}
		}
	}
}

func openDirect(path string, size int64, write bool) (*device, error) {
	flags := os.O_RDONLY
	if write {
		flags = os.O_RDWR
	}
	f, err := os.OpenFile(path, flags|unix.O_DIRECT, 0)
	if errors.Is(err, syscall.EINVAL) { // some file systems cannot
		f, err = os.OpenFile(path, flags, 0)
	}
	if err != nil {
		return nil, err
	}
	d := &device{file: f, size: size}
	if end, err := f.Seek(0, io.SeekEnd); err != nil || end < size {
		return nil, errors.Join(fmt.Errorf("%w: %s has %d bytes, the disk %d", hypervisors.ErrInvalid, path, end, size), err, f.Close())
	}
	return d, nil
}

func (d *device) Size() int64  { return d.size }
func (d *device) Close() error { return d.file.Close() }

// ReadAt implements io.ReaderAt.
func (d *device) ReadAt(p []byte, off int64) (int, error) {
	if off >= d.size {
		return 0, io.EOF
	}
	want := p[:min(int64(len(p)), d.size-off)]
	d.mu.RLock()
	defer d.mu.RUnlock()
	n, err := d.read(want, off)
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

func (d *device) read(p []byte, off int64) (int, error) {
	if aligned(p, off) {
		return d.file.ReadAt(p, off)
	}
	buffer := alignedMemory(min(bounce, up(off+int64(len(p)))-down(off)))
	done := 0
	for done < len(p) {
		from := down(off + int64(done))
		n, err := d.file.ReadAt(buffer[:min(int64(len(buffer)), up(off+int64(len(p)))-from)], from)
		skip := int(off + int64(done) - from)
		if n <= skip {
			return done, errors.Join(io.ErrUnexpectedEOF, err)
		}
		done += copy(p[done:], buffer[skip:n])
	}
	return done, nil
}

// WriteAt implements io.WriterAt. Parts of sectors are read first.
func (d *device) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > d.size {
		return 0, fmt.Errorf("%w: write of %d bytes at %d of %d", hypervisors.ErrInvalid, len(p), off, d.size)
	}
	if aligned(p, off) {
		d.mu.RLock()
		defer d.mu.RUnlock()
		return d.file.WriteAt(p, off)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	done := 0
	for done < len(p) {
		from := down(off + int64(done))
		whole := alignedMemory(min(bounce, up(off+int64(len(p)))-from))
		skip := int(off + int64(done) - from)
		n := min(len(p)-done, len(whole)-skip)
		if skip > 0 || (skip+n)%sector > 0 {
			if _, err := d.file.ReadAt(whole, from); err != nil && !errors.Is(err, io.EOF) {
				return done, err
			}
		}
		copy(whole[skip:], p[done:done+n])
		if _, err := d.file.WriteAt(whole, from); err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// Zero makes a part read as zeros. What is whole is given back to the datastore where it can be.
func (d *device) Zero(off, n int64) error {
	if off < 0 || n < 0 || off+n > d.size {
		return fmt.Errorf("%w: zeros of %d bytes at %d of %d", hypervisors.ErrInvalid, n, off, d.size)
	}
	from, to := up(off), down(off+n)
	if from < to {
		err := unix.Fallocate(int(d.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, from, to-from)
		if err == nil {
			return errors.Join(d.zeros(off, from-off), d.zeros(to, off+n-to))
		}
		if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENODEV) {
			return err
		}
	}
	return d.zeros(off, n)
}

// zeros writes them.
func (d *device) zeros(off, n int64) error {
	if n <= 0 {
		return nil
	}
	some := alignedMemory(up(min(n, bounce)))
	for n > 0 {
		part := some[:min(n, int64(len(some)))]
		if _, err := d.WriteAt(part, off); err != nil {
			return err
		}
		off, n = off+int64(len(part)), n-int64(len(part))
	}
	return nil
}

// Flush makes durable what was written.
func (d *device) Flush(context.Context) error { return d.file.Sync() }

func down(off int64) int64 { return off &^ (sector - 1) }
func up(off int64) int64   { return down(off + sector - 1) }

// aligned says that the kernel can move memory from and to a disk as it is.
func aligned(p []byte, off int64) bool {
	return len(p) > 0 && off%sector == 0 && len(p)%sector == 0 && uintptr(unsafe.Pointer(unsafe.SliceData(p)))%sector == 0
}

// alignedMemory begins at a page.
func alignedMemory(n int64) []byte {
	b := make([]byte, n+pageSize)
	skip := int64(0)
	if over := int64(uintptr(unsafe.Pointer(unsafe.SliceData(b))) % pageSize); over > 0 {
		skip = pageSize - over
	}
	return b[skip : skip+n : skip+n]
}
