// Package scripts runs the scripts that runbooks name. It owns what may be run (regular files of one directory that
// nobody but root and the daemon's user can change), and how: with a clean environment, in a process group of its own
// that ends with its time limit, its output captured. It never takes a path, never runs a shell, and knows nothing of
// groups and orders.
//
// A script that was at work when the appliance was killed is run again afterwards. What it started the first time may
// still be there, so scripts must stand being run twice.
package scripts

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"understudy/api"
)

// Limits.
const (
	MaxOutput      = 64 << 10 // bytes that are kept of the output of a run
	DefaultTimeout = 5 * time.Minute

	maxListed = 1000 // scripts
	// lastWords is how long a script that has ended, or was killed, may still have its output open in a process that left
	// its group.
	lastWords = 2 * time.Second
)

// Dir is the directory in which the scripts are.
type Dir string

// Call is one run of a script.
type Call struct {
	Name    string
	Args    []string
	Env     map[string]string // besides PATH, HOME and LANG
	Timeout time.Duration     // 0: DefaultTimeout
}

var name = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}$`)

// List gives the scripts that can be run, by name. A directory that is not there has none; one that others can change is an
// error.
func (d Dir) List() ([]api.Script, error) {
	found := []api.Script{}
	switch err := d.check(); {
	case errors.Is(err, fs.ErrNotExist):
		return found, nil
	case err != nil:
		return nil, err
	}
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return nil, fmt.Errorf("list scripts: %w", err)
	}
	for _, e := range entries {
		if size, err := d.usable(e.Name()); err == nil && len(found) < maxListed {
			found = append(found, api.Script{Name: e.Name(), Size: size})
		}
	}
	return found, nil
}

// Check tells why a script cannot be run; nil: it can.
func (d Dir) Check(script string) error {
	if err := d.check(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_, err := d.usable(script)
	return err
}

// check makes sure that nobody else can put scripts into the directory.
func (d Dir) check() error {
	info, err := os.Stat(string(d))
	if err != nil {
		return fmt.Errorf("scripts directory: %w", err)
	}
	if !info.IsDir() {
		return refused(string(d), "it is no directory")
	}
	return trusted(string(d), info)
}

// trusted says that a file belongs to root or to us, and that nobody else can write to it.
func trusted(path string, info fs.FileInfo) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || stat.Uid != 0 && int(stat.Uid) != os.Geteuid() {
		return refused(path, "it belongs to another user than root and the daemon's")
	}
	if info.Mode().Perm()&0o022 != 0 {
		return refused(path, "others can write to it")
	}
	return nil
}

func refused(path, why string) error {
	return api.Errorf(api.CodeInvalid, "Let it belong to root, with mode 0755.", "%s is not run: %s", path, why)
}

// usable gives the size of a script that may be run.
func (d Dir) usable(script string) (int64, error) {
	if !name.MatchString(script) {
		return 0, api.Errorf(api.CodeInvalid, "Name a file of the scripts directory, without a path.", "%q is no name of a script", script)
	}
	path := filepath.Join(string(d), script)
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return 0, api.Errorf(api.CodeInvalid, "Put it there, executable and belonging to root.", "there is no script %s in %s", script, string(d))
	case err != nil:
		return 0, fmt.Errorf("look at script: %w", err)
	case !info.Mode().IsRegular():
		return 0, refused(path, "it is no regular file")
	case info.Mode().Perm()&0o111 == 0:
		return 0, refused(path, "it is not executable")
	}
	return info.Size(), trusted(path, info)
}

// Run runs a script and gives what it wrote, on both outputs together, whatever the error: that it failed, that its time
// was over, or that ctx ended. All of its process group is killed before Run returns.
func (d Dir) Run(ctx context.Context, c Call) (output string, err error) {
	if err := d.Check(c.Name); err != nil {
		return "", err
	}
	timeout := c.Timeout
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(limited, filepath.Join(string(d), c.Name), c.Args...)
	cmd.Dir = "/"
	cmd.Env = environment(c.Env)
	var out capture
	cmd.Stdout, cmd.Stderr = &out, &out
	// The process itself ends with the appliance even when that is killed: Pdeathsig goes by the thread that starts it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = lastWords
	if err := cmd.Start(); err != nil {
		return "", api.Errorf(api.CodeInvalid, "Its first line must name an interpreter that is installed.", "script %s cannot be started: %w", c.Name, err)
	}
	// What it left in its group ends before the process is reaped: afterwards the number may be somebody else's.
	for unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	err = cmd.Wait()
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case limited.Err() != nil:
		err = fmt.Errorf("script %s was killed after its time limit of %s", c.Name, timeout)
	case errors.Is(err, exec.ErrWaitDelay):
		err = nil // it ended well, and somebody else held its output
	case err != nil:
		err = fmt.Errorf("script %s failed: %w", c.Name, err)
	}
	return out.String(), err
}

// environment is the same whoever started the appliance, and how.
func environment(given map[string]string) []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", "LANG=C.UTF-8"}
	for key, value := range given {
		env = append(env, key+"="+strings.ReplaceAll(value, "\x00", ""))
	}
	slices.Sort(env)
	return env
}
