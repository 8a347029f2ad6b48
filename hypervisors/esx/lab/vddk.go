package lab

import (
	"context"
	"crypto/sha1" //nolint:gosec // what VMware's library knows certificates by
	_ "embed"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

//go:embed vddk/vixdisklib.c
var vixDiskLib []byte

// VDDK makes a folder with a stand-in for VMware's library, as the user would supply it, that reads the disks of this lab.
// The compiler gcc makes it. In the file "asked" the library notes what it was asked for.
func (l *Lab) VDDK(ctx context.Context) (folder string, err error) {
	folder = filepath.Join(l.o.Dir, "vddk")
	if err := os.MkdirAll(filepath.Join(folder, "lib64"), 0o700); err != nil {
		return "", err
	}
	source := filepath.Join(folder, "vixdisklib.c")
	if err := os.WriteFile(source, vixDiskLib, 0o600); err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, "gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", source, "-o", filepath.Join(folder, "lib64", "libvixDiskLib.so.8")).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("gcc: %w: %s", err, out)
	}
	host, port, err := net.SplitHostPort(l.server.URL.Host)
	if err != nil {
		return "", err
	}
	sum := sha1.Sum(l.server.Certificate().Raw) //nolint:gosec // see above
	known := fmt.Sprintf("server %s\nport %s\nuser %s\npassword %s\nthumbprint %s\n", host, port, l.User, l.Password,
		strings.ReplaceAll(fmt.Sprintf("% X", sum), " ", ":"))
	for name, dir := range l.datastore {
		known += fmt.Sprintf("datastore %s=%s\n", name, dir)
	}
	return folder, os.WriteFile(filepath.Join(folder, "lab"), []byte(known), 0o600)
}
