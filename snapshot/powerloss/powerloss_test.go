package powerloss_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/snapshot/powerloss"
)

func write(off int64, value byte, n int) powerloss.Op {
	return powerloss.Op{Kind: powerloss.Write, Offset: off, Data: bytes.Repeat([]byte{value}, n)}
}

var sync = powerloss.Op{Kind: powerloss.Sync}

func TestLose(t *testing.T) {
	base := bytes.Repeat([]byte{1}, 1024)
	log := powerloss.Log{write(0, 2, 512), sync, write(512, 3, 1500), write(0, 4, 512), {Kind: powerloss.Truncate, Offset: 4096}}
	require.Equal(t, 2, log.Synced())
	seen := map[string]bool{}
	for seed := range uint64(2000) {
		got := log.Lose(base, rand.New(rand.NewPCG(seed, 1)))
		var kinds []byte
		for at := 0; at < len(got); at += powerloss.Sector {
			sector := got[at:min(at+powerloss.Sector, len(got))]
			kinds = append(kinds, sector[0])
			if at == 1536 { // here the write ends within the sector
				sector = sector[:min(len(sector), 476)]
			}
			require.Equal(t, bytes.Repeat(sector[:1], len(sector)), sector, "a sector is whole")
		}
		require.Contains(t, []byte{2, 4}, kinds[0], "what was synced is there")
		require.Contains(t, []byte{1, 3}, kinds[1])
		for _, k := range kinds[2:] {
			require.Contains(t, []byte{0, 3}, k)
		}
		seen[string(kinds)] = true
	}
	for _, want := range []string{"\x02\x01", "\x04\x03\x03\x03", "\x04\x01", "\x02\x03\x03\x03", "\x02\x01\x03",
		"\x02\x01\x00\x03\x00\x00\x00\x00", "\x02\x01\x00\x00\x00\x00\x00\x00", "\x04\x03\x03\x03\x00\x00\x00\x00"} {
		require.True(t, seen[want], "%q never happened", want)
	}
	require.Equal(t, bytes.Repeat([]byte{1}, 1024), base)
}

func TestApply(t *testing.T) {
	got := powerloss.Log{write(2, 7, 3), {Kind: powerloss.Discard, Offset: 3, Length: 99}, {Kind: powerloss.Truncate, Offset: 4}}.Apply([]byte{1})
	require.Equal(t, []byte{1, 0, 7, 0xdc}, got)
	require.Empty(t, powerloss.Log{{Kind: powerloss.Truncate}}.Apply([]byte{1}))
	require.Equal(t, []byte{1}, powerloss.Log{{Kind: powerloss.Discard, Offset: 5, Length: 3}}.Apply([]byte{1}))
}

// TestTrace records a real process with two threads of work, which also names and syncs what it wrote.
func TestTrace(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(t.TempDir(), "trace")
	const script = `printf 'a, ")\n' >x.new && sync x.new && mv x.new "x (1)" && sync . && { sleep 0.01 & wait; } && rm "x (1)" && rm nothing`
	argv := powerloss.Traced(file, "sh", "-c", script)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.Error(t, err, "the last rm fails: %s", out)
	f, err := os.Open(file)
	require.NoError(t, err, "strace is needed; make deps installs it")
	defer f.Close()
	calls, err := powerloss.ReadTrace(f)
	require.NoError(t, err)
	var got []string
	for _, c := range calls {
		switch {
		case strings.HasPrefix(c.Name, "rename"), strings.HasPrefix(c.Name, "unlink"):
			got = append(got, c.Name[:6]+" "+strings.Join(c.Names(), " to "))
		case c.Name == "write" && strings.HasPrefix(c.On(), dir):
			got = append(got, "write "+c.On()+" "+string(c.Args[1].Bytes))
		case c.Name == "fsync":
			got = append(got, "fsync "+c.On())
		}
	}
	require.Equal(t, []string{"write " + dir + "/x.new a, \")\n", "fsync " + dir + "/x.new",
		"rename " + dir + "/x.new to " + dir + "/x (1)", "fsync " + dir, "unlink " + dir + "/x (1)"}, got)
}

func TestTraceOfThreads(t *testing.T) {
	calls, err := powerloss.ReadTrace(strings.NewReader(strings.Join([]string{
		`7 pwrite64(3<\x2f\x61>, "\x01\x02", 2, 4096 <unfinished ...>`,
		`8 fdatasync(3<\x2f\x61>) = 0`,
		`7 <... pwrite64 resumed>) = 1`,
		`8 fdatasync(3<\x2f\x61>) = -1 EIO (Input/output error)`,
		`8 +++ exited with 0 +++`,
		`7 ftruncate(3<\x2f\x61>, 65536 <unfinished ...>`,
		`7 <... ftruncate resumed>) = ?`,
	}, "\n")))
	require.NoError(t, err)
	require.Len(t, calls, 2)
	op, ok := calls[1].Op()
	require.True(t, ok)
	require.Equal(t, powerloss.Op{Kind: powerloss.Write, Offset: 4096, Data: []byte{1}}, op, "a short write")
	require.Equal(t, "/a", calls[1].On())

	_, err = powerloss.ReadTrace(strings.NewReader(`7 pwrite64(3<\x2f>, "\x01"..., 2, 4096) = 2`))
	require.ErrorContains(t, err, "too long")
}

// TestTraceOfSyncs writes to a file, and to another one, while it is being synced.
func TestTraceOfSyncs(t *testing.T) {
	calls, err := powerloss.ReadTrace(strings.NewReader(strings.Join([]string{
		`7 pwrite64(3<\x61>, "\x01", 1, 0) = 1`,
		`8 pwrite64(3<\x61>, "\x02", 1, 1 <unfinished ...>`,
		`7 fsync(3<\x61> <unfinished ...>`,
		`8 <... pwrite64 resumed>) = 1`,
		`8 pwrite64(4<\x62>, "\x03", 1, 0) = 1`,
		`8 pwrite64(3<\x61>, "\x04", 1, 2) = 1`,
		`9 fdatasync(3<\x61> <unfinished ...>`,
		`7 <... fsync resumed>) = 0`,
		`9 <... fdatasync resumed>) = 0`,
		`8 pwrite64(3<\x61>, "\x05", 1, 3) = 1`,
	}, "\n")))
	require.NoError(t, err)
	var got []string
	for _, c := range calls {
		if op, _ := c.Op(); op.Kind == powerloss.Sync {
			got = append(got, "sync "+c.On())
		} else {
			got = append(got, fmt.Sprintf("%s %d", c.On(), op.Data[0]))
		}
	}
	require.Equal(t, []string{"a 1", "b 3", "sync a", "a 2", "a 4", "sync a", "a 5"}, got)
}
