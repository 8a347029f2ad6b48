// Package powerloss says what a file or a disk may hold after the power failed, given what was written to it and when
// that was synced. It is for tests: it keeps no data safe itself. Recordings come from a process's own system calls
// (see Traced) or from QEMU's blklogwrites.
//
// The model is the weakest disk that programs may meet: what was written before the last completed sync is there;
// of everything later any part may be there, each sector for itself, in whatever order it was written.
package powerloss

import (
	"math/rand/v2"
	"slices"
)

// Sector is what a disk writes whole or not at all, in bytes.
const Sector = 512

// Kind of an Op.
type Kind int

// Write puts Data at Offset, and makes the file longer where needed. Discard leaves Length bytes at Offset undefined.
// Truncate gives the file the size Offset. Sync makes everything before it durable.
const (
	Write Kind = iota
	Discard
	Truncate
	Sync
)

// Op is something that was done to a file, and was complete when the next one was.
type Op struct {
	Kind   Kind
	Offset int64
	Length int64 // of a Discard
	Data   []byte
}

// Log is all that was done to a file, in order.
type Log []Op

// Synced counts the first operations that no power failure can take back.
func (l Log) Synced() int {
	for i := len(l) - 1; i >= 0; i-- {
		if l[i].Kind == Sync {
			return i + 1
		}
	}
	return 0
}

// Apply gives what a file with the content base holds when everything arrived. base stays as it is.
func (l Log) Apply(base []byte) []byte {
	content := slices.Clone(base)
	for _, op := range l {
		content = op.apply(content)
	}
	return content
}

// Lose gives what a file with the content base may hold when the power fails after the log: chance decides what became
// of the operations that were not synced. base stays as it is.
func (l Log) Lose(base []byte, chance *rand.Rand) []byte {
	synced := l.Synced()
	content := l[:synced].Apply(base)
	kept := []float64{0, 0.2, 0.5, 0.8, 1}[chance.IntN(5)] // as well a disk that wrote almost nothing as one that wrote nearly all
	for _, op := range l[synced:] {
		switch {
		case chance.Float64() >= kept:
		case op.Kind == Write && chance.IntN(3) == 0:
			content = op.tear(content, chance)
		default:
			content = op.apply(content)
		}
	}
	return content
}

func (o Op) apply(content []byte) []byte {
	switch o.Kind {
	case Write:
		content = grow(content, o.Offset+int64(len(o.Data)))
		copy(content[o.Offset:], o.Data)
	case Discard:
		end := min(o.Offset+o.Length, int64(len(content)))
		for i := min(o.Offset, end); i < end; i++ {
			content[i] = 0xdc // whoever reads it again must not care
		}
	case Truncate:
		content = grow(content, o.Offset)[:o.Offset]
	}
	return content
}

// tear applies some sectors of a write.
func (o Op) tear(content []byte, chance *rand.Rand) []byte {
	end := o.Offset + int64(len(o.Data))
	for from := o.Offset; from < end; {
		to := min((from/Sector+1)*Sector, end)
		if chance.IntN(2) == 0 {
			content = Op{Offset: from, Data: o.Data[from-o.Offset : to-o.Offset]}.apply(content)
		}
		from = to
	}
	return content
}

func grow(content []byte, size int64) []byte {
	if missing := size - int64(len(content)); missing > 0 {
		return append(content, make([]byte, missing)...)
	}
	return content
}
