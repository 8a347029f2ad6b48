package fake_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"understudy/hypervisors"
	"understudy/hypervisors/fake"
)

// twin is a replica with one committed point of vm's disks, made by plain means.
func twin(t *testing.T, h hypervisors.Host, vm string) hypervisors.Replica {
	t.Helper()
	hw, err := h.VM(t.Context(), vm)
	require.NoError(t, err)
	hw.Hardware.Name += "-twin"
	hw.Hardware.NICs = nil
	r, err := h.(hypervisors.Target).CreateReplica(t.Context(), hypervisors.ReplicaSpec{ID: "twin", Hardware: hw.Hardware})
	require.NoError(t, err)
	copyPoint(t, h, r, vm, "p1", true)
	return r
}

func copyPoint(t *testing.T, h hypervisors.Host, r hypervisors.Replica, vm, point string, flush bool) {
	t.Helper()
	ctx := t.Context()
	cp := freeze(t, h, vm)
	defer func() { require.NoError(t, cp.Close(ctx)) }()
	req := hypervisors.DraftRequest{Point: point}
	p := hypervisors.Point{ID: point}
	for _, d := range cp.Disks() {
		req.Disks = append(req.Disks, hypervisors.DraftDiskSpec{ID: d.ID(), Size: d.Size()})
		p.Disks = append(p.Disks, hypervisors.PointDisk{ID: d.ID(), Size: d.Size()})
	}
	draft, err := r.Draft(ctx, req)
	require.NoError(t, err)
	for i, d := range cp.Disks() {
		content := make([]byte, d.Size())
		_, err := d.ReadAt(content, 0)
		require.NoError(t, err)
		_, err = draft.Disks()[i].WriteAt(content, 0)
		require.NoError(t, err)
		if flush {
			require.NoError(t, draft.Disks()[i].Flush(ctx))
		}
	}
	require.NoError(t, draft.Commit(ctx, p))
}

func freeze(t *testing.T, h hypervisors.Host, vm string) hypervisors.Checkpoint {
	t.Helper()
	cp, err := h.(hypervisors.Source).Checkpoint(t.Context(), hypervisors.CheckpointRequest{
		Name: "c", VMs: []hypervisors.CheckpointVM{{ID: vm}}, Quiesce: true,
	})
	require.NoError(t, err)
	return cp
}

func running(t *testing.T, opts ...fake.Option) (*fake.Hypervisor, string, hypervisors.Host) {
	t.Helper()
	hv := fake.New("host", clock(), opts...)
	vm := guest(t, hv, "web")
	require.NoError(t, hv.Start(vm))
	return hv, vm, hv.Connect(owner)
}

func records(t *testing.T, r hypervisors.Replica, point string) (uint64, error) {
	t.Helper()
	p, err := r.Open(t.Context(), point)
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Close()) }()
	return fake.CheckRecords(p.Disks())
}

func TestPowerFailureKeepsCommittedPointsOnly(t *testing.T) {
	hv, vm, h := running(t)
	last, err := hv.Guest(vm).Step(100)
	require.NoError(t, err)
	r := twin(t, h, vm)
	_, err = hv.Guest(vm).Step(100)
	require.NoError(t, err)
	draft, err := r.Draft(t.Context(), hypervisors.DraftRequest{Point: "p2"})
	require.NoError(t, err)

	hv.PowerFail()
	_, err = h.VMs(t.Context())
	require.NoError(t, err, "the connection finds the host again")
	require.ErrorIs(t, draft.Commit(t.Context(), hypervisors.Point{ID: "p2"}), hypervisors.ErrNotFound)
	require.Empty(t, hv.Leftovers())
	require.Error(t, hv.Guest(vm).Write("vda", 0, []byte("x")), "machines are off")

	r, err = hv.Connect(owner).(hypervisors.Target).Replica(t.Context(), "twin")
	require.NoError(t, err)
	status, err := r.Status(t.Context())
	require.NoError(t, err)
	require.Len(t, status.Points, 1)
	newest, err := records(t, r, "p1")
	require.NoError(t, err)
	require.Equal(t, last, newest)
}

func TestFullStorage(t *testing.T) {
	hv, vm, h := running(t, fake.WithStorage("default", 64<<20), fake.WithStorage("small", 256<<10))
	ctx := t.Context()
	spec := hypervisors.ReplicaSpec{ID: "r", Storage: "small", Hardware: hypervisors.Hardware{Name: "r", Disks: []hypervisors.Disk{{Size: 1 << 30}}}}
	r, err := h.(hypervisors.Target).CreateReplica(ctx, spec)
	require.NoError(t, err)
	req := hypervisors.DraftRequest{Point: "p", Disks: []hypervisors.DraftDiskSpec{{ID: "vda", Size: 1 << 30}}, ExpectBytes: 1 << 20}
	_, err = r.Draft(ctx, req)
	require.ErrorIs(t, err, hypervisors.ErrNoSpace, "before")
	req.ExpectBytes = 0
	d, err := r.Draft(ctx, req)
	require.NoError(t, err)
	_, err = d.Disks()[0].WriteAt(make([]byte, 256<<10), 0)
	require.NoError(t, err)
	_, err = d.Disks()[0].WriteAt([]byte("more"), 1<<29)
	require.ErrorIs(t, err, hypervisors.ErrNoSpace, "in the middle")
	require.NoError(t, d.Discard(ctx))
	requireFree(t, h, "small", 256<<10)

	// A checkpoint takes room as its guest goes on writing, and gives way before the guest stands still.
	_, err = hv.Guest(vm).Step(100)
	require.NoError(t, err)
	cp := freeze(t, h, vm)
	require.NoError(t, hv.SetFree("default", 0))
	_, err = hv.Guest(vm).Step(1)
	require.NoError(t, err)
	_, err = cp.Disks()[0].ReadAt(make([]byte, 1), 0)
	require.ErrorIs(t, err, hypervisors.ErrGaveWay)
	require.NoError(t, cp.Close(ctx))

	require.ErrorIs(t, hv.Guest(vm).Write("vda", 3<<20, []byte("new block")), hypervisors.ErrNoSpace)
	shown, err := h.VM(ctx, vm)
	require.NoError(t, err)
	require.Equal(t, hypervisors.Paused, shown.State)
}

func requireFree(t *testing.T, h hypervisors.Host, name string, want int64) {
	t.Helper()
	all, err := h.Storage(t.Context())
	require.NoError(t, err)
	for _, s := range all {
		if s.Name == name {
			require.Equal(t, want, s.Free)
		}
	}
}

func TestNoSpaceIsLost(t *testing.T) {
	hv, vm, h := running(t, fake.WithStorage("default", 1<<30), fake.WithStorage("replicas", 1<<30))
	_, err := hv.Guest(vm).Step(100)
	require.NoError(t, err)
	machine, err := h.VM(t.Context(), vm)
	require.NoError(t, err)
	machine.Hardware.Name, machine.Hardware.NICs = "r", nil
	r, err := h.(hypervisors.Target).CreateReplica(t.Context(), hypervisors.ReplicaSpec{ID: "r", Storage: "replicas", Hardware: machine.Hardware})
	require.NoError(t, err)
	for _, p := range []string{"p1", "p2", "p3"} {
		copyPoint(t, h, r, vm, p, p != "p2")
		_, err := hv.Guest(vm).Step(100)
		require.NoError(t, err)
	}
	for _, run := range []string{hypervisors.LiveRun, "t1"} {
		status, err := r.Run(t.Context(), hypervisors.RunSpec{ID: run, Point: "p2"})
		require.NoError(t, err)
		last, err := hv.Guest(status.VM).Step(30)
		require.NoError(t, err)
		require.EqualValues(t, 230, last, "the guest goes on where the point was")
		newest, err := fake.CheckRecords(hv.Disks(status.VM))
		require.NoError(t, err)
		require.Equal(t, last, newest)
		require.NoError(t, r.End(t.Context(), run))
	}
	require.NoError(t, r.Drop(t.Context(), "p1"))
	require.NoError(t, r.Delete(t.Context()))
	requireFree(t, h, "replicas", 1<<30)
	require.NoError(t, hv.RemoveVM(vm))
	requireFree(t, h, "default", 1<<30)
}

func TestGuestRefuses(t *testing.T) {
	hv, vm, h := running(t)
	ctx := t.Context()
	cp := freeze(t, h, vm)
	require.Equal(t, hypervisors.ApplicationConsistent, cp.Consistency())
	require.NoError(t, cp.Close(ctx))
	require.NoError(t, hv.Guest(vm).RefuseQuiesce(true))
	cp = freeze(t, h, vm)
	require.Equal(t, hypervisors.CrashConsistent, cp.Consistency())
	require.NoError(t, cp.Close(ctx))

	require.NoError(t, hv.Guest(vm).Mute(true))
	require.Error(t, h.(hypervisors.Guest).AgentPing(ctx, vm))

	hurry, cancel := context.WithCancel(ctx)
	require.NoError(t, hv.Guest(vm).OnShutdown(func(ctx context.Context) error { cancel(); <-ctx.Done(); return ctx.Err() }))
	require.ErrorIs(t, h.(hypervisors.Power).Shutdown(hurry, vm), hypervisors.ErrTimeout)
	require.NoError(t, hv.Guest(vm).OnShutdown(func(context.Context) error { _, err := hv.Guest(vm).Step(3); return err }))
	require.NoError(t, h.(hypervisors.Power).Shutdown(ctx, vm))
	newest, err := fake.CheckRecords(hv.Disks(vm))
	require.NoError(t, err)
	require.EqualValues(t, 3, newest, "what the guest wrote while it went down")
}

func TestGuestAnswersHTTP(t *testing.T) {
	_, _, h := running(t)
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
		return h.(hypervisors.Guest).Dial(ctx, "lan", "192.0.2.253/24", addr)
	}}}
	defer client.CloseIdleConnections()
	res, err := client.Get("http://" + answer + "/")
	require.NoError(t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, "hello from web", string(text))
}

func TestCheckerFindsDamage(t *testing.T) {
	for what, damage := range map[string]func(vda, vdb []byte){
		"a torn record":        func(vda, _ []byte) { vda[64<<10+100] ^= 1 },
		"a hole":               func(vda, _ []byte) { clear(vda[64<<10 : 64<<10+512]) },
		"a disk that is ahead": func(vda, _ []byte) { clear(vda[64<<10:]) },
		"a torn boot block":    func(vda, _ []byte) { vda[60] ^= 1 },
	} {
		t.Run(what, func(t *testing.T) {
			hv, vm, _ := running(t)
			_, err := hv.Guest(vm).Step(9000) // around the ring twice
			require.NoError(t, err)
			var disks []buffer
			for _, d := range hv.Disks(vm) {
				b := buffer{id: d.ID(), p: make([]byte, d.Size())}
				_, err := d.ReadAt(b.p, 0)
				require.NoError(t, err)
				disks = append(disks, b)
			}
			newest, err := fake.CheckRecords(disks)
			require.NoError(t, err)
			require.EqualValues(t, 9000, newest)
			damage(disks[0].p, disks[1].p)
			_, err = fake.CheckRecords(disks)
			require.Error(t, err)
		})
	}
}

type buffer struct {
	id string
	p  []byte
}

func (b buffer) ID() string                              { return b.id }
func (b buffer) Size() int64                             { return int64(len(b.p)) }
func (b buffer) ReadAt(p []byte, off int64) (int, error) { return copy(p, b.p[off:]), nil }

func TestSeveralMachinesWriteWhileFrozen(t *testing.T) {
	hv := fake.New("host", func() time.Time { return time.Unix(0, 0) })
	h := hv.Connect(owner)
	var vms []hypervisors.CheckpointVM
	var work errgroup.Group
	for _, name := range []string{"a", "b", "c"} {
		vm := guest(t, hv, name)
		require.NoError(t, hv.Start(vm))
		vms = append(vms, hypervisors.CheckpointVM{ID: vm})
		work.Go(func() error { _, err := hv.Guest(vm).Step(500); return err })
	}
	for _, name := range []string{"c1", "c2", "c3"} {
		cp, err := h.(hypervisors.Source).Checkpoint(t.Context(), hypervisors.CheckpointRequest{Name: name, VMs: vms})
		require.NoError(t, err)
		for i := 0; i < len(cp.Disks()); i += 2 {
			if _, err := fake.CheckRecords(cp.Disks()[i : i+2]); err != nil {
				t.Error(err)
			}
		}
		require.NoError(t, cp.Close(t.Context()))
	}
	require.NoError(t, work.Wait())
	hv.SetFreeze(time.Hour)
	_, err := h.(hypervisors.Source).Checkpoint(t.Context(), hypervisors.CheckpointRequest{Name: "c4", VMs: vms})
	require.ErrorIs(t, err, hypervisors.ErrGaveWay)
}

func TestDiskChanges(t *testing.T) {
	hv, vm, h := running(t)
	require.NoError(t, hv.AddDisk(vm, hypervisors.Disk{ID: "vdc", Size: 1 << 20}))
	cp := freeze(t, h, vm)
	require.Len(t, cp.Disks(), 3)
	require.ErrorIs(t, hv.ResizeDisk(vm, "vdc", 2<<20), hypervisors.ErrBusy)
	require.NoError(t, cp.Close(t.Context()))
	require.NoError(t, hv.RemoveDisk(vm, "vdc"))
	cp = freeze(t, h, vm)
	require.Len(t, cp.Disks(), 2)
	require.NoError(t, hv.Crash(vm))
	_, err := cp.Disks()[0].ReadAt(make([]byte, 1), 0)
	require.Error(t, err)
	require.NoError(t, cp.Close(t.Context()))
	hv.SetReachable(false)
	_, err = h.Info(t.Context())
	require.ErrorIs(t, err, hypervisors.ErrUnreachable)
	hv.SetReachable(true)
	_, err = h.Info(t.Context())
	require.NoError(t, err)
	hv.BreakConnections()
	_, err = h.Info(t.Context())
	require.ErrorIs(t, err, hypervisors.ErrUnreachable)
}

func BenchmarkManyMachines(b *testing.B) {
	for b.Loop() {
		hv := fake.New("host", clock())
		for i := range 1000 {
			guest(b, hv, "m"+string(rune('a'+i%26))+time.Duration(i).String())
		}
	}
}

func TestCompressedPointsTakeLessRoom(t *testing.T) {
	for _, capable := range []bool{true, false} {
		_, vm, h := running(t, fake.WithStorage("default", 64<<20), fake.WithCapabilities(func(c *hypervisors.Capabilities) { c.Compression = capable }))
		r := twin(t, h, vm)
		taken := func(compress bool) int64 {
			before, err := h.Storage(t.Context())
			require.NoError(t, err)
			d, err := r.Draft(t.Context(), hypervisors.DraftRequest{Point: "p2", Compress: compress, Disks: []hypervisors.DraftDiskSpec{{ID: "vda", Size: 4 << 20}}})
			require.NoError(t, err)
			_, err = d.Disks()[0].WriteAt(make([]byte, 1<<20), 0)
			require.NoError(t, err)
			after, err := h.Storage(t.Context())
			require.NoError(t, err)
			require.NoError(t, d.Discard(t.Context()))
			left, err := h.Storage(t.Context())
			require.NoError(t, err)
			require.Equal(t, before[0].Free, left[0].Free)
			return before[0].Free - after[0].Free
		}
		require.EqualValues(t, 1<<20, taken(false))
		if capable {
			require.EqualValues(t, 1<<18, taken(true))
		} else {
			require.EqualValues(t, 1<<20, taken(true))
		}
	}
}
