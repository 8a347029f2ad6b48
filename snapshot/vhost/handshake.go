package vhost

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// message is the kind of a vhost-user message.
type message uint32

const (
	getFeatures         message = 1
	setFeatures         message = 2
	setOwner            message = 3
	setMemory           message = 5
	setRingSize         message = 8
	setRingAddress      message = 9
	setRingBase         message = 10
	setRingKick         message = 12
	setRingCall         message = 13
	getProtocolFeatures message = 15
	setProtocolFeatures message = 16
	setRingEnable       message = 18
)

const (
	version    = 1
	flagReply  = 1 << 2
	flagAnswer = 1 << 3 // the server must say whether it worked

	featureFlush    = 1 << 9  // a disk with a cache; without it the server would flush after each write
	featureProtocol = 1 << 30 // protocol features exist
	featureVirtio1  = 1 << 32
	protocolAnswer  = 1 << 3
)

// shake agrees with the server on the memory behind fd and on one queue in it.
func shake(conn *net.UnixConn, fd int, size int64, kick, call *os.File) error {
	s := &shaking{conn: conn}
	need := uint64(featureVirtio1 | featureProtocol | featureFlush)
	if have := s.ask(getFeatures); s.err == nil && have&need != need {
		return fmt.Errorf("%w: features %#x of %#x", ErrProtocol, have&need, need)
	}
	if have := s.ask(getProtocolFeatures); s.err == nil && have&protocolAnswer == 0 {
		return fmt.Errorf("%w: the server does not answer", ErrProtocol)
	}
	s.send(setProtocolFeatures, nil, protocolAnswer)
	s.answers = true
	s.send(setOwner, nil)
	s.send(setFeatures, nil, need)
	// One region: address for descriptors, size, address for the ring's own parts, offset in the file. Both kinds of
	// addresses are the same here.
	s.send(setMemory, []int{fd}, 1, guestBase, uint64(size), guestBase, 0)
	s.send(setRingSize, nil, pair(0, ringSize))
	s.send(setRingBase, nil, pair(0, 0))
	s.send(setRingAddress, nil, pair(0, 0), guestBase+descriptors, guestBase+used, guestBase+available, 0)
	s.file(setRingCall, call)
	s.file(setRingKick, kick)
	s.send(setRingEnable, nil, pair(0, 1))
	return s.err
}

// pair packs two 32-bit numbers, the first one in front.
func pair(a, b uint32) uint64 { return uint64(a) | uint64(b)<<32 }

// shaking stops at its first error.
type shaking struct {
	conn    *net.UnixConn
	answers bool
	err     error
}

// ask sends a message and returns the number that it is answered with.
func (s *shaking) ask(m message) uint64 {
	s.write(m, 0, nil, nil)
	return s.read(m)
}

// send sends numbers and descriptors, and checks that the server could do what it was told.
func (s *shaking) send(m message, fds []int, numbers ...uint64) {
	var payload []byte
	for _, n := range numbers {
		payload = binary.LittleEndian.AppendUint64(payload, n)
	}
	if !s.answers {
		s.write(m, 0, payload, fds)
		return
	}
	s.write(m, flagAnswer, payload, fds)
	if status := s.read(m); s.err == nil && status != 0 {
		s.err = fmt.Errorf("%w: message %d was refused: %d", ErrProtocol, m, status)
	}
}

// file hands a descriptor for ring 0 over.
func (s *shaking) file(m message, f *os.File) {
	raw, err := f.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { s.send(m, []int{int(fd)}, 0) })
	}
	if s.err == nil {
		s.err = err
	}
}

func (s *shaking) write(m message, flags uint32, payload []byte, fds []int) {
	if s.err != nil {
		return
	}
	head := binary.LittleEndian.AppendUint32(nil, uint32(m))
	head = binary.LittleEndian.AppendUint32(head, version|flags)
	head = binary.LittleEndian.AppendUint32(head, uint32(len(payload)))
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	_, _, s.err = s.conn.WriteMsgUnix(append(head, payload...), rights, nil)
}

// read takes the answer to m, one number.
func (s *shaking) read(m message) uint64 {
	var b [20]byte
	if s.err != nil {
		return 0
	}
	if _, s.err = io.ReadFull(s.conn, b[:]); s.err != nil {
		return 0
	}
	kind, flags, size := binary.LittleEndian.Uint32(b[:]), binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint32(b[8:])
	if kind != uint32(m) || flags&flagReply == 0 || size != 8 {
		s.err = fmt.Errorf("%w: answer %d, flags %#x, of %d bytes to message %d", ErrProtocol, kind, flags, size, m)
	}
	return binary.LittleEndian.Uint64(b[12:])
}
