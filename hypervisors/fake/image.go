package fake

import (
	"bytes"
	"fmt"

	"understudy/hypervisors"
	"understudy/snapshot"
)

const (
	blockSize = snapshot.BlockSize
	fanBits   = 6
	fan       = 1 << fanBits
)

// packedSize is what a block of a compressed draft takes of its pool, whatever it holds.
const packedSize = blockSize / 4

// pool is a storage of finite size that blocks are taken from.
type pool struct {
	name     string
	capacity int64
	used     int64
}

func (p *pool) free() int64 { return max(p.capacity-p.used, 0) }

func (p *pool) take(n int64) error {
	if p.used+n > p.capacity {
		return fmt.Errorf("storage %s: %w", p.name, hypervisors.ErrNoSpace)
	}
	p.used += n
	return nil
}

// image is the content of a disk: a tree of blocks that is shared, node by node, with every image it was forked from
// or into. A fork costs nothing and stands by itself, so points, runs, checkpoints and their removal need no chains.
// Nodes and blocks count who refers to them: whoever is referred to once may be written in place. Not safe for
// concurrent use; the Hypervisor's lock covers it.
type image struct {
	size   int64
	pool   *pool
	root   *node
	height int  // levels of nodes; 0: empty
	packed bool // blocks that are written from now on are compressed
}

type node struct {
	refs   int
	nodes  *[fan]*node
	blocks *[fan]*block // on the lowest level, instead of nodes
}

// block holds blockSize bytes; those behind data are zeros.
type block struct {
	refs int
	pool *pool
	took int64 // of the pool
	data []byte
}

func newImage(size int64, p *pool) *image { return &image{size: size, pool: p} }

// fork makes an image of the same content; what is written to it is taken from p.
func (im *image) fork(p *pool) *image {
	if im.root != nil {
		im.root.refs++
	}
	return &image{size: im.size, pool: p, root: im.root, height: im.height}
}

// release gives the image's blocks back; it is empty afterwards.
func (im *image) release() {
	if im != nil && im.root != nil {
		im.root.release()
		im.root, im.height = nil, 0
	}
}

func (im *image) check(off, n int64) error {
	if off < 0 || n < 0 || off > im.size-n {
		return fmt.Errorf("range %d+%d of a disk of %d bytes: %w", off, n, im.size, hypervisors.ErrInvalid)
	}
	return nil
}

func (im *image) readAt(p []byte, off int64) {
	for len(p) > 0 {
		at := int(off % blockSize)
		part := p[:min(len(p), blockSize-at)]
		n := 0
		if b := im.block(off / blockSize); b != nil && at < len(b.data) {
			n = copy(part, b.data[at:])
		}
		clear(part[n:])
		p, off = p[len(part):], off+int64(len(part))
	}
}

// writeAt stops with ErrNoSpace between two blocks.
func (im *image) writeAt(p []byte, off int64) error {
	for len(p) > 0 {
		at := int(off % blockSize)
		part := p[:min(len(p), blockSize-at)]
		b, err := im.own(off / blockSize)
		if err != nil {
			return err
		}
		b.write(part, at)
		p, off = p[len(part):], off+int64(len(part))
	}
	return nil
}

// zero frees whole blocks and clears parts of others.
func (im *image) zero(off, n int64) error {
	for end := off + n; off < end; {
		next := min(end, (off/blockSize+1)*blockSize)
		switch i := off / blockSize; {
		case im.block(i) == nil:
		case off%blockSize == 0 && (next%blockSize == 0 || next == im.size):
			im.drop(i)
		default:
			if err := im.writeAt(make([]byte, next-off), off); err != nil {
				return err
			}
		}
		off = next
	}
	return nil
}

// block finds block i, or nil where nothing was written.
func (im *image) block(i int64) *block {
	if im.root == nil || i>>(fanBits*im.height) > 0 {
		return nil
	}
	n := im.root
	for level := im.height - 1; level > 0; level-- {
		if n = n.nodes[i>>(fanBits*level)%fan]; n == nil {
			return nil
		}
	}
	return n.blocks[i%fan]
}

// leaf finds the node of block i, making it and the way to it this image's own.
func (im *image) leaf(i int64) *node {
	if im.root == nil {
		im.root, im.height = newNode(0), 1
	}
	for i>>(fanBits*im.height) > 0 {
		top := newNode(im.height)
		top.nodes[0] = im.root
		im.root, im.height = top, im.height+1
	}
	at := &im.root
	for level := im.height - 1; ; level-- {
		switch {
		case *at == nil:
			*at = newNode(level)
		case (*at).refs > 1:
			*at = (*at).clone()
		}
		if level == 0 {
			return *at
		}
		at = &(*at).nodes[i>>(fanBits*level)%fan]
	}
}

// own makes block i this image's own, so that it can be written.
func (im *image) own(i int64) (*block, error) {
	n := im.leaf(i)
	b := n.blocks[i%fan]
	if b != nil && b.refs == 1 {
		return b, nil
	}
	size := int64(blockSize)
	if im.packed {
		size = packedSize
	}
	if err := im.pool.take(size); err != nil {
		return nil, err
	}
	fresh := &block{refs: 1, pool: im.pool, took: size}
	if b != nil {
		fresh.data = bytes.Clone(b.data)
		b.refs--
	}
	n.blocks[i%fan] = fresh
	return fresh, nil
}

func (im *image) drop(i int64) {
	n := im.leaf(i)
	n.blocks[i%fan].release()
	n.blocks[i%fan] = nil
}

// extents describes the whole image without gaps.
func (im *image) extents() []snapshot.Extent {
	var out []snapshot.Extent
	at := int64(0)
	add := func(until int64, zero bool) {
		if until = min(until, im.size); until > at {
			out = appendExtent(out, snapshot.Extent{Offset: at, Length: until - at, Zero: zero})
			at = until
		}
	}
	var walk func(n *node, level int, first int64)
	walk = func(n *node, level int, first int64) {
		for k := int64(0); k < fan; k++ {
			switch i := first + k<<(fanBits*level); {
			case level > 0 && n.nodes[k] != nil:
				walk(n.nodes[k], level-1, i)
			case level == 0 && n.blocks[k] != nil:
				add(i*blockSize, true)
				add((i+1)*blockSize, false)
			}
		}
	}
	if im.root != nil {
		walk(im.root, im.height-1, 0)
	}
	add(im.size, true)
	return out
}

// appendExtent joins e to the last one where they touch and are of one kind.
func appendExtent(all []snapshot.Extent, e snapshot.Extent) []snapshot.Extent {
	if n := len(all); n > 0 && all[n-1].End() == e.Offset && all[n-1].Zero == e.Zero {
		all[n-1].Length += e.Length
		return all
	}
	return append(all, e)
}

func newNode(level int) *node {
	if level == 0 {
		return &node{refs: 1, blocks: new([fan]*block)}
	}
	return &node{refs: 1, nodes: new([fan]*node)}
}

// clone makes a node of one's own out of a shared one.
func (n *node) clone() *node {
	n.refs--
	c := &node{refs: 1}
	if n.nodes != nil {
		kids := *n.nodes
		c.nodes = &kids
		for _, k := range kids {
			if k != nil {
				k.refs++
			}
		}
		return c
	}
	blocks := *n.blocks
	c.blocks = &blocks
	for _, b := range blocks {
		if b != nil {
			b.refs++
		}
	}
	return c
}

func (n *node) release() {
	if n.refs--; n.refs > 0 {
		return
	}
	if n.nodes != nil {
		for _, k := range n.nodes {
			if k != nil {
				k.release()
			}
		}
		return
	}
	for _, b := range n.blocks {
		if b != nil {
			b.release()
		}
	}
}

func (b *block) release() {
	if b.refs--; b.refs == 0 {
		b.pool.used -= b.took
	}
}

func (b *block) write(p []byte, at int) {
	if need := at + len(trim(p)); need > len(b.data) {
		b.data = append(b.data, make([]byte, need-len(b.data))...)
	}
	if at < len(b.data) {
		copy(b.data[at:], p)
	}
}

// resize keeps the content; what is new reads as zeros.
func (im *image) resize(size int64) error {
	if size < im.size {
		if err := im.zero(size, im.size-size); err != nil {
			return err
		}
	}
	im.size = size
	return nil
}

var zeros [4096]byte

// trim cuts zeros off the end, many at a time.
func trim(p []byte) []byte {
	for n := len(zeros); n > 0; n /= 64 {
		for len(p) >= n && bytes.Equal(p[len(p)-n:], zeros[:n]) {
			p = p[:len(p)-n]
		}
	}
	return p
}
