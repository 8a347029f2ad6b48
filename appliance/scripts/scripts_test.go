package scripts_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/api"
	"understudy/appliance/scripts"
)

// directory has one script, and is one that may be used.
func directory(t *testing.T, text string) scripts.Dir {
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o755))
	write(t, filepath.Join(dir, "run.sh"), text)
	return scripts.Dir(dir)
}

func write(t *testing.T, path, text string) {
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	require.NoError(t, os.Chmod(path, 0o755))
}

func TestScriptRuns(t *testing.T) {
	t.Setenv("UNDERSTUDY_SECRET", "of the daemon")
	d := directory(t, "#!/bin/sh\necho \"$@\"; echo oops >&2; env | sort; pwd\n")
	out, err := d.Run(t.Context(), scripts.Call{Name: "run.sh", Args: []string{"a b", "$(id)"}, Env: map[string]string{"UNDERSTUDY_TEST": "1"}})
	require.NoError(t, err)
	require.Equal(t, "a b $(id)\noops\nHOME=/\nLANG=C.UTF-8\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nPWD=/\nUNDERSTUDY_TEST=1\n/\n", out)
}

func TestScriptThatFails(t *testing.T) {
	out, err := directory(t, "#!/bin/sh\necho why\nexit 7\n").Run(t.Context(), scripts.Call{Name: "run.sh"})
	require.ErrorContains(t, err, "exit status 7")
	require.Equal(t, "why\n", out)
	_, err = directory(t, "#!/no/such/interpreter\n").Run(t.Context(), scripts.Call{Name: "run.sh"})
	require.Equal(t, api.CodeInvalid, api.CodeOf(err))
}

// gone says that a process has ended, reaped or not.
func gone(pid string) bool {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) || err == nil && strings.Contains(string(stat), ") Z ")
}

// The time limit, a cancel and the end of the script itself end everything in its process group.
func TestWholeGroupIsKilled(t *testing.T) {
	const child = "#!/bin/sh\nsleep 1000 &\necho $!\n"
	for name, c := range map[string]struct {
		text    string
		timeout time.Duration
		cancel  bool
		says    string
	}{
		"time limit": {text: child + "wait\n", timeout: 300 * time.Millisecond, says: "time limit of 300ms"},
		"cancel":     {text: child + "touch \"$1\"\nwait\n", cancel: true, says: "enough"},
		"its end":    {text: child},
	} {
		t.Run(name, func(t *testing.T) {
			d := directory(t, c.text)
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			begun := filepath.Join(t.TempDir(), "begun")
			if c.cancel {
				go func() {
					for ctx.Err() == nil {
						if _, err := os.Stat(begun); err == nil {
							cancel(errors.New("enough"))
						}
						time.Sleep(time.Millisecond)
					}
				}()
			}
			out, err := d.Run(ctx, scripts.Call{Name: "run.sh", Args: []string{begun}, Timeout: c.timeout})
			if c.says == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, c.says)
			}
			pid := strings.TrimSpace(out)
			require.NotEmpty(t, pid)
			require.Eventually(t, func() bool { return gone(pid) }, time.Minute, time.Millisecond)
		})
	}
}

func TestOutputIsBounded(t *testing.T) {
	out, err := directory(t, "#!/bin/sh\necho first\nhead -c 1000000 /dev/zero | tr '\\0' x\nprintf '\\377'\necho last\n").Run(t.Context(), scripts.Call{Name: "run.sh"})
	require.NoError(t, err)
	require.Less(t, len(out), scripts.MaxOutput+100)
	require.True(t, strings.HasPrefix(out, "first\nxx"))
	require.Contains(t, out, "bytes left out")
	require.True(t, strings.HasSuffix(out, "x\uFFFDlast\n"))
}

// What somebody else can change is not run, nor what lies elsewhere.
func TestOnlyTrustedScripts(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside.sh")
	write(t, outside, "#!/bin/sh\n")
	for name, c := range map[string]struct {
		spoil func(t *testing.T, dir string)
		call  string
		says  string
	}{
		"path":               {call: "../run.sh", says: "no name of a script"},
		"absolute":           {call: outside, says: "no name of a script"},
		"nothing":            {call: "", says: "no name of a script"},
		"missing":            {call: "other.sh", says: "there is no script"},
		"writable":           {call: "run.sh", says: "others can write", spoil: func(t *testing.T, dir string) { require.NoError(t, os.Chmod(filepath.Join(dir, "run.sh"), 0o777)) }},
		"writable by group":  {call: "run.sh", says: "others can write", spoil: func(t *testing.T, dir string) { require.NoError(t, os.Chmod(filepath.Join(dir, "run.sh"), 0o775)) }},
		"writable directory": {call: "run.sh", says: "others can write", spoil: func(t *testing.T, dir string) { require.NoError(t, os.Chmod(dir, 0o777)) }},
		"not executable":     {call: "run.sh", says: "not executable", spoil: func(t *testing.T, dir string) { require.NoError(t, os.Chmod(filepath.Join(dir, "run.sh"), 0o644)) }},
		"link":               {call: "link.sh", says: "no regular file", spoil: func(t *testing.T, dir string) { require.NoError(t, os.Symlink(outside, filepath.Join(dir, "link.sh"))) }},
		"directory":          {call: "sub", says: "no regular file", spoil: func(t *testing.T, dir string) { require.NoError(t, os.Mkdir(filepath.Join(dir, "sub"), 0o755)) }},
		"of somebody else": {call: "run.sh", says: "another user", spoil: func(t *testing.T, dir string) {
			if os.Geteuid() != 0 {
				t.Skip("only root can give files away")
			}
			require.NoError(t, os.Chown(filepath.Join(dir, "run.sh"), 12345, 0))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			d := directory(t, "#!/bin/sh\necho it ran\n")
			if c.spoil != nil {
				c.spoil(t, string(d))
			}
			out, err := d.Run(t.Context(), scripts.Call{Name: c.call})
			require.Equal(t, api.CodeInvalid, api.CodeOf(err), "%v", err)
			require.ErrorContains(t, err, c.says)
			require.Empty(t, out)
			require.Error(t, d.Check(c.call))
		})
	}
}

func TestScriptsAreListed(t *testing.T) {
	d := directory(t, "#!/bin/sh\n")
	require.NoError(t, os.WriteFile(filepath.Join(string(d), "README"), nil, 0o644))
	require.NoError(t, os.Symlink("run.sh", filepath.Join(string(d), "link.sh")))
	list, err := d.List()
	require.NoError(t, err)
	require.Equal(t, []api.Script{{Name: "run.sh", Size: 10}}, list)
	list, err = scripts.Dir(filepath.Join(string(d), "nowhere")).List()
	require.NoError(t, err)
	require.Empty(t, list)
	require.NoError(t, os.Chmod(string(d), 0o777))
	_, err = d.List()
	require.ErrorContains(t, err, "others can write")
}
