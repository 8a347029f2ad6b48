package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math"
	"os"
	"syscall"
)

// The file format of bbolt (its internal/common): numbers are little-endian; a page has 16 bytes of head: its own number
// (8 bytes), kind (2), count of entries (2), and how many pages follow that belong to it (4).
const (
	headSize = 16

	branchPage = 0x01
	leafPage   = 0x02
	freePage   = 0x10

	branchEntrySize = 16 // position of the key, its size (4 bytes each), page
	leafEntrySize   = 16 // kind, position, size of the key, size of the value (4 bytes each)
	bucketEntry     = 0x01
	bucketHeadSize  = 16 // page, or 0 for a bucket that follows inline; sequence

	metaMagic   = 0xED0CDAED
	metaVersion = 2
	metaSize    = 64
)

// checkShape follows every page number of the file once, before bbolt does: bbolt trusts them, so that one wrong number
// makes it run in circles, or fill the memory, where nothing can stop it. It checks that pages form a tree whose parts
// lie where they may; what they hold, and the order of keys, is for bbolt to check. A file without a valid meta page
// passes, bbolt refuses that one well.
func checkShape(file io.ReaderAt, size int64) error {
	m, ok := newestMeta(file, size)
	if !ok {
		return nil
	}
	if m.pageSize < headSize+metaSize || m.pages > uint64(size)/m.pageSize {
		return fmt.Errorf("the file has %d bytes, and %d pages of %d", size, m.pages, m.pageSize)
	}
	s := shape{file: file, meta: m, taken: make([]bool, m.pages)}
	if m.freelist != math.MaxUint64 { // none is kept
		if err := s.freelist(); err != nil {
			return err
		}
	}
	return s.tree(m.root)
}

// meta is what a meta page says: the page of the root bucket and of the list of free pages, and where the pages end.
type meta struct {
	pageSize, root, freelist, pages, txid uint64
}

// newestMeta reads the meta page that bbolt would choose. The first tells where the second is; where it is damaged,
// that is tried at every page size.
func newestMeta(file io.ReaderAt, size int64) (newest meta, ok bool) {
	first, firstOK := readMeta(file, 0)
	var second meta
	var secondOK bool
	if firstOK {
		second, secondOK = readMeta(file, int64(first.pageSize))
	}
	for at := int64(1024); !firstOK && !secondOK && at <= 1024<<14 && at < size; at <<= 1 {
		second, secondOK = readMeta(file, at)
	}
	if secondOK && (!firstOK || second.txid > first.txid) {
		return second, true
	}
	return first, firstOK
}

func readMeta(file io.ReaderAt, at int64) (meta, bool) {
	var b [metaSize]byte
	if _, err := file.ReadAt(b[:], at+headSize); err != nil {
		return meta{}, false
	}
	sum := fnv.New64a()
	sum.Write(b[:metaSize-8])
	le := binary.LittleEndian
	valid := le.Uint32(b[:]) == metaMagic && le.Uint32(b[4:]) == metaVersion && le.Uint64(b[56:]) == sum.Sum64()
	return meta{
		pageSize: uint64(le.Uint32(b[8:])),
		root:     le.Uint64(b[16:]),
		freelist: le.Uint64(b[32:]),
		pages:    le.Uint64(b[40:]),
		txid:     le.Uint64(b[48:]),
	}, valid
}

type shape struct {
	file  io.ReaderAt
	meta  meta
	taken []bool // pages that something refers to
}

// take claims pages for whatever refers to them. Each can be claimed once.
func (s *shape) take(id, count uint64) error {
	if id < 2 || id >= s.meta.pages || count > s.meta.pages-id {
		return fmt.Errorf("page %d (%d of them) lies outside of the file", id, count)
	}
	for i := id; i < id+count; i++ {
		if s.taken[i] {
			return fmt.Errorf("page %d is used twice", i)
		}
		s.taken[i] = true
	}
	return nil
}

// page claims a page with those that belong to it and reads them whole.
func (s *shape) page(id uint64) (page, error) {
	if err := s.take(id, 1); err != nil {
		return nil, err
	}
	at := int64(id * s.meta.pageSize)
	head := make(page, headSize)
	if _, err := s.file.ReadAt(head, at); err != nil {
		return nil, fmt.Errorf("read page %d: %w", id, err)
	}
	more := uint64(binary.LittleEndian.Uint32(head[12:]))
	if more > 0 {
		if err := s.take(id+1, more); err != nil {
			return nil, err
		}
	}
	whole := make(page, (1+more)*s.meta.pageSize)
	if _, err := s.file.ReadAt(whole, at); err != nil {
		return nil, fmt.Errorf("read page %d: %w", id, err)
	}
	if own := binary.LittleEndian.Uint64(whole); own != id {
		return nil, fmt.Errorf("page %d says that it is page %d", id, own)
	}
	return whole, nil
}

func (s *shape) freelist() error {
	p, err := s.page(s.meta.freelist)
	if err != nil {
		return err
	}
	if p.kind() != freePage {
		return fmt.Errorf("page %d is no list of free pages but of kind %#x", s.meta.freelist, p.kind())
	}
	ids, count := p[headSize:], uint64(p.count())
	if count == math.MaxUint16 { // too many for two bytes: the number is the first entry
		count, ids = binary.LittleEndian.Uint64(ids), ids[8:]
	}
	if count > uint64(len(ids)/8) {
		return fmt.Errorf("the list of free pages says it has %d", count)
	}
	for i := range count {
		if err := s.take(binary.LittleEndian.Uint64(ids[8*i:]), 1); err != nil {
			return fmt.Errorf("list of free pages: %w", err)
		}
	}
	return nil
}

// tree follows a page and all below it.
func (s *shape) tree(id uint64) error {
	p, err := s.page(id)
	if err != nil {
		return err
	}
	switch p.kind() {
	case branchPage:
		return p.each(branchEntrySize, func(entry, rest []byte) error {
			if _, err := cut(rest, binary.LittleEndian.Uint32(entry), binary.LittleEndian.Uint32(entry[4:])); err != nil {
				return fmt.Errorf("page %d: %w", id, err)
			}
			return s.tree(binary.LittleEndian.Uint64(entry[8:]))
		})
	case leafPage:
		if err := s.leaf(p); err != nil {
			return fmt.Errorf("page %d: %w", id, err)
		}
		return nil
	default:
		return fmt.Errorf("page %d is of kind %#x", id, p.kind())
	}
}

// leaf follows the buckets that have their entry in p.
func (s *shape) leaf(p page) error {
	return p.each(leafEntrySize, func(entry, rest []byte) error {
		le := binary.LittleEndian
		pos, keySize, valueSize := le.Uint32(entry[4:]), le.Uint32(entry[8:]), le.Uint32(entry[12:])
		if _, err := cut(rest, pos, keySize); err != nil {
			return err
		}
		value, err := cut(rest[pos:], keySize, valueSize)
		if err != nil || le.Uint32(entry)&bucketEntry == 0 {
			return err
		}
		if len(value) < bucketHeadSize {
			return errors.New("a bucket is cut off")
		}
		if root := le.Uint64(value); root != 0 {
			return s.tree(root)
		}
		inline := page(value[bucketHeadSize:])
		if len(inline) < headSize || inline.kind() != leafPage {
			return errors.New("a bucket within the page is damaged")
		}
		return s.leaf(inline)
	})
}

// page is one with those that belong to it, or the page-like inside of a small bucket.
type page []byte

func (p page) kind() uint16  { return binary.LittleEndian.Uint16(p[8:]) }
func (p page) count() uint16 { return binary.LittleEndian.Uint16(p[10:]) }

// each hands out every entry of this size, and the rest of the page from there on, which positions count from.
func (p page) each(size int, fn func(entry, rest []byte) error) error {
	if headSize+int(p.count())*size > len(p) {
		return fmt.Errorf("%d entries are more than there is room for", p.count())
	}
	for i := range int(p.count()) {
		rest := p[headSize+i*size:]
		if err := fn(rest[:size], rest); err != nil {
			return err
		}
	}
	return nil
}

// cut is a part of b.
func cut(b []byte, pos, size uint32) ([]byte, error) {
	if uint64(pos)+uint64(size) > uint64(len(b)) {
		return nil, errors.New("an entry reaches beyond its page")
	}
	return b[pos : uint64(pos)+uint64(size)], nil
}

// openShaped opens the file of a database, and refuses it where its shape is wrong. What another process holds may be half
// written: it is not looked at, and bbolt waits for it. A lock that was free stays with the file; bbolt makes it its own.
func openShaped(name string, flag int, mode os.FileMode) (*os.File, error) {
	f, err := os.OpenFile(name, flag&^os.O_CREATE, mode)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); err != nil {
		return f, nil
	}
	info, err := f.Stat()
	if err == nil {
		err = checkShape(f, info.Size())
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}
