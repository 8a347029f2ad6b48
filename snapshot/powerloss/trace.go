package powerloss

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
)

// longest is the longest write that a trace records; a longer one fails the reading of it.
const longest = 4 << 20

// traced are the system calls by which programs change files and names and make that durable.
const traced = "write,pwrite64,ftruncate,fallocate,fsync,fdatasync,sync,syncfs,sync_file_range," +
	"rename,renameat,renameat2,link,linkat,unlink,unlinkat"

// Traced is a command that runs argv, and all that it starts, under strace, and writes what ReadTrace reads to file.
func Traced(file string, argv ...string) []string {
	return append([]string{"strace", "--follow-forks", "--seccomp-bpf", "--quiet=all", "-y", "-xx",
		"-s", strconv.Itoa(longest), "-e", "trace=" + traced, "-e", "signal=none", "-o", file, "--"}, argv...)
}

// Call is a system call that succeeded.
type Call struct {
	Name string
	Args []Arg
}

// Arg is an argument of a call: a number, a string, or a descriptor with the path of what it leads to.
type Arg struct {
	Number int64
	Bytes  []byte
	Path   string
}

// On is the path of the file that the call is about: that of its first descriptor.
func (c Call) On() string { return c.Args[0].Path }

// Names are the paths that a call names, made absolute: two for rename and link, one for unlink.
func (c Call) Names() (names []string) {
	base := ""
	for _, a := range c.Args {
		switch {
		case a.Path != "":
			base = a.Path
		case a.Bytes != nil && path.IsAbs(string(a.Bytes)):
			names = append(names, string(a.Bytes))
		case a.Bytes != nil:
			names = append(names, path.Join(base, string(a.Bytes)))
		}
	}
	return names
}

// Op is what the call does to the file that it is On; false: nothing that a Log knows. A write without an offset is not
// known, as nobody can tell where it goes.
func (c Call) Op() (Op, bool) {
	switch c.Name {
	case "pwrite64":
		return Op{Kind: Write, Offset: c.Args[3].Number, Data: c.Args[1].Bytes}, true
	case "ftruncate":
		return Op{Kind: Truncate, Offset: c.Args[1].Number}, true
	case "fsync", "fdatasync":
		return Op{Kind: Sync}, true
	}
	return Op{}, false
}

// unfinished is a call during which others called.
type unfinished struct {
	text   string
	before int // how many had ended when it began
}

// ended is a call with its place in the order in which they ended.
type ended struct {
	Call
	n int
}

// ReadTrace reads what a Traced command did, in the order in which the calls ended; but what was written to a file while
// it was being synced comes behind the sync, which promises nothing about it. Calls that failed are left out.
func ReadTrace(r io.Reader) ([]Call, error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 8*longest)
	begun := map[string]unfinished{} // by process
	var all []ended
	for lines.Scan() {
		pid, text, _ := strings.Cut(lines.Text(), " ")
		text = strings.TrimLeft(text, " ")
		before := len(all)
		if strings.HasPrefix(text, "<... ") {
			_, rest, _ := strings.Cut(text, " resumed>")
			text, before = begun[pid].text+rest, begun[pid].before
			delete(begun, pid)
		}
		if first, ok := strings.CutSuffix(text, " <unfinished ...>"); ok {
			begun[pid] = unfinished{first, before}
			continue
		}
		c, ok, err := parseCall(text)
		if err != nil {
			return nil, fmt.Errorf("trace: %w in %.100q", err, text)
		}
		if ok {
			all = insert(all, c, before)
		}
	}
	calls := make([]Call, len(all))
	for i, e := range all {
		calls[i] = e.Call
	}
	return calls, lines.Err()
}

// insert appends a call that began when so many had ended.
func insert(all []ended, c Call, before int) []ended {
	last := ended{c, len(all)}
	if op, known := c.Op(); before == len(all) || !known || op.Kind != Sync {
		return append(all, last)
	}
	var sure, late []ended
	for _, e := range all {
		if op, known := e.Op(); e.n >= before && known && op.Kind != Sync && e.On() == c.On() {
			late = append(late, e)
		} else {
			sure = append(sure, e)
		}
	}
	return slices.Concat(sure, []ended{last}, late)
}

// parseCall reads "name(argument, …) = result". Strings and paths are all in hexadecimal, so that no other character
// of them can be taken for one of strace's own.
func parseCall(text string) (c Call, ok bool, err error) {
	name, rest, found := strings.Cut(text, "(")
	list, result, ended := strings.Cut(rest, ")")
	if !found || !ended {
		return c, false, nil // a process ended, or was killed in a call
	}
	_, result, _ = strings.Cut(result, "= ")
	if result == "" || result[0] == '-' || result[0] == '?' {
		return c, false, nil
	}
	c.Name = name
	for _, text := range strings.Split(list, ", ") {
		a, err := parseArg(text)
		if err != nil {
			return c, false, err
		}
		c.Args = append(c.Args, a)
	}
	// A short write did a part of what it was asked for.
	if n, err := strconv.ParseInt(result, 10, 64); err == nil && (name == "write" || name == "pwrite64") && n < int64(len(c.Args[1].Bytes)) {
		c.Args[1].Bytes = c.Args[1].Bytes[:n]
	}
	return c, true, nil
}

func parseArg(text string) (a Arg, err error) {
	switch {
	case strings.HasPrefix(text, `"`):
		if strings.HasSuffix(text, "...") {
			return a, errors.New("a write is too long")
		}
		a.Bytes, err = unhex(strings.Trim(text, `"`))
	case strings.HasSuffix(text, ">"):
		_, hex, _ := strings.Cut(strings.TrimSuffix(text, ">"), "<")
		var b []byte
		b, err = unhex(hex)
		a.Path = string(b)
	default:
		a.Number, _ = strconv.ParseInt(text, 0, 64) // else flags, which nobody needs
	}
	return a, err
}

func unhex(text string) ([]byte, error) {
	out := make([]byte, 0, len(text)/4)
	for ; len(text) >= 4 && strings.HasPrefix(text, `\x`); text = text[4:] {
		n, err := strconv.ParseUint(text[2:4], 16, 8)
		if err != nil {
			return nil, err
		}
		out = append(out, byte(n))
	}
	if text != "" && !strings.HasPrefix(text, "(deleted)") {
		// Sockets and pipes are named by strace itself.
		return append(out, text...), nil
	}
	return out, nil
}
