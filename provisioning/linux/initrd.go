package linux

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"

	"github.com/cavaliergopher/cpio"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"
)

// packed are the ways in which an initial RAM disk may be compressed, by how it begins. See the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst and lib/decompress.c.
var packed = []struct {
	magic string
	open  func(io.Reader) (io.Reader, error)
}{
	{"\x1f\x8b", func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) }},
	{"\x28\xb5\x2f\xfd", func(r io.Reader) (io.Reader, error) {
		return zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
	}},
	{"\xfd7zXZ\x00", func(r io.Reader) (io.Reader, error) { return xz.NewReader(r) }},
	{"\x5d\x00\x00", func(r io.Reader) (io.Reader, error) { return lzma.NewReader(r) }},
	{"\x02\x21\x4c\x18", func(r io.Reader) (io.Reader, error) { return lz4.NewReader(r), nil }}, // as the kernel's own tools do it
	{"\x04\x22\x4d\x18", func(r io.Reader) (io.Reader, error) { return lz4.NewReader(r), nil }},
	{"BZh", func(r io.Reader) (io.Reader, error) { return bzip2.NewReader(r), nil }},
}

// magicSize is how many bytes tell what comes.
const magicSize = 6

// modulesIn gives the modules of an initial RAM disk: archives one after the other with zeros between them, of which the
// last may be compressed. Those before it bring microcode and, in newer systems, modules that are compressed themselves.
func modulesIn(r io.Reader) (names []string, err error) {
	in := bufio.NewReaderSize(r, 1<<16)
	for {
		if err := skipZeros(in); errors.Is(err, io.EOF) {
			return names, nil
		} else if err != nil {
			return nil, err
		}
		magic, err := in.Peek(magicSize)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		if bytes.HasPrefix(magic, []byte("07070")) {
			found, err := modulesOf(cpio.NewReader(in))
			if err != nil {
				return nil, err
			}
			names = append(names, found...)
			continue
		}
		for _, p := range packed {
			if !bytes.HasPrefix(magic, []byte(p.magic)) {
				continue
			}
			open, err := p.open(in)
			if err != nil {
				return nil, err
			}
			found, err := modulesIn(open)
			return append(names, found...), err
		}
		return nil, fmt.Errorf("compressed in an unknown way (% x)", magic)
	}
}

func skipZeros(in *bufio.Reader) error {
	for {
		b, err := in.ReadByte()
		if err != nil {
			return err
		}
		if b != 0 {
			return in.UnreadByte()
		}
	}
}

// modulesOf gives the modules of one archive, and those that it says are built in.
func modulesOf(archive *cpio.Reader) (names []string, err error) {
	for {
		f, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return names, nil
		}
		if err != nil {
			return nil, err
		}
		if path.Base(f.Name) == "modules.builtin" {
			builtIn, err := moduleList(archive)
			if err != nil {
				return nil, err
			}
			names = append(names, builtIn...)
		} else if name := moduleOf(f.Name); name != "" {
			names = append(names, name)
		}
	}
}
