package linux

import (
	"cmp"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// What a process that reads a disk may take, in bytes.
const (
	maxMemory = 1 << 30
	maxRead   = 4 << 30
)

// question opens the talk of the two processes. Then the child asks for pieces, until it has an answer.
type question struct {
	Size    int64
	Modules []string
}

type request struct {
	Offset int64
	Length int
	Answer *answer // the last one
}

type answer struct {
	System  System
	Problem string // why it is not known
}

// piece answers a request. There is no word for failure: then the parent ends the talk.
type piece struct{ Data []byte }

// Apart looks into a disk for some modules, which have '_' in their names and no '-': "virtio_blk". A process of its own
// does it, program with args, which calls [Child]: guests can write what makes decoders take all memory there is, or never
// end. When ctx ends, so does the process.
//
// Errors: ErrUnknown, also when the process died of what it read; those of the disk.
func Apart(ctx context.Context, disk io.ReaderAt, size int64, modules []string, program string, args ...string) (System, error) {
	alive, kill := context.WithCancel(ctx)
	defer kill()
	child := exec.CommandContext(alive, program, args...)
	in, err := child.StdinPipe()
	if err != nil {
		return System{}, err
	}
	out, err := child.StdoutPipe()
	if err != nil {
		return System{}, err
	}
	if err := child.Start(); err != nil {
		return System{}, fmt.Errorf("start the process that looks into guests: %w", err)
	}
	s, err := serve(disk, in, out, question{size, modules})
	if !errors.Is(err, errFellSilent) {
		kill()
		_ = child.Wait()
		return s, err
	}
	_ = in.Close()
	ended := child.Wait()
	if ctx.Err() != nil {
		return System{}, context.Cause(ctx)
	}
	return System{}, fmt.Errorf("%w: the process that read it ended: %w", ErrUnknown, cmp.Or(ended, err))
}

// errFellSilent is that of a child which neither asks nor answers any more.
var errFellSilent = errors.New("it fell silent")

// serve gives the child what it asks for, until it answers.
func serve(disk io.ReaderAt, in io.Writer, out io.Reader, q question) (System, error) {
	to, from := gob.NewEncoder(in), gob.NewDecoder(out)
	if err := to.Encode(q); err != nil {
		return System{}, fmt.Errorf("%w: %w", errFellSilent, err)
	}
	for read := 0; ; {
		var r request
		if err := from.Decode(&r); err != nil {
			return System{}, fmt.Errorf("%w: %w", errFellSilent, err)
		}
		if r.Answer != nil {
			if r.Answer.Problem != "" {
				return System{}, fmt.Errorf("%w: %s", ErrUnknown, r.Answer.Problem)
			}
			return r.Answer.System, nil
		}
		if read += r.Length; r.Length < 0 || r.Length > ahead || r.Offset < 0 || r.Offset > q.Size-int64(r.Length) || read > maxRead {
			return System{}, fmt.Errorf("%w: too much of it would have to be read", ErrUnknown)
		}
		p := piece{Data: make([]byte, r.Length)}
		_, err := disk.ReadAt(p.Data, r.Offset)
		if err != nil && !errors.Is(err, io.EOF) {
			return System{}, err
		}
		if err := to.Encode(p); err != nil {
			return System{}, fmt.Errorf("%w: %w", errFellSilent, err)
		}
	}
}

// Child is the process that [Apart] starts: it reads the disk of its parent by its standard input and output.
func Child(in io.Reader, out io.Writer) error {
	if err := unix.Setrlimit(unix.RLIMIT_DATA, &unix.Rlimit{Cur: maxMemory, Max: maxMemory}); err != nil {
		return fmt.Errorf("bound the memory: %w", err)
	}
	debug.SetMemoryLimit(maxMemory * 3 / 4)
	to, from := gob.NewEncoder(out), gob.NewDecoder(in)
	var q question
	if err := from.Decode(&q); err != nil {
		return err
	}
	s, err := read(&distant{to: to, from: from, size: q.Size}, q.Size, q.Modules)
	if err != nil {
		return to.Encode(request{Answer: &answer{Problem: err.Error()}})
	}
	return to.Encode(request{Answer: &answer{System: s}})
}

// ahead is how much is read at once: file systems ask for a block at a time.
const ahead = 1 << 20

// distant is the disk of the parent. It keeps the pieces that were read last.
type distant struct {
	to     *gob.Encoder
	from   *gob.Decoder
	size   int64
	pieces [32]struct {
		offset int64
		data   []byte
	}
	next int
}

// ReadAt reads like any, for one goroutine.
func (d *distant) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) {
		if off < 0 || off >= d.size {
			return n, io.EOF
		}
		data, err := d.piece(off - off%ahead)
		if err != nil {
			return n, err
		}
		took := copy(p[n:], data[off%ahead:])
		n, off = n+took, off+int64(took)
	}
	return n, nil
}

func (d *distant) piece(offset int64) ([]byte, error) {
	for _, p := range d.pieces {
		if p.data != nil && p.offset == offset {
			return p.data, nil
		}
	}
	if err := d.to.Encode(request{Offset: offset, Length: int(min(ahead, d.size-offset))}); err != nil {
		return nil, err
	}
	var got piece
	if err := d.from.Decode(&got); err != nil {
		return nil, err
	}
	p := &d.pieces[d.next]
	d.next = (d.next + 1) % len(d.pieces)
	p.offset, p.data = offset, got.Data
	return p.data, nil
}
