package record_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/hypervisors/kvm/lab/record"
)

// disks are two images in memory on which records were written up to a and b.
type disks struct{ a, b []byte }

func written(a, b uint64) disks {
	d := disks{make([]byte, record.OffsetA+record.LogSize), make([]byte, record.LogSize)}
	for s := uint64(1); s <= a; s++ {
		record.Record{Seq: s, Boot: 1, Disk: 0}.Encode(d.slotA(s))
	}
	for s := uint64(1); s <= b; s++ {
		record.Record{Seq: s, Boot: 1, Disk: 1}.Encode(d.slotB(s))
	}
	return d
}

func (d disks) slotA(s uint64) []byte {
	at := record.OffsetA + s%record.Slots*record.Size
	return d.a[at : at+record.Size]
}

func (d disks) slotB(s uint64) []byte {
	at := s % record.Slots * record.Size
	return d.b[at : at+record.Size]
}

func TestCheck(t *testing.T) {
	const wrapped = record.Slots + 700
	cases := []struct {
		name   string
		a, b   uint64
		damage func(disks)
		want   string // part of the only problem; empty: none
	}{
		{name: "nothing written"},
		{name: "both equal", a: 40, b: 40},
		{name: "A one ahead", a: 41, b: 40},
		{name: "ring wrapped", a: wrapped, b: wrapped},
		{name: "B ahead", a: 40, b: 41, want: "not one moment"},
		{name: "A two ahead", a: 42, b: 40, want: "not one moment"},
		{name: "B empty", a: 42, want: "not one moment"},
		{name: "torn in the middle", a: wrapped, b: wrapped, want: "torn", damage: func(d disks) {
			copy(d.slotB(100)[2048:], make([]byte, 512))
		}},
		{name: "torn header", a: 50, b: 50, want: "torn", damage: func(d disks) {
			copy(d.slotA(60), "garbage")
		}},
		{name: "lost write", a: 50, b: 50, want: "disk B misses 1 records below 50, first 20", damage: func(d disks) {
			clear(d.slotB(20))
		}},
		{name: "old content came back", a: wrapped, b: wrapped, want: "disk A misses 1 records", damage: func(d disks) {
			record.Record{Seq: 300, Boot: 1, Disk: 0}.Encode(d.slotA(300))
		}},
		{name: "block of the other disk", a: 50, b: 51 - 1, want: "wrong place", damage: func(d disks) {
			copy(d.slotB(51), d.slotA(50))
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			d := written(c.a, c.b)
			if c.damage != nil {
				c.damage(d)
			}
			r, err := record.Check(bytes.NewReader(d.a), bytes.NewReader(d.b))
			require.NoError(t, err)
			problems := r.Problems()
			if c.want == "" {
				require.Empty(t, problems)
				require.Equal(t, max(c.a, c.b), r.Newest())
				return
			}
			require.NotEmpty(t, problems)
			require.Contains(t, problems[0], c.want)
		})
	}
}

func TestCheckShortDisk(t *testing.T) {
	_, err := record.Check(bytes.NewReader(nil), bytes.NewReader(nil))
	require.ErrorContains(t, err, "disk 0")
}
