// Package record is what the lab's guest writes and what a reader of its disks can prove from it: numbered, hashed
// records, each written first to disk A and then to disk B, every write durable before the next begins. So at any one
// moment A is at most one record ahead of B, and no number is missing. It owns the format and the arithmetic, no device.
package record

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
)

const (
	// Size of a record in bytes. It is written in one piece.
	Size = 4096
	// LogSize is the length in bytes of the ring of records on each disk.
	LogSize = 8 << 20
	// Slots of the ring; record n is in slot n % Slots. Number 0 is never written.
	Slots = LogSize / Size
	// OffsetA is where the log begins on disk A, behind what the guest boots from. On disk B it begins at 0.
	OffsetA = 73 << 20
)

const magic = "UNDSREC1"

// Record identifies one write.
type Record struct {
	Seq  uint64
	Boot uint64 // the guest's boot that wrote it, from 1
	Disk uint64 // 0: A, 1: B
}

// Encode fills b, of Size bytes, with r: magic, fields, noise that depends on them, and the SHA-256 of all that.
func (r Record) Encode(b []byte) {
	copy(b, magic)
	binary.LittleEndian.PutUint64(b[8:], r.Seq)
	binary.LittleEndian.PutUint64(b[16:], r.Boot)
	binary.LittleEndian.PutUint64(b[24:], r.Disk)
	noise := rand.NewPCG(r.Seq, r.Disk)
	for i := 32; i < Size-sha256.Size; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], noise.Uint64())
	}
	sum := sha256.Sum256(b[:Size-sha256.Size])
	copy(b[Size-sha256.Size:], sum[:])
}

// decode tells an intact record from an empty slot (ok, Seq 0) and a torn one (not ok).
func decode(b []byte) (r Record, ok bool) {
	if string(b[:8]) != magic {
		return Record{}, allZero(b)
	}
	if sha256.Sum256(b[:Size-sha256.Size]) != [sha256.Size]byte(b[Size-sha256.Size:]) {
		return Record{}, false
	}
	return Record{
		Seq:  binary.LittleEndian.Uint64(b[8:]),
		Boot: binary.LittleEndian.Uint64(b[16:]),
		Disk: binary.LittleEndian.Uint64(b[24:]),
	}, true
}

func allZero(b []byte) bool {
	for _, v := range b {
		if v != 0 {
			return false
		}
	}
	return true
}

// Log is what one disk's ring holds.
type Log struct {
	Newest Record // Seq 0 when nothing was written
	Torn   []int  // slots with a damaged record
	Holes  []uint64
	// Foreign are slots whose record belongs to another slot or disk.
	Foreign []int
}

// Scan reads the ring that begins at off. Holes are numbers that the newest one proves to have been written, at most
// Slots back, and that are not there.
func Scan(disk io.ReaderAt, off int64, number uint64) (Log, error) {
	ring := make([]byte, LogSize)
	if n, err := disk.ReadAt(ring, off); n < LogSize {
		return Log{}, fmt.Errorf("read log of disk %d: %w", number, err)
	}
	var log Log
	var seqs [Slots]uint64
	for i := range seqs {
		r, ok := decode(ring[i*Size : (i+1)*Size])
		switch {
		case !ok:
			log.Torn = append(log.Torn, i)
		case r.Seq != 0 && (r.Disk != number || r.Seq%Slots != uint64(i)):
			log.Foreign = append(log.Foreign, i)
		default:
			seqs[i] = r.Seq
			if r.Seq > log.Newest.Seq {
				log.Newest = r
			}
		}
	}
	first := uint64(1)
	if log.Newest.Seq > Slots {
		first = log.Newest.Seq - Slots + 1
	}
	for s := first; s <= log.Newest.Seq; s++ {
		if seqs[s%Slots] != s {
			log.Holes = append(log.Holes, s)
		}
	}
	return log, nil
}

// Report is what both disks tell together.
type Report struct {
	A, B Log
}

// Check reads both disks of one moment.
func Check(diskA, diskB io.ReaderAt) (Report, error) {
	a, err := Scan(diskA, OffsetA, 0)
	if err != nil {
		return Report{}, err
	}
	b, err := Scan(diskB, 0, 1)
	return Report{a, b}, err
}

// Newest is the number of the newest record on either disk.
func (r Report) Newest() uint64 { return max(r.A.Newest.Seq, r.B.Newest.Seq) }

// Problems describes everything that cannot be true of one moment of the writer's disks, for people; nil when all is well.
func (r Report) Problems() []string {
	var out []string
	for i, log := range []Log{r.A, r.B} {
		disk := string(rune('A' + i))
		if len(log.Torn) > 0 {
			out = append(out, fmt.Sprintf("disk %s has %d torn records, first in slot %d", disk, len(log.Torn), log.Torn[0]))
		}
		if len(log.Foreign) > 0 {
			out = append(out, fmt.Sprintf("disk %s has %d records in a wrong place, first in slot %d", disk, len(log.Foreign), log.Foreign[0]))
		}
		if len(log.Holes) > 0 {
			out = append(out, fmt.Sprintf("disk %s misses %d records below %d, first %d", disk, len(log.Holes), log.Newest.Seq, log.Holes[0]))
		}
	}
	if a, b := r.A.Newest.Seq, r.B.Newest.Seq; a != b && a != b+1 {
		out = append(out, fmt.Sprintf("disk A is at record %d and disk B at %d: not one moment", a, b))
	}
	return out
}

// Status is what the running guest answers at /status.
type Status struct {
	Name  string `json:"name"`
	Boots uint64 `json:"boots"` // this one included
	Seq   uint64 `json:"seq"`   // newest record that is durable on both disks
	// Recovered is the newest record that was there at boot, Problems what was wrong with what was there.
	Recovered    uint64   `json:"recovered"`
	Problems     []string `json:"problems"`
	WorstWriteMS float64  `json:"worstWriteMs"` // slowest write of a record since boot
	Writes       int      `json:"writes"`       // since boot, two for each record; /writes/N tells what the last N took, in ms
	WriteErrors  int      `json:"writeErrors"`
}
