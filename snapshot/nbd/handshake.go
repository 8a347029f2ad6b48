package nbd

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"slices"
	"strings"
)

// export is what a handshake agreed on.
type export struct {
	size       int64
	flags      uint16
	maxBlock   int64 // largest payload of a read or write
	structured bool
	contexts   map[string]uint32
}

// defaultMaxBlock is what the protocol lets a client assume when the server names no limit.
const defaultMaxBlock = 32 << 20

// handshake is the option phase on one connection. It reads exactly what it needs and never ahead, so that nothing sent
// in clear before STARTTLS can be taken for something said behind it.
type handshake struct {
	nc net.Conn
}

// interruptible runs f while the end of ctx closes nc, which is the one way out that every kind of connection has.
func interruptible(ctx context.Context, nc net.Conn, f func() error) error {
	stop := context.AfterFunc(ctx, func() { _ = nc.Close() })
	err := f()
	if !stop() {
		return context.Cause(ctx)
	}
	return err
}

// open negotiates an export; the connection to use from then on is h.nc.
func (h *handshake) open(o Options) (export, error) {
	e := export{maxBlock: defaultMaxBlock, contexts: map[string]uint32{}}
	if err := h.start(o.TLS); err != nil {
		return e, err
	}
	err := h.ask(optStructured, nil, nil)
	if err == nil {
		e.structured = true
	} else if !isRefusal(err, repErrUnsupported, repErrPolicy) {
		return e, err
	}
	if len(o.Contexts) > 0 {
		if !e.structured {
			return e, fmt.Errorf("%w: the server knows none", ErrNoContext)
		}
		if err := h.selectContexts(o, &e); err != nil {
			return e, err
		}
	}
	return e, h.openExport(o, &e)
}

// start says hello and, when told to, goes over to TLS.
func (h *handshake) start(cfg *tls.Config) error {
	var hello [18]byte
	if _, err := io.ReadFull(h.nc, hello[:]); err != nil {
		return fmt.Errorf("nbd: handshake: %w", err)
	}
	if string(hello[:8]) != magicServer || string(hello[8:16]) != magicOption {
		return violation("not an NBD server of the newstyle kind")
	}
	flags := binary.BigEndian.Uint16(hello[16:])
	if flags&handshakeFixed == 0 {
		return violation("server is not of the fixed newstyle kind")
	}
	reply := binary.BigEndian.AppendUint32(nil, uint32(flags&(handshakeFixed|handshakeNoZeroes)))
	if _, err := h.nc.Write(reply); err != nil {
		return fmt.Errorf("nbd: handshake: %w", err)
	}
	if cfg == nil {
		return nil
	}
	if err := h.ask(optStartTLS, nil, nil); err != nil {
		if isRefusal(err, repErrUnsupported, repErrPolicy) {
			return fmt.Errorf("%w: the server has no TLS", ErrTLS)
		}
		return err
	}
	secure := tls.Client(h.nc, cfg)
	if err := secure.Handshake(); err != nil {
		return fmt.Errorf("nbd: TLS: %w", err)
	}
	h.nc = secure
	return nil
}

func (h *handshake) selectContexts(o Options, e *export) error {
	data := appendString(nil, o.Export)
	data = binary.BigEndian.AppendUint32(data, uint32(len(o.Contexts)))
	for _, name := range o.Contexts {
		data = appendString(data, name)
	}
	err := h.ask(optSetContext, data, func(kind uint32, b []byte) error {
		if kind != repContext || len(b) < 4 {
			return violation("reply %d of %d bytes when selecting contexts", kind, len(b))
		}
		e.contexts[string(b[4:])] = binary.BigEndian.Uint32(b)
		return nil
	})
	if err != nil {
		return err
	}
	for _, name := range o.Contexts {
		if _, ok := e.contexts[name]; !ok {
			return fmt.Errorf("%w: %q", ErrNoContext, name)
		}
	}
	return nil
}

func (h *handshake) openExport(o Options, e *export) error {
	data := appendString(nil, o.Export)
	data = binary.BigEndian.AppendUint16(data, 1)
	data = binary.BigEndian.AppendUint16(data, infoBlockSize)
	known := false
	err := h.ask(optGo, data, func(kind uint32, b []byte) error {
		if kind != repInfo || len(b) < 2 {
			return violation("reply %d of %d bytes when opening", kind, len(b))
		}
		switch info := binary.BigEndian.Uint16(b); {
		case info == infoExport && len(b) == 12:
			size := binary.BigEndian.Uint64(b[2:])
			if size > math.MaxInt64 {
				return violation("size %d", size)
			}
			e.size, e.flags, known = int64(size), binary.BigEndian.Uint16(b[10:]), true
		case info == infoBlockSize && len(b) == 14:
			largest := binary.BigEndian.Uint32(b[10:])
			if largest < 512 {
				return violation("largest block of %d bytes", largest)
			}
			e.maxBlock = min(int64(largest), defaultMaxBlock)
		case info == infoExport || info == infoBlockSize:
			return violation("information %d of %d bytes", info, len(b))
		}
		return nil
	})
	if err == nil && !known {
		return violation("export opened without a size")
	}
	return err
}

// list asks for the names of all exports.
func (h *handshake) list() ([]string, error) {
	var names []string
	err := h.ask(optList, nil, func(kind uint32, b []byte) error {
		if kind != repServer || len(b) < 4 || uint64(binary.BigEndian.Uint32(b)) > uint64(len(b)-4) {
			return violation("reply %d of %d bytes when listing", kind, len(b))
		}
		names = append(names, string(b[4:4+binary.BigEndian.Uint32(b)]))
		return nil
	})
	if err != nil {
		return nil, err
	}
	// The answer to an abort is optional, and nobody waits for it.
	_ = h.send(optAbort, nil)
	return names, nil
}

// ask sends one option and hands every reply before the acknowledgement to each (nil: none may come).
func (h *handshake) ask(o option, data []byte, each func(kind uint32, b []byte) error) error {
	if err := h.send(o, data); err != nil {
		return fmt.Errorf("nbd: %v: %w", o, err)
	}
	for range maxOptionReplies {
		kind, b, err := h.receive(o)
		switch {
		case err != nil:
			return err
		case kind == repAck:
			return nil
		case kind&repError != 0:
			return &refusal{option: o, kind: kind, message: strings.ToValidUTF8(string(b), "?")}
		case each == nil:
			return violation("reply %d to %v", kind, o)
		}
		if err := each(kind, b); err != nil {
			return err
		}
	}
	return violation("more than %d replies to %v", maxOptionReplies, o)
}

func (h *handshake) send(o option, data []byte) error {
	b := append(make([]byte, 0, 16+len(data)), magicOption...)
	b = binary.BigEndian.AppendUint32(b, uint32(o))
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	_, err := h.nc.Write(append(b, data...))
	return err
}

func (h *handshake) receive(o option) (kind uint32, data []byte, err error) {
	var head [20]byte
	if _, err := io.ReadFull(h.nc, head[:]); err != nil {
		return 0, nil, fmt.Errorf("nbd: %v: %w", o, err)
	}
	if binary.BigEndian.Uint64(head[:]) != magicOptReply {
		return 0, nil, violation("bad magic in a reply to %v", o)
	}
	if got := option(binary.BigEndian.Uint32(head[8:])); got != o {
		return 0, nil, violation("reply to %v instead of %v", got, o)
	}
	n := binary.BigEndian.Uint32(head[16:])
	if n > maxOptionReply {
		return 0, nil, violation("reply of %d bytes to %v", n, o)
	}
	data = make([]byte, n)
	if _, err := io.ReadFull(h.nc, data); err != nil {
		return 0, nil, fmt.Errorf("nbd: %v: %w", o, err)
	}
	return binary.BigEndian.Uint32(head[12:]), data, nil
}

// refusal is an option that the server answered with an error.
type refusal struct {
	option  option
	kind    uint32
	message string
}

func (r *refusal) Error() string {
	s := fmt.Sprintf("%v: %v", r.Unwrap(), r.option)
	if errors.Is(r.Unwrap(), ErrRefused) {
		s += fmt.Sprintf(" (error %d)", r.kind&^repError)
	}
	if r.message != "" {
		s += ": " + r.message
	}
	return s
}

func (r *refusal) Unwrap() error {
	switch {
	case r.kind == repErrTLSRequired:
		return ErrTLS
	case r.kind == repErrUnknown && (r.option == optGo || r.option == optSetContext):
		return ErrNoExport
	}
	return ErrRefused
}

func isRefusal(err error, kinds ...uint32) bool {
	r, ok := err.(*refusal)
	return ok && slices.Contains(kinds, r.kind)
}

func appendString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}
