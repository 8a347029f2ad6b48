package remote

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"image/png"
	"io"
	"net"
	"sync"

	"understudy/hypervisors"
	"understudy/snapshot"
)

// Serve lets the other end of nc use the host that connect gives it, until nc ends; it returns when the last call has.
// What the other end left open stays as it is. Whoever wants to know of calls, or to stop them, wraps the host.
func Serve(nc net.Conn, connect func(host, owner string) (hypervisors.Host, error)) error {
	defer nc.Close()
	ctx, end := context.WithCancel(context.Background())
	s := &server{dec: gob.NewDecoder(nc), enc: gob.NewEncoder(nc), objects: map[uint64]any{}, calls: map[uint64]context.CancelFunc{}}
	defer s.running.Wait()
	defer end()
	var h hello
	if err := s.dec.Decode(&h); err != nil {
		return fmt.Errorf("serve a hypervisor: %w", err)
	}
	host, err := connect(h.Host, h.Owner)
	if err != nil {
		return s.enc.Encode(reply{Error: pack(err)})
	}
	s.objects[0] = host
	if err := s.enc.Encode(reply{Caps: host.Capabilities()}); err != nil {
		return fmt.Errorf("serve a hypervisor: %w", err)
	}
	for {
		var q request
		if err := s.dec.Decode(&q); err != nil {
			return nil // the other end has gone, politely or not
		}
		s.take(ctx, q)
	}
}

// server is one connection.
type server struct {
	dec     *gob.Decoder
	running sync.WaitGroup

	writing sync.Mutex
	enc     *gob.Encoder

	mu      sync.Mutex
	objects map[uint64]any
	next    uint64
	calls   map[uint64]context.CancelFunc
}

func (s *server) take(ctx context.Context, q request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q.Method == "" {
		if cancel := s.calls[q.ID]; cancel != nil {
			cancel()
		}
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	s.calls[q.ID] = cancel
	object := s.objects[q.Object]
	s.running.Go(func() {
		var a reply
		a.Error = pack(s.call(ctx, object, q, &a))
		a.ID = q.ID
		s.mu.Lock()
		delete(s.calls, q.ID)
		s.mu.Unlock()
		cancel()
		s.writing.Lock()
		defer s.writing.Unlock()
		_ = s.enc.Encode(a) // nobody to tell when the other end has gone
	})
}

// keep makes an object that the other end can call.
func (s *server) keep(v any) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	s.objects[s.next] = v
	return s.next
}

func (s *server) call(ctx context.Context, object any, q request, a *reply) error {
	switch o := object.(type) {
	case hypervisors.Host:
		return s.host(ctx, o, q, a)
	case hypervisors.Checkpoint:
		return o.Close(ctx)
	case hypervisors.FrozenDisk:
		return frozen(ctx, o, q, a)
	case hypervisors.Replica:
		return s.replica(ctx, o, q, a)
	case hypervisors.Draft:
		if q.Method == "Commit" {
			return o.Commit(ctx, q.Point)
		}
		return o.Discard(ctx)
	case hypervisors.PointReader:
		return o.Close()
	case snapshot.Disk:
		return file(ctx, o, q, a)
	case io.ReaderAt:
		return read(o, q, a)
	}
	return fmt.Errorf("no object %d: %w", q.Object, hypervisors.ErrInvalid)
}

func (s *server) host(ctx context.Context, h hypervisors.Host, q request, a *reply) (err error) {
	switch q.Method {
	case "Info":
		a.Info, err = h.Info(ctx)
	case "VMs":
		a.VMs, err = h.VMs(ctx)
	case "VM":
		a.VM, err = h.VM(ctx, q.Name)
	case "Networks":
		a.Networks, err = h.Networks(ctx)
	case "Storage":
		a.Storage, err = h.Storage(ctx)
	case "Clean":
		a.Names, err = h.Clean(ctx, q.Keep)
	case "Close":
		err = h.Close()
	default:
		err = s.part(ctx, h, q, a)
	}
	return err
}

// part calls an optional interface of a host.
func (s *server) part(ctx context.Context, h hypervisors.Host, q request, a *reply) (err error) {
	switch q.Method {
	case "Start":
		return h.(hypervisors.Power).Start(ctx, q.Name)
	case "Shutdown":
		return h.(hypervisors.Power).Shutdown(ctx, q.Name)
	case "Stop":
		return h.(hypervisors.Power).Stop(ctx, q.Name)
	case "SetAutostart":
		return h.(hypervisors.Power).SetAutostart(ctx, q.Name, q.On)
	case "Checkpoint":
		cp, err := h.(hypervisors.Source).Checkpoint(ctx, q.Checkpoint)
		if err == nil {
			a.Handle = s.checkpoint(cp)
		}
		return err
	case "Forget":
		return h.(hypervisors.Source).Forget(ctx, q.Name, q.IDs...)
	case "CreateReplica":
		return s.found(a)(h.(hypervisors.Target).CreateReplica(ctx, q.Replica))
	case "Adopt":
		return s.found(a)(h.(hypervisors.Target).Adopt(ctx, q.Adopt))
	case "Replica":
		return s.found(a)(h.(hypervisors.Target).Replica(ctx, q.Name))
	case "IsolatedNetwork":
		return h.(hypervisors.Isolation).IsolatedNetwork(ctx, q.Name)
	case "AssertIsolated":
		return h.(hypervisors.Isolation).AssertIsolated(ctx, q.Name)
	case "RemoveNetwork":
		return h.(hypervisors.Isolation).RemoveNetwork(ctx, q.Name)
	case "AgentPing":
		return h.(hypervisors.Guest).AgentPing(ctx, q.Name)
	case "Screenshot":
		shot, err := h.(hypervisors.Screen).Screenshot(ctx, q.Name)
		if err != nil {
			return err
		}
		var b bytes.Buffer
		err = png.Encode(&b, shot)
		a.Data = b.Bytes()
		return err
	case "ProbePaths":
		paths, err := h.(hypervisors.Prober).ProbePaths(ctx, q.Name)
		for _, p := range paths {
			f := pack(p.Err)
			p.Err = nil
			a.Paths = append(a.Paths, dataPath{p, f})
		}
		return err
	case "Dial":
		inner, err := h.(hypervisors.Guest).Dial(ctx, q.Name, q.From, q.Addr)
		if err == nil {
			a.Addr, err = forward(inner)
		}
		return err
	}
	return fmt.Errorf("method %s: %w", q.Method, hypervisors.ErrInvalid)
}

// forward gives an address where one caller reaches inner.
func forward(inner net.Conn) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", errors.Join(err, inner.Close())
	}
	go func() {
		defer inner.Close()
		outer, err := l.Accept()
		_ = l.Close()
		if err != nil {
			return
		}
		defer outer.Close()
		go func() { _, _ = io.Copy(inner, outer); _ = inner.Close() }()
		_, _ = io.Copy(outer, inner)
	}()
	return l.Addr().String(), nil
}

func (s *server) checkpoint(cp hypervisors.Checkpoint) handle {
	h := handle{Object: s.keep(cp), Taken: cp.Taken(), Consistency: cp.Consistency(), ChangeIDs: cp.ChangeIDs()}
	for _, d := range cp.Disks() {
		h.Disks = append(h.Disks, handle{Object: s.keep(d), ID: d.ID(), VM: d.VM(), Size: d.Size()})
	}
	return h
}

func frozen(ctx context.Context, d hypervisors.FrozenDisk, q request, a *reply) (err error) {
	switch q.Method {
	case "Changed":
		a.Extents, err = collect(d.Changed(ctx))
	case "Allocated":
		a.Extents, err = collect(d.Allocated(ctx))
	default:
		err = read(d, q, a)
	}
	return err
}

func collect(extents snapshot.Extents) (out []snapshot.Extent, err error) {
	for e, err := range extents {
		if err != nil {
			return out, err
		}
		out = append(out, e)
	}
	return out, nil
}

func read(r io.ReaderAt, q request, a *reply) error {
	p := make([]byte, q.N)
	n, err := r.ReadAt(p, q.Offset)
	a.Data = p[:n]
	if errors.Is(err, io.EOF) {
		a.EOF, err = true, nil
	}
	return err
}

func file(ctx context.Context, d snapshot.Disk, q request, a *reply) (err error) {
	switch q.Method {
	case "WriteAt":
		_, err = d.WriteAt(q.Data, q.Offset)
	case "Zero":
		err = d.Zero(q.Offset, q.N)
	case "Flush":
		err = d.Flush(ctx)
	default:
		err = read(d, q, a)
	}
	return err
}

func (s *server) found(a *reply) func(hypervisors.Replica, error) error {
	return func(r hypervisors.Replica, err error) error {
		if err == nil {
			a.Handle = handle{Object: s.keep(r), ID: r.ID()}
		}
		return err
	}
}

func (s *server) replica(ctx context.Context, r hypervisors.Replica, q request, a *reply) (err error) {
	switch q.Method {
	case "Status":
		a.Status, err = r.Status(ctx)
	case "Draft":
		d, err := r.Draft(ctx, q.Draft)
		if err == nil {
			a.Handle = s.draft(d)
		}
		return err
	case "Open":
		p, err := r.Open(ctx, q.Name)
		if err == nil {
			a.Handle = s.point(p)
		}
		return err
	case "Drop":
		err = r.Drop(ctx, q.Name)
	case "Run":
		a.Run, err = r.Run(ctx, q.Run)
	case "End":
		err = r.End(ctx, q.Name)
	case "Mark":
		err = r.Mark(ctx, q.Name, q.Suspect)
	case "Settle":
		err = r.Settle(ctx)
	case "Delete":
		err = r.Delete(ctx)
	default:
		err = fmt.Errorf("method %s: %w", q.Method, hypervisors.ErrInvalid)
	}
	return err
}

func (s *server) draft(d hypervisors.Draft) handle {
	h := handle{Object: s.keep(d)}
	for _, dd := range d.Disks() {
		h.Disks = append(h.Disks, handle{Object: s.keep(dd), ID: dd.ID(), Size: dd.Size(), MapValid: dd.MapValid(), Map: s.keep(dd.Map())})
	}
	return h
}

func (s *server) point(p hypervisors.PointReader) handle {
	h := handle{Object: s.keep(p)}
	for _, d := range p.Disks() {
		h.Disks = append(h.Disks, handle{Object: s.keep(d), ID: d.ID(), Size: d.Size(), Map: s.keep(d.Map())})
	}
	return h
}
