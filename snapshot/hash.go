package snapshot

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/bits"
	"unsafe"

	"github.com/zeebo/blake3"
)

// Hash is the BLAKE3-256 of a block's bytes; the last block of a disk is hashed as if zeros followed it, so that
// extending a disk changes no hash. The zero Hash stands for a block of zeros.
type Hash [32]byte

var zeroBlock [BlockSize]byte

// HashBlock hashes one block of at most BlockSize bytes.
func HashBlock(b []byte) Hash {
	if bytes.Equal(b, zeroBlock[:len(b)]) {
		return Hash{}
	}
	if len(b) < BlockSize {
		var padded [BlockSize]byte
		copy(padded[:], b)
		b = padded[:]
	}
	return blake3.Sum256(b)
}

// Digest is one number for the content of a whole disk: over all blocks that are not zeros, the sum modulo 2^256 of
//
//	BLAKE3-256(index of the block as 8 bytes, little-endian ‖ hash of the block)
//
// read as little-endian numbers. The order of adding does not matter, and a changed block costs one Remove and one
// Add, however large the disk. The zero Digest is that of a disk of zeros. It finds damage and mistakes; it is no
// proof against somebody who constructs disks to collide.
type Digest struct {
	limbs [4]uint64 // least significant first
}

func term(index int64, h Hash) (t Digest) {
	var in [8 + len(h)]byte
	binary.LittleEndian.PutUint64(in[:], uint64(index))
	copy(in[8:], h[:])
	sum := blake3.Sum256(in[:])
	for i := range t.limbs {
		t.limbs[i] = binary.LittleEndian.Uint64(sum[8*i:])
	}
	return t
}

// Add counts a block in.
func (d *Digest) Add(index int64, h Hash) {
	if h != (Hash{}) {
		d.Merge(term(index, h))
	}
}

// Remove takes out a block that was added.
func (d *Digest) Remove(index int64, h Hash) {
	if h == (Hash{}) {
		return
	}
	t, borrow := term(index, h), uint64(0)
	for i := range d.limbs {
		d.limbs[i], borrow = bits.Sub64(d.limbs[i], t.limbs[i], borrow)
	}
}

// Merge adds all that other counted.
func (d *Digest) Merge(other Digest) {
	var carry uint64
	for i := range d.limbs {
		d.limbs[i], carry = bits.Add64(d.limbs[i], other.limbs[i], carry)
	}
}

// String is the number in hexadecimal, 64 digits, most significant first.
func (d Digest) String() string {
	return fmt.Sprintf("%016x%016x%016x%016x", d.limbs[3], d.limbs[2], d.limbs[1], d.limbs[0])
}

// ParseDigest reads what String wrote.
func ParseDigest(s string) (Digest, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 32 {
		return Digest{}, fmt.Errorf("digest %q is not 64 hexadecimal digits", s)
	}
	var d Digest
	for i := range d.limbs {
		d.limbs[3-i] = binary.BigEndian.Uint64(b[8*i:])
	}
	return d, nil
}

// hashesOf shows bytes of a map as hashes.
func hashesOf(b []byte) []Hash {
	if len(b) == 0 {
		return nil
	}
	return unsafe.Slice((*Hash)(unsafe.Pointer(&b[0])), len(b)/len(Hash{}))
}
