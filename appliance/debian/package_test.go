package debian_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s %s:\n%s", name, strings.Join(args, " "), out)
	return string(out)
}

// build makes a package of a version, with a program that says that version.
func build(t *testing.T, dir, version string) {
	t.Helper()
	program := filepath.Join(dir, "understudy-"+version)
	run(t, "go", "build", "-ldflags", "-X main.version="+version, "-o", program, "..")
	t.Setenv("DEB_COMPRESSION", "gzip") // a release takes longer, and is smaller
	run(t, "./build.sh", program, version, filepath.Join(dir, version+".deb"))
}

// life.sh is run as root of a copy of this machine: its own mounts, processes and network, over which all changes are
// lost. Its output is a line for each thing that was seen.
const life = `
set -eu
fail() { echo "FAILED: $*" >&2; [ ! -e /tmp/log ] || tail -20 /tmp/log >&2; exit 1; }
ip link set lo up
unit=/lib/systemd/system/understudy.service
# What systemd would do with the unit, as far as it matters here.
start() {
	. /etc/default/understudy
	user=$(sed -n 's/^User=//p' $unit)
	exec_start=$(sed -n 's/^ExecStart=//p' $unit | sed "s|\$UNDERSTUDY_OPTIONS|$UNDERSTUDY_OPTIONS|")
	setpriv --reuid "$user" --regid "$user" --init-groups --no-new-privs --bounding-set=-all $exec_start >>/tmp/log 2>&1 &
	daemon=$!
	for i in $(seq 300); do
		understudy about >/dev/null 2>&1 && return
		kill -0 $daemon 2>/dev/null || fail "the daemon ended"
		sleep 0.1
	done
	fail "the daemon does not answer"
}
stop() { kill $daemon; wait $daemon || fail "the daemon did not end well"; }

dpkg --install /debs/1.0.0.deb >/tmp/dpkg 2>&1 || fail "install: $(cat /tmp/dpkg)"
[ "$(stat -c '%U %a' /var/lib/understudy)" = "understudy 700" ] || fail "state directory"
[ "$(stat -c '%U %a' /etc/understudy/keys)" = "understudy 700" ] || fail "key directory"
start
[ "$(stat -c %U /proc/$daemon)" = understudy ] || fail "user"
understudy about | grep -q 1.0.0 || fail "version"
[ "$(stat -c '%U %a' /var/lib/understudy/state.db)" = "understudy 600" ] || fail "state"
appliance=$(understudy about --json | grep '"appliance"')
echo installed

echo 'UNDERSTUDY_OPTIONS="--log-format json"' >/etc/default/understudy
stop
dpkg --install --force-confdef /debs/1.1.0.deb >/tmp/dpkg 2>&1 || fail "upgrade: $(cat /tmp/dpkg)"
grep -q json /etc/default/understudy || fail "the upgrade took the options"
start
grep -q '"msg":"serving"' /tmp/log || fail "the options are not used"
understudy about | grep -q 1.1.0 || fail "version after the upgrade"
[ "$(understudy about --json | grep '"appliance"')" = "$appliance" ] || fail "another appliance after the upgrade"
understudy support-bundle /tmp/bundle.zip && [ -s /tmp/bundle.zip ] || fail "support bundle"
echo upgraded

stop
dpkg --remove understudy >/tmp/dpkg 2>&1 || fail "remove: $(cat /tmp/dpkg)"
[ ! -e /usr/bin/understudy ] || fail "the program is still there"
[ -s /var/lib/understudy/state.db ] && [ -e /etc/default/understudy ] || fail "removing took the state"
echo removed

dpkg --purge understudy >/tmp/dpkg 2>&1 || fail "purge: $(cat /tmp/dpkg)"
for left in /var/lib/understudy /etc/understudy /etc/default/understudy /usr/share/understudy; do
	[ ! -e $left ] || fail "purging left $left"
done
! getent passwd understudy >/dev/null || fail "purging left the user"
echo purged
`

// world.sh makes that copy. Nothing of it can be seen from outside, and it ends with its first process.
const world = `
set -eu
mount --make-rprivate /
mount -t tmpfs -o size=1g tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
cd "$1/root"
mkdir -p debs
mount --bind "$2" debs
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount -t proc proc proc
mount --rbind /dev dev
printf '#!/bin/sh\nexit 101\n' >usr/sbin/policy-rc.d
rm -rf var/lib/understudy etc/understudy etc/default/understudy
exec chroot . /bin/bash -c "$3"
`

func TestLifeOfThePackage(t *testing.T) {
	require.Zero(t, os.Getuid(), "this test must be root to make a world of its own")
	debs, mount := t.TempDir(), t.TempDir()
	build(t, debs, "1.0.0")
	build(t, debs, "1.1.0")
	contents := run(t, "dpkg-deb", "--contents", filepath.Join(debs, "1.0.0.deb"))
	for _, path := range []string{"./lib/systemd/system/understudy.service", "./usr/share/man/man1/understudy.1.gz", "./usr/share/bash-completion/completions/understudy",
		"./usr/share/understudy/grafana/understudy.json"} {
		require.Contains(t, contents, path)
	}
	cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "--pid", "--fork", "--kill-child", "--net", "--uts", "--ipc",
		"/bin/bash", "-c", world, "world", mount, debs, life)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "DEBIAN_FRONTEND=noninteractive"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out, errors bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errors
	err := cmd.Run()
	require.NoError(t, err, "%s%s", out.String(), errors.String())
	for _, stage := range []string{"installed", "upgraded", "removed", "purged"} {
		require.Contains(t, out.String(), stage+"\n")
	}
}

// The unit must be understood by systemd, and must stay as closed as it is.
func TestUnit(t *testing.T) {
	root := t.TempDir()
	unit, err := os.ReadFile("understudy.service")
	require.NoError(t, err)
	path := filepath.Join(root, "lib/systemd/system/understudy.service")
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, unit, 0o644))
	run(t, "systemd-analyze", "security", "--offline=yes", "--threshold=20", path)
	out, _ := exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--man=no", path).CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "understudy.service:") || strings.Contains(line, root) {
			require.Contains(t, line, "/usr/bin/understudy is not executable", "the only fault is that it is not installed here")
		}
	}
}
