package support

import (
	"bytes"
	"io"
	"sync"
)

// Ring keeps the newest lines that were written to it, whole, as many as there is room for. It stands beside the log's own
// output, so that a support bundle has the log wherever that goes. Each Write is one line.
type Ring struct {
	mu    sync.Mutex
	room  int // bytes
	used  int
	lines [][]byte
	lost  int // lines that had to go
}

// NewRing makes a ring with room for that many bytes.
func NewRing(room int) *Ring { return &Ring{room: room} }

func (r *Ring) Write(line []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(line) > r.room {
		r.lost++
		return len(line), nil
	}
	r.lines, r.used = append(r.lines, bytes.Clone(line)), r.used+len(line)
	for r.used > r.room {
		r.used -= len(r.lines[0])
		r.lines[0] = nil
		r.lines = r.lines[1:]
		r.lost++
	}
	return len(line), nil
}

// WriteTo writes all lines, oldest first.
func (r *Ring) WriteTo(w io.Writer) (n int64, err error) {
	r.mu.Lock()
	lines := bytes.Join(r.lines, nil)
	r.mu.Unlock()
	m, err := w.Write(lines)
	return int64(m), err
}

// Lost is how many lines are not there any more.
func (r *Ring) Lost() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lost
}
