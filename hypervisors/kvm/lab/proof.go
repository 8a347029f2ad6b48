package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"

	"understudy/hypervisors/kvm/lab/record"
)

// span is a range of a disk in bytes.
type span struct{ from, to int64 }

// written are the parts of disk A and B that a running guest writes: the file system and the logs.
var written = [2][]span{
	{{dataOffset, dataOffset + dataSize}, {record.OffsetA, record.OffsetA + record.LogSize}},
	{{0, record.LogSize}},
}

// CompareStill compares one disk (0: A, 1: B) of two moments of a guest where the guest never writes. Between a moment
// and any later one nothing but what the guest wrote may differ, and for its logs there is record.Check.
func CompareStill(a, b *Image, disk int) error {
	if a.Size != b.Size {
		return fmt.Errorf("disk %c has %d and %d bytes", 'A'+disk, a.Size, b.Size)
	}
	const block = 64 << 10 // divides every span
	left, right := make([]byte, block), make([]byte, block)
	for off := int64(0); off < a.Size; off += block {
		if within(written[disk], off) {
			continue
		}
		n, err := a.ReadAt(left, off)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if _, err := b.ReadAt(right[:n], off); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if !bytes.Equal(left[:n], right[:n]) {
			return fmt.Errorf("disk %c differs in the block at %d, which the guest never wrote", 'A'+disk, off)
		}
	}
	return nil
}

func within(spans []span, off int64) bool {
	for _, s := range spans {
		if s.from <= off && off < s.to {
			return true
		}
	}
	return false
}

// CheckFileSystem has e2fsck look, without repairing, at the file system of a disk A whose guest shut down.
func CheckFileSystem(ctx context.Context, diskA *Image) error {
	target := diskA.Name() + "?offset=" + strconv.Itoa(dataOffset)
	out, err := run(exec.CommandContext(ctx, "e2fsck", "-f", "-n", target), "e2fsck")
	if err != nil {
		return fmt.Errorf("%w %s", err, bytes.TrimSpace(out))
	}
	return nil
}
