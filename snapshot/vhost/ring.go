package vhost

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"unsafe"
)

// A split virtqueue at the start of the shared memory, in little-endian as virtio 1 has it. Each request has a slot of
// three descriptors, which never change hands: header, data, status.
const (
	ringSize   = 128
	slots      = ringSize / perRequest
	perRequest = 3

	descriptors = 0 // ringSize × 16 bytes
	available   = descriptors + 16*ringSize
	used        = available + 512
	headers     = 4096 // slots × headerStep: the header's 16 bytes, then the status
	headerStep  = 32
	statusAt    = 16
	ringBytes   = 8192
)

const (
	descNext  = 1
	descWrite = 2 // by the server

	typeWrite = 1
	statusOK  = 0
	statusNot = 0xff // not answered yet

	usedNoNotify = 1
)

// guestBase is where the shared memory begins in the addresses that the server is told. Any number would do; not zero,
// so that an empty field is not an address.
const guestBase = 1 << 32

// ring is the queue. Its indices count without end, modulo 2^16.
type ring struct {
	mem []byte

	mu   sync.Mutex // guards next
	next uint16     // of the available ring
	seen uint16     // of the used ring; only collect uses it
	// owed says of each slot that the server has still to answer what is in it.
	owed [slots]atomic.Bool
}

func newRing(mem []byte) *ring {
	r := &ring{mem: mem}
	for slot := range slots {
		r.describe(slot, 0, guestBase+header(slot), 16, descNext)
		r.describe(slot, 2, guestBase+header(slot)+statusAt, 1, descWrite)
	}
	return r
}

func header(slot int) int64 { return headers + int64(slot)*headerStep }

// describe fills one of a slot's descriptors in.
func (r *ring) describe(slot, which int, address int64, length int, flags uint16) {
	i := slot*perRequest + which
	d := r.mem[descriptors+16*i:][:16]
	binary.LittleEndian.PutUint64(d, uint64(address))
	binary.LittleEndian.PutUint32(d[8:], uint32(length))
	binary.LittleEndian.PutUint16(d[12:], flags)
	binary.LittleEndian.PutUint16(d[14:], uint16(i+1))
}

// word is the flags and the index of one of the rings: two 16-bit numbers of which each ring's owner writes the index
// only, read and written as one because Go has no smaller atomic.
func (r *ring) word(at int) *uint32 { return (*uint32)(unsafe.Pointer(&r.mem[at])) }

// submit offers a write to the server, and says whether it wants to be told.
func (r *ring) submit(slot int, sector, at int64, length int) (tell bool) {
	h := r.mem[header(slot):][:statusAt+1]
	binary.LittleEndian.PutUint32(h, typeWrite)
	binary.LittleEndian.PutUint32(h[4:], 0)
	binary.LittleEndian.PutUint64(h[8:], uint64(sector))
	h[statusAt] = statusNot
	r.owed[slot].Store(true)
	r.describe(slot, 1, guestBase+at, length, descNext)

	r.mu.Lock()
	defer r.mu.Unlock()
	binary.LittleEndian.PutUint16(r.mem[available+4+2*int(r.next%ringSize):], uint16(slot*perRequest))
	r.next++
	// The server sees all that was written above before it sees the index; and we see its wish only after that.
	atomic.StoreUint32(r.word(available), uint32(r.next)<<16)
	return atomic.LoadUint32(r.word(used))&usedNoNotify == 0
}

// collect reports the requests that were answered since the last call. It must not run twice at once. A server that
// answers what nobody asked is not believed: taken for the answer to a later request, that would make a write look done.
func (r *ring) collect(answer func(slot int, status byte)) error {
	for {
		index := uint16(atomic.LoadUint32(r.word(used)) >> 16)
		if index == r.seen {
			return nil
		}
		if index-r.seen > ringSize {
			return fmt.Errorf("%w: %d answers at once", ErrProtocol, index-r.seen)
		}
		for ; r.seen != index; r.seen++ {
			id := binary.LittleEndian.Uint32(r.mem[used+4+8*int(r.seen%ringSize):])
			if id%perRequest != 0 || id >= slots*perRequest {
				return fmt.Errorf("%w: answer to request %d", ErrProtocol, id)
			}
			slot := int(id / perRequest)
			status := r.mem[header(slot)+statusAt]
			if !r.owed[slot].CompareAndSwap(true, false) || status == statusNot {
				return fmt.Errorf("%w: request %d was answered twice, or without a status", ErrProtocol, id)
			}
			answer(slot, status)
		}
	}
}
