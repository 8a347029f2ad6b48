package kvm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"path"
	"sort"
	"strconv"
	"strings"

	"understudy/hypervisors"
)

// place is the machine where libvirtd lives, as far as its files, programs and sockets are concerned. Everything that
// is done there goes through these few calls, so that a host in this process's own namespaces, one in a container and
// one behind SSH are the same to the rest of the driver.
type place interface {
	// Run runs a short command to its end and returns what it printed. A command that fails is a *runError. Without
	// stdin the command is ended with ctx, with the connection and with this process.
	Run(ctx context.Context, stdin io.Reader, argv ...string) ([]byte, error)
	// Start starts a command that lives until it is stopped, until this process dies or the connection is lost.
	Start(ctx context.Context, argv ...string) (*process, error)
	// Pipe starts a command and connects to its standard input and output. Close closes its input, on which it should
	// end, and ends it when it does not.
	Pipe(ctx context.Context, argv ...string) (io.ReadWriteCloser, error)
	// Dial connects to a unix socket of the place.
	Dial(ctx context.Context, unixPath string) (net.Conn, error)
	// SharesMemory says that the place's processes run on this machine's kernel, and that Dial's connections carry
	// descriptors (*net.UnixConn), so that memory can be shared with them.
	SharesMemory() bool
	Close() error
}

// runError is a command that ended with a status other than zero. It is fs.ErrNotExist, fs.ErrExist, fs.ErrPermission
// or hypervisors.ErrNoSpace when the command's own words say so; commands run in the C locale for that.
type runError struct {
	Argv   []string
	Status int
	Stderr string
}

func (e *runError) Error() string {
	text := strings.TrimSpace(e.Stderr)
	if text == "" {
		text = fmt.Sprintf("ended with status %d", e.Status)
	}
	return e.Argv[0] + ": " + text
}

func (e *runError) Is(target error) bool {
	switch target {
	case fs.ErrNotExist:
		return strings.Contains(e.Stderr, "No such file or directory")
	case fs.ErrExist:
		return strings.Contains(e.Stderr, "File exists")
	case fs.ErrPermission:
		return strings.Contains(e.Stderr, "Permission denied")
	case hypervisors.ErrNoSpace:
		return strings.Contains(e.Stderr, "No space left on device")
	}
	return false
}

// readFile returns the content of a file, or an error that is fs.ErrNotExist.
func readFile(ctx context.Context, p place, name string) ([]byte, error) {
	if f, ok := p.(files); ok {
		return f.readFile(ctx, name)
	}
	return p.Run(ctx, nil, "cat", "--", name)
}

// writeFileAtomic makes the file hold exactly data, durably: afterwards it is there with the new content, or, after an
// error, as it was. The length is compared at the place, since a lost connection looks to the command like the end of
// the data.
func writeFileAtomic(ctx context.Context, p place, name string, data []byte) error {
	if f, ok := p.(files); ok {
		return f.writeFileAtomic(ctx, name, data)
	}
	const script = `set -e
cat >"$1.new"
[ "$(wc -c <"$1.new")" -eq "$2" ] || { rm -f -- "$1.new"; echo "data was cut short" >&2; exit 1; }
sync -- "$1.new"
mv -f -- "$1.new" "$1"
sync -- "$3"`
	_, err := p.Run(ctx, bytes.NewReader(data), "sh", "-c", script, "write", name, strconv.Itoa(len(data)), path.Dir(name))
	return err
}

// renameFile moves a file or folder over another name of the same folder, durably.
func renameFile(ctx context.Context, p place, from, to string) error {
	if f, ok := p.(files); ok {
		return f.renameFile(ctx, from, to)
	}
	_, err := p.Run(ctx, nil, "sh", "-c", `mv -fT -- "$1" "$2" && sync -- "$3"`, "rename", from, to, path.Dir(to))
	return err
}

// syncPaths makes files, or the entries of folders, durable.
func syncPaths(ctx context.Context, p place, names ...string) error {
	if f, ok := p.(files); ok {
		return f.syncPaths(ctx, names...)
	}
	_, err := p.Run(ctx, nil, append([]string{"sync", "--"}, names...)...)
	return err
}

// removeAll removes files and whole folders; those that are not there are fine.
func removeAll(ctx context.Context, p place, names ...string) error {
	if len(names) == 0 {
		return nil
	}
	if f, ok := p.(files); ok {
		return f.removeAll(ctx, names...)
	}
	_, err := p.Run(ctx, nil, append([]string{"rm", "-rf", "--"}, names...)...)
	return err
}

func mkdirAll(ctx context.Context, p place, dir string) error {
	_, err := p.Run(ctx, nil, "mkdir", "-p", "--", dir)
	return err
}

// list returns the names in a folder, in order; a folder that is not there has none.
func list(ctx context.Context, p place, dir string) ([]string, error) {
	if f, ok := p.(files); ok {
		return f.list(ctx, dir)
	}
	// -print0 and not ls: names may hold anything but a zero byte.
	out, err := p.Run(ctx, nil, "find", dir, "-mindepth", "1", "-maxdepth", "1", "-printf", `%f\0`)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil || len(out) == 0 {
		return nil, err
	}
	names := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	sort.Strings(names)
	return names, nil
}

func exists(ctx context.Context, p place, name string) (bool, error) {
	if f, ok := p.(files); ok {
		return f.exists(ctx, name)
	}
	_, err := p.Run(ctx, nil, "stat", "-c", "%i", "--", name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// space is the room of a file system in bytes.
type space struct{ Free, Total int64 }

// freeSpace measures the file system that holds the path, as an unprivileged writer would find it.
func freeSpace(ctx context.Context, p place, name string) (space, error) {
	if f, ok := p.(files); ok {
		return f.freeSpace(ctx, name)
	}
	out, err := p.Run(ctx, nil, "stat", "-f", "-c", "%a %b %S", "--", name)
	if err != nil {
		return space{}, err
	}
	var free, total, block int64
	if _, err := fmt.Sscan(string(out), &free, &total, &block); err != nil {
		return space{}, fmt.Errorf("stat -f %s: unexpected %q", name, out)
	}
	return space{Free: free * block, Total: total * block}, nil
}
