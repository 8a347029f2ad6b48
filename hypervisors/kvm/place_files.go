package kvm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"sort"

	"golang.org/x/sys/unix"
)

// files is what a place offers beside its programs when its files are within this process's own reach: each does what
// the commands of the function of the same name do, without starting any. A cycle needs some twenty of them.
type files interface {
	readFile(ctx context.Context, name string) ([]byte, error)
	writeFileAtomic(ctx context.Context, name string, data []byte) error
	renameFile(ctx context.Context, from, to string) error
	syncPaths(ctx context.Context, names ...string) error
	removeAll(ctx context.Context, names ...string) error
	list(ctx context.Context, dir string) ([]string, error)
	exists(ctx context.Context, name string) (bool, error)
	freeSpace(ctx context.Context, name string) (space, error)
}

var _ files = (*localPlace)(nil)

// beside does something that changes nothing, and stops waiting for it when ctx ends: storage that hangs, as NFS without
// its server, holds whoever asks it until it is back. Changes are waited for, since one that was given up might still be
// made, when nobody expects it any more.
func beside[T any](ctx context.Context, do func() (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	answers := make(chan answer, 1)
	go func() {
		value, err := do()
		answers <- answer{value, err}
	}()
	select {
	case a := <-answers:
		return a.value, a.err
	case <-ctx.Done():
		return *new(T), ctx.Err()
	}
}

// root is the folder that the place's paths begin at, for the caller to close; nil: our own.
func (p *localPlace) root(ctx context.Context) (*os.File, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n, err := p.resolve(ctx)
	if err != nil || !n.foreign {
		return nil, err
	}
	return dup(n.root)
}

// open opens a file of the place. It holds no lock meanwhile: it may take as long as the storage likes.
func (p *localPlace) open(ctx context.Context, name string, flags uint64) (*os.File, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	root, err := p.root(ctx)
	if err != nil {
		return nil, err
	}
	// A file that comes too late is closed when it is collected.
	return beside(ctx, func() (*os.File, error) {
		if root != nil {
			defer root.Close()
		}
		return openBelow(root, name, flags)
	})
}

func openBelow(root *os.File, name string, flags uint64) (*os.File, error) {
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC}
	at := unix.AT_FDCWD
	if root != nil {
		// Absolute links inside the place (/var/run) must not lead to our own root.
		at, how.Resolve = int(root.Fd()), unix.RESOLVE_IN_ROOT
	}
	for {
		fd, err := unix.Openat2(at, name, &how)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue // EAGAIN: somebody renamed a folder meanwhile
		}
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: name, Err: err}
		}
		return os.NewFile(uintptr(fd), name), nil
	}
}

// within opens the folder of a file and gives the file's path as this process reaches it while the folder is open.
func (p *localPlace) within(ctx context.Context, name string) (dir *os.File, reach string, err error) {
	dir, err = p.open(ctx, path.Dir(name), unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, "", err
	}
	return dir, fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), path.Base(name)), nil
}

func (p *localPlace) readFile(ctx context.Context, name string) ([]byte, error) {
	f, err := p.open(ctx, name, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	return beside(ctx, func() ([]byte, error) {
		defer f.Close()
		return io.ReadAll(f)
	})
}

func (p *localPlace) writeFileAtomic(ctx context.Context, name string, data []byte) error {
	dir, reach, err := p.within(ctx, name)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := writeDurably(reach+".new", data); err != nil {
		return noSpace(errors.Join(err, os.RemoveAll(reach+".new")))
	}
	if err := os.Rename(reach+".new", reach); err != nil {
		return err
	}
	return dir.Sync()
}

func writeDurably(name string, data []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func (p *localPlace) renameFile(ctx context.Context, from, to string) error {
	old, reachFrom, err := p.within(ctx, from)
	if err != nil {
		return err
	}
	defer old.Close()
	dir, reachTo, err := p.within(ctx, to)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := os.Rename(reachFrom, reachTo); err != nil {
		return err
	}
	return dir.Sync()
}

func (p *localPlace) syncPaths(ctx context.Context, names ...string) error {
	for _, name := range names {
		f, err := p.open(ctx, name, unix.O_RDONLY|unix.O_NONBLOCK)
		if err != nil {
			return err
		}
		if _, err := beside(ctx, func() (bool, error) { return true, errors.Join(f.Sync(), f.Close()) }); err != nil {
			return noSpace(err)
		}
	}
	return nil
}

func (p *localPlace) removeAll(ctx context.Context, names ...string) error {
	for _, name := range names {
		dir, reach, err := p.within(ctx, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := errors.Join(os.RemoveAll(reach), dir.Close()); err != nil {
			return err
		}
	}
	return nil
}

func (p *localPlace) list(ctx context.Context, dir string) ([]string, error) {
	f, err := p.open(ctx, dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	names, err := beside(ctx, func() ([]string, error) {
		defer f.Close()
		return f.Readdirnames(-1)
	})
	if err != nil || len(names) == 0 {
		return nil, err
	}
	sort.Strings(names)
	return names, nil
}

func (p *localPlace) exists(ctx context.Context, name string) (bool, error) {
	f, err := p.open(ctx, name, unix.O_PATH|unix.O_NOFOLLOW)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, f.Close()
}

func (p *localPlace) freeSpace(ctx context.Context, name string) (space, error) {
	f, err := p.open(ctx, name, unix.O_PATH)
	if err != nil {
		return space{}, err
	}
	return beside(ctx, func() (space, error) {
		defer f.Close()
		var s unix.Statfs_t
		if err := unix.Fstatfs(int(f.Fd()), &s); err != nil {
			return space{}, &os.PathError{Op: "statfs", Path: name, Err: err}
		}
		return space{Free: int64(s.Bavail) * s.Frsize, Total: int64(s.Blocks) * s.Frsize}, nil
	})
}
