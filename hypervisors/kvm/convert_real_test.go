package kvm

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/hypervisors"
)

// realConverter asks for the test with the virt-v2v of this machine, which takes many minutes where processors are
// emulated: see the Makefile.
const realConverter = "CONVERT"

// TestRealConversion converts a Debian that starts from VMware's disks alone, by the real virt-v2v, for a replica on
// virtio, where it does not start without.
func TestRealConversion(t *testing.T) {
	if os.Getenv(realConverter) == "" {
		t.Skip("make convert runs it")
	}
	// That there is KVM proves nothing: see lab.
	t.Setenv("LIBGUESTFS_BACKEND_SETTINGS", "force_tcg")
	bySSH := []byte("#!/bin/sh\nLIBGUESTFS_BACKEND_SETTINGS=force_tcg exec /usr/bin/" + converter + " \"$@\"\n")
	require.NoError(t, os.WriteFile(filepath.Join(testLab.Target.Programs(), converter), bySSH, 0o755))
	w := newWorld(t)
	ctx, cancel := context.WithTimeout(context.Background(), 45*time.Minute)
	t.Cleanup(cancel)
	w.ctx = ctx
	image := filepath.Join(t.TempDir(), "debian.raw")
	out, err := exec.CommandContext(ctx, "sh", "testdata/debian.sh", image).CombinedOutput()
	require.NoError(t, err, string(out))
	info, err := os.Stat(image)
	require.NoError(t, err)
	w.spec.Hardware.Memory = 512 << 20
	w.spec.Hardware.Disks = []hypervisors.Disk{{ID: "sda", Size: info.Size(), Bus: "virtio", Boot: 1}}
	r := w.create()
	w.copyImage(r, "p1", image)
	before, temporary := w.sums(r), temporaryFiles(t)
	asItIs := w.convert("t1", "p1")
	asItIs.Convert = false

	run, err := r.Run(ctx, asItIs)
	require.NoError(t, err)
	said := serial(t, ctx, run.VM, "Gave up waiting for root file system device", "guest is up")
	require.NotContains(t, said, "guest is up", "it needs no conversion")
	require.NoError(t, r.End(ctx, "t1"))

	// Ended in the middle, nothing of it lives on.
	ended := make(chan error, 1)
	go func() { _, err := r.Run(ctx, w.convert("t2", "p1")); ended <- err }()
	waitForIn(t, ctx, "libguestfs looks at the guest", func() bool {
		_, err := testLab.Target.Exec(ctx, "grep", "-aq", "^guestfsd: <= inspect_os", path.Join(r.dir, scratchDir("t2"), "log"))
		return err == nil
	})
	began := time.Now()
	require.NoError(t, r.End(ctx, "t2"))
	require.ErrorIs(t, <-ended, hypervisors.ErrNotFound)
	t.Log("ended in the middle of a conversion in", time.Since(began))
	w.nothingLeft(r)
	require.Equal(t, temporary, temporaryFiles(t))

	for _, id := range []string{"t3", hypervisors.LiveRun} {
		if id == hypervisors.LiveRun { // a failover, of a host that is reached by SSH
			w.h = openHost(t, testLab.Target.SSHURI())
			r, err = w.h.findReplica(ctx, w.spec.ID)
			require.NoError(t, err)
		}
		began := time.Now()
		run, err = r.Run(ctx, w.convert(id, "p1"))
		require.NoError(t, err)
		t.Log("converted and started in", time.Since(began))
		require.Equal(t, []string{"sda virtio", "virtio"}, w.devicesOf(run.VM))
		require.Contains(t, serial(t, ctx, run.VM, "guest is up"), "guest is up on /dev/vda1")
		w.nothingLeft(r)
		require.Equal(t, temporary, temporaryFiles(t))
		require.Equal(t, before, w.sums(r), "the point is what it was")
		require.NoError(t, r.End(ctx, id))
	}

	// A disk without a system.
	d, err := r.Draft(ctx, w.request("p2"))
	require.NoError(t, err)
	require.NoError(t, d.Disks()[0].Zero(0, info.Size()))
	require.NoError(t, d.Commit(ctx, describe(w.request("p2"))))
	_, err = r.Run(ctx, w.convert("t4", "p2"))
	require.ErrorIs(t, err, hypervisors.ErrUnconvertible)
	t.Log("refused:", err)
	w.nothingLeft(r)
	require.Equal(t, temporary, temporaryFiles(t))
	status, err := r.Status(ctx)
	require.NoError(t, err)
	require.Empty(t, status.Runs)
}

// copyImage makes a point of a raw image.
func (w *world) copyImage(r *replica, id, image string) {
	w.t.Helper()
	d, err := r.Draft(w.ctx, w.request(id))
	require.NoError(w.t, err)
	f, err := os.Open(image)
	require.NoError(w.t, err)
	defer f.Close()
	p, zeros := make([]byte, mib), make([]byte, mib)
	for off := int64(0); ; off += mib {
		n, err := io.ReadFull(f, p)
		if n > 0 && !bytes.Equal(p[:n], zeros[:n]) {
			_, err := d.Disks()[0].WriteAt(p[:n], off)
			require.NoError(w.t, err)
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			break
		}
		require.NoError(w.t, err)
	}
	require.NoError(w.t, d.Commit(w.ctx, describe(w.request(id))))
}

// sums are those of the files of the point p1.
func (w *world) sums(r *replica) string {
	w.t.Helper()
	out, err := testLab.Target.Exec(w.ctx, "sha256sum", path.Join(r.dir, dataFile("sda", "p1")), path.Join(r.dir, mapFile("sda", "p1")))
	require.NoError(w.t, err)
	return string(out)
}

// temporaryFiles are those that libguestfs and virt-v2v make where we do not say.
func temporaryFiles(t *testing.T) (all []string) {
	t.Helper()
	for _, pattern := range []string{"/tmp/libguestfs*", "/tmp/v2v*", "/tmp/.guestfs*", "/var/tmp/.guestfs*", "/var/tmp/v2v*"} {
		found, err := filepath.Glob(pattern)
		require.NoError(t, err)
		all = append(all, found...)
	}
	return all
}

// serial is what a machine says on its serial console until it says one of these.
func serial(t *testing.T, ctx context.Context, vm string, until ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	tty, err := testLab.Target.Virsh(ctx, "ttyconsole", vm)
	require.NoError(t, err)
	cmd := testLab.Target.Command(ctx, "cat", strings.TrimSpace(tty))
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	defer func() {
		cancel()
		_ = cmd.Wait()
	}()
	var said strings.Builder
	for p := make([]byte, 4096); ; {
		n, err := out.Read(p)
		said.Write(p[:n])
		for _, text := range until {
			if strings.Contains(said.String(), text+" ") || strings.Contains(said.String(), text+".") {
				time.Sleep(time.Second) // the rest of the line
				n, _ := out.Read(p)
				said.Write(p[:n])
				return said.String()
			}
		}
		require.NoError(t, err, said.String())
	}
}
