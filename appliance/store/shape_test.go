package store

import (
	"bytes"
	"encoding/binary"
	"math"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var le = binary.LittleEndian

// image is the content of a good file, whose numbers a test makes wrong.
type image struct {
	t       *testing.T
	content []byte
	meta    meta
}

// page is page id with those that belong to it, in place.
func (m image) page(id uint64) page {
	at := id * m.meta.pageSize
	more := uint64(le.Uint32(m.content[at+12:]))
	return m.content[at : at+(1+more)*m.meta.pageSize]
}

// entry is entry i of a page, both of which have 16 bytes, and what follows.
func entry(p page, i int) []byte { return p[headSize+i*leafEntrySize:] }

// bucket is the head of a bucket, which begins with the number of its page.
func (m image) bucket(name string) []byte {
	p := m.page(m.meta.root)
	for i := range int(p.count()) {
		e := entry(p, i)
		key := e[le.Uint32(e[4:]):][:le.Uint32(e[8:])]
		if string(key) == name {
			return e[le.Uint32(e[4:])+le.Uint32(e[8:]):]
		}
	}
	m.t.Fatalf("no bucket %s", name)
	return nil
}

// branch is the first page of a bucket of several pages, and its number.
func (m image) branch() (page, uint64) {
	id := le.Uint64(m.bucket("things"))
	p := m.page(id)
	require.Equal(m.t, uint16(branchPage), p.kind())
	require.Greater(m.t, p.count(), uint16(1))
	return p, id
}

// leaf is a page of values.
func (m image) leaf() page {
	p, _ := m.branch()
	p = m.page(le.Uint64(entry(p, 0)[8:]))
	require.Equal(m.t, uint16(leafPage), p.kind())
	return p
}

// TestWrongNumbers makes one number of a good file wrong at a time. bbolt would run in circles, fill the memory or read
// beyond the file for some of them; here each is told at once, and the file is refused as damaged.
func TestWrongNumbers(t *testing.T) {
	good := sample(t)
	for name, c := range map[string]struct {
		damage func(m image)
		want   string
	}{
		"page in use twice": {func(m image) {
			p, _ := m.branch()
			copy(entry(p, 0)[8:16], entry(p, 1)[8:16])
		}, "is used twice"},
		"page in use and free": {func(m image) {
			p, _ := m.branch()
			copy(m.page(m.meta.freelist)[headSize:][:8], entry(p, 0)[8:16])
		}, "is used twice"},
		"page free twice": {func(m image) {
			ids := m.page(m.meta.freelist)[headSize:]
			copy(ids[:8], ids[8:16])
		}, "is used twice"},
		"cycle of branch pages": {func(m image) {
			p, id := m.branch()
			le.PutUint64(entry(p, 0)[8:], id)
		}, "is used twice"},
		"bucket at the root page": {func(m image) { le.PutUint64(m.bucket("things"), m.meta.root) }, "is used twice"},
		"bucket at a meta page":   {func(m image) { le.PutUint64(m.bucket("things"), 1) }, "lies outside"},
		"bucket beyond the file":  {func(m image) { le.PutUint64(m.bucket("things"), math.MaxUint64) }, "lies outside"},
		"page of another number":  {func(m image) { le.PutUint64(m.leaf(), m.meta.root) }, "says that it is page"},
		"page of another kind":    {func(m image) { le.PutUint16(m.leaf()[8:], 0x40) }, "is of kind"},
		"overflow of millions":    {func(m image) { le.PutUint32(m.leaf()[12:], 5_000_000) }, "lies outside"},
		"overflow of most":        {func(m image) { le.PutUint32(m.leaf()[12:], math.MaxUint32) }, "lies outside"},
		"overflow into another":   {func(m image) { le.PutUint32(m.leaf()[12:], 1) }, "is used twice"},
		"freelist of millions": {func(m image) {
			p := m.page(m.meta.freelist)
			le.PutUint16(p[10:], math.MaxUint16)
			le.PutUint64(p[headSize:], 5_000_000)
		}, "says it has 5000000"},
		"freelist beyond the page": {func(m image) { le.PutUint16(m.page(m.meta.freelist)[10:], math.MaxUint16-1) }, "says it has 65534"},
		"freelist of another kind": {func(m image) { le.PutUint16(m.page(m.meta.freelist)[8:], leafPage) }, "is no list of free pages"},
		"entries beyond the page":  {func(m image) { le.PutUint16(m.leaf()[10:], math.MaxUint16) }, "more than there is room for"},
		"branches beyond the page": {func(m image) { p, _ := m.branch(); le.PutUint16(p[10:], math.MaxUint16) }, "more than there is room for"},
		"key beyond the page":      {func(m image) { le.PutUint32(entry(m.leaf(), 0)[4:], 1<<30) }, "reaches beyond its page"},
		"value beyond the page":    {func(m image) { le.PutUint32(entry(m.leaf(), 0)[12:], math.MaxUint32) }, "reaches beyond its page"},
		"branch key beyond it":     {func(m image) { p, _ := m.branch(); le.PutUint32(entry(p, 1), 1<<30) }, "reaches beyond its page"},
		"bucket within a page":     {func(m image) { le.PutUint16(m.bucket(metaBucket)[bucketHeadSize+8:], branchPage) }, "a bucket within the page is damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			content := bytes.Clone(good)
			m, ok := newestMeta(bytes.NewReader(content), int64(len(content)))
			require.True(t, ok)
			require.NoError(t, checkShape(bytes.NewReader(content), int64(len(content))))
			c.damage(image{t, content, m})
			require.NotEqual(t, good, content)
			require.ErrorContains(t, checkShape(bytes.NewReader(content), int64(len(content))), c.want)

			path := newPath(t)
			require.NoError(t, os.WriteFile(path, content, 0o600))
			began := time.Now()
			_, err := Open(path)
			require.ErrorIs(t, err, ErrCorrupt)
			require.Less(t, time.Since(began), 5*time.Second)
			now, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, content, now, "the file was touched")
		})
	}
}
