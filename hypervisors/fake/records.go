package fake

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"

	"github.com/google/uuid"

	"understudy/hypervisors"
)

// GuestConfig says what the guest of a machine does.
type GuestConfig struct {
	// Serves is the text of the HTTP answer by "ip:port".
	Serves map[string]string
	// Seed makes the content of the records.
	Seed uint64
}

// bootBlock is the first block of the first disk: what the guest finds there when it starts. Behind it, on every disk,
// lie the records: number n is on disk (n-1) mod len(Disks), in a ring of slots that wanders over Blocks blocks.
type bootBlock struct {
	GuestConfig
	Disks  []string
	Blocks int64
	// Converted is how often the guest was.
	Converted int `json:",omitempty"`
}

const (
	recordSize      = 512
	recordsPerBlock = blockSize / recordSize
	maxRecordBlocks = 16
)

var (
	bootMagic   = []byte("understudy guest\n")
	recordMagic = []byte("record\r\n")
)

func newBoot(c GuestConfig, disks []string, sizes map[string]int64) (*bootBlock, error) {
	b := &bootBlock{GuestConfig: c, Disks: disks, Blocks: maxRecordBlocks}
	for _, size := range sizes {
		b.Blocks = min(b.Blocks, size/blockSize-1)
	}
	if len(disks) == 0 || b.Blocks < 1 {
		return nil, fmt.Errorf("a guest needs disks of two blocks or more: %w", hypervisors.ErrInvalid)
	}
	return b, nil
}

// encode gives a whole block: magic, hash, JSON.
func (b *bootBlock) encode() []byte {
	text, err := json.Marshal(b)
	if err != nil {
		panic(err) // strings and numbers only
	}
	sum := sha256.Sum256(text)
	out := slices.Concat(bootMagic, sum[:], binary.BigEndian.AppendUint32(nil, uint32(len(text))), text)
	return append(out, make([]byte, blockSize-len(out))...)
}

// readBoot returns nil when the disk does not boot.
func readBoot(im *image) *bootBlock {
	if im.size < blockSize || im.block(0) == nil {
		return nil
	}
	p := make([]byte, blockSize)
	im.readAt(p, 0)
	b, err := decodeBoot(p)
	if err != nil {
		return nil
	}
	return b
}

func decodeBoot(p []byte) (*bootBlock, error) {
	head := len(bootMagic) + sha256.Size + 4
	if !bytes.HasPrefix(p, bootMagic) {
		return nil, errors.New("no boot block")
	}
	n := int(binary.BigEndian.Uint32(p[head-4:]))
	if n > len(p)-head {
		return nil, errors.New("boot block is torn")
	}
	text := p[head : head+n]
	if sum := sha256.Sum256(text); !bytes.Equal(sum[:], p[len(bootMagic):head-4]) {
		return nil, errors.New("boot block is torn")
	}
	b := &bootBlock{}
	return b, json.Unmarshal(text, b)
}

// slots is the number of records that one disk holds.
func (b *bootBlock) slots() uint64 { return uint64(b.Blocks * recordsPerBlock) }

// place says on which of Disks and at which offset record n lies.
func (b *bootBlock) place(n uint64) (disk int, off int64) {
	disks := uint64(len(b.Disks))
	slot := int64((n - 1) / disks % b.slots())
	return int((n - 1) % disks), (1+slot%b.Blocks)*blockSize + slot/b.Blocks*recordSize
}

// record is: magic, number, writer, content, hash. The writer tells branches apart that began at the same point.
func (b *bootBlock) record(n uint64, vm string) []byte {
	p := make([]byte, 0, recordSize)
	p = append(p, recordMagic...)
	p = binary.BigEndian.AppendUint64(p, n)
	writer := uuid.NewSHA1(uuid.NameSpaceOID, []byte(vm))
	p = append(p, writer[:]...)
	content := make([]byte, recordSize-len(p)-sha256.Size)
	seed := sha256.Sum256(binary.BigEndian.AppendUint64(slices.Clone(p), b.Seed))
	rand.NewChaCha8(seed).Read(content) //nolint:errcheck // never fails
	p = append(p, content...)
	sum := sha256.Sum256(p)
	return append(p, sum[:]...)
}

// readRecord returns a record's number, 0 for an empty slot.
func readRecord(p []byte) (uint64, error) {
	if len(trim(p)) == 0 {
		return 0, nil
	}
	body := p[:recordSize-sha256.Size]
	if sum := sha256.Sum256(body); !bytes.HasPrefix(p, recordMagic) || !bytes.Equal(sum[:], p[len(body):]) {
		return 0, errors.New("record is torn")
	}
	return binary.BigEndian.Uint64(p[len(recordMagic):]), nil
}

// DiskReader is a disk as every side of the hypervisors package shows it.
type DiskReader interface {
	io.ReaderAt
	ID() string
	Size() int64
}

// CheckRecords judges the disks of a guest at one moment, as copied by anybody: every record up to the newest is
// there, whole, and on its disk. It returns the newest record's number, and all that is wrong.
func CheckRecords[D DiskReader](disks []D) (newest uint64, err error) {
	var readers []DiskReader
	for _, d := range disks {
		readers = append(readers, d)
	}
	p := make([]byte, blockSize)
	var b *bootBlock
	for _, d := range readers {
		if _, err := d.ReadAt(p, 0); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		if b, err = decodeBoot(p); err == nil {
			break
		}
	}
	if b == nil {
		return 0, cmp.Or(err, errors.New("no disks"))
	}
	found, problems := b.scan(readers)
	for _, n := range found {
		newest = max(newest, n)
	}
	return newest, errors.Join(append(problems, b.judge(found, newest)...)...)
}

type slotAt struct {
	disk int
	off  int64
}

// scan reads every slot of every disk.
func (b *bootBlock) scan(disks []DiskReader) (map[slotAt]uint64, []error) {
	found := map[slotAt]uint64{}
	var problems []error
	p := make([]byte, blockSize)
	for i, id := range b.Disks {
		k := slices.IndexFunc(disks, func(d DiskReader) bool { return d.ID() == id })
		if k < 0 {
			problems = append(problems, fmt.Errorf("disk %s is missing", id))
			continue
		}
		for block := int64(1); block <= b.Blocks; block++ {
			if _, err := disks[k].ReadAt(p, block*blockSize); err != nil && !errors.Is(err, io.EOF) {
				problems = append(problems, err)
				continue
			}
			for at := int64(0); at < blockSize; at += recordSize {
				n, err := readRecord(p[at : at+recordSize])
				if err != nil {
					problems = append(problems, fmt.Errorf("disk %s, offset %d: %w", id, block*blockSize+at, err))
				}
				if n > 0 {
					found[slotAt{i, block*blockSize + at}] = n
				}
			}
		}
	}
	return found, problems
}

// judge compares what was found with what must be there when the newest record is.
func (b *bootBlock) judge(found map[slotAt]uint64, newest uint64) (problems []error) {
	oldest := uint64(1)
	if ring := b.slots() * uint64(len(b.Disks)); newest > ring {
		oldest = newest - ring + 1
	}
	for n := oldest; n <= newest && newest > 0; n++ {
		disk, off := b.place(n)
		if got := found[slotAt{disk, off}]; got != n {
			problems = append(problems, fmt.Errorf("disk %s, offset %d: record %d is missing, %d is there, the newest is %d",
				b.Disks[disk], off, n, got, newest))
		}
	}
	return problems
}

// newest finds the number of the newest record.
func (b *bootBlock) newest(disks []DiskReader) (newest uint64) {
	found, _ := b.scan(disks)
	for _, n := range found {
		newest = max(newest, n)
	}
	return newest
}

// readers shows the machine's disks to code that holds the lock.
func (m *machine) readers() (out []DiskReader) {
	for _, d := range m.disks {
		out = append(out, rawDisk{d})
	}
	return out
}

type rawDisk struct{ d *disk }

func (r rawDisk) ID() string                              { return r.d.id }
func (r rawDisk) Size() int64                             { return r.d.image.size }
func (r rawDisk) ReadAt(p []byte, off int64) (int, error) { return readImage(r.d.image, p, off) }
