// Package snapshot moves one frozen moment of a disk: which extents to read, how to read them in parallel with
// bounded memory, which of them really differ (a strong hash per block), and how long the result is kept.
//
// It owns extents, the block map, the copy pipeline and the retention arithmetic. It never talks to a hypervisor,
// never decides when to copy, and knows no machine: it sees sizes, bytes and hashes only.
//
// A block is [BlockSize] bytes, the granularity of QEMU's dirty bitmaps; the last block of a disk may be shorter.
package snapshot

import (
	"context"
	"io"
	"iter"
)

// BlockSize is the unit of comparing and hashing in bytes.
const BlockSize = 64 << 10

// Extent is a range of a disk in bytes, and whether it holds data or is known to read as zeros.
type Extent struct {
	Offset int64
	Length int64
	Zero   bool
}

// End is the first byte behind the extent.
func (e Extent) End() int64 { return e.Offset + e.Length }

// Extents are ascending and never overlap. A sequence ends at its first error.
type Extents = iter.Seq2[Extent, error]

// Writer is a disk that is being filled. All methods are safe for concurrent use on ranges that do not overlap.
// Nothing is durable before Flush returned.
type Writer interface {
	io.WriterAt
	// Zero makes n bytes at off read as zeros, without moving them and without allocating where the target can.
	Zero(off, n int64) error
	// Flush makes everything written before it durable.
	Flush(ctx context.Context) error
}

// Lender is a Writer with memory of its own, from which it writes with less effort. Copy then reads into that.
type Lender interface {
	Writer
	// Lend gives out n bytes until giveBack is called, or nil when it has not as many to spare.
	Lend(n int64) (loan []byte, giveBack func())
}

// Disk is a Writer that can be read back.
type Disk interface {
	io.ReaderAt
	Writer
	Size() int64
}
