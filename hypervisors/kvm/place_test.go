package kvm

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"understudy/hypervisors"
	"understudy/hypervisors/kvm/lab"
)

func TestAddresses(t *testing.T) {
	t.Setenv("HOME", "/home/me")
	for _, c := range []struct {
		uri  string
		want address
	}{
		{"qemu:///system", address{socket: defaultSocket}},
		{"qemu+unix:///system?socket=/x/y&scratch=/s", address{socket: "/x/y", scratch: "/s"}},
		{"qemu+ssh://root@h/system?keyfile=/k&known_hosts=/n", address{ssh: true, socket: defaultSocket, user: "root", host: "h:22", keyFiles: []string{"/k"}, knownHosts: "/n"}},
		{"qemu+ssh://u@[::1]:2222/system?socket=/x", address{ssh: true, socket: "/x", user: "u", host: "[::1]:2222", knownHosts: "/home/me/.ssh/known_hosts",
			keyFiles: []string{"/home/me/.ssh/id_ed25519", "/home/me/.ssh/id_ecdsa", "/home/me/.ssh/id_rsa"}}},
	} {
		got, err := parseAddress(c.uri)
		require.NoError(t, err, c.uri)
		require.Equal(t, c.want, got, c.uri)
	}
	for uri, want := range map[string]error{
		"":                                    hypervisors.ErrScheme,
		"esx://host/":                         hypervisors.ErrScheme,
		"qemu+tcp://host/system":              hypervisors.ErrScheme,
		"qemu:///session":                     hypervisors.ErrScheme,
		"qemu://host/system":                  hypervisors.ErrScheme,
		"qemu+ssh:///system":                  hypervisors.ErrInvalid,
		"qemu+ssh://u:secret@h/system":        hypervisors.ErrInvalid,
		"qemu+unix:///system?socket=relative": hypervisors.ErrInvalid,
		"qemu+unix:///system?scratch=here":    hypervisors.ErrInvalid,
		"qemu:// u:secret@h\x00/system":       hypervisors.ErrScheme,
	} {
		_, err := Connect(context.Background(), uri, Options{Owner: testOwner})
		require.ErrorIs(t, err, want, uri)
		require.NotEmpty(t, hypervisors.Hint(err), uri)
		require.NotContains(t, err.Error(), "secret")
	}
	_, err := Connect(context.Background(), "qemu:///system", Options{Owner: "No!"})
	require.ErrorIs(t, err, hypervisors.ErrInvalid)
	_, err = Connect(context.Background(), "qemu+unix:///system?socket=/nowhere", Options{Owner: testOwner})
	require.ErrorIs(t, err, hypervisors.ErrUnreachable)
	require.NotEmpty(t, hypervisors.Hint(err))
}

func TestShellQuoting(t *testing.T) {
	want := []string{"plain", "with space", "it's", `back\slash "double"`, "$(false) `false` $HOME", "line\nbreak", "", "*", "-n"}
	out, err := exec.Command("sh", "-c", shellCommand(append([]string{"printf", `%s\0`}, want...))).Output()
	require.NoError(t, err)
	require.Equal(t, strings.Join(want, "\x00")+"\x00", string(out))
}

// places are the two ways to one host of the lab.
func places(t *testing.T) map[string]place {
	return map[string]place{"local": openHost(t, testLab.Source.URI).place, "ssh": openHost(t, testLab.Source.SSHURI()).place}
}

func TestPlaceFiles(t *testing.T) {
	for name, p := range places(t) {
		t.Run(name, func(t *testing.T) {
			ctx := testContext(t)
			dir := "/var/lib/libvirt/it's a $folder/deep"
			t.Cleanup(func() { require.NoError(t, removeAll(context.Background(), p, filepath.Dir(dir))) })
			require.NoError(t, mkdirAll(ctx, p, dir))
			file := dir + "/-odd 'name'"
			_, err := readFile(ctx, p, file)
			require.ErrorIs(t, err, fs.ErrNotExist)
			there, err := exists(ctx, p, file)
			require.NoError(t, err)
			require.False(t, there)

			big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
			for _, data := range [][]byte{[]byte("first\x00\n"), {}, big} {
				require.NoError(t, writeFileAtomic(ctx, p, file, data))
				got, err := readFile(ctx, p, file)
				require.NoError(t, err)
				require.True(t, bytes.Equal(data, got))
			}
			_, err = os.Stat(testLab.Source.Outside(file))
			require.NoError(t, err, "the file is in the host's own file system")
			names, err := list(ctx, p, dir)
			require.NoError(t, err)
			require.Equal(t, []string{"-odd 'name'"}, names)
			names, err = list(ctx, p, dir+"/none")
			require.NoError(t, err)
			require.Empty(t, names)
			require.NoError(t, renameFile(ctx, p, file, dir+"/b"))
			require.NoError(t, syncPaths(ctx, p, dir+"/b", dir))
			room, err := freeSpace(ctx, p, dir)
			require.NoError(t, err)
			require.True(t, 0 < room.Free && room.Free <= room.Total, "%+v", room)
			require.NoError(t, removeAll(ctx, p, dir+"/b", dir+"/none"))
			there, err = exists(ctx, p, dir+"/b")
			require.NoError(t, err)
			require.False(t, there)

			require.Error(t, writeFileAtomic(ctx, p, dir+"/none/x", []byte("x")))
			var refused *runError
			_, err = p.Run(ctx, nil, "sh", "-c", "echo no luck >&2; exit 3")
			require.ErrorAs(t, err, &refused)
			require.Equal(t, 3, refused.Status)
			require.Contains(t, err.Error(), "no luck")
		})
	}
}

// Data that is cut short on its way leaves the file as it was.
func TestCutWriteLeavesFile(t *testing.T) {
	p := openHost(t, testLab.Source.URI).place
	ctx := testContext(t)
	file := "/var/lib/libvirt/cut"
	t.Cleanup(func() { require.NoError(t, removeAll(context.Background(), p, file)) })
	require.NoError(t, writeFileAtomic(ctx, p, file, []byte("whole")))
	require.Error(t, writeFileAtomic(ctx, cuttingPlace{p}, file, []byte("replaced")))
	got, err := readFile(ctx, p, file)
	require.NoError(t, err)
	require.Equal(t, "whole", string(got))
	there, err := exists(ctx, p, file+".new")
	require.NoError(t, err)
	require.False(t, there)
}

type cuttingPlace struct{ place }

func (p cuttingPlace) Run(ctx context.Context, stdin io.Reader, argv ...string) ([]byte, error) {
	return p.place.Run(ctx, io.LimitReader(stdin, 3), argv...)
}

// A process ends when it is told to, when it does so itself, and with the connection that started it.
func TestPlaceProcesses(t *testing.T) {
	for name, uri := range map[string]string{"local": testLab.Source.URI, "ssh": testLab.Source.SSHURI()} {
		t.Run(name, func(t *testing.T) {
			ctx := testContext(t)
			h := openHost(t, uri)
			proc, err := h.place.Start(ctx, "sleep", "1234")
			require.NoError(t, err)
			waitFor(t, "it runs", func() bool { return sleepers(t, "1234") == 1 })
			require.NoError(t, proc.Stop(ctx))
			require.NoError(t, proc.Stop(ctx))
			require.Error(t, proc.Err())
			require.Zero(t, sleepers(t, "1234"))

			proc, err = h.place.Start(ctx, "sh", "-c", "echo why >&2; exit 4")
			require.NoError(t, err)
			<-proc.Done()
			require.Error(t, proc.Err())
			require.Equal(t, "why\n", proc.Stderr())

			cancelled, cancel := context.WithCancel(ctx)
			ended := make(chan error, 1)
			go func() { _, err := h.place.Run(cancelled, nil, "sleep", "1235"); ended <- err }()
			waitFor(t, "it runs", func() bool { return sleepers(t, "1235") == 1 })
			cancel()
			require.ErrorIs(t, <-ended, context.Canceled)
			require.Zero(t, sleepers(t, "1235"))

			proc, err = h.place.Start(ctx, "sleep", "1236")
			require.NoError(t, err)
			waitFor(t, "it runs", func() bool { return sleepers(t, "1236") == 1 })
			require.NoError(t, h.Close())
			<-proc.Done()
			waitFor(t, "it is gone", func() bool { return sleepers(t, "1236") == 0 })
		})
	}
}

// sleepers counts processes of the machine that sleep for so long.
func sleepers(t *testing.T, seconds string) int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	n := 0
	for _, f := range files {
		if text, err := os.ReadFile(f); err == nil && string(text) == "sleep\x00"+seconds+"\x00" {
			n++
		}
	}
	return n
}

func TestSSHIsStrict(t *testing.T) {
	ctx := testContext(t)
	tryWith := func(change func(*lab.SSH)) error {
		s := testLab.Source.SSH
		change(&s)
		h, err := connect(ctx, s.URI(), Options{Owner: testOwner})
		if err == nil {
			h.Close()
		}
		return err
	}
	require.NoError(t, tryWith(func(*lab.SSH) {}))

	empty := filepath.Join(t.TempDir(), "known_hosts")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	err := tryWith(func(s *lab.SSH) { s.KnownHosts = empty })
	require.ErrorIs(t, err, hypervisors.ErrHostKey)
	require.Contains(t, hypervisors.Hint(err), empty)
	require.ErrorIs(t, tryWith(func(s *lab.SSH) { s.KnownHosts += ".none" }), hypervisors.ErrHostKey)

	// The key of another host under this one's name.
	mine, err := os.ReadFile(testLab.Source.SSH.KnownHosts)
	require.NoError(t, err)
	changed := filepath.Join(t.TempDir(), "known_hosts")
	key := newKeyFile(t)
	public, err := os.ReadFile(key + ".pub")
	require.NoError(t, err)
	name, _, _ := strings.Cut(knownLine(t, mine, testLab.Source.SSH), " ")
	require.NoError(t, os.WriteFile(changed, []byte(name+" "+string(public)), 0o600))
	err = tryWith(func(s *lab.SSH) { s.KnownHosts = changed })
	require.ErrorIs(t, err, hypervisors.ErrHostKey)
	require.Contains(t, hypervisors.Hint(err), "in between")

	err = tryWith(func(s *lab.SSH) { s.KeyFile = key })
	require.ErrorIs(t, err, hypervisors.ErrUnauthorized)
	require.Contains(t, hypervisors.Hint(err), "authorized_keys")
	require.ErrorIs(t, tryWith(func(s *lab.SSH) { s.KeyFile = "/nowhere" }), hypervisors.ErrUnauthorized)
	require.ErrorIs(t, tryWith(func(s *lab.SSH) { s.Port = 1 }), hypervisors.ErrUnreachable)
}

func newKeyFile(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key")
	out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", file).CombinedOutput()
	require.NoError(t, err, string(out))
	return file
}

// knownLine is the line of known_hosts that is about the host.
func knownLine(t *testing.T, all []byte, s lab.SSH) string {
	t.Helper()
	for line := range strings.Lines(string(all)) {
		if strings.Contains(line, s.Addr) {
			return line
		}
	}
	t.Fatalf("%s is not in %s", s.Addr, all)
	return ""
}

// Everything goes through SSH, and a lost connection is made anew by the next call.
func TestCyclesOverSSH(t *testing.T) {
	ctx := testContext(t)
	name, vm := newMachine(t, "qcow2")
	h := openHost(t, testLab.Source.SSHURI())
	local := openHost(t, testLab.Source.URI)
	here, err := local.Info(ctx)
	require.NoError(t, err)
	there, err := h.Info(ctx)
	require.NoError(t, err)
	require.Equal(t, here, there, "one host, however it is reached")

	require.NoError(t, h.Start(ctx, vm))
	m := newMirror(h, vm)
	m.cycle(t)
	h.place.(*sshPlace).client.Close()
	m.cycle(t)
	require.Empty(t, m.lost)
	undisturbed(t, testLab.Source, map[string][]string{name: {string(m.since)}})

	cp := m.take(t, false)
	h.place.(*sshPlace).client.Close()
	require.Error(t, readError(t, cp))
	require.NoError(t, cp.Close(ctx))
	_, err = h.Clean(ctx, hypervisors.Keep{})
	require.NoError(t, err)
	undisturbed(t, testLab.Source, map[string][]string{name: nil})

	socket, err := h.place.(*sshPlace).libvirtSocket(testContext(t))
	require.NoError(t, err)
	info, err := os.Stat(filepath.Dir(socket))
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o700), info.Mode().Perm())
	require.NoError(t, h.Close())
	require.NoFileExists(t, socket)
}

// A process that ended listened at the socket that still takes connections: of its namespaces nothing is known, and they
// must not be taken for ours, where commands would do harm. Those that were known before still serve.
func TestPlaceOfTheDeadIsNotOurs(t *testing.T) {
	ctx := testContext(t)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	require.NoError(t, err)
	socket := os.NewFile(uintptr(fd), "libvirt")
	defer socket.Close()
	name := filepath.Join(t.TempDir(), "libvirt")
	require.NoError(t, unix.Bind(fd, &unix.SockaddrUnix{Name: name}))
	listener := exec.Command("perl", "-MSocket", "-e", `open(my $s, "+<&=3") or die; listen($s, 10) or die`)
	listener.ExtraFiles = []*os.File{socket}
	stderr, err := listener.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, listener.Start())
	said, err := io.ReadAll(stderr) // until it ended
	require.NoError(t, err)
	require.Empty(t, said)

	fresh := newLocalPlace(name)
	_, err = fresh.Run(ctx, nil, "true")
	require.ErrorIs(t, err, hypervisors.ErrUnreachable, "nobody has waited for it")
	require.NoError(t, listener.Wait())
	_, err = fresh.Run(ctx, nil, "true")
	require.ErrorIs(t, err, hypervisors.ErrUnreachable, "it is gone")

	known := newLocalPlace(name)
	defer func() { require.NoError(t, known.Close()) }()
	known.env = &namespaces{pid: listener.Process.Pid, birth: "1", foreign: true}
	proc := fmt.Sprintf("/proc/%d", testLab.Source.PID)
	for file, of := range map[**os.File]string{&known.env.mnt: "/ns/mnt", &known.env.net: "/ns/net", &known.env.root: "/root"} {
		*file, err = os.Open(proc + of)
		require.NoError(t, err)
	}
	_, err = known.Run(ctx, nil, "test", "-e", "/run/libvirt/libvirtd.pid") // which this machine itself has not
	require.NoError(t, err)
}

// ourselves is this machine itself as a place; its libvirtd is this process.
func ourselves(t *testing.T) *localPlace {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "libvirt"))
	require.NoError(t, err)
	p := newLocalPlace(l.Addr().String())
	t.Cleanup(func() {
		require.NoError(t, p.Close())
		require.NoError(t, l.Close())
	})
	return p
}

// TestHungStorage asks a place for a file that hangs, as on NFS without its server. Only those wait who ask for it, and
// they until their ctx ends.
func TestHungStorage(t *testing.T) {
	dir := t.TempDir()
	hung := filepath.Join(dir, "hung")
	require.NoError(t, syscall.Mkfifo(hung, 0o600)) // opening it to read waits for somebody who writes
	t.Cleanup(func() {
		f, err := os.OpenFile(hung, os.O_RDWR, 0) // lets the thread go
		require.NoError(t, err)
		require.NoError(t, f.Close())
	})
	p := ourselves(t)
	ctx, cancel := context.WithCancel(testContext(t))
	answer := make(chan error, 1)
	go func() {
		_, err := p.readFile(ctx, hung)
		answer <- err
	}()
	for range 3 {
		_, err := p.Run(t.Context(), nil, "true")
		require.NoError(t, err)
		_, err = p.freeSpace(t.Context(), dir)
		require.NoError(t, err)
	}
	cancel()
	require.ErrorIs(t, <-answer, context.Canceled)
}
