package nbd

import (
	"errors"
	"fmt"
	"syscall"
)

// Numbers of the NBD protocol (https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md), big-endian on the
// wire.
const (
	magicServer     = "NBDMAGIC"
	magicOption     = "IHAVEOPT"
	magicOptReply   = 0x3e889045565a9
	magicRequest    = 0x25609513
	magicSimple     = 0x67446698
	magicStructured = 0x668e33ef

	handshakeFixed    = 1 << 0
	handshakeNoZeroes = 1 << 1
)

type option uint32

const (
	optAbort      option = 2
	optList       option = 3
	optStartTLS   option = 5
	optGo         option = 7
	optStructured option = 8
	optSetContext option = 10
)

func (o option) String() string {
	switch o {
	case optList:
		return "list exports"
	case optStartTLS:
		return "start TLS"
	case optGo:
		return "open export"
	case optStructured:
		return "structured replies"
	case optSetContext:
		return "select contexts"
	}
	return fmt.Sprintf("option %d", uint32(o))
}

const (
	repAck     = 1
	repServer  = 2
	repInfo    = 3
	repContext = 4
	repError   = 1 << 31

	repErrUnsupported = repError | 1
	repErrPolicy      = repError | 2
	repErrTLSRequired = repError | 5
	repErrUnknown     = repError | 6

	infoExport    = 0
	infoBlockSize = 3
)

// Transmission flags of an export.
const (
	flagReadOnly  = 1 << 1
	flagFlush     = 1 << 2
	flagTrim      = 1 << 5
	flagZeroes    = 1 << 6
	flagMultiConn = 1 << 8
)

type command uint16

const (
	cmdRead   command = 0
	cmdWrite  command = 1
	cmdClose  command = 2
	cmdFlush  command = 3
	cmdTrim   command = 4
	cmdZero   command = 6
	cmdStatus command = 7
)

func (c command) String() string {
	switch c {
	case cmdRead:
		return "read"
	case cmdWrite:
		return "write"
	case cmdFlush:
		return "flush"
	case cmdTrim:
		return "trim"
	case cmdZero:
		return "zero"
	case cmdStatus:
		return "block status"
	}
	return fmt.Sprintf("command %d", uint16(c))
}

const (
	chunkDone   = 1 << 0 // flag: last chunk of a reply
	chunkNone   = 0
	chunkData   = 1
	chunkHole   = 2
	chunkStatus = 5
	chunkError  = 1 << 15
	chunkErrAt  = chunkError | 2
)

// Limits on what a server may make us hold or wait for, however wrong it is.
const (
	maxOptionReply   = 64 << 10 // bytes of one option reply
	maxOptionReplies = 10_000   // replies to one option
	maxErrorChunk    = 64 << 10
	maxStatusChunk   = 4 + 8<<20 // a million extents, the most that QEMU and nbdkit send
)

// What can go wrong in ways that callers tell apart.
var (
	// ErrClosed is what requests get after Close.
	ErrClosed = errors.New("nbd: connection closed")
	// ErrStalled is what requests get when the server did not move for Options.Patience.
	ErrStalled = errors.New("nbd: server does not answer")
	// ErrProtocol says that the server sent what no server may send.
	ErrProtocol = errors.New("nbd: protocol violation")
	// ErrNoExport says that the server has no export of that name.
	ErrNoExport = errors.New("nbd: no such export")
	// ErrNoContext says that the export does not have a meta context that was asked for, such as a dirty bitmap.
	ErrNoContext = errors.New("nbd: no such meta context")
	// ErrTLS says that one side insists on TLS and the other has none.
	ErrTLS = errors.New("nbd: TLS mismatch")
	// ErrRefused is any other refusal in the handshake.
	ErrRefused = errors.New("nbd: server refused")
	// ErrReadOnly is what writing to a read-only export gets.
	ErrReadOnly = errors.New("nbd: export is read-only")
)

// Error is a request that the server answered with an error; the connection goes on. It unwraps to the matching
// syscall.Errno: errors.Is(err, syscall.ENOSPC).
type Error struct {
	Op      string // "write"
	Offset  int64
	Length  int64
	Errno   uint32 // as on the wire, equal to Linux's numbers
	Message string // the server's own words, may be empty
}

func (e *Error) Error() string {
	s := fmt.Sprintf("nbd: %s of %d bytes at %d: %v", e.Op, e.Length, e.Offset, e.Unwrap())
	if e.Message != "" {
		s += " (" + e.Message + ")"
	}
	return s
}

// Unwrap translates the protocol's number, which only on Linux equals the system's own.
func (e *Error) Unwrap() error {
	switch e.Errno {
	case 1:
		return syscall.EPERM
	case 5:
		return syscall.EIO
	case 12:
		return syscall.ENOMEM
	case 22:
		return syscall.EINVAL
	case 28:
		return syscall.ENOSPC
	case 75:
		return syscall.EOVERFLOW
	case 95:
		return syscall.ENOTSUP
	case 108:
		return syscall.ESHUTDOWN
	}
	return fmt.Errorf("server error %d", e.Errno)
}

func violation(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
}
