package remote

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"image"
	"image/png"
	"io"
	"net"
	"sync"

	"understudy/hypervisors"
)

// Dial connects to a host that somebody serves at a Unix socket, in the name of owner.
func Dial(ctx context.Context, socket, name, owner string) (hypervisors.Host, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, &hypervisors.Error{Op: "connect", Subject: "host " + name, Err: fmt.Errorf("%w: %w", hypervisors.ErrUnreachable, err)}
	}
	c := &conn{nc: nc, enc: gob.NewEncoder(nc), waiting: map[uint64]chan reply{}}
	dec := gob.NewDecoder(nc)
	var first reply
	err = c.enc.Encode(hello{Host: name, Owner: owner})
	if err == nil {
		err = dec.Decode(&first)
	}
	if err == nil {
		err = first.Error.unpack()
	}
	if err != nil {
		return nil, errors.Join(err, nc.Close())
	}
	go c.listen(dec)
	return &host{c: c, caps: first.Caps}, nil
}

// conn is the near end of a connection.
type conn struct {
	nc net.Conn

	writing sync.Mutex
	enc     *gob.Encoder

	mu      sync.Mutex
	last    uint64
	waiting map[uint64]chan reply
	broken  error
}

// listen hands replies to those who wait for them, until the connection breaks.
func (c *conn) listen(dec *gob.Decoder) {
	for {
		var a reply
		err := dec.Decode(&a)
		c.mu.Lock()
		if err != nil {
			c.broken = fmt.Errorf("connection broke: %w", hypervisors.ErrUnreachable)
			for _, w := range c.waiting {
				close(w)
			}
			c.waiting = nil
			c.mu.Unlock()
			return
		}
		w := c.waiting[a.ID]
		delete(c.waiting, a.ID)
		c.mu.Unlock()
		if w != nil {
			w <- a
		}
	}
}

// call makes one call and waits for its reply. When ctx ends the other side is told, and answers all the same.
func (c *conn) call(ctx context.Context, q request) (reply, error) {
	if err := ctx.Err(); err != nil {
		return reply{}, &hypervisors.Error{Op: q.Method, Subject: q.Name, Err: err}
	}
	c.mu.Lock()
	if c.broken != nil {
		c.mu.Unlock()
		return reply{}, &hypervisors.Error{Op: q.Method, Subject: q.Name, Err: c.broken, Hint: "connect to the host again"}
	}
	c.last++
	q.ID = c.last
	w := make(chan reply, 1)
	c.waiting[q.ID] = w
	c.mu.Unlock()
	c.send(q)
	stop := context.AfterFunc(ctx, func() { c.send(request{ID: q.ID}) })
	defer stop()
	a, ok := <-w
	if !ok {
		return reply{}, &hypervisors.Error{Op: q.Method, Subject: q.Name, Err: c.broken, Hint: "connect to the host again"}
	}
	return a, a.Error.unpack()
}

// send needs no error: what cannot be sent breaks the connection, and listen tells everybody.
func (c *conn) send(q request) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.enc.Encode(q) != nil {
		_ = c.nc.Close()
	}
}

// do is call for calls that return nothing.
func (c *conn) do(ctx context.Context, q request) error {
	_, err := c.call(ctx, q)
	return err
}

func (c *conn) readAt(object uint64, p []byte, off int64) (int, error) {
	a, err := c.call(context.Background(), request{Object: object, Method: "ReadAt", Offset: off, N: int64(len(p))})
	n := copy(p, a.Data)
	if err == nil && a.EOF {
		err = io.EOF
	}
	return n, err
}

// host implements every interface there is, as the fake does: Capabilities say what it can.
type host struct {
	c    *conn
	caps hypervisors.Capabilities
}

func (h *host) Capabilities() hypervisors.Capabilities { return h.caps }

func (h *host) Info(ctx context.Context) (hypervisors.Info, error) {
	a, err := h.c.call(ctx, request{Method: "Info"})
	return a.Info, err
}

func (h *host) VMs(ctx context.Context) ([]hypervisors.VM, error) {
	a, err := h.c.call(ctx, request{Method: "VMs"})
	return a.VMs, err
}

func (h *host) VM(ctx context.Context, id string) (hypervisors.VM, error) {
	a, err := h.c.call(ctx, request{Method: "VM", Name: id})
	return a.VM, err
}

func (h *host) Networks(ctx context.Context) ([]hypervisors.Network, error) {
	a, err := h.c.call(ctx, request{Method: "Networks"})
	return a.Networks, err
}

func (h *host) Storage(ctx context.Context) ([]hypervisors.Storage, error) {
	a, err := h.c.call(ctx, request{Method: "Storage"})
	return a.Storage, err
}

func (h *host) Clean(ctx context.Context, keep hypervisors.Keep) ([]string, error) {
	a, err := h.c.call(ctx, request{Method: "Clean", Keep: keep})
	return a.Names, err
}

func (h *host) Close() error {
	err := h.c.do(context.Background(), request{Method: "Close"})
	_ = h.c.nc.Close()
	return err
}

func (h *host) Start(ctx context.Context, vm string) error {
	return h.c.do(ctx, request{Method: "Start", Name: vm})
}

func (h *host) Shutdown(ctx context.Context, vm string) error {
	return h.c.do(ctx, request{Method: "Shutdown", Name: vm})
}

func (h *host) Stop(ctx context.Context, vm string) error {
	return h.c.do(ctx, request{Method: "Stop", Name: vm})
}

func (h *host) SetAutostart(ctx context.Context, vm string, on bool) error {
	return h.c.do(ctx, request{Method: "SetAutostart", Name: vm, On: on})
}

func (h *host) Checkpoint(ctx context.Context, req hypervisors.CheckpointRequest) (hypervisors.Checkpoint, error) {
	a, err := h.c.call(ctx, request{Method: "Checkpoint", Checkpoint: req})
	if err != nil {
		return nil, err
	}
	return &checkpoint{object{h.c, a.Handle}}, nil
}

func (h *host) Forget(ctx context.Context, vm string, ids ...hypervisors.ChangeID) error {
	return h.c.do(ctx, request{Method: "Forget", Name: vm, IDs: ids})
}

func (h *host) CreateReplica(ctx context.Context, spec hypervisors.ReplicaSpec) (hypervisors.Replica, error) {
	return h.replica(ctx, request{Method: "CreateReplica", Replica: spec})
}

func (h *host) Adopt(ctx context.Context, spec hypervisors.AdoptSpec) (hypervisors.Replica, error) {
	return h.replica(ctx, request{Method: "Adopt", Adopt: spec})
}

func (h *host) Replica(ctx context.Context, id string) (hypervisors.Replica, error) {
	return h.replica(ctx, request{Method: "Replica", Name: id})
}

func (h *host) replica(ctx context.Context, q request) (hypervisors.Replica, error) {
	a, err := h.c.call(ctx, q)
	if err != nil {
		return nil, err
	}
	return &replica{object{h.c, a.Handle}}, nil
}

func (h *host) IsolatedNetwork(ctx context.Context, name string) error {
	return h.c.do(ctx, request{Method: "IsolatedNetwork", Name: name})
}

func (h *host) AssertIsolated(ctx context.Context, name string) error {
	return h.c.do(ctx, request{Method: "AssertIsolated", Name: name})
}

func (h *host) RemoveNetwork(ctx context.Context, name string) error {
	return h.c.do(ctx, request{Method: "RemoveNetwork", Name: name})
}

func (h *host) AgentPing(ctx context.Context, vm string) error {
	return h.c.do(ctx, request{Method: "AgentPing", Name: vm})
}

func (h *host) Screenshot(ctx context.Context, vm string) (image.Image, error) {
	a, err := h.c.call(ctx, request{Method: "Screenshot", Name: vm})
	if err != nil {
		return nil, err
	}
	return png.Decode(bytes.NewReader(a.Data))
}

func (h *host) ProbePaths(ctx context.Context, storage string) ([]hypervisors.DataPath, error) {
	a, err := h.c.call(ctx, request{Method: "ProbePaths", Name: storage})
	var paths []hypervisors.DataPath
	for _, p := range a.Paths {
		p.Err = p.Failure.unpack()
		paths = append(paths, p.DataPath)
	}
	return paths, err
}

func (h *host) Dial(ctx context.Context, network, from, addr string) (net.Conn, error) {
	a, err := h.c.call(ctx, request{Method: "Dial", Name: network, From: from, Addr: addr})
	if err != nil {
		return nil, err
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", a.Addr)
}
