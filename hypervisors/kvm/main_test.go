package kvm

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/hypervisors"
	"understudy/hypervisors/kvm/lab"
)

// testLab is the pair of real libvirt hosts that all tests of this package share. Each test removes what it made. Most of
// them run one after another. Those that change only a replica of their own on the target host, and the suite, which has
// the source host for itself, come after these and run in parallel: much of their time is waiting.
var testLab *lab.Lab

const testOwner = "testown1"

func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.fuzz"); f != nil && f.Value.String() != "" {
		os.Exit(m.Run()) // fuzz targets need no lab, and each of their processes would start one
	}
	if os.Getenv(witnessed) != "" {
		os.Exit(m.Run()) // nor does what changes files in a folder
	}
	os.Exit(withLab(m))
}

func withLab(m *testing.M) (code int) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	l, err := lab.Start(ctx, lab.Options{})
	if err != nil {
		fmt.Fprintln(os.Stderr, "the lab does not start:", err)
		return 1
	}
	testLab = l
	if os.Getenv(realConverter) == "" {
		standIns(l)
	}
	defer func() {
		if err := l.Close(context.WithoutCancel(ctx)); err != nil {
			fmt.Fprintln(os.Stderr, "the lab does not end:", err)
			code = 1
		}
		if left := l.Leftovers(); len(left) > 0 {
			fmt.Fprintln(os.Stderr, "the lab leaves behind:", left)
			code = 1
		}
	}()
	return m.Run()
}

// testContext bounds one test; a machine that is ten times slower still passes.
func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// openHost connects to a host of the lab as the tests' owner.
func openHost(t *testing.T, uri string) *host { return openHostAs(t, uri, testOwner) }

func openHostAs(t *testing.T, uri, owner string) *host {
	t.Helper()
	h, err := connect(testContext(t), uri, Options{Owner: owner, Log: testLog(t)})
	require.NoError(t, err)
	t.Cleanup(func() { h.Close() })
	return h
}

// standing is the guest that most tests share, as booting one takes longest of all.
var standing struct {
	guest *lab.Guest
	vm    string
}

// standingGuest returns a running guest that tests may read, suspend and kill, but must not change the hardware of.
func standingGuest(t *testing.T) (*lab.Guest, string) {
	t.Helper()
	t.Cleanup(func() {
		h, err := connect(context.Background(), testLab.Source.URI, Options{Owner: testOwner})
		require.NoError(t, err)
		defer h.Close()
		_, err = h.Clean(context.Background(), hypervisors.Keep{})
		require.NoError(t, err)
	})
	return startStanding(t)
}

// startStanding is standingGuest for those who clean up themselves. Its disks are as small as they can be, as many tests
// copy them.
func startStanding(t *testing.T) (*lab.Guest, string) {
	t.Helper()
	ctx := testContext(t)
	if standing.guest == nil {
		g, err := testLab.StartGuest(ctx, testLab.Source, lab.GuestOptions{Name: "standing", Number: int(guestNumber.Add(1)),
			DiskA: 84 << 20, DiskB: 16 << 20, Fill: 8 << 20, Delay: 250 * time.Millisecond})
		require.NoError(t, err)
		standing.guest, standing.vm = g, virshLine(t, testLab.Source, "domuuid", g.Name)
	}
	if virshLine(t, testLab.Source, "domstate", standing.guest.Name) != "running" {
		require.NoError(t, standing.guest.Start(ctx))
	}
	return standing.guest, standing.vm
}

// crashAndRestart kills the process of a guest and starts it again as soon as libvirt has noticed.
func crashAndRestart(ctx context.Context, g *lab.Guest) error {
	if err := g.KillQEMU(ctx); err != nil {
		return err
	}
	for {
		state, err := g.Host.Virsh(ctx, "domstate", g.Name)
		if err != nil {
			return err
		}
		if strings.TrimSpace(state) == "shut off" {
			return g.Start(ctx)
		}
		if !pause(ctx, pollEvery) {
			return ctx.Err()
		}
	}
}

// newMachine makes a small machine that is off and boots nothing, with some data on both of its disks.
func newMachine(t *testing.T, format string) (name, vm string) {
	t.Helper()
	name = fmt.Sprintf("machine%d", guestNumber.Add(1))
	disks := ""
	for _, id := range []string{"vda", "vdb"} {
		image := machineImage(name, id)
		makeImageWithData(t, image, format)
		disks += fmt.Sprintf("<disk type='file' device='disk'><driver name='qemu' type='%s'/><source file='%s'/><target dev='%s' bus='virtio'/></disk>", format, image, id)
	}
	file := filepath.Join(testLab.Source.Dir, name+".xml")
	require.NoError(t, os.WriteFile(file, []byte(fmt.Sprintf(`<domain type='qemu'><name>%s</name><memory unit='MiB'>64</memory>
<os><type arch='x86_64' machine='q35'>hvm</type></os>
<devices>%s<interface type='network'><source network='production'/><model type='virtio'/></interface></devices></domain>`, name, disks)), 0o600))
	t.Cleanup(func() { removeGuest(t, testLab.Source, name) })
	virsh(t, testLab.Source, "define", file)
	return name, virshLine(t, testLab.Source, "domuuid", name)
}

func machineImage(name, disk string) string { return testLab.Source.Images + "/" + name + "-" + disk }

func makeImageWithData(t *testing.T, image, format string) {
	t.Helper()
	_, err := testLab.Source.Exec(testContext(t), "sh", "-c",
		`qemu-img create -q -f "$2" "$1" 8M && qemu-io -f "$2" -c "write -P 7 1M 1M" "$1"`, "make", image, format)
	require.NoError(t, err)
}

var guestNumber atomic.Int32

func removeGuest(t *testing.T, on *lab.Host, name string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	on.Virsh(ctx, "destroy", name) // it may be off
	if out, err := on.Virsh(ctx, "undefine", name, "--checkpoints-metadata"); err != nil {
		t.Errorf("guest %s cannot be removed: %v %s", name, err, out)
	}
	_, err := on.Exec(ctx, "sh", "-c", `rm -f -- /var/lib/libvirt/images/"$1"-*`, "rm", name)
	require.NoError(t, err)
}
