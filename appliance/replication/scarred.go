package replication

import (
	"crypto/rand"
	"errors"
	"io"
	"syscall"

	"understudy/hypervisors"
	"understudy/snapshot"
)

// scarred is a replica's disk as an inspection reads it: a block that the target's storage does not give back any more
// (EIO) reads as noise, which no block ever held. So it counts as damaged, as a block that gives back something else does,
// and the next cycle writes it anew; instead every cycle would fail at it.
type scarred struct{ io.ReaderAt }

func (s scarred) ReadAt(p []byte, off int64) (int, error) {
	n, err := s.ReaderAt.ReadAt(p, off)
	if !errors.Is(err, syscall.EIO) {
		return n, err
	}
	for n = 0; n < len(p); n += snapshot.BlockSize { // its neighbours are well
		block := p[n:min(n+snapshot.BlockSize, len(p))]
		got, err := s.ReaderAt.ReadAt(block, off+int64(n))
		switch {
		case errors.Is(err, syscall.EIO):
			rand.Read(block)
		case got < len(block):
			return n + got, err
		}
	}
	return len(p), nil
}

// scarredOf keeps what a draft's disk knows of its zeros.
func scarredOf(d hypervisors.DraftDisk) io.ReaderAt {
	if a, ok := d.(snapshot.Allocator); ok {
		return struct {
			scarred
			snapshot.Allocator
		}{scarred{d}, a}
	}
	return scarred{d}
}
