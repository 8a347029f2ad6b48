package esx

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"understudy/hypervisors"
	"understudy/hypervisors/esx/lab"
	"understudy/snapshot"
)

const block = 64 << 10

func stock(name string) hypervisors.Hardware {
	return hypervisors.Hardware{Name: name, CPUs: 2, Memory: 512 << 20, Firmware: hypervisors.UEFI, SecureBoot: true,
		Disks: []hypervisors.Disk{{ID: "vda", Size: 16 * block, Bus: "virtio", Boot: 1}},
		NICs:  []hypervisors.NIC{{MAC: "52:54:00:00:00:01", Model: "virtio", Network: lab.Network}}}
}

func newReplica(t *testing.T, h *host, id string) *replica {
	t.Helper()
	r, err := h.CreateReplica(t.Context(), hypervisors.ReplicaSpec{ID: id, Hardware: stock(id), Storage: lab.Datastore})
	require.NoError(t, err)
	return r.(*replica)
}

func draftOf(point string) hypervisors.DraftRequest {
	return hypervisors.DraftRequest{Point: point, Disks: []hypervisors.DraftDiskSpec{{ID: "vda", Size: 16 * block}}}
}

func describedAs(point string) hypervisors.Point {
	return hypervisors.Point{ID: point, Taken: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Consistency: hypervisors.CrashConsistent,
		Disks: []hypervisors.PointDisk{{ID: "vda", Size: 16 * block, Digest: strings.Repeat("0", 64)}}}
}

// content of a point.
func content(n byte) []byte { return bytes.Repeat([]byte{n}, 16*block) }

func write1(ctx context.Context, d hypervisors.Draft, n byte) error {
	disk := d.Disks()[0]
	_, err := disk.WriteAt(content(n), 0)
	_, mapErr := disk.Map().WriteAt(bytes.Repeat([]byte{n}, int(snapshot.MapSize(16*block))), 0)
	return errors.Join(err, mapErr, disk.Flush(ctx), disk.Map().Flush(ctx))
}

func commit(ctx context.Context, r hypervisors.Replica, point string, n byte) error {
	d, err := r.Draft(ctx, draftOf(point))
	if err != nil {
		return err
	}
	if err := write1(ctx, d, n); err != nil {
		return errors.Join(err, d.Discard(ctx))
	}
	return d.Commit(ctx, describedAs(point))
}

// holds wants points with their content, and nothing else.
func holds(t *testing.T, r hypervisors.Replica, points map[string]byte) {
	t.Helper()
	status, err := r.Status(t.Context())
	require.NoError(t, err)
	require.Len(t, status.Points, len(points))
	for id, n := range points {
		p, err := r.Open(t.Context(), id)
		require.NoError(t, err)
		got := make([]byte, 16*block)
		_, err = p.Disks()[0].ReadAt(got, 0)
		require.NoError(t, err)
		require.Equal(t, content(n), got, id)
		require.NoError(t, p.Close())
	}
}

func TestReplicaOfUnknownThings(t *testing.T) {
	l := startLab(t, lab.Options{})
	h := open(t, l)
	guest(t, l, "web")
	hw := stock("web")
	_, err := h.CreateReplica(t.Context(), hypervisors.ReplicaSpec{ID: "r", Hardware: hw})
	isTold(t, err, hypervisors.ErrNameTaken, "use name web", "choose another name for the replica")
	hw = stock("r")
	hw.NICs[0].Network = "no such network"
	_, err = h.CreateReplica(t.Context(), hypervisors.ReplicaSpec{ID: "r", Hardware: hw})
	isTold(t, err, hypervisors.ErrUnknownNetwork, "use network no such network", "Choose a network of the host")
	_, err = h.CreateReplica(t.Context(), hypervisors.ReplicaSpec{ID: "r", Hardware: stock("r"), Storage: "no such store"})
	isTold(t, err, hypervisors.ErrUnknownStorage, "use storage no such store", "Choose a datastore of the host")
	_, err = h.CreateReplica(t.Context(), hypervisors.ReplicaSpec{ID: "R!", Hardware: stock("r")})
	require.ErrorIs(t, err, hypervisors.ErrInvalid)
}

func TestTargetFull(t *testing.T) {
	l := startLab(t, lab.Options{})
	h := open(t, l)
	r := newReplica(t, h, "r")
	require.NoError(t, commit(t.Context(), r, "p1", 1))
	req := draftOf("p2")
	req.ExpectBytes = 1 << 60
	_, err := r.Draft(t.Context(), req)
	isTold(t, err, hypervisors.ErrNoSpace, "bytes are free, the copy may need", "keep fewer points")
	d, err := r.Draft(t.Context(), draftOf("p2"))
	require.NoError(t, err)
	require.NoError(t, write1(t.Context(), d, 2))
	l.Full(true)
	isTold(t, d.Commit(t.Context(), describedAs("p2")), hypervisors.ErrNoSpace, "", "")
	l.Full(false)
	require.NoError(t, d.Discard(t.Context()))
	holds(t, r, map[string]byte{"p1": 1})
	require.NoError(t, commit(t.Context(), r, "p2", 2))
	holds(t, r, map[string]byte{"p1": 1, "p2": 2})
}

func TestAsManyPointsAsESXAllows(t *testing.T) {
	l := startLab(t, lab.Options{SnapshotLimit: 2})
	h := open(t, l)
	r := newReplica(t, h, "r")
	require.NoError(t, commit(t.Context(), r, "p1", 1))
	require.NoError(t, commit(t.Context(), r, "p2", 2))
	d, err := r.Draft(t.Context(), draftOf("p3"))
	require.NoError(t, err)
	require.NoError(t, write1(t.Context(), d, 3))
	isTold(t, d.Commit(t.Context(), describedAs("p3")), hypervisors.ErrInUse, "as many snapshots as ESX allows", "lessen the group's retention")
	require.NoError(t, d.Discard(t.Context()))
	require.NoError(t, r.Drop(t.Context(), "p1"))
	require.NoError(t, commit(t.Context(), r, "p3", 3))
	holds(t, r, map[string]byte{"p2": 2, "p3": 3})
}

// TestKilledTarget: whatever method fails in the middle of whatever piece of work, another appliance process finds every point
// that was committed, byte for byte, cleans up, and does the work.
func TestKilledTarget(t *testing.T) {
	if raced {
		t.Skip("takes minutes with the race detector; the Makefile runs it without")
	}
	works := map[string]func(ctx context.Context, h *host, r hypervisors.Replica) error{
		"commit":          func(ctx context.Context, _ *host, r hypervisors.Replica) error { return commit(ctx, r, "p3", 3) },
		"drop the oldest": func(ctx context.Context, _ *host, r hypervisors.Replica) error { return r.Drop(ctx, "p1") },
		"drop the newest": func(ctx context.Context, _ *host, r hypervisors.Replica) error { return r.Drop(ctx, "p2") },
		"test": func(ctx context.Context, h *host, r hypervisors.Replica) error {
			spec := hypervisors.RunSpec{ID: "t1", Point: "p1", Networks: map[string]string{"52:54:00:00:00:01": lab.Network}}
			if _, err := r.Run(ctx, spec); err != nil {
				return err
			}
			return r.End(ctx, "t1")
		},
		"failover": func(ctx context.Context, h *host, r hypervisors.Replica) error {
			if _, err := r.Run(ctx, hypervisors.RunSpec{ID: hypervisors.LiveRun, Point: "p1"}); err != nil {
				return err
			}
			return r.End(ctx, hypervisors.LiveRun)
		},
	}
	methods := []string{"ReconfigVM_Task", "CreateSnapshot_Task", "RemoveSnapshot_Task", "RevertToSnapshot_Task", "CreateVM_Task", "PowerOnVM_Task",
		"PowerOffVM_Task", "UnregisterVM", "DeleteDatastoreFile_Task"}
	for name, work := range works {
		t.Run(name, func(t *testing.T) {
			require.GreaterOrEqual(t, killAll(t, methods, work), 4)
		})
	}
}

func killAll(t *testing.T, methods []string, work func(context.Context, *host, hypervisors.Replica) error) (moments int) {
	l := startLab(t, lab.Options{})
	for _, method := range methods {
		for _, late := range []bool{false, true} {
			h, err := connect(t.Context(), l.URI(), options(l))
			require.NoError(t, err)
			id := "r" + nonce()
			hw := stock(id)
			hw.NICs[0].MAC = "52:54:00:00:00:01"
			r, err := h.CreateReplica(t.Context(), hypervisors.ReplicaSpec{ID: id, Hardware: hw, Storage: lab.Datastore})
			require.NoError(t, err)
			require.NoError(t, commit(t.Context(), r, "p1", 1))
			require.NoError(t, commit(t.Context(), r, "p2", 2))
			fail := l.Fail
			if late {
				fail = l.FailLate
			}
			fail(method, &types.GenericVmConfigFault{Reason: "the appliance is killed"}, 1)
			ctx, kill := context.WithTimeout(t.Context(), time.Minute)
			failed := work(ctx, h, r)
			kill()
			met := len(l.Unmet()) == 0
			fail(method, nil, 0)
			if !met { // this work does nothing of the kind
				require.NoError(t, failed)
				require.NoError(t, r.Delete(t.Context()))
				require.NoError(t, h.Close())
				continue
			}
			require.NoError(t, h.Close())
			moments++
			what := fmt.Sprintf("%s, late %v, first: %v", method, late, failed)

			again, err := connect(t.Context(), l.URI(), options(l))
			require.NoError(t, err)
			_, err = again.Clean(t.Context(), hypervisors.Keep{})
			require.NoError(t, err, what)
			found, err := again.Replica(t.Context(), id)
			require.NoError(t, err, what)
			status, err := found.Status(t.Context())
			require.NoError(t, err, what)
			for _, run := range status.Runs {
				require.NoError(t, found.End(t.Context(), run.ID), what)
			}
			status, err = found.Status(t.Context())
			require.NoError(t, err, what)
			require.Empty(t, status.Runs, what)
			for _, p := range status.Points {
				one, err := found.Open(t.Context(), p.ID)
				require.NoError(t, err, what)
				got := make([]byte, 16*block)
				_, err = one.Disks()[0].ReadAt(got, 0)
				require.NoError(t, err, what)
				require.Equal(t, content(p.ID[1] - '0')[:1024], got[:1024], what)
				require.NoError(t, one.Close(), what)
			}
			left, err := again.Clean(t.Context(), hypervisors.Keep{})
			require.NoError(t, err, what)
			require.Empty(t, left, what)
			if len(status.Points) < 3 || status.Points[len(status.Points)-1].ID != "p3" {
				err = work(t.Context(), again, found)
				if len(status.Points) == 2 {
					require.NoError(t, err, what)
				}
			}
			require.NoError(t, found.Delete(t.Context()), what)
			require.NoError(t, again.Close())
		}
	}
	return moments
}

// TestBootsFromTheDiskOfItsSource: which disk a machine boots from is not told by their order.
func TestBootsFromTheDiskOfItsSource(t *testing.T) {
	h := open(t, startLab(t, lab.Options{}))
	hw := stock("shop")
	hw.Disks = []hypervisors.Disk{{ID: "vda", Size: 16 * block}, {ID: "vdb", Size: 16 * block, Boot: 1}}
	r, err := h.CreateReplica(t.Context(), hypervisors.ReplicaSpec{ID: "shop", Hardware: hw, Storage: lab.Datastore})
	require.NoError(t, err)
	d, err := r.Draft(t.Context(), hypervisors.DraftRequest{Point: "p1", Disks: []hypervisors.DraftDiskSpec{{ID: "vda", Size: 16 * block}, {ID: "vdb", Size: 16 * block}}})
	require.NoError(t, err)
	point := describedAs("p1")
	point.Disks = append(point.Disks, hypervisors.PointDisk{ID: "vdb", Size: 16 * block, Digest: strings.Repeat("0", 64)})
	require.NoError(t, d.Commit(t.Context(), point))

	run, err := r.Run(t.Context(), hypervisors.RunSpec{ID: hypervisors.LiveRun, Point: "p1"})
	require.NoError(t, err)
	started := func() (options *types.VirtualMachineBootOptions, disks []int32) {
		_, m, err := h.machine(t.Context(), run.VM)
		require.NoError(t, err)
		for _, disk := range object.VirtualDeviceList(m.Config.Hardware.Device).SelectByType((*types.VirtualDisk)(nil)) {
			disks = append(disks, disk.GetVirtualDevice().Key)
		}
		return m.Config.BootOptions, disks
	}
	options, disks := started()
	require.Len(t, disks, 2)
	want := []types.BaseVirtualMachineBootOptionsBootableDevice{&types.VirtualMachineBootOptionsBootableDiskDevice{DeviceKey: disks[1]}}
	require.Equal(t, want, options.BootOrder)
	require.True(t, *options.EfiSecureBootEnabled, "what else was said of starting stays")

	require.NoError(t, h.Stop(t.Context(), run.VM))
	_, err = r.Run(t.Context(), hypervisors.RunSpec{ID: hypervisors.LiveRun, Point: "p1"})
	require.NoError(t, err)
	options, _ = started()
	require.Equal(t, want, options.BootOrder)
}

// TestAsGovcSeesIt: an administrator of VMware sees the replica, its points and networks with VMware's own command line.
func TestAsGovcSeesIt(t *testing.T) {
	govc := filepath.Join(t.TempDir(), "govc")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", govc, "./lab/govc").CombinedOutput()
	require.NoError(t, err, "%s", out)
	for name, vcenter := range kinds {
		t.Run(name, func(t *testing.T) {
			l := startLab(t, lab.Options{VCenter: vcenter})
			h := open(t, l)
			r := newReplica(t, h, "shop-replica")
			require.NoError(t, commit(t.Context(), r, "p1", 1))
			require.NoError(t, commit(t.Context(), r, "p2", 2))
			require.NoError(t, r.Mark(t.Context(), "p1", "block 7 differs"))
			require.NoError(t, h.IsolatedNetwork(t.Context(), "test of shop"))
			see := func(args ...string) string {
				cmd := exec.CommandContext(t.Context(), govc, args...)
				server, _, _ := strings.Cut(strings.TrimPrefix(l.URI(), "esx://"), "/")
				cmd.Env = append(os.Environ(), "GOVC_URL=https://"+server+"/sdk", "GOVC_USERNAME="+l.User, "GOVC_PASSWORD="+l.Password, "GOVC_INSECURE=1", "HOME="+t.TempDir())
				out, err := cmd.CombinedOutput()
				require.NoError(t, err, "%s", out)
				return string(out)
			}
			info := see("vm.info", "-e", "shop-replica")
			for _, want := range []string{"poweredOff", "512MB", "2 vCPU(s)", "A replica that Understudy keeps"} {
				require.Contains(t, info+see("vm.info", "-json", "shop-replica"), want)
			}
			require.Contains(t, info, "understudy.replica")
			tree := see("snapshot.tree", "-vm", "shop-replica", "-D", "-d")
			require.Less(t, strings.Index(tree, "understudy point p1"), strings.Index(tree, "understudy point p2"))
			require.Contains(t, tree, "Recovery point of 2026-01-02 03:04:05, crash consistent.")
			require.Contains(t, tree, "Suspect: block 7 differs")
			devices := see("device.ls", "-vm", "shop-replica")
			require.Contains(t, devices, "disk-")
			require.Contains(t, devices, "ethernet-")
			require.Contains(t, see("host.portgroup.info"), "test of shop")
			require.NoError(t, h.RemoveNetwork(t.Context(), "test of shop"))
			require.NotContains(t, see("host.portgroup.info"), "test of shop")
		})
	}
}
