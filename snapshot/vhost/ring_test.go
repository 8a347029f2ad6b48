package vhost

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// FuzzAnswers lets a server write what it likes into the shared memory. No request is reported as answered that was not
// made, nor one of them twice.
func FuzzAnswers(f *testing.F) {
	const all = 1<<slots - 1
	f.Add([]byte{0, 0, 1, 0, 3, 0, 0, 0}, byte(statusOK), uint64(all))
	f.Add([]byte{1, 0, 0xff, 0xff}, byte(1), uint64(all))
	f.Add([]byte{0, 0, 2, 0, 0, 0, 0, 0, 9, 9, 9, 9, 0x7d, 0, 0, 0}, byte(statusNot), uint64(all))
	f.Add([]byte{0, 0, 2, 0, 0, 0, 0, 0, 9, 9, 9, 9, 0x7b, 0, 0, 0}, byte(statusOK), uint64(1|1<<41))
	f.Fuzz(func(t *testing.T, garbage []byte, status byte, asked uint64) {
		r := newRing(make([]byte, ringBytes))
		owed := map[int]bool{}
		for slot := range slots {
			if owed[slot] = asked>>slot&1 == 1; owed[slot] {
				r.submit(slot, 0, ringBytes, SectorSize)
			}
			r.mem[header(slot)+statusAt] = status
		}
		copy(r.mem[used:headers], garbage)
		answers := 0
		err := r.collect(func(slot int, s byte) {
			answers++
			require.True(t, owed[slot], "request %d was not made, or answered before", slot)
			owed[slot] = false
			require.Equal(t, status, s)
			require.NotEqual(t, byte(statusNot), s)
		})
		index := binary.LittleEndian.Uint16(r.mem[used+2:])
		if err == nil {
			require.EqualValues(t, index, answers)
			require.NoError(t, r.collect(func(int, byte) { t.Fatal("answered again") }))
		}
	})
}

// TestRefusals lets a server answer badly at each message of the handshake.
func TestRefusals(t *testing.T) {
	reply := func(kind message, flags uint32, number uint64) []byte {
		b := binary.LittleEndian.AppendUint32(nil, uint32(kind))
		b = binary.LittleEndian.AppendUint32(b, flags)
		b = binary.LittleEndian.AppendUint32(b, 8)
		return binary.LittleEndian.AppendUint64(b, number)
	}
	const good = version | flagReply
	features := reply(getFeatures, good, featureFlush|featureProtocol|featureVirtio1)
	protocol := reply(getProtocolFeatures, good, protocolAnswer)
	for name, c := range map[string]struct {
		says []byte
		want error
	}{
		"says nothing":        {nil, io.EOF},
		"lacks features":      {reply(getFeatures, good, featureFlush), ErrProtocol},
		"never answers":       {append(features[:20:20], reply(getProtocolFeatures, good, 0)...), ErrProtocol},
		"answers another":     {reply(setOwner, good, 0), ErrProtocol},
		"is no answer":        {reply(getFeatures, version, ^uint64(0)), ErrProtocol},
		"stops in the middle": {features[:10], io.ErrUnexpectedEOF},
		"refuses the owner":   {append(append(features[:20:20], protocol...), reply(setOwner, good, 1)...), ErrProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			require.NoError(t, err)
			ends := make([]net.Conn, 2)
			for i, fd := range pair {
				f := os.NewFile(uintptr(fd), "end")
				ends[i], err = net.FileConn(f)
				require.NoError(t, err)
				require.NoError(t, f.Close())
			}
			_, err = ends[1].Write(c.says)
			require.NoError(t, err)
			require.NoError(t, ends[1].(*net.UnixConn).CloseWrite())
			defer ends[1].Close()
			_, err = Open(ends[0].(*net.UnixConn), Options{Memory: 1 << 20})
			require.ErrorIs(t, err, c.want)
			_, err = ends[0].Read(make([]byte, 1))
			require.ErrorIs(t, err, net.ErrClosed)
		})
	}
}
