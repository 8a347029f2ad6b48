package lab_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"understudy/hypervisors/kvm/lab"
	"understudy/hypervisors/kvm/lab/record"
)

func start(t *testing.T) *lab.Lab {
	t.Helper()
	l, err := lab.Start(t.Context(), lab.Options{Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, l.Close(context.Background()))
		require.Empty(t, l.Leftovers())
	})
	return l
}

// TestLab walks through everything that other tests rely on.
func TestLab(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	l := start(t)

	for _, h := range []*lab.Host{l.Source, l.Target} {
		name, err := h.Virsh(ctx, "hostname")
		require.NoError(t, err)
		require.Equal(t, h.Name, name)
		over, err := h.Exec(ctx, "virsh", "--connect", "qemu:///system", "net-list", "--name")
		require.NoError(t, err)
		require.Contains(t, string(over), lab.Production)
	}

	g, err := l.StartGuest(ctx, l.Source, lab.GuestOptions{Name: "vm1", Number: 1, Fill: 1 << 20})
	require.NoError(t, err)
	require.NoError(t, g.WaitSeq(ctx, 20))
	_, err = l.Target.Status(ctx, g.Addr)
	require.Error(t, err, "the hosts' networks must be apart")

	t.Run("libvirtd ends, the guest runs on", func(t *testing.T) {
		require.NoError(t, l.Source.Kill())
		require.Zero(t, l.Source.Libvirtd())
		require.NoError(t, g.WaitSeq(ctx, 5))
		require.NoError(t, l.Source.Restart(ctx))
		state, err := l.Source.Virsh(ctx, "domstate", g.Name)
		require.NoError(t, err)
		require.Equal(t, "running", state)
	})
	t.Run("agent freezes the file system", func(t *testing.T) {
		require.Eventually(t, func() bool {
			_, err := l.Source.Virsh(ctx, "qemu-agent-command", g.Name, `{"execute":"guest-ping"}`)
			return err == nil
		}, time.Minute, 200*time.Millisecond)
		require.False(t, clean(t, g), "a mounted file system needs recovery")
		_, err := l.Source.Virsh(ctx, "domfsfreeze", g.Name)
		require.NoError(t, err)
		require.True(t, clean(t, g))
		_, err = l.Source.Virsh(ctx, "domfsthaw", g.Name)
		require.NoError(t, err)
	})
	t.Run("crash loses no record", func(t *testing.T) {
		before, err := g.Status(ctx)
		require.NoError(t, err)
		require.NoError(t, g.KillQEMU(ctx))
		report := check(t, g)
		require.GreaterOrEqual(t, report.Newest(), before.Seq)
		require.Eventually(t, func() bool { return g.Start(ctx) == nil }, 2*time.Minute, 200*time.Millisecond)
		after, err := g.Status(ctx)
		require.NoError(t, err)
		require.EqualValues(t, 2, after.Boots)
		require.Equal(t, report.Newest(), after.Recovered)
		require.Empty(t, after.Problems)
	})
	t.Run("shuts down when asked", func(t *testing.T) {
		require.NoError(t, g.WaitSeq(ctx, 5))
		for _, mode := range []string{"acpi", "agent"} {
			_, err := l.Source.Virsh(ctx, "shutdown", "--mode", mode, g.Name)
			require.NoError(t, err)
			require.Eventually(t, func() bool {
				state, err := l.Source.Virsh(ctx, "domstate", g.Name)
				return err == nil && state == "shut off"
			}, time.Minute, 100*time.Millisecond, mode)
			require.True(t, clean(t, g), mode)
			check(t, g)
			if mode == "acpi" {
				require.NoError(t, g.Start(ctx))
				require.Eventually(t, func() bool {
					_, err := l.Source.Virsh(ctx, "qemu-agent-command", g.Name, `{"execute":"guest-ping"}`)
					return err == nil
				}, time.Minute, 200*time.Millisecond)
			}
		}
	})
	t.Run("images", func(t *testing.T) {
		overlay := filepath.Join(l.Source.Images, "overlay.qcow2")
		_, err := l.Source.Exec(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-b", g.Disks[1], "-F", "qcow2", overlay)
		require.NoError(t, err)
		base, above := read(t, l.Source, g.Disks[1]), read(t, l.Source, overlay)
		require.NoError(t, lab.Compare(ctx, base, above))
		_, err = l.Source.Exec(ctx, "qemu-io", "-c", "write -P 7 20M 100k", overlay)
		require.NoError(t, err)
		above = read(t, l.Source, overlay)
		require.Error(t, lab.Compare(ctx, base, above))
		changed, err := lab.Changed(base, above, 64<<10)
		require.NoError(t, err)
		require.EqualValues(t, 2*64<<10, changed)
	})
}

func read(t *testing.T, h *lab.Host, name string) *lab.Image {
	t.Helper()
	img, err := h.ReadImage(t.Context(), name)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, img.Close()) })
	return img
}

func check(t *testing.T, g *lab.Guest) record.Report {
	t.Helper()
	r, err := record.Check(read(t, g.Host, g.Disks[0]), read(t, g.Host, g.Disks[1]))
	require.NoError(t, err)
	require.Empty(t, r.Problems())
	return r
}

func clean(t *testing.T, g *lab.Guest) bool {
	t.Helper()
	ok, err := lab.FileSystemClean(read(t, g.Host, g.Disks[0]))
	require.NoError(t, err)
	return ok
}

// TestSignIn proves the way over SSH, and that each host has a key of its own.
func TestSignIn(t *testing.T) {
	l := start(t)
	for _, h := range []*lab.Host{l.Source, l.Target} {
		name, err := signIn(h.SSH, "hostname")
		require.NoError(t, err)
		require.Equal(t, h.Name+"\n", name)
	}
	other := l.Source.SSH
	other.Addr = l.Target.SSH.Addr
	_, err := signIn(other, "hostname")
	require.ErrorContains(t, err, "knownhosts")
}

func signIn(s lab.SSH, command string) (string, error) {
	pem, err := os.ReadFile(s.KeyFile)
	if err != nil {
		return "", err
	}
	key, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		return "", err
	}
	known, err := knownhosts.New(s.KnownHosts)
	if err != nil {
		return "", err
	}
	client, err := ssh.Dial("tcp", net.JoinHostPort(s.Addr, strconv.Itoa(s.Port)), &ssh.ClientConfig{
		User: s.User, Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: known, Timeout: time.Minute,
	})
	if err != nil {
		return "", err
	}
	defer client.Close()
	session, err := client.NewSession()
	if err != nil {
		return "", err
	}
	defer session.Close()
	out, err := session.Output(command)
	return string(out), err
}

func TestStartUndoesItself(t *testing.T) {
	parent := t.TempDir()
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("changed my mind")
	go func() { // as soon as the first host's namespaces are there
		for ctx.Err() == nil {
			if found, _ := filepath.Glob(filepath.Join(parent, "*/*/log/init.log")); len(found) > 0 {
				cancel(gone)
			}
			time.Sleep(time.Millisecond)
		}
	}()
	_, err := lab.Start(ctx, lab.Options{Dir: parent})
	require.ErrorIs(t, err, context.Canceled)
	left, err := os.ReadDir(parent)
	require.NoError(t, err)
	require.Empty(t, left)
}

// ownerDir in the environment makes this test binary the owner of a lab below that directory.
const ownerDir = "LAB_TEST_OWNER_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(ownerDir); dir != "" {
		if _, err := lab.Start(context.Background(), lab.Options{Dir: dir}); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("up")
		select {} // until killed
	}
	os.Exit(m.Run())
}

// TestSweep kills the owner of a lab: the kernel ends what ran in it, and the next lab removes its files.
func TestSweep(t *testing.T) {
	parent := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), ownerDir+"="+parent)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "up\n", line)

	swept, err := lab.Sweep(t.Context(), parent)
	require.NoError(t, err)
	require.Empty(t, swept, "a living lab is left alone")

	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	dirs, err := filepath.Glob(filepath.Join(parent, "*"))
	require.NoError(t, err)
	swept, err = lab.Sweep(t.Context(), parent)
	require.NoError(t, err)
	require.Equal(t, dirs, swept)
	left, err := filepath.Glob(filepath.Join(parent, "*"))
	require.NoError(t, err)
	require.Empty(t, left)
	mounts, err := filepath.Glob("/proc/[0-9]*/mountinfo")
	require.NoError(t, err)
	for _, m := range mounts {
		b, _ := os.ReadFile(m)
		require.NotContains(t, string(b), filepath.Base(dirs[0]), m)
	}
}
