package fake

import "math/rand/v2"

// sectorSize is what a disk writes whole or not at all when the power fails.
const sectorSize = 512

// powerFail fails the power of all points. A flush of a point flushes none of those below it, and what is lost of them is
// lost for all that stands on them.
func (r *replica) powerFail(chance *rand.Rand) {
	for at, p := range r.points {
		for _, d := range p.disks {
			var contents, hashes []*image
			for _, later := range r.points[at+1:] {
				if above := later.disk(d.id); above != nil {
					contents = append(contents, above.content.now, above.content.stable)
					hashes = append(hashes, above.hashes.now, above.hashes.stable)
				}
			}
			for _, m := range r.hv.machines {
				if m.replica == r {
					if above, err := m.disk(d.id); err == nil {
						contents = append(contents, above.image)
					}
				}
			}
			d.content.powerFail(chance, contents)
			d.hashes.powerFail(chance, hashes)
		}
	}
}

// powerFail decides the fate of each block that was written since the last flush, also as the images above see it (nil
// ones see nothing). Writes reach a disk in any order, so that what became of one block says nothing about another.
func (v *volume) powerFail(chance *rand.Rand, above []*image) {
	if v.stable == nil {
		return
	}
	kept := []float64{0, 0.2, 0.8, 0.98}[chance.IntN(4)]
	for _, i := range differing(v.stable, v.now) {
		was := v.now.block(i)
		if chance.Float64() >= kept {
			v.now.put(i, v.stable.block(i))
		} else if chance.IntN(2) == 0 {
			v.tear(i, chance)
		}
		is := v.now.block(i)
		for _, im := range above {
			if is != was && im != nil && i*blockSize < im.size && im.block(i) == was {
				im.put(i, is)
			}
		}
	}
	v.flush()
}

// tear gives some sectors of a block their flushed content back. A block that finds no room for that is lost.
func (v *volume) tear(i int64, chance *rand.Rand) {
	b, err := v.now.own(i)
	if err != nil {
		v.now.put(i, v.stable.block(i))
		return
	}
	before := make([]byte, blockSize)
	v.stable.readAt(before[:min(blockSize, v.stable.size-i*blockSize)], i*blockSize)
	for at := 0; at < blockSize; at += sectorSize {
		if chance.IntN(2) == 0 {
			b.write(before[at:at+sectorSize], at)
		}
	}
}

// put makes block i the same as b, which another image owns too; nil frees it.
func (im *image) put(i int64, b *block) {
	if b == nil {
		im.drop(i)
		return
	}
	b.refs++
	n := im.leaf(i)
	if old := n.blocks[i%fan]; old != nil {
		old.release()
	}
	n.blocks[i%fan] = b
}

// differing lists the blocks that are not the same in two images, ascending. Parts that both share cost nothing.
func differing(a, b *image) (out []int64) {
	var walk func(a, b *node, level int, first int64)
	walk = func(a, b *node, level int, first int64) {
		if a == b {
			return
		}
		for k := range int64(fan) {
			i := first + k<<(fanBits*level)
			if level > 0 {
				walk(a.child(k), b.child(k), level-1, i)
			} else if a.leafBlock(k) != b.leafBlock(k) {
				out = append(out, i)
			}
		}
	}
	height := max(a.height, b.height)
	if height > 0 {
		walk(a.raised(height), b.raised(height), height-1, 0)
	}
	return out
}

// raised is the root of a tree with so many levels that has the image's content; it is only looked at.
func (im *image) raised(height int) *node {
	top := im.root
	for level := im.height; top != nil && level < height; level++ {
		over := newNode(level)
		over.nodes[0], top = top, over
	}
	return top
}

func (n *node) child(k int64) *node {
	if n == nil {
		return nil
	}
	return n.nodes[k]
}

func (n *node) leafBlock(k int64) *block {
	if n == nil {
		return nil
	}
	return n.blocks[k]
}
