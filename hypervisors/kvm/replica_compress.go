package kvm

import (
	"errors"
	"sync"
	"sync/atomic"

	"understudy/snapshot/nbd"
	"understudy/snapshot/vhost"
)

// packer writes to the image of a draft through QEMU's compress filter, as long as that is safe.
//
// QEMU packs compressed clusters one behind the other into clusters of the file, and remembers where the next one goes.
// It does not notice when the cluster of the file that this place is in is freed, because all that was packed there was
// written anew, and is used for something else: what is packed next destroys that (seen with QEMU 7.2). So nothing may be
// freed in an image as long as anything is going to be packed there. A draft begins with an empty image, where only what
// the draft wrote can be freed, and only by touching it again. Before anything is touched for the second time, packing
// ends for good: what is being packed is waited for, and all the rest takes the plain way.
type packer struct {
	client *nbd.Client
	lane   *vhost.Lane // nil where there is none

	mu sync.RWMutex // who packs holds it shared, who ends that alone
	// touched has a bit for each cluster that was written or zeroed, whichever way. nil: packing has ended.
	touched []uint64
	size    int64
}

func newPacker(client *nbd.Client, lane *vhost.Lane, size int64) *packer {
	clusters := (size + dataClusterBytes - 1) / dataClusterBytes
	return &packer{client: client, lane: lane, size: size, touched: make([]uint64, (clusters+63)/64)}
}

// errPlain means that the plain way must be taken.
var errPlain = errors.New("not to be compressed")

// write packs whole clusters that were never touched. All else is errPlain, also what QEMU could not do: touched again,
// by the plain way, it succeeds or says why.
func (p *packer) write(b []byte, off int64) error {
	if !p.touch(off, int64(len(b))) || off%dataClusterBytes != 0 || len(b)%dataClusterBytes != 0 {
		return errPlain
	}
	err := p.pack(b, off)
	var reply *nbd.Error
	if errors.Is(err, vhost.ErrFailed) || errors.As(err, &reply) {
		p.end()
		return errPlain
	}
	return err
}

func (p *packer) pack(b []byte, off int64) (err error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	switch {
	case p.touched == nil: // since it was asked for
		return errPlain
	case p.lane != nil && p.lane.Takes(b, off):
		_, err = p.lane.WriteAt(b, off)
	default:
		_, err = p.client.WriteAt(b, off)
	}
	return err
}

// touch is to be called before a range is written or zeroed, and says whether all of it is for the first time. If not,
// packing has ended when it returns.
func (p *packer) touch(off, n int64) bool {
	if p.first(off, n) {
		return true
	}
	p.end()
	return false
}

func (p *packer) first(off, n int64) bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.touched == nil || off < 0 || n < 0 || off > p.size-n {
		return false
	}
	first := true
	for at, end := off/dataClusterBytes, (off+n+dataClusterBytes-1)/dataClusterBytes; at < end; {
		count := min(64-at%64, end-at)
		bits := ^uint64(0) >> (64 - count) << (at % 64)
		if atomic.OrUint64(&p.touched[at/64], bits)&bits != 0 {
			first = false
		}
		at += count
	}
	return first
}

func (p *packer) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.touched = nil
}
