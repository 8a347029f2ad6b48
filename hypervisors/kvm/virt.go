package kvm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"

	"libvirt.org/go/libvirt"

	"understudy/hypervisors"
)

// eventLoop runs libvirt's events, once for the process: keepalives need it, and so do callbacks.
var eventLoop = sync.OnceValue(func() error {
	if err := libvirt.EventRegisterDefaultImpl(); err != nil {
		return err
	}
	// The loop sleeps in poll until something happens; with a timer it cannot spin if that fails at once.
	if _, err := libvirt.EventAddTimeout(60_000, func(int) {}); err != nil {
		return err
	}
	go func() {
		for libvirt.EventRunDefaultImpl() == nil {
		}
	}()
	return nil
})

// virt is a connection to libvirt that is made anew when it was lost.
type virt struct {
	socket func(ctx context.Context) (string, error) // the local socket to use

	mu      sync.Mutex
	current *libvirt.Connect
	// lost connections stay open until the end, as others may be in a call on them; restarts of libvirtd are rare.
	lost   []*libvirt.Connect
	closed bool
}

// errClosed is what everything answers once the host was closed.
var errClosed = fmt.Errorf("%w: %w", hypervisors.ErrUnreachable, net.ErrClosed)

func newVirt(socket func(context.Context) (string, error)) *virt { return &virt{socket: socket} }

// Libvirt's keepalive finds a connection dead after interval × (count + 1).
const (
	keepaliveSeconds = 5
	keepaliveCount   = 3
)

func (v *virt) conn(ctx context.Context) (*libvirt.Connect, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := ctx.Err(); err != nil { // perhaps it was a long wait: who connects holds the mutex
		return nil, err
	}
	if v.closed {
		return nil, errClosed
	}
	if v.current != nil {
		if answersVirt(v.current) {
			return v.current, nil
		}
		v.lost = append(v.lost, v.current)
		v.current = nil
	}
	if err := eventLoop(); err != nil {
		return nil, err
	}
	socket, err := v.socket(ctx)
	if err != nil {
		return nil, err
	}
	c, err := libvirt.NewConnect("qemu+unix:///system?socket=" + url.QueryEscape(socket))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", hypervisors.ErrUnreachable, virtError(err))
	}
	if err := c.SetKeepAlive(keepaliveSeconds, keepaliveCount); err != nil {
		c.Close()
		return nil, virtError(err)
	}
	v.current = c
	return c, nil
}

// answersVirt asks libvirtd something small: a connection may look alive until it is used.
func answersVirt(c *libvirt.Connect) bool {
	if alive, err := c.IsAlive(); err != nil || !alive {
		return false
	}
	_, err := c.GetLibVersion()
	return err == nil
}

func (v *virt) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.closed = true
	for _, c := range append(v.lost, v.current) {
		if c != nil {
			c.Close()
		}
	}
	v.lost, v.current = nil, nil
}

// virtErr is an error of libvirt in our words: its message for people, the kind it is for errors.Is, and libvirt's own
// for errors.As within the driver.
type virtErr struct {
	kind error // a sentinel of package hypervisors, or nil
	own  libvirt.Error
}

func (e *virtErr) Error() string { return "libvirt: " + e.own.Message }

func (e *virtErr) Unwrap() []error {
	if e.kind == nil {
		return []error{e.own}
	}
	return []error{e.kind, e.own}
}

// virtError translates an error of libvirt; others are returned as they are.
func virtError(err error) error {
	var own libvirt.Error
	if !errors.As(err, &own) {
		return err
	}
	e := &virtErr{own: own}
	switch own.Code {
	case libvirt.ERR_NO_DOMAIN, libvirt.ERR_NO_NETWORK, libvirt.ERR_NO_STORAGE_POOL, libvirt.ERR_NO_STORAGE_VOL, libvirt.ERR_NO_DOMAIN_CHECKPOINT:
		e.kind = hypervisors.ErrNotFound
	case libvirt.ERR_RPC, libvirt.ERR_NO_CONNECT, libvirt.ERR_SYSTEM_ERROR, libvirt.ERR_INTERNAL_ERROR:
		if connectionLost(own) {
			e.kind = hypervisors.ErrUnreachable
		}
	case libvirt.ERR_AUTH_FAILED, libvirt.ERR_AUTH_UNAVAILABLE, libvirt.ERR_AUTH_CANCELLED, libvirt.ERR_ACCESS_DENIED:
		e.kind = hypervisors.ErrUnauthorized
	case libvirt.ERR_OPERATION_TIMEOUT:
		e.kind = hypervisors.ErrBusy
		if !strings.Contains(own.Message, "state change lock") {
			e.kind = hypervisors.ErrTimeout
		}
	case libvirt.ERR_DOM_EXIST:
		e.kind = hypervisors.ErrNameTaken
	}
	if e.kind == nil && strings.Contains(own.Message, "No space left on device") {
		e.kind = hypervisors.ErrNoSpace
	}
	return e
}

func connectionLost(e libvirt.Error) bool {
	return e.Domain == libvirt.FROM_RPC || e.Domain == libvirt.FROM_REMOTE || strings.Contains(e.Message, "client socket is closed") ||
		strings.Contains(e.Message, "Failed to connect socket")
}

// virtCode is the code of the libvirt error in err's chain, or ERR_OK.
func virtCode(err error) libvirt.ErrorNumber {
	var own libvirt.Error
	if errors.As(err, &own) {
		return own.Code
	}
	return libvirt.ERR_OK
}
