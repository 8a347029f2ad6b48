package lab

import (
	"fmt"
	"io"
	"os"
	"path"
)

// archive writes the "newc" format of cpio, which the kernel unpacks as its initial RAM disk: ASCII headers, names and
// contents padded to four bytes. The first error sticks and is returned by close. Times are zero, so that the same
// content makes the same archive.
type archive struct {
	w    io.Writer
	n    int64
	ino  int
	dirs map[string]bool
	err  error
}

const (
	modeDir  = 0o040755
	modeFile = 0o100755
	modeLink = 0o120777
)

func (a *archive) dir(name string) {
	if name == "." || a.dirs[name] {
		return
	}
	a.dir(path.Dir(name))
	if a.dirs == nil {
		a.dirs = map[string]bool{}
	}
	a.dirs[name] = true
	a.entry(name, modeDir, nil)
}

func (a *archive) link(name, to string) { a.dir(path.Dir(name)); a.entry(name, modeLink, []byte(to)) }

// copy puts the content of a file of this machine at name, with the directories above it.
func (a *archive) copy(name, from string) {
	content, err := os.ReadFile(from)
	if err != nil && a.err == nil {
		a.err = err
	}
	a.dir(path.Dir(name))
	a.entry(name, modeFile, content)
}

func (a *archive) entry(name string, mode int, content []byte) {
	a.ino++
	a.write([]byte(fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.ino, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0, name)))
	a.pad()
	a.write(content)
	a.pad()
}

func (a *archive) pad() { a.write(make([]byte, -a.n&3)) }

func (a *archive) write(b []byte) {
	if a.err != nil {
		return
	}
	n, err := a.w.Write(b)
	a.n, a.err = a.n+int64(n), err
}

func (a *archive) close() error {
	a.entry("TRAILER!!!", 0, nil)
	return a.err
}
