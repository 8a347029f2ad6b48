package snapshot

import (
	"io"
	"math/bits"
)

const (
	// Pages of which less than half was touched are written back by sectors, so that a map's share of what travels stays
	// below 1 % of the data, however scattered the changes are.
	sectorBytes   = 512
	sectorEntries = sectorBytes / hashSize
	pageSectors   = pageBytes / sectorBytes
)

// sectors is a set of the sectors of a page.
type sectors [pageSectors / 64]uint64

func (s *sectors) add(i int64)      { s[i/64] |= 1 << (i % 64) }
func (s *sectors) has(i int64) bool { return s[i/64]&(1<<(i%64)) != 0 }

func (s *sectors) count() (n int) {
	for _, word := range s {
		n += bits.OnesCount64(word)
	}
	return n
}

// writeTouched writes each run of touched sectors.
func (p *page) writeTouched(area io.WriterAt, off int64) error {
	for i := int64(0); i < pageSectors; i++ {
		from := i
		for i < pageSectors && p.touched.has(i) {
			i++
		}
		if from == i {
			continue
		}
		run := p.bytes[from*sectorBytes : min(i*sectorBytes, int64(len(p.bytes)))]
		if _, err := area.WriteAt(run, off+from*sectorBytes); err != nil {
			return err
		}
	}
	return nil
}
